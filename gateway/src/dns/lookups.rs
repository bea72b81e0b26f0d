//! What upstream servers are asked: a name once at a time, however many ask for it. Were each of them to ask from a port of
//! its own, a forger who has sites ask needs to hit any of so many IDs and ports (the birthday attack of RFC 5452 section
//! 5): equal questions wait for one answer.
use std::collections::{BTreeSet, HashMap};

use super::message::Question;
use super::proxy::{Ask, Token, Transport};

/// A name that an upstream server is asked for.
#[derive(Debug)]
pub(super) struct Lookup {
    /// As the first one asked.
    pub(super) question: Question,
    pub(super) ask: Ask,
    pub(super) id: u16,
    /// Place of the server in the order of attempts.
    pub(super) attempt: usize,
    pub(super) transport: Transport,
    pub(super) until_ms: u64,
    /// Questions that wait for the answer.
    pub(super) waiting: BTreeSet<Token>,
}

/// All of them; none that nobody waits for.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    by_ask: HashMap<Ask, Lookup>,
    by_name: HashMap<String, Ask>,
}

impl Lookups {
    /// A question waits for the answer to an equal one; false: there is none.
    pub(super) fn join(&mut self, name: &str, token: Token) -> bool {
        let ask = self.by_name.get(name);
        let Some(lookup) = ask.and_then(|ask| self.by_ask.get_mut(ask)) else {
            return false;
        };
        lookup.waiting.insert(token);
        true
    }

    pub(super) fn insert(&mut self, lookup: Lookup) {
        self.by_name.insert(lookup.question.name.clone(), lookup.ask);
        self.by_ask.insert(lookup.ask, lookup);
    }

    pub(super) fn get(&self, ask: Ask) -> Option<&Lookup> {
        self.by_ask.get(&ask)
    }

    pub(super) fn remove(&mut self, ask: Ask) -> Option<Lookup> {
        let lookup = self.by_ask.remove(&ask)?;
        self.by_name.remove(&lookup.question.name);
        Some(lookup)
    }

    /// A question waits no more. The attempt that nobody waits for then is over.
    pub(super) fn leave(&mut self, name: &str, token: Token) -> Option<Ask> {
        let ask = *self.by_name.get(name)?;
        let lookup = self.by_ask.get_mut(&ask)?;
        lookup.waiting.remove(&token);
        if !lookup.waiting.is_empty() {
            return None;
        }
        self.remove(ask).map(|lookup| lookup.ask)
    }

    /// When the first attempt is over.
    pub(super) fn deadline_ms(&self) -> Option<u64> {
        self.by_ask.values().map(|lookup| lookup.until_ms).min()
    }

    /// Attempts that are over, in the order in which they began.
    pub(super) fn due(&self, now_ms: u64) -> Vec<Ask> {
        let due = self.by_ask.values().filter(|lookup| lookup.until_ms <= now_ms);
        let mut due: Vec<Ask> = due.map(|lookup| lookup.ask).collect();
        due.sort_unstable();
        due
    }
}
