//! Logs of sites and of peers that are none, bounded in lines and in peers.
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use gateway_ike::{ChildId, IkeSaId};

use super::record::{Record, Severity};

/// Lines of one site.
pub const SITE_LINES_MAX: usize = 32;
/// Lines of what unproven peers said in the name of one site.
pub const CLAIMED_LINES_MAX: usize = 8;
/// Peers with a log that are no site; the one heard least recently goes.
pub const PEERS_MAX: usize = 1_024;
/// Lines of one such peer.
pub const PEER_LINES_MAX: usize = 16;
/// How far back a line like the new one is looked for, to count it there.
const ALIKE_LINES: usize = 4;

/// One line; what repeats is counted in one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When it happened first, in milliseconds since 1970.
    pub first_ms: u64,
    /// When it happened last.
    pub last_ms: u64,
    /// How often.
    pub count: u32,
    /// Which event.
    pub event: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// Where the peer was.
    pub remote: Option<SocketAddr>,
    /// IKE SA.
    pub ike_sa: Option<IkeSaId>,
    /// Child SA.
    pub child: Option<ChildId>,
    /// Whoever caused it did not prove who it is.
    pub unproven: bool,
    /// In words.
    pub text: Box<str>,
}

type Ring = VecDeque<Line>;

/// All logs.
#[derive(Debug, Default)]
pub(super) struct Logs {
    sites: HashMap<u32, Ring>,
    claimed: HashMap<u32, Ring>,
    peers: HashMap<IpAddr, Peer>,
    /// Counts up with every line of a peer.
    heard: u64,
    /// Peers by [`Peer::heard`].
    by_heard: BTreeMap<u64, IpAddr>,
}

#[derive(Debug, Default)]
struct Peer {
    lines: Ring,
    heard: u64,
}

impl Logs {
    /// Adds a record where it belongs: to a proven site's own log, or else to that of the address, where no flood
    /// reaches a site's lines.
    pub(super) fn add(&mut self, record: &Record) {
        if let Some(site) = record.site {
            return push(self.sites.entry(site).or_default(), record, SITE_LINES_MAX);
        }
        if let Some(site) = record.claimed_site {
            push(self.claimed.entry(site).or_default(), record, CLAIMED_LINES_MAX);
        }
        let Some(address) = record.address() else { return };
        if self.peers.len() == PEERS_MAX && !self.peers.contains_key(&address) {
            let longest_silent = self.by_heard.pop_first();
            if let Some((_, address)) = longest_silent {
                self.peers.remove(&address);
            }
        }
        self.heard += 1;
        let peer = self.peers.entry(address).or_default();
        self.by_heard.remove(&peer.heard);
        peer.heard = self.heard;
        self.by_heard.insert(self.heard, address);
        push(&mut peer.lines, record, PEER_LINES_MAX);
    }

    /// A site's lines with those from its addresses and those in its name, by time.
    pub(super) fn of_site(&self, site: u32, addresses: &[IpAddr]) -> Vec<Line> {
        let own = self.sites.get(&site).into_iter().flatten();
        let claimed = self.claimed.get(&site).into_iter().flatten();
        let mut lines: Vec<_> = own.chain(claimed).cloned().collect();
        for address in addresses {
            for line in self.of_peer(*address) {
                if !lines.contains(&line) {
                    lines.push(line);
                }
            }
        }
        lines.sort_by_key(|line| line.last_ms);
        lines
    }

    /// An address's lines.
    pub(super) fn of_peer(&self, address: IpAddr) -> Vec<Line> {
        let peer = self.peers.get(&address.to_canonical());
        peer.map(|peer| peer.lines.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// All addresses with lines, those heard last first.
    pub(super) fn peers(&self) -> Vec<IpAddr> {
        self.by_heard.values().rev().copied().collect()
    }
}

/// Rekeyings go on for as long as an SA lives; only the last of them is worth a line.
fn is_routine(event: &str) -> bool {
    matches!(event, "child_sa_rekeyed" | "ike_sa_rekeyed")
}

fn push(ring: &mut Ring, record: &Record, lines_max: usize) {
    let alike = |line: &&mut Line| {
        line.event == record.event && (is_routine(record.event) || *line.text == *record.text)
    };
    if let Some(line) = ring.iter_mut().rev().take(ALIKE_LINES).find(alike) {
        line.count = line.count.saturating_add(1);
        line.last_ms = record.time_ms;
        line.ike_sa = record.ike_sa;
        line.child = record.child;
        line.remote = record.remote;
        if *line.text != *record.text {
            line.text = record.text.as_str().into();
        }
        return;
    }
    if ring.len() == lines_max {
        ring.pop_front();
    }
    ring.push_back(Line {
        first_ms: record.time_ms,
        last_ms: record.time_ms,
        count: 1,
        event: record.event,
        severity: record.severity,
        remote: record.remote,
        ike_sa: record.ike_sa,
        child: record.child,
        unproven: record.site.is_none(),
        text: record.text.as_str().into(),
    });
}
