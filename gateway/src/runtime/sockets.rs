//! IKE sockets: ports 500 and 4500 of every address of the WAN interfaces, so that an answer leaves from the address
//! that was asked.
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use crate::config::{Config, Role};

pub(super) const IKE_PORT: u16 = 500;
const IKE_NAT_PORT: u16 = 4500;
/// What the kernel holds while the controller is busy: the first messages of a thousand sites that come back at once.
const RECEIVE_BUFFER_BYTES: usize = 2 << 20;
/// RFC 7296 section 2: at least 3,000; certificates without fragmentation need more.
const DATAGRAM_MAX: usize = 65_535;

/// A datagram that came in.
#[derive(Debug)]
pub struct Datagram {
    /// Our address and port.
    pub local: SocketAddr,
    /// Who sent it.
    pub remote: SocketAddr,
    /// UDP payload.
    pub payload: Vec<u8>,
}

/// The open sockets by their local address.
#[derive(Debug, Default)]
pub struct Sockets {
    by_local: HashMap<SocketAddr, Arc<UdpSocket>>,
}

impl Sockets {
    /// Binds all and forwards what comes to `datagrams`.
    ///
    /// # Errors
    /// If a WAN interface has no address, or a port is taken.
    pub fn bind(config: &Config, datagrams: &mpsc::Sender<Datagram>) -> anyhow::Result<Self> {
        let mut sockets = Self::default();
        for interface in config
            .interfaces
            .iter()
            .filter(|interface| interface.role == Role::Wan)
        {
            let addresses = addresses(&interface.name)?;
            if addresses.is_empty() {
                bail!(
                    "interface {} has no address that a peer could reach; give it one",
                    interface.name
                );
            }
            for address in addresses {
                for port in [IKE_PORT, IKE_NAT_PORT] {
                    let local = SocketAddr::new(address, port);
                    sockets
                        .open(local, datagrams)
                        .with_context(|| format!("UDP {local} on {}", interface.name))?;
                }
            }
        }
        Ok(sockets)
    }

    /// Binds one more socket; port 0 takes a free one. Returns its address.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn open(&mut self, local: SocketAddr, datagrams: &mpsc::Sender<Datagram>) -> io::Result<SocketAddr> {
        let socket = Arc::new(bound(local)?);
        let local = socket.local_addr()?;
        self.by_local.insert(local, socket.clone());
        tokio::spawn(receive(socket, local, datagrams.clone()));
        tracing::info!(%local, "IKE listens");
        Ok(local)
    }

    /// The local address that the route to a peer says, or the first of the peer's family; with the IKE port.
    #[must_use]
    pub fn local_for(&self, remote: IpAddr) -> Option<SocketAddr> {
        let routed = source_for(remote).map(|address| SocketAddr::new(address, IKE_PORT));
        let of_family = |local: &&SocketAddr| local.port() == IKE_PORT && local.is_ipv4() == remote.is_ipv4();
        routed
            .filter(|local| self.by_local.contains_key(local))
            .or_else(|| self.by_local.keys().filter(of_family).min().copied())
    }

    /// Whether this address and port is one of ours.
    #[must_use]
    pub fn has(&self, local: SocketAddr) -> bool {
        self.by_local.contains_key(&local)
    }

    /// Sends. A datagram that cannot be sent now is lost, as any may be; IKE repeats it.
    pub fn send(&self, local: SocketAddr, remote: SocketAddr, payload: &[u8]) {
        let Some(socket) = self.by_local.get(&local) else {
            tracing::warn!(%local, %remote, "no IKE socket has this local address");
            return;
        };
        // Of the socket itself, which never blocks: tokio would wait for room, or know nothing of a socket yet that was
        // bound a moment ago.
        if let Err(error) = SockRef::from(&**socket).send_to(payload, &remote.into()) {
            tracing::debug!(%local, %remote, %error, "IKE datagram not sent");
        }
    }
}

fn addresses(interface: &str) -> anyhow::Result<Vec<IpAddr>> {
    let all = getifaddrs().context("addresses of interfaces")?;
    let of_interface = all.filter(|entry| entry.interface_name == interface);
    let addresses = of_interface.filter_map(|entry| {
        let storage = entry.address?;
        let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    });
    let reachable = |address: &IpAddr| match address {
        IpAddr::V4(address) => !address.is_link_local(),
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    };
    Ok(addresses.filter(reachable).collect())
}

/// The source address that the kernel would choose; nothing is sent.
fn source_for(remote: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match remote {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = std::net::UdpSocket::bind((any, 0)).ok()?;
    socket.connect((remote, IKE_PORT)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn bound(local: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    // An IPv6 address may still be under duplicate address detection: it is ours all the same.
    match local {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    // Best effort: without it a burst of many sites is cut short, and repeated by them.
    if let Err(error) = setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER_BYTES) {
        tracing::debug!(%local, %error, "the receive buffer stays as it is");
    }
    socket.set_nonblocking(true)?;
    socket.bind(&local.into())?;
    UdpSocket::from_std(socket.into())
}

async fn receive(socket: Arc<UdpSocket>, local: SocketAddr, datagrams: mpsc::Sender<Datagram>) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let (length, remote) = tokio::select! {
            () = datagrams.closed() => return,
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                // ICMP errors of earlier datagrams surface here; they end nothing.
                Err(error) => {
                    tracing::debug!(%local, %error, "IKE socket");
                    continue;
                }
            },
        };
        let payload = buffer.get(..length).unwrap_or_default().to_vec();
        // A full queue drops, as a full socket buffer does: a flood must not take memory.
        let _ = datagrams.try_send(Datagram {
            local,
            remote,
            payload,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The runtime has not looked at the socket yet: nothing here awaits.
    #[tokio::test]
    async fn the_first_datagram_is_sent_at_once() {
        let peer = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
        let (sender, _datagrams) = mpsc::channel(1);
        let mut sockets = Sockets::default();
        let local = sockets
            .open("127.0.0.1:0".parse().expect("address"), &sender)
            .expect("bound");
        sockets.send(local, peer.local_addr().expect("bound"), b"IKE_SA_INIT");
        peer.set_nonblocking(true).expect("a socket");
        let mut buffer = [0; 32];
        let (length, source) = peer.recv_from(&mut buffer).expect("it was sent");
        assert_eq!(
            (buffer.get(..length), source),
            (Some(b"IKE_SA_INIT".as_slice()), local)
        );
    }
}
