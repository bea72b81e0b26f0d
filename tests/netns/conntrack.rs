//! The packet core beside the kernel's own filter: the same packets through both, one by one, with the same addresses on
//! both sides, so that verdicts and translated packets must be the same octet by octet.
//!
//! ```text
//!             +---- one network namespace ---------------------------------------+
//!  frames --> | site ==== inside   (kernel: conntrack, nftables)   outside ==== center | --> what came through
//!             +------------------------------------------------------------------+
//!  frames --> path::clear, path::core on the host, in the world of the vectors        --> what came through
//! ```
//! Behind each packet goes one that is sure to pass: once it has arrived, the packet before it has or never will.
//! A fragment goes through a worker's engine first, as it does in the gateway; of one packet, all come out together.
//!
//! The kernel forwards with `nf_conntrack_tcp_loose = 0` (no pick-up of connections that it did not see begin), all else as
//! it comes: window checks on, `nf_conntrack_tcp_be_liberal = 0`, checksums verified. Where the two differ, [`DIFFERENCES`]
//! says why, and so does `gateway/docs/filter.md`. A difference that is not among them fails the test, and so does one of
//! them that is none any more.

mod differences;
mod errors;
mod fragments;
mod tcp;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use gateway::dataplane::FragmentWorker;
use gateway_common::abi::stats::Path;
use gateway_common::packet::tcp::flag::{ACK, RST, SYN};
use gateway_common::path::Verdict;
use gateway_common::tables::host::HostTables;
use gateway_tests::frames::{Clear, End, ISN, ethernet, fix_ipv4};
use gateway_tests::vectors::Program;
use gateway_tests::vectors::world::{self, MAC, MAC_HOP, NAME_SERVER, NAT, SA_INDEX, SERVER, SITE, TERMINAL};
use nix::sched::{CloneFlags, unshare};
use xtask::cmd;
use xtask::lab::tap::Tap;

use differences::DIFFERENCES;

/// How long the packet that is sure to pass may take.
const ARRIVAL: Duration = Duration::from_secs(5);
/// The gateway's clock; scripts take no time on it.
const NOW_S: u32 = 100_000;
/// Source port of the packets that are sure to pass.
const SURE_PORT: u16 = 9999;
/// Source port of the first script.
const PORT_FIRST: u16 = 20_000;
/// First number behind a SYN.
const FIRST: u32 = ISN.wrapping_add(1);

/// The kernel's side of the rules of [`world::rules`] that the scripts need.
const NFTABLES: &str = "
table ip differential {
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        ct state invalid drop
        iifname inside tcp dport 443 ip daddr 203.0.113.10 tcp flags & (fin|syn|rst|ack) == syn ct state new accept
        iifname inside udp dport 53 ip daddr 203.0.113.53 ct state new accept
        iifname inside icmp type echo-request ip daddr 203.0.113.0/24 ct state new accept
    }
    chain input {
        type filter hook input priority filter; policy drop;
    }
    chain postrouting {
        type nat hook postrouting priority srcnat;
        oifname outside masquerade
    }
}
";

/// Settings of the kernel's side.
const SYSCTLS: [(&str, &str); 8] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv6/conf/all/disable_ipv6", "1"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
    ("net/netfilter/nf_conntrack_tcp_loose", "0"),
    ("net/netfilter/nf_conntrack_tcp_be_liberal", "0"),
];

/// A packet on its way.
#[derive(Clone, Debug)]
enum Step {
    /// Of the site.
    Out(Vec<u8>),
    /// Of the center.
    In(Vec<u8>),
}

/// Packets of one connection.
struct Script {
    name: &'static str,
    steps: Vec<Step>,
}

/// What makes the packets of one script: its ends.
#[derive(Clone, Copy)]
struct Ends {
    port: u16,
}

impl Ends {
    fn site(self) -> End {
        (TERMINAL, self.port)
    }

    fn nat(self) -> End {
        (NAT, self.port)
    }

    /// A segment of the site.
    fn out(self, flags: u8) -> Clear {
        let clear = Clear::tcp(self.site(), (SERVER, 443), flags);
        if flags & (SYN | RST) == 0 {
            clear
        } else {
            clear.data(0)
        }
    }

    /// A segment of the server.
    fn back(self, flags: u8) -> Clear {
        let clear = Clear::tcp((SERVER, 443), self.nat(), flags);
        if flags & (SYN | RST) == 0 {
            clear
        } else {
            clear.data(0)
        }
    }
}

/// A packet, in plain words or as it is.
trait Octets {
    fn octets(self) -> Vec<u8>;
}

impl Octets for Clear {
    fn octets(self) -> Vec<u8> {
        self.packet()
    }
}

impl Octets for Vec<u8> {
    fn octets(self) -> Vec<u8> {
        self
    }
}

fn o(packet: impl Octets) -> Step {
    Step::Out(packet.octets())
}

fn i(packet: impl Octets) -> Step {
    Step::In(packet.octets())
}

/// The handshake.
fn opened(ends: Ends) -> Vec<Step> {
    vec![
        o(ends.out(SYN)),
        i(ends.back(SYN | ACK)),
        o(ends.out(ACK).data(0)),
    ]
}

/// A connection, and what happens to it.
fn after(ends: Ends, steps: impl IntoIterator<Item = Step>) -> Vec<Step> {
    opened(ends).into_iter().chain(steps).collect()
}

type Scripts = Vec<(&'static str, fn(Ends) -> Vec<Step>)>;

fn others() -> Scripts {
    fn query(e: Ends) -> Clear {
        Clear::udp(e.site(), (NAME_SERVER, 53))
    }
    fn answer(e: Ends) -> Clear {
        Clear::udp((NAME_SERVER, 53), e.nat())
    }
    vec![
        ("UDP is answered, with and without a checksum", |e| {
            vec![
                o(query(e)),
                i(answer(e)),
                i(answer(e).without_checksum().data(31)),
                o(query(e).without_checksum()),
                o(query(e).data(1200)),
                i(answer(e).data(1200)),
            ]
        }),
        ("UDP of another port, another host, another protocol", |e| {
            vec![
                o(query(e)),
                i(answer(e).from((NAME_SERVER, 54))),
                i(answer(e).from((SERVER, 53))),
                i(e.back(ACK)),
                i(answer(e)),
            ]
        }),
        ("UDP that no rule allows", |e| {
            vec![
                o(query(e).to((NAME_SERVER, 54))),
                i(answer(e).from((NAME_SERVER, 54))),
            ]
        }),
        ("a ping is answered, twice", |e| {
            let pong = Clear::pong(SERVER, NAT, e.port);
            vec![
                o(Clear::ping(TERMINAL, e.port, SERVER)),
                i(pong.clone()),
                i(pong),
                o(Clear::ping(TERMINAL, e.port, SERVER)),
            ]
        }),
        (
            "echo replies that nobody asked for, and requests of the center",
            |e| {
                vec![
                    o(Clear::ping(TERMINAL, e.port, SERVER)),
                    i(Clear::pong(SERVER, NAT, e.port + 1)),
                    i(Clear::pong(NAME_SERVER, NAT, e.port)),
                    i(Clear::ping(SERVER, e.port, NAT)),
                    o(Clear::pong(TERMINAL, SERVER, e.port)),
                ]
            },
        ),
        ("hop limits", |e| {
            vec![
                o(query(e).ttl(1)),
                o(query(e).ttl(2)),
                i(answer(e).ttl(1)),
                i(answer(e).ttl(2)),
                o(query(e).ttl(255)),
            ]
        }),
        ("TCP to a port that no rule allows", |e| {
            vec![
                o(e.out(SYN).to((SERVER, 444))),
                i(e.back(SYN | ACK).from((SERVER, 444))),
            ]
        }),
        ("a TCP checksum is wrong", |e| {
            let mut damaged = e.out(SYN).packet();
            damaged[36] ^= 0x55;
            vec![Step::Out(damaged), o(e.out(SYN))]
        }),
        ("an IP header's checksum is wrong", |e| {
            let mut damaged = query(e).packet();
            damaged[10] ^= 0x55;
            vec![Step::Out(damaged), o(query(e))]
        }),
        ("addresses that may not be there", |e| {
            vec![
                o(query(e).from(([127, 0, 0, 1], e.port))),
                o(query(e).from(([0; 4], e.port))),
                o(query(e).from(([224, 0, 0, 1], e.port))),
                o(query(e).to(([255; 4], 53))),
                o(query(e)),
            ]
        }),
    ]
}

fn scripts() -> Vec<Script> {
    let all = [
        tcp::handshakes(),
        tcp::windows(),
        tcp::closings(),
        others(),
        errors::scripts(),
        fragments::scripts(),
    ]
    .concat();
    (PORT_FIRST..)
        .step_by(10)
        .zip(all)
        .map(|(port, (name, steps))| Script {
            name,
            steps: steps(Ends { port }),
        })
        .collect()
}

/// The gateway's side.
struct Core {
    tables: HostTables,
    worker: FragmentWorker,
}

impl Core {
    fn new() -> Self {
        Self {
            tables: world::world(NOW_S),
            worker: FragmentWorker::default(),
        }
    }

    /// The packets that come out: more than one if they are fragments that waited for each other.
    fn pass(&mut self, step: &Step) -> Vec<Vec<u8>> {
        match step {
            Step::Out(packet) if is_fragment(packet) => {
                let frames = self.worker.site(SITE, packet).unwrap_or_default();
                self.fragments(&frames)
            }
            Step::Out(packet) => {
                let link = gateway_common::abi::sa::LinkHeader::new(SITE, SA_INDEX);
                let link = zerocopy::IntoBytes::as_bytes(&link);
                let (outcome, frame) = Program::Clear.run(&[link, packet].concat(), &self.tables);
                outcome.iter().map(|_| frame[14..].to_vec()).collect()
            }
            Step::In(packet) => {
                let frame = ethernet(MAC, MAC_HOP, 0x0800, packet);
                let (outcome, frame) = Program::Core.run(&frame, &self.tables);
                match outcome {
                    Ok(Verdict::Worker {
                        path: Path::CoreFragment,
                        ..
                    }) => {
                        let frames = self.worker.core(&frame).unwrap_or_default();
                        self.fragments(&frames)
                    }
                    Ok(_) => vec![frame[14..].to_vec()],
                    Err(_) => vec![],
                }
            }
        }
    }

    /// What comes out of the frames that the worker put into the clear link.
    fn fragments(&self, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let passed = frames
            .iter()
            .map(|frame| Program::Clear.run(frame, &self.tables))
            .filter(|(outcome, _)| outcome.is_ok());
        passed.map(|(_, frame)| frame[14..].to_vec()).collect()
    }
}

fn is_fragment(packet: &[u8]) -> bool {
    packet[6] & 0x3f != 0 || packet[7] != 0
}

/// Whether two outcomes are the same but for the identification of fragments, of which the gateway's are all of one packet.
fn is_same_but_for_identification(ours: &[Vec<u8>], theirs: &[Vec<u8>]) -> bool {
    let without = |packets: &[Vec<u8>]| -> Vec<Vec<u8>> {
        let mut packets = packets.to_vec();
        for packet in &mut packets {
            packet[4..6].fill(0);
            fix_ipv4(packet);
        }
        packets
    };
    let is_one_packet = ours.iter().all(|packet| packet[4..6] == ours[0][4..6]);
    let are_fragments = ours.iter().all(|packet| is_fragment(packet));
    is_one_packet && are_fragments && without(ours) == without(theirs)
}

/// The kernel's side.
struct Kernel {
    site: Tap,
    center: Tap,
    inside: [u8; 6],
    outside: [u8; 6],
}

fn ip(words: &str) -> Result<()> {
    cmd::output(Command::new("ip").args(words.split(' '))).map(drop)
}

impl Kernel {
    fn lay() -> Result<Self> {
        ip("link add site type veth peer name inside")?;
        ip("link add center type veth peer name outside")?;
        for interface in ["site", "inside", "center", "outside"] {
            let offloads = [
                "-K", interface, "tx", "off", "tso", "off", "gso", "off", "gro", "off",
            ];
            cmd::output(Command::new("ethtool").args(offloads))?;
            ip(&format!("link set {interface} arp off up"))?;
        }
        let ruleset = std::env::temp_dir().join(format!("differential-{}.nft", std::process::id()));
        fs::write(&ruleset, NFTABLES)?;
        let loaded = cmd::output(Command::new("nft").arg("-f").arg(&ruleset));
        fs::remove_file(&ruleset)?;
        loaded?;
        for (name, value) in SYSCTLS {
            fs::write(format!("/proc/sys/{name}"), value).with_context(|| name.to_owned())?;
        }
        ip("address add 192.168.1.1/24 dev inside")?;
        // The only address of the outer side: what masquerading takes.
        ip("address add 198.51.100.1/32 dev outside")?;
        ip("route add 203.0.113.0/24 dev outside")?;
        let (site, center) = (Tap::open_here("site")?, Tap::open_here("center")?);
        let words = |address: [u8; 6]| address.map(|octet| format!("{octet:02x}")).join(":");
        for (address, device, mac) in [
            ("192.168.1.10", "inside", site.address()),
            ("203.0.113.10", "outside", center.address()),
            ("203.0.113.53", "outside", center.address()),
        ] {
            ip(&format!(
                "neighbour replace {address} lladdr {} dev {device}",
                words(mac)
            ))?;
        }
        Ok(Self {
            inside: Tap::open_here("inside")?.address(),
            outside: Tap::open_here("outside")?.address(),
            site,
            center,
        })
    }

    /// The packets that come out: more than one if they are fragments that waited for each other.
    fn pass(&self, step: &Step) -> Result<Vec<Vec<u8>>> {
        let query = Clear::udp((TERMINAL, SURE_PORT), (NAME_SERVER, 53));
        let answer = Clear::udp((NAME_SERVER, 53), (NAT, SURE_PORT));
        let (from, to, gateway, packet, sure) = match step {
            Step::Out(packet) => (&self.site, &self.center, self.inside, packet, query),
            Step::In(packet) => (&self.center, &self.site, self.outside, packet, answer),
        };
        to.frames()?;
        for packet in [packet, &sure.packet()] {
            from.send(&ethernet(gateway, from.address(), 0x0800, packet))?;
        }
        let deadline = Instant::now() + ARRIVAL;
        let mut passed = vec![];
        loop {
            for frame in to.frames()? {
                // Frames of this end's own are seen as well.
                let is_forwarded =
                    frame.get(..6) == Some(&to.address()) && frame.get(12..14) == Some(&[8, 0]);
                let Some(packet) = frame.get(14..).filter(|_| is_forwarded) else {
                    continue;
                };
                if is_sure(packet) {
                    return Ok(passed);
                }
                passed.push(trimmed(packet));
            }
            ensure!(
                Instant::now() < deadline,
                "the packet that is sure to pass did not"
            );
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Whether a packet is one of those that are sure to pass.
fn is_sure(packet: &[u8]) -> bool {
    let port = SURE_PORT.to_be_bytes();
    packet.get(9) == Some(&17) && (packet.get(20..22) == Some(&port) || packet.get(22..24) == Some(&port))
}

/// Without what pads a short frame.
fn trimmed(packet: &[u8]) -> Vec<u8> {
    let total = packet
        .get(2..4)
        .map_or(0, |length| u16::from_be_bytes([length[0], length[1]]));
    packet.get(..usize::from(total)).unwrap_or(packet).to_vec()
}

/// Runs every script through both; answers the differences: script, step, whether the gateway let it pass.
fn run() -> Result<Vec<(&'static str, usize, bool)>> {
    let kernel = Kernel::lay()?;
    // Opens the way of the packets that are sure to pass.
    kernel.pass(&o(Clear::udp((TERMINAL, SURE_PORT), (NAME_SERVER, 53))))?;
    let mut found = vec![];
    let mut steps = 0;
    for script in scripts() {
        let mut core = Core::new();
        for (number, step) in script.steps.iter().enumerate() {
            steps += 1;
            let (ours, theirs) = (core.pass(step), kernel.pass(step)?);
            if ours == theirs {
                continue;
            }
            ensure!(
                ours.is_empty() || theirs.is_empty() || is_same_but_for_identification(&ours, &theirs),
                "{} [{number}]:\n   gateway {ours:02x?}\n    kernel {theirs:02x?}",
                script.name
            );
            found.push((script.name, number, !ours.is_empty()));
        }
    }
    println!("{steps} packets, {} differences", found.len());
    ensure!(steps > 300, "only {steps} packets");
    Ok(found)
}

#[test]
fn the_packet_core_passes_what_the_kernels_filter_passes_but_for_what_is_written_down() -> Result<()> {
    // The namespace is the thread's own and goes with it, whatever happens.
    let outcome = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).context("a network namespace of its own")?;
        run()
    });
    let found = outcome
        .join()
        .map_err(|_| anyhow!("the test's thread panicked"))??;
    let listed: Vec<_> = DIFFERENCES
        .iter()
        .map(|(name, step, passes, _)| (*name, *step, *passes))
        .collect();
    let unlisted: Vec<_> = found.iter().filter(|one| !listed.contains(one)).collect();
    let gone: Vec<_> = listed.iter().filter(|one| !found.contains(one)).collect();
    ensure!(
        unlisted.is_empty() && gone.is_empty(),
        "differences that are not written down (script, step, whether the gateway passes it):\n{unlisted:#?}\n\
         written down, but none any more:\n{gone:#?}"
    );
    Ok(())
}

/// The operator's document has each difference with the same words.
#[test]
fn the_document_has_each_difference() -> Result<()> {
    let document = include_str!("../../gateway/docs/filter.md");
    for (name, _, _, reason) in DIFFERENCES {
        ensure!(
            document.contains(reason),
            "filter.md does not say of \"{name}\": {reason}"
        );
    }
    Ok(())
}
