//! A packet socket on one interface of the lab: what passes there, byte by byte, and a way to put frames on the wire.

use std::io::IoSlice;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, ControlMessage, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockProtocol, SockType, bind,
    recv, sendmmsg, sendto, setsockopt, socket, sockopt,
};

use super::topology::Node;

/// Frames handed to the kernel in one call.
const BATCH: usize = 64;
const FRAME_MAX: usize = 2048;
/// Room for what passes between two looks at the tap, bytes.
const BUFFER: usize = 64 << 20;

/// An open tap. It sees what the interface receives and sends from the moment it is opened.
///
/// On an interface with an XDP program it sees received frames only if the program passes them: tap the other end.
#[derive(Debug)]
pub struct Tap {
    socket: OwnedFd,
    interface: LinkAddr,
}

impl Tap {
    /// Opens a tap on `interface` of `node`.
    pub fn open(node: Node, interface: &str) -> Result<Self> {
        node.enter(|| Self::open_here(interface).with_context(|| format!("in {node}")))
    }

    /// Opens a tap on `interface` of the calling thread's namespace.
    pub fn open_here(interface: &str) -> Result<Self> {
        let found = getifaddrs()?.find(|at| at.interface_name == interface && link(at).is_some());
        let interface = found
            .as_ref()
            .and_then(link)
            .with_context(|| format!("no interface {interface}"))?;
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
        bind(socket.as_raw_fd(), &interface)?;
        let tap = Self { socket, interface };
        // Between socket() and bind() it heard every interface.
        tap.frames()?;
        Ok(tap)
    }

    /// The interface's own Ethernet address.
    #[must_use]
    pub fn address(&self) -> [u8; 6] {
        self.interface.addr().unwrap_or_default()
    }

    /// Every frame that has passed since the last look.
    pub fn frames(&self) -> Result<Vec<Vec<u8>>> {
        let mut frames = Vec::new();
        let mut buffer = [0; FRAME_MAX];
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => frames.extend(buffer.get(..length).map(<[u8]>::to_vec)),
                Err(Errno::EAGAIN) => return Ok(frames),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).context("reading a tap"),
            }
        }
    }

    /// Waits up to `limit` for a frame that `wanted` accepts.
    pub fn wait_for(&self, limit: Duration, wanted: impl Fn(&[u8]) -> bool) -> Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(frame) = self.frames()?.into_iter().find(|frame| wanted(frame)) {
                return Ok(Some(frame));
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
            sleep(Duration::from_millis(10));
        }
    }

    /// Puts many frames on the wire, in their order, as fast as they go.
    pub fn send_all(&self, frames: &[Vec<u8>]) -> Result<()> {
        let mut headers = MultiHeaders::preallocate(BATCH, None);
        let to = [Some(self.interface); BATCH];
        for batch in frames.chunks(BATCH) {
            let mut left = batch;
            while !left.is_empty() {
                let slices: Vec<_> = left.iter().map(|frame| [IoSlice::new(frame)]).collect();
                let to = to.get(..left.len()).unwrap_or_default();
                let no_control: [ControlMessage; 0] = [];
                let flags = MsgFlags::empty();
                let sent = match sendmmsg(
                    self.socket.as_raw_fd(),
                    &mut headers,
                    &slices,
                    to,
                    no_control,
                    flags,
                ) {
                    Ok(results) => results.count(),
                    Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::EINTR) => 0,
                    Err(errno) => return Err(errno).context("sending frames"),
                };
                left = left.get(sent..).unwrap_or_default();
            }
        }
        Ok(())
    }

    /// Puts a frame on the wire, as it is.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        sendto(self.socket.as_raw_fd(), frame, &self.interface, MsgFlags::empty())
            .context("sending a frame")?;
        Ok(())
    }
}

fn link(at: &nix::ifaddrs::InterfaceAddress) -> Option<LinkAddr> {
    at.address.as_ref()?.as_link_addr().copied()
}

/// The parts of an outer packet that tests ask about: a view of a captured frame.
#[derive(Clone, Copy, Debug)]
pub struct Outer<'a> {
    /// 4, 6, or 0 for what is neither.
    pub version: u8,
    /// IP protocol, without extension headers.
    pub protocol: u8,
    /// Offset of what follows the IP header.
    pub payload_at: usize,
    frame: &'a [u8],
}

impl<'a> Outer<'a> {
    /// Reads a frame's headers; None if it holds no whole IP header.
    #[must_use]
    pub fn parse(frame: &'a [u8]) -> Option<Self> {
        let (version, protocol, payload_at) = match frame.get(12..14)? {
            [0x08, 0x00] => (4, *frame.get(23)?, 14 + usize::from(frame.get(14)? & 0x0f) * 4),
            [0x86, 0xdd] => (6, *frame.get(20)?, 54),
            _ => (0, 0, 14),
        };
        Some(Self {
            version,
            protocol,
            payload_at,
            frame,
        })
    }

    /// Destination port of UDP or TCP.
    #[must_use]
    pub fn destination_port(&self) -> Option<u16> {
        let bytes = self.frame.get(self.payload_at + 2..self.payload_at + 4)?;
        matches!(self.protocol, 6 | 17).then(|| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Offset of the SPI, if this is ESP: protocol 50, or UDP 4500 without the non-ESP marker (RFC 3948).
    #[must_use]
    pub fn esp_at(&self) -> Option<usize> {
        match self.protocol {
            50 => Some(self.payload_at),
            17 => {
                let ports = self.frame.get(self.payload_at..self.payload_at + 4)?;
                let at = self.payload_at + 8;
                let marked = self.frame.get(at..at + 4)? == [0; 4];
                let nat_t = ports.chunks(2).any(|port| port == 4500u16.to_be_bytes());
                (nat_t && !marked).then_some(at)
            }
            _ => None,
        }
    }

    /// IPv4 source and destination.
    #[must_use]
    pub fn ip4_addresses(&self) -> Option<[Ipv4Addr; 2]> {
        let bytes: [u8; 8] = self.frame.get(26..34)?.try_into().ok()?;
        let [a, b, c, d, e, f, g, h] = bytes;
        (self.version == 4).then_some([Ipv4Addr::new(a, b, c, d), Ipv4Addr::new(e, f, g, h)])
    }

    /// Whether this is something clear that a tunnel should have hidden: the lab's inner addresses are all of
    /// RFC 1918, and none of its outer ones is.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.ip4_addresses()
            .is_some_and(|addresses| addresses.iter().any(Ipv4Addr::is_private))
    }
}

/// Mends the UDP checksum of a frame whose payload was altered, so that only ESP can find fault with it.
pub fn mend_udp_checksum(frame: &mut [u8]) {
    let Some(Outer {
        version,
        protocol: 17,
        payload_at,
        ..
    }) = Outer::parse(frame)
    else {
        return;
    };
    let Some(udp) = frame.get(payload_at..) else {
        return;
    };
    let addresses = if version == 4 {
        frame.get(26..34)
    } else {
        frame.get(22..54)
    };
    let (Some(addresses), Ok(length)) = (addresses, u32::try_from(udp.len())) else {
        return;
    };
    // Zero over IPv4 says "no checksum" (RFC 768), which RFC 3948 asks for.
    if version == 4 && udp.get(6..8) == Some(&[0, 0]) {
        return;
    }
    let words = |bytes: &[u8]| bytes.chunks(2).map(word).sum::<u32>();
    let old = udp.get(6..8).map_or(0, word);
    let mut sum = words(addresses) + words(udp) - old + length + 17;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = match !(sum as u16) {
        0 => 0xffff,
        checksum => checksum,
    };
    if let Some(field) = frame.get_mut(payload_at + 6..payload_at + 8) {
        field.copy_from_slice(&checksum.to_be_bytes());
    }
}

fn word(bytes: &[u8]) -> u32 {
    let mut bytes = bytes.iter().map(|byte| u32::from(*byte));
    (bytes.next().unwrap_or_default() << 8) + bytes.next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp4(destination: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([
            8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]);
        frame.extend([0x30, 0x39]);
        frame.extend(destination.to_be_bytes());
        frame.extend([0, (8 + payload.len()) as u8, 0x12, 0x34]);
        frame.extend(payload);
        frame
    }

    #[test]
    fn esp_in_udp_is_told_from_ike_by_the_marker() {
        let esp = udp4(4500, &[0, 0, 1, 0, 0, 0, 0, 1]);
        assert_eq!(Outer::parse(&esp).unwrap().esp_at(), Some(42));
        let ike = udp4(4500, &[0, 0, 0, 0, 1, 2, 3, 4]);
        assert_eq!(Outer::parse(&ike).unwrap().esp_at(), None);
    }

    #[test]
    fn inner_addresses_give_a_clear_packet_away() {
        let mut frame = udp4(4500, &[0, 0, 1, 0, 0, 0, 0, 1]);
        assert!(Outer::parse(&frame).unwrap().is_clear());
        frame[26..34].copy_from_slice(&[203, 0, 113, 1, 203, 0, 113, 10]);
        assert!(!Outer::parse(&frame).unwrap().is_clear());
    }

    #[test]
    fn a_mended_checksum_sums_to_all_ones() {
        let mut frame = udp4(4500, &[1, 2, 3, 4, 5]);
        mend_udp_checksum(&mut frame);
        let sum: u32 = frame[26..34]
            .chunks(2)
            .chain(frame[34..].chunks(2))
            .map(word)
            .sum::<u32>()
            + 13
            + 17;
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }

    #[test]
    fn short_frames_are_nothing() {
        for length in 0..14 {
            assert!(Outer::parse(&vec![0; length]).is_none());
        }
        mend_udp_checksum(&mut [0x08, 0x00]);
    }
}
