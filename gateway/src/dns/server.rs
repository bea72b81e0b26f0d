//! Sockets, clock and randomness of the proxy, on a thread of its own: however much sites ask, IKE does not wait for it.
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::proxy::{Admission, Ask, Client, Counters, Output, Proxy, Report, Settings, Token, Transport};

/// Longest message over UDP that is read: no more is asked for.
const DATAGRAM_MAX: usize = 4_096;
/// Datagrams that are read one after another before other things have their turn.
const DATAGRAMS_AT_ONCE: usize = 64;
/// Messages on one upstream socket that are looked at: who forges more has the wait for the true answer end.
const FORGED_MAX: usize = 64;
/// Connections of sites at a time.
const CONNECTIONS_MAX: usize = 256;
/// Of one address, or of one port block where sites share addresses.
const CONNECTIONS_PER_SHARE: usize = 8;
/// Of one address in all: a site may have several blocks.
const CONNECTIONS_PER_ADDRESS: usize = 64;
/// Seconds that a connection may be silent (RFC 7766 section 6.2.3 lets the server be short of patience).
const IDLE_S: u64 = 10;
/// Messages of tasks that wait for the proxy.
const HAPPENED_MAX: usize = 1_024;
/// Answers that wait for a connection.
const ANSWERS_MAX: usize = 16;

/// What the proxy wants of the controller.
#[derive(Debug)]
pub enum Call {
    /// Who asks, and what may it reach?
    Admit {
        /// The site's translated address and port.
        client: SocketAddrV4,
        /// How it asks.
        transport: Transport,
        /// For what name.
        name: String,
        /// `None`: no site has this address.
        reply: oneshot::Sender<Option<Admission>>,
    },
    /// Open these addresses.
    Open {
        /// The site that asked.
        site: u32,
        /// Sets to open them for.
        sets: Vec<u32>,
        /// The name that leads there.
        name: String,
        /// The addresses.
        addresses: Vec<std::net::Ipv4Addr>,
        /// Seconds that the answer is good for.
        ttl_s: u32,
        /// Whether they are open.
        reply: oneshot::Sender<bool>,
    },
    /// Something that an operator may want to know.
    Report(Report),
}

/// The sockets that sites send to.
#[derive(Debug)]
pub struct Sockets {
    /// For datagrams, not blocking.
    pub udp: std::net::UdpSocket,
    /// For connections, not blocking.
    pub tcp: std::net::TcpListener,
}

/// The running proxy; it ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    counters: Arc<Mutex<Counters>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts it.
    ///
    /// # Errors
    /// The kernel refuses a thread or its event queue.
    pub fn start(settings: Settings, sockets: Sockets, calls: mpsc::Sender<Call>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let counters = Arc::<Mutex<Counters>>::default();
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&counters);
        let thread = std::thread::Builder::new()
            .name("dns".to_owned())
            .spawn(move || {
                let served = runtime.block_on(async {
                    let shell = Shell::new(settings, sockets, calls, shared)?;
                    shell.run(stopped).await;
                    Ok::<(), io::Error>(())
                });
                if let Err(error) = served {
                    tracing::error!(%error, "the DNS proxy does not run: no name is answered");
                }
            })?;
        Ok(Self {
            counters,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// What has happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // It may have ended by itself.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What tasks tell.
#[derive(Debug)]
enum Happened {
    Admitted(Token, Option<Admission>),
    Opened(Token, bool),
    Upstream(Ask, Vec<u8>),
    UpstreamFailed(Ask),
    Query(Client, Vec<u8>),
    Hangup(u64),
}

/// A connection of a site.
struct Connection {
    address: SocketAddrV4,
    answers: mpsc::Sender<Vec<u8>>,
    task: AbortHandle,
}

struct Shell {
    proxy: Proxy,
    udp: UdpSocket,
    tcp: TcpListener,
    calls: mpsc::Sender<Call>,
    shared: Arc<Mutex<Counters>>,
    began: Instant,
    asks: HashMap<Ask, AbortHandle>,
    connections: HashMap<u64, Connection>,
    next_connection: u64,
    happened: (mpsc::Sender<Happened>, mpsc::Receiver<Happened>),
}

impl Shell {
    fn new(
        settings: Settings,
        sockets: Sockets,
        calls: mpsc::Sender<Call>,
        shared: Arc<Mutex<Counters>>,
    ) -> io::Result<Self> {
        Ok(Self {
            proxy: Proxy::new(settings),
            udp: UdpSocket::from_std(sockets.udp)?,
            tcp: TcpListener::from_std(sockets.tcp)?,
            calls,
            shared,
            began: Instant::now(),
            asks: HashMap::new(),
            connections: HashMap::new(),
            next_connection: 0,
            happened: mpsc::channel(HAPPENED_MAX),
        })
    }

    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        const IDLE: Duration = Duration::from_secs(3_600);
        let mut datagram = vec![0; DATAGRAM_MAX];
        loop {
            let next = self.proxy.poll_timeout().map(Duration::from_millis);
            let deadline = next.map_or_else(|| Instant::now() + IDLE, |at| self.began + at);
            tokio::select! {
                _ = &mut stopped => return,
                Some(happened) = self.happened.1.recv() => self.handle(happened),
                () = sleep_until(deadline) => {
                    let now_ms = self.now_ms();
                    self.proxy.handle_timeout(now_ms, random);
                }
                received = self.udp.recv_from(&mut datagram) => {
                    if let Ok((length, SocketAddr::V4(address))) = received {
                        self.datagram(address, datagram.get(..length).unwrap_or_default());
                    }
                    self.further_datagrams(&mut datagram);
                }
                accepted = self.tcp.accept() => match accepted {
                    Ok((stream, SocketAddr::V4(address))) => self.accept(stream, address),
                    Ok((_, SocketAddr::V6(_))) => {}
                    // Out of descriptors or of memory: what comes waits in the backlog.
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                },
            }
            self.act();
        }
    }

    /// A datagram of a site.
    fn datagram(&mut self, address: SocketAddrV4, octets: &[u8]) {
        let client = Client {
            address,
            transport: Transport::Udp,
            connection: 0,
        };
        let now_ms = self.now_ms();
        self.proxy.handle_query(now_ms, client, octets);
    }

    /// Those that wait too, some at once: in a flood most of them are dropped, which must be quick.
    fn further_datagrams(&mut self, room: &mut [u8]) {
        for _ in 0..DATAGRAMS_AT_ONCE {
            let Ok((length, SocketAddr::V4(address))) = self.udp.try_recv_from(room) else {
                return;
            };
            self.datagram(address, room.get(..length).unwrap_or_default());
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn handle(&mut self, happened: Happened) {
        let now_ms = self.now_ms();
        match happened {
            Happened::Admitted(token, admission) => {
                self.proxy.handle_admission(now_ms, token, admission, random());
            }
            Happened::Opened(token, opened) => self.proxy.handle_opened(token, opened),
            Happened::Upstream(ask, octets) => self.proxy.handle_answer(now_ms, ask, &octets, random()),
            Happened::UpstreamFailed(ask) => self.proxy.handle_failure(now_ms, ask, random()),
            Happened::Query(client, octets) => self.proxy.handle_query(now_ms, client, &octets),
            Happened::Hangup(connection) => {
                self.connections.remove(&connection);
            }
        }
    }

    /// Does what the proxy wants done.
    fn act(&mut self) {
        // Before the answers leave: who has one finds it counted.
        *self.shared.lock().unwrap_or_else(PoisonError::into_inner) = self.proxy.counters();
        while let Some(output) = self.proxy.poll_output() {
            match output {
                Output::Admit { token, client, name } => self.admit(token, client, name),
                Output::Open {
                    token,
                    site,
                    sets,
                    name,
                    addresses,
                    ttl_s,
                } => {
                    let (reply, replied) = oneshot::channel();
                    let call = Call::Open {
                        site,
                        sets,
                        name,
                        addresses,
                        ttl_s,
                        reply,
                    };
                    // A controller that is too busy opens nothing, and the answer is SERVFAIL in time.
                    if self.calls.try_send(call).is_ok() {
                        self.tell(
                            async move { Some(Happened::Opened(token, replied.await.unwrap_or(false))) },
                        );
                    }
                }
                Output::Ask {
                    ask,
                    server,
                    transport,
                    message,
                } => {
                    let happened = self.happened.0.clone();
                    let task = tokio::spawn(async move {
                        let outcome = match transport {
                            Transport::Udp => ask_udp(ask, server, &message, &happened).await,
                            Transport::Tcp => ask_tcp(ask, server, &message, &happened).await,
                        };
                        if outcome.is_err() {
                            let _ = happened.send(Happened::UpstreamFailed(ask)).await;
                        }
                    });
                    self.asks.insert(ask, task.abort_handle());
                }
                Output::Close { ask } => {
                    if let Some(task) = self.asks.remove(&ask) {
                        task.abort();
                    }
                }
                Output::Answer { client, message } => self.answer(client, message),
                Output::Report(report) => {
                    // Counters have what the controller has no time for.
                    let _ = self.calls.try_send(Call::Report(report));
                }
            }
        }
    }

    fn admit(&mut self, token: Token, client: Client, name: String) {
        let (reply, replied) = oneshot::channel();
        let call = Call::Admit {
            client: client.address,
            transport: client.transport,
            name,
            reply,
        };
        if self.calls.try_send(call).is_ok() {
            // No reply is no answer: the site asks again.
            self.tell(async move { Some(Happened::Admitted(token, replied.await.ok()?)) });
        }
    }

    /// Tells the proxy what comes out of some work.
    fn tell(&self, work: impl Future<Output = Option<Happened>> + Send + 'static) {
        let happened = self.happened.0.clone();
        tokio::spawn(async move {
            if let Some(told) = work.await {
                let _ = happened.send(told).await;
            }
        });
    }

    fn answer(&mut self, client: Client, message: Vec<u8>) {
        if message.is_empty() {
            return;
        }
        match client.transport {
            // A full socket loses it, as the network might.
            Transport::Udp => {
                let _ = self.udp.try_send_to(&message, client.address.into());
            }
            Transport::Tcp => {
                if let Some(connection) = self.connections.get(&client.connection)
                    && connection.answers.try_send(message).is_err()
                {
                    // It does not read its answers.
                    connection.task.abort();
                    self.connections.remove(&client.connection);
                }
            }
        }
    }

    fn accept(&mut self, stream: TcpStream, address: SocketAddrV4) {
        let share = self.proxy.share_of(address);
        let same = |connection: &&Connection| self.proxy.share_of(connection.address) == share;
        let of_share = self.connections.values().filter(same).count();
        let same_address = |connection: &&Connection| connection.address.ip() == address.ip();
        let of_address = self.connections.values().filter(same_address).count();
        if self.connections.len() >= CONNECTIONS_MAX
            || of_share >= CONNECTIONS_PER_SHARE
            || of_address >= CONNECTIONS_PER_ADDRESS
        {
            return;
        }
        self.next_connection += 1;
        let number = self.next_connection;
        let (answers, to_send) = mpsc::channel(ANSWERS_MAX);
        let happened = self.happened.0.clone();
        let client = Client {
            address,
            transport: Transport::Tcp,
            connection: number,
        };
        let task = tokio::spawn(async move {
            // However it ends, it ends: the site connects again.
            let _ = serve(stream, client, &happened, to_send).await;
            let _ = happened.send(Happened::Hangup(number)).await;
        });
        let connection = Connection {
            address,
            answers,
            task: task.abort_handle(),
        };
        self.connections.insert(number, connection);
    }
}

/// Random 16 bits. Without randomness no question goes out with a guessable number: zero is as good as any then, since
/// [`getrandom`] does not fail once the kernel has started.
fn random() -> u16 {
    let mut octets = [0; 2];
    match getrandom::fill(&mut octets) {
        Ok(()) => u16::from_ne_bytes(octets),
        Err(_) => 0,
    }
}

/// Asks over UDP, from a socket of its own: the kernel chooses a random port (RFC 5452 section 9.2), and takes
/// datagrams from the server's address and port alone.
async fn ask_udp(
    ask: Ask,
    server: SocketAddr,
    message: &[u8],
    happened: &mpsc::Sender<Happened>,
) -> io::Result<()> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(message).await?;
    let mut octets = vec![0; DATAGRAM_MAX];
    for _ in 0..FORGED_MAX {
        let length = socket.recv(&mut octets).await?;
        let answer = octets.get(..length).unwrap_or_default().to_vec();
        if happened.send(Happened::Upstream(ask, answer)).await.is_err() {
            break;
        }
    }
    Ok(())
}

async fn ask_tcp(
    ask: Ask,
    server: SocketAddr,
    message: &[u8],
    happened: &mpsc::Sender<Happened>,
) -> io::Result<()> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&framed(message)).await?;
    let answer = read_message(&mut stream).await?;
    let _ = happened.send(Happened::Upstream(ask, answer)).await;
    Ok(())
}

/// A message with its length in front (RFC 1035 section 4.2.2), in one piece (RFC 7766 section 8).
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let mut octets = length.to_be_bytes().to_vec();
    octets.extend(message);
    octets
}

async fn read_message(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut message = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// A connection of a site: its questions may come one upon the other, and answers go as they come (RFC 7766 section
/// 6.2.1.1).
async fn serve(
    stream: TcpStream,
    client: Client,
    happened: &mpsc::Sender<Happened>,
    mut answers: mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    let idle = Duration::from_secs(IDLE_S);
    let read = async {
        loop {
            let message = timeout(idle, read_message(&mut reader)).await??;
            if happened.send(Happened::Query(client, message)).await.is_err() {
                return Ok::<(), io::Error>(());
            }
        }
    };
    let write = async {
        while let Some(answer) = answers.recv().await {
            timeout(idle, writer.write_all(&framed(&answer))).await??;
        }
        Ok::<(), io::Error>(())
    };
    tokio::select! {
        ended = read => ended,
        ended = write => ended,
    }
}
