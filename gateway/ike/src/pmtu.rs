//! How long an IKE message may be on its way (RFC 7383 section 2.5): a path that loses long datagrams and says
//! nothing is noticed by requests that stay unanswered, and by answers that are asked for again and again. The
//! message is then sealed anew in smaller fragments, under the same message ID.

use zeroize::Zeroizing;

use crate::wire::Header;

/// IP, UDP and non-ESP marker in front of an IKE message.
const IPV4_OVERHEAD: usize = 20 + 8 + 4;
const IPV6_OVERHEAD: usize = 40 + 8 + 4;
/// What every IPv6 path carries (RFC 8200 section 5), and nearly every IPv4 path.
const IPV6_MTU_MIN: usize = 1_280;
/// What every IPv4 host takes (RFC 1122 section 3.3.2).
const IPV4_MTU_MIN: usize = 576;
/// Repetitions of a request from which on its length is suspected.
pub(crate) const SUSPECT_AFTER: u32 = 2;
/// An answer is asked for again so often before its length is suspected: the peer's repetitions may cross it.
pub(crate) const ANSWER_SUSPECT_AFTER: u32 = 3;

/// A message of ours before it was sealed, kept while it may have to be cut smaller.
pub(crate) struct Plain {
    pub(crate) header: Header,
    /// Type of the first payload.
    pub(crate) first: u8,
    pub(crate) content: Zeroizing<Vec<u8>>,
}

/// The next smaller length of a message, in octets from the IKE header on; `None` when there is none.
pub(crate) fn next_smaller(message_max: usize, ipv6: bool) -> Option<usize> {
    let steps: &[usize] = if ipv6 {
        &[IPV6_MTU_MIN - IPV6_OVERHEAD]
    } else {
        // 1,280 less the IPv6 overhead is what is sent at first, whichever the family.
        &[IPV6_MTU_MIN - IPV6_OVERHEAD, IPV4_MTU_MIN - IPV4_OVERHEAD]
    };
    steps.iter().copied().find(|step| *step < message_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7383 section 2.5.1 recommends 576 octets for IPv4 and 1,280 for IPv6.
    #[test]
    fn steps_end_at_what_every_path_carries() {
        let steps = |start, ipv6| {
            let mut at = start;
            std::iter::from_fn(move || {
                at = next_smaller(at, ipv6)?;
                Some(at)
            })
            .collect::<Vec<_>>()
        };
        assert_eq!(steps(1_228, false), [544]);
        assert_eq!(steps(9_000, false), [1_228, 544]);
        assert_eq!(steps(9_000, true), [1_228]);
        assert_eq!(steps(1_228, true), [0; 0]);
        assert_eq!(steps(400, false), [0; 0]);
    }
}
