//! An outbound SA: its state and what makes it.

use crate::engine::{self, Engine};
use crate::inbound::check_spi;
use crate::seal::IvSource;
use crate::sequence::SequenceCounter;
use crate::tunnel::OuterHeader;
use crate::{ConfigError, Counters, IvKey, KeyMaterial, Selectors, Span, Suite, Tunnel, mtu};

/// The smallest inner packet that every IPv4 link carries (RFC 791 section 3.2).
const INNER_MTU_MIN: u16 = 68;

/// What an outbound SA is made of.
#[derive(Debug)]
pub struct OutboundConfig {
    /// The SPI that the peer chose.
    pub spi: u32,
    /// Algorithms.
    pub suite: Suite,
    /// This gateway's sending keys.
    pub keys: KeyMaterial,
    /// 64-bit extended sequence numbers (RFC 4303 section 2.2.1).
    pub esn: bool,
    /// The first sequence number: 1 for a new SA; for one taken over, beyond all that were used.
    pub first_sequence: u64,
    /// Where AES-CBC's IVs come from; the AEADs leave it unused.
    pub iv_key: IvKey,
    /// Traffic selectors of the Child SA.
    pub selectors: Selectors,
    /// Where the packets go.
    pub tunnel: Tunnel,
}

/// One outbound SA. Sealing is in [`crate::OutboundSa::seal`].
pub struct OutboundSa {
    pub(crate) spi: u32,
    pub(crate) suite: Suite,
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) iv: IvSource,
    pub(crate) esn: bool,
    pub(crate) sequence: SequenceCounter,
    pub(crate) selectors: Selectors,
    pub(crate) outer: OuterHeader,
    pub(crate) inner_mtu: u16,
    pub(crate) counters: Counters,
}

impl OutboundSa {
    /// Takes the keys in; they are zeroized in `config` on return.
    ///
    /// # Errors
    /// [`ConfigError`] names the field that cannot be used.
    pub fn new(config: OutboundConfig) -> Result<Self, ConfigError> {
        check_spi(config.spi)?;
        config.selectors.validate()?;
        let outer = OuterHeader::new(&config.tunnel, config.spi)?;
        Ok(Self {
            spi: config.spi,
            suite: config.suite,
            engine: engine::new(config.suite, &config.keys)?,
            iv: IvSource::new(config.suite, &config.iv_key)?,
            esn: config.esn,
            sequence: SequenceCounter::new(config.first_sequence, config.esn)?,
            selectors: config.selectors,
            inner_mtu: checked_inner_mtu(&config.tunnel, config.suite)?,
            outer,
            counters: Counters::default(),
        })
    }

    /// Sends on through another path: the peer moved (RFC 4555), its NAT gave it another port, a next hop or a
    /// path MTU changed. Nothing has changed after an error.
    ///
    /// # Errors
    /// [`ConfigError::TunnelFamilies`], [`ConfigError::TunnelMtu`].
    pub fn set_tunnel(&mut self, tunnel: &Tunnel) -> Result<(), ConfigError> {
        let outer = OuterHeader::new(tunnel, self.spi)?;
        self.inner_mtu = checked_inner_mtu(tunnel, self.suite)?;
        self.outer = outer;
        Ok(())
    }

    /// What the next packet reads behind this: keys and selectors.
    #[inline(always)]
    pub fn ahead(&self) -> [Span; 3] {
        let Selectors { local, remote } = &self.selectors;
        [self.engine.span(), Span::of(&**local), Span::of(&**remote)]
    }

    /// The SPI on the wire.
    pub fn spi(&self) -> u32 {
        self.spi
    }

    /// Algorithms.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// The largest inner packet, in octets, that the tunnel's path MTU lets through.
    pub fn inner_mtu(&self) -> u16 {
        self.inner_mtu
    }

    /// How many sequence numbers are left.
    pub fn sequence_remaining(&self) -> u64 {
        self.sequence.remaining()
    }

    /// What was sealed so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }
}

impl core::fmt::Debug for OutboundSa {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter
            .debug_struct("OutboundSa")
            .field("spi", &format_args!("{:#010x}", self.spi))
            .field("suite", &self.suite)
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

fn checked_inner_mtu(tunnel: &Tunnel, suite: Suite) -> Result<u16, ConfigError> {
    let inner_mtu = mtu::inner_mtu(tunnel.mtu, suite, tunnel.local.is_ipv6(), tunnel.udp.is_some());
    if inner_mtu < INNER_MTU_MIN {
        Err(ConfigError::TunnelMtu(tunnel.mtu))
    } else {
        Ok(inner_mtu)
    }
}
