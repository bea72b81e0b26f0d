//! `gateway flows list`, `gateway nat list`, and whatever else has much to tell: read and written on other threads, few at a
//! time, while the control task goes on.
//!
//! The tables are read beside the programs that change them: each line is of one moment, the list is not. What comes or
//! goes while it is read may be in it or not. Names are of when the list was asked for.
//!
//! SAs are the control task's own. It goes through them for `gateway sa list` itself, some between two things that it does:
//! what is said of flows holds for their list, too.
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::ensure;
use gateway_common::abi::flow::{Flow, FlowKey};
use gateway_common::abi::nat::{InsideKey, Mapping};
use gateway_ike::IkeSaId;
use serde::Serialize;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::spawn_blocking;

use super::compiling::Wanted;
use super::controller::Controller;
use super::engine::Engine;
use super::events::rule_name_of;
use super::requests::{site_name, site_number, state_word};
use crate::api::message::Reply;
use crate::api::view;
use crate::config::{PortBlock, Protocol};
use crate::core::blocks;
use crate::core::sites::{SiteEntry, Sites};

/// Lists that are made at a time; further ones wait.
const LISTINGS_MAX: usize = 2;
/// Lines of a list: more would take a gigabyte to write.
const LINES_MAX: usize = 100_000;

/// IKE SAs that are gone through at a time: a quarter of a millisecond.
const SAS_AT_ONCE: usize = 64;

/// What becomes an answer on another thread.
pub(super) type Work = Box<dyn FnOnce() -> Reply + Send>;

/// What a request has for an answer.
pub(super) enum Answer {
    /// It is there.
    Ready(Reply),
    /// It takes longer than the control task has.
    Later(Work),
    /// All SAs, when they were gone through.
    Sas,
    /// Rules, when they are in force.
    InForce(Wanted),
    /// Files are in force, when they were read.
    Reloaded,
}

impl Answer {
    /// A view that is large to write.
    pub(super) fn large(view: impl Serialize + Send + 'static) -> Self {
        Self::Later(Box::new(move || Reply::view(&view)))
    }
}

/// Lists that are being made.
#[derive(Debug)]
pub(super) struct Listings(Arc<Semaphore>);

impl Default for Listings {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LISTINGS_MAX)))
    }
}

impl Listings {
    /// Has the work done, when others leave room for it, unless whoever asked has gone by then.
    pub(super) fn begin(&self, work: Work, reply: oneshot::Sender<Reply>) {
        let places = Arc::clone(&self.0);
        tokio::spawn(async move {
            let Ok(_place) = places.acquire().await else {
                return;
            };
            if reply.is_closed() {
                return;
            }
            let made = spawn_blocking(work).await;
            let made = made.unwrap_or_else(|_| Reply::Error("the list was not finished".to_owned()));
            let _ = reply.send(made);
        });
    }
}

/// Lists of SAs that were asked for; the first is being made.
#[derive(Default)]
pub(super) struct SaLists {
    asked: VecDeque<oneshot::Sender<Reply>>,
    first: Parts<view::IkeSa>,
}

/// What was made of the IKE SAs that were gone through.
struct Parts<T> {
    made: Vec<T>,
    /// The last of them.
    after: Option<IkeSaId>,
}

impl<T> Default for Parts<T> {
    fn default() -> Self {
        Self {
            made: Vec::new(),
            after: None,
        }
    }
}

impl<T> Parts<T> {
    /// Adds the next; all of them if they were the last.
    fn add(&mut self, part: Vec<(IkeSaId, T)>) -> Option<Vec<T>> {
        let is_last = part.len() < SAS_AT_ONCE;
        self.after = part.last().map(|(id, _)| *id);
        self.made.extend(part.into_iter().map(|(_, made)| made));
        is_last.then(|| std::mem::take(self).made)
    }
}

impl SaLists {
    pub(super) fn ask(&mut self, reply: oneshot::Sender<Reply>) {
        self.asked.push_back(reply);
    }

    pub(super) fn are_asked_for(&self) -> bool {
        !self.asked.is_empty()
    }
}

/// Names of sites and rules, as they were.
struct Names {
    sites: HashMap<u32, String>,
    /// Of the generation in force.
    rules: Option<(u32, Vec<String>)>,
}

impl Names {
    fn site(&self, number: u32) -> String {
        let known = self.sites.get(&number).cloned();
        known.unwrap_or_else(|| format!("site {number}"))
    }

    fn rule(&self, flow: &Flow) -> String {
        rule_name_of(flow.generation, flow.rule, |generation, rule| {
            let (active, names) = self.rules.as_ref()?;
            (*active == generation).then(|| names.get(rule).cloned())?
        })
    }
}

impl<E: Engine> Controller<E> {
    /// Goes through the next SAs, if somebody has asked for a list.
    pub(super) fn list_more_sas(&mut self) {
        if !self.sa_lists.are_asked_for() {
            return;
        }
        let next = self.endpoint.ike_sas_after(self.sa_lists.first.after);
        let part = next.take(SAS_AT_ONCE);
        let part = part.map(|ike| (ike.id, self.ike_view(ike))).collect();
        if let Some(list) = self.sa_lists.first.add(part)
            && let Some(reply) = self.sa_lists.asked.pop_front()
        {
            self.listings.begin(Box::new(move || Reply::view(&list)), reply);
        }
    }

    pub(super) fn list_flows(&self, site: Option<&str>, limit: usize) -> anyhow::Result<Work> {
        let wanted = self.selection(site, limit)?;
        let (reader, names, now_s) = (
            self.engine.reader()?,
            self.list_names(wanted),
            self.engine.now_s(),
        );
        Ok(Box::new(move || {
            let mut list = Least::new(limit);
            reader.flows(&mut |key, flow| {
                if wanted.is_none_or(|site| key.site == site) {
                    list.offer((std::cmp::Reverse(flow.last_seen_s()), key), flow);
                }
            });
            let (total, flows) = list.sorted();
            let flows = flows
                .iter()
                .map(|((_, key), flow)| flow_view(&names, key, flow, now_s));
            let flows = flows.collect();
            Reply::view(&view::Flows { total, flows })
        }))
    }

    pub(super) fn list_mappings(&self, site: Option<&str>, limit: usize) -> anyhow::Result<Work> {
        let wanted = self.selection(site, limit)?;
        let (reader, names, now_s) = (
            self.engine.reader()?,
            self.list_names(wanted),
            self.engine.now_s(),
        );
        let publications: Vec<String> = self
            .config
            .publications
            .iter()
            .map(|one| one.name.clone())
            .collect();
        let sites = self.sites.get();
        let all_blocks: Vec<PortBlock> = sites
            .iter()
            .flat_map(|entry| entry.blocks.iter().copied())
            .collect();
        let entries = sites
            .iter()
            .filter(|entry| wanted.is_none_or(|site| entry.site == site));
        let entries: Vec<_> = entries.map(|entry| self.held(&sites, entry)).collect();
        drop(sites);
        Ok(Box::new(move || {
            let mut list = Least::new(limit);
            reader.mappings(&mut |key, mapping| {
                if wanted.is_none_or(|site| key.site == site) {
                    list.offer(key, mapping);
                }
            });
            let (total, mappings) = list.sorted();
            let mappings = mappings
                .iter()
                .map(|(key, mapping)| mapping_view(&names, &publications, key, mapping, now_s));
            let used = blocks::count(all_blocks, reader.outsides());
            Reply::view(&view::Mappings {
                total,
                mappings: mappings.collect(),
                sites: entries.into_iter().map(|held| held.view(&used)).collect(),
            })
        }))
    }

    /// The number of the site whose lines are wanted.
    fn selection(&self, site: Option<&str>, limit: usize) -> anyhow::Result<Option<u32>> {
        ensure!(
            limit <= LINES_MAX,
            "{limit} lines are more than the {LINES_MAX} that a list may have; name a site with --site"
        );
        site.map(|name| site_number(&self.sites.get(), name)).transpose()
    }

    fn list_names(&self, wanted: Option<u32>) -> Names {
        let sites = self.sites.get();
        let named = |entry: &SiteEntry| (entry.site, entry.name.clone());
        Names {
            sites: match wanted {
                Some(site) => HashMap::from([(site, site_name(&sites, site))]),
                None => sites.iter().map(named).collect(),
            },
            rules: self.rules.as_ref().map(|(generation, compiled)| {
                let rules = compiled.source.rules.iter();
                (*generation, rules.map(|rule| rule.model.name.clone()).collect())
            }),
        }
    }

    fn held(&self, sites: &Sites, entry: &SiteEntry) -> Held {
        let blocks = entry.blocks.iter();
        Held {
            name: entry.name.clone(),
            groups: sites
                .group_names_of(entry)
                .into_iter()
                .map(str::to_owned)
                .collect(),
            nat_address: entry.nat_address,
            blocks: blocks
                .map(|block| (*block, self.is_block_closed(entry.site, block)))
                .collect(),
        }
    }
}

/// What a site has.
struct Held {
    name: String,
    groups: Vec<String>,
    nat_address: Ipv4Addr,
    /// Its blocks, and whether each is closed.
    blocks: Vec<(PortBlock, bool)>,
}

impl Held {
    fn view(self, used: &HashMap<PortBlock, blocks::Use>) -> view::SiteAddress {
        let block = |(block, closed): &(PortBlock, bool)| {
            let used = used.get(block).copied().unwrap_or_default();
            view::PortBlock {
                address: block.address,
                first_port: block.first_port,
                last_port: block.last_port,
                tcp: used.tcp,
                udp: used.udp,
                icmp: used.icmp,
                other: used.other,
                closed: *closed,
            }
        };
        view::SiteAddress {
            blocks: self.blocks.iter().map(block).collect(),
            site: self.name,
            groups: self.groups,
            nat_address: self.nat_address,
        }
    }
}

fn flow_view(names: &Names, key: &FlowKey, flow: &Flow, now_s: u32) -> view::Flow {
    view::Flow {
        site: names.site(key.site),
        protocol: Protocol(key.protocol).to_string(),
        source: Ipv4Addr::from(key.source),
        source_port: u16::from_be_bytes(key.source_port),
        nat_address: Ipv4Addr::from(flow.nat_address),
        nat_port: u16::from_be_bytes(flow.nat_port),
        destination: Ipv4Addr::from(key.destination),
        destination_port: u16::from_be_bytes(key.destination_port),
        state: state_word(flow.progress.state).to_owned(),
        rule: names.rule(flow),
        packets_out: flow.out.packets,
        bytes_out: flow.out.bytes,
        packets_in: flow.back.packets,
        bytes_in: flow.back.bytes,
        age_s: now_s.saturating_sub(flow.created_s),
        idle_s: now_s.saturating_sub(flow.last_seen_s()),
    }
}

fn mapping_view(
    names: &Names,
    publications: &[String],
    key: &InsideKey,
    mapping: &Mapping,
    now_s: u32,
) -> view::Mapping {
    let place = mapping.publication().checked_sub(1);
    let published = place.and_then(|place| publications.get(place as usize));
    view::Mapping {
        site: names.site(key.site),
        protocol: Protocol(key.protocol).to_string(),
        inside: Ipv4Addr::from(key.address),
        inside_port: u16::from_be_bytes(key.port),
        outside: Ipv4Addr::from(mapping.address),
        outside_port: u16::from_be_bytes(mapping.port),
        age_s: now_s.saturating_sub(mapping.created_s),
        published: published.cloned(),
    }
}

/// The least of many, in room for those that are kept.
struct Least<K, V> {
    limit: usize,
    total: usize,
    kept: BinaryHeap<Ranked<K, V>>,
}

/// Ordered by its key alone.
struct Ranked<K, V>(K, V);

impl<K: Ord, V> PartialEq for Ranked<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<K: Ord, V> Eq for Ranked<K, V> {}

impl<K: Ord, V> PartialOrd for Ranked<K, V> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<K: Ord, V> Ord for Ranked<K, V> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

impl<K: Ord, V> Least<K, V> {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            total: 0,
            kept: BinaryHeap::new(),
        }
    }

    fn offer(&mut self, key: K, value: V) {
        self.total += 1;
        if self.kept.len() == self.limit {
            // The greatest of those that are kept gives way.
            match self.kept.peek_mut() {
                Some(mut greatest) if key < greatest.0 => *greatest = Ranked(key, value),
                Some(_) | None => {}
            }
        } else {
            self.kept.push(Ranked(key, value));
        }
    }

    /// How many there were, and those that were kept, the least first.
    fn sorted(self) -> (usize, Vec<(K, V)>) {
        let kept = self.kept.into_sorted_vec().into_iter();
        (self.total, kept.map(|Ranked(key, value)| (key, value)).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Regression: the control task made a line of each of 60,000 SAs in one go.
    #[test]
    fn all_sas_are_gone_through_in_parts_whatever_their_number() {
        for count in [0, 1, 63, 64, 65, 128, 1_000] {
            let mut parts = Parts::default();
            let (mut lists, mut turns) = (Vec::new(), 0);
            // Twice: the next list begins with the first.
            while lists.len() < 2 {
                let first = parts.after.map_or(0, |after: IkeSaId| after.0 + 1);
                let part = (first..count).take(SAS_AT_ONCE);
                lists.extend(parts.add(part.map(|number| (IkeSaId(number), number)).collect()));
                turns += 1;
            }
            assert_eq!(turns, 2 * (count / 64 + 1));
            for list in lists {
                assert_eq!(list, (0..count).collect::<Vec<_>>());
            }
        }
    }

    proptest! {
        #[test]
        fn the_least_are_those_of_the_whole_list_in_order(
            numbers in prop::collection::vec(any::<u16>(), 0..200),
            limit in 0_usize..50,
        ) {
            let mut least = Least::new(limit);
            numbers.iter().for_each(|number| least.offer(*number, ()));
            let (total, kept) = least.sorted();
            let mut all = numbers.clone();
            all.sort_unstable();
            all.truncate(limit);
            prop_assert_eq!(total, numbers.len());
            prop_assert_eq!(kept.into_iter().map(|(number, ())| number).collect::<Vec<_>>(), all);
        }
    }
}
