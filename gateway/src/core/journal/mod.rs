//! What happened, for people and machines: a record of every state change, kept in bounded memory.
//!
//! Sans-IO: [`Journal::note`] takes what happened and the time; records that subscribers are to see come out of
//! [`Journal::poll_record`]. What a packet can cause is limited: no peer fills memory, a disk or another site's log.
mod facts;
mod ike;
mod limit;
mod lines;
mod notice;
mod record;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use gateway_ike::{ChildId, IkeSaId};

use super::sites::Sites;
use facts::Facts;
use limit::Limits;
use lines::Logs;

pub use lines::{CLAIMED_LINES_MAX, Line, PEER_LINES_MAX, PEERS_MAX, SITE_LINES_MAX};
pub use notice::{Cause, Notice};
pub use record::{Record, SCHEMA, Severity, utc};

/// Records kept for `gateway events` without `--follow`.
pub const RECENT_MAX: usize = 1_024;

/// One record as subscribers get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventLine {
    /// Its number, from 1 at each start of the daemon.
    pub sequence: u64,
    /// One JSON object without a line break.
    pub json: Arc<str>,
}

/// The journal.
#[derive(Debug)]
pub struct Journal {
    gateway: String,
    sequence: u64,
    facts: Facts,
    logs: Logs,
    limits: Limits,
    /// Each with the name of the site that it is about.
    recent: VecDeque<(Option<String>, EventLine)>,
    out: VecDeque<(Record, EventLine)>,
}

impl Journal {
    /// An empty journal of the gateway of that name.
    #[must_use]
    pub fn new(gateway: &str) -> Self {
        Self {
            gateway: gateway.to_owned(),
            sequence: 0,
            facts: Facts::default(),
            logs: Logs::default(),
            limits: Limits::default(),
            recent: VecDeque::new(),
            out: VecDeque::new(),
        }
    }

    /// Notes that a connection leads to a site at these addresses, so that the site's log shows what comes from there.
    pub fn expect(&mut self, connection: &str, site: u32, addresses: &[IpAddr]) {
        self.facts.leads_to(connection, site);
        for address in addresses {
            self.facts.seen_at(site, *address);
        }
    }

    /// Notes what happened at `now_ms` (milliseconds since 1970).
    pub fn note(&mut self, now_ms: u64, notice: Notice<'_>, sites: &Sites) {
        let record = self.add(now_ms, &notice, sites);
        let Some(site) = record.site else {
            return self.publish(record);
        };
        let up_before = self.facts.is_up(site);
        self.facts.learn(&notice);
        self.publish(record);
        let up = self.facts.is_up(site);
        if up != up_before {
            let record = self.add(now_ms, &Notice::SiteState { site, up }, sites);
            self.publish(record);
        }
    }

    /// The record of a notice, which the logs have from now on.
    fn add(&mut self, now_ms: u64, notice: &Notice<'_>, sites: &Sites) -> Record {
        let mut record = notice.record(&self.facts, sites);
        record.time_ms = now_ms;
        self.logs.add(&record);
        record
    }

    /// Begins another second: tells how many records were kept back in the last one.
    pub fn next_second(&mut self, now_ms: u64, sites: &Sites) {
        if let Some((strangers, of_sites)) = self.limits.next_second() {
            let mut record = Notice::Suppressed { strangers, of_sites }.record(&self.facts, sites);
            record.time_ms = now_ms;
            self.publish(record);
        }
    }

    fn publish(&mut self, mut record: Record) {
        if !self.limits.admits(record.cause) {
            return;
        }
        self.sequence += 1;
        record.sequence = self.sequence;
        record.gateway.clone_from(&self.gateway);
        let line = EventLine {
            sequence: self.sequence,
            json: record.json().into(),
        };
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((record.site_name.clone(), line.clone()));
        self.out.push_back((record, line));
    }

    /// The next record for subscribers and the daemon's own log.
    #[must_use]
    pub fn poll_record(&mut self) -> Option<(Record, EventLine)> {
        self.out.pop_front()
    }

    /// The last records, oldest first: of all, or of the site of this name only.
    pub fn recent(&self, count: usize, site: Option<&str>) -> impl Iterator<Item = &EventLine> {
        let is_of = move |about: &Option<String>| site.is_none() || about.as_deref() == site;
        let lines = || self.recent.iter().filter(move |(about, _)| is_of(about));
        lines()
            .skip(lines().count().saturating_sub(count))
            .map(|(_, line)| line)
    }

    /// Number of the last record; 0: there was none.
    #[must_use]
    pub const fn newest(&self) -> u64 {
        self.sequence
    }

    /// The log of a site: its own lines, what came from its addresses, and what others said in its name.
    #[must_use]
    pub fn site_log(&self, site: u32) -> Vec<Line> {
        self.logs.of_site(site, self.facts.addresses(site))
    }

    /// The log of an address.
    #[must_use]
    pub fn peer_log(&self, address: IpAddr) -> Vec<Line> {
        self.logs.of_peer(address)
    }

    /// Addresses with a log of their own, those heard last first.
    #[must_use]
    pub fn peers(&self) -> Vec<IpAddr> {
        self.logs.peers()
    }

    /// The lines of a site that tell of an IKE SA, its predecessors, or their Child SAs.
    #[must_use]
    pub fn history(&self, site: u32, ike_sa: IkeSaId, children: &[ChildId]) -> Vec<Line> {
        let line_of = |line: &Line| {
            line.ike_sa.is_some_and(|id| self.facts.is_ancestor(id, ike_sa))
                || line.child.is_some_and(|id| children.contains(&id))
        };
        let mut lines = self.logs.of_site(site, &[]);
        lines.retain(line_of);
        lines
    }
}

#[cfg(test)]
mod tests;
