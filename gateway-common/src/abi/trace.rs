//! Packets as `gateway trace` sees them: a line for each place that a packet of a traced site comes to.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::abi_assert;

/// Value of [`Settings::trace_site`](super::interface::Settings::trace_site) that means every site. Zero means none.
pub const EVERY_SITE: u32 = u32::MAX;

/// Values of [`TraceEvent::point`].
pub mod point {
    use crate::path::open::STAGES;

    /// XDP on the outer interface.
    pub const WAN: u32 = 1;
    /// XDP on the clear link: packets of known flows.
    pub const CLEAR: u32 = 2;
    /// The stage that judges a new flow.
    pub const JUDGE: u32 = 3;
    /// The stage that maps its source.
    pub const MAP: u32 = 4;
    /// The stage that makes it.
    pub const ADD: u32 = 5;
    /// XDP on the core interface.
    pub const CORE: u32 = 6;
    /// A worker that opens ESP of a site.
    pub const WORKER_IN: u32 = 7;
    /// A worker that seals ESP to a site.
    pub const WORKER_OUT: u32 = 8;

    /// The stage that answers a packet of a site that goes no further.
    pub const ANSWER: u32 = 9;

    /// The stage of `clear` that lets a remote address send to a mapping.
    pub const PERMIT: u32 = 10;
    /// The stage of `core` that judges what may open a flow.
    pub const ENTER: u32 = 11;
    /// The stage of `core` that makes a flow.
    pub const ENTER_ADD: u32 = 12;
    /// The stage that judges a new flow from site to site.
    pub const HAIRPIN_JUDGE: u32 = 13;
    /// The stage that forwards from site to site.
    pub const HAIRPIN: u32 = 14;
    /// The stage that asks the filtering of the site that is called.
    pub const HAIRPIN_ENTER: u32 = 15;
    /// The stage that makes the flow of the site that is called.
    pub const HAIRPIN_ADD: u32 = 16;
    /// The stage that answers a packet of the center that goes no further.
    pub const CENTER_ANSWER: u32 = 17;
    /// The stage that carries ICMP errors of sites.
    pub const SITE_ERROR: u32 = 18;
    /// The stage that carries ICMP errors of the center.
    pub const CENTER_ERROR: u32 = 19;
    /// The stage for fragments of sites' packets.
    pub const SITE_FRAGMENT: u32 = 20;
    /// The stage for fragments of the center's packets.
    pub const CENTER_FRAGMENT: u32 = 21;
    /// The stage that carries ICMP errors from site to site.
    pub const HAIRPIN_ERROR: u32 = 22;

    /// The point of a stage, by its number ([`Stage`](crate::path::open::Stage)).
    #[must_use]
    pub const fn of_stage(stage: u32) -> u32 {
        const POINTS: [u32; STAGES as usize] = [
            JUDGE,
            MAP,
            ADD,
            CLEAR,
            ANSWER,
            PERMIT,
            ENTER,
            ENTER_ADD,
            CORE,
            HAIRPIN_JUDGE,
            HAIRPIN,
            HAIRPIN_ENTER,
            HAIRPIN_ADD,
            CENTER_ANSWER,
            SITE_ERROR,
            CENTER_ERROR,
            SITE_FRAGMENT,
            CENTER_FRAGMENT,
            HAIRPIN_ERROR,
        ];
        if stage < STAGES { POINTS[stage as usize] } else { 0 }
    }

    /// All with their names.
    pub const ALL: [(u32, &str); 22] = [
        (WAN, "wan"),
        (CLEAR, "clear"),
        (JUDGE, "clear_judge"),
        (MAP, "clear_map"),
        (ADD, "clear_add"),
        (CORE, "core"),
        (WORKER_IN, "worker_in"),
        (WORKER_OUT, "worker_out"),
        (ANSWER, "clear_answer"),
        (PERMIT, "clear_permit"),
        (ENTER, "core_enter"),
        (ENTER_ADD, "core_add"),
        (HAIRPIN_JUDGE, "hairpin_judge"),
        (HAIRPIN, "hairpin"),
        (HAIRPIN_ENTER, "hairpin_enter"),
        (HAIRPIN_ADD, "hairpin_add"),
        (CENTER_ANSWER, "core_answer"),
        (SITE_ERROR, "clear_error"),
        (CENTER_ERROR, "core_error"),
        (SITE_FRAGMENT, "clear_fragment"),
        (CENTER_FRAGMENT, "core_fragment"),
        (HAIRPIN_ERROR, "hairpin_error"),
    ];
}

/// Values of [`TraceEvent::outcome`].
pub mod outcome {
    /// Dropped; the value is the number of a [`DropReason`](crate::drop::DropReason).
    pub const DROPPED: u32 = 0;
    /// Sent on; the value is the number of a [`Path`](crate::abi::stats::Path).
    pub const SENT: u32 = 1;
    /// Handed to another stage; the value is its number.
    pub const STAGE: u32 = 2;
    /// Sent on by a worker; the value is zero.
    pub const WORKED: u32 = 3;
    /// A fragment that a worker keeps until the others of its packet are there; the value is zero.
    pub const WAITS: u32 = 4;
}

/// Bits of [`TraceEvent::known`]: which fields say something.
pub mod known {
    /// Addresses and protocol.
    pub const ADDRESSES: u8 = 1;
    /// Ports (or the identifier of an ICMP query).
    pub const PORTS: u8 = 2;
    /// Translated address and port.
    pub const NAT: u8 = 4;
    /// Rule and generation.
    pub const RULE: u8 = 8;
    /// State and mapping: there is a flow.
    pub const FLOW: u8 = 16;
    /// SPI.
    pub const SPI: u8 = 32;
}

/// A packet at one place. Source is always the site's end, whichever way the packet goes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TraceEvent {
    /// Nanoseconds of the monotonic clock.
    pub at_ns: u64,
    /// One of [`point`].
    pub point: u32,
    /// One of [`outcome`].
    pub outcome: u32,
    /// What the outcome says of it.
    pub value: u32,
    /// Site; zero if it is not known.
    pub site: u32,
    /// Rule, as in [`Flow::rule`](super::flow::Flow::rule).
    pub rule: u32,
    /// Rule generation.
    pub generation: u32,
    /// Place of the mapping.
    pub mapping: u32,
    /// Bytes of the inner IPv4 packet, or of the frame where that is not known.
    pub length: u32,
    /// SPI of the ESP packet.
    pub spi: [u8; 4],
    /// Inner address of the site's end.
    pub source: [u8; 4],
    /// Address of the center's end.
    pub destination: [u8; 4],
    /// What the source is translated to.
    pub nat_address: [u8; 4],
    /// Port of the site's end, or ICMP identifier.
    pub source_port: [u8; 2],
    /// Port of the center's end.
    pub destination_port: [u8; 2],
    /// What the source port is translated to.
    pub nat_port: [u8; 2],
    /// IP protocol.
    pub protocol: u8,
    /// State of the flow behind the packet ([`super::flow::state`]).
    pub state: u8,
    /// Flags of a TCP segment.
    pub tcp_flags: u8,
    /// Bits of [`known`].
    pub known: u8,
    /// Zero.
    pub pad: [u8; 6],
}
abi_assert!(TraceEvent, size = 72, align = 8);
