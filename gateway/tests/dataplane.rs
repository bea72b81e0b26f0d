//! The data plane in network namespaces, with static SAs and this test as the peer. Needs root.
//!
//! ```text
//!  dph-site-PID               dph-gw-PID                              dph-srv-PID
//!  peer0 198.51.100.2 ------- wan0 198.51.100.1   core0 203.0.113.1 ------- srv0 203.0.113.10
//!  (ESP by this test)         (gateway, two queues on each side)            (UDP echo)
//! ```
//!
//! The gateway runs as a process of its own, which is this test program again (see `gateway_process`), so that it can
//! be killed.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gateway::core::classifier::{self, Condition};
use gateway::dataplane::{
    Dataplane, DataplaneConfig, DataplaneEvent, Engine, HoldDown, InterfaceConfig, Published, Role,
    SaInstall, TableSizes, monotonic_s,
};
use gateway_common::abi::event::kind;
use gateway_common::abi::interface::{STATES, Settings};
use gateway_common::abi::nat::{InsideKey, OutsideKey};
use gateway_common::abi::next_hop::NextHop;
use gateway_common::abi::rule::{Rule, action, direction};
use gateway_common::abi::site::{Block, Site};
use gateway_esp::{
    InboundConfig, InboundSa, KeyMaterial, LinkHeader, Opened, OutboundConfig, OutboundSa, OuterDf,
    Selectors, Suite, TrafficSelector, Tunnel,
};
use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const TERMINAL: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 10);
const ECHO_PORT: u16 = 7777;
const REJECTED_PORT: u16 = 7778;
const SITES: u32 = 2;
/// Port of each terminal that the server may reach.
const PUBLISHED_PORT: u16 = 161;
const SUITE: Suite = Suite::AesGcm16_256;
const ESP: i32 = 50;
const OUTER_LEN: usize = 14 + 20;
/// Set in the gateway's process: the directory that its namespaces' MACs and pins are in.
const GATEWAY_DIRECTORY: &str = "GATEWAY_TEST_DIRECTORY";
/// Set in the gateway's process: sites share an address.
const SHARED: &str = "GATEWAY_TEST_SHARED";

fn nat_address(site: u32) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, site as u8)
}

/// The address that sites share in a gateway with [`SHARED`], each by a block of ports.
const SHARED_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 99);

fn port_block(site: u32) -> Block {
    let first = 2048 * site as u16;
    Block {
        address: SHARED_ADDRESS.octets(),
        first,
        last: first + 2047,
    }
}

fn spi_to_gateway(site: u32) -> u32 {
    0x1000 + site
}

fn spi_to_site(site: u32) -> u32 {
    0x2000 + site
}

fn keys(seed: u32) -> KeyMaterial {
    KeyMaterial::new(&vec![seed as u8; SUITE.encryption_key_len()], &[])
}

// ---------------------------------------------------------------------------------------------------- the gateway

/// The gateway's process. Run alone it does nothing: it is started by the other tests of this file.
#[test]
fn gateway_process() {
    let Ok(directory) = std::env::var(GATEWAY_DIRECTORY) else {
        return;
    };
    let directory = PathBuf::from(directory);
    let dataplane = Dataplane::start(&config(&directory)).unwrap_or_else(|error| panic!("{error}"));
    configure(&dataplane, &directory);
    println!("\nREADY {:?}", dataplane.attached());
    for line in std::io::stdin().lock().lines() {
        match line.unwrap().as_str() {
            "stats" => println!("\nSTATS {}", stats(&dataplane)),
            "follow" => println!("\nFOLLOWED {}", follow_path(&dataplane, &directory)),
            other => {
                let later_s: u32 = other.strip_prefix("expire ").unwrap().parse().unwrap();
                let counts = dataplane.expire(monotonic_s() as u32 + later_s).unwrap();
                println!("\nEXPIRED {counts:?}");
            }
        }
    }
    dataplane.stop();
}

fn config(directory: &std::path::Path) -> DataplaneConfig {
    let interface = |name: &str, role| InterfaceConfig {
        name: name.to_owned(),
        role,
    };
    DataplaneConfig {
        interfaces: vec![interface("wan0", Role::Wan), interface("core0", Role::Core)],
        bpffs_dir: directory.join("bpf"),
        clear_link_prefix: "dphclr".to_owned(),
        workers: None,
        pin_cores: Vec::new(),
        settings: Settings {
            idle_s: [300; STATES],
            ike_per_source_per_s: 100,
            port_low: 1024,
            ..Settings::UNLIMITED
        },
        tables: TableSizes::default(),
        hold_down: HoldDown {
            hold_s: 120,
            site_ports_max: 1000,
        },
        engine: Engine::default(),
        frames_per_worker: 4096,
    }
}

fn configure(dataplane: &Dataplane, directory: &std::path::Path) {
    let site = |id: u32| {
        let site = match std::env::var(SHARED) {
            Ok(_) => Site::with_blocks(1, &[port_block(id)], 0),
            Err(_) => Site::whole(1, nat_address(id).octets()),
        };
        (id, site)
    };
    dataplane
        .set_sites(&(1..=SITES).map(site).collect::<Vec<_>>())
        .unwrap();
    let everywhere = (
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::BROADCAST,
        direction::SITE_TO_CENTER,
    );
    dataplane.set_directions(&[everywhere]).unwrap();
    // Every site is in group 0.
    let reject = Rule {
        destination_port_low: REJECTED_PORT,
        destination_port_high: REJECTED_PORT,
        action: action::REJECT,
        source_rule: 1,
        ..allow_echo()
    };
    let reach_terminals = Rule {
        destination: TERMINAL.octets(),
        destination_port_low: PUBLISHED_PORT,
        destination_port_high: PUBLISHED_PORT,
        directions: 1 << direction::CENTER_TO_SITE,
        source_rule: 2,
        ..allow_echo()
    };
    let rules = [allow_echo(), reject, reach_terminals];
    let generation = classifier::build(1, 0, &rules.each_ref().map(Condition::from), &[1]).unwrap();
    dataplane.load_rules(generation.chunks()).unwrap();
    let core = dataplane
        .attached()
        .iter()
        .find(|a| a.role == Role::Core)
        .unwrap();
    let hop = NextHop {
        ifindex: core.index,
        resolved: 1,
        destination_mac: mac(directory, "srv0"),
        source_mac: mac(directory, "core0"),
        mtu: 1500,
    };
    dataplane.set_next_hops(&[([203, 0, 113, 0], 24, hop)]).unwrap();
    dataplane
        .publish(&(1..=SITES).map(published).collect::<Vec<_>>())
        .unwrap();
    for site in 1..=SITES {
        dataplane.install_sa(sa(site, directory)).unwrap();
    }
}

/// The same port of the same address of each site, beside each other, for the server alone.
fn published(site: u32) -> Published {
    let outside = published_at(site);
    Published {
        number: site,
        inside: InsideKey {
            site,
            address: TERMINAL.octets(),
            port: PUBLISHED_PORT.to_be_bytes(),
            protocol: 17,
            pad: 0,
        },
        outside: OutsideKey {
            address: outside.ip().octets(),
            port: outside.port().to_be_bytes(),
            protocol: 17,
            pad: 0,
        },
        from: vec![(SERVER.octets(), 32)],
    }
}

fn published_at(site: u32) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 99, 1, 1), 9000 + site as u16)
}

fn allow_echo() -> Rule {
    Rule {
        groups: 0,
        site: 0,
        source: [0; 4],
        source_mask: [0; 4],
        destination: SERVER.octets(),
        destination_mask: [255; 4],
        source_port_low: 0,
        source_port_high: u16::MAX,
        destination_port_low: ECHO_PORT,
        destination_port_high: ECHO_PORT,
        protocol: 17,
        action: action::ALLOW,
        flags: 0,
        directions: 0,
        source_rule: 0,
        name_set: 0,
        to_site: 0,
        pad: 0,
        to_groups: 0,
    }
}

fn sa(site: u32, directory: &std::path::Path) -> SaInstall {
    SaInstall {
        site,
        spi_in: spi_to_gateway(site),
        spi_out: spi_to_site(site),
        suite: SUITE,
        keys_in: keys(site),
        keys_out: keys(0x80 + site),
        esn: true,
        replay_window: 1024,
        udp_encap: None,
        local: GATEWAY.into(),
        remote: PEER.into(),
        interface: "wan0".to_owned(),
        link: LinkHeader {
            destination: mac(directory, "peer0"),
            source: mac(directory, "wan0"),
        },
        ts_local: vec![TrafficSelector::ANY],
        ts_remote: vec![TrafficSelector::addresses(
            Ipv4Addr::new(192, 168, 1, 0),
            Ipv4Addr::new(192, 168, 1, 255),
        )],
        outbound_active: true,
        path_mtu: 1500,
    }
}

/// Does what routers of paths say, as the daemon does; answers what they said last.
fn follow_path(dataplane: &Dataplane, directory: &std::path::Path) -> u32 {
    let mut followed = 0;
    for event in dataplane.events() {
        let DataplaneEvent::Packet(event) = event else {
            continue;
        };
        assert_eq!(event.kind, kind::PATH_MTU);
        let handle = dataplane.sa_of_path(event.rule, event.source).unwrap();
        let sa = sa(event.site, directory);
        let tunnel = Tunnel {
            local: sa.local,
            remote: sa.remote,
            udp: None,
            link: sa.link,
            mtu: event.generation as u16,
            df: OuterDf::Set,
        };
        dataplane.update_path(handle, "wan0", tunnel).unwrap();
        followed = event.generation;
    }
    followed
}

fn stats(dataplane: &Dataplane) -> String {
    let handed: u64 = dataplane
        .worker_stats()
        .iter()
        .map(|worker| worker.handed_over)
        .sum();
    let drops: Vec<_> = dataplane
        .drops()
        .into_iter()
        .map(|(reason, count)| format!("{}={count}", reason.name()))
        .collect();
    let sas: Vec<_> = dataplane
        .sa_counters()
        .into_iter()
        .map(|(_, sa)| {
            format!(
                "in={} out={} unauthentic={} replayed={}",
                sa.packets_in, sa.packets_out, sa.unauthentic, sa.replayed
            )
        })
        .collect();
    format!(
        "handed={handed} flows={} mappings={} events={:?} drops[{}] sas[{}] paths{:?}",
        dataplane.flows().len(),
        dataplane.mappings().len(),
        dataplane.events(),
        drops.join(" "),
        sas.join("; "),
        dataplane.paths(),
    )
}

fn mac(directory: &std::path::Path, interface: &str) -> [u8; 6] {
    let text = fs::read_to_string(directory.join(interface)).unwrap();
    let mut octets = text
        .trim()
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16).unwrap());
    std::array::from_fn(|_| octets.next().unwrap())
}

// -------------------------------------------------------------------------------------------------------- the lab

/// The namespaces; gone when dropped.
struct Lab {
    id: String,
    directory: PathBuf,
}

static LABS: AtomicU32 = AtomicU32::new(0);

impl Lab {
    fn new() -> Self {
        let id = format!("{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let lab = Self {
            directory: PathBuf::from(format!("/run/dph-{id}")),
            id,
        };
        fs::create_dir_all(lab.directory.join("bpf")).unwrap();
        sh(&format!("mount -t bpf bpf {}/bpf", lab.directory.display()));
        for node in ["site", "gw", "srv"] {
            sh(&format!("ip netns add {}", lab.namespace(node)));
            sh(&format!("ip -n {} link set lo up", lab.namespace(node)));
        }
        lab.wire(
            ("site", "peer0", "198.51.100.2/24"),
            ("gw", "wan0", "198.51.100.1/24"),
        );
        lab.wire(
            ("srv", "srv0", "203.0.113.10/24"),
            ("gw", "core0", "203.0.113.1/24"),
        );
        sh(&format!(
            "ip -n {} route add 10.99.0.0/16 via 203.0.113.1",
            lab.namespace("srv")
        ));
        lab
    }

    fn namespace(&self, node: &str) -> String {
        format!("dph-{node}-{}", self.id)
    }

    /// A veth pair with two queues, checksums written out, and frames from XDP delivered.
    fn wire(&self, near: (&str, &str, &str), far: (&str, &str, &str)) {
        let queues = "numrxqueues 2 numtxqueues 2";
        sh(&format!(
            "ip -n {} link add {} {queues} type veth peer name {} netns {} {queues}",
            self.namespace(near.0),
            near.1,
            far.1,
            self.namespace(far.0)
        ));
        for (node, interface, address) in [near, far] {
            let namespace = self.namespace(node);
            sh(&format!(
                "ip -n {namespace} address add {address} dev {interface}"
            ));
            sh(&format!("ip -n {namespace} link set {interface} up"));
            sh(&format!(
                "ip netns exec {namespace} ethtool -K {interface} tx off gro on"
            ));
            let mac = sh(&format!(
                "ip netns exec {namespace} cat /sys/class/net/{interface}/address"
            ));
            fs::write(self.directory.join(interface), mac).unwrap();
        }
    }

    fn enter(&self, node: &str) {
        let file = File::open(format!("/run/netns/{}", self.namespace(node))).unwrap();
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
    }

    /// Runs `work` in a namespace.
    fn within<T: Send>(&self, node: &str, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let run = scope.spawn(|| {
                self.enter(node);
                work()
            });
            run.join().unwrap()
        })
    }

    /// Answers UDP with its own octets, after the address it came from; ends with the test program.
    fn serve_echo(&self) {
        let socket = self.within("srv", || UdpSocket::bind((SERVER, ECHO_PORT)).unwrap());
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                let answer = format!("{from} {}", String::from_utf8_lossy(&buffer[..len]));
                let _ = socket.send_to(answer.as_bytes(), from);
            }
        });
    }

    fn start_gateway(&self) -> Gateway {
        let (gateway, ready) = self.start_gateway_in_any_mode();
        assert_eq!(ready.matches("Native").count(), 2, "{ready}");
        gateway
    }

    /// Also answers what the gateway says when it is ready.
    fn start_gateway_in_any_mode(&self) -> (Gateway, String) {
        self.start_gateway_with(&[])
    }

    fn start_gateway_with(&self, environment: &[(&str, &str)]) -> (Gateway, String) {
        let mut child = Command::new("ip")
            .envs(environment.iter().copied())
            .args(["netns", "exec", &self.namespace("gw")])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "gateway_process", "--nocapture", "--test-threads=1"])
            .env(GATEWAY_DIRECTORY, &self.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut gateway = Gateway {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        };
        let ready = gateway.line("READY");
        (gateway, ready)
    }

    fn programs_attached(&self) -> usize {
        let links = sh(&format!("ip -n {} -details link show", self.namespace("gw")));
        links.matches("prog/xdp").count()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let nodes = ["site", "gw", "srv"].map(|node| format!("ip netns del {}", self.namespace(node)));
        let directory = self.directory.display();
        for command in nodes.into_iter().chain([format!("umount {directory}/bpf")]) {
            let _ = Command::new("sh").args(["-c", &command]).status();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

struct Gateway {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Gateway {
    fn line(&mut self, word: &str) -> String {
        let mut line = String::new();
        while self.output.read_line(&mut line).unwrap() > 0 {
            if line.starts_with(word) {
                return line;
            }
            line.clear();
        }
        panic!("the gateway ended before it said {word}");
    }

    fn ask(&mut self, question: &str, word: &str) -> String {
        writeln!(self.input.as_mut().unwrap(), "{question}").unwrap();
        self.line(word)
    }

    fn stats(&mut self) -> String {
        self.ask("stats", "STATS")
    }

    /// No way to clean up: what a crash or the OOM killer does.
    fn kill(mut self) {
        // `ip netns exec` becomes the gateway, so this is its process.
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn stop(mut self) {
        drop(self.input.take());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// ------------------------------------------------------------------------------------------------------- the peer

/// A site's router: ESP by the crate, carried by a raw socket of the site's namespace.
struct Peer {
    socket: Socket,
    outbound: OutboundSa,
    inbound: InboundSa,
}

impl Peer {
    fn new(lab: &Lab, site: u32) -> Self {
        let socket = lab.within("site", || {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(ESP))).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            socket
        });
        let selectors = Selectors::any();
        let outbound = OutboundSa::new(OutboundConfig {
            spi: spi_to_gateway(site),
            suite: SUITE,
            keys: keys(site),
            esn: true,
            first_sequence: 1,
            iv_key: gateway_esp::IvKey::new([0; 16]),
            selectors: selectors.clone(),
            tunnel: Tunnel {
                local: PEER.into(),
                remote: GATEWAY.into(),
                udp: None,
                link: LinkHeader {
                    destination: [0; 6],
                    source: [0; 6],
                },
                mtu: 1500,
                df: OuterDf::Set,
            },
        });
        let inbound = InboundSa::new(InboundConfig {
            spi: spi_to_site(site),
            suite: SUITE,
            keys: keys(0x80 + site),
            esn: true,
            replay_window: 1024,
            selectors,
        });
        Self {
            socket,
            outbound: outbound.unwrap(),
            inbound: inbound.unwrap(),
        }
    }

    /// The ESP packet around a UDP datagram of the terminal.
    fn seal(&mut self, source_port: u16, payload: &[u8]) -> Vec<u8> {
        self.seal_packet(&udp(source_port, ECHO_PORT, payload))
    }

    /// The ESP packet around a packet.
    fn seal_packet(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 256 + packet.len()];
        let inner = 128..128 + packet.len();
        frame[inner.clone()].copy_from_slice(packet);
        let sealed = self.outbound.seal(&mut frame, inner).unwrap();
        frame[sealed][OUTER_LEN..].to_vec()
    }

    fn send(&self, esp: &[u8]) {
        let gateway = SockAddr::from(SocketAddrV4::new(GATEWAY, 0));
        self.socket.send_to(esp, &gateway).unwrap();
    }

    /// The next inner packet for this SA, whole.
    fn receive_packet(&mut self, wait: Duration) -> Option<Vec<u8>> {
        let until = Instant::now() + wait;
        while Instant::now() < until {
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let Ok(len) = self.socket.recv(&mut buffer) else {
                continue;
            };
            let octets: Vec<u8> = buffer[..len].iter().map(read).collect();
            let mut esp = octets[20..].to_vec();
            if let Ok(Opened::Packet { inner, .. }) = self.inbound.open(&mut esp, octets[1]) {
                return Some(esp[inner].to_vec());
            }
        }
        None
    }

    fn receive(&mut self, wait: Duration) -> Option<String> {
        let packet = self.receive_packet(wait)?;
        assert_eq!(packet[12..16], SERVER.octets(), "source");
        assert_eq!(packet[16..20], TERMINAL.octets(), "destination");
        Some(String::from_utf8_lossy(&packet[28..]).into_owned())
    }

    fn echo(&mut self, source_port: u16, payload: &str) -> Option<String> {
        let esp = self.seal(source_port, payload.as_bytes());
        self.send(&esp);
        self.receive(Duration::from_secs(2))
    }
}

/// `recv` filled the octets that it answered the number of.
#[allow(unsafe_code, reason = "socket2 reads into uninitialized memory")]
fn read(octet: &MaybeUninit<u8>) -> u8 {
    // SAFETY: only octets below the length that `recv` answered are read.
    unsafe { octet.assume_init() }
}

fn udp(source_port: u16, destination_port: u16, payload: &[u8]) -> Vec<u8> {
    let udp_len = (8 + payload.len()) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend_from_slice(&(20 + udp_len).to_be_bytes());
    packet.extend_from_slice(&[0, 1, 0, 0, 64, 17, 0, 0]);
    packet.extend_from_slice(&TERMINAL.octets());
    packet.extend_from_slice(&SERVER.octets());
    let checksum = internet_checksum(&packet);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend_from_slice(&source_port.to_be_bytes());
    packet.extend_from_slice(&destination_port.to_be_bytes());
    packet.extend_from_slice(&udp_len.to_be_bytes());
    // No UDP checksum: lawful in IPv4.
    packet.extend_from_slice(&[0, 0]);
    packet.extend_from_slice(payload);
    packet
}

fn internet_checksum(octets: &[u8]) -> u16 {
    let mut sum: u32 = octets
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

// ------------------------------------------------------------------------------------------------------ the tests

/// Whether this is the gateway's process, which runs `gateway_process` alone.
fn is_gateway() -> bool {
    std::env::var(GATEWAY_DIRECTORY).is_ok()
}

#[test]
fn a_datagram_goes_out_translated_and_its_answer_comes_back() {
    if is_gateway() {
        return;
    }
    let lab = Lab::new();
    lab.serve_echo();
    let mut gateway = lab.start_gateway();
    let mut peers: Vec<_> = (1..=SITES).map(|site| (site, Peer::new(&lab, site))).collect();
    for (site, peer) in &mut peers {
        for source_port in 5000..5020 {
            let answer = peer.echo(source_port, "hello");
            let stats = gateway.stats();
            let answer =
                answer.unwrap_or_else(|| panic!("site {site}, port {source_port}: no answer; {stats}"));
            assert!(answer.starts_with(&nat_address(*site).to_string()), "{answer}");
            assert!(answer.ends_with("hello"), "{answer}");
        }
    }
    let stats = gateway.stats();
    println!("{stats}");
    assert!(stats.contains("flows=40"), "{stats}");
    assert!(
        !stats.contains("handed=0 "),
        "both workers own an SA, one queue gets the packets: {stats}"
    );
    gateway.stop();
}

/// Two sites with the same inner address and the same source ports behind one address: each gets its own answers.
#[test]
fn sites_that_share_an_address_get_their_own_answers() {
    if is_gateway() {
        return;
    }
    let lab = Lab::new();
    lab.serve_echo();
    let (mut gateway, _) = lab.start_gateway_with(&[(SHARED, "1")]);
    let mut peers: Vec<_> = (1..=SITES).map(|site| (site, Peer::new(&lab, site))).collect();
    for source_port in 2040..2060 {
        for (site, peer) in &mut peers {
            let hello = format!("hello of {site}");
            let answer = peer.echo(source_port, &hello);
            let answer = answer.unwrap_or_else(|| panic!("site {site}: no answer; {}", gateway.stats()));
            assert!(answer.ends_with(&hello), "{answer}");
            // As the server saw it: "ADDRESS:PORT ...".
            let seen = answer.split(' ').next().unwrap_or_default();
            let seen: std::net::SocketAddrV4 = seen.parse().unwrap_or_else(|_| panic!("{answer}"));
            let block = port_block(*site);
            assert_eq!(*seen.ip(), SHARED_ADDRESS);
            assert!(
                (block.first..=block.last).contains(&seen.port()),
                "site {site}: {seen}"
            );
        }
    }
    let stats = gateway.stats();
    assert!(stats.contains("flows=40"), "{stats}");
    gateway.stop();
}

/// The way back from `clear` over the workers' sockets on the clear link, for the SAs of both workers.
#[test]
fn a_rejected_datagram_is_answered_through_the_tunnel() {
    if is_gateway() {
        return;
    }
    let lab = Lab::new();
    let mut gateway = lab.start_gateway();
    for site in 1..=SITES {
        let mut peer = Peer::new(&lab, site);
        for source_port in 5000..5010 {
            let packet = udp(source_port, REJECTED_PORT, b"hello");
            let esp = peer.seal_packet(&packet);
            peer.send(&esp);
            let answer = peer
                .receive_packet(Duration::from_secs(2))
                .unwrap_or_else(|| panic!("site {site}, port {source_port}: {}", gateway.stats()));
            assert_eq!(answer[12..16], SERVER.octets(), "source");
            assert_eq!(answer[16..20], TERMINAL.octets(), "destination");
            assert_eq!(answer[20..22], [3, 13], "administratively prohibited");
            assert_eq!(answer[28..36], packet[..8], "quotes the packet");
            assert_eq!(internet_checksum(&answer[20..]), 0);
        }
    }
    let stats = gateway.stats();
    assert!(
        stats.contains("rule_rejected=20") && stats.contains("flows=0"),
        "{stats}"
    );
    gateway.stop();
}

/// RFC 4301 section 8.2: a router of the path says that it carries less, and the SA's packets fit from then on. What is
/// forged without the SPI changes nothing.
#[test]
fn a_tunnel_follows_what_a_router_of_its_path_says() {
    const MTU: u16 = 700;
    if is_gateway() {
        return;
    }
    let lab = Lab::new();
    // The server's answers may be fragmented.
    let server = lab.namespace("srv");
    sh(&format!(
        "ip netns exec {server} sysctl -qw net.ipv4.ip_no_pmtu_disc=1"
    ));
    lab.serve_echo();
    let mut gateway = lab.start_gateway();
    let mut peer = Peer::new(&lab, 1);
    let long = "x".repeat(1000);
    assert!(peer.echo(5000, &long).is_some(), "{}", gateway.stats());
    gateway.ask("follow", "FOLLOWED");

    let icmp = lab.within("site", || {
        Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap()
    });
    let say = |spi: u32, mtu: u16| {
        let to = SockAddr::from(SocketAddrV4::new(GATEWAY, 0));
        icmp.send_to(&too_big(spi, mtu), &to).unwrap();
    };
    say(spi_to_site(1) + 0x100, MTU);
    say(spi_to_site(1), 575);
    say(spi_to_site(1), 1500);
    say(spi_to_site(1), MTU);
    let until = Instant::now() + Duration::from_secs(3);
    let mut followed = String::new();
    while !followed.contains("700") {
        assert!(Instant::now() < until, "{followed}: {}", gateway.stats());
        followed = gateway.ask("follow", "FOLLOWED");
    }
    let stats = gateway.stats();
    assert!(stats.contains("path_mtu=1 path_mtu_refused=3"), "{stats}");

    let esp = peer.seal(5000, long.as_bytes());
    peer.send(&esp);
    let mut payload = 0;
    while payload < 1000 {
        let piece = peer.receive_packet(Duration::from_secs(2));
        let piece = piece.unwrap_or_else(|| panic!("{payload} octets; {}", gateway.stats()));
        assert!(piece.len() < usize::from(MTU), "{} octets", piece.len());
        payload += piece.len() - 20;
    }
    gateway.stop();
}

/// "Fragmentation needed" about ESP from the gateway to the peer (RFC 1191).
fn too_big(spi: u32, mtu: u16) -> Vec<u8> {
    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend([0x45, 0, 5, 0, 0, 0, 0x40, 0, 64, ESP as u8, 0, 0]);
    message.extend(GATEWAY.octets());
    message.extend(PEER.octets());
    message.extend(spi.to_be_bytes());
    message.extend([0, 0, 0, 1]);
    let checksum = internet_checksum(&message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}

#[test]
fn a_killed_gateway_lets_nothing_pass_and_its_successor_takes_over() {
    if is_gateway() {
        return;
    }
    let lab = Lab::new();
    lab.serve_echo();
    let gateway = lab.start_gateway();
    let mut peer = Peer::new(&lab, 1);
    assert!(peer.echo(6000, "before").is_some());
    gateway.kill();
    assert_eq!(lab.programs_attached(), 3, "wan, core and clear stay attached");
    assert_eq!(peer.echo(6000, "during"), None);
    let clear = lab.within("site", || {
        let socket = UdpSocket::bind((PEER, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        sh(&format!(
            "ip -n {} route add {SERVER} via {GATEWAY}",
            lab.namespace("site")
        ));
        socket.send_to(b"in the clear", (SERVER, ECHO_PORT)).unwrap();
        socket.recv(&mut [0; 64]).is_ok()
    });
    assert!(!clear, "the kernel must not forward");
    let successor = lab.start_gateway();
    assert_eq!(lab.programs_attached(), 3);
    // The successor has the same static SAs and knows nothing of the sequence numbers used, so the peer goes on.
    let mut fresh = Peer::new(&lab, 1);
    assert!(fresh.echo(6001, "after").is_some());
    successor.stop();
    assert_eq!(lab.programs_attached(), 0, "a clean stop detaches");
    let forwarding = sh(&format!(
        "ip netns exec {} cat /proc/sys/net/ipv4/conf/wan0/forwarding /proc/sys/net/ipv4/conf/core0/forwarding",
        lab.namespace("gw")
    ));
    assert_eq!(forwarding, "0\n0\n");
}

#[test]
fn forged_replayed_and_unknown_packets_are_dropped_and_counted() {
    if is_gateway() {
        return;
    }
    let lab = Lab::new();
    lab.serve_echo();
    let mut gateway = lab.start_gateway();
    let mut peer = Peer::new(&lab, 1);
    let esp = peer.seal(5000, b"once");
    peer.send(&esp);
    assert!(peer.receive(Duration::from_secs(2)).is_some());
    peer.send(&esp);
    let mut forged = peer.seal(5000, b"forged");
    *forged.last_mut().unwrap() ^= 1;
    peer.send(&forged);
    let mut unknown = peer.seal(5000, b"unknown");
    unknown[0] ^= 0x40;
    peer.send(&unknown);
    assert_eq!(peer.receive(Duration::from_millis(600)), None);
    let stats = gateway.stats();
    for drop in ["esp_replay=1", "esp_authentication=1", "unknown_spi=1"] {
        assert!(stats.contains(drop), "{drop}: {stats}");
    }
    assert!(stats.contains("in=1 out=1 unauthentic=1 replayed=1"), "{stats}");
    assert!(stats.contains("FirstInbound"), "{stats}");
    gateway.stop();
}

#[test]
fn an_answer_too_big_for_the_tunnel_comes_in_fragments() {
    if is_gateway() {
        return;
    }
    let lab = Lab::new();
    // The server fits 1500 octets to its link; the tunnel carries some 50 fewer, and DF is off.
    sh(&format!(
        "ip netns exec {} sh -c 'echo 1 > /proc/sys/net/ipv4/ip_no_pmtu_disc'",
        lab.namespace("srv")
    ));
    // After the switch: sockets take it over when they are made.
    lab.serve_echo();
    let gateway = lab.start_gateway();
    let mut peer = Peer::new(&lab, 1);
    let esp = peer.seal(5000, &[b'x'; 1405]);
    peer.send(&esp);
    // The answer repeats the payload behind the address it saw, and so exceeds the inner MTU of 1,438.
    let first = peer
        .receive_packet(Duration::from_secs(2))
        .expect("first fragment");
    let second = peer
        .receive_packet(Duration::from_secs(2))
        .expect("second fragment");
    assert_eq!(first[6] & 0x20, 0x20, "more fragments");
    assert_eq!(second[6] & 0x20, 0, "the last");
    let offset = usize::from(u16::from_be_bytes([second[6], second[7]]) & 0x1fff) * 8;
    assert_eq!(offset, first.len() - 20);
    let payload = [&first[28..], &second[20..]].concat();
    assert!(payload.ends_with(&[b'x'; 1405]));
    gateway.stop();
}

#[test]
fn expiry_empties_flows_and_mappings() {
    if is_gateway() {
        return;
    }
    let lab = Lab::new();
    lab.serve_echo();
    let mut gateway = lab.start_gateway();
    let mut peer = Peer::new(&lab, 1);
    for source_port in 5000..5010 {
        assert!(peer.echo(source_port, "hello").is_some());
    }
    let expire = |gateway: &mut Gateway, later: &str| gateway.ask(later, "EXPIRED").trim().to_owned();
    assert_eq!(expire(&mut gateway, "expire 10000"), "EXPIRED (10, 0)");
    // Nobody else gets the ports for two minutes (RFC 6888 REQ-8).
    assert_eq!(expire(&mut gateway, "expire 10110"), "EXPIRED (0, 0)");
    assert_eq!(expire(&mut gateway, "expire 10122"), "EXPIRED (0, 10)");
    // What is published stays.
    assert!(gateway.stats().contains(&format!("flows=0 mappings={SITES}")));
    assert!(
        peer.echo(5000, "again").is_some(),
        "the port is free for a new flow"
    );
    gateway.stop();
}

#[test]
fn an_interface_that_cannot_run_xdp_natively_runs_it_generically() {
    if is_gateway() {
        return;
    }
    let lab = Lab::new();
    lab.serve_echo();
    // veth refuses native XDP where its peer may send frames larger than a page.
    for (node, interface) in [("gw", "wan0"), ("site", "peer0")] {
        sh(&format!(
            "ip -n {} link set {interface} mtu 9000",
            lab.namespace(node)
        ));
    }
    let (gateway, ready) = lab.start_gateway_in_any_mode();
    assert_eq!(
        (ready.matches("Generic").count(), ready.matches("Native").count()),
        (1, 1),
        "{ready}"
    );
    assert!(Peer::new(&lab, 1).echo(5000, "hello").is_some());
    gateway.stop();
}

/// The server calls both sites, which have the same address, and is answered by each; another host of the center is not let in.
#[test]
fn published_ports_are_reached_from_the_center() {
    if is_gateway() {
        return;
    }
    let lab = Lab::new();
    sh(&format!(
        "ip -n {} addr add 203.0.113.11/24 dev srv0",
        lab.namespace("srv")
    ));
    let mut gateway = lab.start_gateway();
    let mut peers: Vec<_> = (1..=SITES).map(|site| Peer::new(&lab, site)).collect();
    let caller = lab.within("srv", || UdpSocket::bind((SERVER, 50_000)).unwrap());
    caller.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    for (site, peer) in (1..).zip(&mut peers) {
        let question = format!("site {site}?");
        caller.send_to(question.as_bytes(), published_at(site)).unwrap();
        let packet = peer.receive_packet(Duration::from_secs(2)).expect("a call");
        assert_eq!(packet[12..16], SERVER.octets());
        assert_eq!(packet[16..20], TERMINAL.octets());
        assert_eq!(packet[22..24], PUBLISHED_PORT.to_be_bytes());
        assert!(packet.ends_with(question.as_bytes()));

        let answer = peer.seal_packet(&udp(PUBLISHED_PORT, 50_000, b"here"));
        peer.send(&answer);
        let mut buffer = [0; 64];
        let (len, from) = caller.recv_from(&mut buffer).expect("an answer");
        assert_eq!((&buffer[..len], from), (&b"here"[..], published_at(site).into()));
    }
    let stranger = lab.within("srv", || {
        UdpSocket::bind((Ipv4Addr::new(203, 0, 113, 11), 50_000)).unwrap()
    });
    stranger.send_to(b"let me in", published_at(1)).unwrap();
    assert!(peers[0].receive_packet(Duration::from_millis(500)).is_none());
    assert!(
        gateway.stats().contains("publication_source=1"),
        "{}",
        gateway.stats()
    );
    gateway.stop();
}
