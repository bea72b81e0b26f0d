//! Compiled rules: first match decides, no match is a deny.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::abi_assert;

/// Values of [`Rule::action`].
pub mod action {
    /// Drop.
    pub const DENY: u8 = 0;
    /// Let the flow be made.
    pub const ALLOW: u8 = 1;
}

/// Bits of [`Rule::flags`].
pub mod flag {
    /// Send an event for each new flow or denied packet (rate-limited by the ring).
    pub const LOG: u8 = 1;
}

/// One compiled rule. Addresses are `(value & mask) == address`; ports are inclusive ranges in native order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Rule {
    /// Any of these groups; zero: no condition.
    pub groups: u64,
    /// This site; zero: no condition (site ids start at 1).
    pub site: u32,
    /// Source prefix, network order.
    pub source: [u8; 4],
    /// Source mask, network order.
    pub source_mask: [u8; 4],
    /// Destination prefix, network order.
    pub destination: [u8; 4],
    /// Destination mask, network order.
    pub destination_mask: [u8; 4],
    /// Lowest source port.
    pub source_port_low: u16,
    /// Highest source port.
    pub source_port_high: u16,
    /// Lowest destination port.
    pub destination_port_low: u16,
    /// Highest destination port.
    pub destination_port_high: u16,
    /// IP protocol; zero: any.
    pub protocol: u8,
    /// One of [`action`].
    pub action: u8,
    /// Bits of [`flag`].
    pub flags: u8,
    /// Zero.
    pub pad: u8,
    /// Index of the rule in the operator's file (several compiled rules may come from one); key of `RULE_HITS`.
    pub source_rule: u32,
    /// Zero.
    pub pad2: u32,
}
abi_assert!(Rule, size = 48, align = 8);

/// Element 0 of a generation's array has this meaning over the bytes of a [`Rule`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct RuleSetHeader {
    /// Number of the generation, counting from 1.
    pub generation: u32,
    /// Compiled rules that follow.
    pub count: u32,
    /// Zero.
    pub pad: [u8; 40],
}
abi_assert!(RuleSetHeader, size = 48, align = 4);

impl RuleSetHeader {
    /// The header of a generation with `count` rules.
    #[must_use]
    pub const fn new(generation: u32, count: u32) -> Self {
        Self {
            generation,
            count,
            pad: [0; 40],
        }
    }

    /// The header as element 0 of the array.
    #[must_use]
    pub const fn element(self) -> Rule {
        zerocopy::transmute!(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_survives_as_an_element() {
        let header = RuleSetHeader::new(7, 1024);
        let element = header.element();
        assert_eq!(RuleSetHeader::read_from_bytes(element.as_bytes()), Ok(header));
    }
}
