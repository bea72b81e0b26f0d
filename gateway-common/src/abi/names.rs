//! Addresses that are open by name: a rule that names Internet sites matches a destination only while the gateway's DNS
//! proxy has told a site that one of the rule's names leads there, and not longer than the answer was good for.
//!
//! User space writes them before the answer leaves; the packet path reads them when it judges a new flow, and checks
//! the time itself: what nobody writes anew runs out.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::abi_assert;

/// Sets of names that one address may be open for at a time.
pub const SETS_AN_ADDRESS: usize = 8;

/// An address is open for a set of names.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct OpenName {
    /// Number of the set, counting from 1; zero: this place is free.
    pub set: u32,
    /// Second of the coarse clock at which it is open no longer.
    pub until_s: u32,
}
abi_assert!(OpenName, size = 8, align = 4);

impl OpenName {
    /// The set, if the address is open for it at `now_s`.
    #[inline(always)]
    #[must_use]
    pub const fn set_at(&self, now_s: u32) -> u32 {
        if self.until_s.wrapping_sub(now_s).cast_signed() > 0 {
            self.set
        } else {
            0
        }
    }
}

/// What an address is open for.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct OpenAddress {
    /// Sets, in any order.
    pub names: [OpenName; SETS_AN_ADDRESS],
    /// The address itself. A program that has found an element while it is replaced may read another address's: it looks
    /// here afterwards.
    pub address: [u8; 4],
    /// Zero.
    pub pad: u32,
}
abi_assert!(OpenAddress, size = 72, align = 4);

impl OpenAddress {
    /// Whether the address is open for a set at `now_s`.
    #[must_use]
    pub fn is_open_for(&self, set: u32, now_s: u32) -> bool {
        set != 0 && self.names.iter().any(|name| name.set_at(now_s) == set)
    }
}
