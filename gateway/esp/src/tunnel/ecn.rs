//! DSCP and ECN between outer and inner header (RFC 6040, RFC 4301 section 5.1.2).

use crate::bytes::{load_u16, store};

const ECN: u8 = 0b11;
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

/// The outer header's DSCP and ECN octet for an inner one: DSCP copied (RFC 4301 section 5.1.2.1), ECN copied
/// (RFC 6040 section 4.1, normal mode).
#[inline]
pub const fn encapsulate(inner_tos: u8) -> u8 {
    inner_tos
}

/// The inner packet's DSCP and ECN octet after decapsulation, by the table of RFC 6040 section 4.2. `None`: drop,
/// for the network has signalled congestion to a transport that does not listen. DSCP stays the inner one's.
#[inline]
pub const fn decapsulate(inner_tos: u8, outer_tos: u8) -> Option<u8> {
    let ecn = match (inner_tos & ECN, outer_tos & ECN) {
        (NOT_ECT, CE) => return None,
        (NOT_ECT, _) => NOT_ECT,
        (CE, _) | (_, CE) => CE,
        (ECT_0, ECT_1) => ECT_1,
        (inner, _) => inner,
    };
    Some(inner_tos & !ECN | ecn)
}

/// Writes the DSCP and ECN octet of an IPv4 header and mends its checksum (RFC 1624). A checksum that was wrong
/// stays wrong. `None` if the header is cut short.
#[inline]
pub(crate) fn set_ipv4_tos(packet: &mut [u8], tos: u8) -> Option<()> {
    const CHECKSUM: usize = 10;
    let old = load_u16(packet, 0)?;
    let new = old & 0xff00 | u16::from(tos);
    let checksum = load_u16(packet, CHECKSUM)?;
    let sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    store(packet, 0, new.to_be_bytes())?;
    store(packet, CHECKSUM, (!(sum as u16)).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6040 section 4.2, figure 4, row by row: outer Not-ECT, ECT(0), ECT(1), CE.
    #[test]
    fn decapsulation_follows_the_table() {
        const OUTER: [u8; 4] = [NOT_ECT, ECT_0, ECT_1, CE];
        const TABLE: [(u8, [Option<u8>; 4]); 4] = [
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
            (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
        ];
        for (inner, row) in TABLE {
            for (outer, want) in OUTER.into_iter().zip(row) {
                // The inner DSCP stays, whatever the outer one is.
                let (inner_dscp, outer_dscp) = (0b1011_1000, 0b0010_1000);
                let want = want.map(|ecn| inner_dscp | ecn);
                assert_eq!(
                    decapsulate(inner_dscp | inner, outer_dscp | outer),
                    want,
                    "{inner:02b} {outer:02b}"
                );
            }
        }
    }

    #[test]
    fn encapsulation_copies_the_whole_octet() {
        for tos in 0..=u8::MAX {
            assert_eq!(encapsulate(tos), tos);
        }
    }

    /// Against a checksum over the whole header.
    #[test]
    fn the_checksum_is_mended_for_every_change() {
        let full = |header: &[u8]| {
            let sum: u32 = header
                .chunks(2)
                .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
                .sum();
            (sum % 0xffff, sum != 0)
        };
        for old in 0..=u8::MAX {
            for new in [0, 1, 2, 3, old ^ 3, old ^ 1, 0xff] {
                let mut header = [0; 20];
                header[..10].copy_from_slice(&[0x45, old, 0, 84, 0xa6, 0xf2, 0, 0, 64, 1]);
                header[12..].copy_from_slice(&[192, 168, 1, 2, 10, 0, 0, old]);
                let sum: u32 = header
                    .chunks(2)
                    .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
                    .sum();
                let checksum = !(((sum & 0xffff) + (sum >> 16)) as u16);
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
                assert_eq!(full(&header), (0, true));
                set_ipv4_tos(&mut header, new).unwrap();
                assert_eq!(header[1], new);
                assert_eq!(full(&header), (0, true), "{old:#x} to {new:#x}");
            }
        }
    }
}
