//! Ethernet II.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of the header in bytes; the link header of the clear link has the same.
pub const LENGTH: u32 = 14;
/// Offset of the EtherType.
pub const ETHER_TYPE: u32 = 12;

/// Values of [`Ethernet::ether_type`], network order.
pub mod ether_type {
    use network_types::eth::EtherType;

    /// IPv4.
    pub const IPV4: [u8; 2] = in_memory(EtherType::Ipv4);
    /// ARP.
    pub const ARP: [u8; 2] = in_memory(EtherType::Arp);
    /// IPv6.
    pub const IPV6: [u8; 2] = in_memory(EtherType::Ipv6);

    /// `EtherType`'s numbers are network order in memory.
    const fn in_memory(ether_type: EtherType) -> [u8; 2] {
        (ether_type as u16).to_ne_bytes()
    }
}

/// The header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Ethernet {
    /// Destination MAC address.
    pub destination: [u8; 6],
    /// Source MAC address.
    pub source: [u8; 6],
    /// One of [`ether_type`], or another.
    pub ether_type: [u8; 2],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let bytes = [0x33, 0x33, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 9, 0x86, 0xdd];
        let header = Ethernet::read_from_bytes(&bytes).unwrap();
        assert_eq!(header.destination, [0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(header.source, [0x02, 0, 0, 0, 0, 9]);
        assert_eq!(header.ether_type, ether_type::IPV6);
        assert_eq!(size_of::<Ethernet>(), LENGTH as usize);
    }
}
