//! What the gateway's process is set up with, and what it tells.

use super::*;

pub(crate) fn config(directory: &std::path::Path) -> DataplaneConfig {
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

/// Answers the SAs, in the order of sites.
pub(crate) fn configure(dataplane: &Dataplane, directory: &std::path::Path) -> Vec<SaHandle> {
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
    dataplane
        .set_next_hops(&[([203, 0, 113, 0], 24, hop)], &[])
        .unwrap();
    dataplane
        .publish(&(1..=SITES).map(published).collect::<Vec<_>>())
        .unwrap();
    (1..=SITES)
        .map(|site| dataplane.install_sa(sa(site, directory)).unwrap())
        .collect()
}

/// The same port of the same address of each site, beside each other, for the server alone.
pub(crate) fn published(site: u32) -> Published {
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

pub(crate) fn published_at(site: u32) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 99, 1, 1), 9000 + site as u16)
}

pub(crate) fn allow_echo() -> Rule {
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

pub(crate) fn sa(site: u32, directory: &std::path::Path) -> SaInstall {
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
        beside: Vec::new(),
        path_mtu: 1500,
    }
}

/// A further SA of the first site.
pub(crate) fn further_sa(directory: &std::path::Path, beside: Vec<SaHandle>) -> SaInstall {
    SaInstall {
        site: 1,
        beside,
        ..sa(FURTHER, directory)
    }
}

/// An SA of the first site to a network that it has on no other.
pub(crate) fn another_sa(directory: &std::path::Path) -> SaInstall {
    let (first, last) = (Ipv4Addr::new(192, 168, 2, 0), Ipv4Addr::new(192, 168, 2, 255));
    SaInstall {
        ts_remote: vec![TrafficSelector::addresses(first, last)],
        ..further_sa(directory, Vec::new())
    }
}

/// Removes SAs; answers what went wrong.
pub(crate) fn remove(dataplane: &Dataplane, sas: &[SaHandle]) -> String {
    let removed = sas.iter().map(|sa| dataplane.remove_sa(*sa, Direction::Both));
    let told: Vec<_> = removed
        .filter_map(Result::err)
        .map(|error| error.to_string())
        .collect();
    told.join("; ")
}

/// An SA of the first site with ten ranges of some thirty prefixes each, one of which holds its terminal.
pub(crate) fn wide_sa(directory: &std::path::Path) -> SaInstall {
    let range = |number: u8| {
        let (first, last) = (Ipv4Addr::new(192, 168, 0, 1), Ipv4Addr::new(192, 171, 255, 254));
        let shifted = |address: Ipv4Addr| {
            let [a, b, c, d] = address.octets();
            Ipv4Addr::new(a, b - 8 * number, c, d)
        };
        TrafficSelector::addresses(shifted(first), shifted(last))
    };
    SaInstall {
        ts_remote: (0..10).map(range).collect(),
        ..further_sa(directory, Vec::new())
    }
}

/// The tunnel of an SA over a path of this MTU.
pub(crate) fn tunnel(sa: &SaInstall, mtu: u16) -> Tunnel {
    Tunnel {
        local: sa.local,
        remote: sa.remote,
        udp: None,
        link: sa.link,
        mtu,
        df: OuterDf::Set,
    }
}

/// Does what routers of paths say, as the daemon does; answers what they said last.
pub(crate) fn follow_path(dataplane: &Dataplane, directory: &std::path::Path) -> u32 {
    let mut followed = 0;
    for event in dataplane.events() {
        let DataplaneEvent::Packet(event) = event else {
            continue;
        };
        assert_eq!(event.kind, kind::PATH_MTU);
        let handle = dataplane.sa_of_path(event.rule, event.source).unwrap();
        let sa = sa(event.site, directory);
        let tunnel = tunnel(&sa, event.generation as u16);
        dataplane.update_path(handle, "wan0", tunnel).unwrap();
        followed = event.generation;
    }
    followed
}

pub(crate) fn stats(dataplane: &Dataplane) -> String {
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

pub(crate) fn mac(directory: &std::path::Path, interface: &str) -> [u8; 6] {
    let text = fs::read_to_string(directory.join(interface)).unwrap();
    let mut octets = text
        .trim()
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16).unwrap());
    std::array::from_fn(|_| octets.next().unwrap())
}
