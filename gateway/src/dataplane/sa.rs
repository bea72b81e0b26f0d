//! SAs as the controller installs and watches them.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use gateway_esp::{KeyMaterial, LinkHeader, Suite, TrafficSelector};

/// Bits of an SA index that number the SA within its worker; the bits above name the worker.
const SLOT_BITS: u32 = 24;

/// The index of an SA as the maps and link headers carry it: worker and slot in one number.
pub(crate) const fn sa_index(worker: u32, slot: u32) -> u32 {
    worker << SLOT_BITS | slot
}

/// Worker and slot of an SA index.
pub(crate) const fn split_index(index: u32) -> (u32, u32) {
    (index >> SLOT_BITS, index & ((1 << SLOT_BITS) - 1))
}

/// Names an installed SA pair. A slot that is used again has another generation, so that an old handle finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SaHandle {
    /// The worker that owns it.
    pub worker: u32,
    /// Its place at that worker.
    pub slot: u32,
    /// How often the place was used.
    pub generation: u32,
}

impl SaHandle {
    pub(crate) const fn index(self) -> u32 {
        sa_index(self.worker, self.slot)
    }
}

/// Which half of an SA pair, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the peer.
    Inbound,
    /// To the peer.
    Outbound,
    /// The pair.
    Both,
}

/// UDP ports of an encapsulated SA (RFC 3948).
pub use gateway_esp::UdpEncap;

/// A Child SA, both directions, ready to be put to work.
#[derive(Debug)]
pub struct SaInstall {
    /// Site; from 1.
    pub site: u32,
    /// The SPI that this gateway chose.
    pub spi_in: u32,
    /// The SPI that the peer chose.
    pub spi_out: u32,
    /// Algorithms of both directions.
    pub suite: Suite,
    /// The peer's sending keys.
    pub keys_in: KeyMaterial,
    /// This gateway's sending keys.
    pub keys_out: KeyMaterial,
    /// 64-bit sequence numbers.
    pub esn: bool,
    /// Packets in the replay window.
    pub replay_window: u32,
    /// ESP in UDP and its ports; `None` for plain ESP.
    pub udp_encap: Option<UdpEncap>,
    /// Our outer address.
    pub local: IpAddr,
    /// The peer's outer address.
    pub remote: IpAddr,
    /// Name of the WAN interface towards the peer.
    pub interface: String,
    /// Ethernet addresses towards the peer.
    pub link: LinkHeader,
    /// Traffic selectors of our side (the center's networks).
    pub ts_local: Vec<TrafficSelector>,
    /// Traffic selectors of the peer's side (the site's networks).
    pub ts_remote: Vec<TrafficSelector>,
    /// Whether packets to the site take this SA at once; else [`super::Dataplane::activate_outbound`] says when.
    pub outbound_active: bool,
    /// SAs with the same traffic, each for one worker (RFC 9611), that are sent on as well then.
    pub beside: Vec<SaHandle>,
    /// Path MTU in octets, outer IP header included.
    pub path_mtu: u16,
}

/// Live counters of an SA pair. The owning worker writes, anybody reads.
#[derive(Debug, Default)]
pub(crate) struct SaCounters {
    pub(crate) packets_in: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) last_in_s: AtomicU64,
    pub(crate) highest_in: AtomicU64,
    pub(crate) replayed: AtomicU64,
    pub(crate) unauthentic: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) packets_out: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    pub(crate) last_out_s: AtomicU64,
    pub(crate) sequence_left: AtomicU64,
}

/// Counters of an SA pair at one moment. Octets are those of inner packets; times are monotonic seconds, 0 for never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SaStats {
    /// Packets received, authentic and passed on.
    pub packets_in: u64,
    /// Their octets.
    pub bytes_in: u64,
    /// When the last authentic packet came.
    pub last_in_s: u64,
    /// Highest authentic sequence number.
    pub highest_in: u64,
    /// Packets refused by the replay window.
    pub replayed: u64,
    /// Packets whose ICV is wrong.
    pub unauthentic: u64,
    /// Packets refused for another reason.
    pub refused: u64,
    /// Packets sent.
    pub packets_out: u64,
    /// Their octets.
    pub bytes_out: u64,
    /// When the last one was sent.
    pub last_out_s: u64,
    /// Sequence numbers left to send with.
    pub sequence_left: u64,
}

impl SaCounters {
    pub(crate) fn snapshot(&self) -> SaStats {
        SaStats {
            packets_in: self.packets_in.load(Relaxed),
            bytes_in: self.bytes_in.load(Relaxed),
            last_in_s: self.last_in_s.load(Relaxed),
            highest_in: self.highest_in.load(Relaxed),
            replayed: self.replayed.load(Relaxed),
            unauthentic: self.unauthentic.load(Relaxed),
            refused: self.refused.load(Relaxed),
            packets_out: self.packets_out.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            last_out_s: self.last_out_s.load(Relaxed),
            sequence_left: self.sequence_left.load(Relaxed),
        }
    }
}

/// Adds to a counter that one thread alone writes: a plain load and store, no locked instruction.
pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(amount), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_names_worker_and_slot() {
        for (worker, slot) in [(0, 0), (1, 0), (63, 131_071), (0, (1 << 24) - 1)] {
            assert_eq!(split_index(sa_index(worker, slot)), (worker, slot));
        }
    }
}
