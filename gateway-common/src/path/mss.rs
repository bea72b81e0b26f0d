//! Maximum segment size: SYN and SYN+ACK never offer more than what the tunnel carries in one packet (RFC 9293 section
//! 3.7.1, RFC 4459 section 3.2), so that TCP works where the ICMP that PMTU discovery needs is lost. An offer is lowered,
//! never raised, and one that is absent or malformed stays as it is.

use crate::abi::interface::Settings;
use crate::abi::sa::SaOutboundKey;
use crate::drop::DropReason;
use crate::packet::Packet;
use crate::packet::checksum::Change;
use crate::packet::ipv4;
use crate::packet::tcp::{self, Tcp};
use crate::tables::Tables;

use super::inner::TRANSPORT;

/// Headers of a segment without options: what is left of the MTU is the MSS (RFC 9293 section 3.7.1).
const HEADERS: u32 = ipv4::LENGTH + tcp::LENGTH;
/// Option that offers an MSS, and its length.
const MSS: [u8; 2] = [2, 4];
/// Where TCP has its checksum.
const CHECKSUM: u32 = 16;
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
/// Octets of options at most.
const OPTIONS_MAX: u32 = 40;
/// Options and single octets of padding that are looked at: all that fit.
const STEPS_MAX: u32 = OPTIONS_MAX;

/// Lowers the offer of a site's SYN to what its tunnel carries towards it.
///
/// # Errors
/// [`DropReason::Internal`] if the frame changed its length meanwhile.
#[inline(never)]
pub fn clamp_from_site<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    site: u32,
    source: [u8; 4],
) -> Result<(), DropReason> {
    let settings = tables.settings().ok_or(DropReason::Internal)?;
    let key = SaOutboundKey {
        site: site.to_be_bytes(),
        destination: source,
    };
    let mtu = tables
        .sa_route(&key)
        .and_then(|number| tables.sa_outbound(number))
        .map_or(u32::MAX, |sa| sa.mtu);
    clamp(packet, limit(settings, mtu))
}

/// The largest MSS that may be offered through a tunnel whose inner MTU this is.
#[inline(always)]
#[must_use]
pub const fn limit(settings: &Settings, mtu: u32) -> u16 {
    let of_tunnel = mtu.saturating_sub(HEADERS);
    let most = settings.mss_max as u32;
    if settings.mss_max == 0 {
        // Off.
        u16::MAX
    } else if of_tunnel < most {
        of_tunnel as u16
    } else {
        settings.mss_max
    }
}

/// Lowers the offer in a segment with SYN, which is translated already; its checksum follows.
///
/// # Errors
/// [`DropReason::Internal`] if the frame changed its length meanwhile.
#[inline(never)]
pub fn clamp<P: Packet>(packet: &mut P, limit: u16) -> Result<(), DropReason> {
    let header: Tcp = packet.load(TRANSPORT).ok_or(DropReason::Internal)?;
    let Some(at) = find(packet, header.header_length()) else {
        return Ok(());
    };
    let offset = TRANSPORT + tcp::LENGTH + at + 2;
    let old: [u8; 2] = packet.load(offset).ok_or(DropReason::Internal)?;
    if u16::from_be_bytes(old) <= limit {
        return Ok(());
    }
    let new = limit.to_be_bytes();
    packet.store(offset, &new).ok_or(DropReason::Internal)?;
    // At an odd offset the two octets lie in two words of the sum, each in the other half (RFC 1071 section 2 B).
    let change = if at & 1 == 0 {
        Change::default().word(old, new)
    } else {
        let ([o0, o1], [n0, n1]) = (old, new);
        Change::default().word([o1, o0], [n1, n0])
    };
    packet
        .store(TRANSPORT + CHECKSUM, &change.apply(header.checksum))
        .ok_or(DropReason::Internal)
}

/// Where the option lies among the options of a header of `length` bytes, if it is there and whole.
#[inline(always)]
fn find<P: Packet>(packet: &P, length: u32) -> Option<u32> {
    let end = length.saturating_sub(tcp::LENGTH).min(OPTIONS_MAX);
    let (mut at, mut steps) = (0u32, 0u32);
    while steps < STEPS_MAX && at + 4 <= end {
        steps += 1;
        let option: [u8; 2] = packet.load(TRANSPORT + tcp::LENGTH + at)?;
        let [kind, option_length] = option;
        if option == MSS {
            return Some(at);
        }
        if kind == MSS[0] || kind == END || (kind != NO_OPERATION && option_length < 2) {
            return None;
        }
        at += if kind == NO_OPERATION {
            1
        } else {
            u32::from(option_length)
        };
        if at > OPTIONS_MAX {
            return None;
        }
        at = P::hide(at) & 0x3f;
    }
    None
}
