//! Many initiators on one address, to load a responder: `cargo xtask bench ike` runs it. Nothing is installed.
//!
//! ```text
//! initiators KEY=VALUE...
//!   local remote                   IP addresses; ports 500 and 4500
//!   chain key ca                   PEM files: own certificate chain and key, the responder's CA
//!   identity remote_identity       who we and the responder are
//!   ts_local ts_remote ike esp     prefixes and proposals
//!   count                          handshakes to make; each is forgotten as soon as it stands
//!   parallel                       at a time (4)
//!   stay_with=CA.key               every handshake has an identity of its own and stays: digits in the certificate's
//!                                  names are counted up and the certificate signed anew by this P-256 key; ends
//!                                  with standard input
//!   keys=FILE                      leaves SPI, encryption key and whether its numbers are extended (`esn` or `-`) of what every
//!                                  Child SA sends with there, a line each
//! ```
//! Prints `established N failed M microseconds T` when all are through.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    env,
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use gateway_ike::{
    AuthenticatedPeer, Authorizer, Command, Connection, Endpoint, EndpointConfig, Event, Output, Remote,
    SitePolicy, Time, TrafficSelector,
    crypto::random::SystemRandom,
    pki::{certificate::Certificate, credential::Credential, trust::TrustAnchors},
};

type Error = Box<dyn std::error::Error>;

/// Whoever connects to us is not expected.
struct Nobody;

impl Authorizer for Nobody {
    fn authorize(&self, _: &AuthenticatedPeer) -> Option<SitePolicy> {
        None
    }
}

struct Arguments(HashMap<String, String>);

impl Arguments {
    fn parse() -> Result<Self, Error> {
        let pair = |word: String| -> Result<(String, String), Error> {
            let (key, value) = word.split_once('=').ok_or("arguments are KEY=VALUE")?;
            Ok((key.to_owned(), value.to_owned()))
        };
        Ok(Self(env::args().skip(1).map(pair).collect::<Result<_, _>>()?))
    }

    fn get(&self, key: &str) -> Result<&str, Error> {
        let found = self.0.get(key).map(String::as_str);
        found.ok_or_else(|| format!("{key}=... is missing").into())
    }

    fn file(&self, key: &str) -> Result<Vec<u8>, Error> {
        let path = self.get(key)?;
        fs::read(path).map_err(|error| format!("{path}: {error}").into())
    }

    fn address(&self, key: &str, port: u16) -> Result<SocketAddr, Error> {
        Ok(SocketAddr::new(self.get(key)?.parse::<IpAddr>()?, port))
    }

    fn number(&self, key: &str, otherwise: usize) -> Result<usize, Error> {
        match self.0.get(key) {
            Some(text) => Ok(text.parse()?),
            None => Ok(otherwise),
        }
    }
}

fn selectors(text: &str) -> Result<Vec<TrafficSelector>, Error> {
    let prefix = |text: &str| -> Result<TrafficSelector, Error> {
        let (address, len) = text.split_once('/').ok_or("a selector is ADDRESS/LENGTH")?;
        Ok(TrafficSelector::subnet(address.parse()?, len.parse()?).ok_or("the prefix is too long")?)
    };
    text.split(',').map(prefix).collect()
}

/// Makes the endpoint of one initiator.
struct Factory {
    arguments: Arguments,
    chain: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
    /// With identities of their own.
    series: Option<Series>,
}

impl Factory {
    fn new(arguments: Arguments) -> Result<Self, Error> {
        let (chain, key) = (arguments.file("chain")?, arguments.file("key")?);
        let series = match arguments.0.contains_key("stay_with") {
            true => Some(Series::new(&chain, &key, &arguments)?),
            false => None,
        };
        Ok(Self {
            chain,
            key,
            ca: arguments.file("ca")?,
            series,
            arguments,
        })
    }

    fn endpoint(&self, number: usize) -> Result<Endpoint, Error> {
        let (chain, identity) = match &self.series {
            Some(series) => series.member(number)?,
            None => (self.chain.clone(), self.arguments.get("identity")?.to_owned()),
        };
        let mut config = EndpointConfig::new(
            Credential::from_pem(&chain, &self.key)?,
            identity.parse()?,
            TrustAnchors::from_pem(&self.ca)?,
            Box::new(Nobody),
        );
        config.ike_proposals = vec![self.arguments.get("ike")?.parse()?];
        config.esp_proposals = vec![self.arguments.get("esp")?.parse()?];
        // Those that stay are idle, and the responder is the one that would ask.
        config.dpd_after_s = 86_400;
        config.ike_lifetime_s = 86_400;
        config.child_lifetime_s = 86_400;
        let policy = SitePolicy {
            site: 1,
            name: "responder".to_owned(),
            ts_local: selectors(self.arguments.get("ts_local")?)?,
            ts_remote: selectors(self.arguments.get("ts_remote")?)?,
            esp_proposals: None,
        };
        let remote = Remote {
            local: self.arguments.address("local", 500)?,
            address: self.arguments.address("remote", 500)?,
        };
        let remote_identity = self.arguments.get("remote_identity")?.parse()?;
        config
            .connections
            .push(Connection::new("c", remote, remote_identity, policy));
        Ok(Endpoint::new(config, Box::new(SystemRandom::new())))
    }
}

/// Certificates that differ in the digits of their names.
struct Series {
    /// To-be-signed part and algorithm of the first.
    signed: Vec<u8>,
    algorithm: Vec<u8>,
    identity: String,
    digits: String,
    issuer: gateway_ike::crypto::sign::SigningKey,
}

impl Series {
    fn new(chain: &[u8], key: &[u8], arguments: &Arguments) -> Result<Self, Error> {
        let first = Credential::from_pem(chain, key)?;
        let (_, content) = element(first.leaf().der())?;
        let (length, _) = element(content)?;
        let (signed, rest) = content.split_at(length);
        let (length, _) = element(rest)?;
        let identity = arguments.get("identity")?.to_owned();
        let digits: String = identity.chars().filter(char::is_ascii_digit).collect();
        Ok(Self {
            signed: signed.to_vec(),
            algorithm: rest.split_at(length).0.to_vec(),
            issuer: gateway_ike::crypto::sign::SigningKey::from_pem(&arguments.file("stay_with")?)?,
            identity,
            digits,
        })
    }

    /// Certificate (PEM) and identity of a member.
    fn member(&self, number: usize) -> Result<(Vec<u8>, String), Error> {
        let digits = format!("{number:0width$}", width = self.digits.len());
        let (from, to) = (self.digits.as_bytes(), digits.as_bytes());
        let mut signed = self.signed.clone();
        let places: Vec<_> = signed
            .windows(from.len())
            .enumerate()
            .filter(|(_, window)| *window == from)
            .map(|(place, _)| place)
            .collect();
        for place in places {
            if let Some(window) = signed.get_mut(place..place + to.len()) {
                window.copy_from_slice(to);
            }
        }
        let scheme = self
            .issuer
            .choose(&[gateway_ike::crypto::sign::HashAlgorithm::Sha256])?;
        let signature = p256_signature(&self.issuer.sign(scheme, &signed)?);
        let bits = [&[0], &signature[..]].concat();
        let content = [&signed[..], &self.algorithm, &wrapped(0x03, &bits)].concat();
        let der = wrapped(0x30, &content);
        Certificate::from_der(&der)?;
        Ok((
            pem(&der).into_bytes(),
            self.identity.replace(&self.digits, &digits),
        ))
    }
}

/// An RFC 7427 AUTH value is the algorithm, with its length in front, and then the signature.
fn p256_signature(auth: &[u8]) -> Vec<u8> {
    let algorithm = auth.first().map_or(0, |length| usize::from(*length));
    auth.get(1 + algorithm..).unwrap_or_default().to_vec()
}

/// Length of a DER element with its head, and its content.
fn element(der: &[u8]) -> Result<(usize, &[u8]), Error> {
    let cut = || Error::from("a truncated certificate");
    let first = usize::from(*der.get(1).ok_or_else(cut)?);
    let octets = if first < 0x80 { 0 } else { first & 0x7f };
    let length = match octets {
        0 => first,
        _ => der
            .get(2..2 + octets)
            .ok_or_else(cut)?
            .iter()
            .fold(0, |length, octet| length << 8 | usize::from(*octet)),
    };
    let head = 2 + octets;
    Ok((head + length, der.get(head..head + length).ok_or_else(cut)?))
}

fn wrapped(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length: Vec<_> = length.into_iter().skip_while(|octet| *octet == 0).collect();
    let mut der = vec![tag];
    if content.len() >= 0x80 {
        der.push(0x80 | u8::try_from(length.len()).unwrap_or(0));
    }
    der.extend(length);
    der.extend(content);
    der
}

fn pem(der: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for (place, chunk) in der.chunks(3).enumerate() {
        let padded = [0, 1, 2].map(|index| chunk.get(index).copied().unwrap_or(0));
        let bits = padded
            .iter()
            .fold(0_usize, |bits, octet| bits << 8 | usize::from(*octet));
        for letter in 0..4 {
            let index = bits >> (18 - 6 * letter) & 63;
            let letter = if letter <= chunk.len() {
                LETTERS.get(index).copied()
            } else {
                Some(b'=')
            };
            text.push(char::from(letter.unwrap_or(b'=')));
        }
        if place % 16 == 15 {
            text.push('\n');
        }
    }
    text + "\n-----END CERTIFICATE-----\n"
}

struct Datagram {
    local: SocketAddr,
    remote: SocketAddr,
    payload: Vec<u8>,
}

fn listen(address: SocketAddr, received: Sender<Datagram>) -> Result<UdpSocket, Error> {
    let socket = UdpSocket::bind(address)?;
    let receiver = socket.try_clone()?;
    thread::spawn(move || {
        let mut buffer = vec![0; 65_535];
        while let Ok((len, remote)) = receiver.recv_from(&mut buffer) {
            let payload = buffer.get(..len).unwrap_or_default().to_vec();
            let datagram = Datagram {
                local: address,
                remote,
                payload,
            };
            if received.send(datagram).is_err() {
                break;
            }
        }
    });
    Ok(socket)
}

/// The initiator's SPI: the first octets after the non-ESP marker of port 4500.
fn spi(local: SocketAddr, payload: &[u8]) -> Option<[u8; 8]> {
    let message = if local.port() == 4500 {
        payload.get(4..)?
    } else {
        payload
    };
    message.first_chunk().copied()
}

/// All initiators that are there.
struct Crowd {
    factory: Factory,
    sockets: [UdpSocket; 2],
    started: Instant,
    endpoints: HashMap<usize, Endpoint>,
    by_spi: HashMap<[u8; 8], usize>,
    /// When each wants to be called.
    deadlines: BTreeSet<(u64, usize)>,
    deadline_of: HashMap<usize, u64>,
    next: usize,
    established: usize,
    failed: usize,
    pending: usize,
    finished: VecDeque<usize>,
    /// SPIs and keys, if they are wanted.
    keys: Option<String>,
}

impl Crowd {
    fn now(&self) -> Result<Time, Error> {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        Ok(Time {
            mono_ms: u64::try_from(self.started.elapsed().as_millis())?,
            unix_s: unix.as_secs(),
        })
    }

    fn begin(&mut self) -> Result<(), Error> {
        let number = self.next;
        self.next += 1;
        let mut endpoint = self.factory.endpoint(number)?;
        let initiate = Command::Initiate {
            connection: "c".to_owned(),
        };
        endpoint.handle_command(self.now()?, initiate);
        self.endpoints.insert(number, endpoint);
        self.pending += 1;
        self.drain(number)
    }

    fn handle(&mut self, datagram: &Datagram) -> Result<(), Error> {
        let known = spi(datagram.local, &datagram.payload).and_then(|spi| self.by_spi.get(&spi).copied());
        let Some(number) = known else { return Ok(()) };
        let now = self.now()?;
        if let Some(endpoint) = self.endpoints.get_mut(&number) {
            endpoint.handle_datagram(now, datagram.local, datagram.remote, &datagram.payload);
        }
        self.drain(number)
    }

    fn handle_timeouts(&mut self) -> Result<(), Error> {
        let now = self.now()?;
        while let Some((due, number)) = self
            .deadlines
            .first()
            .copied()
            .filter(|(due, _)| *due <= now.mono_ms)
        {
            self.deadlines.remove(&(due, number));
            self.deadline_of.remove(&number);
            if let Some(endpoint) = self.endpoints.get_mut(&number) {
                endpoint.handle_timeout(now);
            }
            self.drain(number)?;
        }
        Ok(())
    }

    fn drain(&mut self, number: usize) -> Result<(), Error> {
        let Some(endpoint) = self.endpoints.get_mut(&number) else {
            return Ok(());
        };
        while let Some(output) = endpoint.poll_output() {
            match output {
                Output::Transmit {
                    local,
                    remote,
                    payload,
                } => {
                    self.by_spi.extend(spi(local, &payload).map(|spi| (spi, number)));
                    let [ike, nat] = &self.sockets;
                    let socket = if local.port() == 4500 { nat } else { ike };
                    socket.send_to(&payload, remote)?;
                }
                Output::InstallChildSa(install) => {
                    let Some(keys) = &mut self.keys else { continue };
                    write!(keys, "{:08x} ", install.spi_out)?;
                    for octet in &install.keys_out.encryption {
                        write!(keys, "{octet:02x}")?;
                    }
                    writeln!(keys, " {}", if install.esn { "esn" } else { "-" })?;
                }
                Output::Event(Event::ChildSaEstablished { .. }) => {
                    self.established += 1;
                    self.pending -= 1;
                    self.finished.push_back(number);
                }
                Output::Event(
                    event @ (Event::ConnectionDown { .. }
                    | Event::AuthenticationFailed { .. }
                    | Event::RefusedByPeer { .. }
                    | Event::Closed { .. }),
                ) => {
                    eprintln!("{number}: {event}");
                    if matches!(event, Event::ConnectionDown { .. }) {
                        self.failed += 1;
                        self.pending = self.pending.saturating_sub(1);
                        self.finished.push_back(number);
                    }
                }
                _ => {}
            }
        }
        let due = endpoint.poll_timeout().map(|(due, _)| due);
        let before = match due {
            Some(due) => self.deadline_of.insert(number, due),
            None => self.deadline_of.remove(&number),
        };
        if let Some(before) = before {
            self.deadlines.remove(&(before, number));
        }
        self.deadlines.extend(due.map(|due| (due, number)));
        Ok(())
    }

    /// Forgets those that are through, without a word to the responder.
    fn forget_finished(&mut self) {
        for number in std::mem::take(&mut self.finished) {
            self.endpoints.remove(&number);
            self.by_spi.retain(|_, known| *known != number);
            if let Some(due) = self.deadline_of.remove(&number) {
                self.deadlines.remove(&(due, number));
            }
        }
    }

    fn wait(&self) -> Result<Duration, Error> {
        let next = self.deadlines.first().map_or(1_000, |(due, _)| *due);
        let now_ms = self.now()?.mono_ms;
        Ok(Duration::from_millis(next.saturating_sub(now_ms).min(1_000)))
    }
}

/// Set when standard input ends.
static ENDED: AtomicBool = AtomicBool::new(false);

fn main() -> Result<(), Error> {
    let arguments = Arguments::parse()?;
    let (count, parallel) = (arguments.number("count", 1)?, arguments.number("parallel", 4)?);
    let stay = arguments.0.contains_key("stay_with");
    let keys_file = arguments.0.get("keys").cloned();
    let (sender, received) = mpsc::channel();
    let sockets = [
        listen(arguments.address("local", 500)?, sender.clone())?,
        listen(arguments.address("local", 4500)?, sender)?,
    ];
    let mut crowd = Crowd {
        factory: Factory::new(arguments)?,
        sockets,
        started: Instant::now(),
        endpoints: HashMap::new(),
        by_spi: HashMap::new(),
        deadlines: BTreeSet::new(),
        deadline_of: HashMap::new(),
        next: 0,
        established: 0,
        failed: 0,
        pending: 0,
        finished: VecDeque::new(),
        keys: keys_file.is_some().then(String::new),
    };
    let mut told = false;
    while !(told && (!stay || ENDED.load(Ordering::Relaxed))) {
        while crowd.next < count && crowd.pending < parallel {
            crowd.begin()?;
        }
        match received.recv_timeout(crowd.wait()?) {
            Ok(datagram) => crowd.handle(&datagram)?,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err("both sockets are gone".into()),
        }
        crowd.handle_timeouts()?;
        if !stay {
            crowd.forget_finished();
        }
        if !told && crowd.next == count && crowd.pending == 0 {
            told = true;
            if let (Some(file), Some(keys)) = (&keys_file, &crowd.keys) {
                fs::write(file, keys).map_err(|error| format!("{file}: {error}"))?;
            }
            let (established, failed) = (crowd.established, crowd.failed);
            let microseconds = crowd.started.elapsed().as_micros();
            println!("established {established} failed {failed} microseconds {microseconds}");
            std::io::stdout().flush()?;
            if stay {
                thread::spawn(|| {
                    let _end = std::io::stdin().read_to_end(&mut Vec::new());
                    ENDED.store(true, Ordering::Relaxed);
                });
            }
        }
    }
    Ok(())
}
