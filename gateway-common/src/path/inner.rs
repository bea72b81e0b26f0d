//! The clear IPv4 packet between site and center: strict parsing, and translation of one of its ends.

use crate::abi::flow::FlowKey;
use crate::abi::nat::{InsideKey, OutsideKey};
use crate::drop::DropReason;
use crate::packet::{
    Packet,
    checksum::Change,
    ethernet,
    icmp::{self, Icmp, kind},
    ipv4::{self, Fault, Ipv4, is_host_address, protocol},
    tcp::{self, Tcp, flags_are_sane},
    udp::Udp,
};

use super::filter::Direction;

/// Offset of the IP header in the frame.
pub const IP: u32 = ethernet::LENGTH;
/// Offset of the transport header in the frame.
pub const TRANSPORT: u32 = IP + ipv4::LENGTH;

/// What is tracked of a packet. For ICMP queries the identifier stands at the site's end, zero at the other.
#[derive(Clone, Copy)]
pub struct Inner {
    /// IP header.
    pub ip: Ipv4,
    /// Source port.
    pub source_port: [u8; 2],
    /// Destination port.
    pub destination_port: [u8; 2],
    /// Transport checksum.
    pub checksum: [u8; 2],
    /// TCP flags, else zero.
    pub flags: u8,
}

impl Inner {
    /// Parses the packet behind the link header. `direction` says which ICMP query type may be seen.
    ///
    /// # Errors
    /// The reason to drop it.
    #[inline(always)]
    pub fn parse<P: Packet>(packet: &P, direction: Direction) -> Result<Self, DropReason> {
        let ip: Ipv4 = packet.load(IP).ok_or(DropReason::InnerMalformed)?;
        ip.check(packet.len().saturating_sub(IP))
            .map_err(|fault| match fault {
                Fault::Malformed | Fault::Truncated => DropReason::InnerMalformed,
                Fault::Options => DropReason::InnerOptions,
            })?;
        if ip.is_fragment() {
            return Err(DropReason::InnerFragment);
        }
        if !is_host_address(ip.source) || !is_host_address(ip.destination) || ip.source == ip.destination {
            return Err(DropReason::InnerAddress);
        }
        let length = ip.total_length().saturating_sub(ipv4::LENGTH);
        match ip.protocol {
            protocol::TCP => Self::tcp(packet, ip, length),
            protocol::UDP => Self::udp(packet, ip, length),
            protocol::ICMP => Self::icmp(packet, ip, length, direction),
            _ => Err(DropReason::InnerProtocol),
        }
    }

    #[inline(always)]
    fn tcp<P: Packet>(packet: &P, ip: Ipv4, length: u32) -> Result<Self, DropReason> {
        let header: Tcp = packet.load(TRANSPORT).ok_or(DropReason::TruncatedTransport)?;
        if header.header_length() < tcp::LENGTH || header.header_length() > length {
            return Err(DropReason::TruncatedTransport);
        }
        if !flags_are_sane(header.flags) {
            return Err(DropReason::TcpFlags);
        }
        let Tcp {
            source_port,
            destination_port,
            checksum,
            flags,
            ..
        } = header;
        Self {
            ip,
            source_port,
            destination_port,
            checksum,
            flags,
        }
        .with_ports()
    }

    #[inline(always)]
    fn udp<P: Packet>(packet: &P, ip: Ipv4, length: u32) -> Result<Self, DropReason> {
        let header: Udp = packet.load(TRANSPORT).ok_or(DropReason::TruncatedTransport)?;
        header.length(length).ok_or(DropReason::TruncatedTransport)?;
        let Udp {
            source_port,
            destination_port,
            checksum,
            ..
        } = header;
        Self {
            ip,
            source_port,
            destination_port,
            checksum,
            flags: 0,
        }
        .with_ports()
    }

    #[inline(always)]
    fn icmp<P: Packet>(packet: &P, ip: Ipv4, length: u32, direction: Direction) -> Result<Self, DropReason> {
        let header: Icmp = packet.load(TRANSPORT).ok_or(DropReason::TruncatedTransport)?;
        if length < icmp::LENGTH {
            return Err(DropReason::TruncatedTransport);
        }
        let Icmp {
            checksum, identifier, ..
        } = header;
        let (source_port, destination_port, expected) = match direction {
            Direction::Out => (identifier, [0; 2], kind::ECHO),
            Direction::In => ([0; 2], identifier, kind::ECHO_REPLY),
        };
        if header.kind != expected || header.code != 0 {
            return Err(DropReason::IcmpType);
        }
        Ok(Self {
            ip,
            source_port,
            destination_port,
            checksum,
            flags: 0,
        })
    }

    /// Port zero is reserved; as a destination it is never meant (RFC 6335 section 6).
    #[inline(always)]
    fn with_ports(self) -> Result<Self, DropReason> {
        if self.source_port == [0; 2] || self.destination_port == [0; 2] {
            return Err(DropReason::TruncatedTransport);
        }
        Ok(self)
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
            source_port: self.source_port,
            destination_port: self.destination_port,
            protocol: self.ip.protocol,
            pad: [0; 3],
        }
    }

    /// The flow of a packet that the center sent to a mapping of this inside endpoint.
    #[inline(always)]
    #[must_use]
    pub const fn flow_to_site(&self, inside: &InsideKey) -> FlowKey {
        FlowKey {
            site: inside.site,
            source: inside.address,
            destination: self.ip.source,
            source_port: inside.port,
            destination_port: self.source_port,
            protocol: self.ip.protocol,
            pad: [0; 3],
        }
    }

    /// The translated endpoint that a packet of the center is sent to.
    #[inline(always)]
    #[must_use]
    pub const fn outside(&self) -> OutsideKey {
        OutsideKey {
            address: self.ip.destination,
            port: self.destination_port,
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
        let mut ip = self.ip;
        let (old_address, old_port) = match direction {
            Direction::Out => (self.ip.source, self.source_port),
            Direction::In => (self.ip.destination, self.destination_port),
        };
        match direction {
            Direction::Out => ip.source = address,
            Direction::In => ip.destination = address,
        }
        ip.ttl = ip.ttl.saturating_sub(1);
        let addresses = Change::default().double(old_address, address);
        ip.checksum = addresses
            .word(self.ip.ttl_word(), ip.ttl_word())
            .apply(self.ip.checksum);
        packet.store(IP, &ip).ok_or(DropReason::Internal)?;

        // The pseudo-header has the addresses in it, but ICMP has no pseudo-header.
        let (checksum, checksum_offset, port_offset) = match self.ip.protocol {
            protocol::TCP => (
                addresses.word(old_port, port).apply(self.checksum),
                16,
                port_offset(direction),
            ),
            protocol::UDP => (
                addresses.word(old_port, port).apply_udp(self.checksum),
                6,
                port_offset(direction),
            ),
            _ => (Change::default().word(old_port, port).apply(self.checksum), 2, 4),
        };
        packet
            .store(TRANSPORT + port_offset, &port)
            .ok_or(DropReason::Internal)?;
        packet
            .store(TRANSPORT + checksum_offset, &checksum)
            .ok_or(DropReason::Internal)
    }
}

/// Where TCP and UDP have the port of the site's end.
#[inline(always)]
const fn port_offset(direction: Direction) -> u32 {
    match direction {
        Direction::Out => 0,
        Direction::In => 2,
    }
}
