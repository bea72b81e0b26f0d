//! Checks of the whole file, one table a function.
use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::path::Path;

use gateway_common::abi::limit;
use gateway_ike::pki::identity::{Identity, IdentityError};
use gateway_ike::pki::revocation::RevocationPolicy;
use gateway_ike::proposal::{
    Pfs, default_esp_proposals, default_ike_proposals, hybrid_ike_proposals, with_pfs,
};
use toml::Spanned;

use super::super::address::{AddressRange, Prefix};
use super::super::diagnostic::Checker;
use super::super::list::List;
use super::proof::{ppk, shared_key};
use super::publish::Around;
use super::{
    AnySite, Center, Config, Ike, Interface, Internet, Limits, Nat, NatPool, NatSource, Network, Role,
    SiteConfig, Source, Timeouts, connection, dns, file, pool, publish,
};

/// Longest hold-down.
const HOLD_DOWN_MAX_S: u32 = 86_400;
/// Longest time that the log of addresses and ports is kept: a hundred years.
const LOG_KEEP_DAYS_MAX: u32 = 36_500;

/// The configuration of a file; it means something only if the checker stays clean.
pub(super) fn check(checker: &mut Checker<'_>, file: file::File, folder: &Path, source: Source) -> Config {
    let mut names = Names::default();
    let nat = nat(checker, file.nat);
    let nat_pools = pools(checker, file.nat_pool, &nat);
    let sites = sites(checker, &mut names, file.site, &nat_pools, folder);
    let any_sites = any_sites(checker, &mut names, file.any_site, &nat_pools);
    if sites.is_empty() && any_sites.is_empty() && checker.is_clean() {
        checker.fault_anywhere("no site may connect", "add a [[site]] or an [[any_site]]");
    }
    let interfaces = interfaces(checker, file.interface);
    let internet = internet(checker, file.internet, &interfaces);
    let connections = connection::connections(checker, file.connection, &sites);
    let around = Around {
        sites: &sites,
        any_sites: &any_sites,
        pools: &nat_pools,
    };
    let publications = publish::publications(checker, file.publish, &around);
    let center = center(checker, file.center);
    let around = dns::Around {
        center: &center,
        pools: &nat_pools,
        sites: &sites,
        any_sites: &any_sites,
        publications: &publications,
    };
    let dns = dns::check(checker, file.dns, &around);
    Config {
        source,
        name: file.gateway.name,
        state_dir: folder.join(file.gateway.state_dir),
        socket: folder.join(file.gateway.socket),
        workers: workers(checker, file.gateway.workers),
        engine: file.gateway.engine,
        interfaces,
        ike: ike(checker, file.ike, folder),
        center,
        internet,
        nat_pools,
        nat,
        groups: names.groups,
        sites,
        any_sites,
        connections,
        publications,
        timeouts: timeouts(checker, file.timeouts),
        limits: limits(checker, file.limits),
        network: network(checker, file.network),
        dns,
        events_file: file.events.map(|events| folder.join(events.file)),
        rules_file: file.rules.map(|rules| folder.join(rules.file)),
    }
}

/// Names met so far.
#[derive(Default)]
struct Names {
    groups: Vec<String>,
    sites: HashSet<String>,
    identities: HashSet<Identity>,
    fixed: HashMap<Ipv4Addr, String>,
}

impl Names {
    /// Bitmap of a list of groups; a new name becomes the next bit.
    fn group_bits(&mut self, checker: &mut Checker<'_>, names: Vec<Spanned<String>>) -> u64 {
        let mut bits = 0;
        for name in names {
            let index = self
                .groups
                .iter()
                .position(|known| known == name.get_ref())
                .unwrap_or_else(|| {
                    self.groups.push(name.get_ref().clone());
                    self.groups.len() - 1
                });
            match u32::try_from(index)
                .ok()
                .filter(|index| *index < limit::GROUPS_MAX)
            {
                Some(index) => bits |= 1u64 << index,
                None => checker.fault(
                    name.span(),
                    format!(
                        "group \"{}\" is one more than the {} that fit",
                        name.get_ref(),
                        limit::GROUPS_MAX
                    ),
                    "use fewer groups",
                ),
            }
        }
        bits
    }
}

fn workers(checker: &mut Checker<'_>, workers: Option<Spanned<u32>>) -> Option<u32> {
    let workers = workers?;
    if !(1..=limit::QUEUES_MAX).contains(workers.get_ref()) {
        let remedy = format!(
            "write a number from 1 to {}, or leave it out: one a receive queue",
            limit::QUEUES_MAX
        );
        checker.fault(workers.span(), format!("workers = {}", workers.get_ref()), remedy);
    }
    Some(workers.into_inner())
}

fn interfaces(checker: &mut Checker<'_>, list: Vec<Spanned<Interface>>) -> Vec<Interface> {
    let mut names = HashSet::new();
    for interface in &list {
        let name = &interface.get_ref().name;
        // IFNAMSIZ counts the terminating zero.
        if name.is_empty() || name.len() > 15 || name.contains(['/', ' ']) {
            checker.fault(
                interface.span(),
                format!("\"{name}\" is no interface name"),
                "write it as `ip link` shows it",
            );
        }
        if !names.insert(name.clone()) {
            checker.fault(
                interface.span(),
                format!("interface \"{name}\" appears twice"),
                "give it one role",
            );
        }
    }
    for (role, word) in [(Role::Wan, "wan"), (Role::Core, "core")] {
        if !list.iter().any(|interface| interface.get_ref().role == role) {
            let remedy = format!("add an [[interface]] with role = \"{word}\"");
            checker.fault_anywhere(format!("no interface has the role \"{word}\""), remedy);
        }
    }
    if list.len() >= limit::INTERFACES_MAX as usize {
        let most = limit::INTERFACES_MAX - 1;
        checker.fault_anywhere(
            format!("{} interfaces, of which {most} fit", list.len()),
            "use fewer",
        );
    }
    list.into_iter().map(Spanned::into_inner).collect()
}

fn ike(checker: &mut Checker<'_>, ike: file::Ike, folder: &Path) -> Ike {
    let in_range = |checker: &mut Checker<'_>, value: Spanned<u64>, name: &str, low: u64, high: u64| {
        if !(low..=high).contains(value.get_ref()) {
            checker.fault(
                value.span(),
                format!("{name} = {}", value.get_ref()),
                format!("write {low} to {high} seconds"),
            );
        }
        value.into_inner()
    };
    let identity = identity(checker, &ike.identity);
    let ca: Vec<_> = ike.ca.0.into_iter().map(|path| folder.join(path)).collect();
    if ca.is_empty() {
        checker.fault_anywhere(
            "[ike] ca = \"any\" is no CA",
            "name the PEM file of the CA that signs the sites' certificates",
        );
    }
    let given = ike.proposals.as_ref().is_some_and(|list| !list.is_any());
    let mut esp_proposals = given_or(ike.esp_proposals, default_esp_proposals);
    if let Some(rule) = pfs(checker, ike.pfs.as_ref()) {
        esp_proposals = with_pfs(&esp_proposals, rule);
    }
    let has_lists = ike.crl.as_ref().is_some_and(|list| !list.is_any());
    Ike {
        certificate: folder.join(ike.certificate),
        private_key: folder.join(ike.private_key),
        ca,
        crl: ike
            .crl
            .map(|list| list.0)
            .unwrap_or_default()
            .into_iter()
            .map(|path| folder.join(path))
            .collect(),
        crl_policy: crl_policy(checker, ike.crl_policy, has_lists),
        rsa_signatures: ike.rsa_signatures.into(),
        address_identity_is_source: ike.address_identity_is_source,
        identity,
        proposals: given_or(ike.proposals, default_ike_proposals),
        proposals_accepted: if given { Vec::new() } else { hybrid_ike_proposals() },
        esp_proposals,
        rekey_ike_after_s: in_range(checker, ike.rekey_ike_after_s, "rekey_ike_after_s", 4, 604_800),
        rekey_child_after_s: in_range(checker, ike.rekey_child_after_s, "rekey_child_after_s", 4, 86_400),
        dpd_after_s: in_range(checker, ike.dpd_after_s, "dpd_after_s", 5, 3_600),
        cookie_above: ike.cookie_above,
        puzzle_above: ike.puzzle_above,
        half_open_max: number_in_range(checker, ike.half_open_max, "half_open_max", 100_000),
        half_open_per_source: number_in_range(
            checker,
            ike.half_open_per_source,
            "half_open_per_source",
            100_000,
        ),
        nat_keepalive_s: in_range(checker, ike.nat_keepalive_s, "nat_keepalive_s", 0, 3_600),
        crash_detection: ike.crash_detection,
        session_ticket_s: in_range(checker, ike.session_ticket_s, "session_ticket_s", 0, 86_400),
        mobike: ike.mobike,
        additional_addresses: ike.additional_addresses,
    }
}

fn pfs(checker: &mut Checker<'_>, text: Option<&Spanned<String>>) -> Option<Pfs> {
    let text = text?;
    let parsed = text.get_ref().parse();
    if parsed.is_err() {
        let message = format!("pfs = \"{}\" is no rule", text.get_ref());
        checker.fault(
            text.span(),
            message,
            "write \"required\", \"optional\" or \"off\"",
        );
    }
    parsed.ok()
}

/// What to do about an issuer without a list. `always` without any list would let nobody in.
fn crl_policy(
    checker: &mut Checker<'_>,
    policy: Option<Spanned<file::CrlPolicy>>,
    has_lists: bool,
) -> RevocationPolicy {
    let Some(policy) = policy else {
        return RevocationPolicy::default();
    };
    match policy.get_ref() {
        file::CrlPolicy::WhereListed => RevocationPolicy::WhereListed,
        file::CrlPolicy::Always => {
            if !has_lists {
                checker.fault(
                    policy.span(),
                    "crl_policy = \"always\" without a revocation list lets nobody in",
                    "add crl = [\"FILE\"], one list of each authority and intermediate",
                );
            }
            RevocationPolicy::Always
        }
    }
}

/// A number from 1 to `high`.
fn number_in_range(checker: &mut Checker<'_>, value: Spanned<u64>, name: &str, high: usize) -> usize {
    let number = usize::try_from(*value.get_ref()).unwrap_or(usize::MAX);
    if !(1..=high).contains(&number) {
        checker.fault(
            value.span(),
            format!("{name} = {number}"),
            format!("write 1 to {high}"),
        );
    }
    number
}

/// The identity in a text; on a fault an opaque one that never gets further than this check.
pub(super) fn identity(checker: &mut Checker<'_>, text: &Spanned<String>) -> Identity {
    text.get_ref().parse().unwrap_or_else(|error| {
        checker.fault(
            text.span(),
            format!("{error}"),
            "write what the certificate says: its DNS name or its subject",
        );
        Identity::KeyId(Vec::new())
    })
}

/// The list of the file, or the default if the key is left out or says "any".
fn given_or<T>(given: Option<List<T>>, default: fn() -> Vec<T>) -> Vec<T> {
    given
        .filter(|list| !list.is_any())
        .map_or_else(default, |list| list.0)
}

fn center(checker: &mut Checker<'_>, center: Spanned<Center>) -> Center {
    if center.get_ref().networks.is_empty() {
        checker.fault(
            center.span(),
            "the center has no networks",
            "write networks = [\"10.100.0.0/16\"]",
        );
    }
    center.into_inner()
}

fn internet(
    checker: &mut Checker<'_>,
    internet: Option<Spanned<Internet>>,
    interfaces: &[Interface],
) -> Vec<Prefix> {
    let Some(internet) = internet else {
        return Vec::new();
    };
    if !interfaces
        .iter()
        .any(|interface| interface.role == Role::Internet)
    {
        checker.fault(
            internet.span(),
            "[internet] has networks, but no interface has the role \"internet\"",
            "add an [[interface]] with role = \"internet\", or leave [internet] out",
        );
    }
    internet.into_inner().networks
}

fn pools(checker: &mut Checker<'_>, list: Vec<file::Pool>, nat: &Nat) -> Vec<NatPool> {
    let mut seen: Vec<(AddressRange, String)> = Vec::new();
    let mut pools: Vec<NatPool> = Vec::new();
    for pool in list {
        let name = pool.name.get_ref().clone();
        if pools.iter().any(|known| known.name == name) {
            checker.fault(
                pool.name.span(),
                format!("NAT pool \"{name}\" appears twice"),
                "give each pool its own name",
            );
        }
        if pool.addresses.get_ref().is_empty() {
            checker.fault(
                pool.addresses.span(),
                format!("NAT pool \"{name}\" has no addresses"),
                "add a prefix or a range",
            );
        }
        let mode = pool::mode(checker, &pool, nat);
        let mut addresses = Vec::new();
        for range in pool.addresses.into_inner() {
            if let Some((other, of)) = seen.iter().find(|(other, _)| other.overlaps(*range.get_ref())) {
                let message = format!("{} overlaps {other} of NAT pool \"{of}\"", range.get_ref());
                checker.fault(
                    range.span(),
                    message,
                    "an address belongs to one site only: make the ranges disjoint",
                );
            }
            seen.push((*range.get_ref(), name.clone()));
            addresses.push(range.into_inner());
        }
        pools.push(NatPool {
            name,
            addresses,
            mode,
        });
    }
    pools
}

fn nat(checker: &mut Checker<'_>, nat: Option<Spanned<Nat>>) -> Nat {
    let Some(nat) = nat else { return Nat::default() };
    let Nat {
        port_low,
        port_high,
        hold_down_s,
        hold_down_ports: _,
        filtering: _,
        preserve_port: _,
        preserve_range: _,
        log_keep_days,
    } = *nat.get_ref();
    if !(1..=LOG_KEEP_DAYS_MAX).contains(&log_keep_days) {
        checker.fault(
            nat.span(),
            format!("log_keep_days = {log_keep_days}"),
            format!("write 1 to {LOG_KEEP_DAYS_MAX} days"),
        );
    }
    if port_low == 0 || port_low > port_high {
        let message = format!("port_low = {port_low} and port_high = {port_high} hold no port");
        checker.fault(nat.span(), message, "write 1024 and 65535, or a range inside");
    }
    if hold_down_s > HOLD_DOWN_MAX_S {
        let message = format!("hold_down_s = {hold_down_s} keeps ports from others for more than a day");
        checker.fault(nat.span(), message, "write 120, or up to 86400 seconds");
    }
    nat.into_inner()
}

fn sites(
    checker: &mut Checker<'_>,
    names: &mut Names,
    list: Vec<file::Site>,
    pools: &[NatPool],
    folder: &Path,
) -> Vec<SiteConfig> {
    if list.len() >= limit::SITES_MAX as usize {
        checker.fault_anywhere(
            format!("{} sites, of which {} fit", list.len(), limit::SITES_MAX - 1),
            "use fewer",
        );
    }
    let checked = |site: file::Site| {
        let nat = nat_source(checker, names, &site, pools);
        let name = site.name.get_ref();
        if name.is_empty() || name.chars().any(char::is_whitespace) {
            checker.fault(
                site.name.span(),
                format!("\"{name}\" is no site name"),
                "write a word without spaces",
            );
        }
        if !names.sites.insert(name.clone()) {
            checker.fault(
                site.name.span(),
                format!("site \"{name}\" appears twice"),
                "give each site its own name",
            );
        }
        let identity = identity(checker, &site.identity);
        if !names.identities.insert(identity.clone()) {
            let message = format!("identity \"{identity}\" belongs to another site already");
            checker.fault(
                site.identity.span(),
                message,
                "give each site a certificate of its own",
            );
        }
        networks(checker, &site.networks);
        let shared_key = shared_key(checker, &site, &identity, folder);
        let ppk = ppk(checker, &site, folder);
        let groups = names.group_bits(checker, site.groups);
        let pfs = pfs(checker, site.pfs.as_ref());
        let name = site.name.into_inner();
        SiteConfig {
            name,
            identity,
            shared_key,
            ppk,
            groups,
            networks: site.networks.into_inner(),
            nat,
            filtering: site.filtering,
            pfs,
        }
    };
    list.into_iter().map(checked).collect()
}

fn nat_source(
    checker: &mut Checker<'_>,
    names: &mut Names,
    site: &file::Site,
    pools: &[NatPool],
) -> NatSource {
    let site_name = site.name.get_ref();
    match (&site.nat_address, &site.nat_pool) {
        (Some(address), None) => {
            if let Some(other) = names.fixed.insert(*address.get_ref(), site_name.clone()) {
                let message = format!(
                    "nat_address {} is that of site \"{other}\" already",
                    address.get_ref()
                );
                checker.fault(address.span(), message, "give each site an address of its own");
            }
            pool::fixed_address(checker, address, pools);
            NatSource::Fixed(*address.get_ref())
        }
        (None, Some(pool)) => {
            pool_exists(checker, pool, pools);
            NatSource::Pool(pool.get_ref().clone())
        }
        (Some(_), Some(pool)) => {
            let message = format!("site \"{site_name}\" has both nat_address and nat_pool");
            checker.fault(pool.span(), message, "keep one of them");
            NatSource::Pool(pool.get_ref().clone())
        }
        (None, None) => {
            let message = format!("site \"{site_name}\" has no address to be translated to");
            checker.fault(
                site.name.span(),
                message,
                "add nat_pool = \"NAME\" or nat_address = \"ADDRESS\"",
            );
            NatSource::Pool(String::new())
        }
    }
}

fn pool_exists(checker: &mut Checker<'_>, pool: &Spanned<String>, pools: &[NatPool]) {
    if pools.iter().any(|known| known.name == *pool.get_ref()) {
        return;
    }
    let known: Vec<_> = pools.iter().map(|pool| format!("\"{}\"", pool.name)).collect();
    let remedy = match known.is_empty() {
        true => format!("add a [[nat_pool]] with name = \"{}\"", pool.get_ref()),
        false => format!(
            "use one of {}, or add a [[nat_pool]] of that name",
            known.join(", ")
        ),
    };
    checker.fault(
        pool.span(),
        format!("no NAT pool is named \"{}\"", pool.get_ref()),
        remedy,
    );
}

fn networks(checker: &mut Checker<'_>, networks: &Spanned<Vec<Prefix>>) {
    if networks.get_ref().is_empty() {
        checker.fault(
            networks.span(),
            "networks is empty",
            "write the site's networks, like [\"192.168.1.0/24\"]",
        );
    }
}

fn any_sites(
    checker: &mut Checker<'_>,
    names: &mut Names,
    list: Vec<file::Any>,
    pools: &[NatPool],
) -> Vec<AnySite> {
    let checked = |any: file::Any| {
        let pattern = any.pattern.get_ref().parse().map_err(|error: IdentityError| {
            let remedy = "write it like \"*.clinic.example\": * stands for one label";
            checker.fault(any.pattern.span(), format!("{error}"), remedy);
        });
        pool_exists(checker, &any.nat_pool, pools);
        networks(checker, &any.networks);
        let groups = names.group_bits(checker, any.groups);
        let pfs = pfs(checker, any.pfs.as_ref());
        Some(AnySite {
            pattern: pattern.ok()?,
            groups,
            networks: any.networks.into_inner(),
            nat_pool: any.nat_pool.into_inner(),
            max: any.max,
            filtering: any.filtering,
            pfs,
        })
    };
    list.into_iter().filter_map(checked).collect()
}

/// Limits that would let nothing through, or that the tables cannot be made for.
fn limits(checker: &mut Checker<'_>, limits: Option<Spanned<Limits>>) -> Limits {
    let Some(limits) = limits else {
        return Limits::default();
    };
    let Limits {
        ike_per_source_per_s,
        site_sas_per_s,
        flows,
        mappings,
        site_flows,
        site_new_flows_per_s,
        site_half_open,
        site_mappings,
        site_answers_per_s,
    } = *limits.get_ref();
    let all = [
        ike_per_source_per_s,
        site_sas_per_s,
        flows,
        mappings,
        site_flows,
        site_new_flows_per_s,
        site_half_open,
        site_mappings,
        site_answers_per_s,
    ];
    if all.contains(&0) {
        checker.fault(
            limits.span(),
            "a limit of 0 lets nothing through",
            "write at least 1, or leave the limit out",
        );
    }
    if flows.max(mappings) > limit::FLOWS_MAX {
        checker.fault(
            limits.span(),
            format!("a table holds {} entries at most", limit::FLOWS_MAX),
            "write fewer flows or mappings",
        );
    }
    limits.into_inner()
}

/// An MSS that no TCP can work with, or that is never used.
fn network(checker: &mut Checker<'_>, network: Option<Spanned<Network>>) -> Network {
    /// What every host takes (RFC 9293 section 3.7.1).
    const MSS_LEAST: u16 = 536;
    let Some(network) = network else {
        return Network::default();
    };
    let Network { clamp_mss, mss_max } = *network.get_ref();
    if mss_max.is_some_and(|most| most < MSS_LEAST) {
        checker.fault(
            network.span(),
            format!("an MSS below {MSS_LEAST} is less than what every host takes"),
            format!("write mss_max = {MSS_LEAST} or more, or leave it out"),
        );
    }
    if mss_max.is_some() && !clamp_mss {
        checker.fault(
            network.span(),
            "mss_max means nothing with clamp_mss = false",
            "leave one of the two out",
        );
    }
    network.into_inner()
}

fn timeouts(checker: &mut Checker<'_>, timeouts: Option<Spanned<Timeouts>>) -> Timeouts {
    let Some(timeouts) = timeouts else {
        return Timeouts::default();
    };
    let Timeouts {
        tcp_opening_s,
        tcp_established_s,
        tcp_closing_s,
        tcp_time_wait_s,
        tcp_reset_s,
        udp_new_s,
        udp_s,
        icmp_s,
        other_s,
    } = *timeouts.get_ref();
    let all = [
        tcp_opening_s,
        tcp_established_s,
        tcp_closing_s,
        tcp_time_wait_s,
        tcp_reset_s,
        udp_new_s,
        udp_s,
        icmp_s,
        other_s,
    ];
    if all.contains(&0) {
        checker.fault(
            timeouts.span(),
            "a timeout of 0 s forgets every flow at once",
            "write at least 1",
        );
    }
    timeouts.into_inner()
}
