//! A site's end and a center's end of a tunnel, one behind the other: what seals beside what seals, what opens beside what opens.
//!
//! ```text
//! generator             site's end                     center's end              sink
//! 192.168.1.10   192.168.1.1  192.0.2.1         192.0.2.2  203.0.113.1    203.0.113.10
//! Xg - rX -> fX ---- Xa          Xb --- pX = qX --- Xc          Xd ---------------- Xs
//! pktgen, CPU 0          CPU 0           CPU 0              CPU 1                   CPU 1
//! ```
//!
//! A relay stands before each end, so that what comes to it comes as a network card delivers it ([`lane`](crate::lane)).
//!
//! The terminal sends to 10.201.255.1, which the site's end translates to the server: *outbound* (filter, NAT, seal). The center's end
//! opens, filters and translates the terminal: *inbound*. Where the gateway is measured both ends are daemons, with a
//! tunnel that they have made by IKE with certificates; where Linux is, both are XFRM with nftables and keys by hand. The
//! site's end shares its CPU with the generator, and the center's end has the other to itself and time left: only CPU time
//! counts.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use gateway_tests::cpu_time;
use xtask::bench::pktgen::control;
use xtask::cmd;

use crate::gateway::Harness;
use crate::lane::{self, CPU_GENERATOR, CPU_MEASURED, Relay, cable, pin, pin_thread, receive_by_thread};
use crate::namespace::Namespace;
use crate::step;

/// What the terminal sends to.
pub(crate) const PUBLISHED: Ipv4Addr = Ipv4Addr::new(10, 201, 255, 1);
/// Address of the center's end on the line.
const MAC_LINE: [u8; 6] = [2, 0, 0, 0, 0, 0x22];
const MAC_NOT_THE_SINK: &str = "02:00:00:00:00:99";
/// What a daemon may take until it answers, and the tunnel until it is up.
const UP_MAX: Duration = Duration::from_secs(150);
/// Where daemons keep what they need.
const STATE: &str = "/run/gwpktgen";

/// Filter and translation of the site's end.
const SITE_RULES: &str = "\
table ip filter {
    chain forward {
        type filter hook forward priority filter; policy drop;
        ip daddr 203.0.113.10 udp dport 9 ct state established,new accept
    }
}
table ip nat {
    chain in {
        type nat hook prerouting priority dstnat;
        ip daddr 10.201.255.1 udp dport 9 dnat to 203.0.113.10
    }
}
";
/// Of the center's end.
const CENTER_RULES: &str = "\
table ip filter {
    chain forward {
        type filter hook forward priority filter; policy drop;
        ip saddr 192.168.1.0/24 ip daddr 203.0.113.10 udp dport 9 ct state established,new accept
    }
}
table ip nat {
    chain out {
        type nat hook postrouting priority srcnat;
        ip saddr 192.168.1.0/24 masquerade
    }
}
";
/// 32 octets of AES-256 and the salt's four.
const KEY: &str = "0x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223";

/// The two ends, with what runs in them.
pub(crate) struct Chain {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) sink: Namespace,
    site: Namespace,
    center: Namespace,
    /// First letter of the interfaces' names.
    letter: char,
    daemons: Vec<Daemon>,
}

/// Packets and CPU time so far.
pub(crate) struct Seen {
    /// At the site's end.
    pub(crate) site: u64,
    /// On the line between the ends.
    pub(crate) line: u64,
    /// At the sink.
    pub(crate) sink: u64,
    /// The site's, the center's.
    pub(crate) ends: [End; 2],
}

/// What an end's threads took.
pub(crate) struct End(Vec<Spent>);

struct Spent {
    name: String,
    time_ns: u64,
    /// How often it came on.
    runs: u64,
}

impl Seen {
    /// What came after `before`.
    pub(crate) fn since(self, before: &Self) -> Self {
        let [site, center] = self.ends;
        Self {
            site: self.site - before.site,
            line: self.line - before.line,
            sink: self.sink - before.sink,
            ends: [site.since(&before.ends[0]), center.since(&before.ends[1])],
        }
    }
}

impl End {
    pub(crate) fn time_ns(&self) -> u64 {
        self.0.iter().map(|spent| spent.time_ns).sum()
    }

    fn since(mut self, before: &Self) -> Self {
        for spent in &mut self.0 {
            if let Some(before) = before.0.iter().find(|one| one.name == spent.name) {
                spent.time_ns -= before.time_ns;
                spent.runs -= before.runs;
            }
        }
        self
    }

    /// Of what a packet's CPU time was, thread by thread, and how many packets there were each time that a thread came on.
    pub(crate) fn shown(&self, packets: u64) -> String {
        let mut spent: Vec<&Spent> = self.0.iter().filter(|spent| spent.time_ns > 0).collect();
        spent.sort_by_key(|spent| std::cmp::Reverse(spent.time_ns));
        let one = |Spent { name, time_ns, runs }: &Spent| {
            format!(
                "{name} {} ns, {:.1} a run",
                time_ns / packets,
                packets as f64 / *runs as f64
            )
        };
        spent.into_iter().map(one).collect::<Vec<_>>().join("; ")
    }
}

impl Chain {
    /// With virtual cables, or between the ends and between the center's and the sink with these pairs of network cards.
    fn lay(
        letter: char,
        generator: &Namespace,
        harness: &mut Harness,
        cards: Option<[[&str; 2]; 2]>,
    ) -> Result<Self> {
        let name = |end: &str| format!("{letter}-{end}");
        let chain = Self {
            from: format!("{letter}g"),
            to: format!("{letter}s"),
            sink: Namespace::new(&name("sink"))?,
            site: Namespace::new(&name("site"))?,
            center: Namespace::new(&name("center"))?,
            letter,
            daemons: Vec::new(),
        };
        let [a, b, c, d] = chain.interfaces();
        let relay = Relay::lay(generator, (&chain.from, &letter.to_string()), &chain.site, &a)?;
        harness.relay(generator, &relay)?;
        if let Some([line, core]) = cards {
            for (card, namespace, name) in [
                (line[0], &chain.site, &b),
                (line[1], &chain.center, &c),
                (core[0], &chain.center, &d),
                (core[1], &chain.sink, &chain.to),
            ] {
                namespace.take_card(card, name)?;
            }
        } else {
            chain.lay_cables(generator, harness)?;
        }
        chain.sink.ip(&format!("link set {} up\n", chain.to))?;
        chain.site.ip(&format!(
            "addr add 192.168.1.1/24 dev {a}\naddr add 192.0.2.1/24 dev {b}\nlink set {a} up\nlink set {b} up\n\
             neigh replace 192.168.1.10 lladdr {MAC_NOT_THE_SINK} dev {a}\n"
        ))?;
        chain.center.ip(&format!(
            "addr add 192.0.2.2/24 dev {c}\naddr add 203.0.113.1/24 dev {d}\nlink set {c} up\nlink set {d} up\n"
        ))?;
        for (namespace, interface) in chain.receiving() {
            receive_by_thread(namespace, &interface)?;
        }
        Ok(chain)
    }

    fn lay_cables(&self, generator: &Namespace, harness: &mut Harness) -> Result<()> {
        let [_, b, c, d] = self.interfaces();
        let line = ['p', 'q'].map(|end| format!("{end}{}", self.letter));
        cable((&self.site, &b, None), (generator, &line[0]))?;
        cable((&self.center, &c, Some(MAC_LINE)), (generator, &line[1]))?;
        harness.relay_line(generator, [&line[0], &line[1]])?;
        for end in &line {
            generator.ip(&format!("link set {end} up\n"))?;
            receive_by_thread(generator, end)?;
        }
        cable((&self.center, &d, None), (&self.sink, &self.to))
    }

    /// What the daemons say of their interfaces: name and how many of its queues have zero copy.
    pub(crate) fn zero_copy(&self) -> Result<Vec<(String, u64)>> {
        let mut found = Vec::new();
        for daemon in &self.daemons {
            let status: serde_json::Value = serde_json::from_str(&daemon.verb(&["status", "--json"])?)?;
            let interfaces = status["interfaces"].as_array().context("no interfaces")?;
            found.extend(interfaces.iter().map(|interface| {
                let name = interface["name"].as_str().unwrap_or_default().to_owned();
                (name, interface["zero_copy"].as_u64().unwrap_or_default())
            }));
        }
        Ok(found)
    }

    /// Every interface that frames come in by, with its namespace.
    fn receiving(&self) -> [(&Namespace, String); 5] {
        let [a, b, c, d] = self.interfaces();
        [
            (&self.site, a),
            (&self.site, b),
            (&self.center, c),
            (&self.center, d),
            (&self.sink, self.to.clone()),
        ]
    }

    fn interfaces(&self) -> [String; 4] {
        ['a', 'b', 'c', 'd'].map(|end| format!("{}{end}", self.letter))
    }

    /// Every thread of the site's end on the generator's CPU, every one of the center's on the other.
    fn pin(&self) -> Result<()> {
        let [a, b, c, d] = self.interfaces();
        for (interface, cpu) in [
            (&a, CPU_GENERATOR),
            (&b, CPU_GENERATOR),
            (&c, CPU_MEASURED),
            (&d, CPU_MEASURED),
            (&self.to, CPU_MEASURED),
        ] {
            pin(&format!("napi/{interface}-"), cpu)?;
        }
        for relay in ['r', 'p', 'q'] {
            pin(&format!("napi/{relay}{}", self.letter), CPU_GENERATOR)?;
        }
        for (daemon, cpu) in self.daemons.iter().zip([CPU_GENERATOR, CPU_MEASURED]) {
            for thread in daemon.threads()? {
                pin_thread(thread, cpu)?;
            }
        }
        Ok(())
    }

    /// Where packets are, or are lost.
    pub(crate) fn counters(&self) -> Result<String> {
        let [a, b, c, d] = self.interfaces();
        let mut text = self.site.counters(&[&a, &b])?;
        text += &self.center.counters(&[&c, &d])?;
        text += &self.sink.counters(&[&self.to])?;
        for end in [&self.site, &self.center] {
            let errors = end.inside(|| Ok(fs::read_to_string("/proc/thread-self/net/xfrm_stat")?));
            let errors = errors.unwrap_or_default();
            let errors = errors.lines().filter(|line| !line.trim_end().ends_with("\t0"));
            text.extend(errors.map(|line| format!("{line}\n")));
        }
        Ok(text)
    }

    /// What has been seen until now.
    pub(crate) fn look(&self) -> Result<Seen> {
        let [a, b, c, d] = self.interfaces();
        let end = |interfaces: [&str; 2], daemon: usize, beside: &str| {
            let napi = interfaces.map(|name| format!("napi/{name}-"));
            let is_one = |name: &str| name == beside || napi.iter().any(|napi| name.starts_with(napi));
            let mut spent = Vec::new();
            for thread in lane::threads(is_one)? {
                spent.push(Spent::of(&format!("/proc/{thread}"))?);
            }
            if let Some(daemon) = self.daemons.get(daemon) {
                for thread in daemon.threads()? {
                    spent.push(Spent::of(&format!("/proc/{}/task/{thread}", daemon.child.id()))?);
                }
            }
            anyhow::Ok(End(spent))
        };
        Ok(Seen {
            site: self.site.received(&a)?,
            line: self.center.received(&c)?,
            sink: self.sink.received(&self.to)?,
            ends: [end([&a, &b], 0, "")?, end([&c, &d], 1, "ksoftirqd/1")?],
        })
    }

    /// Waits for the daemons, and has the site's make the tunnel.
    pub(crate) fn connect(&mut self) -> Result<()> {
        for daemon in &mut self.daemons {
            daemon.wait_until_ready()?;
            step(&format!("the daemon {} is ready", daemon.name));
        }
        let site = self.daemons.first().context("the site's daemon")?;
        site.verb(&["connection", "up", "center", "--wait", "40"])?;
        self.pin()
    }
}

impl Spent {
    /// Of the thread with this folder.
    fn of(folder: &str) -> Result<Self> {
        let name = fs::read_to_string(format!("{folder}/comm"))?;
        let [time_ns, runs] = cpu_time::of_thread(folder)?;
        Ok(Self {
            name: name.trim_end().to_owned(),
            time_ns,
            runs,
        })
    }
}

/// Packets that were lost, with the place.
pub(crate) struct Lost(Vec<(String, u64)>);

impl Lost {
    /// So far. Daemons are asked, which takes CPU time.
    pub(crate) fn until_now(chain: &Chain) -> Result<Self> {
        let mut lost = Vec::new();
        for (namespace, interface) in chain.receiving() {
            let [received, sent] = namespace.dropped(&interface)?;
            lost.push((format!("for which {interface} had no room"), received));
            lost.push((format!("that {interface} could not send"), sent));
        }
        for daemon in &chain.daemons {
            // Number, reason, packets and what that means.
            for row in daemon.verb(&["drops"])?.lines() {
                let mut words = row.split_whitespace().skip(1);
                if let Some((reason, packets)) = words.next().zip(words.next())
                    && let Ok(packets) = packets.parse()
                {
                    lost.push((format!("dropped by {}: {reason}", daemon.name), packets));
                }
            }
        }
        Ok(Self(lost))
    }

    /// Those after `before`.
    pub(crate) fn since(self, before: &Self) -> Vec<(String, u64)> {
        let until = |place: &str| {
            let found = before.0.iter().find(|(one, _)| one == place);
            found.map_or(0, |(_, packets)| *packets)
        };
        let since = |(place, packets): (String, u64)| {
            let packets = packets - until(&place);
            (packets > 0).then_some((place, packets))
        };
        self.0.into_iter().filter_map(since).collect()
    }
}

/// Both ends by XFRM and nftables.
pub(crate) fn linux(generator: &Namespace, harness: &mut Harness) -> Result<Chain> {
    let chain = Chain::lay('l', generator, harness, None)?;
    for namespace in [&chain.site, &chain.center] {
        namespace.settings(&[
            ("ipv4/ip_forward", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
        ])?;
    }
    let state = format!(
        "xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1001 mode tunnel replay-window 32 \
         aead rfc4106(gcm(aes)) {KEY} 128\n"
    );
    let policy = |direction: &str| {
        format!(
            "xfrm policy add src 192.168.1.0/24 dst 203.0.113.0/24 dir {direction} \
             tmpl src 192.0.2.1 dst 192.0.2.2 proto esp mode tunnel\n"
        )
    };
    chain.site.ip(&format!(
        "{state}{}route add 203.0.113.0/24 via 192.0.2.2\n\
         neigh replace 192.0.2.2 lladdr {} dev lb\n",
        policy("out"),
        control::mac(MAC_LINE)
    ))?;
    chain
        .center
        .ip(&format!("{state}{}{}", policy("in"), policy("fwd")))?;
    let [.., last] = chain.interfaces();
    chain.center.ip(&format!(
        "neigh replace 203.0.113.10 lladdr {MAC_NOT_THE_SINK} dev {last}\n"
    ))?;
    for (namespace, rules) in [(&chain.site, SITE_RULES), (&chain.center, CENTER_RULES)] {
        cmd::feed(namespace.command("nft").args(["-f", "-"]), rules)?;
    }
    chain.pin()?;
    Ok(chain)
}

/// Both ends by the gateway's daemon, `program`, with certificates from `pki`; their tunnel is to be made yet. A program has to be on
/// the sink's interface, without which nothing can be redirected to it.
pub(crate) fn gateway(
    (letter, engine): (char, &str),
    (program, pki): (&Path, &Path),
    generator: &Namespace,
    harness: &mut Harness,
    cards: Option<[[&str; 2]; 2]>,
) -> Result<Chain> {
    let mut chain = Chain::lay(letter, generator, harness, cards)?;
    harness.end_sink(&chain.sink, &chain.to)?;
    // The daemon asks for its next hops.
    chain
        .sink
        .ip(&format!("addr add 203.0.113.10/24 dev {}\n", chain.to))?;
    let [a, b, c, d] = chain.interfaces();
    let center = Config {
        name: &format!("{letter}-center"),
        engine,
        wan: &c,
        core: &d,
        networks: "203.0.113.0/24",
        peer: "site1",
        peer_identity: "site1.lab.test",
        peer_networks: "192.168.1.0/24",
        more: "",
        direction: "site-to-center",
    };
    let site = Config {
        name: &format!("{letter}-site"),
        engine,
        wan: &b,
        core: &a,
        networks: "192.168.1.0/24",
        peer: "center",
        peer_identity: "gateway.lab.test",
        peer_networks: "203.0.113.0/24",
        more: "[[connection]]\nname = \"center\"\nsite = \"center\"\nremote = \"192.0.2.2\"\nstart = \"manual\"\n\n\
               [[publish]]\nname = \"server\"\nsite = \"center\"\naddress = \"203.0.113.10\"\nprotocol = \"udp\"\nport = 9\n\
               on = \"10.201.255.1:9\"\nfrom = [\"192.168.1.0/24\"]\n\n",
        direction: "center-to-site",
    };
    chain
        .daemons
        .push(Daemon::start(&chain.site, program, pki, &site, "site1")?);
    chain
        .daemons
        .push(Daemon::start(&chain.center, program, pki, &center, "gateway")?);
    Ok(chain)
}

/// What the two daemons' configurations differ in.
struct Config<'a> {
    name: &'a str,
    engine: &'a str,
    wan: &'a str,
    core: &'a str,
    networks: &'a str,
    peer: &'a str,
    peer_identity: &'a str,
    peer_networks: &'a str,
    more: &'a str,
    direction: &'a str,
}

impl Config<'_> {
    fn gateway(&self, pki: &Path, holder: &str) -> String {
        let pki = pki.display();
        format!(
            "[gateway]\nname = \"pktgen-{0}\"\nstate_dir = \"{STATE}/{0}\"\nsocket = \"{STATE}/{0}.sock\"\n\
             engine = \"{8}\"\n\n\
             [[interface]]\nname = \"{1}\"\nrole = \"wan\"\n\n[[interface]]\nname = \"{2}\"\nrole = \"core\"\n\n\
             [ike]\ncertificate = \"{pki}/ecdsa-{holder}.chain\"\nprivate_key = \"{pki}/ecdsa-{holder}.key\"\n\
             ca = \"{pki}/ecdsa-ca.crt\"\nidentity = \"{holder}.lab.test\"\n\
             proposals = [\"aes256gcm16-prfsha256-x25519\"]\nesp_proposals = [\"aes256gcm16-x25519\"]\n\
             dpd_after_s = 3600\n\n\
             [center]\nnetworks = [\"{3}\"]\n\n\
             [limits]\nflows = 20000\nmappings = 20000\n\n\
             [[site]]\nname = \"{4}\"\nidentity = \"{5}\"\nnetworks = [\"{6}\"]\nnat_address = \"10.201.0.1\"\n\n\
             {7}[rules]\nfile = \"{0}-rules.toml\"\n",
            self.name,
            self.wan,
            self.core,
            self.networks,
            self.peer,
            self.peer_identity,
            self.peer_networks,
            self.more,
            self.engine,
        )
    }

    fn rules(&self) -> String {
        format!(
            "name = \"pktgen\"\n\n[[rule]]\nname = \"server\"\naction = \"allow\"\ndirection = \"{}\"\n\
             destination = \"203.0.113.10\"\nprotocol = \"udp\"\ndestination_ports = 9\n",
            self.direction
        )
    }
}

/// A running daemon, killed when dropped.
struct Daemon {
    child: Child,
    program: PathBuf,
    name: String,
}

impl Daemon {
    fn start(
        namespace: &Namespace,
        program: &Path,
        pki: &Path,
        config: &Config<'_>,
        holder: &str,
    ) -> Result<Self> {
        let name = config.name;
        fs::create_dir_all(STATE).context(STATE)?;
        let file = format!("{STATE}/{name}.toml");
        fs::write(&file, config.gateway(pki, holder))?;
        // In a guest's archive everybody may read everything, and no gateway takes such a key.
        let key = pki.join(format!("ecdsa-{holder}.key"));
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
        fs::write(format!("{STATE}/{name}-rules.toml"), config.rules())?;
        let log = fs::File::create(format!("{STATE}/{name}.log"))?;
        // By the thread that is there, and not by `ip netns exec`, which would hide /sys/fs/bpf.
        let child = namespace.inside(|| {
            Command::new(program)
                .args(["run", "--config", &file])
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()
                .with_context(|| program.display().to_string())
        })?;
        Ok(Self {
            child,
            program: program.to_path_buf(),
            name: name.to_owned(),
        })
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + UP_MAX;
        while let Err(error) = self.verb(&["status"]) {
            if self.child.try_wait()?.is_some() || Instant::now() > deadline {
                bail!("{error:#}");
            }
            sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Runs a verb of the CLI.
    fn verb(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.args(words);
        command.args(["--socket", &format!("{STATE}/{}.sock", self.name)]);
        let log = || fs::read_to_string(format!("{STATE}/{}.log", self.name)).unwrap_or_default();
        cmd::read(&mut command).with_context(|| format!("{}'s log:\n{}", self.name, log()))
    }

    fn threads(&self) -> Result<Vec<i32>> {
        let folder = format!("/proc/{}/task", self.child.id());
        let mut threads = Vec::new();
        for entry in fs::read_dir(&folder).with_context(|| folder.clone())? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.parse().ok());
            threads.push(number.with_context(|| format!("{folder}/{}", name.display()))?);
        }
        ensure!(!threads.is_empty(), "{} has no threads", self.name);
        Ok(threads)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}
