//! IKE sockets: ports 500 and 4500 of every address of the WAN interfaces, so that an answer leaves from the address
//! that was asked.
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Context as _, anyhow, bail};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::AbortHandle;

use crate::config::{Config, Interface, Role};

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

/// What leads to the controller. When it is full it loses what comes, as a full socket buffer does: a flood must not take
/// memory.
#[derive(Clone, Debug)]
pub struct DatagramQueue {
    sender: mpsc::Sender<Datagram>,
    lost: Arc<AtomicU64>,
}

impl DatagramQueue {
    /// One with room for so many, and its other end.
    #[must_use]
    pub fn new(places: usize) -> (Self, mpsc::Receiver<Datagram>) {
        let (sender, datagrams) = mpsc::channel(places);
        let lost = Arc::default();
        (Self { sender, lost }, datagrams)
    }

    /// Adds one, or counts it as lost.
    pub(super) fn push(&self, datagram: Datagram) {
        if let Err(TrySendError::Full(_)) = self.sender.try_send(datagram) {
            self.lost.fetch_add(1, Relaxed);
        }
    }
}

/// An address that its interface does not have any more keeps its sockets for so many looks, a second each: a line that goes
/// down and comes up again may take its addresses along.
const LOOKS_WITHOUT_ADDRESS: u32 = 3_600;

/// The open sockets by their local address.
#[derive(Debug)]
pub struct Sockets {
    by_local: HashMap<SocketAddr, Open>,
    datagrams: DatagramQueue,
    /// What could not be bound, as it was told.
    refused: HashSet<SocketAddr>,
}

#[derive(Debug)]
struct Open {
    socket: Arc<UdpSocket>,
    receiver: AbortHandle,
    /// For so many looks no interface has had its address; `None`: it is of no interface.
    looks_without: Option<u32>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.receiver.abort();
    }
}

impl Sockets {
    /// None is open; what comes to those that will be goes to `datagrams`.
    #[must_use]
    pub fn new(datagrams: DatagramQueue) -> Self {
        Self {
            by_local: HashMap::new(),
            datagrams,
            refused: HashSet::new(),
        }
    }

    /// Binds all and forwards what comes to `datagrams`.
    ///
    /// # Errors
    /// If a WAN interface has no address, or a port is taken.
    pub fn bind(config: &Config, datagrams: DatagramQueue) -> anyhow::Result<Self> {
        let mut sockets = Self::new(datagrams);
        for interface in wans(config) {
            let addresses = addresses(&interface.name)?;
            if addresses.is_empty() {
                bail!(
                    "interface {} has no address that a peer could reach; give it one",
                    interface.name
                );
            }
            for address in addresses {
                sockets.open_ports(&interface.name, address)?;
            }
        }
        Ok(sockets)
    }

    /// Follows the addresses of the WAN interfaces, once a second: an IPv6 address may come after the start, and one of two
    /// gateways take over the other's. What cannot be bound is told once, and tried again.
    pub(super) fn follow(&mut self, config: &Config) {
        let mut there = HashSet::new();
        for interface in wans(config) {
            // An interface that is not there is told of elsewhere.
            for address in addresses(&interface.name).unwrap_or_default() {
                there.insert(address);
                if let Err(error) = self.open_ports(&interface.name, address) {
                    tracing::error!(error = format!("{error:#}"), "IKE does not listen on an address");
                }
            }
        }
        self.refused.retain(|local| there.contains(&local.ip()));
        self.close_those_without(&there);
    }

    /// Closes sockets whose address no interface has had for an hour; `there` are the addresses that one has now.
    fn close_those_without(&mut self, there: &HashSet<IpAddr>) {
        let goes = |local: &SocketAddr, open: &mut Open| {
            let Some(looks) = &mut open.looks_without else {
                return false;
            };
            *looks = if there.contains(&local.ip()) {
                0
            } else {
                *looks + 1
            };
            *looks >= LOOKS_WITHOUT_ADDRESS
        };
        let gone: Vec<_> = self
            .by_local
            .extract_if(|local, open| goes(local, open))
            .collect();
        if gone.is_empty() {
            return;
        }
        // The kernel forgets what it counts of a socket that is closed.
        let lost = of_kernel(gone.iter().map(|(_, open)| open)).unwrap_or_default();
        self.datagrams.lost.fetch_add(lost, Relaxed);
        for (local, _) in gone {
            tracing::info!(%local, "IKE listens no more: no interface has had the address for an hour");
        }
    }

    /// Binds the ports of an address of an interface that are not bound.
    ///
    /// # Errors
    /// The first that cannot be bound and was not known not to be.
    fn open_ports(&mut self, interface: &str, address: IpAddr) -> anyhow::Result<()> {
        for port in [IKE_PORT, IKE_NAT_PORT] {
            let local = SocketAddr::new(address, port);
            if self.by_local.contains_key(&local) {
                continue;
            }
            match self.open(local) {
                Ok(_) => {
                    self.refused.remove(&local);
                    if let Some(open) = self.by_local.get_mut(&local) {
                        open.looks_without = Some(0);
                    }
                }
                Err(error) if self.refused.insert(local) => {
                    let error = anyhow::Error::new(error).context(format!("UDP {local} on {interface}"));
                    return Err(with_remedy(error));
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Binds one more socket; port 0 takes a free one. Returns its address.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn open(&mut self, local: SocketAddr) -> io::Result<SocketAddr> {
        let socket = Arc::new(bound(local)?);
        let local = socket.local_addr()?;
        let receiver = tokio::spawn(receive(socket.clone(), local, self.datagrams.clone()));
        let open = Open {
            socket,
            receiver: receiver.abort_handle(),
            looks_without: None,
        };
        self.by_local.insert(local, open);
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

    /// Datagrams that were lost before the controller saw them: the queue or a socket's buffer was full.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.datagrams.lost.load(Relaxed) + of_kernel(self.by_local.values()).unwrap_or_default()
    }

    /// Sends. A datagram that cannot be sent now is lost, as any may be; IKE repeats it.
    pub fn send(&self, local: SocketAddr, remote: SocketAddr, payload: &[u8]) {
        let Some(Open { socket, .. }) = self.by_local.get(&local) else {
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

fn wans(config: &Config) -> impl Iterator<Item = &Interface> {
    let of_all = config.interfaces.iter();
    of_all.filter(|interface| interface.role == Role::Wan)
}

/// What an operator does about a port that cannot be had.
fn with_remedy(error: anyhow::Error) -> anyhow::Error {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    if kind == Some(io::ErrorKind::AddrInUse) {
        return anyhow!("{error:#}\n  to mend it: stop what has the port, which `ss -lunp` shows");
    }
    error
}

fn addresses(interface: &str) -> anyhow::Result<Vec<IpAddr>> {
    if let Err(error) = if_nametoindex(interface) {
        bail!(
            "interface {interface} is not in this network namespace: {error}\n  to mend it: make it, or write the names of [[interface]] as `ip link` shows them"
        );
    }
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

/// Datagrams that found the receive buffers of these sockets full.
fn of_kernel<'a>(sockets: impl Iterator<Item = &'a Open>) -> io::Result<u64> {
    let mut inodes = HashSet::new();
    for open in sockets {
        let path = format!("/proc/self/fd/{}", open.socket.as_raw_fd());
        inodes.insert(std::fs::metadata(path)?.ino());
    }
    let tables = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"];
    // A kernel without IPv6 has but the first.
    let tables = tables
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok());
    Ok(tables.map(|table| lost_in_kernel(&table, &inodes)).sum())
}

/// The same of sockets with these inodes, by the kernel's list of UDP sockets: the tenth column is
/// the inode, the thirteenth the count.
fn lost_in_kernel(table: &str, inodes: &HashSet<u64>) -> u64 {
    let of_line = |line: &str| {
        let mut columns = line.split_whitespace().skip(9);
        let inode = columns.next()?.parse().ok()?;
        let lost: u64 = columns.nth(2)?.parse().ok()?;
        inodes.contains(&inode).then_some(lost)
    };
    table.lines().skip(1).filter_map(of_line).sum()
}

async fn receive(socket: Arc<UdpSocket>, local: SocketAddr, datagrams: DatagramQueue) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let (length, remote) = tokio::select! {
            () = datagrams.sender.closed() => return,
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
        datagrams.push(Datagram {
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
        let (queue, _datagrams) = DatagramQueue::new(1);
        let mut sockets = Sockets::new(queue);
        let local = sockets
            .open("127.0.0.1:0".parse().expect("address"))
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

    #[tokio::test]
    async fn who_cannot_listen_is_told_why_and_what_to_do() {
        let (queue, _datagrams) = DatagramQueue::new(1);
        let mut sockets = Sockets::new(queue);
        let local = "127.0.0.1:0".parse().expect("address");
        let local = sockets.open(local).expect("bound");
        let taken = sockets.open(local).context("UDP").map_err(with_remedy);
        let error = format!("{:#}", taken.expect_err("taken"));
        assert!(
            error.contains("in use") && error.contains("to mend it: stop what has the port"),
            "{error}"
        );
        let error = addresses("no-such-link").expect_err("not there").to_string();
        assert!(
            error.contains("no-such-link is not in this network namespace"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn what_the_queue_loses_is_counted() {
        let (queue, mut datagrams) = DatagramQueue::new(1);
        let mut sockets = Sockets::new(queue);
        let local = sockets
            .open("127.0.0.1:0".parse().expect("address"))
            .expect("bound");
        let peer = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
        for _ in 0..5 {
            peer.send_to(b"IKE", local).expect("sent");
        }
        let all_came = async {
            while sockets.lost() < 4 {
                tokio::task::yield_now().await;
            }
        };
        let outcome = tokio::time::timeout(std::time::Duration::from_secs(10), all_came).await;
        assert!(outcome.is_ok(), "{} are counted", sockets.lost());
        assert_eq!(datagrams.recv().await.expect("the first").payload, b"IKE");
        assert!(datagrams.try_recv().is_err() && sockets.lost() == 4);
    }

    /// Sends more than the buffer of a socket holds, which nobody reads.
    fn overflow(local: SocketAddr) {
        let peer = std::net::UdpSocket::bind((local.ip(), 0)).expect("bound");
        // Twice the buffer, of which the kernel gives twice what was asked for.
        for _ in 0..RECEIVE_BUFFER_BYTES * 4 / 1024 {
            peer.send_to(&[0; 1024], local).expect("sent");
        }
    }

    /// Nothing here awaits: nobody reads the socket.
    #[tokio::test]
    async fn what_the_kernel_loses_is_counted() {
        let (queue, _datagrams) = DatagramQueue::new(1);
        let mut sockets = Sockets::new(queue);
        let address = |text: &str| text.parse().expect("address");
        let all = ["127.0.0.1:0", "[::1]:0"].map(|local| sockets.open(address(local)).expect("bound"));
        assert_eq!(sockets.lost(), 0);
        for local in all {
            let before = sockets.lost();
            overflow(local);
            assert!(sockets.lost() > before, "{local}");
        }
    }

    /// Regression: what the kernel had counted went with the socket, and the counter went backwards.
    #[tokio::test]
    async fn what_a_socket_has_lost_stays_counted_when_it_is_closed() {
        let (queue, _datagrams) = DatagramQueue::new(1);
        let mut sockets = Sockets::new(queue);
        let address = |text: &str| text.parse().expect("address");
        let [stays, goes] =
            ["127.0.0.1:0", "[::1]:0"].map(|local| sockets.open(address(local)).expect("bound"));
        for (local, open) in &mut sockets.by_local {
            open.looks_without = Some(LOOKS_WITHOUT_ADDRESS - 2);
            overflow(*local);
        }
        let lost = sockets.lost();
        assert!(lost > 0);
        let there = HashSet::from([stays.ip()]);
        sockets.close_those_without(&there);
        assert!(sockets.has(goes), "not an hour yet");
        assert_eq!(sockets.lost(), lost);
        sockets.close_those_without(&there);
        assert!(sockets.has(stays) && !sockets.has(goes));
        assert_eq!(sockets.lost(), lost);
    }
}
