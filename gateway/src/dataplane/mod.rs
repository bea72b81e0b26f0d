//! The data plane: XDP programs, their maps, and the ESP workers.
//!
//! | file | subject |
//! |---|---|
//! | `config`, `error` | what it is started with, what can go wrong |
//! | `object`, `load` | the BPF object; loading and attaching |
//! | `maps` | typed access to the maps |
//! | `next_hops` | next hops of the core side: which have room, and the order in which they change |
//! | `start` | the order in which everything comes up |
//! | `ike_spis` | our SPIs of IKE SAs |
//! | `sa`, `sas` | SAs as the controller sees them; installing and removing |
//! | `worker` | ESP workers |
//! | `xsk` | AF_XDP sockets |
//! | `service_link`, `ethtool` | the veth pair between `core` and the DNS proxy; offloads of its ends |
//! | `clear_link` | the veth pair between workers and the `clear` program |
//! | `tables`, `shared`, `reader` | flow and mapping tables, as the programs have them; memory that both share; who only looks |
//! | `trace` | what workers tell of packets that are traced |
//! | `publish` | static mappings |
//! | `sweep` | expiry of flows and mappings |
//! | `stats` | counters of the workers |
//! | `soft`, `bare` | a worker over rings in memory, a forwarder over sockets: for measurements |
//! | `taken` | what only one gateway may have at a time |
//! | `system` | what else the daemon asks of the system |
//!
//! **Architecture invariant:** fail closed. Forwarding by the kernel is off before the first program is attached and
//! stays off after the last is gone; an SA receives only when its worker knows it.

pub mod bare;
mod clear_link;
mod config;
mod error;
mod ethtool;
mod ike_spis;
mod load;
mod maps;
mod next_hops;
pub mod object;
mod publish;
mod reader;
pub mod receiver;
mod routes;
mod sa;
mod sas;
mod service_link;
mod shared;
mod sleeper;
pub mod soft;
mod standstill;
mod start;
mod stats;
pub mod sweep;
mod system;
pub mod tables;
mod taken;
mod trace;
mod worker;
mod xsk;

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use crossbeam_queue::ArrayQueue;
use gateway_common::abi::event::Event;
use gateway_common::abi::flow::{Flow, FlowKey, read};
use gateway_common::abi::map;
use gateway_common::abi::names::OpenAddress;
use gateway_common::abi::nat::{InsideKey, Mapping, OutsideKey};
use gateway_common::abi::next_hop::NextHop;
use gateway_common::abi::rule::Chunk;
use gateway_common::abi::site::Site;
use gateway_common::abi::stats::{Counter, Path};
use gateway_common::drop::DropReason;

pub use self::config::{DataplaneConfig, Engine, InterfaceConfig, Role};
pub use self::error::DataplaneError;
pub(crate) use self::load::bpffs_name;
pub use self::load::{AttachMode, fill_stages, fill_tracer, load_programs};
pub use self::publish::Published;
pub use self::reader::Reader;
pub(crate) use self::routes::{NETWORKS_IN_ALL_MAX, NETWORKS_MAX};
pub use self::sa::{Direction, SaHandle, SaInstall, SaStats, UdpEncap};
pub use self::service_link::{ServiceLink, ServiceSockets};
pub use self::stats::WorkerStats;
pub use self::sweep::HoldDown;
pub(crate) use self::system::forbid_core_dumps;
pub use self::system::monotonic_s;
pub use self::tables::TableSizes;
pub use self::trace::Traces;
pub use self::worker::alone::{FragmentWorker, Whole};
pub use self::worker::commands::WorkerReport;
pub use self::worker::direct::{Direct, Egress, Way};
pub use self::worker::fragments::IkeDatagram;
pub use self::worker::reassembly::Bounds as FragmentBounds;

use self::clear_link::ClearLink;
use self::ike_spis::IkeSpis;
use self::load::Loaded;
use self::maps::{Maps, absent_is_fine, entries};
use self::next_hops::Fitted;
use self::sas::Sas;
use self::standstill::Standstill;
use self::stats::WorkerCounters;
use self::sweep::{Quiet, Sweep};
use self::tables::SharedTables;
use self::trace::{Tracing, monotonic_ns};
use self::worker::fragments::IkeSink;
use self::worker::handover::Inbox;

/// Events that one call takes out of the ring.
const EVENTS_PER_CALL: usize = 1024;
/// Traced packets that one call takes out of their ring, which holds fewer.
const TRACES_PER_CALL: usize = 16_384;

/// An interface as it was attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its side.
    pub role: Role,
    /// Receive queues, each with a worker.
    pub queues: u32,
    /// Those of them whose frames the card reads and writes itself.
    pub zero_copy: u32,
    /// Where its program runs.
    pub mode: AttachMode,
}

/// An interface that is not there any more under its name, as it was attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostInterface {
    /// Its name.
    pub name: String,
    /// The index that it had.
    pub index: u32,
    /// The index of the one that has its name now: no program is attached to that one, and no worker has a socket on it.
    pub successor: Option<u32>,
}

/// What the packet path and the workers have to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataplaneEvent {
    /// Of an XDP program.
    Packet(Event),
    /// Of a worker.
    Worker(WorkerReport),
}

/// What a sweep keeps for the next one, locked by whoever changes what a sweep changes.
type Sweeping = Mutex<(Sweep, Quiet)>;

/// The running data plane. Every method may be called from any thread.
pub struct Dataplane {
    loaded: Loaded,
    maps: Mutex<Maps>,
    sas: Mutex<Sas>,
    tables: Arc<SharedTables>,
    sweep: Arc<Sweeping>,
    standstill: Mutex<Standstill>,
    hold_down: HoldDown,
    attached: Vec<Attached>,
    clear_link: ClearLink,
    inboxes: Arc<[Inbox]>,
    counters: Vec<Arc<WorkerCounters>>,
    reports: Arc<ArrayQueue<WorkerReport>>,
    ike_spis: Arc<IkeSpis>,
    /// Where IKE that came in fragments goes.
    ike: Arc<OnceLock<IkeSink>>,
    tracing: Arc<Tracing>,
    threads: Vec<JoinHandle<()>>,
}

impl Dataplane {
    /// Loads and attaches the programs, makes the clear link, starts the workers. Needs root.
    ///
    /// # Errors
    /// What is missing and where. Workers and clear link are gone then; forwarding stays off, and programs that were
    /// attached by then stay and drop.
    pub fn start(config: &DataplaneConfig) -> Result<Self, DataplaneError> {
        start::start(config)
    }

    /// Has IKE datagrams that came in IP fragments given to `sink`, which must not wait: it runs in a worker. The first
    /// sink stays.
    pub fn receive_ike(&self, sink: impl Fn(IkeDatagram) + Send + Sync + 'static) {
        let _ = self.ike.set(Box::new(sink));
    }

    /// Messages to this SPI of ours, which stands on an IKE SA now or does no more, pass whatever else the peer's address sends.
    ///
    /// # Errors
    /// Its place is another's. The peer's address has its limit, with what others send in its name.
    pub fn set_ike_spi(&self, spi: u64, stands: bool) -> Result<(), DataplaneError> {
        let changed = if stands {
            self.ike_spis.put(spi)
        } else {
            self.ike_spis.take(spi)
        };
        changed.then_some(()).ok_or(DataplaneError::IkeSpi(spi))
    }

    /// The interfaces and how their programs run.
    #[must_use]
    pub fn attached(&self) -> &[Attached] {
        &self.attached
    }

    /// Interfaces that are gone, or have a successor of their name.
    #[must_use]
    pub fn lost_interfaces(&self) -> Vec<LostInterface> {
        let lost = |interface: &Attached| {
            let now = system::interface_index(&interface.name);
            (now != Some(interface.index)).then(|| LostInterface {
                name: interface.name.clone(),
                index: interface.index,
                successor: now,
            })
        };
        self.attached.iter().filter_map(lost).collect()
    }

    /// Reads the interfaces' addresses again. Call it when one has changed: ESP to another destination is dropped.
    ///
    /// # Errors
    /// An interface is gone; those of the others are read all the same.
    pub fn refresh_addresses(&self) -> Result<(), DataplaneError> {
        let mut maps = self.maps();
        let fill = |(place, interface)| start::fill_interface(&mut maps, interface, place);
        let filled: Vec<_> = (0..).zip(&self.attached).map(fill).collect();
        filled.into_iter().collect()
    }

    /// Turns forwarding between our interfaces off again, which a container engine or `sysctl --system` turns on for all.
    ///
    /// # Errors
    /// The setting cannot be written.
    pub fn keep_forwarding_off(&self) -> Result<(), DataplaneError> {
        for interface in &self.attached {
            if system::forwarding_off(&interface.name)? {
                tracing::warn!(
                    interface = interface.name,
                    "somebody turned the kernel's forwarding on; it is off again"
                );
            }
        }
        Ok(())
    }

    /// Adds these to the sites, or changes them.
    ///
    /// # Errors
    /// The map is full.
    pub fn add_sites(&self, sites: &[(u32, Site)]) -> Result<(), DataplaneError> {
        let mut maps = self.maps();
        for (id, site) in sites {
            let inserted = maps.sites.insert(id, site.numbered(*id), 0);
            inserted.map_err(DataplaneError::map(map::SITES))?;
        }
        Ok(())
    }

    /// Makes these the sites. One that is no longer among them opens no flow any more. Flows that it has stay as long as its
    /// SAs do, unless they are ended ([`Reader::end_refused`]): their packets do not ask for the site.
    ///
    /// # Errors
    /// The map is full.
    pub fn set_sites(&self, sites: &[(u32, Site)]) -> Result<(), DataplaneError> {
        self.add_sites(sites)?;
        let mut maps = self.maps();
        let wanted: HashSet<u32> = sites.iter().map(|(id, _)| *id).collect();
        for (id, _) in entries(&maps.sites) {
            if !wanted.contains(&id) {
                absent_is_fine(maps.sites.remove(&id)).map_err(DataplaneError::map(map::SITES))?;
            }
        }
        Ok(())
    }

    /// Publishes these as well; what is published already stays.
    ///
    /// # Errors
    /// The first that has no room, or whose outside is another mapping's.
    pub fn publish(&self, published: &[Published]) -> Result<(), DataplaneError> {
        // Most come from sites that come again: they do not wait for a sweep.
        let news = publish::news(&mut self.maps(), &self.tables, published)?;
        if news.is_empty() {
            return Ok(());
        }
        let now_s = monotonic_s() as u32;
        let _unswept = self.sweep();
        publish::publish(&self.tables, &news, now_s)
    }

    /// Makes a rule generation the active one, in one step: a packet sees the old set or the new one, and none sees the
    /// old one once this returns.
    ///
    /// # Errors
    /// The kernel has no room for it; the active generation is then what it was.
    pub fn load_rules(&self, chunks: &[Chunk]) -> Result<(), DataplaneError> {
        self.maps().load_rules(chunks)
    }

    /// Sets `rules` counters from `base` on to zero; the active generation must not name them.
    ///
    /// # Errors
    /// A counter cannot be written.
    pub fn reset_rule_hits(&self, base: u32, rules: u32) -> Result<(), DataplaneError> {
        self.maps().reset_rule_hits(base, rules)
    }

    /// Opens addresses by name, or closes them (`None`).
    ///
    /// # Errors
    /// The first that the map has no room for; all others are written, and what is closed makes room before.
    pub fn write_names(&self, writes: &[(Ipv4Addr, Option<OpenAddress>)]) -> Result<(), DataplaneError> {
        let mut maps = self.maps();
        let (closed, open): (Vec<_>, Vec<_>) = writes.iter().partition(|(_, open)| open.is_none());
        let written = closed
            .into_iter()
            .chain(open)
            .map(|(address, open)| maps.write_name(address.octets(), open.as_ref()));
        // All of them: whoever asked does not ask again.
        written.fold(Ok(()), Result::and)
    }

    /// The site that has a flow from this translated address to that server.
    #[must_use]
    pub fn site_of(&self, protocol: u8, client: SocketAddrV4, server: SocketAddrV4) -> Option<u32> {
        let outside = OutsideKey {
            address: client.ip().octets(),
            port: client.port().to_be_bytes(),
            protocol,
            pad: 0,
        };
        let entry =
            self.tables
                .flows()
                .find_answer(&outside, server.ip().octets(), server.port().to_be_bytes())?;
        Some(read(entry.record).0.site)
    }

    /// Says which way flows to these addresses go (numbers of [`gateway_common::abi::rule::direction`]), in place of what was
    /// said before; to the Internet those to all others. Until this is called, that is all of them.
    ///
    /// # Errors
    /// The map is full.
    pub fn set_directions(&self, ranges: &[(Ipv4Addr, Ipv4Addr, u8)]) -> Result<(), DataplaneError> {
        let entries: Vec<_> = ranges
            .iter()
            .flat_map(|(first, last, direction)| {
                let prefixes = gateway_ike::prefixes(*first, *last).into_iter();
                prefixes.map(|(address, length)| (address, length, *direction))
            })
            .collect();
        self.maps().set_directions(&entries)
    }

    /// Makes these the next hops of the core side: `hops` as prefix, its length, where to; `fixed` are of addresses, in place
    /// of what `hops` have for them. Flows follow.
    ///
    /// # Errors
    /// There are more than the maps hold ([`DataplaneError::NextHops`]), or the kernel refuses some. All others are there
    /// then, and what belongs to one that is not is dropped, so that it takes no shorter prefix.
    pub fn set_next_hops(
        &self,
        hops: &[([u8; 4], u8, NextHop)],
        fixed: &[(Ipv4Addr, NextHop)],
    ) -> Result<(), DataplaneError> {
        // Of a million routes this takes a while, for which nobody is to wait.
        let fitted = Fitted::new(hops, fixed);
        let set = self.maps().set_next_hops(&fitted);
        set.and(fitted.refused())
    }

    /// Where the packet path has packets go that are for this address on the core side.
    #[must_use]
    pub fn next_hop(&self, destination: Ipv4Addr) -> Option<NextHop> {
        self.maps().next_hops.to(destination)
    }

    /// What a site uses of the tables: flows, half-open TCP connections, NAT mappings; of all sites together for 0.
    #[must_use]
    pub fn used(&self, site: u32) -> [u64; 3] {
        self.tables.used(site)
    }

    /// Every tracked flow.
    #[must_use]
    pub fn flows(&self) -> Vec<(FlowKey, Flow)> {
        self.tables.flows().live().collect()
    }

    /// The tables while this serves on, and after it has stopped.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader {
            tables: Arc::clone(&self.tables),
            sweep: Arc::clone(&self.sweep),
        }
    }

    /// Every NAT mapping.
    #[must_use]
    pub fn mappings(&self) -> Vec<(InsideKey, Mapping)> {
        self.tables.mappings().live().collect()
    }

    /// Every outside that is not free, those of retired mappings too.
    #[must_use]
    pub fn outsides(&self) -> Vec<OutsideKey> {
        self.tables.outsides()
    }

    /// Drops by reason, of XDP programs and workers together; reasons that never occurred are left out.
    #[must_use]
    pub fn drops(&self) -> Vec<(DropReason, u64)> {
        let maps = self.maps();
        let count = |reason| {
            let workers: u64 = self.counters.iter().map(|counters| counters.drops(reason)).sum();
            (reason, maps.drops(reason) + workers)
        };
        let all = DropReason::ALL.iter().copied().map(count);
        all.filter(|(_, packets)| *packets > 0).collect()
    }

    /// What XDP programs and workers let through, by the name of its path.
    #[must_use]
    pub fn paths(&self) -> Vec<(&'static str, Counter)> {
        let directly = self.forwarded_directly();
        let mut paths = self.maps().paths();
        if let Some((_, forwarded)) = paths.get_mut(Path::ClearForwarded as usize) {
            forwarded.packets += directly.packets;
            forwarded.bytes += directly.bytes;
        }
        paths
    }

    /// What the direct engine has forwarded, which is part of the path `clear_forwarded`.
    #[must_use]
    pub fn forwarded_directly(&self) -> Counter {
        self.counters.iter().fold(Counter::default(), |sum, worker| {
            let of_worker = worker.forwarded_directly();
            Counter {
                packets: sum.packets + of_worker.packets,
                bytes: sum.bytes + of_worker.bytes,
            }
        })
    }

    /// Hits of `rules` rules whose counters begin at `base`.
    #[must_use]
    pub fn rule_hits(&self, base: u32, rules: u32) -> Vec<Counter> {
        self.maps().rule_hits(base, rules)
    }

    /// Counters of each worker.
    #[must_use]
    pub fn worker_stats(&self) -> Vec<WorkerStats> {
        (0..)
            .zip(&self.counters)
            .map(|(worker, counters)| counters.snapshot(worker))
            .collect()
    }

    /// What happened since the last call; does not wait. Call it some ten times a second: the first packet of a new
    /// inbound SA is among it, which the switch of the outbound SA waits for.
    #[must_use]
    pub fn events(&self) -> Vec<DataplaneEvent> {
        self.loaded.flush_log();
        let reports = std::iter::from_fn(|| self.reports.pop()).map(DataplaneEvent::Worker);
        let packets = self.maps().take_events(EVENTS_PER_CALL);
        reports
            .chain(packets.into_iter().map(DataplaneEvent::Packet))
            .collect()
    }

    /// Traces packets of this site from now on, of all with [`EVERY_SITE`](gateway_common::abi::trace::EVERY_SITE), of none
    /// with zero.
    ///
    /// # Errors
    /// The settings cannot be read or written.
    pub fn set_trace(&self, site: u32) -> Result<(), DataplaneError> {
        let mut maps = self.maps();
        let mut settings = maps.settings()?;
        settings.trace_site = site;
        maps.set_settings(&settings)?;
        self.tracing.set_site(site);
        Ok(())
    }

    /// What was traced since the last call; does not wait. Call it some ten times a second while anything is traced.
    #[must_use]
    pub fn traces(&self) -> Traces {
        let (mut events, lost) = self.tracing.take();
        let mut maps = self.maps();
        events.extend(maps.take_traces(TRACES_PER_CALL));
        events.sort_by_key(|event| event.at_ns);
        Traces {
            events,
            lost: lost + maps.traces_lost(),
        }
    }

    /// Nanoseconds of the clock that traced packets have.
    #[must_use]
    pub fn trace_clock_ns(&self) -> u64 {
        monotonic_ns()
    }

    /// Removes flows that timed out at `now_s` (see [`monotonic_s`]) and mappings that nobody uses. Answers how many flows
    /// and mappings went. Call it every few seconds: places are free again at the call after. A worker that has not come on
    /// since the last sweep may hold an entry that the next one would free: nothing is swept then.
    ///
    /// # Errors
    /// The settings cannot be read.
    pub fn expire(&self, now_s: u32) -> Result<(usize, usize), DataplaneError> {
        let settings = self.maps().settings()?;
        let mut sweep = self.sweep();
        let (sweep, quiet) = &mut *sweep;
        if !quiet.all_came_on(self.rounds()) {
            return Ok((0, 0));
        }
        let gone = sweep.run(&*self.tables, &settings, self.hold_down, now_s);
        quiet.note(self.rounds());
        Ok(gone)
    }

    /// A second went by. The number of a worker that has not ended its round, or its sleep, for ten of them.
    pub fn standing_worker(&self) -> Option<usize> {
        let mut standstill = self.standstill.lock().unwrap_or_else(PoisonError::into_inner);
        standstill.second(self.rounds())
    }

    fn rounds(&self) -> impl Iterator<Item = u64> {
        self.counters.iter().map(|counters| counters.rounds())
    }

    /// Detaches everything, ends the workers (their keys are zeroed), removes the clear link. Kernel forwarding stays
    /// off on the interfaces.
    pub fn stop(mut self) {
        self.shut_down();
        if let Err(error) = self.keep_forwarding_off() {
            // The programs stay attached, and drop.
            tracing::error!(%error, "the programs stay attached: without them the kernel might forward");
            return;
        }
        self.loaded.unpin();
    }

    fn shut_down(&mut self) {
        self.inboxes.iter().for_each(Inbox::stop);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker had panicked");
            }
        }
        self.ike_spis.clear();
        self.clear_link.remove();
    }

    fn maps(&self) -> MutexGuard<'_, Maps> {
        // A poisoned lock guards file descriptors, which are as good as before.
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a sweep needs. While it is held, no place that a thread has found is freed, however long the system holds the
    /// thread up.
    fn sweep(&self) -> MutexGuard<'_, (Sweep, Quiet)> {
        self.sweep.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Dataplane {
    /// Without [`Dataplane::stop`] the programs stay attached and drop everything: closed, not open.
    fn drop(&mut self) {
        self.shut_down();
    }
}
