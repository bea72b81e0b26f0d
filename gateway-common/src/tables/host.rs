//! [`Tables`] in ordinary memory, with a clock and randomness that the caller sets: for tests and simulations.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::vec::Vec;

use super::{FlowEntry, Refused, Tables};
use crate::abi::{
    event::Event,
    flow::{Flow, FlowKey},
    interface::{Interface, Settings},
    limit,
    nat::{InsideKey, Mapping, OutsideKey},
    next_hop::NextHop,
    rule::Rule,
    sa::{SaInbound, SaOutbound, SaOutboundKey},
    site::Site,
    stats::Path,
};
use crate::path::filter::{Direction, Progress};
use crate::path::rules::{self, Judgement, Tuple};

/// All tables, open to the test that fills and reads them.
#[derive(Clone, Debug, Default)]
pub struct HostTables {
    /// What [`Tables::now_s`] says.
    pub now_s: Cell<u32>,
    /// State of the random numbers; each draw advances it.
    pub random: Cell<u32>,
    /// Settings.
    pub settings: Option<Settings>,
    /// Interface of the frames to come.
    pub interface: Option<Interface>,
    /// Receive queue of the frames to come.
    pub queue: u32,
    /// Inbound SAs by SPI.
    pub sa_inbound: BTreeMap<[u8; 4], SaInbound>,
    /// Outbound SAs: prefix length of the destination, key, SA.
    pub sa_outbound: Vec<(u32, SaOutboundKey, SaOutbound)>,
    /// Sites.
    pub sites: BTreeMap<u32, Site>,
    /// Next hops: prefix length, prefix, hop.
    pub next_hops: Vec<(u32, [u8; 4], NextHop)>,
    /// Generation and rules.
    pub rules: Option<(u32, Vec<Rule>)>,
    /// Flows.
    pub flows: RefCell<BTreeMap<FlowKey, Rc<Cell<Flow>>>>,
    /// Most flows and mappings that fit.
    pub capacity: Option<usize>,
    /// Mappings from inside.
    pub mappings: RefCell<BTreeMap<InsideKey, Mapping>>,
    /// Mappings from outside.
    pub reverse: RefCell<BTreeMap<OutsideKey, InsideKey>>,
    /// IKE datagrams: source, second, count.
    pub ike: RefCell<BTreeMap<[u8; 16], (u32, u32)>>,
    /// Packets by [`Path`].
    pub paths: RefCell<BTreeMap<u32, u64>>,
    /// Packets by the rule's counter.
    pub rule_hits: RefCell<BTreeMap<u32, u64>>,
    /// Events.
    pub events: RefCell<Vec<Event>>,
}

impl HostTables {
    fn has_room(&self, used: usize, limit: u32) -> bool {
        used < self.capacity.unwrap_or(limit as usize)
    }
}

impl FlowEntry for Rc<Cell<Flow>> {
    fn read(&self) -> Flow {
        self.get()
    }

    fn advance(&self, direction: Direction, length: u32, now_s: u32, progress: Progress) {
        let mut flow = self.get();
        let (packets, bytes) = match direction {
            Direction::Out => (&mut flow.packets_out, &mut flow.bytes_out),
            Direction::In => (&mut flow.packets_in, &mut flow.bytes_in),
        };
        *packets += 1;
        *bytes += u64::from(length);
        flow.last_seen_s = now_s;
        flow.state = progress.state;
        flow.fins = progress.fins;
        self.set(flow);
    }
}

impl Tables for HostTables {
    type Flow = Rc<Cell<Flow>>;

    fn now_s(&self) -> u32 {
        self.now_s.get()
    }

    /// A linear congruential generator: each port of a range comes up.
    fn random(&self) -> u32 {
        let next = self
            .random
            .get()
            .wrapping_mul(1_664_525)
            .wrapping_add(1_013_904_223);
        self.random.set(next);
        next >> 8
    }

    fn settings(&self) -> Option<&Settings> {
        self.settings.as_ref()
    }

    fn interface(&self) -> Option<&Interface> {
        self.interface.as_ref()
    }

    fn queue(&self) -> u32 {
        self.queue
    }

    fn sa_inbound(&self, spi: [u8; 4]) -> Option<&SaInbound> {
        self.sa_inbound.get(&spi)
    }

    fn sa_outbound(&self, key: &SaOutboundKey) -> Option<&SaOutbound> {
        let of_site = self
            .sa_outbound
            .iter()
            .filter(|(_, entry, _)| entry.site == key.site);
        of_site
            .filter(|(length, entry, _)| prefix_matches(*length, entry.destination, key.destination))
            .max_by_key(|(length, _, _)| *length)
            .map(|(_, _, sa)| sa)
    }

    fn site(&self, site: u32) -> Option<&Site> {
        self.sites.get(&site)
    }

    fn next_hop(&self, destination: [u8; 4]) -> Option<&NextHop> {
        let matching = self
            .next_hops
            .iter()
            .filter(|(length, prefix, _)| prefix_matches(*length, *prefix, destination));
        matching
            .max_by_key(|(length, _, _)| *length)
            .map(|(_, _, hop)| hop)
    }

    fn flow(&self, key: &FlowKey) -> Option<Self::Flow> {
        self.flows.borrow().get(key).cloned()
    }

    fn insert_flow(&self, key: &FlowKey, flow: &Flow) -> Result<(), Refused> {
        if self.flows.borrow().contains_key(key) {
            return Err(Refused::Exists);
        }
        self.replace_flow(key, flow)
    }

    fn replace_flow(&self, key: &FlowKey, flow: &Flow) -> Result<(), Refused> {
        let mut flows = self.flows.borrow_mut();
        if !flows.contains_key(key) && !self.has_room(flows.len(), limit::FLOWS_MAX) {
            return Err(Refused::Full);
        }
        flows.insert(*key, Rc::new(Cell::new(*flow)));
        Ok(())
    }

    fn mapping(&self, key: &InsideKey) -> Option<Mapping> {
        self.mappings.borrow().get(key).copied()
    }

    fn insert_mapping(&self, key: &InsideKey, mapping: &Mapping) -> Result<(), Refused> {
        if self.mappings.borrow().contains_key(key) {
            return Err(Refused::Exists);
        }
        self.replace_mapping(key, mapping)
    }

    fn replace_mapping(&self, key: &InsideKey, mapping: &Mapping) -> Result<(), Refused> {
        let mut mappings = self.mappings.borrow_mut();
        if !mappings.contains_key(key) && !self.has_room(mappings.len(), limit::MAPPINGS_MAX) {
            return Err(Refused::Full);
        }
        mappings.insert(*key, *mapping);
        Ok(())
    }

    fn inside(&self, key: &OutsideKey) -> Option<InsideKey> {
        self.reverse.borrow().get(key).copied()
    }

    fn claim(&self, key: &OutsideKey, inside: &InsideKey) -> Result<(), Refused> {
        let mut reverse = self.reverse.borrow_mut();
        if reverse.contains_key(key) {
            return Err(Refused::Exists);
        }
        if !self.has_room(reverse.len(), limit::MAPPINGS_MAX) {
            return Err(Refused::Full);
        }
        reverse.insert(*key, *inside);
        Ok(())
    }

    fn release(&self, key: &OutsideKey) {
        self.reverse.borrow_mut().remove(key);
    }

    fn judge(&self, tuple: &Tuple) -> Option<Judgement> {
        let (generation, list) = self.rules.as_ref()?;
        let mut judgement = Judgement::default_deny(*generation);
        if let Some(rule) = list.iter().find(|rule| rules::matches(rule, tuple)) {
            judgement.decide(rule);
        }
        Some(judgement)
    }

    fn count_ike(&self, source: &[u8; 16], now_s: u32) -> u32 {
        let mut ike = self.ike.borrow_mut();
        let bucket = ike.entry(*source).or_default();
        *bucket = if bucket.0 == now_s {
            (now_s, bucket.1 + 1)
        } else {
            (now_s, 1)
        };
        bucket.1
    }

    fn count(&self, path: Path, _bytes: u32) {
        *self.paths.borrow_mut().entry(path as u32).or_default() += 1;
    }

    fn count_rule(&self, counter: u32, _bytes: u32) {
        *self.rule_hits.borrow_mut().entry(counter).or_default() += 1;
    }

    fn event(&self, event: &Event) {
        self.events.borrow_mut().push(*event);
    }
}

fn prefix_matches(length: u32, prefix: [u8; 4], address: [u8; 4]) -> bool {
    let mask = u32::MAX.checked_shl(32 - length.min(32)).unwrap_or(0);
    (u32::from_be_bytes(prefix) ^ u32::from_be_bytes(address)) & mask == 0
}
