//! TCP (RFC 9293).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of a header without options.
pub const LENGTH: u32 = 20;

/// Bits of [`Tcp::flags`].
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgment number is valid.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer is valid.
    pub const URG: u8 = 0x20;
}

/// The header without options.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Tcp {
    /// Source port.
    pub source_port: [u8; 2],
    /// Destination port.
    pub destination_port: [u8; 2],
    /// Sequence number.
    pub sequence: [u8; 4],
    /// Acknowledgment number.
    pub acknowledgment: [u8; 4],
    /// Header length in words (high four bits).
    pub data_offset: u8,
    /// Bits of [`flag`] (and the two of ECN).
    pub flags: u8,
    /// Window.
    pub window: [u8; 2],
    /// Checksum.
    pub checksum: [u8; 2],
    /// Urgent pointer.
    pub urgent: [u8; 2],
}

impl Tcp {
    /// Length of the header in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn header_length(&self) -> u32 {
        (self.data_offset >> 4) as u32 * 4
    }
}

/// Whether a sane stack may send these flags: each segment but a SYN or an RST has an ACK, and SYN, FIN and RST
/// exclude each other (RFC 9293 section 3.10.7). Null and Christmas-tree scans fail this.
#[inline(always)]
#[must_use]
pub const fn flags_are_sane(flags: u8) -> bool {
    SANE >> (flags % FLAGS) & 1 != 0
}

/// Sets of the six flags up to URG.
const FLAGS: u8 = 64;
/// Those that are sane, a bit each: one step in place of many.
const SANE: u64 = {
    let (mut sane, mut flags) = (0, 0);
    while flags < FLAGS {
        sane |= (is_sane(flags) as u64) << flags;
        flags += 1;
    }
    sane
};

const fn is_sane(flags: u8) -> bool {
    use flag::{ACK, FIN, RST, SYN};
    match flags & (SYN | FIN | RST) {
        SYN => flags & flag::URG == 0,
        RST => true,
        0 | FIN => flags & ACK != 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let bytes = [
            0xc0, 0, 1, 0xbb, 1, 2, 3, 4, 5, 6, 7, 8, 0xa0, 0x12, 0xfa, 0xf0, 0xab, 0xcd, 0, 0,
        ];
        let header = Tcp::read_from_bytes(&bytes).unwrap();
        assert_eq!(header.destination_port, 443u16.to_be_bytes());
        assert_eq!(header.sequence, [1, 2, 3, 4]);
        assert_eq!(header.header_length(), 40);
        assert_eq!(header.flags, flag::SYN | flag::ACK);
        assert_eq!(header.checksum, [0xab, 0xcd]);
    }

    #[test]
    fn every_combination_of_flags() {
        use flag::{ACK, FIN, PSH, RST, SYN, URG};
        let sane: std::vec::Vec<u8> = (0..64).filter(|flags| flags_are_sane(*flags)).collect();
        for flags in [
            SYN,
            SYN | ACK,
            SYN | PSH,
            ACK,
            ACK | PSH,
            FIN | ACK,
            FIN | ACK | PSH | URG,
            RST,
            RST | ACK,
        ] {
            assert!(sane.contains(&flags), "{flags:#x}");
        }
        let xmas = FIN | PSH | URG;
        for flags in [
            0,
            FIN,
            PSH,
            URG,
            xmas,
            0x3f,
            SYN | FIN,
            SYN | RST,
            SYN | FIN | ACK,
            FIN | RST,
            SYN | URG,
        ] {
            assert!(!sane.contains(&flags), "{flags:#x}");
        }
    }
}
