//! UDP through the lab: an echo service in the center, sockets at terminals, and frames that a terminal's own stack
//! would not send.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use xtask::lab::gateway::BENCH_PORT;
use xtask::lab::tap::Tap;
use xtask::lab::topology::{Node, SERVER, Site, TERMINAL};

use crate::frames::{End, ethernet};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// How often the service looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);
const DATAGRAM_MAX: usize = 65_535;

/// Sends back every datagram that comes to the port which the lab's rules allow.
#[derive(Debug)]
pub struct Echo {
    stopping: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Starts it in the center. It ends when dropped.
    pub fn start() -> Result<Self> {
        let socket = Node::Center.enter(|| Ok(UdpSocket::bind((SERVER, BENCH_PORT))?))?;
        socket.set_read_timeout(Some(LOOK))?;
        let stopping = Arc::new(AtomicBool::new(false));
        let received = Arc::new(AtomicU64::new(0));
        let (stop, count) = (Arc::clone(&stopping), Arc::clone(&received));
        let thread = std::thread::spawn(move || {
            let mut datagram = vec![0; DATAGRAM_MAX];
            while !stop.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut datagram) else {
                    continue;
                };
                count.fetch_add(1, Ordering::Relaxed);
                // One that gets lost is missed by who waits for it.
                let _lost = socket.send_to(datagram.get(..length).unwrap_or_default(), from);
            }
        });
        Ok(Self {
            stopping,
            received,
            thread: Some(thread),
        })
    }

    /// Datagrams that have come so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// A socket of a site's terminal, connected to an address in the center.
pub fn socket(site: Site, to: &str, port: u16) -> Result<UdpSocket> {
    let socket = site.terminal().enter(|| {
        let socket = UdpSocket::bind((TERMINAL, 0))?;
        socket.connect((to, port))?;
        Ok(socket)
    })?;
    socket.set_read_timeout(Some(ANSWER))?;
    Ok(socket)
}

/// Octets of a datagram of this length, another at each place of a fragment.
#[must_use]
pub fn data(length: usize) -> Vec<u8> {
    (0..length).map(|octet| (octet / 8 * 31 + octet) as u8).collect()
}

/// Sends a datagram of this length to the echo service and waits until it is back.
///
/// # Errors
/// When it does not come, or comes as another.
pub fn exchange(socket: &UdpSocket, length: usize) -> Result<()> {
    let sent = data(length);
    socket.send(&sent)?;
    is_echoed(socket, &sent).with_context(|| format!("a datagram of {length} octets"))
}

/// Waits for what the echo service sends back.
///
/// # Errors
/// When it does not come, or comes as another.
pub fn is_echoed(socket: &UdpSocket, sent: &[u8]) -> Result<()> {
    let mut back = vec![0; DATAGRAM_MAX];
    let length = socket.recv(&mut back).context("no answer")?;
    ensure!(
        back.get(..length) == Some(sent),
        "another answer, of {length} octets"
    );
    Ok(())
}

/// What a terminal's socket is called in the center, and the datagram that showed it has come back.
///
/// # Errors
/// When the center does not get the datagram, or the socket no answer.
pub fn outside(center: &Wire, socket: &UdpSocket) -> Result<End> {
    center.tap.frames()?;
    exchange(socket, 100)?;
    let frames = center.tap.frames()?;
    let asked = frames
        .iter()
        .filter_map(|frame| center.received(frame))
        .find(|packet| packet.get(9) == Some(&17))
        .context("the datagram was not seen in the center")?;
    let address = asked.get(12..16).context("no address")?.try_into()?;
    let port = asked.get(20..22).context("no port")?.try_into()?;
    Ok((address, u16::from_be_bytes(port)))
}

/// Whether nothing waits at the socket.
pub fn is_silent(socket: &UdpSocket) -> Result<bool> {
    socket.set_nonblocking(true)?;
    let received = socket.recv(&mut [0; 1]);
    socket.set_nonblocking(false)?;
    match received {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error).context("reading a socket"),
    }
}

/// A node's cable, on which frames are put as they are.
#[derive(Debug)]
pub struct Wire {
    /// Sees and sends.
    pub tap: Tap,
    /// Who is at the other end.
    to: [u8; 6],
}

impl Wire {
    /// From a site's terminal to its router.
    pub fn of_terminal(site: Site) -> Result<Self> {
        Self::between((site.terminal(), "eth0"), (site.router(), "lan"))
    }

    /// From the center to the gateway.
    pub fn of_center() -> Result<Self> {
        Self::between((Node::Center, "eth0"), (Node::Gateway, "core"))
    }

    fn between(from: (Node, &str), to: (Node, &str)) -> Result<Self> {
        Ok(Self {
            tap: Tap::open(from.0, from.1)?,
            to: Tap::open(to.0, to.1)?.address(),
        })
    }

    /// Sends an IPv4 packet.
    pub fn send(&self, packet: &[u8]) -> Result<()> {
        let frame = ethernet(self.to, self.tap.address(), 0x0800, packet);
        self.tap.send(&frame)
    }

    /// The IPv4 packet in a frame that this end received.
    #[must_use]
    pub fn received<'a>(&self, frame: &'a [u8]) -> Option<&'a [u8]> {
        let is_here = frame.get(..6) == Some(&self.tap.address()) && frame.get(12..14) == Some(&[8, 0]);
        frame.get(14..).filter(|_| is_here)
    }
}
