//! ESP (RFC 4303) in tunnel mode, sans-IO: bytes go in, bytes come out.
//!
//! [`InboundSa::open`] takes a received ESP packet, from its SPI to its ICV, and leaves the inner IPv4 packet
//! in place. [`OutboundSa::seal`] takes a buffer with an inner IPv4 packet somewhere in its middle and writes a
//! whole Ethernet frame around it. Neither copies the packet, allocates, reads a clock or makes a system call.
//!
//! | file | subject |
//! |---|---|
//! | `suite`, `keys` | algorithms, their sizes, keying material |
//! | `engine` | the cryptography behind one narrow trait |
//! | `sequence`, `replay` | sequence numbers out, anti-replay window in (32 and 64 bits) |
//! | `inner`, `selector` | the inner IPv4 header, traffic selectors |
//! | `tunnel` | outer headers: build, parse, DSCP and ECN |
//! | `inbound` + `open`, `outbound` + `seal` | the two kinds of SA and the way of a packet through each |
//! | `ahead` | what a packet will read of memory |
//! | `mtu` | the largest inner packet for a path |
//!
//! # Invariants
//!
//! - No input from the network panics: slices are read through checked accessors, and the lints below make
//!   the compiler refuse the others.
//! - A sequence number is used once. An SA that has none left refuses to seal ([`SealError::SequenceExhausted`]).
//! - The replay window moves only after the packet's integrity has been checked.
//! - Nothing that is refused is readable: callers get a range only for what passed every check.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

mod ahead;
mod bytes;
pub mod engine;
mod error;
mod inbound;
mod inner;
mod keys;
pub mod mtu;
mod open;
mod outbound;
mod replay;
mod seal;
mod selector;
mod sequence;
mod suite;
pub mod tunnel;

pub use ahead::Span;
pub use error::{ConfigError, KeyError, OpenError, SealError};
pub use inbound::{Counters, InboundConfig, InboundSa, Opened, REPLAY_WINDOW_DEFAULT};
pub use inner::{Flow, InnerIpv4};
pub use keys::{IvKey, KeyMaterial};
pub use open::Admitted;
pub use outbound::{OutboundConfig, OutboundSa};
pub use replay::{REPLAY_WINDOW_MAX, REPLAY_WINDOW_MIN, ReplayError, ReplayWindow};
pub use seal::Prepared;
pub use selector::{PortRange, Selectors, TrafficSelector};
pub use sequence::SequenceCounter;
pub use suite::Suite;
pub use tunnel::{LinkHeader, OuterDf, Tunnel, UdpEncap};

/// Octets of SPI and sequence number in front of the IV (RFC 4303 section 2).
pub const ESP_HEADER_LEN: usize = 8;

/// Octets of pad length and next header, after the padding (RFC 4303 section 2).
pub const ESP_TRAILER_LEN: usize = 2;

/// Octets that [`OutboundSa::seal`] may need in front of the inner packet, whatever the suite and the tunnel.
pub const HEADROOM_MAX: usize = tunnel::OUTER_LEN_MAX + ESP_HEADER_LEN + suite::IV_LEN_MAX;

/// Octets that [`OutboundSa::seal`] may need behind the inner packet, whatever the suite and the tunnel.
pub const TAILROOM_MAX: usize = suite::ALIGNMENT_MAX - 1 + ESP_TRAILER_LEN + suite::ICV_LEN_MAX;
