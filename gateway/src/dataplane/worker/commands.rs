//! What the controller tells a worker, and what a worker tells the controller.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use crossbeam_queue::ArrayQueue;
use gateway_esp::{ConfigError, InboundSa, OutboundSa, Tunnel};

use crate::dataplane::sa::{SaCounters, SaHandle};

/// An order, with a way to say that it is done.
pub(crate) struct Command {
    /// What to do.
    pub(crate) order: Order,
    /// Hears the outcome; the controller waits for it.
    pub(crate) done: SyncSender<Result<(), ConfigError>>,
}

/// What to do.
pub(crate) enum Order {
    /// Takes an SA pair in; packets with its SPI are the SA's from then on. The keys travel inside and are zeroed where
    /// they are dropped.
    Install(Box<Install>),
    /// From now on packets with this SPI belong to this SA of another worker.
    Route { spi: u32, sa_index: u32 },
    /// The SPI is no longer known, if it still belongs to this SA.
    Unroute { spi: u32, sa_index: u32 },
    /// Sends through another path.
    UpdatePath { slot: u32, tunnel: Tunnel, port: usize },
    /// Forgets one direction, with the SPI if it is the inbound one; forgets the SA when none is left.
    Remove {
        slot: u32,
        inbound: bool,
        outbound: bool,
    },
}

/// An SA pair on its way into a worker.
pub(crate) struct Install {
    pub(crate) handle: SaHandle,
    pub(crate) site: u32,
    pub(crate) inbound: InboundSa,
    pub(crate) outbound: OutboundSa,
    /// Port of the interface towards the peer.
    pub(crate) port: usize,
    /// The path, which says how much room the outer headers take.
    pub(crate) tunnel: Tunnel,
    pub(crate) counters: Arc<SaCounters>,
}

/// What the controller has not heard yet. When it is full a report finds no room; the next packet repeats it.
pub(crate) type Reports = ArrayQueue<WorkerReport>;

/// What a worker found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerReport {
    /// The first authentic packet arrived: the peer uses the SA, the old one may stop sending.
    FirstInbound(SaHandle),
    /// Sequence numbers run out: rekey now.
    SequenceNear(SaHandle),
    /// Authentic packets come from another address or port: the peer's NAT rebound, or the peer moved
    /// (RFC 7296 section 2.23).
    PeerMoved {
        /// The SA.
        handle: SaHandle,
        /// Outer source address.
        source: IpAddr,
        /// Outer UDP source port.
        port: u16,
    },
}
