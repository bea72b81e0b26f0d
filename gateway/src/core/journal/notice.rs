//! What can be noted, and the record that it makes.
use std::net::Ipv4Addr;

use gateway_ike::{ChildId, Event};

use super::facts::Facts;
use super::ike;
use super::record::{Record, Severity};
use crate::api::view::{ActiveRules, RevocationList};
use crate::config::PortBlock;
use crate::core::sites::Sites;

/// Who can cause a record: what others can cause is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The gateway itself or its operator.
    Gateway,
    /// A peer that proved to be this site.
    Site(u32),
    /// Anybody.
    Stranger,
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum Notice<'a> {
    /// The daemon serves.
    Started {
        /// Version of the program.
        version: &'a str,
    },
    /// The daemon is about to end.
    Stopping {
        /// Why.
        reason: &'a str,
    },
    /// A rule set is in force.
    RulesLoaded(&'a ActiveRules),
    /// A rule set was refused; the one in force stays.
    RulesRefused {
        /// As the operator named it.
        file: &'a str,
        /// Why.
        reason: &'a str,
    },
    /// Authorities, revocation lists and the rest were read again and are in force.
    CredentialsLoaded {
        /// `reload` or `a file changed`.
        because: &'a str,
        /// Subjects of the authorities.
        authorities: &'a [String],
        /// Revocation lists.
        lists: &'a [RevocationList],
    },
    /// They were refused; what was in force stays.
    CredentialsRefused {
        /// `reload` or `a file changed`.
        because: &'a str,
        /// Why.
        reason: &'a str,
    },
    /// A revocation list has a day left, or is over.
    RevocationListEnds {
        /// Whose it is.
        issuer: &'a str,
        /// When it ends or ended.
        next_update: &'a str,
        /// It is over.
        expired: bool,
    },
    /// A certificate that many depend on has days left, or is over.
    CertificateEnds {
        /// `gateway` or `authority`.
        whose: &'static str,
        /// Its subject.
        subject: &'a str,
        /// When it ends or ended.
        not_after: &'a str,
        /// It is over.
        expired: bool,
    },
    /// An operator's command was carried out.
    Commanded {
        /// Which.
        verb: &'a str,
        /// What it concerned.
        sas: &'a [String],
        /// Who gave it.
        by: &'a str,
    },
    /// A connection of ours is being brought up.
    Connecting {
        /// Its name.
        connection: &'a str,
        /// Its site.
        site: u32,
        /// `start`, `packet` or `operator`.
        because: &'a str,
    },
    /// A site that an `[[any_site]]` admits was there for the first time.
    SiteKnown {
        /// Its number.
        site: u32,
        /// What it is translated to from now on: an address, or its first port block.
        block: PortBlock,
    },
    /// A site was given another port block, because its ports ran short.
    BlockAssigned {
        /// Its number.
        site: u32,
        /// The block.
        block: PortBlock,
    },
    /// A port block that a site needed no more is free for others.
    BlockReleased {
        /// Its number.
        site: u32,
        /// The block.
        block: PortBlock,
    },
    /// A site's ports run short, and it cannot be given another block.
    PortsShort {
        /// Its number.
        site: u32,
        /// Why not.
        reason: &'a str,
    },
    /// A peer proved its identity, and may not connect all the same.
    NotAdmitted {
        /// Its identity.
        peer: &'a str,
        /// Why.
        reason: &'a str,
    },
    /// A site has its first Child SA, or has lost its last.
    SiteState {
        /// Its number.
        site: u32,
        /// Which of both.
        up: bool,
    },
    /// The data plane did not take an SA; it is closed again.
    NotInstalled {
        /// The Child SA.
        child: ChildId,
        /// Its site.
        site: u32,
        /// Why.
        reason: &'a str,
    },
    /// The data plane did not take what is published of a site; it is tried again.
    NotPublished {
        /// Its number.
        site: u32,
        /// Why.
        reason: &'a str,
    },
    /// A site asked for a name that no rule lets it reach.
    NameRefused {
        /// Name of the site.
        asked_by: &'a str,
        /// The name.
        name: &'a str,
    },
    /// A name led to an address that is never opened.
    NamePrivate {
        /// Name of the site.
        asked_by: &'a str,
        /// The name.
        name: &'a str,
        /// The address.
        address: Ipv4Addr,
    },
    /// The addresses of a name were not opened, and the site was not told of them.
    NameNotOpened {
        /// Name of the site.
        asked_by: &'a str,
        /// The name.
        name: &'a str,
        /// Why.
        reason: &'a str,
    },
    /// Of IKE.
    Ike(&'a Event),
    /// Records were kept back.
    Suppressed {
        /// Of peers that are no proven site.
        strangers: u64,
        /// Of sites.
        of_sites: u64,
    },
}

impl Notice<'_> {
    /// The record, without time and number.
    pub(super) fn record(&self, facts: &Facts, sites: &Sites) -> Record {
        let mut record = match *self {
            Self::Started { version } => {
                of_gateway("daemon_started", format!("the gateway runs, version {version}"))
                    .with("version", version)
                    .with("pid", std::process::id())
            }
            Self::Stopping { reason } => {
                of_gateway("daemon_stopping", format!("the gateway stops: {reason}")).with("reason", reason)
            }
            Self::RulesLoaded(rules) => rules_loaded(rules),
            Self::RulesRefused { file, reason } => {
                let record = of_gateway("rules_refused", format!("rule set {file} refused: {reason}"));
                warning(record).with("file", file).with("reason", reason)
            }
            Self::CredentialsLoaded {
                because,
                authorities,
                lists,
            } => credentials_loaded(because, authorities, lists),
            Self::CredentialsRefused { because, reason } => {
                let text = format!(
                    "not all certificates, lists and keys are taken ({because}), what was in force stays in their place: {reason}"
                );
                let mut record = of_gateway("credentials_refused", text);
                record.severity = Severity::Error;
                record.with("because", because).with("reason", reason)
            }
            Self::RevocationListEnds {
                issuer,
                next_update,
                expired,
            } => revocation_list_ends(issuer, next_update, expired),
            Self::CertificateEnds {
                whose,
                subject,
                not_after,
                expired,
            } => certificate_ends(whose, subject, not_after, expired),
            Self::Commanded { verb, sas, by } => commanded(verb, sas, by),
            Self::Connecting {
                connection,
                site,
                because,
            } => {
                let text = format!("connection {connection} is being brought up ({because})");
                of_site("connecting", site, text)
                    .with("connection", connection)
                    .with("because", because)
            }
            Self::SiteKnown { site, block } => {
                let text = format!("known from now on, translated to {block}");
                of_site("site_known", site, text)
                    .with("nat_address", block.address.to_string())
                    .with("block", block.to_string())
            }
            Self::BlockAssigned { site, block } => {
                let text = format!("its ports ran short: it has {block} as well from now on");
                of_site("port_block_assigned", site, text).with("block", block.to_string())
            }
            Self::BlockReleased { site, block } => {
                let text = format!("it needs {block} no more, which is free for others");
                of_site("port_block_released", site, text).with("block", block.to_string())
            }
            Self::PortsShort { site, reason } => {
                let text = format!("its ports run short, and there are no more for it: {reason}");
                warning(of_site("ports_short", site, text)).with("reason", reason)
            }
            Self::NotAdmitted { peer, reason } => {
                let text = format!("{peer} proved its identity and may not connect: {reason}");
                let mut record = Record::new("peer_not_admitted", Severity::Warning, Cause::Stranger, text);
                record.claimed_site = ike::site_of(peer, sites);
                record.with("peer", peer).with("reason", reason)
            }
            Self::SiteState { site, up: true } => of_site("site_up", site, "the site is up".to_owned()),
            Self::SiteState { site, up: false } => warning(of_site(
                "site_down",
                site,
                "the site has no Child SA any more".to_owned(),
            )),
            Self::NotInstalled { child, site, reason } => {
                let text = format!("{child} could not be installed and is closed: {reason}");
                let mut record = of_site("child_sa_not_installed", site, text);
                record.severity = Severity::Error;
                record.child = Some(child);
                record.with("reason", reason)
            }
            Self::NotPublished { site, reason } => {
                let text =
                    format!("what is published of it is not reachable yet, and is tried again: {reason}");
                let mut record = of_site("not_published", site, text);
                record.severity = Severity::Error;
                record.with("reason", reason)
            }
            Self::NameRefused { asked_by, name } => {
                let text = format!("{asked_by} asked for {name}, which no rule lets it reach");
                of_name("name_refused", text, asked_by, name)
            }
            Self::NamePrivate {
                asked_by,
                name,
                address,
            } => {
                let text = format!("{name} leads to {address}, which is never opened; asked by {asked_by}");
                warning(of_name("name_private", text, asked_by, name)).with("address", address.to_string())
            }
            Self::NameNotOpened {
                asked_by,
                name,
                reason,
            } => {
                let text = format!("{name} is not opened, asked by {asked_by}: {reason}");
                warning(of_name("name_not_opened", text, asked_by, name)).with("reason", reason)
            }
            Self::Ike(event) => ike::record(event, facts, sites),
            Self::Suppressed { strangers, of_sites } => suppressed(strangers, of_sites),
        };
        let name = |site: u32| {
            sites
                .get(site)
                .map_or_else(|| format!("site {site}"), |entry| entry.name.clone())
        };
        record.site_name = record.site.map(name);
        record
    }
}

fn of_gateway(event: &'static str, text: String) -> Record {
    Record::new(event, Severity::Info, Cause::Gateway, text)
}

fn of_site(event: &'static str, site: u32, text: String) -> Record {
    let mut record = Record::new(event, Severity::Info, Cause::Site(site), text);
    record.site = Some(site);
    record
}

/// About a name. It is no record of the site's IKE log: sites ask for many names.
fn of_name(event: &'static str, text: String, asked_by: &str, name: &str) -> Record {
    of_gateway(event, text)
        .with("asked_by", asked_by)
        .with("name", name)
}

fn warning(mut record: Record) -> Record {
    record.severity = Severity::Warning;
    record
}

fn rules_loaded(rules: &ActiveRules) -> Record {
    of_gateway("rules_loaded", loaded(rules))
        .with("generation", rules.generation)
        .with("file", rules.file.as_str())
        .with("name", rules.name.as_str())
        .with("rules", rules.rules)
        .with("compiled", rules.compiled)
}

fn credentials_loaded(because: &str, authorities: &[String], lists: &[RevocationList]) -> Record {
    let lists: Vec<_> = lists.iter().map(|list| list.issuer.as_str()).collect();
    let of = match lists.is_empty() {
        true => "no revocation list".to_owned(),
        false => format!("revocation lists of {}", lists.join("; ")),
    };
    let text = format!(
        "certificates read again ({because}): authorities {}; {of}",
        authorities.join("; ")
    );
    of_gateway("credentials_loaded", text)
        .with("because", because)
        .with("authorities", authorities.to_vec())
        .with(
            "revocation_lists",
            lists.into_iter().map(str::to_owned).collect::<Vec<_>>(),
        )
}

fn revocation_list_ends(issuer: &str, next_update: &str, expired: bool) -> Record {
    let text = match expired {
        true => format!(
            "the revocation list of {issuer} is out of date since {next_update}: no certificate of this issuer is accepted until a new one is loaded"
        ),
        false => format!("the revocation list of {issuer} is good until {next_update} only: load a new one"),
    };
    let record = warning(of_gateway("revocation_list_ends", text));
    record
        .with("issuer", issuer)
        .with("next_update", next_update)
        .with("expired", expired)
}

fn certificate_ends(whose: &str, subject: &str, not_after: &str, expired: bool) -> Record {
    let of = match whose {
        "gateway" => "the gateway's certificate",
        _ => "the authority's certificate",
    };
    let text = match expired {
        true => format!("{of} ({subject}) expired on {not_after}: nobody can connect by it"),
        false => format!("{of} ({subject}) is valid until {not_after} only: renew it"),
    };
    let mut record = warning(of_gateway("certificate_ends", text));
    if expired {
        record.severity = Severity::Error;
    }
    record
        .with("whose", whose)
        .with("subject", subject)
        .with("not_after", not_after)
        .with("expired", expired)
}

fn commanded(verb: &str, sas: &[String], by: &str) -> Record {
    let concerned = match sas {
        [] => "no SA".to_owned(),
        sas => sas.join(", "),
    };
    of_gateway("operator_command", format!("{verb} by {by}: {concerned}"))
        .with("verb", verb)
        .with("by", by)
        .with("sas", sas.to_vec())
}

fn suppressed(strangers: u64, of_sites: u64) -> Record {
    let count = strangers + of_sites;
    let text = format!("{count} more events in the last second are counted only");
    warning(of_gateway("events_suppressed", text))
        .with("of_strangers", strangers)
        .with("of_sites", of_sites)
}

fn loaded(rules: &ActiveRules) -> String {
    format!(
        "rule set {} is in force as generation {}: {} rules, {} compiled",
        rules.file, rules.generation, rules.rules, rules.compiled
    )
}
