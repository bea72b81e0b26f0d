//! What the data plane is started with.

use std::path::PathBuf;

use gateway_common::abi::interface::Settings;

use super::sweep::HoldDown;
use super::tables::TableSizes;

/// The side an interface is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Outer side: ESP and IKE.
    Wan,
    /// Center side.
    Core,
    /// Internet side.
    Internet,
}

/// Who forwards packets of flows that are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// The programs: workers hand them everything.
    #[default]
    Xdp,
    /// Workers, straight out of their sockets; what they cannot decide they hand to the programs.
    Direct,
}

/// One interface of the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// Its name in this network namespace.
    pub name: String,
    /// Its side.
    pub role: Role,
}

/// What the data plane is started with.
#[derive(Clone, Debug)]
pub struct DataplaneConfig {
    /// The interfaces; at least one of each role.
    pub interfaces: Vec<InterfaceConfig>,
    /// Directory of this gateway's own for the pins of its links. A BPF file system is mounted where none is.
    pub bpffs_dir: PathBuf,
    /// The clear link's ends have this name with `0` and `1` behind it; at most 14 octets.
    pub clear_link_prefix: String,
    /// Workers; `None`: as many as the interface with most queues has. Fewer than that would leave queues unserved
    /// and is raised.
    pub workers: Option<u32>,
    /// CPUs of the workers, in turn; empty: the CPUs that the process may use, in turn.
    pub pin_cores: Vec<usize>,
    /// Times and limits of the packet path.
    pub settings: Settings,
    /// Sizes of the flow and mapping tables.
    pub tables: TableSizes,
    /// How long ports of mappings that ended are kept from others.
    pub hold_down: HoldDown,
    /// Who forwards packets of flows that are known.
    pub engine: Engine,
    /// Frames of 4,096 octets in each worker's memory.
    pub frames_per_worker: u32,
}

impl DataplaneConfig {
    /// Outer end of the link to the DNS proxy.
    pub const SERVICE_LINK: &'static str = "gwdns";
    /// Name prefix of the clear link where nothing is configured.
    pub const CLEAR_LINK_PREFIX: &'static str = "gwclr";
    /// Frames of a worker where nothing is configured: 32 MiB.
    pub const FRAMES_PER_WORKER: u32 = 8192;
}
