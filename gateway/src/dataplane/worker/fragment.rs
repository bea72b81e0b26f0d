//! Fragmentation of inner IPv4 packets that may be fragmented and do not fit the tunnel (RFC 791 section 3.2,
//! RFC 4301 section 8.1).

use core::ops::Range;

use gateway_esp::InnerIpv4;

const HEADER_LEN_MIN: usize = 20;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;
const OPTION_COPIED: u8 = 0x80;
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;

mod field {
    use core::ops::Range;
    pub(super) const TOTAL_LENGTH: Range<usize> = 2..4;
    pub(super) const IDENTIFICATION: Range<usize> = 4..6;
    pub(super) const FRAGMENT: Range<usize> = 6..8;
    pub(super) const CHECKSUM: Range<usize> = 10..12;
}

/// Cuts `packet` (an IPv4 packet, without link header) into fragments of at most `mtu` octets each, in order.
///
/// `None` if the packet is not a whole IPv4 packet or `mtu` leaves no room for eight octets of payload. The caller
/// has checked that the packet may be fragmented. Options without the copied flag stay in the first fragment only.
pub(crate) fn fragment(packet: &[u8], mtu: usize) -> Option<Vec<Vec<u8>>> {
    let total_len = InnerIpv4::parse(packet)?.total_len;
    let header_len = usize::from(packet.first()? & 0x0f) * 4;
    let header = packet.get(..header_len)?;
    let payload = packet.get(header_len..total_len)?;
    let later_header = header_of_later_fragments(header)?;
    let first_flags = load(header, field::FRAGMENT)?;
    let mut offset_units = first_flags & OFFSET_MASK;
    let mut rest = payload;
    let mut fragments = Vec::new();
    loop {
        let header = if fragments.is_empty() {
            header
        } else {
            &later_header
        };
        let room = mtu.checked_sub(header.len())? / 8 * 8;
        if room == 0 {
            return None;
        }
        // The last one may fill the octets that rounding to eight leaves.
        let last = rest.len() <= mtu - header.len();
        let (data, remaining) = rest.split_at_checked(if last { rest.len() } else { room })?;
        let more = if last {
            first_flags & MORE_FRAGMENTS
        } else {
            MORE_FRAGMENTS
        };
        if offset_units > OFFSET_MASK {
            return None;
        }
        fragments.push(build(header, data, more | offset_units)?);
        if last {
            return Some(fragments);
        }
        offset_units += (data.len() / 8) as u16;
        rest = remaining;
    }
}

/// Gives a fragment another identification; its header's checksum is made anew.
pub(crate) fn set_identification(header: &mut [u8], identification: u16) {
    if store(header, field::IDENTIFICATION, identification).is_none()
        || store(header, field::CHECKSUM, 0).is_none()
    {
        return;
    }
    let checksum = checksum(header);
    // It was stored there just now.
    let _ = store(header, field::CHECKSUM, checksum);
}

/// The header without the options that belong to the first fragment alone (RFC 791 section 3.1).
fn header_of_later_fragments(header: &[u8]) -> Option<Vec<u8>> {
    let mut kept = header.get(..HEADER_LEN_MIN)?.to_vec();
    let mut options = header.get(HEADER_LEN_MIN..)?;
    while let Some(&kind) = options.first() {
        if kind == OPTION_END {
            break;
        }
        let length = if kind == OPTION_NOP {
            1
        } else {
            usize::from(*options.get(1)?).max(2)
        };
        let (option, rest) = options.split_at_checked(length)?;
        if kind & OPTION_COPIED != 0 {
            kept.extend_from_slice(option);
        }
        options = rest;
    }
    kept.resize(kept.len().next_multiple_of(4), OPTION_END);
    let words = (kept.len() / 4) as u8;
    *kept.first_mut()? = 0x40 | words;
    Some(kept)
}

fn build(header: &[u8], data: &[u8], fragment_field: u16) -> Option<Vec<u8>> {
    let mut packet = [header, data].concat();
    let total_len = u16::try_from(packet.len()).ok()?;
    store(&mut packet, field::TOTAL_LENGTH, total_len)?;
    store(&mut packet, field::FRAGMENT, fragment_field)?;
    store(&mut packet, field::CHECKSUM, 0)?;
    let checksum = checksum(packet.get(..header.len())?);
    store(&mut packet, field::CHECKSUM, checksum)?;
    Some(packet)
}

fn load(bytes: &[u8], at: Range<usize>) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at)?.try_into().ok()?))
}

fn store(bytes: &mut [u8], at: Range<usize>, value: u16) -> Option<()> {
    bytes.get_mut(at)?.copy_from_slice(&value.to_be_bytes());
    Some(())
}

/// The Internet checksum (RFC 1071) of a header, whose length is even.
fn checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = header
        .chunks_exact(2)
        .map(|pair| pair.iter().fold(0, |word, &octet| word << 8 | u32::from(octet)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(options: &[u8], payload_len: usize, fragment_field: u16) -> Vec<u8> {
        let mut header = vec![
            0x40 | (5 + options.len() / 4) as u8,
            0,
            0,
            0,
            0x12,
            0x34,
            0,
            0,
            64,
            17,
            0,
            0,
        ];
        header.extend_from_slice(&[10, 0, 0, 1, 192, 168, 1, 2]);
        header.extend_from_slice(options);
        let payload: Vec<u8> = (0..payload_len).map(|i| (i % 251) as u8).collect();
        build(&header, &payload, fragment_field).unwrap()
    }

    /// The naive model: puts every octet at the place its fragment says.
    fn reassemble(fragments: &[Vec<u8>]) -> (Vec<u8>, bool) {
        let mut whole = Vec::new();
        let mut more = true;
        for fragment in fragments {
            let header_len = usize::from(fragment[0] & 15) * 4;
            assert_eq!(checksum(&fragment[..header_len]), 0, "header checksum");
            assert_eq!(
                usize::from(load(fragment, field::TOTAL_LENGTH).unwrap()),
                fragment.len()
            );
            let flags = load(fragment, field::FRAGMENT).unwrap();
            assert_eq!(
                usize::from(flags & OFFSET_MASK) * 8,
                whole.len(),
                "in order, without gap"
            );
            whole.extend_from_slice(&fragment[header_len..]);
            more = flags & MORE_FRAGMENTS != 0;
        }
        (whole, more)
    }

    #[test]
    fn every_length_survives_every_mtu() {
        for mtu in [68, 576, 577, 1280, 1438] {
            for payload_len in [1, 7, 8, 9, 48, 49, 555, 556, 557, 1460, 3000] {
                let packet = packet(&[], payload_len, 0);
                let fragments = fragment(&packet, mtu).unwrap();
                assert!(fragments.iter().all(|fragment| fragment.len() <= mtu));
                assert_eq!(reassemble(&fragments), (packet[20..].to_vec(), false));
            }
        }
    }

    #[test]
    fn a_fragment_keeps_its_offset_and_flag() {
        let packet = packet(&[], 160, MORE_FRAGMENTS | 5);
        let fragments = fragment(&packet, 68).unwrap();
        assert_eq!(load(&fragments[0], field::FRAGMENT), Some(MORE_FRAGMENTS | 5));
        let last = load(fragments.last().unwrap(), field::FRAGMENT).unwrap();
        assert_eq!(
            last & MORE_FRAGMENTS,
            MORE_FRAGMENTS,
            "more fragments of the original follow"
        );
    }

    #[test]
    fn only_copied_options_are_repeated() {
        // Timestamp (68, not copied) of 4 octets, then loose source route (131, copied) of 3 and a NOP.
        let packet = packet(&[68, 4, 5, 0, 131, 3, 4, 1], 200, 0);
        let fragments = fragment(&packet, 68).unwrap();
        assert_eq!(fragments[0][20..28], [68, 4, 5, 0, 131, 3, 4, 1]);
        assert_eq!(fragments[1][0], 0x46);
        assert_eq!(fragments[1][20..24], [131, 3, 4, 0]);
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(fragment(&[], 1280), None);
        assert_eq!(fragment(&packet(&[], 100, 0)[..60], 1280), None, "cut short");
        assert_eq!(
            fragment(&packet(&[], 100, 0), 27),
            None,
            "no room for eight octets"
        );
        assert_eq!(
            fragment(&packet(&[131, 9, 4, 0], 100, 0), 68),
            None,
            "option runs over the header"
        );
    }
}
