//! Why a packet or a configuration is refused: one variant a sin.

use crate::Suite;
use thiserror::Error;

/// A key of the wrong length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// The encryption key, including an AEAD's 4-octet salt.
    #[error(
        "encryption key for {suite} is {have} octets long, {want} are needed (an AEAD's include the 4-octet salt)"
    )]
    EncryptionLength {
        /// The suite that wants it.
        suite: Suite,
        /// Octets needed.
        want: usize,
        /// Octets given.
        have: usize,
    },
    /// The integrity key; none for an AEAD.
    #[error("integrity key for {suite} is {have} octets long, {want} are needed")]
    IntegrityLength {
        /// The suite that wants it.
        suite: Suite,
        /// Octets needed.
        want: usize,
        /// Octets given.
        have: usize,
    },
}

/// An SA that cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// A key of the wrong length.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// 0 never goes on the wire and 1 to 255 are reserved (RFC 4303 section 2.1).
    #[error("SPI {0:#010x} is reserved: take one of 256 or more")]
    ReservedSpi(u32),
    /// See [`crate::ReplayWindow::new`].
    #[error("replay window of {0} packets: take a power of two from 1,024 to 1,048,576")]
    ReplayWindow(u32),
    /// An SA without selectors on either side would carry nothing.
    #[error("no traffic selector on one side: name at least one on each")]
    NoSelectors,
    /// A selector whose range is empty matches nothing.
    #[error("a traffic selector's address range ends before it starts")]
    EmptySelector,
    /// Sequence number 0 is never sent (RFC 4303 section 3.3.3).
    #[error("first sequence number {0}: it must be at least 1 and fit the SA's counter")]
    FirstSequence(u64),
    /// All zeros is what a forgotten field looks like.
    #[error("the IV key is all zeros: fill it with 16 random octets of its own")]
    IvKeyMissing,
    /// The tunnel's ends are of different families.
    #[error("tunnel ends are of different families: both must be IPv4 or both IPv6")]
    TunnelFamilies,
    /// The path cannot carry even a minimal inner packet.
    #[error("path MTU of {0} octets leaves no room for an inner packet of 68")]
    TunnelMtu(u16),
}

/// Why a received ESP packet is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum OpenError {
    /// Shorter than header, IV, trailer and ICV.
    #[error("ESP packet too short")]
    TooShort,
    /// The ciphertext is not a whole number of cipher blocks (or of 4 octets).
    #[error("ESP ciphertext is not a whole number of blocks")]
    Misaligned,
    /// The packet belongs to another SA.
    #[error("SPI is not this SA's")]
    SpiMismatch,
    /// The sequence number lies before the replay window, is 0, or past the last that exists.
    #[error("sequence number outside the replay window")]
    OutsideWindow,
    /// The sequence number has been received before.
    #[error("sequence number received before")]
    Replayed,
    /// The integrity check value is wrong: forged, damaged, or a wrong key.
    #[error("integrity check failed")]
    AuthenticationFailed,
    /// Padding longer than the payload, or not 1, 2, 3, ... (RFC 4303 section 2.4).
    #[error("padding is not 1, 2, 3, ...")]
    BadPadding,
    /// The next header is neither IPv4 (4) nor a dummy packet (59).
    #[error("next header is not IPv4")]
    NextHeader,
    /// The inner packet is not a whole IPv4 packet.
    #[error("inner IPv4 header malformed")]
    InnerMalformed,
    /// The inner packet is outside the SA's traffic selectors (RFC 4301 section 5.2).
    #[error("inner packet outside the traffic selectors")]
    SelectorMismatch,
    /// Congestion was signalled on a packet whose sender cannot hear it (RFC 6040 section 4.2).
    #[error("outer header says CE, inner packet is not ECN-capable")]
    EcnNotCapable,
}

/// Why an inner packet is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum SealError {
    /// The inner packet is not a whole IPv4 packet inside the range given.
    #[error("inner IPv4 header malformed")]
    InnerMalformed,
    /// The inner packet is outside the SA's traffic selectors (RFC 4301 section 5.1).
    #[error("inner packet outside the traffic selectors")]
    SelectorMismatch,
    /// The outer packet would exceed the path MTU: fragment the inner packet, or answer ICMP "fragmentation
    /// needed" with this MTU.
    #[error("inner packet exceeds the tunnel's MTU of {inner_mtu} octets")]
    TooBig {
        /// The largest inner packet that fits, in octets.
        inner_mtu: u16,
    },
    /// Less space in front of the inner packet than the headers need; see [`crate::HEADROOM_MAX`].
    #[error("not enough headroom for the outer headers")]
    NoHeadroom,
    /// Less space behind the inner packet than padding and ICV need; see [`crate::TAILROOM_MAX`].
    #[error("not enough tailroom for padding and ICV")]
    NoTailroom,
    /// Every sequence number has been used; the counter never wraps (RFC 4303 section 3.3.3).
    #[error("sequence numbers exhausted: the SA must be rekeyed")]
    SequenceExhausted,
    /// The engine refused the packet; it is larger than the algorithm can take.
    #[error("cryptographic engine refused the packet")]
    Engine,
}
