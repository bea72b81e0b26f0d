//! An inbound SA: its state and what makes it.

use crate::engine::{self, Engine};
use crate::{ConfigError, KeyMaterial, ReplayWindow, Selectors, Span, Suite};
use core::ops::Range;

/// Packets in the replay window where nothing else is configured: 4,096.
pub const REPLAY_WINDOW_DEFAULT: u32 = 4096;

/// SPIs up to here are reserved (RFC 4303 section 2.1).
const RESERVED_SPI_LAST: u32 = 255;

/// Packets and octets that an SA has carried. Octets are those of inner packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets opened and passed on, or sealed.
    pub packets: u64,
    /// Octets of inner IPv4 packets.
    pub bytes: u64,
}

impl Counters {
    #[inline]
    pub(crate) fn count(&mut self, bytes: usize) {
        self.packets = self.packets.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(bytes as u64);
    }
}

/// What an inbound SA is made of.
#[derive(Debug)]
pub struct InboundConfig {
    /// The SPI that this gateway chose.
    pub spi: u32,
    /// Algorithms.
    pub suite: Suite,
    /// The peer's sending keys.
    pub keys: KeyMaterial,
    /// 64-bit extended sequence numbers (RFC 4303 section 2.2.1).
    pub esn: bool,
    /// Packets in the replay window; see [`REPLAY_WINDOW_DEFAULT`] and [`ReplayWindow::new`].
    pub replay_window: u32,
    /// Traffic selectors of the Child SA.
    pub selectors: Selectors,
}

/// What came out of an ESP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// An inner IPv4 packet.
    Packet {
        /// Where it lies in the buffer given to [`InboundSa::open`].
        inner: Range<usize>,
        /// The whole sequence number it came with.
        sequence: u64,
    },
    /// A dummy packet, sent to hide when nothing is (RFC 4303 section 2.6): authentic, and nothing to pass on.
    Dummy,
}

/// One inbound SA. Opening is in [`crate::InboundSa::open`].
pub struct InboundSa {
    pub(crate) spi: u32,
    pub(crate) suite: Suite,
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) esn: bool,
    pub(crate) window: ReplayWindow,
    pub(crate) selectors: Selectors,
    pub(crate) counters: Counters,
}

impl InboundSa {
    /// Takes the keys in; they are zeroized in `config` on return.
    ///
    /// # Errors
    /// [`ConfigError`] names the field that cannot be used.
    pub fn new(config: InboundConfig) -> Result<Self, ConfigError> {
        check_spi(config.spi)?;
        config.selectors.validate()?;
        Ok(Self {
            spi: config.spi,
            suite: config.suite,
            engine: engine::new(config.suite, &config.keys)?,
            esn: config.esn,
            window: ReplayWindow::new(config.replay_window, config.esn)?,
            selectors: config.selectors,
            counters: Counters::default(),
        })
    }

    /// The SPI on the wire.
    pub fn spi(&self) -> u32 {
        self.spi
    }

    /// Algorithms.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// The highest sequence number received and authenticated; 0 before the first.
    pub fn highest_sequence(&self) -> u64 {
        self.window.highest()
    }

    /// Counts everything up to `highest` as received; see [`ReplayWindow::resume_at`].
    pub fn resume_at(&mut self, highest: u64) {
        self.window.resume_at(highest);
    }

    /// What the next packet in order reads behind this: keys, window and selectors.
    #[inline(always)]
    pub fn ahead(&self) -> [Span; 4] {
        let Selectors { local, remote } = &self.selectors;
        [
            self.engine.span(),
            self.window.ahead(),
            Span::of(&**local),
            Span::of(&**remote),
        ]
    }

    /// What was passed on so far; dummy and refused packets are not in it.
    pub fn counters(&self) -> Counters {
        self.counters
    }
}

impl core::fmt::Debug for InboundSa {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter
            .debug_struct("InboundSa")
            .field("spi", &format_args!("{:#010x}", self.spi))
            .field("suite", &self.suite)
            .field("highest_sequence", &self.window.highest())
            .finish_non_exhaustive()
    }
}

pub(crate) fn check_spi(spi: u32) -> Result<(), ConfigError> {
    if spi <= RESERVED_SPI_LAST {
        Err(ConfigError::ReservedSpi(spi))
    } else {
        Ok(())
    }
}

/// Workers are threads: an SA is made in one and used in another.
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<InboundSa>();
    is_send::<crate::OutboundSa>();
};
