//! UDP load through the lab: a flood from one node, counted where it arrives.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};

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
