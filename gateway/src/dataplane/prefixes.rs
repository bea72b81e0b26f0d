//! Address ranges of traffic selectors as prefixes of the outbound look-up.

use std::net::Ipv4Addr;

/// The fewest prefixes that cover exactly `first` to `last`, in order; none if `first` lies behind `last`.
pub(crate) fn prefixes(first: Ipv4Addr, last: Ipv4Addr) -> Vec<([u8; 4], u8)> {
    let (mut next, last) = (u64::from(u32::from(first)), u64::from(u32::from(last)));
    let mut prefixes = Vec::new();
    while next <= last {
        // As large as the alignment of `next` and the rest of the range allow.
        let aligned = if next == 0 {
            32
        } else {
            next.trailing_zeros().min(32)
        };
        let fitting = (last - next + 1).ilog2();
        let host_bits = aligned.min(fitting);
        prefixes.push(((next as u32).to_be_bytes(), (32 - host_bits) as u8));
        next += 1 << host_bits;
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covered(first: u32, last: u32) -> Vec<u32> {
        prefixes(first.into(), last.into())
            .into_iter()
            .flat_map(|(address, length)| {
                let start = u32::from_be_bytes(address);
                (0..1u64 << (32 - length)).map(move |host| start + host as u32)
            })
            .collect()
    }

    #[test]
    fn every_small_range_is_covered_exactly() {
        for first in 0..40u32 {
            for last in first..40 {
                assert_eq!(covered(first, last), (first..=last).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn subnets_stay_whole() {
        let all = prefixes(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
        assert_eq!(all, [([0; 4], 0)]);
        let site = prefixes(Ipv4Addr::new(192, 168, 1, 0), Ipv4Addr::new(192, 168, 1, 255));
        assert_eq!(site, [([192, 168, 1, 0], 24)]);
        assert_eq!(
            prefixes(Ipv4Addr::BROADCAST, Ipv4Addr::BROADCAST),
            [([255; 4], 32)]
        );
        assert!(prefixes(Ipv4Addr::BROADCAST, Ipv4Addr::UNSPECIFIED).is_empty());
    }
}
