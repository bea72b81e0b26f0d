//! The order in which the data plane comes up: forwarding off, programs loaded, clear link, sockets, workers, and the
//! programs attached last, when everything they redirect to is there.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::iter::once;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::thread;

use crossbeam_queue::ArrayQueue;
use gateway_common::abi::interface::{Interface, role};
use gateway_common::abi::{limit, map};
use gateway_esp::engine::Burst;
use gateway_esp::tunnel::LINK_HEADER_LEN;

use super::clear_link::{ClearLink, queues};
use super::config::Engine::{Direct, Xdp};
use super::config::{DataplaneConfig, InterfaceConfig, Role};
use super::error::DataplaneError;
use super::ike_spis::IkeSpis;
use super::load::{AttachMode, Loaded};
use super::maps::Maps;
use super::object::program;
use super::sas::Sas;
use super::sleeper::Sleeper;
use super::stats::WorkerCounters;
use super::tables::SharedTables;
use super::worker::ahead::Ahead;
use super::worker::direct::{self, Egress};
use super::worker::fragments::Fragments;
use super::worker::handover::{Inbox, Side};
use super::worker::table::SaTable;
use super::worker::{Engine, Worker};
use super::xsk::{Use, XskRings};
use super::{Attached, Dataplane, system};

/// Reports that wait for the controller at most.
const REPORTS_MAX: usize = 16_384;
/// An interface on its way to being attached. Its place in the list numbers its slots in `XSKS`.
struct Planned {
    config: InterfaceConfig,
    index: u32,
    queues: u32,
    /// Those of them that got zero copy.
    zero_copy: Cell<u32>,
}

pub(super) fn start(config: &DataplaneConfig) -> Result<Dataplane, DataplaneError> {
    system::harden()?;
    let planned = plan(config)?;
    for interface in &planned {
        system::forwarding_off(&interface.config.name)?;
    }
    system::ensure_bpffs(&config.bpffs_dir)?;
    let geometry = config.tables.geometry().map_err(|source| DataplaneError::Call {
        what: "read random octets",
        source,
    })?;
    let mut loaded = Loaded::load(&config.bpffs_dir, &geometry)?;
    let tables = SharedTables::new(&loaded.ebpf, &geometry)
        .map_err(|(map, error)| DataplaneError::Missing(format!("map {map}: {error}")))?;
    let tables = Arc::new(tables);
    let ike_spis = IkeSpis::new(&loaded.ebpf)
        .map_err(|error| DataplaneError::Missing(format!("map {}: {error}", map::IKE_SPIS)))?;
    tables.set_now_s(system::monotonic_s() as u32);
    let mut maps = Maps::take(&mut loaded.ebpf, Arc::clone(&tables))?;
    maps.set_settings(&config.settings)?;
    let most_queues = planned
        .iter()
        .map(|interface| interface.queues)
        .max()
        .unwrap_or(1);
    let workers = config.workers.unwrap_or(most_queues).max(most_queues);
    within("workers", workers as usize, limit::QUEUES_MAX)?;
    let clear_link = ClearLink::create(&config.clear_link_prefix, workers)?;
    let undo = RemoveLink(Some(clear_link.clone()));
    fill_clear_link(&mut maps, &planned, &clear_link, workers)?;
    let mut dataplane = Dataplane {
        loaded,
        maps: Mutex::new(maps),
        sas: Mutex::new(Sas::new(wan_ports(&planned), owners(&planned))),
        tables,
        sweep: Arc::default(),
        standstill: Mutex::default(),
        hold_down: config.hold_down,
        attached: Vec::new(),
        clear_link,
        inboxes: inboxes(workers)?,
        counters: (0..workers).map(|_| Arc::default()).collect(),
        reports: Arc::new(ArrayQueue::new(REPORTS_MAX)),
        ike_spis: Arc::new(ike_spis),
        ike: Arc::default(),
        tracing: Arc::default(),
        threads: Vec::new(),
    };
    undo.keep();
    // From here on dropping `dataplane` ends the threads and removes the link.
    start_workers(&mut dataplane, config, &planned)?;
    attach(&mut dataplane, planned)?;
    Ok(dataplane)
}

fn plan(config: &DataplaneConfig) -> Result<Vec<Planned>, DataplaneError> {
    for (role, name) in [(Role::Wan, "wan"), (Role::Core, "core")] {
        if !config.interfaces.iter().any(|interface| interface.role == role) {
            return Err(DataplaneError::NoInterface(name));
        }
    }
    // One place in the maps is the clear link's.
    within("interfaces", config.interfaces.len() + 1, limit::INTERFACES_MAX)?;
    config.interfaces.iter().map(plan_interface).collect()
}

fn plan_interface(config: &InterfaceConfig) -> Result<Planned, DataplaneError> {
    let index = system::interface_index(&config.name).ok_or_else(|| DataplaneError::Interface {
        interface: config.name.clone(),
        source: std::io::ErrorKind::NotFound.into(),
    })?;
    let queues = queues(&config.name)?;
    within(
        "receive queues of an interface",
        queues as usize,
        limit::QUEUES_MAX,
    )?;
    Ok(Planned {
        config: config.clone(),
        index,
        queues,
        zero_copy: Cell::new(0),
    })
}

fn within(what: &'static str, have: usize, max: u32) -> Result<(), DataplaneError> {
    let max = max as usize;
    (have <= max)
        .then_some(())
        .ok_or(DataplaneError::TooMany { what, have, max })
}

/// Writes the clear link's end and lets XDP redirect out of the others, which are written as they are attached.
fn fill_clear_link(
    maps: &mut Maps,
    planned: &[Planned],
    clear: &ClearLink,
    workers: u32,
) -> Result<(), DataplaneError> {
    for interface in planned {
        maps.add_egress(interface.index)?;
    }
    let index = system::interface_index(&clear.program_end).unwrap_or(0);
    insert(
        maps,
        &clear.program_end,
        index,
        role::CLEAR,
        planned.len() as u32,
        workers,
    )
}

/// Writes role, queues and present addresses of an interface, and tells of those that are not served when they change; `place`
/// is its place in the configuration.
pub(super) fn fill_interface(
    maps: &mut Maps,
    interface: &Attached,
    place: u32,
) -> Result<(), DataplaneError> {
    let role = match interface.role {
        Role::Wan => role::WAN,
        Role::Core => role::CORE,
        Role::Internet => role::INTERNET,
    };
    insert(
        maps,
        &interface.name,
        interface.index,
        role,
        place,
        interface.queues,
    )
}

fn insert(
    maps: &mut Maps,
    name: &str,
    index: u32,
    role: u32,
    place: u32,
    queues: u32,
) -> Result<(), DataplaneError> {
    let addresses = system::addresses(name).map_err(|source| DataplaneError::Interface {
        interface: name.to_owned(),
        source,
    })?;
    let served = maps.interface(index);
    let served_ipv4 = once(served.ipv4).chain(served.further_ipv4);
    let served_ipv6 = once(served.ipv6).chain(served.further_ipv6);
    let ([ipv4, further_ipv4 @ ..], surplus_ipv4) = system::places(served_ipv4, &addresses.ipv4);
    let ([ipv6, further_ipv6 @ ..], surplus_ipv6) = system::places(served_ipv6, &addresses.ipv6);
    let interface = Interface {
        role,
        xsk_base: place * limit::QUEUES_MAX,
        queues,
        ipv4,
        ipv6,
        mac: addresses.mac,
        pad: [0; 2],
        further_ipv4,
        further_ipv6,
    };
    maps.set_interface(index, interface)?;
    let surplus_ipv4 = surplus_ipv4.into_iter().map(IpAddr::from);
    let surplus_ipv6 = surplus_ipv6.into_iter().map(IpAddr::from);
    let surplus: BTreeSet<_> = surplus_ipv4.chain(surplus_ipv6).collect();
    if maps.surplus_changes(index, &surplus) {
        tell_surplus(name, &surplus);
    }
    Ok(())
}

fn tell_surplus(interface: &str, surplus: &BTreeSet<IpAddr>) {
    /// Addresses that are named; more are counted.
    const NAMED_MAX: usize = 8;
    if surplus.is_empty() {
        tracing::info!(interface, "the packet path serves all its addresses again");
        return;
    }
    let named = surplus.iter().take(NAMED_MAX).map(IpAddr::to_string);
    tracing::warn!(
        interface,
        surplus = surplus.len(),
        addresses = named.collect::<Vec<_>>().join(", "),
        "it has more addresses than the packet path serves: what is sent to these is dropped"
    );
}

/// WAN interfaces by name, with the port that every worker has for them.
fn wan_ports(planned: &[Planned]) -> Vec<(String, usize)> {
    planned
        .iter()
        .enumerate()
        .filter(|(_, interface)| interface.config.role == Role::Wan)
        .map(|(port, interface)| (interface.config.name.clone(), port))
        .collect()
}

/// Workers that have a queue on every WAN interface: they alone own SAs, since an owner sends on any of them.
fn owners(planned: &[Planned]) -> u32 {
    let wan = planned
        .iter()
        .filter(|interface| interface.config.role == Role::Wan);
    wan.map(|interface| interface.queues).min().unwrap_or(1)
}

fn inboxes(workers: u32) -> Result<Arc<[Inbox]>, DataplaneError> {
    (0..workers)
        .map(|_| Inbox::new())
        .collect::<Result<Vec<_>, _>>()
        .map(Arc::from)
        .map_err(|source| DataplaneError::Call {
            what: "make an eventfd",
            source,
        })
}

fn start_workers(
    dataplane: &mut Dataplane,
    config: &DataplaneConfig,
    planned: &[Planned],
) -> Result<(), DataplaneError> {
    let allowed = system::allowed_cpus();
    let cpus = if config.pin_cores.is_empty() {
        &allowed
    } else {
        &config.pin_cores
    };
    let inboxes = Arc::clone(&dataplane.inboxes);
    for (number, inbox) in (0..).zip(inboxes.iter()) {
        let mut worker = worker(dataplane, config, planned, number)?;
        let sleeper =
            Sleeper::new(worker.rings.receiving(), inbox).map_err(|source| DataplaneError::Call {
                what: "wait for a worker's sockets",
                source,
            })?;
        let tables = Arc::clone(&dataplane.tables);
        let cpu = cpus.get(number as usize % cpus.len().max(1)).copied();
        let thread = thread::Builder::new()
            .name(format!("esp-{number}"))
            .spawn(move || {
                if let Some(cpu) = cpu
                    && let Err(error) = system::pin_to_cpu(cpu)
                {
                    tracing::warn!(worker = number, cpu, %error, "worker is not pinned");
                }
                // The programs' clock is the workers': without one of them no packet passes anyway.
                worker.run(
                    |rings| sleeper.sleep(rings.pending()),
                    || {
                        let now_ms = system::monotonic_ms();
                        tables.set_now_s((now_ms / 1000) as u32);
                        now_ms
                    },
                );
                // What was received has been counted as sent.
                worker.rings.drain();
            })
            .map_err(|source| DataplaneError::Call {
                what: "start a worker thread",
                source,
            })?;
        dataplane.threads.push(thread);
    }
    Ok(())
}

/// A worker with its sockets bound. Port numbers are the same at every worker: place of the interface in the
/// configuration, then both ends of the clear link.
fn worker(
    dataplane: &Dataplane,
    config: &DataplaneConfig,
    planned: &[Planned],
    number: u32,
) -> Result<Worker<XskRings>, DataplaneError> {
    let mut rings = XskRings::new(config.frames_per_worker)?;
    let (mut receive, mut egress) = (Vec::new(), Vec::new());
    for (place, interface) in (0..).zip(planned) {
        if number >= interface.queues {
            rings.skip();
            continue;
        }
        let (port, socket) = rings.bind(&interface.config.name, number, Use::ReceiveAndSend)?;
        let slot = place * limit::QUEUES_MAX + number;
        let set = dataplane.maps().xsks.set(slot, socket, 0);
        set.map_err(DataplaneError::map(map::XSKS))?;
        let side = match interface.config.role {
            Role::Wan => Side::Wan,
            Role::Core | Role::Internet => Side::Core,
        };
        receive.push((port, side));
        if side == Side::Core && config.engine == Direct {
            egress.push(way_out(interface, port)?);
        }
        let zero_copy = rings.has_zero_copy(port);
        let mode = if zero_copy { "zero copy" } else { "copy" };
        tracing::info!(interface = %interface.config.name, queue = number, mode, "AF_XDP socket");
        interface
            .zero_copy
            .set(interface.zero_copy.get() + u32::from(zero_copy));
    }
    rings.cards_are_bound();
    let link = &dataplane.clear_link;
    let (clear_port, _) = rings.bind(&link.worker_end, number, Use::SendOnly)?;
    // What `clear` sends back to a site comes by the queue that its cause went by.
    let (back_port, socket) = rings.bind(&link.program_end, number, Use::ReceiveAndSend)?;
    let slot = planned.len() as u32 * limit::QUEUES_MAX + number;
    let set = dataplane.maps().xsks.set(slot, socket, 0);
    set.map_err(DataplaneError::map(map::XSKS))?;
    receive.push((back_port, Side::Core));
    Ok(Worker {
        engine: Engine {
            worker: number,
            table: SaTable::default(),
            clear_port,
            now_s: 0,
            now_ms: 0,
            reports: Arc::clone(&dataplane.reports),
            fragments: Fragments::new(dataplane.inboxes.len() as u32, Arc::clone(&dataplane.ike))
                .knowing(Arc::clone(&dataplane.ike_spis)),
            tracing: Arc::clone(&dataplane.tracing),
            direct: match config.engine {
                Xdp => None,
                Direct => Some(direct::Direct::new(Arc::clone(&dataplane.tables), egress)),
            },
            burst: Burst::default(),
            done: Default::default(),
        },
        rings,
        receive,
        inboxes: Arc::clone(&dataplane.inboxes),
        counters: dataplane
            .counters
            .get(number as usize)
            .map_or_else(|| Arc::new(WorkerCounters::default()), Arc::clone),
        batch: Vec::new(),
        ahead: Ahead::default(),
        outcomes: Vec::new(),
        opened: Vec::new(),
        looked: Vec::new(),
        missed_s: 0,
        to_wake: 0,
    })
}

/// An interface that a worker sends clear packets out of by itself.
fn way_out(interface: &Planned, port: usize) -> Result<Egress, DataplaneError> {
    let mtu = system::mtu(interface.index).map_err(|reason| DataplaneError::Interface {
        interface: interface.config.name.clone(),
        source: std::io::Error::other(reason),
    })?;
    Ok(Egress {
        ifindex: interface.index,
        port,
        frame_max: LINK_HEADER_LEN + mtu as usize,
    })
}

fn attach(dataplane: &mut Dataplane, planned: Vec<Planned>) -> Result<(), DataplaneError> {
    let end = dataplane.clear_link.program_end.clone();
    let index = system::interface_index(&end).unwrap_or(0);
    if dataplane.loaded.attach(program::CLEAR, &end, index)? == AttachMode::Generic {
        tracing::warn!(interface = %end, "the clear link runs in generic mode");
    }
    for (place, interface) in (0..).zip(planned) {
        let mut attached = Attached {
            name: interface.config.name,
            index: interface.index,
            role: interface.config.role,
            queues: interface.queues,
            zero_copy: interface.zero_copy.get(),
            mode: AttachMode::Native,
        };
        // The program finds its interface in the map from its first packet on.
        fill_interface(&mut dataplane.maps(), &attached, place)?;
        let name = match attached.role {
            Role::Wan => program::WAN,
            Role::Core | Role::Internet => program::CORE,
        };
        attached.mode = dataplane.loaded.attach(name, &attached.name, attached.index)?;
        dataplane.attached.push(attached);
    }
    dataplane.loaded.forget_others();
    Ok(())
}

/// Removes the clear link when the start fails before the data plane owns it.
struct RemoveLink(Option<ClearLink>);

impl RemoveLink {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for RemoveLink {
    fn drop(&mut self) {
        if let Some(link) = self.0.take() {
            link.remove();
        }
    }
}
