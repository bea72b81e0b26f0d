//! Client puzzles (RFC 8019 sections 4.4 and 7.1): four keys under which the PRF of the cookie ends in so
//! many zero bits. Cheap to check, dear to find.

use crate::crypto::prf::PrfAlgorithm;

/// RFC 8019 section 4.4: four solutions in place of one make the time to solve more even.
const KEYS: usize = 4;
/// A key longer than the block of the hash is hashed first; nobody needs that.
const KEY_MAX: usize = 64;
/// Tries of one call of [`Solver::step`]: a few milliseconds, so that others are not kept waiting.
pub(crate) const TRIES_PER_STEP: u32 = 2_048;

/// What the PUZZLE notification asks for (RFC 8019 section 8.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Puzzle {
    pub(crate) prf: PrfAlgorithm,
    /// Zero bits; 0 leaves it to the initiator.
    pub(crate) bits: u8,
}

impl Puzzle {
    /// Notification data: PRF in two octets, difficulty in one.
    pub(crate) fn to_wire(self) -> Vec<u8> {
        let [high, low] = self.prf.id().to_be_bytes();
        vec![high, low, self.bits]
    }

    /// `None` for a PRF that is not ours, or data of another length.
    pub(crate) fn from_wire(data: &[u8]) -> Option<Self> {
        let [high, low, bits] = <[u8; 3]>::try_from(data).ok()?;
        let prf = PrfAlgorithm::from_id(u16::from_be_bytes([high, low]))?;
        Some(Self { prf, bits })
    }

    fn is_met(self, key: &[u8], cookie: &[u8]) -> bool {
        trailing_zero_bits(&self.prf.prf(key, &[cookie])) >= u32::from(self.bits)
    }

    /// Whether `solution` is four different keys of equal length that solve it.
    pub(crate) fn is_solved(self, cookie: &[u8], solution: &[u8]) -> bool {
        let len = solution.len() / KEYS;
        if len == 0 || len > KEY_MAX || solution.len() != len * KEYS {
            return false;
        }
        let keys: Vec<&[u8]> = solution.chunks(len).collect();
        let distinct = keys.iter().enumerate().all(|(index, key)| {
            keys.get(..index)
                .is_some_and(|before| before.iter().all(|other| other != key))
        });
        distinct && keys.iter().all(|key| self.is_met(key, cookie))
    }
}

/// Zero bits at the end of a PRF's output.
fn trailing_zero_bits(output: &[u8]) -> u32 {
    let mut bits = 0;
    for octet in output.iter().rev() {
        bits += octet.trailing_zeros();
        if *octet != 0 {
            break;
        }
    }
    bits
}

/// Solves a puzzle a little at a time.
pub(crate) struct Solver {
    puzzle: Puzzle,
    cookie: Vec<u8>,
    next_key: u64,
    found: Vec<u8>,
}

impl Solver {
    pub(crate) fn new(puzzle: Puzzle, cookie: Vec<u8>) -> Self {
        Self {
            puzzle,
            cookie,
            next_key: 0,
            found: Vec::new(),
        }
    }

    /// Tries some keys; the solution once it is found.
    pub(crate) fn step(&mut self) -> Option<Vec<u8>> {
        for _ in 0..TRIES_PER_STEP {
            let key = self.next_key.to_be_bytes();
            self.next_key += 1;
            if self.puzzle.is_met(&key, &self.cookie) {
                self.found.extend_from_slice(&key);
                if self.found.len() == KEYS * key.len() {
                    return Some(std::mem::take(&mut self.found));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUZZLE: Puzzle = Puzzle {
        prf: PrfAlgorithm::HmacSha256,
        bits: 8,
    };

    fn solve(puzzle: Puzzle, cookie: &[u8]) -> Vec<u8> {
        let mut solver = Solver::new(puzzle, cookie.to_vec());
        loop {
            if let Some(solution) = solver.step() {
                return solution;
            }
        }
    }

    #[test]
    fn golden_notification() {
        assert_eq!(PUZZLE.to_wire(), [0, 5, 8]);
        assert_eq!(Puzzle::from_wire(&[0, 5, 8]), Some(PUZZLE));
        // PRF_HMAC_SHA1 is not ours.
        for other in [&[0, 2, 8][..], &[0, 5], &[0, 5, 8, 0], &[]] {
            assert_eq!(Puzzle::from_wire(other), None);
        }
    }

    #[test]
    fn counts_zero_bits_from_the_end() {
        assert_eq!(trailing_zero_bits(&[1, 0]), 8);
        assert_eq!(trailing_zero_bits(&[0xff, 0x10, 0]), 12);
        assert_eq!(trailing_zero_bits(&[0; 4]), 32);
        assert_eq!(trailing_zero_bits(&[0, 1]), 0);
    }

    #[test]
    fn a_solution_is_four_different_keys_for_this_cookie() {
        let solution = solve(PUZZLE, b"cookie");
        assert!(PUZZLE.is_solved(b"cookie", &solution));
        assert!(!PUZZLE.is_solved(b"another", &solution));
        let one_key = solution[..8].repeat(4);
        assert!(!PUZZLE.is_solved(b"cookie", &one_key), "the same key four times");
        let mut wrong = solution.clone();
        wrong[31] ^= 0x55;
        assert!(!PUZZLE.is_solved(b"cookie", &wrong));
        for short in [0, 1, 3, 31] {
            assert!(!PUZZLE.is_solved(b"cookie", &solution[..short]));
        }
        assert!(!PUZZLE.is_solved(b"cookie", &[7; 4 * 65]));
        let harder = Puzzle { bits: 30, ..PUZZLE };
        assert!(!harder.is_solved(b"cookie", &solution));
    }

    /// Four keys of 1 octet each, found with Python's hmac and hashlib: `HMAC-SHA256(key, b"puzzle")` ends in
    /// at least 5 zero bits (tests/data/puzzle.py).
    #[test]
    fn known_answer() {
        let keys: Vec<u8> = include_str!("../tests/data/puzzle.txt")
            .split_whitespace()
            .map(|word| u8::from_str_radix(word, 16).unwrap())
            .collect();
        let puzzle = Puzzle { bits: 5, ..PUZZLE };
        assert!(puzzle.is_solved(b"puzzle", &keys));
        let one_off = [keys[0], keys[1], keys[2], keys[3] ^ 0x80];
        assert!(!puzzle.is_solved(b"puzzle", &one_off));
    }
}
