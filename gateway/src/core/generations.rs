//! The history of rule sets: which is in force, who put it there, and what to fall back to while it waits to be confirmed.
//!
//! Nothing here reads a clock or a file; `crate::runtime::rules` stores what changes. Every activation gets a number of its own,
//! also when it brings an older text back, so that a flow's generation always names one entry.
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Entries that are kept.
pub const HISTORY_MAX: usize = 50;

/// Who put a rule set in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Author {
    /// User at the other end of the API's socket, as the kernel says (`SO_PEERCRED`).
    pub uid: u32,
    /// Name of the user who logged in (the kernel's login uid, which `su` and `sudo` do not change), if the kernel knows.
    pub login: Option<String>,
    /// What `--author` says; nobody checks it.
    pub name: Option<String>,
}

/// Where an entry comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// `[rules] file` of the configuration.
    Configured,
    /// `gateway rules load`.
    Loaded,
    /// `gateway rules rollback` to this generation.
    RolledBack(u32),
    /// This generation was not confirmed in time.
    FellBack(u32),
}

/// A rule set that is or was in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number, from 1.
    pub generation: u32,
    /// Seconds since 1970.
    pub at_unix_s: u64,
    /// Who.
    pub author: Author,
    /// Where it comes from.
    pub origin: Origin,
    /// File as the operator named it.
    pub file: String,
    /// Name of the rule set.
    pub name: String,
    /// Its rules.
    pub rules: usize,
}

/// A generation in force that nobody confirmed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unconfirmed {
    /// The generation whose text comes back; `None`: there was none, and nothing passes again.
    pub fall_back_to: Option<u32>,
    /// When, in seconds since 1970. A restart before falls back at once.
    pub until_unix_s: u64,
}

/// All that is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Oldest first; the last one is in force.
    entries: Vec<Entry>,
    /// If the last one waits to be confirmed.
    unconfirmed: Option<Unconfirmed>,
    /// Those that waited and that nobody confirmed while they were in force.
    #[serde(default)]
    never_confirmed: BTreeSet<u32>,
    /// Those that fell back to what the configuration said.
    #[serde(default)]
    fell_back_to_configured: BTreeSet<u32>,
}

/// Why there is nothing to roll back to or to confirm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// No earlier generation that is not withdrawn.
    #[error(
        "no rule set was in force before this one that was not withdrawn; `gateway rules history` shows all, and \
         `gateway rules rollback N` takes any of them"
    )]
    NothingBefore,
    /// A number that was never given, or is too long ago.
    #[error("generation {0} is not in the history; `gateway rules history` shows what is")]
    Unknown(u32),
    /// The generation in force is not waiting.
    #[error("no rule set waits to be confirmed")]
    NothingToConfirm,
}

impl History {
    /// The entry in force.
    #[must_use]
    pub fn in_force(&self) -> Option<&Entry> {
        self.entries.last()
    }

    /// Whether the generation in force waits to be confirmed.
    #[must_use]
    pub fn unconfirmed(&self) -> Option<Unconfirmed> {
        self.unconfirmed
    }

    /// The entry that comes back unless the one in force is confirmed.
    #[must_use]
    pub fn fall_back_entry(&self) -> Option<&Entry> {
        self.numbered(self.unconfirmed?.fall_back_to?)
    }

    /// Whether an entry is what the configuration says: `[rules] file`, or that fell back to it. A start follows the
    /// configuration then.
    #[must_use]
    pub fn is_configured(&self, entry: &Entry) -> bool {
        entry.origin == Origin::Configured || self.fell_back_to_configured.contains(&entry.generation)
    }

    fn numbered(&self, generation: u32) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.generation == generation)
    }

    /// All entries, oldest first.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The number of the next generation.
    #[must_use]
    pub fn next(&self) -> u32 {
        self.in_force()
            .map_or(1, |entry| entry.generation.wrapping_add(1).max(1))
    }

    /// The generation that a rollback brings back: the one of that number, or the one in force before; not one that was
    /// withdrawn since, by a rollback or because nobody confirmed it.
    ///
    /// # Errors
    /// There is none.
    pub fn rollback_target(&self, generation: Option<u32>) -> Result<&Entry, HistoryError> {
        match (generation, self.unconfirmed) {
            (Some(number), _) => self.numbered(number).ok_or(HistoryError::Unknown(number)),
            (None, Some(_)) => self.fall_back_entry().ok_or(HistoryError::NothingBefore),
            (None, None) => self
                .line()
                .into_iter()
                .rev()
                .nth(1)
                .ok_or(HistoryError::NothingBefore),
        }
    }

    /// The generation in force and what stood before it, oldest first: each as it came last, without what was withdrawn.
    fn line(&self) -> Vec<&Entry> {
        let mut line: Vec<&Entry> = Vec::new();
        let confirmed = |entry: &&Entry| !self.never_confirmed.contains(&entry.generation);
        for entry in self.entries.iter().filter(confirmed) {
            match entry.origin {
                Origin::Configured | Origin::Loaded => {}
                // In the place of what it brings back, without what came after that.
                Origin::RolledBack(to) => {
                    if let Some(place) = line.iter().position(|before| before.generation == to) {
                        line.truncate(place);
                    }
                }
                // In the place of what was in force before the one that was not confirmed.
                Origin::FellBack(from) => {
                    line.retain(|before| before.generation != from);
                    line.pop();
                }
            }
            line.push(entry);
        }
        line
    }

    /// The history once `entry` is in force. With `confirm_until_unix_s` it falls back then to what is in force now; if
    /// that itself waits to be confirmed, to what that would fall back to: only a confirmed set is fallen back to.
    #[must_use]
    pub fn with(&self, entry: Entry, confirm_until_unix_s: Option<u64>) -> Self {
        let fall_back_to = match self.unconfirmed {
            Some(waiting) => waiting.fall_back_to,
            None => self.in_force().map(|entry| entry.generation),
        };
        let mut next = self.clone();
        let withdrawn = self.in_force().filter(|_| self.unconfirmed.is_some());
        next.never_confirmed
            .extend(withdrawn.map(|entry| entry.generation));
        next.unconfirmed = confirm_until_unix_s.map(|until_unix_s| Unconfirmed {
            fall_back_to,
            until_unix_s,
        });
        let is_fall_back = matches!(entry.origin, Origin::FellBack(_));
        if is_fall_back
            && self
                .fall_back_entry()
                .is_some_and(|back| self.is_configured(back))
        {
            next.fell_back_to_configured.insert(entry.generation);
        }
        next.entries.push(entry);
        let kept = |entry: &Entry| {
            Some(entry.generation) == next.unconfirmed.and_then(|waiting| waiting.fall_back_to)
        };
        let surplus = next.entries.len().saturating_sub(HISTORY_MAX);
        let mut number = 0;
        next.entries.retain(|entry| {
            number += 1;
            number > surplus || kept(entry)
        });
        let History {
            entries,
            never_confirmed,
            fell_back_to_configured,
            ..
        } = &mut next;
        for numbers in [never_confirmed, fell_back_to_configured] {
            numbers.retain(|number| entries.iter().any(|entry| entry.generation == *number));
        }
        next
    }

    /// The history once the generation in force is confirmed.
    ///
    /// # Errors
    /// [`HistoryError::NothingToConfirm`].
    pub fn confirmed(&self) -> Result<Self, HistoryError> {
        match self.unconfirmed {
            Some(_) => Ok(Self {
                unconfirmed: None,
                ..self.clone()
            }),
            None => Err(HistoryError::NothingToConfirm),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(generation: u32) -> Entry {
        Entry {
            generation,
            at_unix_s: 0,
            author: Author::default(),
            origin: Origin::Loaded,
            file: "rules.toml".into(),
            name: String::new(),
            rules: 1,
        }
    }

    #[test]
    fn an_unconfirmed_set_is_never_fallen_back_to() {
        let history = History::default().with(entry(1), None).with(entry(2), Some(60));
        assert_eq!(
            history.unconfirmed().and_then(|waiting| waiting.fall_back_to),
            Some(1)
        );
        let history = history.with(entry(3), Some(70));
        assert_eq!(
            history.unconfirmed().and_then(|waiting| waiting.fall_back_to),
            Some(1)
        );
        let history = history.confirmed().expect("it waits").with(entry(4), Some(80));
        assert_eq!(
            history.unconfirmed().and_then(|waiting| waiting.fall_back_to),
            Some(3)
        );
        assert_eq!(
            history.confirmed().expect("it waits").confirmed(),
            Err(HistoryError::NothingToConfirm)
        );
    }

    #[test]
    fn the_set_to_fall_back_to_outlives_the_history() {
        let mut history = History::default().with(entry(1), None).with(entry(2), Some(60));
        for generation in 3..200 {
            history = history.with(entry(generation), Some(60));
        }
        assert!(history.rollback_target(Some(1)).is_ok());
        assert!(history.entries().len() <= HISTORY_MAX + 1);
        assert_eq!(history.rollback_target(Some(2)), Err(HistoryError::Unknown(2)));
    }

    #[test]
    fn a_rollback_goes_to_the_one_before() {
        let history = History::default().with(entry(1), None);
        assert_eq!(history.rollback_target(None), Err(HistoryError::NothingBefore));
        let history = history.with(entry(2), None);
        assert_eq!(history.rollback_target(None).map(|entry| entry.generation), Ok(1));
        assert_eq!(history.next(), 3);
    }

    /// What `gateway rules rollback` without a number brings back.
    fn target(history: &History) -> Result<u32, HistoryError> {
        history.rollback_target(None).map(|entry| entry.generation)
    }

    fn with_origin(history: &History, origin: Origin) -> History {
        let entry = Entry {
            origin,
            ..entry(history.next())
        };
        history.with(entry, None)
    }

    #[test]
    fn a_rollback_never_brings_a_withdrawn_set_back() {
        let one = History::default().with(entry(1), None);
        let locked_out = one.with(entry(2), Some(60));
        assert_eq!(target(&locked_out), Ok(1), "before it falls back");
        let fell_back = with_origin(&locked_out, Origin::FellBack(2));
        assert_eq!(target(&fell_back), Err(HistoryError::NothingBefore));
        // 3 is 1 again; a set that comes after it goes back to that.
        let history = fell_back.with(entry(4), None);
        assert_eq!(target(&history), Ok(3));

        // Two that nobody confirmed, one after the other.
        let history = one.with(entry(2), Some(60)).with(entry(3), Some(60));
        assert_eq!(target(&history), Ok(1));
        let history = with_origin(&history, Origin::FellBack(3)).with(entry(5), None);
        assert_eq!(target(&history), Ok(4));
        // One that was confirmed counts.
        let history = one.with(entry(2), Some(60)).confirmed().expect("it waits");
        assert_eq!(target(&history.with(entry(3), None)), Ok(2));
    }

    #[test]
    fn a_second_rollback_goes_further_back() {
        let history = History::default()
            .with(entry(1), None)
            .with(entry(2), None)
            .with(entry(3), None);
        let history = with_origin(&history, Origin::RolledBack(target(&history).expect("2")));
        assert_eq!(target(&history), Ok(1), "not 3, which was withdrawn");
        let history = with_origin(&history, Origin::RolledBack(1));
        assert_eq!(target(&history), Err(HistoryError::NothingBefore));
        // By its number any comes back, and what was in force before that is what it goes back to.
        let history = with_origin(&history, Origin::RolledBack(3));
        assert_eq!(target(&history), Ok(5));
    }

    #[test]
    fn a_rollback_that_nobody_confirmed_changes_nothing() {
        let history = History::default().with(entry(1), None).with(entry(2), None);
        let rolled_back = Entry {
            origin: Origin::RolledBack(1),
            ..entry(3)
        };
        let history = history.with(rolled_back, Some(60));
        assert_eq!(target(&history), Ok(2), "what it falls back to");
        let history = with_origin(&history, Origin::FellBack(3));
        assert_eq!(target(&history), Ok(1), "2 is in force again");
    }

    #[test]
    fn what_falls_back_to_the_configured_set_is_the_configured_set() {
        let of = |generation, origin| Entry {
            origin,
            ..entry(generation)
        };
        let is_configured = |history: &History| history.is_configured(history.in_force().expect("one"));
        let configured = History::default().with(of(1, Origin::Configured), None);
        let once = configured
            .with(entry(2), Some(60))
            .with(of(3, Origin::FellBack(2)), None);
        let twice = once
            .with(entry(4), Some(60))
            .with(of(5, Origin::FellBack(4)), None);
        assert!(is_configured(&once) && is_configured(&twice));
        let loaded = twice.with(entry(6), None);
        let back = loaded
            .with(entry(7), Some(60))
            .with(of(8, Origin::FellBack(7)), None);
        assert!(!is_configured(&loaded) && !is_configured(&back));
        assert!(!is_configured(&back.with(of(9, Origin::RolledBack(1)), None)));
    }

    #[test]
    fn a_history_of_an_earlier_release_is_read() {
        let history = with_origin(&History::default().with(entry(1), None), Origin::FellBack(9));
        let mut stored = serde_json::to_value(&history).expect("written");
        let map = stored.as_object_mut().expect("a map");
        for later in ["never_confirmed", "fell_back_to_configured"] {
            assert!(map.remove(later).is_some());
        }
        assert_eq!(serde_json::from_value::<History>(stored).expect("read"), history);
    }
}
