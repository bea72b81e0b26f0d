//! What can go wrong between the daemon and the kernel.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;
use gateway_esp::ConfigError;

/// Why the data plane does not start, or does not do as it is told.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// An interface of the configuration is not there.
    #[error("interface `{interface}` is not in this network namespace: {source}")]
    Interface {
        /// Its name.
        interface: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// The configuration names no interface of a role.
    #[error("no interface has the role {0}: name one in the configuration")]
    NoInterface(&'static str),
    /// More interfaces or queues than the maps hold.
    #[error("{what}: {have} are more than the {max} that the maps hold")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        have: usize,
        /// How many there may be.
        max: usize,
    },
    /// The core side has more prefixes than the maps hold.
    #[error(
        "the core side has {have} prefixes that lead different ways, of {max}: packets to {closed} of them are dropped\n  to mend it: have the routing daemon put fewer into the main table, or aggregates"
    )]
    NextHops {
        /// How many it has.
        have: usize,
        /// How many it may have.
        max: usize,
        /// How many lead nowhere for that.
        closed: usize,
    },
    /// The kernel refuses the object.
    #[error("the kernel{kernel} does not load the XDP programs: {0}", kernel = release())]
    Load(#[from] EbpfError),
    /// The object lacks what this daemon expects of it.
    #[error("the XDP object has no {0}: it is not of this build")]
    Missing(String),
    /// A program does not load.
    #[error("the kernel{kernel} does not take XDP program `{program}`: {source}", kernel = release())]
    Program {
        /// Its name.
        program: &'static str,
        /// What the kernel says, with the verifier's log.
        source: ProgramError,
    },
    /// A program does not attach.
    #[error("XDP program does not attach to `{interface}`, natively: {native}; generically: {generic}")]
    Attach {
        /// Where.
        interface: String,
        /// Why not in the driver.
        native: String,
        /// Why not in generic mode.
        generic: String,
    },
    /// A link cannot be pinned, so that a killed daemon would leave the interface open.
    #[error("link of `{interface}` cannot be pinned to {}: {reason}", path.display())]
    Pin {
        /// Of which interface.
        interface: String,
        /// Where to.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Another gateway pins its links there, and would lose them.
    #[error(
        "{}: another gateway of this name has its pins there\n  to mend it: stop that one, or give each a name of its own ([gateway] name)",
        path.display()
    )]
    PinsTaken {
        /// The folder.
        path: PathBuf,
    },
    /// A map operation failed.
    #[error("map {map}: {source}")]
    Map {
        /// The map.
        map: &'static str,
        /// What the kernel says.
        source: MapError,
    },
    /// No memory for frames.
    #[error("memory for {frames} frames: {reason}")]
    FrameMemory {
        /// How many.
        frames: u32,
        /// Why not.
        reason: String,
    },
    /// A socket does not bind.
    #[error("AF_XDP socket on queue {queue} of `{interface}`: {reason}")]
    Bind {
        /// The interface.
        interface: String,
        /// Its queue.
        queue: u32,
        /// Why not.
        reason: String,
    },
    /// The clear link cannot be made.
    #[error("clear link `{name}`: {reason}")]
    ClearLink {
        /// Its first end.
        name: String,
        /// Why not.
        reason: String,
    },
    /// The service link cannot be made.
    #[error("service link `{name}` of the DNS proxy: {reason}")]
    ServiceLink {
        /// Its outer end.
        name: String,
        /// Why not.
        reason: String,
    },
    /// A file of the system cannot be written or read.
    #[error("{}: {source}", path.display())]
    System {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A call to the system failed.
    #[error("{what}: {source}")]
    Call {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A port cannot be published.
    #[error("{outside}:{port} cannot be published: {reason}")]
    Publication {
        /// Its address on the center's side.
        outside: std::net::Ipv4Addr,
        /// Its port; zero for the whole address.
        port: u16,
        /// Why not.
        reason: &'static str,
    },
    /// An SA that cannot be used.
    #[error("SA: {0}")]
    Sa(#[from] ConfigError),
    /// The interface of an SA carries no `wan` program.
    #[error("`{0}` is not a WAN interface of this gateway")]
    NotWan(String),
    /// The SA was removed.
    #[error("SA handle is of an SA that is gone")]
    StaleHandle,
    /// Every slot is taken.
    #[error("no room for another SA: {0} are installed")]
    SasFull(usize),
    /// A site names more networks than one may.
    #[error(
        "site {site} would have {have} networks, as prefixes, of {max}: its traffic selectors are to name fewer, or whole prefixes"
    )]
    Networks {
        /// Which site.
        site: u32,
        /// How many it would have.
        have: usize,
        /// How many it may have.
        max: usize,
    },
    /// The SPI belongs to another SA.
    #[error("SPI {0:#010x} is taken")]
    SpiTaken(u32),
    /// The place of an IKE SA's SPI is not its own.
    #[error("the place of IKE SPI {0:#018x} is another's")]
    IkeSpi(u64),
    /// A worker thread is gone.
    #[error("worker {0} does not answer")]
    Worker(u32),
}

/// Which kernel this is: whether it is too old is the first question when it refuses something.
fn release() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(" (Linux {}; 6.12 and later are known to)", release.trim())
}

impl DataplaneError {
    /// Wraps what the kernel says about a map.
    pub(crate) fn map(map: &'static str) -> impl FnOnce(MapError) -> Self {
        move |source| Self::Map { map, source }
    }
}
