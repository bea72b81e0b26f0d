//! The SAs of one worker, and which worker owns each SPI.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use gateway_common::abi::flow::{halves, pair};
use gateway_common::abi::limit;
use gateway_common::abi::sa::SaInbound;
use gateway_common::drop::DropReason;
use gateway_esp::tunnel::{IPV4_HEADER_LEN, IPV6_HEADER_LEN, LINK_HEADER_LEN, UDP_HEADER_LEN};
use gateway_esp::{ConfigError, ESP_HEADER_LEN, InboundSa, OutboundSa, Span, Suite, Tunnel};

use super::commands::{Install, Order};
use super::handover::Side;
use crate::dataplane::sa::{SaCounters, SaHandle, split_index};
use crate::dataplane::shared::{fetch, fetch_span};

/// SAs that a core's own cache holds.
const FEW: usize = 128;

/// The sending half.
pub(crate) struct Outbound {
    pub(crate) sa: OutboundSa,
    /// Port of the interface towards the peer.
    pub(crate) port: usize,
    /// Where the inner packet begins in the sealed frame, so that the frame begins at 0.
    pub(crate) headroom: usize,
    /// The controller was told that sequence numbers run out.
    pub(crate) near_reported: bool,
}

/// One SA pair. Keys are in `inbound` and `outbound` alone and are zeroed when those are dropped.
pub(crate) struct Entry {
    pub(crate) handle: SaHandle,
    pub(crate) site: u32,
    pub(crate) inbound: Option<InboundSa>,
    pub(crate) outbound: Option<Outbound>,
    pub(crate) counters: Arc<SaCounters>,
    /// The controller was told that an authentic packet has arrived.
    pub(crate) heard: bool,
    /// Where packets to the peer go, or where the controller was told that it is by now; the port if encapsulated.
    pub(crate) peer: (IpAddr, u16),
    /// When the controller was last told so.
    pub(crate) moved_s: Option<u64>,
}

/// All SAs of a worker.
pub(crate) struct SaTable {
    slots: Vec<Option<Box<Entry>>>,
    /// SPI and index of each SA, at the place that the SPI says ([`SaInbound::place`]); SPI 0 where none is. Pages that no SPI
    /// has been written to take no memory.
    by_place: Vec<u64>,
}

impl Default for SaTable {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            by_place: vec![0; limit::SA_PLACES as usize],
        }
    }
}

impl SaTable {
    /// The index of the SA with this SPI, whichever worker owns it.
    #[inline(always)]
    pub(crate) fn route(&self, spi: u32) -> Option<u32> {
        let (found, sa_index) = halves(*self.by_place.get(place(spi))?);
        (found == spi && spi != 0).then_some(sa_index)
    }

    fn write_route(&mut self, spi: u32, route: u64) {
        if let Some(place) = self.by_place.get_mut(place(spi)) {
            *place = route;
        }
    }

    /// The SA in a slot.
    pub(crate) fn entry(&mut self, slot: u32) -> Option<&mut Entry> {
        self.slots.get_mut(slot as usize)?.as_deref_mut()
    }

    /// The same to look at.
    pub(crate) fn get(&self, slot: u32) -> Option<&Entry> {
        self.slots.get(slot as usize)?.as_deref()
    }

    /// Whether SAs are so many that their memory is worth fetching ahead.
    pub(crate) fn is_large(&self) -> bool {
        self.slots.len() > FEW
    }

    /// Has the SA's place in this table on its way.
    #[inline(always)]
    pub(crate) fn fetch_place(&self, slot: u32) {
        self.slots.get(slot as usize).into_iter().for_each(fetch);
    }

    /// Has the SA itself on its way, whose place has come.
    #[inline(always)]
    pub(crate) fn fetch_entry(&self, slot: u32, side: Side) {
        let Some(entry) = self.get(slot) else { return };
        let half = match side {
            Side::Wan => Span::of(&entry.inbound),
            Side::Core => Span::of(&entry.outbound),
        };
        let both = [
            Span::of(&entry.site),
            Span::of(&entry.counters),
            Span::of(&entry.peer),
        ];
        fetch_span(half);
        both.into_iter().for_each(fetch_span);
    }

    /// Has what lies behind it on its way: keys, window, selectors, counters.
    #[inline(always)]
    pub(crate) fn fetch_behind(&self, slot: u32, side: Side) {
        let Some(entry) = self.get(slot) else { return };
        match (side, &entry.inbound, &entry.outbound) {
            (Side::Wan, Some(sa), _) => sa.ahead().into_iter().for_each(fetch_span),
            (Side::Core, _, Some(outbound)) => outbound.sa.ahead().into_iter().for_each(fetch_span),
            (Side::Wan, None, _) | (Side::Core, _, None) => return,
        }
        fetch_span(Span::of(&*entry.counters));
    }

    /// Carries out an order.
    pub(crate) fn apply(&mut self, order: Order) -> Result<(), ConfigError> {
        match order {
            Order::Install(install) => self.install(*install),
            Order::Route { spi, sa_index } => {
                self.write_route(spi, pair(spi, sa_index));
            }
            Order::Unroute { spi, sa_index } => {
                self.unroute(spi, sa_index);
            }
            Order::UpdatePath { slot, tunnel, port } => return self.update_path(slot, &tunnel, port),
            Order::Remove {
                slot,
                inbound,
                outbound,
            } => self.remove(slot, inbound, outbound),
        }
        Ok(())
    }

    fn unroute(&mut self, spi: u32, sa_index: u32) {
        if self.route(spi) == Some(sa_index) {
            self.write_route(spi, 0);
        }
    }

    fn install(&mut self, install: Install) {
        let slot = install.handle.slot as usize;
        let (spi, sa_index) = (install.inbound.spi(), install.handle.index());
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        let headroom = headroom(&install.tunnel, install.outbound.suite());
        let entry = Entry {
            handle: install.handle,
            site: install.site,
            inbound: Some(install.inbound),
            outbound: Some(Outbound {
                sa: install.outbound,
                port: install.port,
                headroom,
                near_reported: false,
            }),
            counters: install.counters,
            heard: false,
            peer: peer(&install.tunnel),
            moved_s: None,
        };
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(Box::new(entry));
            self.write_route(spi, pair(spi, sa_index));
        }
    }

    fn update_path(&mut self, slot: u32, tunnel: &Tunnel, port: usize) -> Result<(), ConfigError> {
        let Some(entry) = self.entry(slot) else {
            return Ok(());
        };
        if let Some(outbound) = &mut entry.outbound {
            outbound.sa.set_tunnel(tunnel)?;
            outbound.headroom = headroom(tunnel, outbound.sa.suite());
            outbound.port = port;
        }
        entry.peer = peer(tunnel);
        Ok(())
    }

    fn remove(&mut self, slot: u32, inbound: bool, outbound: bool) {
        let Some(place) = self.slots.get_mut(slot as usize) else {
            return;
        };
        let Some(entry) = place else { return };
        let gone = entry.inbound.take_if(|_| inbound);
        let gone = gone.map(|sa| (sa.spi(), entry.handle.index()));
        if outbound {
            entry.outbound = None;
        }
        if entry.inbound.is_none() && entry.outbound.is_none() {
            *place = None;
        }
        if let Some((spi, sa_index)) = gone {
            self.unroute(spi, sa_index);
        }
    }
}

impl Entry {
    /// Whether ESP goes in UDP (RFC 3948), both ways.
    pub(crate) fn is_encapsulated(&self) -> bool {
        let (_, port) = self.peer;
        port != 0
    }

    /// Highest authentic sequence number.
    pub(crate) fn highest_sequence(&self) -> u64 {
        self.inbound.as_ref().map_or(0, InboundSa::highest_sequence)
    }

    /// Keeps the counters that a refusal belongs to.
    pub(crate) fn count_refusal(&self, reason: DropReason) {
        let counter = match reason {
            DropReason::EspReplay => &self.counters.replayed,
            DropReason::EspAuthentication => &self.counters.unauthentic,
            _ => &self.counters.refused,
        };
        crate::dataplane::sa::add(counter, 1);
    }

    /// Publishes what the receiving half counts.
    pub(crate) fn publish_inbound(&self, now_s: u64) {
        let Some(sa) = &self.inbound else { return };
        let carried = sa.counters();
        self.counters.packets_in.store(carried.packets, Relaxed);
        self.counters.bytes_in.store(carried.bytes, Relaxed);
        self.counters.highest_in.store(sa.highest_sequence(), Relaxed);
        self.counters.last_in_s.store(now_s, Relaxed);
    }

    /// Publishes what the sending half counts.
    pub(crate) fn publish_outbound(&self, now_s: u64) {
        let Some(outbound) = &self.outbound else { return };
        let carried = outbound.sa.counters();
        self.counters.packets_out.store(carried.packets, Relaxed);
        self.counters.bytes_out.store(carried.bytes, Relaxed);
        let left = outbound.sa.sequence_remaining();
        self.counters.sequence_left.store(left, Relaxed);
        self.counters.last_out_s.store(now_s, Relaxed);
    }
}

fn place(spi: u32) -> usize {
    SaInbound::place(spi.to_be_bytes()) as usize
}

/// Whether this worker owns the SA with this index, and its slot.
pub(crate) fn owner(index: u32) -> (u32, u32) {
    split_index(index)
}

/// Octets of link, outer IP, UDP and ESP header with IV in front of the inner packet.
fn headroom(tunnel: &Tunnel, suite: Suite) -> usize {
    let ip = if tunnel.remote.is_ipv4() {
        IPV4_HEADER_LEN
    } else {
        IPV6_HEADER_LEN
    };
    let udp = tunnel.udp.map_or(0, |_| UDP_HEADER_LEN);
    LINK_HEADER_LEN + ip + udp + ESP_HEADER_LEN + suite.iv_len()
}

fn peer(tunnel: &Tunnel) -> (IpAddr, u16) {
    (tunnel.remote, tunnel.udp.map_or(0, |udp| udp.remote_port))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPI: u32 = 0xc001_0007;
    /// At the same place.
    const OTHER: u32 = SPI ^ limit::SA_PLACES;

    #[test]
    fn an_spi_leads_to_its_own_sa_alone() {
        let mut table = SaTable::default();
        assert_eq!((table.route(SPI), table.route(0)), (None, None));
        table
            .apply(Order::Route {
                spi: SPI,
                sa_index: 9,
            })
            .expect("a route");
        assert_eq!((table.route(SPI), table.route(OTHER)), (Some(9), None));
        for (spi, sa_index) in [(SPI, 8), (OTHER, 9)] {
            table.apply(Order::Unroute { spi, sa_index }).expect("nothing");
            assert_eq!(
                table.route(SPI),
                Some(9),
                "neither another SA's nor another SPI's"
            );
        }
        table
            .apply(Order::Unroute {
                spi: SPI,
                sa_index: 9,
            })
            .expect("a route");
        assert_eq!(table.route(SPI), None);
    }
}
