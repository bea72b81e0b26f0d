//! The clear IPv4 packet between site and center: strict parsing, and translation of one of its ends.

use crate::abi::flow::{FlowKey, KeyWords, pair};
use crate::abi::nat::OutsideKey;
use crate::abi::sa::{LinkHeader, fragment};
use crate::drop::DropReason;
use crate::packet::{
    Packet,
    checksum::Change,
    ethernet,
    icmp::{self, Icmp, Query},
    ipv4::{self, Fault, Ipv4, is_host_address, protocol},
    tcp::{self, flags_are_sane},
    udp,
};

use crate::tables::hash;

use super::filter::Direction;
use super::tcp::{NO_SCALE, SCALE_MAX, Segment};

/// Offset of the IP header in the frame.
pub const IP: u32 = ethernet::LENGTH;
/// Offset of the transport header in the frame.
pub const TRANSPORT: u32 = IP + ipv4::LENGTH;

/// What is tracked of a packet. For ICMP queries the identifier stands at the site's end, [`Query::port`] at the other. Laid out so
/// that headers are aligned, which BPF moves by words then.
#[repr(C, align(4))]
#[derive(Clone, Copy)]
pub struct Inner {
    /// IP header.
    pub ip: Ipv4,
    /// What the filter looks at in TCP; empty otherwise.
    pub segment: Segment,
    /// Ports.
    pub ports: Ports,
    /// Transport checksum.
    pub checksum: [u8; 2],
}

/// Source and destination port, side by side as in the packet: moved, hashed and compared as one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports(u32);

impl Ports {
    /// None.
    pub const NONE: Self = Self(0);

    /// These ports, in network order.
    #[inline(always)]
    #[must_use]
    pub const fn new(source: [u8; 2], destination: [u8; 2]) -> Self {
        Self(hash::ports(source, destination))
    }

    /// Both as one word, in memory order.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u32 {
        self.0
    }

    /// Source port, in network order.
    #[inline(always)]
    #[must_use]
    pub const fn source(self) -> [u8; 2] {
        let [s0, s1, _, _] = self.0.to_ne_bytes();
        [s0, s1]
    }

    /// Destination port, in network order.
    #[inline(always)]
    #[must_use]
    pub const fn destination(self) -> [u8; 2] {
        let [_, _, d0, d1] = self.0.to_ne_bytes();
        [d0, d1]
    }
}

impl Inner {
    /// Nothing, to be overwritten.
    pub const NONE: Self = Self {
        ip: Ipv4 {
            version_length: 0,
            traffic_class: 0,
            total_length: [0; 2],
            identification: [0; 2],
            fragment: [0; 2],
            ttl: 0,
            protocol: 0,
            checksum: [0; 2],
            source: [0; 4],
            destination: [0; 4],
        },
        segment: Segment::NONE,
        ports: Ports::NONE,
        checksum: [0; 2],
    };

    /// Parses the packet behind the link header. `direction` says which ICMP query type may be seen. Apart from its caller: stages
    /// have little stack, and are in no hurry.
    ///
    /// # Errors
    /// The reason to drop it.
    #[inline(always)]
    pub fn parse<P: Packet>(packet: &P, direction: Direction) -> Result<Self, DropReason> {
        let mut inner = Self::NONE;
        inner.read_apart(packet, direction)?;
        Ok(inner)
    }

    #[inline(never)]
    fn read_apart<P: Packet>(&mut self, packet: &P, direction: Direction) -> Result<(), DropReason> {
        self.read(packet, direction)
    }

    /// The same, to where it stays: BPF would copy a result octet by octet. In its caller: for the stages of every packet, which do
    /// without a call.
    ///
    /// # Errors
    /// The reason to drop it.
    #[inline(always)]
    pub fn read<P: Packet>(&mut self, packet: &P, direction: Direction) -> Result<(), DropReason> {
        self.parse_as::<P, false, false>(packet, direction)
    }

    /// The same for a packet or the first fragment of one, as the whole packet reads: the link header says how long that
    /// is. A worker has seen to it that the transport header is in it.
    ///
    /// # Errors
    /// The reason to drop it.
    #[inline(always)]
    pub fn parse_any<P: Packet>(packet: &P, direction: Direction) -> Result<Self, DropReason> {
        let mut inner = Self::NONE;
        inner.read_any(packet, direction)?;
        Ok(inner)
    }

    /// The same, to where it stays.
    ///
    /// # Errors
    /// The reason to drop it.
    #[inline(never)]
    pub fn read_any<P: Packet>(&mut self, packet: &P, direction: Direction) -> Result<(), DropReason> {
        self.parse_as::<P, true, false>(packet, direction)
    }

    /// The same for what a site sends to another, which may be the reply to a query as well. Its identifier stands at the
    /// sender's end all the same: to the sender's own flow it is the site's.
    ///
    /// # Errors
    /// The reason to drop it.
    #[inline(always)]
    pub fn parse_between<P: Packet>(packet: &P) -> Result<Self, DropReason> {
        let mut inner = Self::NONE;
        inner.read_between(packet)?;
        Ok(inner)
    }

    #[inline(never)]
    fn read_between<P: Packet>(&mut self, packet: &P) -> Result<(), DropReason> {
        self.parse_as::<P, true, true>(packet, Direction::Out)
    }

    #[inline(always)]
    fn parse_as<P: Packet, const ANY: bool, const BETWEEN: bool>(
        &mut self,
        packet: &P,
        direction: Direction,
    ) -> Result<(), DropReason> {
        packet
            .load_into(IP, &mut self.ip)
            .ok_or(DropReason::InnerMalformed)?;
        let ip = &self.ip;
        ip.check(packet.len().saturating_sub(IP))
            .map_err(|fault| match fault {
                Fault::Malformed | Fault::Truncated => DropReason::InnerMalformed,
                Fault::Options => DropReason::InnerOptions,
            })?;
        let of_first = if ANY {
            length_of_first(packet, direction)?
        } else {
            0
        };
        if ip.is_fragment() != (of_first != 0) || ip.is_later_fragment() {
            return Err(DropReason::InnerFragment);
        }
        if !is_host_address(ip.source) || !is_host_address(ip.destination) || ip.source == ip.destination {
            return Err(DropReason::InnerAddress);
        }
        let mut length = ip.total_length().saturating_sub(ipv4::LENGTH);
        if ANY && of_first != 0 {
            length = of_first;
        }
        let protocol = ip.protocol;
        match protocol {
            protocol::TCP => self.tcp(packet, length),
            protocol::UDP => self.udp(packet, length),
            protocol::ICMP => self.icmp::<P, BETWEEN>(packet, length, direction),
            other if is_tracked_by_address(other) => {
                self.ports(Ports::NONE, [0; 2]);
                self.segment = Segment::NONE;
                Ok(())
            }
            _ => Err(DropReason::InnerProtocol),
        }?;
        // What follows is verified once, not once for each protocol.
        self.ip.protocol = P::hide(u32::from(protocol)) as u8;
        Ok(())
    }

    #[inline(always)]
    fn tcp<P: Packet>(&mut self, packet: &P, length: u32) -> Result<(), DropReason> {
        let [ports, sequence, acknowledgment, control, rest] = packet
            .load_words(TRANSPORT)
            .ok_or(DropReason::TruncatedTransport)?;
        let control = u32::from_be(control);
        let (header_length, flags) = (control >> 28 << 2, (control >> 16) as u8);
        if header_length < tcp::LENGTH || header_length > length {
            return Err(DropReason::TruncatedTransport);
        }
        if !flags_are_sane(flags) {
            return Err(DropReason::TcpFlags);
        }
        let scale = if flags & tcp::flag::SYN != 0 {
            window_scale(packet, header_length)
        } else {
            NO_SCALE
        };
        let [c0, c1, _, _] = rest.to_ne_bytes();
        self.ports(Ports(ports), [c0, c1]);
        self.segment = Segment {
            sequence: u32::from_be(sequence),
            acknowledgment: u32::from_be(acknowledgment),
            length: length - header_length,
            window: control as u16,
            flags,
            scale,
        };
        self.with_ports()
    }

    #[inline(always)]
    fn udp<P: Packet>(&mut self, packet: &P, length: u32) -> Result<(), DropReason> {
        let [ports, rest] = packet
            .load_words(TRANSPORT)
            .ok_or(DropReason::TruncatedTransport)?;
        let [l0, l1, c0, c1] = rest.to_ne_bytes();
        let own_length = u32::from(u16::from_be_bytes([l0, l1]));
        udp::fits(own_length, length).ok_or(DropReason::TruncatedTransport)?;
        self.ports(Ports(ports), [c0, c1]);
        self.segment = Segment::NONE;
        self.with_ports()
    }

    #[inline(always)]
    fn icmp<P: Packet, const BETWEEN: bool>(
        &mut self,
        packet: &P,
        length: u32,
        direction: Direction,
    ) -> Result<(), DropReason> {
        let header: Icmp = packet.load(TRANSPORT).ok_or(DropReason::TruncatedTransport)?;
        if length < icmp::LENGTH {
            return Err(DropReason::TruncatedTransport);
        }
        let Icmp {
            checksum, identifier, ..
        } = header;
        let query = Query::of(header.kind, header.code).ok_or(DropReason::IcmpType)?;
        let (source_port, destination_port, is_reply) = match direction {
            Direction::Out => (identifier, query.port, false),
            Direction::In => (query.port, identifier, true),
        };
        if query.is_reply != is_reply && !BETWEEN {
            return Err(DropReason::IcmpType);
        }
        self.ports(Ports::new(source_port, destination_port), checksum);
        self.segment = Segment::NONE;
        Ok(())
    }

    #[inline(always)]
    const fn ports(&mut self, ports: Ports, checksum: [u8; 2]) {
        self.ports = ports;
        self.checksum = checksum;
    }

    /// Port zero is reserved; as a destination it is never meant (RFC 6335 section 6).
    #[inline(always)]
    fn with_ports(&self) -> Result<(), DropReason> {
        if self.ports.source() == [0; 2] || self.ports.destination() == [0; 2] {
            return Err(DropReason::TruncatedTransport);
        }
        Ok(())
    }

    /// Length of the packet in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn length(&self) -> u32 {
        self.ip.total_length()
    }

    /// The flow of a packet that the site sent.
    #[inline(always)]
    #[must_use]
    pub const fn flow_from_site(&self, site: u32) -> FlowKey {
        FlowKey {
            site,
            source: self.ip.source,
            destination: self.ip.destination,
            source_port: self.ports.source(),
            destination_port: self.ports.destination(),
            protocol: self.ip.protocol,
            pad: [0; 3],
        }
    }

    /// The same as a record has it.
    #[inline(always)]
    #[must_use]
    pub const fn key_words(&self, site: u32) -> KeyWords {
        let [source, destination] = [self.ip.source, self.ip.destination];
        KeyWords {
            site_source: pair(site, u32::from_ne_bytes(source)),
            destination_ports: pair(u32::from_ne_bytes(destination), self.ports.word()),
            protocol: self.ip.protocol,
        }
    }

    /// The translated endpoint that a packet of the center is sent to.
    #[inline(always)]
    #[must_use]
    pub const fn outside(&self) -> OutsideKey {
        OutsideKey {
            address: self.ip.destination,
            port: self.ports.destination(),
            protocol: self.ip.protocol,
            pad: 0,
        }
    }

    /// Translates the site's end of the packet (source on the way out, destination on the way in), decrements the TTL
    /// and updates both checksums.
    ///
    /// # Errors
    /// [`DropReason::Internal`] if the frame changed its length meanwhile.
    #[inline(always)]
    pub fn translate<P: Packet>(
        &self,
        packet: &mut P,
        direction: Direction,
        address: [u8; 4],
        port: [u8; 2],
    ) -> Result<(), DropReason> {
        let old_port = match direction {
            Direction::Out => self.ports.source(),
            Direction::In => self.ports.destination(),
        };
        let addresses = translate_header(packet, &self.ip, direction, address)?;

        // Each protocol writes by itself: where it writes is known then, and so is that it is in the frame. The pseudo-header
        // has the addresses in it, but ICMP has no pseudo-header.
        match self.ip.protocol {
            protocol::TCP => {
                let checksum = addresses.word(old_port, port).apply(self.checksum);
                store_end(packet, (port_offset(direction), port), (16, checksum))
            }
            protocol::UDP => {
                let checksum = addresses.word(old_port, port).apply_udp(self.checksum);
                store_end(packet, (port_offset(direction), port), (6, checksum))
            }
            protocol::ICMP => {
                let checksum = Change::default().word(old_port, port).apply(self.checksum);
                store_end(packet, (4, port), (2, checksum))
            }
            // Neither ports nor a checksum over addresses.
            _ => Ok(()),
        }
    }
}

/// Writes port and checksum, each at its offset in the transport header.
#[inline(always)]
fn store_end<P: Packet>(
    packet: &mut P,
    (port_offset, port): (u32, [u8; 2]),
    (checksum_offset, checksum): (u32, [u8; 2]),
) -> Result<(), DropReason> {
    packet
        .store(TRANSPORT + port_offset, &port)
        .ok_or(DropReason::Internal)?;
    packet
        .store(TRANSPORT + checksum_offset, &checksum)
        .ok_or(DropReason::Internal)
}

/// Length of the packet behind its IP header, if the link header says that this is the first fragment of one; else zero.
#[inline(always)]
fn length_of_first<P: Packet>(packet: &P, direction: Direction) -> Result<u32, DropReason> {
    let link: LinkHeader = packet.load(0).ok_or(DropReason::TruncatedLink)?;
    let wanted = match direction {
        Direction::Out => fragment::SITE_FIRST,
        Direction::In => fragment::CENTER_FIRST,
    };
    let [_, _, l0, l1] = link.sa_index;
    let mask = u32::from(link.mark_sa == wanted).wrapping_neg();
    Ok(P::hide(u32::from(u16::from_be_bytes([l0, l1])) & mask))
}

/// Translates one address of an IP header, decrements its TTL and updates its checksum: all that a later fragment has.
/// Answers how the addresses changed.
///
/// # Errors
/// [`DropReason::Internal`] if the frame changed its length meanwhile.
#[inline(always)]
pub fn translate_header<P: Packet>(
    packet: &mut P,
    ip: &Ipv4,
    direction: Direction,
    address: [u8; 4],
) -> Result<Change, DropReason> {
    let old_address = match direction {
        Direction::Out => ip.source,
        Direction::In => ip.destination,
    };
    let addresses = Change::default().double(old_address, address);
    let ttl = [ip.ttl.saturating_sub(1), ip.protocol];
    let checksum = addresses.word(ip.ttl_word(), ttl).apply(ip.checksum);
    let ([ttl, protocol], [c0, c1]) = (ttl, checksum);
    let front = [ttl, protocol, c0, c1];
    let stored = match direction {
        Direction::Out => packet.store(IP + ipv4::TTL, &[front, address]),
        Direction::In => packet.store(IP + ipv4::TTL, &[front, ip.source, address]),
    };
    stored.ok_or(DropReason::Internal)?;
    Ok(addresses)
}

/// Whether flows of a protocol are told apart by address alone. Not of those whose checksum covers the addresses
/// (DCCP, UDP-Lite), of those that are IP's own (IPv6 and its headers, IGMP), and of tunnels of IP in IP, which would carry
/// what no rule sees.
#[inline(always)]
const fn is_tracked_by_address(protocol: u8) -> bool {
    const IGMP: u8 = 2;
    const IP_IN_IP: u8 = 4;
    const DCCP: u8 = 33;
    const IPV6: u8 = 41;
    const IPV6_ROUTE: u8 = 43;
    const IPV6_FRAGMENT: u8 = 44;
    const ICMPV6: u8 = 58;
    const IPV6_NO_NEXT: u8 = 59;
    const IPV6_OPTIONS: u8 = 60;
    const UDP_LITE: u8 = 136;
    !matches!(
        protocol,
        0 | IGMP
            | IP_IN_IP
            | DCCP
            | IPV6
            | IPV6_ROUTE
            | IPV6_FRAGMENT
            | ICMPV6
            | IPV6_NO_NEXT
            | IPV6_OPTIONS
            | UDP_LITE
            | 255
    )
}

/// Shift count of the window scale option (RFC 7323 section 2.2) of a SYN whose header has `length` bytes, or
/// [`NO_SCALE`]. A count above 14 means 14.
#[inline(never)]
fn window_scale<P: Packet>(packet: &P, length: u32) -> u8 {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const WINDOW_SCALE: u8 = 3;
    const OPTIONS_MAX: u32 = 40;
    /// Options and single octets of padding that are looked at.
    const STEPS_MAX: u32 = 24;
    let end = length.saturating_sub(tcp::LENGTH).min(OPTIONS_MAX);
    let (mut at, mut steps) = (0u32, 0u32);
    while steps < STEPS_MAX && at + 2 <= end {
        steps += 1;
        // Two bytes at a time: an option's kind and length, or count.
        let offset = TRANSPORT + tcp::LENGTH + at;
        let Some([kind, option_length]) = packet.load::<[u8; 2]>(offset) else {
            return NO_SCALE;
        };
        if kind == WINDOW_SCALE {
            if option_length != 3 || at + 3 > end {
                return NO_SCALE;
            }
            let count = packet.load::<[u8; 2]>(offset + 1);
            return count.map_or(NO_SCALE, |[_, count]| count.min(SCALE_MAX));
        }
        if kind == END || (kind != NO_OPERATION && option_length < 2) {
            return NO_SCALE;
        }
        at += if kind == NO_OPERATION {
            1
        } else {
            u32::from(option_length)
        };
        if at > OPTIONS_MAX {
            return NO_SCALE;
        }
        at = P::hide(at) & 0x3f;
    }
    NO_SCALE
}

/// Where TCP and UDP have the port of the site's end.
#[inline(always)]
const fn port_offset(direction: Direction) -> u32 {
    match direction {
        Direction::Out => 0,
        Direction::In => 2,
    }
}
