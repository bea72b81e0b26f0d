//! The service link: a veth pair of the gateway's own over which sites reach the DNS proxy.
//!
//! The outer end is an interface of the core side like any other: `clear` redirects translated packets out of it, and the
//! `core` program receives what comes back. The inner end is in a network namespace that nothing but the proxy's two
//! sockets lives in. So what sites send meets no socket, route or address of this host, and the answers go through flow
//! table, filter and tunnel like those of the center.
//!
//! The namespace has no name and ends with its sockets: a daemon that is killed leaves nothing behind.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;

use gateway_common::abi::next_hop::NextHop;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::error::DataplaneError;
use super::taken::TakenName;
use super::{ethtool, system};

/// Port of DNS over UDP and TCP (RFC 1035 section 4.2).
const DNS_PORT: u16 = 53;
/// The inner end, in a namespace of its own.
const INNER: &str = "dns";
/// The kernel would make one for each CPU, but receive by the first alone.
const QUEUES: u32 = 1;
/// What the kernel holds while the proxy is busy, so that a flood of one site does not push the others' questions out.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// As Ethernet: what is larger would not fit a tunnel.
const MTU: u32 = 1500;

/// The sockets behind the link.
#[derive(Debug)]
pub struct ServiceSockets {
    /// For datagrams.
    pub udp: UdpSocket,
    /// For connections.
    pub tcp: TcpListener,
}

/// The link, from outside.
#[derive(Clone, Debug)]
pub struct ServiceLink {
    /// The outer end, by name.
    pub outer: String,
    /// Its index.
    pub index: u32,
    /// How frames get to the inner end.
    pub hop: NextHop,
    _taken: Arc<TakenName>,
}

impl ServiceLink {
    /// Makes the pair in place of one that was left, not of one that another gateway has, with the proxy's address at the inner end, and binds its sockets.
    ///
    /// # Errors
    /// [`DataplaneError::ServiceLink`].
    pub fn create(outer: &str, address: Ipv4Addr) -> Result<(Self, ServiceSockets), DataplaneError> {
        let fault = |reason: String| DataplaneError::ServiceLink {
            name: outer.to_owned(),
            reason,
        };
        let taken = TakenName::take(outer).map_err(fault)?;
        remove(outer);
        let (inner_mac, sockets) = in_new_namespace(|host| inside(outer, address, &host)).map_err(fault)?;
        system::ipv6_off(outer)?;
        system::forwarding_off(outer)?;
        let index = system::interface_index(outer).ok_or_else(|| fault("it is gone".to_owned()))?;
        system::block_on_netlink(move |handle| async move { up(&handle, index, true).await })
            .map_err(fault)?;
        let own = system::addresses(outer).map_err(|error| fault(error.to_string()))?;
        let link = Self {
            outer: outer.to_owned(),
            index,
            hop: NextHop {
                ifindex: index,
                resolved: 1,
                destination_mac: inner_mac,
                source_mac: own.mac,
                mtu: MTU,
            },
            _taken: Arc::new(taken),
        };
        Ok((link, sockets))
    }

    /// Deletes the pair; that it is not there is as good.
    pub fn remove(&self) {
        remove(&self.outer);
    }
}

fn remove(outer: &str) {
    let Some(index) = system::interface_index(outer) else {
        return;
    };
    let removed = system::block_on_netlink(move |handle| async move {
        let deleted = handle.link().del(index).execute().await;
        deleted.map_err(|error| error.to_string())
    });
    if let Err(reason) = removed {
        tracing::warn!(link = %outer, %reason, "service link stays behind");
    }
}

/// Does `work` on a thread that lives in a network namespace of its own; it is given the namespace that it came from.
fn in_new_namespace<T: Send>(work: impl FnOnce(File) -> Result<T, String> + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            let host = File::open("/proc/thread-self/ns/net").map_err(|error| error.to_string())?;
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|error| format!("a network namespace of its own: {error}"))?;
            work(host)
        });
        run.join()
            .unwrap_or_else(|_| Err("its thread panicked".to_owned()))
    })
}

/// The part inside the new namespace: the pair, whose outer end goes to `host`, and the sockets.
fn inside(outer: &str, address: Ipv4Addr, host: &File) -> Result<([u8; 6], ServiceSockets), String> {
    let words = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    let (name, host) = (outer.to_owned(), host.as_raw_fd());
    system::block_on_netlink(move |handle| async move { add(&handle, &name, host).await })?;
    let index = system::interface_index(INNER).ok_or("the inner end is gone")?;
    system::ipv6_off(INNER).map_err(|error| error.to_string())?;
    // Before either end goes up: an end announces that it can be redirected to when it goes up, and only if the other
    // end asks for GRO by then.
    ethtool::set_features(index, &[("tx-checksum-ip-generic", false), ("rx-gro", true)])
        .map_err(|error| words("checksums by the sender", &error))?;
    system::block_on_netlink(move |handle| async move { configure(&handle, index, address).await })?;
    let mac = system::addresses(INNER).map_err(|error| error.to_string())?.mac;
    let local = SocketAddrV4::new(address, DNS_PORT);
    let bound = || -> io::Result<ServiceSockets> {
        let (udp, tcp) = (UdpSocket::bind(local)?, TcpListener::bind(local)?);
        udp.set_nonblocking(true)?;
        if let Err(error) = setsockopt(&udp, RcvBufForce, &RECEIVE_BUFFER_BYTES) {
            tracing::debug!(%error, "a small receive buffer for the DNS proxy");
        }
        tcp.set_nonblocking(true)?;
        Ok(ServiceSockets { udp, tcp })
    };
    Ok((mac, bound().map_err(|error| words(&local.to_string(), &error))?))
}

async fn add(handle: &Handle, outer: &str, host: i32) -> Result<(), String> {
    let peer = LinkUnspec::new_with_name(outer)
        .append_extra_attribute(LinkAttribute::NetNsFd(host))
        .append_extra_attribute(LinkAttribute::NumTxQueues(QUEUES))
        .append_extra_attribute(LinkAttribute::NumRxQueues(QUEUES))
        .mtu(MTU)
        .build();
    let message = LinkVeth::new(INNER, outer)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .append_extra_attribute(LinkAttribute::NumTxQueues(QUEUES))
        .append_extra_attribute(LinkAttribute::NumRxQueues(QUEUES))
        .mtu(MTU)
        .build();
    let added = handle.link().add(message).execute().await;
    added.map_err(|error| error.to_string())
}

/// Address and way out of the inner end. It asks nobody for Ethernet addresses: whatever they are, `core` takes the frame.
async fn configure(handle: &Handle, index: u32, address: Ipv4Addr) -> Result<(), String> {
    let added = handle.address().add(index, address.into(), 32).execute().await;
    added.map_err(|error| error.to_string())?;
    up(handle, index, false).await?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .output_interface(index)
        .scope(rtnetlink::packet_route::route::RouteScope::Link)
        .build();
    let added = handle.route().add(route).execute().await;
    added.map_err(|error| error.to_string())
}

async fn up(handle: &Handle, index: u32, arp: bool) -> Result<(), String> {
    let message = LinkUnspec::new_with_index(index).arp(arp).up().build();
    let set = handle.link().set(message).execute().await;
    set.map_err(|error| error.to_string())
}
