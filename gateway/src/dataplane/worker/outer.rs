//! Fragments of outer packets, and the packets that they make (RFC 791 section 3.2, RFC 8200 section 4.5).

use std::net::IpAddr;

use gateway_common::drop::DropReason;
use gateway_common::packet::ipv4::protocol;
use gateway_esp::tunnel::{IPV4_HEADER_LEN, IPV6_HEADER_LEN, LINK_HEADER_LEN, UDP_HEADER_LEN};

use super::reassembly::{Key, Piece};

const IPV6_FRAGMENT: u8 = 44;
const FRAGMENT_HEADER_LEN: usize = 8;
const PORT_IKE: u16 = 500;
const PORT_NAT_TRAVERSAL: u16 = 4500;
/// What is in front of IKE on the port of NAT traversal (RFC 3948 section 2.2).
const NON_ESP_MARKER: [u8; 4] = [0; 4];
/// Octets of an IKE header (RFC 7296 section 3.1).
const IKE_HEADER_LEN: usize = 28;
const ECN: u8 = 0b11;
const CE: u8 = 0b11;

/// A fragment of an outer packet.
pub(super) struct OuterFragment {
    pub(super) key: Key,
    pub(super) piece: Piece,
}

/// What outer fragments make.
pub(super) enum Assembled {
    /// A frame with ESP.
    Esp(Vec<u8>),
    /// An IKE message with its source and destination port; on port 4500 with the marker that the socket expects. Where its
    /// header begins.
    Ike {
        ports: (u16, u16),
        payload: Vec<u8>,
        header: usize,
    },
}

impl OuterFragment {
    /// Reads a frame of the outer interface; `None` if it is no sound fragment of ESP or UDP.
    pub(super) fn parse(frame: &[u8]) -> Option<Self> {
        let ip = frame.get(LINK_HEADER_LEN..)?;
        let fragment = match frame.get(LINK_HEADER_LEN - 2..LINK_HEADER_LEN)? {
            [0x08, 0x00] => Self::ipv4(frame, ip),
            [0x86, 0xdd] => Self::ipv6(frame, ip),
            _ => None,
        }?;
        matches!(fragment.key.protocol, protocol::ESP | protocol::UDP).then_some(fragment)
    }

    fn ipv4(frame: &[u8], ip: &[u8]) -> Option<Self> {
        let header = ip.first_chunk::<IPV4_HEADER_LEN>()?;
        let [
            version,
            _,
            l0,
            l1,
            i0,
            i1,
            f0,
            f1,
            _,
            protocol,
            _,
            _,
            addresses @ ..,
        ] = *header;
        let [s0, s1, s2, s3, d0, d1, d2, d3] = addresses;
        let place = u16::from_be_bytes([f0, f1]);
        if version != 0x45 {
            return None;
        }
        let end = usize::from(u16::from_be_bytes([l0, l1]));
        Some(Self {
            key: Key {
                scope: 0,
                source: IpAddr::from([s0, s1, s2, s3]),
                destination: IpAddr::from([d0, d1, d2, d3]),
                identification: u16::from_be_bytes([i0, i1]).into(),
                protocol,
            },
            piece: Piece {
                offset: usize::from(place & 0x1fff) * 8,
                more: place & 0x2000 != 0,
                header: frame.get(..LINK_HEADER_LEN + IPV4_HEADER_LEN)?.to_vec(),
                payload: ip.get(IPV4_HEADER_LEN..end)?.to_vec(),
            },
        })
    }

    fn ipv6(frame: &[u8], ip: &[u8]) -> Option<Self> {
        let header = ip.first_chunk::<IPV6_HEADER_LEN>()?;
        let [first, _, _, _, l0, l1, next, _, addresses @ ..] = *header;
        let (source, destination) = addresses.split_at_checked(16)?;
        let rest = ip.get(IPV6_HEADER_LEN..)?;
        let &[protocol, _, f0, f1, i0, i1, i2, i3] = rest.first_chunk::<FRAGMENT_HEADER_LEN>()?;
        let place = u16::from_be_bytes([f0, f1]);
        if first >> 4 != 6 || next != IPV6_FRAGMENT {
            return None;
        }
        let end = usize::from(u16::from_be_bytes([l0, l1]));
        Some(Self {
            key: Key {
                scope: 0,
                source: IpAddr::from(<[u8; 16]>::try_from(source).ok()?),
                destination: IpAddr::from(<[u8; 16]>::try_from(destination).ok()?),
                identification: u32::from_be_bytes([i0, i1, i2, i3]),
                protocol,
            },
            piece: Piece {
                offset: usize::from(place >> 3) * 8,
                more: place & 1 != 0,
                header: frame.get(..LINK_HEADER_LEN + IPV6_HEADER_LEN)?.to_vec(),
                payload: rest.get(FRAGMENT_HEADER_LEN..end)?.to_vec(),
            },
        })
    }
}

/// What the first fragment must hold: SPI and sequence number, or the UDP header and what tells IKE from ESP.
pub(super) const fn header_min(protocol: u8) -> usize {
    match protocol {
        protocol::UDP => UDP_HEADER_LEN + NON_ESP_MARKER.len(),
        _ => 8,
    }
}

/// Puts a packet together.
///
/// # Errors
/// The reason to drop it.
pub(super) fn assemble(key: &Key, pieces: &[Piece]) -> Result<Assembled, DropReason> {
    let mut frame = pieces
        .first()
        .ok_or(DropReason::FragmentMalformed)?
        .header
        .clone();
    let tos = tos(pieces).ok_or(DropReason::EspEcn)?;
    let payload: Vec<u8> = pieces
        .iter()
        .flat_map(|piece| piece.payload.iter().copied())
        .collect();
    if key.protocol == protocol::UDP
        && let Some(ike) = ike(key, &payload)?
    {
        return Ok(ike);
    }
    whole_header(&mut frame, key, tos, payload.len()).ok_or(DropReason::FragmentMalformed)?;
    frame.extend(payload);
    Ok(Assembled::Esp(frame))
}

/// The message, if a datagram is IKE.
fn ike(key: &Key, datagram: &[u8]) -> Result<Option<Assembled>, DropReason> {
    let (udp, payload) = datagram
        .split_first_chunk::<UDP_HEADER_LEN>()
        .ok_or(DropReason::TruncatedUdp)?;
    let [s0, s1, d0, d1, l0, l1, c0, c1] = *udp;
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    let payload = length
        .checked_sub(UDP_HEADER_LEN)
        .and_then(|length| payload.get(..length))
        .ok_or(DropReason::TruncatedUdp)?;
    let (source, destination) = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
    let header = match destination {
        PORT_IKE => 0,
        PORT_NAT_TRAVERSAL if payload.starts_with(&NON_ESP_MARKER) => NON_ESP_MARKER.len(),
        PORT_NAT_TRAVERSAL => return Ok(None),
        _ => return Err(DropReason::OuterProtocol),
    };
    if payload.len() - header < IKE_HEADER_LEN {
        return Err(DropReason::TruncatedUdp);
    }
    // Optional over IPv4 alone (RFC 768, RFC 8200 section 8.1).
    let is_absent = [c0, c1] == [0, 0];
    let is_right = if is_absent {
        key.source.is_ipv4()
    } else {
        udp_sum(key, datagram.get(..length).unwrap_or_default()) == 0xffff
    };
    if !is_right {
        return Err(DropReason::TruncatedUdp);
    }
    Ok(Some(Assembled::Ike {
        ports: (source, destination),
        payload: payload.to_vec(),
        header,
    }))
}

/// Makes the header of a first fragment that of the whole packet. Nobody checks its checksum again.
fn whole_header(frame: &mut [u8], key: &Key, tos: u8, payload: usize) -> Option<()> {
    let ip = frame.get_mut(LINK_HEADER_LEN..)?;
    if key.source.is_ipv4() {
        let length = u16::try_from(IPV4_HEADER_LEN + payload).ok()?.to_be_bytes();
        *ip.get_mut(1)? = tos;
        ip.get_mut(2..4)?.copy_from_slice(&length);
        ip.get_mut(6..8)?.fill(0);
    } else {
        let length = u16::try_from(payload).ok()?.to_be_bytes();
        let [first, second, ..] = ip else { return None };
        *first = *first & 0xf0 | tos >> 4;
        *second = *second & 0x0f | tos << 4;
        ip.get_mut(4..6)?.copy_from_slice(&length);
        *ip.get_mut(6)? = key.protocol;
    }
    Some(())
}

/// DSCP and ECN of the packet: congestion that any fragment met, the packet met (RFC 3168 section 5.3). `None` if fragments
/// contradict each other: then it must not look as if there had been none.
fn tos(pieces: &[Piece]) -> Option<u8> {
    let of = |piece: &Piece| {
        let ip = piece.header.get(LINK_HEADER_LEN..)?;
        let (&first, &second) = (ip.first()?, ip.get(1)?);
        Some(if first >> 4 == 4 {
            second
        } else {
            first << 4 | second >> 4
        })
    };
    let first = of(pieces.first()?)?;
    let mut ecn = first & ECN;
    for piece in pieces {
        let other = of(piece)? & ECN;
        if (other == 0) != (ecn == 0) && (other == CE || ecn == CE) {
            return None;
        }
        if other == CE {
            ecn = CE;
        }
    }
    Some(first & !ECN | ecn)
}

/// One's complement sum of a datagram with its pseudo-header: all ones if the checksum is right.
fn udp_sum(key: &Key, datagram: &[u8]) -> u16 {
    let mut sum = u64::from(protocol::UDP) + datagram.len() as u64;
    let mut add = |bytes: &[u8]| {
        for pair in bytes.chunks(2) {
            let high = pair.first().copied().unwrap_or(0);
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u64::from(u16::from_be_bytes([high, low]));
        }
    };
    for address in [key.source, key.destination] {
        match address {
            IpAddr::V4(address) => add(&address.octets()),
            IpAddr::V6(address) => add(&address.octets()),
        }
    }
    add(datagram);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
