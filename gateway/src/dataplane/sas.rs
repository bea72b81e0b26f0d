//! Installing, changing and removing SAs: the order of steps between workers and maps.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use gateway_common::abi::limit;
use gateway_common::abi::sa::{SaInbound, SaOutbound, SaPath, SaPathKey, encapsulation};
use gateway_esp::{
    ConfigError, InboundConfig, InboundSa, OutboundConfig, OutboundSa, OuterDf, Selectors, TrafficSelector,
    Tunnel,
};
use gateway_ike::prefixes;

use super::Dataplane;
use super::error::DataplaneError;
use super::routes::{NETWORKS_MAX, Network, Routes, shares};
use super::sa::{Direction, SaCounters, SaHandle, SaInstall, SaStats, split_index};
use super::worker::commands::{Command, Install, Order};

/// How long a worker may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Slots of one worker: the number must fit an SA index.
const SLOTS_MAX: usize = 1 << 20;

/// The controller's half of what workers know, without keys.
pub(crate) struct Sas {
    /// WAN interfaces and their ports.
    wan_ports: Vec<(String, usize)>,
    /// Slots of each worker that owns SAs.
    workers: Vec<Vec<Slot>>,
    /// Slots of each of them without a record.
    free: Vec<Vec<u32>>,
    /// Places of inbound SAs in use.
    places: HashSet<u32>,
    routes: Routes,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    record: Option<Record>,
}

struct Record {
    site: u32,
    spi_in: u32,
    /// The site's networks, as keys of the outbound look-up.
    networks: Vec<([u8; 4], u8)>,
    inner_mtu: u16,
    /// What ICMP errors about its packets quote.
    path: SaPathKey,
    suite: gateway_esp::Suite,
    inbound: bool,
    outbound: bool,
    counters: Arc<SaCounters>,
}

impl Sas {
    pub(crate) fn new(wan_ports: Vec<(String, usize)>, owners: u32) -> Self {
        Self {
            wan_ports,
            workers: (0..owners).map(|_| Vec::new()).collect(),
            free: (0..owners).map(|_| Vec::new()).collect(),
            places: HashSet::new(),
            routes: Routes::default(),
        }
    }

    fn port(&self, interface: &str) -> Result<usize, DataplaneError> {
        let found = self.wan_ports.iter().find(|(name, _)| name == interface);
        found
            .map(|(_, port)| *port)
            .ok_or_else(|| DataplaneError::NotWan(interface.to_owned()))
    }

    /// A free slot at the worker with fewest SAs; at one that has none of those `beside` it, if there is any.
    fn allocate(&mut self, beside: &[SaHandle]) -> Result<SaHandle, DataplaneError> {
        let used = |(slots, free): (&Vec<Slot>, &Vec<u32>)| slots.len() - free.len();
        let installed: usize = self.workers.iter().zip(&self.free).map(used).sum();
        let full = DataplaneError::SasFull(installed);
        let (worker, (slots, free)) = (0..)
            .zip(self.workers.iter_mut().zip(&mut self.free))
            .min_by_key(|(worker, (slots, free))| {
                let of_worker = beside.iter().filter(|other| other.worker == *worker);
                (of_worker.count(), used((slots, free)))
            })
            .ok_or(full)?;
        let slot = match free.pop() {
            Some(slot) => slot,
            None if slots.len() >= SLOTS_MAX => return Err(DataplaneError::SasFull(installed)),
            None => {
                slots.push(Slot::default());
                slots.len() as u32 - 1
            }
        };
        let generation = slots.get_mut(slot as usize).map_or(0, |place| {
            place.generation = place.generation.wrapping_add(1);
            place.generation
        });
        Ok(SaHandle {
            worker,
            slot,
            generation,
        })
    }

    /// Fills the slot of a handle that was allocated just now.
    fn occupy(&mut self, handle: SaHandle, record: Record) {
        self.places.insert(place(record.spi_in));
        if let Some(slot) = self.slot(handle) {
            slot.record = Some(record);
        }
    }

    /// The slot of a handle is free again.
    fn vacate(&mut self, handle: SaHandle) {
        let Some(slot) = self.slot(handle) else { return };
        if slot.record.take().is_none() {
            return;
        }
        if let Some(free) = self.free.get_mut(handle.worker as usize) {
            free.push(handle.slot);
        }
    }

    fn slot(&mut self, handle: SaHandle) -> Option<&mut Slot> {
        let slot = self
            .workers
            .get_mut(handle.worker as usize)?
            .get_mut(handle.slot as usize)?;
        (slot.generation == handle.generation).then_some(slot)
    }

    fn record(&mut self, handle: SaHandle) -> Result<&mut Record, DataplaneError> {
        self.slot(handle)
            .and_then(|slot| slot.record.as_mut())
            .ok_or(DataplaneError::StaleHandle)
    }

    fn networks(&mut self, handle: SaHandle) -> Result<Vec<Network>, DataplaneError> {
        let record = self.record(handle)?;
        Ok(of_site(record.site, &record.networks))
    }

    /// No site has more networks than it may.
    fn check_networks(&self, site: u32, networks: &[Network]) -> Result<(), DataplaneError> {
        let (have, max) = (self.routes.networks_with(site, networks), NETWORKS_MAX);
        if have > max {
            return Err(DataplaneError::Networks { site, have, max });
        }
        Ok(())
    }

    /// An inbound SA needs a place of its own.
    fn check_spi(&self, spi: u32) -> Result<(), DataplaneError> {
        if self.places.len() >= limit::SAS_MAX as usize {
            return Err(DataplaneError::SasFull(self.places.len()));
        }
        if self.places.contains(&place(spi)) {
            return Err(DataplaneError::SpiTaken(spi));
        }
        Ok(())
    }
}

impl Dataplane {
    /// Puts an SA pair to work. On return the inbound half receives; the outbound half sends if `outbound_active`,
    /// in place of the SAs that served the site's networks before, except those `beside` it.
    ///
    /// # Errors
    /// Nothing is installed then.
    pub fn install_sa(&self, sa: SaInstall) -> Result<SaHandle, DataplaneError> {
        let mut sas = self.sas();
        let port = sas.port(&sa.interface)?;
        sas.check_spi(sa.spi_in)?;
        let tunnel = tunnel(&sa);
        let networks = networks(&sa.ts_remote);
        sas.check_networks(sa.site, &of_site(sa.site, &networks))?;
        let (site, spi_in, suite, active) = (sa.site, sa.spi_in, sa.suite, sa.outbound_active);
        let path = path_key(sa.spi_out, &tunnel);
        let kernel = inbound_value(spi_in, site, &tunnel);
        let beside = sa.beside.clone();
        let (inbound, outbound) = halves(sa, tunnel)?;
        let counters: Arc<SaCounters> = Arc::default();
        counters
            .sequence_left
            .store(outbound.sequence_remaining(), Relaxed);
        let record = Record {
            site,
            spi_in,
            networks,
            inner_mtu: outbound.inner_mtu(),
            path,
            suite,
            inbound: true,
            outbound: true,
            counters: Arc::clone(&counters),
        };
        let handle = sas.allocate(&beside)?;
        sas.occupy(handle, record);
        let install = Install {
            handle,
            site,
            inbound,
            outbound,
            port,
            tunnel,
            counters,
        };
        let installed = self
            .order(handle.worker, Order::Install(Box::new(install)))
            .and_then(|()| self.route(handle, spi_in))
            .and_then(|()| self.admit(handle, kernel))
            .and_then(|()| self.maps().set_path(&path, &path_of(handle, site, &tunnel)))
            .and_then(|()| {
                if active {
                    self.activate(&mut sas, handle, &beside)
                } else {
                    Ok(())
                }
            });
        if let Err(error) = installed {
            // The first error is the one to tell.
            let _ = self.remove(&mut sas, handle, true, true);
            return Err(error);
        }
        Ok(handle)
    }

    /// From now on packets to the site's networks take this SA, or one of those `beside` it that have been taken until
    /// now: a worker takes its own.
    ///
    /// # Errors
    /// [`DataplaneError::StaleHandle`], or the map is full.
    pub fn activate_outbound(&self, handle: SaHandle, beside: &[SaHandle]) -> Result<(), DataplaneError> {
        self.activate(&mut self.sas(), handle, beside)
    }

    /// Removes one direction or both; the keys are zeroed on return. The slot is free when both are gone.
    ///
    /// # Errors
    /// [`DataplaneError::StaleHandle`]; a worker does not answer, and may have the keys still; or a map refuses. All else is
    /// removed then, and the slot stays taken, for packets that may be led there. It may be tried again.
    pub fn remove_sa(&self, handle: SaHandle, direction: Direction) -> Result<(), DataplaneError> {
        let (inbound, outbound) = match direction {
            Direction::Inbound => (true, false),
            Direction::Outbound => (false, true),
            Direction::Both => (true, true),
        };
        self.remove(&mut self.sas(), handle, inbound, outbound)
    }

    /// Sends through another path: the peer moved, or its next hop or path MTU changed.
    ///
    /// # Errors
    /// A worker does not answer, and nothing has changed; or a map refuses: part of it has, and the same call makes it whole.
    pub fn update_path(
        &self,
        handle: SaHandle,
        interface: &str,
        tunnel: Tunnel,
    ) -> Result<(), DataplaneError> {
        let mut sas = self.sas();
        let port = sas.port(interface)?;
        sas.record(handle)?;
        let order = Order::UpdatePath {
            slot: handle.slot,
            tunnel,
            port,
        };
        self.order(handle.worker, order)?;
        let record = sas.record(handle)?;
        let inner_mtu = gateway_esp::mtu::inner_mtu(
            tunnel.mtu,
            record.suite,
            tunnel.remote.is_ipv6(),
            tunnel.udp.is_some(),
        );
        let before = std::mem::replace(&mut record.inner_mtu, inner_mtu);
        let fits_other = before != inner_mtu;
        let told = self.tell_path(&mut sas, handle, &tunnel, fits_other);
        if told.is_err() {
            // Whoever tries again finds that routes are to be written still.
            sas.record(handle)?.inner_mtu = before;
        }
        told
    }

    /// Tells the packet path what a worker knows already; routes, if what fits through the tunnel is another.
    fn tell_path(
        &self,
        sas: &mut Sas,
        handle: SaHandle,
        tunnel: &Tunnel,
        fits_other: bool,
    ) -> Result<(), DataplaneError> {
        let record = sas.record(handle)?;
        if record.outbound {
            let key = path_key(u32::from_be_bytes(record.path.spi), tunnel);
            let before = record.path;
            let mut maps = self.maps();
            // An SA more than there may be: there is room for it beside its old path.
            maps.set_path(&key, &path_of(handle, record.site, tunnel))?;
            if before != key {
                maps.remove_path(&before, handle.index())?;
            }
            record.path = key;
        }
        if record.inbound {
            let value = inbound_value(record.spi_in, record.site, tunnel);
            self.admit(handle, value)?;
        }
        // A peer that moves each second does not have all of its routes written anew for that.
        let networks = if fits_other {
            sas.networks(handle)?
        } else {
            Vec::new()
        };
        for network in networks {
            if sas.routes.to(network).contains(&handle) {
                self.write_route(sas, network)?;
            }
        }
        Ok(())
    }

    /// The SA that an event about a path means: its index and the SPI that we send with.
    #[must_use]
    pub fn sa_of_path(&self, sa_index: u32, spi: [u8; 4]) -> Option<SaHandle> {
        let (worker, slot) = split_index(sa_index);
        let sas = self.sas();
        let place = sas.workers.get(worker as usize)?.get(slot as usize)?;
        let record = place.record.as_ref()?;
        (record.outbound && record.path.spi == spi).then_some(SaHandle {
            worker,
            slot,
            generation: place.generation,
        })
    }

    /// Counters of one SA; `None` if it is not installed (any more).
    #[must_use]
    pub fn sa_stats(&self, handle: SaHandle) -> Option<SaStats> {
        let mut sas = self.sas();
        let record = sas.record(handle).ok()?;
        Some(record.counters.snapshot())
    }

    /// Counters of every SA.
    #[must_use]
    pub fn sa_counters(&self) -> Vec<(SaHandle, SaStats)> {
        let sas = self.sas();
        let mut counters = Vec::new();
        for (worker, slots) in (0..).zip(&sas.workers) {
            for (number, slot) in (0..).zip(slots) {
                let Some(record) = &slot.record else { continue };
                let handle = SaHandle {
                    worker,
                    slot: number,
                    generation: slot.generation,
                };
                counters.push((handle, record.counters.snapshot()));
            }
        }
        counters
    }

    fn activate(&self, sas: &mut Sas, handle: SaHandle, beside: &[SaHandle]) -> Result<(), DataplaneError> {
        let (site, networks) = (sas.record(handle)?.site, sas.networks(handle)?);
        sas.check_networks(site, &networks)?;
        let mut before = Vec::new();
        for network in networks {
            before.push((network, sas.routes.to(network).to_vec()));
            sas.routes.activate(network, handle, beside);
            if let Err(error) = self.write_route(sas, network) {
                self.restore(sas, before);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Has ways lead where they did. One that cannot be written any more leads nowhere.
    fn restore(&self, sas: &mut Sas, before: Vec<(Network, Vec<SaHandle>)>) {
        for (network, way) in before {
            sas.routes.restore(network, way);
            if self.write_route(sas, network).is_err() {
                // The first error is the one to tell.
                let _ = self.maps().remove_outbound(network);
            }
        }
    }

    /// Tells the programs which SAs are the way to a network.
    fn write_route(&self, sas: &mut Sas, network: Network) -> Result<(), DataplaneError> {
        let way = sas.routes.to(network).to_vec();
        let Some(first) = way.first() else {
            return self.maps().remove_outbound(network);
        };
        let mut mtu = u32::MAX;
        for sa in &way {
            mtu = mtu.min(sas.record(*sa)?.inner_mtu.into());
        }
        let sa = SaOutbound {
            sa_index: first.index(),
            shares: 0,
            mtu,
        };
        self.maps().set_outbound(network, sa, shares(&way))
    }

    /// Tells every other worker whose SPI it is. The owner knows the SA already.
    fn route(&self, handle: SaHandle, spi: u32) -> Result<(), DataplaneError> {
        let sa_index = handle.index();
        self.order_others(handle.worker, || Order::Route { spi, sa_index })
    }

    /// Lets the `wan` program pass the SPI.
    fn admit(&self, handle: SaHandle, value: SaInbound) -> Result<(), DataplaneError> {
        let sa_index = handle.index();
        self.maps().set_inbound(SaInbound { sa_index, ..value })
    }

    fn remove(
        &self,
        sas: &mut Sas,
        handle: SaHandle,
        inbound: bool,
        outbound: bool,
    ) -> Result<(), DataplaneError> {
        let record = sas.record(handle)?;
        let (inbound, outbound) = (inbound && record.inbound, outbound && record.outbound);
        let spi = record.spi_in;
        // What fails keeps nothing else from going: least of all the keys, and with them the peer. First nothing is sent any more
        // that the peer could answer.
        let sends = if outbound {
            self.leave_ways(sas, handle)
        } else {
            Ok(())
        };
        let receives = if inbound {
            self.turn_away(handle, spi)
        } else {
            Ok(())
        };
        let order = Order::Remove {
            slot: handle.slot,
            inbound,
            outbound,
        };
        self.order(handle.worker, order)?;
        // The slot of an SA that something still leads to is not another's.
        let record = sas.record(handle)?;
        record.inbound &= !inbound || receives.is_err();
        record.outbound &= !outbound || sends.is_err();
        let gone = !record.inbound && !record.outbound;
        if inbound && receives.is_ok() {
            sas.places.remove(&place(spi));
        }
        if gone {
            sas.vacate(handle);
        }
        receives.and(sends)
    }

    /// No packet to the site takes this SA any more. The first error is the one to tell.
    fn leave_ways(&self, sas: &mut Sas, handle: SaHandle) -> Result<(), DataplaneError> {
        let path = sas.record(handle)?.path;
        let mut outcome = self.maps().remove_path(&path, handle.index());
        for network in sas.networks(handle)? {
            let before = sas.routes.to(network).to_vec();
            if !sas.routes.leave(network, handle) {
                continue;
            }
            let written = self.write_route(sas, network);
            if written.is_err() {
                // The map leads here still.
                sas.routes.restore(network, before);
            }
            outcome = outcome.and(written);
        }
        outcome
    }

    /// `wan` passes the SPI no more, and no other worker knows whose it was.
    fn turn_away(&self, handle: SaHandle, spi: u32) -> Result<(), DataplaneError> {
        let closed = self.maps().clear_inbound(spi);
        let sa_index = handle.index();
        closed.and(self.order_others(handle.worker, || Order::Unroute { spi, sa_index }))
    }

    /// One that does not answer keeps none of the others from being asked.
    fn order_others(&self, owner: u32, order: impl Fn() -> Order) -> Result<(), DataplaneError> {
        let workers = (0..self.inboxes.len() as u32).filter(|worker| *worker != owner);
        let sent: Vec<_> = workers
            .map(|worker| (worker, self.send(worker, order())))
            .collect();
        let mut outcome = Ok(());
        for (worker, answer) in sent {
            outcome = outcome.and(answer.and_then(|answer| await_answer(worker, &answer)));
        }
        outcome
    }

    fn order(&self, worker: u32, order: Order) -> Result<(), DataplaneError> {
        await_answer(worker, &self.send(worker, order)?)
    }

    fn send(&self, worker: u32, order: Order) -> Result<Receiver<Result<(), ConfigError>>, DataplaneError> {
        let inbox = self
            .inboxes
            .get(worker as usize)
            .ok_or(DataplaneError::Worker(worker))?;
        let (done, answer) = sync_channel(1);
        // Orders are given one after another, so the queue is never full while the worker lives.
        let pushed = inbox.commands.push(Command { order, done });
        pushed.map_err(|_| DataplaneError::Worker(worker))?;
        inbox.wake();
        Ok(answer)
    }

    fn sas(&self) -> MutexGuard<'_, Sas> {
        self.sas.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn await_answer(worker: u32, answer: &Receiver<Result<(), ConfigError>>) -> Result<(), DataplaneError> {
    match answer.recv_timeout(ANSWER_MAX) {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(DataplaneError::Worker(worker)),
    }
}

fn tunnel(sa: &SaInstall) -> Tunnel {
    Tunnel {
        local: sa.local,
        remote: sa.remote,
        udp: sa.udp_encap,
        link: sa.link,
        mtu: sa.path_mtu,
        df: OuterDf::default(),
    }
}

/// The site's networks as keys; selectors that share addresses and differ in ports share keys.
fn networks(selectors: &[TrafficSelector]) -> Vec<([u8; 4], u8)> {
    let mut networks: Vec<_> = selectors
        .iter()
        .flat_map(|selector| prefixes(selector.first, selector.last))
        .collect();
    networks.sort_unstable();
    networks.dedup();
    networks
}

fn of_site(site: u32, networks: &[([u8; 4], u8)]) -> Vec<Network> {
    networks.iter().map(|network| (site, *network)).collect()
}

/// Both halves, with the keys moved into them.
fn halves(sa: SaInstall, tunnel: Tunnel) -> Result<(InboundSa, OutboundSa), DataplaneError> {
    let selectors = Selectors::new(sa.ts_local, sa.ts_remote);
    let mut iv_key = [0; 16];
    getrandom::fill(&mut iv_key).map_err(|error| DataplaneError::Call {
        what: "read random octets",
        source: std::io::Error::other(error.to_string()),
    })?;
    let inbound = InboundSa::new(InboundConfig {
        spi: sa.spi_in,
        suite: sa.suite,
        keys: sa.keys_in,
        esn: sa.esn,
        replay_window: sa.replay_window,
        selectors: selectors.clone(),
    })?;
    let outbound = OutboundSa::new(OutboundConfig {
        spi: sa.spi_out,
        suite: sa.suite,
        keys: sa.keys_out,
        esn: sa.esn,
        first_sequence: 1,
        iv_key: gateway_esp::IvKey::new(iv_key),
        selectors,
        tunnel,
    })?;
    Ok((inbound, outbound))
}

fn place(spi: u32) -> u32 {
    SaInbound::place(spi.to_be_bytes())
}

/// What `wan` is to know of an SA whose handle is not known yet.
fn inbound_value(spi: u32, site: u32, tunnel: &Tunnel) -> SaInbound {
    let (outer_destination, family) = octets(tunnel.local);
    SaInbound {
        spi: spi.to_be_bytes(),
        sa_index: 0,
        site,
        family,
        encapsulation: tunnel.udp.map_or(encapsulation::PLAIN, |_| encapsulation::UDP),
        pad: [0; 2],
        outer_destination,
    }
}

/// An address of either family, and which one; IPv4 in the first four bytes.
fn octets(address: IpAddr) -> ([u8; 16], u8) {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            ([a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 4)
        }
        IpAddr::V6(address) => (address.octets(), 6),
    }
}

fn path_key(spi_out: u32, tunnel: &Tunnel) -> SaPathKey {
    let ports = tunnel.udp.map_or([0; 4], |udp| {
        let ([l0, l1], [r0, r1]) = (udp.local_port.to_be_bytes(), udp.remote_port.to_be_bytes());
        [l0, l1, r0, r1]
    });
    SaPathKey {
        remote: octets(tunnel.remote).0,
        spi: spi_out.to_be_bytes(),
        ports,
    }
}

fn path_of(handle: SaHandle, site: u32, tunnel: &Tunnel) -> SaPath {
    let (local, family) = octets(tunnel.local);
    SaPath {
        local,
        sa_index: handle.index(),
        site,
        mtu: tunnel.mtu.into(),
        family,
        pad: [0; 3],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(spi_in: u32) -> Record {
        Record {
            site: 1,
            spi_in,
            networks: Vec::new(),
            inner_mtu: 1400,
            path: SaPathKey {
                remote: [0; 16],
                spi: [0; 4],
                ports: [0; 4],
            },
            suite: gateway_esp::Suite::AesGcm16_256,
            inbound: true,
            outbound: true,
            counters: Arc::default(),
        }
    }

    #[test]
    fn slots_are_shared_out_evenly_and_a_reused_one_has_a_new_handle() {
        let mut sas = Sas::new(Vec::new(), 2);
        let install = |sas: &mut Sas, spi| {
            let handle = sas.allocate(&[]).expect("room");
            sas.occupy(handle, record(spi));
            handle
        };
        let handles: Vec<_> = (0..20_000).map(|spi| install(&mut sas, spi)).collect();
        let of_first = handles.iter().filter(|handle| handle.worker == 0).count();
        assert_eq!(of_first, 10_000);
        assert!(sas.check_spi(20_000).is_ok());
        let taken = [19_999, (7 << limit::SA_INDEX_BITS) + 19_999];
        let is_refused = |spi| matches!(sas.check_spi(spi), Err(DataplaneError::SpiTaken(_)));
        assert!(taken.into_iter().all(is_refused), "also by another's place");
        let old = handles[5];
        sas.vacate(old);
        sas.vacate(old);
        let new = install(&mut sas, 20_000);
        assert_eq!(
            (new.worker, new.slot),
            (old.worker, old.slot),
            "the only free slot"
        );
        assert!(sas.record(old).is_err(), "the old handle names nothing");
        assert_eq!(sas.record(new).expect("installed").spi_in, 20_000);
        let next = install(&mut sas, 20_001);
        assert_ne!(
            (next.worker, next.slot),
            (new.worker, new.slot),
            "a slot is free once"
        );
    }

    #[test]
    fn no_more_sas_are_taken_than_there_are_numbers_for() {
        let mut sas = Sas::new(Vec::new(), 1);
        sas.places.extend(0..limit::SAS_MAX - 1);
        assert!(sas.check_spi(limit::SAS_MAX).is_ok());
        sas.places.insert(limit::SAS_MAX - 1);
        let full = sas.check_spi(limit::SAS_MAX);
        assert!(matches!(full, Err(DataplaneError::SasFull(_))), "{full:?}");
    }
}
