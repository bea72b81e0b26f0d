//! Sites.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::abi_assert;

/// A site as the packet path sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Site {
    /// Bitmap of site groups; bit n is the n-th group of the configuration.
    pub groups: u64,
    /// The address that the site is translated to.
    pub nat_address: [u8; 4],
    /// Zero.
    pub pad: [u8; 4],
}
abi_assert!(Site, size = 16, align = 8);
