//! Secret and sizes of the tables: read-only data of the object, written by the loader before it is verified.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::abi_assert;
use crate::tables::hash::FACTORS;

/// Name of the object's variable.
pub const GEOMETRY: &str = "GEOMETRY";

/// Secret and sizes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Geometry {
    /// Secret factors of the hash ([`crate::tables::hash`]).
    pub factors: [u64; FACTORS],
    /// Key of the draw of ports ([`crate::tables::siphash`]).
    pub port_key: [u64; 2],
    /// Buckets of each index of the flow table.
    pub flow_buckets: u32,
    /// Buckets of each index of the mapping table.
    pub mapping_buckets: u32,
}
abi_assert!(Geometry, size = 72, align = 8);
