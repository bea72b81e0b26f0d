//! Names in rules at run time: what the DNS proxy asks of the controller, and what is open.
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::sync::mpsc;

use super::controller::Controller;
use super::engine::Engine;
use super::listing::Work;
use crate::api::message::Reply;
use crate::api::view;
use crate::config::{Config, DnsConfig, PoolMode, Protocol};
use crate::core::journal::Notice;
use crate::core::names::{Bounds, Numbering, Openings};
use crate::core::policy::Compiled;
use crate::dns::private::Private;
use crate::dns::proxy::{Admission, Report, Settings, Shares, Transport};
use crate::dns::server::{Call, Server, Sockets};

/// Questions of the proxy that wait for the controller, at the least: all who wait for one answer want it opened at once.
const CALLS_MIN: usize = 1_024;
/// Port of the proxy.
const DNS_PORT: u16 = 53;
/// Seconds that an address stays open beyond the answer's TTL: the answer is on its way, and the clock is coarse.
const SLACK_S: u32 = 2;
/// Questions of one site that wait for an answer at a time.
const SITE_OUTSTANDING_MAX: u32 = 64;
/// Events about names in a second, of all sites.
const REPORTS_PER_S: u32 = 5;
/// Seconds in which the same event about a site and a name is told once.
const REPORT_AGAIN_S: u64 = 600;
/// Events that are remembered as told.
const REPORTS_MAX: usize = 4_096;

/// What became of a site's question.
#[derive(Clone, Copy, Debug)]
enum About<'a> {
    /// No rule lets it reach the name.
    Refused,
    /// The name leads to an address that is never opened.
    Private(Ipv4Addr),
    /// The addresses were not opened.
    NotOpened(&'a str),
}

impl About<'_> {
    const fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Private(_) => "private",
            Self::NotOpened(_) => "not opened",
        }
    }
}

/// What the controller knows of names.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) openings: Openings,
    /// `None`: there is no proxy.
    proxy: Option<Server>,
    calls: Option<mpsc::Receiver<Call>>,
    /// Events told in this second, and when each was told last, by site, what and name.
    told: u32,
    told_at_s: HashMap<(u32, &'static str, String), u64>,
}

impl Names {
    pub(super) fn new(dns: Option<&DnsConfig>) -> Self {
        let bounds = dns.map_or_else(Bounds::default, |dns| Bounds {
            addresses_max: dns.addresses_max,
            name_addresses_max: dns.name_addresses_max,
        });
        Self {
            openings: Openings::new(bounds),
            proxy: None,
            calls: None,
            told: 0,
            told_at_s: HashMap::new(),
        }
    }

    /// What the proxy asks, for the controller's loop to wait for.
    pub(super) fn take_calls(&mut self) -> Option<mpsc::Receiver<Call>> {
        self.calls.take()
    }

    /// Ends the proxy: no name is answered any more.
    pub(super) fn stop(&mut self) {
        self.proxy = None;
    }

    /// Whether an event about a site may be told.
    fn may_tell(&mut self, now_s: u64, site: u32, what: &'static str, name: &str) -> bool {
        if self.told >= REPORTS_PER_S {
            return false;
        }
        let is_fresh = |at_s: &u64| now_s.saturating_sub(*at_s) < REPORT_AGAIN_S;
        if self.told_at_s.len() >= REPORTS_MAX {
            self.told_at_s.retain(|_, at_s| is_fresh(at_s));
        }
        let key = (site, what, name.to_owned());
        if self.told_at_s.get(&key).is_some_and(is_fresh) || self.told_at_s.len() >= REPORTS_MAX {
            return false;
        }
        self.told_at_s.insert(key, now_s);
        self.told += 1;
        true
    }
}

/// The next call of the proxy; waits for ever where there is none.
pub(super) async fn next_call(calls: &mut Option<mpsc::Receiver<Call>>) -> Call {
    loop {
        match calls {
            Some(receiver) => match receiver.recv().await {
                Some(call) => return call,
                None => *calls = None,
            },
            None => tokio::time::sleep(Duration::MAX).await,
        }
    }
}

impl<E: Engine> Controller<E> {
    /// Starts the DNS proxy at these sockets.
    ///
    /// # Errors
    /// It is not configured, or the kernel refuses a thread.
    pub fn start_dns(&mut self, sockets: Sockets) -> anyhow::Result<()> {
        let dns = self.config.dns.as_ref().context("there is no [dns]")?;
        let calls_max = CALLS_MIN.max(dns.outstanding_max as usize);
        let (sender, calls) = mpsc::channel(calls_max);
        let server =
            Server::start(settings(dns, shares(&self.config)), sockets, sender).context("DNS proxy")?;
        self.names.proxy = Some(server);
        self.names.calls = Some(calls);
        Ok(())
    }

    pub(super) fn handle_dns(&mut self, call: Call) {
        // Who does not wait for a reply any more has gone.
        match call {
            Call::Admit {
                client,
                transport,
                name,
                reply,
            } => {
                let _ = reply.send(self.admit(client, transport, &name));
            }
            Call::Open {
                site,
                sets,
                name,
                addresses,
                ttl_s,
                reply,
            } => {
                let opened = self.open_names(site, &sets, &name, &addresses, ttl_s);
                let _ = reply.send(opened.is_ok());
                if let Err(error) = opened {
                    let reason = format!("{error:#}");
                    self.tell_of_name(site, &name, About::NotOpened(&reason));
                }
            }
            Call::Report(Report::Refused { site, name }) => self.tell_of_name(site, &name, About::Refused),
            Call::Report(Report::Private { site, name, address }) => {
                self.tell_of_name(site, &name, About::Private(address));
            }
        }
    }

    /// Tells the operator what became of a site's question.
    fn tell_of_name(&mut self, site: u32, name: &str, about: About<'_>) {
        let now_s = u64::from(self.engine.now_s());
        if !self.names.may_tell(now_s, site, about.word(), name) {
            return;
        }
        let entry = self.sites.get().get(site).map(|entry| entry.name.clone());
        let asked_by = entry.unwrap_or_default();
        let notice = match about {
            About::Refused => Notice::NameRefused {
                asked_by: &asked_by,
                name,
            },
            About::Private(address) => Notice::NamePrivate {
                asked_by: &asked_by,
                name,
                address,
            },
            About::NotOpened(reason) => Notice::NameNotOpened {
                asked_by: &asked_by,
                name,
                reason,
            },
        };
        self.record(notice);
    }

    /// Which site asks, and which sets of names that it may reach the name is in.
    fn admit(&self, client: SocketAddrV4, transport: Transport, name: &str) -> Option<Admission> {
        let dns = self.config.dns.as_ref()?;
        let protocol = match transport {
            Transport::Udp => Protocol::UDP,
            Transport::Tcp => Protocol::TCP,
        };
        let server = SocketAddrV4::new(dns.listen, DNS_PORT);
        let site = self.engine.site_of(protocol.0, client, server)?;
        let sets = self.sets_of(site, name)?;
        Some(Admission { site, sets })
    }

    /// The sets that the rules in force let a site reach and that a name is in; `None`: there is no such site.
    fn sets_of(&self, site: u32, name: &str) -> Option<Vec<u32>> {
        let groups = self.sites.get().get(site)?.groups;
        Some(self.rules.as_ref().map_or_else(Vec::new, |(_, compiled)| {
            compiled.sets_for(name, site, groups, self.rule_state.schedules())
        }))
    }

    /// Opens addresses in the packet path, for those of `sets` that the rules in force give the site still: they may have
    /// changed since it asked, and with them what a number stands for.
    fn open_names(
        &mut self,
        site: u32,
        sets: &[u32],
        name: &str,
        addresses: &[Ipv4Addr],
        ttl_s: u32,
    ) -> anyhow::Result<()> {
        let dns = self.config.dns.as_ref().context("there is no [dns]")?;
        let open_s = ttl_s.clamp(dns.ttl_min_s, dns.ttl_max_s).saturating_add(SLACK_S);
        let until_s = self.engine.now_s().saturating_add(open_s);
        let mut in_force = self.sets_of(site, name).unwrap_or_default();
        in_force.retain(|set| sets.contains(set));
        ensure!(
            !in_force.is_empty(),
            "the rules changed while the name was looked up, and no longer allow it"
        );
        let openings = &mut self.names.openings;
        let writes = openings.open(site, &in_force, name, addresses, until_s)?;
        self.engine.write_names(&writes)
    }

    /// Closes what is over. Called once a second; the packet path knows the time as well.
    pub(super) fn tend_names(&mut self) {
        self.names.told = 0;
        let writes = self.names.openings.expire(self.engine.now_s());
        if writes.is_empty() {
            return;
        }
        if let Err(error) = self.engine.write_names(&writes) {
            tracing::error!(
                error = format!("{error:#}"),
                "addresses whose time is over stay in the table"
            );
        }
    }

    /// Gives the sets of a rule set the numbers that they have once it is in force.
    pub(super) fn number_names(&self, compiled: &mut Compiled) -> anyhow::Result<Numbering> {
        let numbering = self.names.openings.number(&compiled.name_sets)?;
        compiled.name_numbers = numbering.all().to_vec();
        if !compiled.name_sets.is_empty() && self.config.dns.is_none() {
            tracing::warn!(
                "rules speak of names, but gateway.toml has no [dns]: no address is opened by name"
            );
        }
        Ok(numbering)
    }

    /// What is open by name.
    pub(super) fn dns_list(&self) -> Work {
        let now_s = self.engine.now_s();
        let compiled = self.rules.as_ref().map(|(_, compiled)| Arc::clone(compiled));
        let openings = self.names.openings.clone();
        let proxy = self.config.dns.as_ref().map(|dns| dns.listen);
        let counters = self.names.proxy.as_ref().map(Server::counters);
        Box::new(move || {
            Reply::view(&view::OpenNames {
                proxy,
                counters: counters.unwrap_or_default(),
                names: open_names(&openings, compiled.as_deref(), now_s),
            })
        })
    }
}

/// The names that are open, with the rules that speak of them: those are looked for once a set.
fn open_names(openings: &Openings, compiled: Option<&Compiled>, now_s: u32) -> Vec<view::OpenName> {
    let label_and_rules = |set: u32| {
        let Some(compiled) = compiled else {
            return (None, Vec::new());
        };
        let place = compiled.name_numbers.iter().position(|number| *number == set);
        let label = place.and_then(|place| Some(compiled.name_sets.get(place)?.label.clone()));
        (label, compiled.rules_of_set(set))
    };
    let mut of_sets = HashMap::new();
    let open = openings.iter();
    open.filter(|(_, opening)| opening.until_s > now_s)
        .map(|(address, opening)| {
            let set = opening.set;
            let (label, rules) = of_sets.entry(set).or_insert_with(|| label_and_rules(set));
            view::OpenName {
                name: opening.name.clone(),
                address,
                left_s: opening.until_s - now_s,
                set: label.clone(),
                rules: rules.clone(),
            }
        })
        .collect()
}

fn shares(config: &Config) -> Shares {
    let blocks = config.nat_pools.iter().flat_map(|pool| {
        let size = match pool.mode {
            PoolMode::Address => 0,
            PoolMode::Block(plan) => plan.size,
        };
        pool.addresses
            .iter()
            .map(move |range| (range.first, range.last, size))
    });
    Shares::new(blocks)
}

fn settings(dns: &DnsConfig, shares: Shares) -> Settings {
    Settings {
        shares,
        upstream: dns.upstream.clone(),
        site_queries_per_s: dns.site_queries_per_s,
        outstanding_max: dns.outstanding_max,
        site_outstanding_max: SITE_OUTSTANDING_MAX.min(dns.outstanding_max),
        ttl_max_s: dns.ttl_max_s,
        private: Private::new(dns.own_networks.clone()),
    }
}
