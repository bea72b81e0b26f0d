//! Counters.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::abi_assert;

/// Packets and bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes of the frame.
    pub bytes: u64,
}
abi_assert!(Counter, size = 16, align = 8);

/// Index of the `PATHS` map: what happened to a packet that was not dropped.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// `wan`: ESP handed to a worker.
    WanEsp = 0,
    /// `wan`: IKE passed to user space.
    WanIke = 1,
    /// `wan`: ARP, neighbour discovery, PMTU ICMP passed to the kernel.
    WanPassed = 2,
    /// `clear`: forwarded to the core.
    ClearForwarded = 3,
    /// `core`: handed to a worker.
    CoreForwarded = 4,
    /// `core`: ARP and what the kernel needs passed.
    CorePassed = 5,
    /// `core`: answered with ICMP "fragmentation needed".
    CoreTooBig = 6,
    /// New flows.
    FlowsCreated = 7,
    /// New mappings.
    MappingsCreated = 8,
    /// `clear`: answered to the site with a TCP reset or an ICMP error; the packet counts as dropped as well.
    SiteAnswered = 9,
    /// `clear`: forwarded to a site.
    SiteToSite = 10,
    /// `core`: answered to the center with a TCP reset or an ICMP error; the packet counts as dropped as well.
    CenterAnswered = 11,
    /// `wan`: fragment handed to a worker, to wait for the others of its packet.
    WanFragment = 12,
    /// `core`: the same.
    CoreFragment = 13,
    /// `clear`: handed to a worker, which cuts it into fragments that the next hop carries.
    ClearTooBig = 14,
}

/// Number of [`Path`] counters.
pub const PATHS: u32 = 15;

impl Path {
    /// All, in the order of their numbers, with their names in CLI and metrics.
    pub const ALL: [(Path, &'static str); PATHS as usize] = [
        (Path::WanEsp, "wan_esp"),
        (Path::WanIke, "wan_ike"),
        (Path::WanPassed, "wan_passed"),
        (Path::ClearForwarded, "clear_forwarded"),
        (Path::CoreForwarded, "core_forwarded"),
        (Path::CorePassed, "core_passed"),
        (Path::CoreTooBig, "core_too_big"),
        (Path::FlowsCreated, "flows_created"),
        (Path::MappingsCreated, "mappings_created"),
        (Path::SiteAnswered, "site_answered"),
        (Path::SiteToSite, "site_to_site"),
        (Path::CenterAnswered, "center_answered"),
        (Path::WanFragment, "wan_fragment"),
        (Path::CoreFragment, "core_fragment"),
        (Path::ClearTooBig, "clear_too_big"),
    ];
}
