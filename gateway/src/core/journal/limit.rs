//! How many records others can cause.
use std::collections::HashMap;

use super::notice::Cause;

/// Records a second that peers can cause that are no proven site, all together.
const STRANGERS_PER_S: u32 = 20;
/// Records that one site can cause at once: a set-up with many Child SAs, or some rekeys.
const SITE_BURST: u32 = 40;
/// Records a second that one site can cause for long.
const SITE_PER_S: u32 = 2;

/// Counts down what is left.
#[derive(Debug, Default)]
pub(super) struct Limits {
    strangers: u32,
    strangers_kept_back: u64,
    /// Used so far, of sites that used some.
    sites: HashMap<u32, u32>,
    sites_kept_back: u64,
}

impl Limits {
    /// Whether a record of this cause may go out; counts it otherwise.
    pub(super) fn admits(&mut self, cause: Cause) -> bool {
        match cause {
            Cause::Gateway => true,
            Cause::Stranger if self.strangers < STRANGERS_PER_S => {
                self.strangers += 1;
                true
            }
            Cause::Stranger => {
                self.strangers_kept_back += 1;
                false
            }
            Cause::Site(site) => {
                let used = self.sites.entry(site).or_default();
                if *used < SITE_BURST {
                    *used += 1;
                    return true;
                }
                self.sites_kept_back += 1;
                false
            }
        }
    }

    /// Begins another second; how many of strangers and of sites the last one kept back, if any.
    pub(super) fn next_second(&mut self) -> Option<(u64, u64)> {
        self.strangers = 0;
        self.sites.retain(|_, used| {
            *used = used.saturating_sub(SITE_PER_S);
            *used > 0
        });
        let kept_back = (
            std::mem::take(&mut self.strangers_kept_back),
            std::mem::take(&mut self.sites_kept_back),
        );
        (kept_back != (0, 0)).then_some(kept_back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_does_not_silence_another() {
        let mut limits = Limits::default();
        let admitted =
            |limits: &mut Limits, cause, count| (0..count).filter(|_| limits.admits(cause)).count() as u32;
        assert_eq!(admitted(&mut limits, Cause::Stranger, 1_000), STRANGERS_PER_S);
        assert_eq!(admitted(&mut limits, Cause::Site(1), 1_000), SITE_BURST);
        assert_eq!(admitted(&mut limits, Cause::Site(2), 3), 3);
        assert_eq!(admitted(&mut limits, Cause::Gateway, 1_000), 1_000);
        assert_eq!(
            limits.next_second(),
            Some((u64::from(1_000 - STRANGERS_PER_S), u64::from(1_000 - SITE_BURST)))
        );
        assert_eq!(admitted(&mut limits, Cause::Site(1), 1_000), SITE_PER_S);
        for _ in 0..SITE_BURST {
            limits.next_second();
        }
        assert_eq!(limits.next_second(), None);
        assert!(limits.sites.is_empty(), "sites at rest take no memory");
    }
}
