//! How often a site, an address or a block of its ports may ask: a bucket of tokens for each.
use std::collections::HashMap;

/// Sites, addresses or port blocks that are remembered at most; one that has not asked for a second has a full bucket and is
/// forgotten first.
const SITES_MAX: usize = 65_536;
/// Tokens are counted in thousandths, so that a millisecond's share is not lost.
const THOUSANDTHS: u64 = 1_000;

/// Buckets by number of a site, or of whatever else asks.
#[derive(Debug)]
pub struct Rate {
    per_s: u64,
    buckets: HashMap<u64, Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    thousandths: u64,
    at_ms: u64,
}

impl Rate {
    /// So many a second, and as many at once after a second of silence.
    #[must_use]
    pub fn new(per_s: u32) -> Self {
        Self {
            per_s: per_s.into(),
            buckets: HashMap::new(),
        }
    }

    /// Whether it may ask once more.
    pub fn take(&mut self, number: u64, now_ms: u64) -> bool {
        let full = self.per_s * THOUSANDTHS;
        if self.buckets.len() >= SITES_MAX && !self.buckets.contains_key(&number) {
            self.buckets
                .retain(|_, bucket| now_ms.saturating_sub(bucket.at_ms) < 1_000);
        }
        let bucket = self.buckets.entry(number).or_insert(Bucket {
            thousandths: full,
            at_ms: now_ms,
        });
        let passed_ms = now_ms.saturating_sub(bucket.at_ms);
        bucket.thousandths = full.min(bucket.thousandths + passed_ms.min(1_000) * self.per_s);
        bucket.at_ms = now_ms.max(bucket.at_ms);
        match bucket.thousandths.checked_sub(THOUSANDTHS) {
            Some(left) => {
                bucket.thousandths = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_asks_as_often_as_it_may_and_no_other_pays_for_it() {
        let mut rate = Rate::new(5);
        let granted = |rate: &mut Rate, site, at_ms, times: u32| -> u32 {
            (0..times).map(|_| u32::from(rate.take(site, at_ms))).sum()
        };
        assert_eq!(granted(&mut rate, 1, 0, 100), 5);
        assert_eq!(granted(&mut rate, 2, 0, 1), 1);
        assert_eq!(granted(&mut rate, 1, 199, 10), 0);
        assert_eq!(granted(&mut rate, 1, 200, 10), 1);
        assert_eq!(granted(&mut rate, 1, 1_000_000, 100), 5);
        // The clock does not go back; if it did, nothing is given for it.
        assert_eq!(granted(&mut rate, 1, 0, 10), 0);
    }
}
