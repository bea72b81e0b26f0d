//! UDP load through the lab: a flood from one node, counted where it arrives.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmsg, sendmmsg, setsockopt, sockopt,
};

use crate::lab::topology::Node;

/// Datagrams handed to the kernel in one call.
const BATCH: usize = 64;

/// Sends datagrams of `size` bytes from `socket`, which is connected, as fast as they go. Returns how many.
pub fn flood(socket: &UdpSocket, size: usize, duration: Duration) -> Result<u64> {
    let peer = SockaddrStorage::from(socket.peer_addr()?);
    let payload = vec![0x5a; size];
    let slices = [[std::io::IoSlice::new(&payload)]; BATCH];
    let peers = [Some(peer); BATCH];
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    let deadline = Instant::now() + duration;
    let mut sent = 0;
    while Instant::now() < deadline {
        let no_control: [nix::sys::socket::ControlMessage; 0] = [];
        match sendmmsg(
            socket.as_raw_fd(),
            &mut headers,
            &slices,
            peers,
            no_control,
            MsgFlags::empty(),
        ) {
            Ok(results) => sent += results.count() as u64,
            // A full queue or an ICMP error for an earlier datagram is part of overload.
            Err(
                Errno::ENOBUFS | Errno::EAGAIN | Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::EINTR,
            ) => {}
            Err(errno) => return Err(errno).context("sending the flood"),
        }
    }
    Ok(sent)
}

/// A UDP socket bound in `node`.
pub fn bind(node: Node, address: &str, port: u16) -> Result<UdpSocket> {
    node.enter(|| {
        UdpSocket::bind((address, port)).with_context(|| format!("binding {address}:{port} in {node}"))
    })
}

/// Receives one datagram and returns who sent it.
pub fn first_sender(socket: &UdpSocket, limit: Duration) -> Result<SocketAddr> {
    socket.set_read_timeout(Some(limit))?;
    let (_, peer) = socket.recv_from(&mut [0; 2048]).context("no datagram came")?;
    Ok(peer)
}

/// Room for what arrives between two looks at a socket, octets.
const BUFFER: usize = 64 << 20;

/// Has the kernel note when each datagram for `socket` arrives, and keep many of them.
pub fn stamp(socket: &UdpSocket) -> Result<()> {
    setsockopt(socket, sockopt::ReceiveTimestampns, &true)?;
    keep_many(socket)?;
    Ok(socket.set_nonblocking(true)?)
}

/// Has the kernel keep many datagrams for `socket` until they are read.
pub fn keep_many(socket: &UdpSocket) -> Result<()> {
    setsockopt(socket, sockopt::RcvBufForce, &BUFFER).context("a receive buffer")
}

/// Gives every datagram that waits at a socket of [`stamp`] to `each`: when it arrived (ns since 1970), from whom, and
/// what it holds.
pub fn drain(socket: &UdpSocket, mut each: impl FnMut(u64, Option<SocketAddr>, &mut [u8])) -> Result<()> {
    let mut buffer = [0; 2048];
    let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
    loop {
        let mut room = [std::io::IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let message =
            match recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut room, Some(&mut control), flags) {
                Ok(message) => message,
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR | Errno::ECONNREFUSED) => continue,
                Err(errno) => return Err(errno).context("reading a socket"),
            };
        let stamp = message.cmsgs()?.find_map(|one| match one {
            ControlMessageOwned::ScmTimestampns(at) => {
                u64::try_from(at.tv_sec() * 1_000_000_000 + at.tv_nsec()).ok()
            }
            _ => None,
        });
        let from = message.address.and_then(|from| {
            let v4 = from.as_sockaddr_in().map(|from| SocketAddr::V4((*from).into()));
            v4.or_else(|| from.as_sockaddr_in6().map(|from| SocketAddr::V6((*from).into())))
        });
        let length = message.bytes;
        let stamp = stamp.context("a datagram without a time")?;
        each(stamp, from, buffer.get_mut(..length).unwrap_or_default());
    }
}

/// Packets an interface has received so far, as its driver counts them.
pub fn received(node: Node, interface: &str) -> Result<u64> {
    node.enter(|| {
        let table = std::fs::read_to_string("/proc/thread-self/net/dev")?;
        let line = table
            .lines()
            .find_map(|line| line.trim().strip_prefix(&format!("{interface}:")));
        let packets = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        packets.with_context(|| format!("no {interface} in {node}"))
    })
}
