//! NAT behaviour over many packets: sites with the same addresses, hold-down, a naive model, and what drawn ports are like.
//! On the host; in the kernel as well where a test says so.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use gateway::dataplane::TableSizes;
use gateway::dataplane::sweep::{HoldDown, Sweep};
use gateway_common::abi::interface::{Settings, nat_flag};
use gateway_common::abi::rule::Rule;
use gateway_common::abi::sa::{SaOutbound, SaOutboundKey};
use gateway_common::abi::site::{Site, flag};
use gateway_common::abi::stats::Path;
use gateway_common::drop::DropReason;
use gateway_common::packet::tcp::flag::{ACK, SYN};
use gateway_common::path::Verdict;
use gateway_common::tables::host::{Arrays, HostTables};
use gateway_tests::frames::{Clear, End};
use gateway_tests::kernel::{Kernel, monotonic};
use gateway_tests::vectors::Program;
use gateway_tests::vectors::nat::{publish, world_with_publication};
use gateway_tests::vectors::world::{self, MAC, MAC_HOP, NAME_SERVER, NAT, SA_INDEX, SERVER, SITE, TERMINAL};
use proptest::prelude::*;

const NOW_S: u32 = 100_000;
const XDP_DROP: u32 = 1;
const XDP_REDIRECT: u32 = 4;
/// Sites of the Linux kernel's own test of NAT in zones, and its larger variant.
const MANY: [u32; 2] = [100, 2000];

/// Where a site of many is translated to.
fn outside_of(site: u32) -> [u8; 4] {
    let [_, _, high, low] = site.to_be_bytes();
    [10, 200, high, low]
}

/// A world of so many sites, all with the same network, each with its own SA.
fn many_sites(now_s: u32, sites: u32) -> HostTables {
    let mut tables = world::world(now_s);
    tables.arrays = Arrays::new(4 * sites, 4 * sites).for_sites(sites + 1);
    tables.sa_outbound.clear();
    tables.sites.clear();
    for site in 1..=sites {
        tables
            .sites
            .insert(site, Site::whole(world::GROUP_CLINIC, outside_of(site)));
        let key = SaOutboundKey {
            site: site.to_be_bytes(),
            destination: [192, 168, 1, 0],
        };
        let sa = SaOutbound {
            sa_index: 10_000 + site,
            shares: 0,
            mtu: world::MTU,
        };
        tables.sa_outbound.push((24, key, sa));
    }
    tables
}

/// The packets of one connection of a site: what it sends, and what must come of it.
struct Exchange {
    site: u32,
    syn: Vec<u8>,
    syn_sent: Vec<u8>,
    answer: Vec<u8>,
    answer_received: Vec<u8>,
}

/// Every site has the same terminal with the same port, which opens the same connection.
fn exchange(site: u32) -> Exchange {
    let (terminal, server) = ((TERMINAL, 40_000), (SERVER, 443));
    let syn = Clear::tcp(terminal, server, SYN);
    let outside = (outside_of(site), 40_000);
    let answer = Clear::tcp(server, outside, SYN | ACK);
    Exchange {
        site,
        syn: syn.linked(site, SA_INDEX),
        syn_sent: syn.from(outside).forwarded().ethernet(MAC_HOP, MAC),
        answer: answer.ethernet(MAC, MAC_HOP),
        answer_received: answer.to(terminal).forwarded().linked(site, 10_000 + site),
    }
}

/// Linux, tools/testing/selftests/net/netfilter/nft_zones_many.sh: clients with the identical private address and
/// colliding tuples behind one gateway. All SYNs first, then all answers.
#[test]
fn thousands_of_sites_with_one_address_on_the_host() {
    for sites in MANY {
        let tables = many_sites(NOW_S, sites);
        let exchanges: Vec<_> = (1..=sites).map(exchange).collect();
        for one in &exchanges {
            let (outcome, sent) = Program::Clear.run(&one.syn, &tables);
            assert!(outcome.is_ok(), "site {}: {outcome:?}", one.site);
            assert_eq!(sent, one.syn_sent, "site {}", one.site);
        }
        for one in exchanges.iter().rev() {
            let (outcome, received) = Program::Core.run(&one.answer, &tables);
            assert!(outcome.is_ok(), "site {}: {outcome:?}", one.site);
            assert_eq!(received, one.answer_received, "site {}", one.site);
        }
        assert_eq!(tables.flow_list().len(), sites as usize);
    }
}

#[test]
fn thousands_of_sites_with_one_address_in_the_kernel() -> anyhow::Result<()> {
    for sites in MANY {
        let mut kernel = Kernel::load_for(TableSizes {
            flows: 4 * sites,
            mappings: 4 * sites,
        })?;
        kernel.fill(&many_sites(u32::try_from(monotonic().as_secs())?, sites))?;
        let exchanges: Vec<_> = (1..=sites).map(exchange).collect();
        for one in &exchanges {
            let run = kernel.run("clear", &one.syn)?;
            assert_eq!(
                (run.code, &run.frame),
                (XDP_REDIRECT, &one.syn_sent),
                "site {}",
                one.site
            );
        }
        for one in exchanges.iter().rev() {
            let run = kernel.run("core", &one.answer)?;
            let got = (run.code, &run.frame);
            assert_eq!(got, (XDP_REDIRECT, &one.answer_received), "site {}", one.site);
        }
        assert_eq!(kernel.state().flows.len(), sites as usize);
        assert_eq!(kernel.drops()?, BTreeMap::new());
    }
    Ok(())
}

/// What [`hold_down`](self) tests sweep with.
const HOLD_DOWN: HoldDown = HoldDown {
    hold_s: 120,
    site_ports_max: 1000,
};

/// A kernel whose clock the test sets, and a sweep.
struct Clocked {
    kernel: Kernel,
    sweep: Sweep,
    settings: Settings,
    begin_s: u32,
    hold_down: HoldDown,
}

impl Clocked {
    /// A world in which the site has one outside port.
    fn new(port: u16, hold_down: HoldDown) -> anyhow::Result<Self> {
        let begin_s = u32::try_from(monotonic().as_secs())?;
        let settings = Settings {
            port_low: port,
            port_high: port,
            ..world::SETTINGS
        };
        let mut tables = world::world(begin_s);
        tables.settings = Some(settings);
        let mut kernel = Kernel::load()?;
        kernel.fill(&tables)?;
        Ok(Self {
            kernel,
            sweep: Sweep::default(),
            settings,
            begin_s,
            hold_down,
        })
    }

    /// So many seconds after the beginning: a sweep each second from `from`.
    fn sweep(&mut self, from: u32, until: u32) {
        for second in from..=until {
            let tables = self.kernel.tables();
            tables.set_now_s(self.begin_s + second);
            self.sweep
                .run(tables, &self.settings, self.hold_down, self.begin_s + second);
        }
    }

    /// Whether a query of a terminal leaves.
    fn leaves(&mut self, terminal: End) -> anyhow::Result<bool> {
        let query = Clear::udp(terminal, (NAME_SERVER, 53));
        let run = self.kernel.run("clear", &query.linked(SITE, SA_INDEX))?;
        // The site is told of a port that is not there: what leaves is a query.
        Ok(run.code == XDP_REDIRECT && run.frame[14 + 9] == 17)
    }
}

/// RFC 6888 REQ-8: for 120 s after its flow has ended, an outside port is nobody else's. The flow lives 40 s (`udp_new_s`).
#[test]
fn a_port_is_held_for_two_minutes_after_its_last_flow() -> anyhow::Result<()> {
    let mut clocked = Clocked::new(7000, HOLD_DOWN)?;
    let (owner, other) = ((TERMINAL, 2000), ([192, 168, 1, 11], 2000));
    assert!(clocked.leaves(owner)?);
    // It lives on: the hold-down does not count from when the mapping was made.
    clocked.sweep(1, 30);
    assert!(clocked.leaves(owner)?);
    clocked.sweep(31, 60);
    assert!(clocked.leaves(owner)?);
    // Dead at 101, and freed a sweep later: last in use at 101 or 102.
    clocked.sweep(61, 220);
    assert!(!clocked.leaves(other)?, "held");
    clocked.sweep(221, 226);
    assert!(clocked.leaves(other)?, "free");
    assert!(!clocked.leaves(owner)?, "and the other's from now on");
    Ok(())
}

#[test]
fn the_owner_of_a_held_port_gets_it_back() -> anyhow::Result<()> {
    let mut clocked = Clocked::new(7000, HOLD_DOWN)?;
    let (owner, other) = ((TERMINAL, 2000), ([192, 168, 1, 11], 2000));
    assert!(clocked.leaves(owner)?);
    clocked.sweep(1, 150);
    assert_eq!(clocked.kernel.state().flows.len(), 0, "its flow has ended");
    assert!(!clocked.leaves(other)?);
    assert!(clocked.leaves(owner)?);
    // In use again, and held again afterwards.
    clocked.sweep(151, 300);
    assert!(!clocked.leaves(other)?);
    Ok(())
}

/// RFC 6888 REQ-8: "the maximum number of ports in this state MUST be configurable".
#[test]
fn no_more_ports_are_held_than_may_be() -> anyhow::Result<()> {
    let none = HoldDown {
        site_ports_max: 0,
        ..HOLD_DOWN
    };
    let mut clocked = Clocked::new(7000, none)?;
    let (owner, other) = ((TERMINAL, 2000), ([192, 168, 1, 11], 2000));
    assert!(clocked.leaves(owner)?);
    clocked.sweep(1, 30);
    assert!(!clocked.leaves(other)?, "in use");
    clocked.sweep(31, 48);
    assert!(clocked.leaves(other)?);
    Ok(())
}

/// A site that was given another address: its old ports are held for others just as long.
#[test]
fn ports_of_an_address_that_was_taken_away_are_held() -> anyhow::Result<()> {
    let mut clocked = Clocked::new(7000, HOLD_DOWN)?;
    assert!(clocked.leaves((TERMINAL, 2000))?);
    // The groups that rules were compiled for.
    let groups = world::GROUP_CLINIC | 1;
    clocked
        .kernel
        .set_site(SITE, &Site::whole(groups, [198, 51, 100, 9]))?;
    clocked.sweep(1, 50);
    assert!(clocked.leaves((TERMINAL, 2000))?, "by its new address");
    // Who has the old address now must not get the port that answers are still under way to.
    clocked.kernel.set_site(world::SITE_OTHER, &Site::whole(0, NAT))?;
    let query = Clear::udp((TERMINAL, 2000), (NAME_SERVER, 53)).linked(world::SITE_OTHER, SA_INDEX);
    clocked.sweep(51, 150);
    assert_eq!(clocked.kernel.run("clear", &query)?.code, XDP_DROP);
    clocked.sweep(151, 240);
    assert_eq!(clocked.kernel.run("clear", &query)?.code, XDP_REDIRECT);
    Ok(())
}

/// A permission lives as long as a flow of its address does, and no longer.
#[test]
fn a_permission_lives_with_its_flow() -> anyhow::Result<()> {
    let mut clocked = Clocked::new(7000, HOLD_DOWN)?;
    let mut site = Site::whole(world::GROUP_CLINIC | 1, NAT);
    site.flags = flag::FILTER_ADDRESS;
    clocked.kernel.set_site(SITE, &site)?;
    let any_port = Rule {
        ..world::allow(0, NAME_SERVER, 17, 0)
    };
    clocked.kernel.load_rules(9, &[any_port])?;
    let call = |port| Clear::udp((NAME_SERVER, port), (NAT, 7000)).ethernet(MAC, MAC_HOP);
    assert!(clocked.leaves((TERMINAL, 2000))?);
    for round in 0..4 {
        clocked.sweep(round * 30 + 1, round * 30 + 30);
        assert!(clocked.leaves((TERMINAL, 2000))?);
    }
    assert_eq!(
        clocked.kernel.run("core", &call(1000))?.code,
        XDP_REDIRECT,
        "after two minutes"
    );
    clocked.sweep(121, 200);
    assert_eq!(
        clocked.kernel.run("core", &call(1001))?.code,
        XDP_DROP,
        "the flows have ended"
    );
    Ok(())
}

/// A static mapping is no sweep's, and no hold-down ends it.
#[test]
fn a_publication_stays() -> anyhow::Result<()> {
    let begin_s = u32::try_from(monotonic().as_secs())?;
    let on = ([198, 51, 100, 77], 8443);
    let mut kernel = Kernel::load()?;
    kernel.fill(&world_with_publication(begin_s, on))?;
    let syn = Clear::tcp((SERVER, 50_000), on, SYN).ethernet(MAC, MAC_HOP);
    let mut sweep = Sweep::default();
    for hour in 0..10 {
        let now_s = begin_s + hour * 3600;
        kernel.tables().set_now_s(now_s);
        sweep.run(kernel.tables(), &world::SETTINGS, HOLD_DOWN, now_s);
        assert_eq!(kernel.run("core", &syn)?.code, XDP_REDIRECT, "hour {hour}");
    }
    assert_eq!(kernel.state().mappings.len(), 1);
    assert_eq!(kernel.tables().used(SITE)[2], 0, "it counts against no limit");
    Ok(())
}

/// Ports of the same inside port, drawn for one terminal after another.
fn drawn_ports(kernel: &mut Kernel, terminals: u8) -> anyhow::Result<Vec<u16>> {
    let mut ports = vec![];
    for last in 1..=terminals {
        let query = Clear::udp(([192, 168, 1, last], 53), (NAME_SERVER, 53));
        let run = kernel.run("clear", &query.linked(SITE, SA_INDEX))?;
        assert_eq!(run.code, XDP_REDIRECT);
        ports.push(u16::from_be_bytes([run.frame[34], run.frame[35]]));
    }
    Ok(ports)
}

/// RFC 4787 REQ-3 b and REQ-4, RFC 6056: in the kernel, drawn ports have range and parity of the inside port, differ, and do
/// not come in the order of one another. Two loads of the programs, with keys of their own, draw differently.
#[test]
fn drawn_ports_cannot_be_foretold() -> anyhow::Result<()> {
    let mut all = vec![];
    for _ in 0..2 {
        let mut tables = world::world(u32::try_from(monotonic().as_secs())?);
        tables.settings = Some(Settings {
            port_low: 1,
            nat_flags: nat_flag::PRESERVE_RANGE,
            ..world::SETTINGS
        });
        let mut kernel = Kernel::load()?;
        kernel.fill(&tables)?;
        let ports = drawn_ports(&mut kernel, 100)?;
        assert!(
            ports.iter().all(|port| *port < 1024 && port % 2 == 1),
            "{ports:?}"
        );
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 100, "each once");
        let rising = ports.windows(2).filter(|pair| pair[0] < pair[1]).count();
        // Of 99 pairs of random numbers, about half rise; fewer than 20 or more than 80 are one case in a billion.
        assert!((20..=80).contains(&rising), "{rising} of 99 rise");
        all.push(ports);
    }
    assert_ne!(all[0], all[1]);
    Ok(())
}

/// All sites' filtering, and the remote endpoints that the model plays with.
const REMOTES: [End; 6] = [
    ([203, 0, 113, 1], 53),
    ([203, 0, 113, 1], 54),
    ([203, 0, 113, 2], 53),
    ([203, 0, 113, 2], 54),
    ([203, 0, 113, 3], 53),
    ([198, 18, 0, 1], 53),
];

/// A step of the model: a site's terminal sends to a remote, or a remote sends to an outside that was seen or guessed.
#[derive(Clone, Debug)]
enum Move {
    Out {
        site: u32,
        terminal: u8,
        port: u16,
        remote: usize,
    },
    In {
        remote: usize,
        outside: prop::sample::Index,
    },
}

fn any_move() -> impl Strategy<Value = Move> {
    prop_oneof![
        (1u32..=2, 1u8..4, 2000u16..2004, 0usize..6).prop_map(|(site, terminal, port, remote)| Move::Out {
            site,
            terminal,
            port,
            remote
        }),
        (0usize..6, any::<prop::sample::Index>()).prop_map(|(remote, outside)| Move::In { remote, outside }),
    ]
}

/// A NAT as plain as can be: lists of what was mapped and of who spoke with whom.
#[derive(Default)]
struct Naive {
    outside_of: HashMap<(u32, End), End>,
    spoke: BTreeSet<(u32, End, End)>,
}

impl Naive {
    /// The inside that a packet of a remote reaches.
    fn reaches(&self, filtering: u32, remote: End, outside: End) -> Result<(u32, End), DropReason> {
        let owner = self.outside_of.iter().find(|(_, found)| **found == outside);
        let Some(((site, inside), _)) = owner else {
            return Err(DropReason::NoMapping);
        };
        let spoke = |known: &dyn Fn(&End) -> bool| {
            self.spoke
                .iter()
                .any(|(of, from, to)| (*of, *from) == (*site, *inside) && known(to))
        };
        if spoke(&|to| *to == remote) {
            return Ok((*site, *inside));
        }
        let is_open = match filtering {
            flag::FILTER_NOTHING => true,
            flag::FILTER_ADDRESS => spoke(&|to| to.0 == remote.0),
            _ => false,
        };
        match (is_open, remote.0) {
            (false, _) => Err(DropReason::NoFlow),
            // The last remote is one that no rule knows.
            (true, [198, ..]) => Err(DropReason::RuleDefault),
            (true, _) => Ok((*site, *inside)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1500) })]

    /// Model: mapping and filtering are what lists of who has which port and who spoke with whom say (RFC 4787 sections 4
    /// and 5), for each kind of filtering, with sites that have the same addresses, and few ports.
    #[test]
    fn mapping_and_filtering_are_those_of_a_naive_nat(
        moves in proptest::collection::vec(any_move(), 1..60),
        filtering in proptest::sample::select(vec![0, flag::FILTER_ADDRESS, flag::FILTER_NOTHING]),
        span in 8u16..30,
    ) {
        let mut tables = world::world(NOW_S);
        tables.settings = Some(Settings { port_low: 2000, port_high: 2000 + span, ..world::SETTINGS });
        let any_of_center = Rule { destination_mask: [255, 255, 255, 0], ..world::allow(0, [203, 0, 113, 0], 17, 0) };
        tables.rules = Some((1, vec![any_of_center]));
        for (site, record) in &mut tables.sites {
            record.flags = filtering;
            record.groups = u64::from(*site);
        }
        let second = tables.sa_outbound[0];
        let key = SaOutboundKey { site: 2u32.to_be_bytes(), ..second.1 };
        tables.sa_outbound.push((second.0, key, second.2));
        let mut naive = Naive::default();
        for one in moves {
            match one {
                Move::Out { site, terminal, port, remote } => {
                    let (inside, remote) = (([192, 168, 1, terminal], port), REMOTES[remote]);
                    let clear = Clear::udp(inside, remote);
                    let (outcome, sent) = Program::Clear.run(&clear.linked(site, SA_INDEX), &tables);
                    if remote.0[0] == 198 {
                        prop_assert_eq!(outcome, Err(DropReason::RuleDefault));
                        continue;
                    }
                    if outcome.map(Verdict::path) == Ok(Path::SiteAnswered) {
                        // None of the few ports was free, and the search saw them all.
                        let of_site = naive.outside_of.keys().filter(|(of, _)| *of == site).count();
                        prop_assert_eq!(of_site, usize::from(span) + 1);
                        prop_assert!(!naive.outside_of.contains_key(&(site, inside)));
                        continue;
                    }
                    prop_assert_eq!(outcome.map(Verdict::path), Ok(Path::ClearForwarded));
                    let outside = (
                        [sent[26], sent[27], sent[28], sent[29]],
                        u16::from_be_bytes([sent[34], sent[35]]),
                    );
                    let is_taken = naive.outside_of.values().any(|taken| *taken == outside);
                    let own = (outside.0, port);
                    let own_is_taken = naive.outside_of.values().any(|taken| *taken == own);
                    match naive.outside_of.insert((site, inside), outside) {
                        Some(before) => prop_assert_eq!(before, outside, "endpoint-independent"),
                        None => {
                            prop_assert!(!is_taken, "no port is overloaded");
                            prop_assert!(own_is_taken || outside == own, "the own port where it is free");
                            prop_assert!((2000..=2000 + span).contains(&outside.1));
                        }
                    }
                    naive.spoke.insert((site, inside, remote));
                }
                Move::In { remote, outside } => {
                    let mut places: Vec<End> = naive.outside_of.values().copied().collect();
                    places.sort_unstable();
                    places.extend([(NAT, 1999), (world::NAT_OTHER, 2000 + span)]);
                    let (remote, outside) = (REMOTES[remote], *outside.get(&places));
                    let clear = Clear::udp(remote, outside);
                    let (outcome, received) = Program::Core.run(&clear.ethernet(MAC, MAC_HOP), &tables);
                    match naive.reaches(filtering, remote, outside) {
                        Err(reason) => prop_assert_eq!(outcome, Err(reason)),
                        Ok((site, inside)) => {
                            prop_assert!(outcome.is_ok(), "{:?}", outcome);
                            prop_assert_eq!(received, clear.to(inside).forwarded().linked(site, SA_INDEX));
                            naive.spoke.insert((site, inside, remote));
                        }
                    }
                }
            }
        }
    }
}

/// What the center may reach is what is published, whatever it sends: ports, flags and sources at random.
#[test]
fn nothing_but_what_is_published_is_reached() {
    let published = ([198, 51, 100, 77], 8443);
    let mut reached = BTreeSet::new();
    for port in 8400..8500 {
        for flags in 0..64 {
            for source in [[203, 0, 113, 9], [198, 18, 0, 9]] {
                let tables = world_with_publication(NOW_S, published);
                let clear = Clear::tcp((source, 50_000), (published.0, port), flags);
                let (outcome, _) = Program::Core.run(&clear.ethernet(MAC, MAC_HOP), &tables);
                if outcome.is_ok() {
                    reached.insert((source, port, flags & (SYN | ACK | 0x05)));
                }
            }
        }
    }
    assert_eq!(reached, BTreeSet::from([([203, 0, 113, 9], 8443, SYN)]));
}

/// The same private endpoint of two sites, published on two ports of one address.
#[test]
fn two_sites_with_one_address_are_published_beside_each_other() {
    use gateway_common::abi::nat::{InsideKey, OutsideKey};
    let mut tables = many_sites(NOW_S, 2);
    for site in 1..=2 {
        let inside = InsideKey {
            site,
            address: TERMINAL,
            port: 443u16.to_be_bytes(),
            protocol: 6,
            pad: 0,
        };
        let outside = OutsideKey {
            address: [198, 51, 100, 77],
            port: (8440 + site as u16).to_be_bytes(),
            protocol: 6,
            pad: 0,
        };
        publish(&mut tables, inside, &outside);
    }
    for site in 1..=2 {
        let on = ([198, 51, 100, 77], 8440 + site as u16);
        let syn = Clear::tcp((SERVER, 50_000), on, SYN);
        let (outcome, received) = Program::Core.run(&syn.ethernet(MAC, MAC_HOP), &tables);
        assert!(outcome.is_ok(), "{outcome:?}");
        let expected = syn.to((TERMINAL, 443)).forwarded().linked(site, 10_000 + site);
        assert_eq!(received, expected);
    }
}
