//! Encrypted fragment payload (RFC 7383): cutting and joining.
//!
//! ```text
//!  | generic header | fragment number | total fragments | IV | encrypted content | ICV |
//! ```

use zeroize::Zeroizing;

use super::{
    ChainBuilder, WireError,
    chain::GENERIC_HEADER_LEN,
    encrypted::{self, ProtectError},
    header::{HEADER_LEN, Header},
    payload_type,
    reader::Reader,
};
use crate::crypto::{cipher::SkSealer, random::Random};

/// Fragment number and total, 16 bits each.
pub const FIELDS_LEN: usize = 4;
/// A message of more fragments is refused: certificates of a whole chain fit in a tenth of it.
pub const FRAGMENTS_MAX: u16 = 64;
/// A joined message may not be longer than this.
const JOINED_MAX: usize = crate::half_open::REASSEMBLY_MAX;

/// Which fragment of how many; both count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentFields {
    /// This fragment, 1 to `total`.
    pub number: u16,
    /// How many there are.
    pub total: u16,
}

impl FragmentFields {
    /// Parses the fields at the front of an SKF body.
    ///
    /// # Errors
    /// When the number is not within 1 to the total, or the total beyond [`FRAGMENTS_MAX`].
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body, "fragment");
        let (number, total) = (reader.u16()?, reader.u16()?);
        if number == 0 || number > total || total > FRAGMENTS_MAX {
            return Err(WireError::BadValue("fragment number"));
        }
        Ok(Self { number, total })
    }
}

/// The message as one SK message if it fits `message_max` octets, otherwise as SKF messages that do.
///
/// # Errors
/// When it is too long even in fragments, or the cipher cannot seal any more.
pub fn seal(
    header: Header,
    payloads: ChainBuilder,
    message_max: usize,
    sealer: &mut SkSealer,
    random: &mut dyn Random,
) -> Result<Vec<Vec<u8>>, ProtectError> {
    let (first, content) = payloads.finish()?;
    let content = Zeroizing::new(content);
    seal_content(header, (first, &content), message_max, sealer, random)
}

/// [`seal`] for payloads that are octets already, with the type of the first.
///
/// # Errors
/// Likewise.
pub fn seal_content(
    header: Header,
    (first, content): (u8, &[u8]),
    message_max: usize,
    sealer: &mut SkSealer,
    random: &mut dyn Random,
) -> Result<Vec<Vec<u8>>, ProtectError> {
    let suite = sealer.suite();
    if HEADER_LEN + GENERIC_HEADER_LEN + suite.body_len(content.len()) <= message_max {
        return Ok(vec![encrypted::seal_payload(
            header,
            payload_type::SK,
            first,
            &[],
            content,
            sealer,
            random,
        )?]);
    }
    let body_max = message_max.saturating_sub(HEADER_LEN + GENERIC_HEADER_LEN + FIELDS_LEN);
    let piece = suite
        .max_content_len(body_max)
        .filter(|len| *len > 0)
        .ok_or(WireError::TooLong)?;
    let total = u16::try_from(content.len().div_ceil(piece)).map_err(|_| WireError::TooLong)?;
    if total > FRAGMENTS_MAX {
        return Err(WireError::TooLong.into());
    }
    let pieces = content.chunks(piece).zip(1u16..);
    let messages = pieces.map(|(content, number)| {
        let fields = [number.to_be_bytes(), total.to_be_bytes()].concat();
        // RFC 7383 section 2.5: only the first fragment names the first inner payload.
        let next = if number == 1 { first } else { payload_type::NONE };
        encrypted::seal_payload(header, payload_type::SKF, next, &fields, content, sealer, random)
    });
    messages.collect()
}

/// What a fragment came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Added {
    /// The last that was needed: type of the first inner payload, and the joined content.
    Joined(u8, Zeroizing<Vec<u8>>),
    /// One that never came before; more are needed.
    New,
    /// One that came before, kept or forgotten, or of a set that a larger one took the place of.
    Old,
}

/// Collects the authenticated fragments of one message.
#[derive(Debug, Default)]
pub struct Reassembly {
    message_id: u32,
    first: u8,
    pieces: Vec<Option<Zeroizing<Vec<u8>>>>,
    /// When they were first seen to be incomplete.
    since_ms: Option<u64>,
    seen: Seen,
}

/// Which fragments of a message came at any time, in the largest number of them that it was cut into.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    message_id: u32,
    total: u16,
    /// One bit for each.
    numbers: u64,
}

const _: () = assert!(FRAGMENTS_MAX as u32 <= u64::BITS);

impl Seen {
    /// Whether a fragment is new. Message IDs only go up, so that none is new twice.
    fn note(&mut self, message_id: u32, fields: FragmentFields) -> bool {
        if self.message_id != message_id || self.total < fields.total {
            *self = Self {
                message_id,
                total: fields.total,
                numbers: 0,
            };
        }
        let number = 1 << (fields.number.saturating_sub(1) % FRAGMENTS_MAX);
        let new = self.total == fields.total && self.numbers & number == 0;
        self.numbers |= if new { number } else { 0 };
        new
    }
}

/// RFC 7383 section 2.6 leaves it to the receiver: fragments wait so long for the others.
const COMPLETE_WITHIN_MS: u64 = 30_000;

impl Reassembly {
    /// Forgets fragments whose message was not completed in time. Called before each message and at each
    /// deadline.
    pub fn forget_stale(&mut self, now_ms: u64) {
        if self.pieces.is_empty() {
            self.since_ms = None;
            return;
        }
        let since_ms = *self.since_ms.get_or_insert(now_ms);
        if now_ms.saturating_sub(since_ms) >= COMPLETE_WITHIN_MS {
            self.forget();
        }
    }

    /// Memory that the fragments take, in octets.
    pub fn octets(&self) -> usize {
        let pieces: usize = self.pieces.iter().flatten().map(|piece| piece.capacity()).sum();
        pieces + self.pieces.capacity() * size_of::<Option<Zeroizing<Vec<u8>>>>()
    }

    /// Adds a fragment that was opened; `next` is the type in its generic header.
    ///
    /// A fragment of another message, or with a larger total (the sender found a smaller path MTU,
    /// RFC 7383 section 2.6), starts anew; one with a smaller total is dropped.
    pub fn add(
        &mut self,
        message_id: u32,
        fields: FragmentFields,
        next: u8,
        content: Zeroizing<Vec<u8>>,
    ) -> Added {
        let added = if self.seen.note(message_id, fields) {
            Added::New
        } else {
            Added::Old
        };
        let total = usize::from(fields.total);
        if self.message_id != message_id || self.pieces.len() < total {
            self.forget();
            self.message_id = message_id;
            self.pieces = vec![None; total];
        }
        if self.pieces.len() > total {
            return Added::Old;
        }
        let at = usize::from(fields.number).checked_sub(1);
        let Some(slot) = at.and_then(|at| self.pieces.get_mut(at)) else {
            return Added::Old;
        };
        slot.get_or_insert(content);
        if fields.number == 1 {
            self.first = next;
        }
        let len: usize = self.pieces.iter().flatten().map(|piece| piece.len()).sum();
        if len > JOINED_MAX {
            self.forget();
            return added;
        }
        if self.pieces.iter().any(Option::is_none) {
            return added;
        }
        let mut joined = Zeroizing::new(Vec::with_capacity(len));
        self.pieces
            .iter()
            .flatten()
            .for_each(|piece| joined.extend_from_slice(piece));
        let first = self.first;
        self.forget();
        Added::Joined(first, joined)
    }

    /// What was collected goes; which fragments came stays known.
    fn forget(&mut self) {
        let seen = std::mem::take(&mut self.seen);
        *self = Self {
            seen,
            ..Self::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(number: u16, total: u16) -> FragmentFields {
        FragmentFields { number, total }
    }

    fn content(byte: u8) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(vec![byte; 2])
    }

    #[test]
    fn golden_fields() {
        assert_eq!(FragmentFields::parse(&[0, 2, 0, 3, 9, 9]), Ok(fragment(2, 3)));
        for bad in [&[0, 0, 0, 3][..], &[0, 4, 0, 3], &[0, 1, 0, 65], &[0, 1, 0]] {
            assert!(FragmentFields::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn joins_in_any_order_and_ignores_repetitions() {
        let mut reassembly = Reassembly::default();
        assert_eq!(reassembly.add(1, fragment(3, 3), 0, content(3)), Added::New);
        assert_eq!(reassembly.add(1, fragment(1, 3), 35, content(1)), Added::New);
        assert_eq!(reassembly.add(1, fragment(1, 3), 35, content(9)), Added::Old);
        let joined = reassembly.add(1, fragment(2, 3), 0, content(2));
        assert_eq!(joined, Added::Joined(35, Zeroizing::new(vec![1, 1, 2, 2, 3, 3])));
    }

    #[test]
    fn a_larger_total_or_another_message_starts_anew() {
        let mut reassembly = Reassembly::default();
        assert_eq!(reassembly.add(1, fragment(1, 2), 35, content(1)), Added::New);
        assert_eq!(reassembly.add(1, fragment(1, 3), 35, content(1)), Added::New);
        assert_eq!(
            reassembly.add(1, fragment(2, 2), 0, content(2)),
            Added::Old,
            "smaller total is dropped"
        );
        assert_eq!(reassembly.add(2, fragment(2, 2), 0, content(2)), Added::New);
        let joined = reassembly.add(2, fragment(1, 2), 33, content(1));
        assert!(matches!(joined, Added::Joined(33, _)));
    }

    #[test]
    fn fragments_do_not_wait_for_ever() {
        let mut reassembly = Reassembly::default();
        assert_eq!(reassembly.add(1, fragment(1, 2), 35, content(1)), Added::New);
        reassembly.forget_stale(1_000);
        reassembly.forget_stale(30_999);
        assert!(reassembly.octets() > 0);
        reassembly.forget_stale(31_000);
        assert_eq!(reassembly.octets(), 0);
        assert_eq!(
            reassembly.add(1, fragment(2, 2), 0, content(2)),
            Added::New,
            "the first is gone"
        );
        reassembly.forget_stale(40_000);
        let joined = reassembly.add(1, fragment(1, 2), 35, content(1));
        assert!(matches!(joined, Added::Joined(35, _)));
    }

    /// What comes again is not new, even where it is needed: after it was forgotten, and after a set of another size.
    #[test]
    fn each_fragment_is_new_once() {
        let mut reassembly = Reassembly::default();
        for number in 1..FRAGMENTS_MAX {
            let added = reassembly.add(0, fragment(number, FRAGMENTS_MAX), 35, content(1));
            assert_eq!(added, Added::New);
        }
        for now_ms in [0, COMPLETE_WITHIN_MS, 2 * COMPLETE_WITHIN_MS] {
            reassembly.forget_stale(now_ms);
            for number in 1..FRAGMENTS_MAX {
                let added = reassembly.add(0, fragment(number, FRAGMENTS_MAX), 35, content(1));
                assert_eq!(added, Added::Old);
            }
        }
        reassembly.forget_stale(4 * COMPLETE_WITHIN_MS);
        assert_eq!(reassembly.octets(), 0);
        assert_eq!(
            reassembly.add(0, fragment(1, 2), 35, content(1)),
            Added::Old,
            "of a set before"
        );
        assert_eq!(reassembly.add(1, fragment(1, 2), 35, content(1)), Added::New);
    }

    #[test]
    fn memory_is_bounded() {
        let mut reassembly = Reassembly::default();
        let big = Zeroizing::new(vec![0; 40_000]);
        assert_eq!(reassembly.add(1, fragment(1, 64), 35, big.clone()), Added::New);
        assert_eq!(reassembly.add(1, fragment(2, 64), 0, big), Added::New);
        assert!(reassembly.pieces.is_empty());
    }
}
