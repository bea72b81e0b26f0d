//! Frames built from plain words, with checksums summed in full: what the packet core's incremental ones must equal.

use gateway_common::abi::sa::LinkHeader;
use gateway_common::packet::tcp::flag;
use zerocopy::IntoBytes as _;

/// Initial sequence number of both ends of a connection.
pub const ISN: u32 = 0xffff_fff0;
/// Window of a segment.
pub const WINDOW: u16 = 0xfaf0;

/// An address and a port.
pub type End = ([u8; 4], u16);

/// What an IPv4 packet carries.
#[derive(Clone, Debug)]
pub enum Payload {
    /// TCP segment.
    Tcp {
        /// Flags.
        flags: u8,
        /// Sequence number.
        sequence: u32,
        /// Acknowledgment number.
        acknowledgment: u32,
        /// Window.
        window: u16,
        /// Options, a multiple of four bytes.
        options: Vec<u8>,
        /// Data.
        data: Vec<u8>,
    },
    /// UDP datagram.
    Udp {
        /// Whether it has a checksum.
        checksum: bool,
        /// Data.
        data: Vec<u8>,
    },
    /// ICMP echo request (or reply); its identifier is the port of the site's end.
    Echo {
        /// Reply.
        reply: bool,
    },
    /// Another protocol.
    Other {
        /// Its number.
        protocol: u8,
        /// What it carries.
        data: Vec<u8>,
    },
}

/// An IPv4 packet in plain words.
#[derive(Clone, Debug)]
pub struct Clear {
    /// Source.
    pub source: End,
    /// Destination.
    pub destination: End,
    /// TTL.
    pub ttl: u8,
    /// "Don't fragment".
    pub dont_fragment: bool,
    /// Payload.
    pub payload: Payload,
}

impl Clear {
    /// A TCP segment with three bytes of data, unless it is a SYN. Both ends begin at [`ISN`]; any other segment is the
    /// first behind the SYN, and acknowledges the SYN.
    #[must_use]
    pub fn tcp(source: End, destination: End, flags: u8) -> Self {
        let data = if flags & flag::SYN != 0 {
            vec![]
        } else {
            b"abc".to_vec()
        };
        let first = ISN.wrapping_add(1);
        let payload = Payload::Tcp {
            flags,
            sequence: if flags & flag::SYN != 0 { ISN } else { first },
            acknowledgment: if flags & flag::ACK != 0 { first } else { 0 },
            window: WINDOW,
            options: vec![],
            data,
        };
        Self::new(source, destination, payload)
    }

    /// A UDP datagram of five bytes.
    #[must_use]
    pub fn udp(source: End, destination: End) -> Self {
        Self::new(
            source,
            destination,
            Payload::Udp {
                checksum: true,
                data: b"query".to_vec(),
            },
        )
    }

    /// An echo request.
    #[must_use]
    pub fn ping(source: [u8; 4], identifier: u16, destination: [u8; 4]) -> Self {
        Self::new(
            (source, identifier),
            (destination, 0),
            Payload::Echo { reply: false },
        )
    }

    /// An echo reply.
    #[must_use]
    pub fn pong(source: [u8; 4], destination: [u8; 4], identifier: u16) -> Self {
        Self::new(
            (source, 0),
            (destination, identifier),
            Payload::Echo { reply: true },
        )
    }

    fn new(source: End, destination: End, payload: Payload) -> Self {
        Self {
            source,
            destination,
            ttl: 64,
            dont_fragment: true,
            payload,
        }
    }

    /// The packet with this TTL.
    #[must_use]
    pub fn ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }

    /// The packet, which may be fragmented.
    #[must_use]
    pub fn fragmentable(self) -> Self {
        Self {
            dont_fragment: false,
            ..self
        }
    }

    /// The datagram without a checksum.
    #[must_use]
    pub fn without_checksum(mut self) -> Self {
        if let Payload::Udp { checksum, .. } = &mut self.payload {
            *checksum = false;
        }
        self
    }

    /// The segment this much further on: its sequence number, its acknowledgment number.
    #[must_use]
    pub fn at(mut self, sent: u32, acknowledged: u32) -> Self {
        if let Payload::Tcp {
            sequence,
            acknowledgment,
            ..
        } = &mut self.payload
        {
            *sequence = sequence.wrapping_add(sent);
            *acknowledgment = acknowledgment.wrapping_add(acknowledged);
        }
        self
    }

    /// The segment with this window.
    #[must_use]
    pub fn window(mut self, octets: u16) -> Self {
        if let Payload::Tcp { window, .. } = &mut self.payload {
            *window = octets;
        }
        self
    }

    /// The segment with these options.
    #[must_use]
    pub fn options(mut self, bytes: &[u8]) -> Self {
        if let Payload::Tcp { options, .. } = &mut self.payload {
            *options = bytes.to_vec();
        }
        self
    }

    /// The packet with `length` bytes of data.
    #[must_use]
    pub fn data(mut self, length: usize) -> Self {
        if let Payload::Udp { data, .. } | Payload::Tcp { data, .. } | Payload::Other { data, .. } =
            &mut self.payload
        {
            *data = (0..length).map(|byte| byte as u8).collect();
        }
        self
    }

    /// What a router one hop on, which translates nothing, would send.
    #[must_use]
    pub fn forwarded(self) -> Self {
        let ttl = self.ttl - 1;
        self.ttl(ttl)
    }

    /// The packet with another source.
    #[must_use]
    pub fn from(self, source: End) -> Self {
        Self { source, ..self }
    }

    /// The packet with another destination.
    #[must_use]
    pub fn to(self, destination: End) -> Self {
        Self { destination, ..self }
    }

    /// Bytes of the packet.
    #[must_use]
    pub fn packet(&self) -> Vec<u8> {
        let (protocol, payload) = self.transport();
        let mut packet = ipv4(protocol, self.source.0, self.destination.0, &payload);
        packet[8] = self.ttl;
        packet[6] = if self.dont_fragment { 0x40 } else { 0 };
        fix_ipv4(&mut packet);
        packet
    }

    fn transport(&self) -> (u8, Vec<u8>) {
        let pseudo = |protocol: u8, payload: &[u8]| {
            let mut bytes = [self.source.0, self.destination.0].concat();
            bytes.extend([0, protocol]);
            bytes.extend((payload.len() as u16).to_be_bytes());
            bytes.extend(payload);
            checksum(&bytes)
        };
        let ports = [self.source.1.to_be_bytes(), self.destination.1.to_be_bytes()].concat();
        match &self.payload {
            Payload::Tcp {
                flags,
                sequence,
                acknowledgment,
                window,
                options,
                data,
            } => {
                let mut bytes = ports;
                bytes.extend(sequence.to_be_bytes());
                bytes.extend(acknowledgment.to_be_bytes());
                bytes.extend([(5 + options.len() as u8 / 4) << 4, *flags]);
                bytes.extend(window.to_be_bytes());
                bytes.extend([0; 4]);
                bytes.extend(options);
                bytes.extend(data);
                let sum = pseudo(6, &bytes);
                bytes[16..18].copy_from_slice(&sum);
                (6, bytes)
            }
            Payload::Udp { checksum, data } => {
                let mut bytes = ports;
                bytes.extend((8 + data.len() as u16).to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend(data);
                if *checksum {
                    let sum = match pseudo(17, &bytes) {
                        [0, 0] => [0xff, 0xff],
                        sum => sum,
                    };
                    bytes[6..8].copy_from_slice(&sum);
                }
                (17, bytes)
            }
            Payload::Echo { reply } => {
                let identifier = if *reply { self.destination.1 } else { self.source.1 };
                let mut bytes = vec![if *reply { 0 } else { 8 }, 0, 0, 0];
                bytes.extend(identifier.to_be_bytes());
                bytes.extend([0, 1]);
                bytes.extend(b"0123456789");
                let sum = checksum(&bytes);
                bytes[2..4].copy_from_slice(&sum);
                (1, bytes)
            }
            Payload::Other { protocol, data } => (*protocol, data.clone()),
        }
    }

    /// The packet on the clear link, or on its way to a worker.
    #[must_use]
    pub fn linked(&self, site: u32, sa_index: u32) -> Vec<u8> {
        [LinkHeader::new(site, sa_index).as_bytes(), &self.packet()].concat()
    }

    /// The packet in Ethernet.
    #[must_use]
    pub fn ethernet(&self, destination: [u8; 6], source: [u8; 6]) -> Vec<u8> {
        ethernet(destination, source, 0x0800, &self.packet())
    }
}

/// An Ethernet frame.
#[must_use]
pub fn ethernet(destination: [u8; 6], source: [u8; 6], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&destination[..], &source, &ether_type.to_be_bytes(), payload].concat()
}

/// An IPv4 packet with a TTL of 64.
#[must_use]
pub fn ipv4(protocol: u8, source: [u8; 4], destination: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((20 + payload.len() as u16).to_be_bytes());
    packet.extend([0x12, 0x34, 0, 0, 64, protocol, 0, 0]);
    packet.extend(source);
    packet.extend(destination);
    packet.extend(payload);
    fix_ipv4(&mut packet);
    packet
}

/// An IPv4 packet without options in fragments; `cuts` are the places of the later ones, multiples of eight.
#[must_use]
pub fn fragments(packet: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
    let payload = &packet[20..];
    let starts = [&[0], cuts].concat();
    let ends = [cuts, &[payload.len()]].concat();
    let piece = |(start, end): (&usize, &usize)| {
        let mut fragment = packet[..20].to_vec();
        fragment.extend(&payload[*start..*end]);
        let more = if *end < payload.len() { 0x2000 } else { 0 };
        let place = more | (*start / 8) as u16;
        fragment[2..4].copy_from_slice(&((20 + end - start) as u16).to_be_bytes());
        fragment[6..8].copy_from_slice(&place.to_be_bytes());
        fix_ipv4(&mut fragment);
        fragment
    };
    starts.iter().zip(&ends).map(piece).collect()
}

/// An IPv6 packet with a hop limit of 255.
#[must_use]
pub fn ipv6(next_header: u8, source: [u8; 16], destination: [u8; 16], payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next_header, 255]);
    packet.extend(source);
    packet.extend(destination);
    packet.extend(payload);
    packet
}

/// A UDP datagram without a checksum.
#[must_use]
pub fn udp(source_port: u16, destination_port: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = [source_port.to_be_bytes(), destination_port.to_be_bytes()].concat();
    bytes.extend((8 + data.len() as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(data);
    bytes
}

/// Sets the header checksum of an IPv4 packet without options.
pub fn fix_ipv4(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum = checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum);
}

/// The Internet checksum, word by word in big-endian order (RFC 1071).
#[must_use]
pub fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum = 0u64;
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u64::from);
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// Whether the checksums of an IPv4 packet (with a TCP, UDP or ICMP payload that is not a fragment) are right.
#[must_use]
pub fn checksums_are_valid(packet: &[u8]) -> bool {
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let (header, payload) = packet[..total].split_at(20);
    let mut bytes = vec![];
    match header[9] {
        17 if payload[6..8] == [0, 0] => return checksum(header) == [0, 0],
        6 | 17 => {
            bytes.extend(&header[12..20]);
            bytes.extend([0, header[9]]);
            bytes.extend((payload.len() as u16).to_be_bytes());
        }
        _ => {}
    }
    bytes.extend(payload);
    checksum(header) == [0, 0] && checksum(&bytes) == [0, 0]
}
