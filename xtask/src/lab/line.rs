//! A packet socket that only sends: load for the lab, in bursts or at a rate. It hears nothing, so that what arrives on the
//! interface costs nothing more for it.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, ControlMessage, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockType, bind, sendmmsg,
    socket,
};

use super::topology::Node;

/// Frames handed to the kernel in one call.
pub const BURST: usize = 32;

/// An interface of the lab to send on.
pub struct Line {
    socket: OwnedFd,
    interface: LinkAddr,
    headers: MultiHeaders<LinkAddr>,
}

impl Line {
    /// Opens the interface of `node`.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn open(node: Node, interface: &str) -> Result<Self> {
        let (socket, interface) = node.enter(|| {
            let link = |at: &nix::ifaddrs::InterfaceAddress| at.address.as_ref()?.as_link_addr().copied();
            let found = getifaddrs()?
                .filter(|at| at.interface_name == interface)
                .find_map(|at| link(&at));
            let found = found.with_context(|| format!("no interface {interface} in {node}"))?;
            // Without a protocol, nothing that arrives is for this socket.
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
            bind(socket.as_raw_fd(), &found)?;
            Ok((socket, found))
        })?;
        Ok(Self {
            socket,
            interface,
            headers: MultiHeaders::preallocate(BURST, None),
        })
    }

    /// The interface's own Ethernet address.
    #[must_use]
    pub fn address(&self) -> [u8; 6] {
        self.interface.addr().unwrap_or_default()
    }

    /// Sends all of `frames`, in order.
    ///
    /// # Errors
    /// The interface does not take them.
    pub fn send(&mut self, frames: &[Vec<u8>]) -> Result<()> {
        let to = [Some(self.interface); BURST];
        for burst in frames.chunks(BURST) {
            let mut left = burst;
            while !left.is_empty() {
                let slices: Vec<_> = left.iter().map(|frame| [IoSlice::new(frame)]).collect();
                let to = to.get(..left.len()).unwrap_or_default();
                let no_control: [ControlMessage; 0] = [];
                let sent = match sendmmsg(
                    self.socket.as_raw_fd(),
                    &mut self.headers,
                    &slices,
                    to,
                    no_control,
                    MsgFlags::empty(),
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
}
