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
