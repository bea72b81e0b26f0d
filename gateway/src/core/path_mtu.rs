//! What ICMP has said of the paths to peers: lowered at once, forgotten after a while, so that a path that got wider again is
//! found out (RFC 1191 section 6.3, RFC 8201 section 5.2).
//!
//! A path is known by its site, outer addresses and ports, not by its SA: a rekeyed Child SA goes the same way.

use std::collections::HashMap;
use std::hash::Hash;

/// A path's MTU is what the link says again so long after it was last lowered. RFC 1191 section 6.3 asks for five minutes at
/// least and recommends ten.
pub const FORGET_AFTER_S: u64 = 600;

/// Paths that are narrower than their first link.
#[derive(Debug)]
pub struct PathMtus<Path> {
    learnt: HashMap<Path, Learnt>,
}

#[derive(Clone, Copy, Debug)]
struct Learnt {
    mtu: u16,
    lowered_s: u64,
}

impl<Path> Default for PathMtus<Path> {
    fn default() -> Self {
        Self {
            learnt: HashMap::new(),
        }
    }
}

impl<Path: Eq + Hash> PathMtus<Path> {
    /// A router says that the path carries `mtu` octets; whether that is news. Once a second for each path: each change is
    /// work for a worker, and whoever sits on the path could ask for hundreds of them.
    pub fn lower(&mut self, path: Path, mtu: u16, now_s: u64) -> bool {
        if let Some(known) = self.learnt.get(&path)
            && !known.is_forgotten(now_s)
            && (mtu >= known.mtu || now_s <= known.lowered_s)
        {
            return false;
        }
        let lowered_s = now_s;
        self.learnt.insert(path, Learnt { mtu, lowered_s });
        true
    }

    /// What the path carries whose first link carries `link` octets.
    #[must_use]
    pub fn of(&self, path: &Path, link: u16, now_s: u64) -> u16 {
        let known = self.learnt.get(path).filter(|known| !known.is_forgotten(now_s));
        known.map_or(link, |known| known.mtu.min(link))
    }

    /// Lets go of what is too old to count.
    pub fn forget(&mut self, now_s: u64) {
        self.learnt.retain(|_, known| !known.is_forgotten(now_s));
    }
}

impl Learnt {
    const fn is_forgotten(&self, now_s: u64) -> bool {
        now_s >= self.lowered_s + FORGET_AFTER_S
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_lowered_at_once_and_by_what_is_narrower_alone() {
        let mut paths = PathMtus::default();
        assert_eq!(paths.of(&'a', 1500, 5), 1500);
        assert!(paths.lower('a', 1400, 5));
        assert_eq!(paths.of(&'a', 1500, 5), 1400);
        assert_eq!(paths.of(&'b', 1500, 5), 1500, "another path");
        assert!(!paths.lower('a', 1400, 7));
        assert!(!paths.lower('a', 1450, 7));
        assert!(paths.lower('a', 1300, 7));
        assert_eq!(paths.of(&'a', 1500, 7), 1300);
        assert_eq!(paths.of(&'a', 1280, 7), 1280, "the first link is narrower still");
    }

    #[test]
    fn a_path_is_lowered_once_a_second() {
        let mut paths = PathMtus::default();
        let heeded = (0..924).filter(|below| paths.lower((), 1499 - below, 40 + u64::from(*below) / 100));
        assert_eq!(heeded.count(), 10, "924 errors in ten seconds");
    }

    /// RFC 1191 section 6.3: no sooner than ten minutes after it was lowered.
    #[test]
    fn a_path_is_tried_anew_after_ten_minutes() {
        let mut paths = PathMtus::default();
        assert!(paths.lower((), 1400, 100));
        assert!(paths.lower((), 1300, 400));
        assert_eq!(paths.of(&(), 1500, 999), 1300);
        paths.forget(999);
        assert_eq!(paths.of(&(), 1500, 999), 1300, "still known");
        assert_eq!(paths.of(&(), 1500, 1000), 1500);
        assert!(paths.lower((), 1400, 1000), "what is forgotten does not count");
        paths.forget(1600);
        assert!(paths.learnt.is_empty());
    }
}
