//! The product of the algorithm table with peers, lines, certificates and sides: set-up, traffic both ways, and each
//! kind of rekey by either side with traffic after it.
//!
//! A run takes few cases that hold every pair of an algorithm with a surrounding; `cargo xtask interop --full` takes
//! every IKE suite with every group and every ESP suite with every group, in every surrounding; `--share K/N` every N-th of
//! these.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use gateway_tests::covering;
use xtask::lab::Lab;
use xtask::lab::gateway::{Config, Gateway};
use xtask::lab::pki::Auth;
use xtask::lab::strongswan::{Connection, Release, StrongSwan, Tunnel};
use xtask::lab::topology::{Options, Site};

use crate::traffic::Traffic;

/// `K/N` in this variable asks for every N-th case of the product, from the K-th on.
const EXTENT: &str = "GATEWAY_INTEROP";

/// Encryption, integrity and PRF of the IKE SA, in strongSwan's words and ours.
const IKE: [&str; 15] = [
    "aes256-sha256",
    "aes128-sha256",
    "aes256-sha384",
    "aes128-sha384",
    "aes256-sha512",
    "aes128-sha512",
    "aes256gcm16-prfsha256",
    "aes128gcm16-prfsha256",
    "aes256gcm16-prfsha384",
    "aes128gcm16-prfsha384",
    "aes256gcm16-prfsha512",
    "aes128gcm16-prfsha512",
    "chacha20poly1305-prfsha256",
    "chacha20poly1305-prfsha384",
    "chacha20poly1305-prfsha512",
];

/// Groups of the IKE SA and, for perfect forward secrecy, of the Child SA.
const GROUPS: [&str; 6] = ["modp2048", "modp3072", "modp4096", "ecp256", "ecp384", "x25519"];

/// Encryption and integrity of the Child SA, and how strongSwan calls what was negotiated.
const ESP: [(&str, &str); 9] = [
    ("aes256gcm16", "AES_GCM_16-256"),
    ("aes128gcm16", "AES_GCM_16-128"),
    ("chacha20poly1305", "CHACHA20_POLY1305"),
    ("aes256-sha256", "AES_CBC-256/HMAC_SHA2_256_128"),
    ("aes128-sha256", "AES_CBC-128/HMAC_SHA2_256_128"),
    ("aes256-sha384", "AES_CBC-256/HMAC_SHA2_384_192"),
    ("aes128-sha384", "AES_CBC-128/HMAC_SHA2_384_192"),
    ("aes256-sha512", "AES_CBC-256/HMAC_SHA2_512_256"),
    ("aes128-sha512", "AES_CBC-128/HMAC_SHA2_512_256"),
];

/// The router at the site, and what it makes of ESP where no NAT stands between.
const PEERS: [(Release, bool); 3] = [
    (Release::Debian12, true),
    (Release::Debian13, false),
    (Release::Debian13, true),
];

/// Who begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beginner {
    Site,
    Gateway,
}

/// What is between site and gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Ipv4,
    Ipv4Nat,
    Ipv6,
}

const LINES: [Line; 3] = [Line::Ipv4, Line::Ipv4Nat, Line::Ipv6];
const BEGINNERS: [Beginner; 2] = [Beginner::Site, Beginner::Gateway];

/// One tunnel to be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Case {
    line: Line,
    gateway: Auth,
    peer: (Release, bool),
    site: Auth,
    beginner: Beginner,
    mobike: bool,
    ike: usize,
    group: usize,
    esp: usize,
    pfs: usize,
}

/// So many of the parameters are surroundings; the others are algorithms.
const ENVIRONMENT: usize = 6;
const COUNTS: [usize; 10] = [
    LINES.len(),
    Auth::BOTH.len(),
    PEERS.len(),
    Auth::BOTH.len(),
    BEGINNERS.len(),
    2,
    IKE.len(),
    GROUPS.len(),
    ESP.len(),
    GROUPS.len(),
];

/// A gateway cannot begin with a site behind NAT, which it does not see.
fn is_possible(chosen: &[Option<usize>]) -> bool {
    let nat = chosen[0] == Some(1);
    let begins = chosen[4] == Some(1);
    !(nat && begins)
}

impl Case {
    fn new(chosen: &[usize]) -> Self {
        Self {
            line: LINES[chosen[0]],
            gateway: Auth::BOTH[chosen[1]],
            peer: PEERS[chosen[2]],
            site: Auth::BOTH[chosen[3]],
            beginner: BEGINNERS[chosen[4]],
            mobike: chosen[5] == 1,
            ike: chosen[6],
            group: chosen[7],
            esp: chosen[8],
            pfs: chosen[9],
        }
    }

    fn at(&self) -> Site {
        match self.line {
            Line::Ipv4 | Line::Ipv4Nat => Site::One,
            Line::Ipv6 => Site::Two,
        }
    }

    fn in_udp(&self) -> bool {
        self.peer.1 || self.line == Line::Ipv4Nat
    }

    fn ike(&self) -> String {
        format!("{}-{}", IKE[self.ike], GROUPS[self.group])
    }

    fn connection(&self, options: &Options) -> Connection {
        Connection {
            authority: self.site.intermediate(),
            peer_authority: self.gateway.authority(),
            ike: self.ike(),
            esp: format!("{}-{}", ESP[self.esp].0, GROUPS[self.pfs]),
            mobike: self.mobike,
            force_udp: self.peer.1,
            ..Connection::of_site(self.at(), self.site, options)
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (release, udp) = self.peer;
        write!(
            out,
            "{release:?}{}{} over {:?}, site {:?}, gateway {:?}, begun by {:?}: {}, {}-{}",
            if udp { "" } else { " plain" },
            if self.mobike { " mobike" } else { "" },
            self.line,
            self.site,
            self.gateway,
            self.beginner,
            self.ike(),
            ESP[self.esp].0,
            GROUPS[self.pfs],
        )
    }
}

fn covering_cases() -> Vec<Case> {
    let cases = covering::pairs(&COUNTS, ENVIRONMENT, is_possible);
    cases.iter().map(|chosen| Case::new(chosen)).collect()
}

/// Every IKE suite with every group and every ESP suite with every group, in every surrounding; the other half of the
/// algorithms comes in turn.
fn all_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let surroundings: usize = COUNTS[..ENVIRONMENT].iter().product();
    for mut number in 0..surroundings {
        let mut chosen = Vec::new();
        for count in &COUNTS[..ENVIRONMENT] {
            chosen.push(number % count);
            number /= count;
        }
        if !is_possible(&chosen.iter().copied().map(Some).collect::<Vec<_>>()) {
            continue;
        }
        let case = |algorithms: [usize; 4]| Case::new(&[&chosen[..], &algorithms].concat());
        for turn in 0..IKE.len() * GROUPS.len() {
            let (ike, group) = (turn / GROUPS.len(), turn % GROUPS.len());
            cases.push(case([
                ike,
                group,
                turn % ESP.len(),
                (turn / ESP.len()) % GROUPS.len(),
            ]));
        }
        for turn in 0..ESP.len() * GROUPS.len() {
            let (esp, pfs) = (turn / GROUPS.len(), turn % GROUPS.len());
            cases.push(case([
                turn % IKE.len(),
                (turn / IKE.len()) % GROUPS.len(),
                esp,
                pfs,
            ]));
        }
    }
    cases
}

fn share_of(cases: Vec<Case>, share: &str) -> Result<Vec<Case>> {
    let (number, of) = share
        .split_once('/')
        .with_context(|| format!("{EXTENT}={share}: not K/N"))?;
    let (number, of): (usize, usize) = (number.parse()?, of.parse()?);
    ensure!((1..=of).contains(&number), "{EXTENT}={share}: K is from 1 to N");
    Ok(cases.into_iter().skip(number - 1).step_by(of).collect())
}

#[test]
fn the_algorithm_table_against_both_releases() -> Result<()> {
    let cases = match std::env::var(EXTENT) {
        Ok(share) => share_of(all_cases(), &share)?,
        Err(_) => covering_cases(),
    };
    let (mut done, began) = (0, Instant::now());
    for nat in [false, true] {
        for auth in Auth::BOTH {
            let here = |case: &&Case| (case.line == Line::Ipv4Nat) == nat && case.gateway == auth;
            let mut here: Vec<_> = cases.iter().filter(here).collect();
            // A router is started anew only for another release.
            here.sort_by_key(|case| (case.line == Line::Ipv6, case.peer.0 == Release::Debian13));
            run(&here, nat, auth)?;
            done += here.len();
            println!("{done} of {} cases, {} s", cases.len(), began.elapsed().as_secs());
        }
    }
    ensure!(done == cases.len(), "{done} of {} cases ran", cases.len());
    Ok(())
}

fn run(cases: &[&Case], nat: bool, auth: Auth) -> Result<()> {
    let lab = Lab::up(Options {
        nat,
        ..Options::default()
    })?;
    let config = Config {
        intermediate: true,
        trust_both: true,
        connections: !nat,
        ike: cases
            .iter()
            .map(|case| case.ike())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
        esp: ESP
            .iter()
            .map(|(suite, _)| format!("{suite}-{}", GROUPS.join("-")))
            .collect(),
        ..Config::usual(auth)
    };
    let gateway = lab.start_gateway(&config)?;
    let traffic = Traffic::ready()?;
    let mut running: Option<(Release, Site, StrongSwan)> = None;
    for case in cases {
        let connection = case.connection(lab.options());
        let router = match running.take() {
            Some((release, site, router)) if (release, site) == (case.peer.0, case.at()) => {
                router.load(lab.pki(), &connection)?;
                router
            }
            old => {
                if let Some((_, _, router)) = old {
                    router.stop();
                }
                lab.start_router(case.at(), case.peer.0, &connection)?
            }
        };
        let outcome = check(case, &gateway, &router, &traffic);
        outcome.with_context(|| {
            format!(
                "{case}\nthe router's log:\n{}\nthe gateway's log:\n{}",
                router.log(),
                gateway.log()
            )
        })?;
        running = Some((case.peer.0, case.at(), router));
    }
    Ok(())
}

/// Set-up and every kind of rekey, each followed by traffic.
fn check(case: &Case, gateway: &Gateway, router: &StrongSwan, traffic: &Traffic) -> Result<()> {
    let (site, terminal) = (case.at(), case.at().terminal());
    match case.beginner {
        Beginner::Site => drop(router.initiate()?),
        Beginner::Gateway => drop(gateway.cli(&["connection", "up", site.name()])?),
    }
    let mut tunnel = router.wait_for_tunnel(|_| true).context("set-up")?;
    is_as_asked(case, &tunnel)?;
    traffic.both_ways(terminal).context("after set-up")?;

    let child_is_new = |old: &Tunnel, new: &Tunnel| old.spi_in != new.spi_in && old.spi_out != new.spi_out;
    let ike_is_new = |old: &Tunnel, new: &Tunnel| old.ike_spis != new.ike_spis;
    tunnel = router.rekey_child().context("the router rekeys the Child SA")?;
    traffic
        .both_ways(terminal)
        .context("after the router has rekeyed the Child SA")?;

    gateway.cli(&["sa", "rekey", "--site", site.name()])?;
    tunnel = router
        .wait_for_tunnel(|new| child_is_new(&tunnel, new))
        .context("the gateway rekeys the Child SA")?;
    // Only now has the Child SA keys of an exchange of its own.
    ensure!(
        tunnel.has_group,
        "no group in the rekeyed Child SA: {}",
        tunnel.algorithms
    );
    is_as_asked(case, &tunnel)?;
    traffic
        .both_ways(terminal)
        .context("after the gateway has rekeyed the Child SA")?;

    tunnel = router.rekey_ike().context("the router rekeys the IKE SA")?;
    traffic
        .both_ways(terminal)
        .context("after the router has rekeyed the IKE SA")?;

    gateway.cli(&["sa", "rekey", "--site", site.name(), "--ike"])?;
    tunnel = router
        .wait_for_tunnel(|new| ike_is_new(&tunnel, new))
        .context("the gateway rekeys the IKE SA")?;
    is_as_asked(case, &tunnel)?;
    traffic
        .both_ways(terminal)
        .context("after the gateway has rekeyed the IKE SA")?;
    router.terminate()
}

fn is_as_asked(case: &Case, tunnel: &Tunnel) -> Result<()> {
    let (_, negotiated) = ESP[case.esp];
    ensure!(
        tunnel.algorithms.contains(negotiated),
        "{negotiated} was asked for: {tunnel:?}"
    );
    ensure!(
        tunnel.in_udp == case.in_udp(),
        "UDP: {} was asked for: {tunnel:?}",
        case.in_udp()
    );
    Ok(())
}

#[test]
fn shares_make_up_the_whole_and_each_has_every_suite() {
    let all = all_cases();
    let of = 41;
    let shares: Vec<_> = (1..=of)
        .map(|number| share_of(all.clone(), &format!("{number}/{of}")).unwrap())
        .collect();
    assert_eq!(shares.iter().map(Vec::len).sum::<usize>(), all.len());
    for share in &shares {
        let suites: BTreeSet<_> = share.iter().map(|case| (case.ike, case.group)).collect();
        assert_eq!(suites.len(), IKE.len() * GROUPS.len());
        let suites: BTreeSet<_> = share.iter().map(|case| (case.esp, case.pfs)).collect();
        assert_eq!(suites.len(), ESP.len() * GROUPS.len());
    }
}

#[test]
fn the_full_run_has_every_suite_with_every_group_in_every_surrounding() {
    let cases = all_cases();
    for few in covering_cases() {
        let surrounding = |case: &&Case| {
            (case.line, case.gateway, case.peer) == (few.line, few.gateway, few.peer)
                && (case.site, case.beginner, case.mobike) == (few.site, few.beginner, few.mobike)
        };
        let same: Vec<_> = cases.iter().filter(surrounding).collect();
        assert!(
            same.iter()
                .any(|case| (case.ike, case.group) == (few.ike, few.group)),
            "{few}"
        );
        assert!(
            same.iter().any(|case| (case.esp, case.pfs) == (few.esp, few.pfs)),
            "{few}"
        );
    }
}
