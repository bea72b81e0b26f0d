//! The history of rule sets: which is in force, who put it there, and what to fall back to while it waits to be confirmed.
//!
//! Nothing here reads a clock or a file; `crate::runtime::rules` stores what changes. Every activation gets a number of its own,
//! also when it brings an older text back, so that a flow's generation always names one entry.
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
}

/// Why there is nothing to roll back to or to confirm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// No earlier generation.
    #[error("no rule set was in force before this one")]
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

    /// The generation that a rollback brings back: the one of that number, or the one in force before.
    ///
    /// # Errors
    /// There is none.
    pub fn rollback_target(&self, generation: Option<u32>) -> Result<&Entry, HistoryError> {
        match generation {
            Some(number) => {
                let found = self.entries.iter().find(|entry| entry.generation == number);
                found.ok_or(HistoryError::Unknown(number))
            }
            None => self
                .entries
                .iter()
                .rev()
                .nth(1)
                .ok_or(HistoryError::NothingBefore),
        }
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
        next.unconfirmed = confirm_until_unix_s.map(|until_unix_s| Unconfirmed {
            fall_back_to,
            until_unix_s,
        });
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
        next
    }

    /// The history once the generation in force is confirmed.
    ///
    /// # Errors
    /// [`HistoryError::NothingToConfirm`].
    pub fn confirmed(&self) -> Result<Self, HistoryError> {
        match self.unconfirmed {
            Some(_) => Ok(Self {
                entries: self.entries.clone(),
                unconfirmed: None,
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
}
