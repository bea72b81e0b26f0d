//! Where a key lies: two buckets and a fingerprint, by a keyed hash.
//!
//! Sites choose ports and addresses, and must not be able to choose a bucket. The hash is multilinear: the sum of the
//! key's 32-bit parts, each times a secret 64-bit factor, is strongly universal in its upper half (Lemire and Kaser,
//! "Strongly universal string hashing is fast", section 2); the factors are drawn anew when the tables are made.

use crate::abi::flow::{KeyWords, halves};
use crate::abi::nat::{InsideKey, OutsideKey};

/// Secret factors: one for each part of the longest key, and one to begin with.
pub const FACTORS: usize = 6;

/// Where a key may lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash {
    /// First bucket.
    pub first: u32,
    /// Second bucket; another one, if there are two.
    pub second: u32,
    /// What tells keys of the same bucket apart, mostly.
    pub fingerprint: u32,
}

/// The secret factors, read one by one.
pub trait Factors: Copy {
    /// One of [`FACTORS`].
    fn factor(self, index: usize) -> u64;
}

impl Factors for &[u64; FACTORS] {
    #[inline(always)]
    fn factor(self, index: usize) -> u64 {
        self.get(index).copied().unwrap_or(1)
    }
}

/// Bytes of a key as a number.
#[inline(always)]
const fn part(bytes: [u8; 4]) -> u32 {
    u32::from_ne_bytes(bytes)
}

/// Both ports as a number.
#[inline(always)]
pub(crate) const fn ports(source: [u8; 2], destination: [u8; 2]) -> u32 {
    part([source[0], source[1], destination[0], destination[1]])
}

/// Port and protocol as a number.
#[inline(always)]
#[must_use]
pub const fn port_protocol(port: [u8; 2], protocol: u8) -> u32 {
    part([port[0], port[1], protocol, 0])
}

/// Hash of a flow as the site sends it.
#[inline(always)]
pub fn of_flow<F: Factors>(factors: F, key: &KeyWords, buckets: u32) -> Hash {
    let ((site, source), (destination, ports)) = (halves(key.site_source), halves(key.destination_ports));
    let parts = [site, source, destination, ports, key.protocol as u32];
    place(sum(factors, parts), buckets)
}

/// Hash of a flow as the center answers: translated endpoint and remote one.
#[inline(always)]
pub fn of_answer<F: Factors>(
    factors: F,
    outside: &OutsideKey,
    remote: [u8; 4],
    remote_port: [u8; 2],
    buckets: u32,
) -> Hash {
    let parts = [
        part(outside.address),
        part(remote),
        ports(outside.port, remote_port),
        outside.protocol as u32,
    ];
    place(sum(factors, parts), buckets)
}

/// Hash of a mapping's inside.
#[inline(always)]
pub fn of_inside<F: Factors>(factors: F, key: &InsideKey, buckets: u32) -> Hash {
    let parts = [key.site, part(key.address), port_protocol(key.port, key.protocol)];
    place(sum(factors, parts), buckets)
}

/// Hash of a mapping's outside.
#[inline(always)]
pub fn of_outside<F: Factors>(factors: F, key: &OutsideKey, buckets: u32) -> Hash {
    let parts = [part(key.address), port_protocol(key.port, key.protocol)];
    place(sum(factors, parts), buckets)
}

#[inline(always)]
fn sum<F: Factors, const N: usize>(factors: F, parts: [u32; N]) -> u64 {
    const { assert!(N < FACTORS) };
    let mut sum = factors.factor(0);
    let mut index = 0;
    while index < N {
        sum = sum.wrapping_add(factors.factor(index + 1).wrapping_mul(parts[index] as u64));
        index += 1;
    }
    sum
}

/// Spreads the sum over both halves (the finalizer of MurmurHash3), and scales each half to the buckets.
#[inline(always)]
const fn place(sum: u64, buckets: u32) -> Hash {
    let hash = (sum ^ (sum >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    let hash = hash ^ (hash >> 33);
    let first = ((hash & 0xffff_ffff) * buckets as u64) >> 32;
    let second = ((hash >> 32) * buckets as u64) >> 32;
    let second = if second != first {
        second
    } else if first + 1 < buckets as u64 {
        first + 1
    } else {
        0
    };
    Hash {
        first: first as u32,
        second: second as u32,
        fingerprint: (hash ^ (hash >> 32)) as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::flow::FlowKey;

    const FACTORS: [u64; 6] = [
        0x9e37_79b9_7f4a_7c15,
        0xbf58_476d_1ce4_e5b9,
        0x94d0_49bb_1331_11eb,
        0xd6e8_feb8_6659_fd93,
        0xa076_1d64_78bd_642f,
        0xe703_7ed1_a0b4_28db,
    ];

    fn key(site: u32, source_port: u16) -> FlowKey {
        FlowKey {
            site,
            source: [192, 168, 1, 10],
            destination: [203, 0, 113, 10],
            source_port: source_port.to_be_bytes(),
            destination_port: 443u16.to_be_bytes(),
            protocol: 6,
            pad: [0; 3],
        }
    }

    /// Placed in the emptier of their two buckets, as many keys as a table is made for never meet two full ones: keys
    /// of the kind that real sites have, alike but for port and site.
    #[test]
    fn similar_keys_spread_over_the_buckets() {
        let buckets = 2_000u32;
        let mut used = std::vec![0u32; buckets as usize];
        for number in 0..buckets * 5 {
            let hash = of_flow(
                &FACTORS,
                &KeyWords::new(&key(1 + number / 500, 40_000 + (number % 500) as u16)),
                buckets,
            );
            assert!(hash.first < buckets && hash.second < buckets && hash.first != hash.second);
            let emptier = if used[hash.first as usize] <= used[hash.second as usize] {
                hash.first
            } else {
                hash.second
            };
            used[emptier as usize] += 1;
        }
        assert!(
            used.iter().all(|used| *used <= 8),
            "fullest: {:?}",
            used.iter().max()
        );
    }

    #[test]
    fn each_part_of_a_key_counts() {
        let base = key(1, 1000);
        let others = [
            FlowKey { site: 2, ..base },
            FlowKey {
                source: [192, 168, 1, 11],
                ..base
            },
            FlowKey {
                destination: [203, 0, 113, 11],
                ..base
            },
            FlowKey {
                source_port: [9, 9],
                ..base
            },
            FlowKey {
                destination_port: [9, 9],
                ..base
            },
            FlowKey { protocol: 17, ..base },
        ];
        let hash = |key: &FlowKey| of_flow(&FACTORS, &KeyWords::new(key), 1 << 20);
        for other in others {
            assert_ne!(hash(&base).fingerprint, hash(&other).fingerprint);
            assert_ne!(hash(&base).first, hash(&other).first);
        }
        assert_ne!(
            hash(&base),
            of_flow(&[1, 2, 3, 4, 5, 6], &KeyWords::new(&base), 1 << 20),
            "another secret, another place"
        );
    }

    #[test]
    fn one_bucket_is_both() {
        let hash = of_flow(&FACTORS, &KeyWords::new(&key(1, 1)), 1);
        assert_eq!((hash.first, hash.second), (0, 0));
    }
}
