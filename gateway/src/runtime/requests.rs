//! Answers to API requests.
use anyhow::anyhow;
use gateway_common::abi::ABI_VERSION;
use gateway_common::abi::flow::state;
use gateway_common::drop::DropReason;
use gateway_ike::counters::Counters;
use gateway_ike::{Command, OtherGateway};
use tokio::sync::oneshot;

use super::compiling::{Wanted, What};
use super::controller::Controller;
use super::engine::Engine;
use super::inspect::Target;
use super::listing::{Answer, Work};
use super::rules::StoredRules;
use crate::api::message::{HowToLoad, Reply, Request};
use crate::api::view;
use crate::core::journal::Notice;
use crate::core::sites::Sites;

impl<E: Engine> Controller<E> {
    /// Carries a request out.
    pub(super) fn answer(&mut self, request: Request) -> Answer {
        let outcome = match request {
            // What may be large.
            Request::FlowsList { site, limit } => {
                return answer_later(self.list_flows(site.as_deref(), limit));
            }
            Request::NatList { site, limit } => {
                return answer_later(self.list_mappings(site.as_deref(), limit));
            }
            Request::RulesExplain {
                flows,
                verdicts_alone,
            } => {
                return answer_later(self.rules_explain(flows, verdicts_alone));
            }
            Request::SaList => return Answer::Sas,
            Request::DnsList => return Answer::Later(self.dns_list()),
            Request::NatPlan => return Answer::large(self.nat_plan()),
            Request::Status => self.status().map(|view| Reply::view(&view)),
            Request::SaShow { id } => self.sa_show(&id).map(|view| Reply::view(&view)),
            Request::SaRekey { site, id, ike } => Target::of(site, id)
                .and_then(|target| self.sa_rekey(&target, ike))
                .map(|view| Reply::view(&view)),
            Request::SaClose { site, id } => Target::of(site, id)
                .and_then(|target| self.sa_close(&target))
                .map(|view| Reply::view(&view)),
            Request::IkeLog { of } => self.ike_log(&of).map(|view| Reply::view(&view)),
            Request::IkePeers => Ok(Reply::view(&self.ike_peers())),
            // Following is the socket's affair; the controller knows the last ones only.
            Request::EventsRecent { last, site } | Request::EventsFollow { last, site } => self
                .recent_events(last, site.as_deref())
                .map(|view| Reply::view(&view)),
            Request::ConnectionList => Ok(Reply::view(&self.connection_list())),
            Request::ConnectionUp { name } => self.connection_up(&name).map(|view| Reply::view(&view)),
            Request::ConnectionDown { name } => self.connection_down(&name).map(|view| Reply::view(&view)),
            Request::Reload => return Answer::Reloaded,
            Request::Drain { to } => self.drain_to(to.as_deref()).map(|view| Reply::view(&view)),
            Request::Drops => self.drops().map(|view| Reply::view(&view)),
            Request::RulesLoad { file, text, how } => {
                let wanted = self.wanted(
                    What::Given(StoredRules {
                        file: file.clone(),
                        text,
                    }),
                    how,
                );
                if let Err(error) = &wanted {
                    self.record(Notice::RulesRefused {
                        file: &file,
                        reason: &format!("{error:#}"),
                    });
                }
                return answer_in_force(wanted);
            }
            Request::RulesConfirm => self.rules_confirm().map(|view| Reply::view(&view)),
            Request::RulesRollback { generation, how } => {
                return answer_in_force(self.wanted(What::Before(generation), how));
            }
            Request::RulesHistory => Ok(Reply::view(&self.rules_history())),
            Request::RulesText { generation } => self.rules_text(generation).map(|view| Reply::view(&view)),
            Request::Trace(_) => Err(anyhow!("packets are traced on a connection of their own")),
            Request::RulesShow => self.rules_show().map(|view| Reply::view(&view)),
        };
        Answer::Ready(outcome.unwrap_or_else(refused))
    }

    /// Who wants running flows judged is told when they are, if somebody is at it.
    pub(super) fn answer_loaded(
        &mut self,
        loaded: anyhow::Result<view::RulesLoaded>,
        how: &HowToLoad,
        reply: oneshot::Sender<Reply>,
    ) {
        let answer = match loaded {
            Ok(view) if how.rejudge && self.rejudging.is_under_way() => {
                return self.rejudging.answer_then(view, reply);
            }
            Ok(view) => Reply::view(&view),
            Err(error) => refused(error),
        };
        // The client may have gone; that is its affair.
        let _ = reply.send(answer);
    }

    fn status(&self) -> anyhow::Result<view::Status> {
        let tables = self.engine.tables()?;
        Ok(view::Status {
            name: self.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi: ABI_VERSION,
            pid: std::process::id(),
            uptime_s: self.clock.uptime_s(),
            interfaces: tables.interfaces,
            workers: tables.workers,
            engine: self.config.engine.name().to_owned(),
            forwarded_directly: tables.forwarded_directly,
            sites_known: self.sites.get().len(),
            sites_up: self.sadb.sites_up(),
            ike_sas: self.endpoint.ike_sa_count(),
            child_sas: self.sadb.len(),
            flows: tables.flows,
            mappings: tables.mappings,
            drops: self.drops()?.iter().map(|drop| drop.packets).sum(),
            rules: self.active_rules(),
            draining: self.drained(),
            paths: tables.paths,
        })
    }

    /// Sends sites away, or no longer.
    fn drain_to(&mut self, to: Option<&str>) -> anyhow::Result<view::Drained> {
        let to: Option<OtherGateway> = to.map(str::parse).transpose()?;
        let verb = match &to {
            Some(to) => format!("drain --to {to}"),
            None => "drain --stop".to_owned(),
        };
        self.endpoint
            .handle_command(self.clock.now(), Command::Drain { to });
        self.record_command(&verb, &[]);
        Ok(self.drained().unwrap_or(view::Drained {
            to: None,
            redirectable: 0,
            staying: 0,
        }))
    }

    fn drained(&self) -> Option<view::Drained> {
        let draining = self.endpoint.draining()?;
        Some(view::Drained {
            to: Some(draining.to.to_string()),
            redirectable: draining.redirectable,
            staying: draining.staying,
        })
    }

    /// Packets dropped by XDP programs and workers, and IKE messages that were not acted upon.
    fn drops(&self) -> anyhow::Result<Vec<view::Drop>> {
        let drop = |(number, packets): (u32, u64)| {
            let reason = DropReason::ALL.iter().find(|reason| **reason as u32 == number);
            view::Drop {
                number,
                reason: reason.map_or("unknown", |reason| reason.name()).to_owned(),
                words: reason
                    .map_or("of a newer release", |reason| reason.words())
                    .to_owned(),
                packets,
            }
        };
        let mut drops = self.engine.tables()?.drops;
        drops.extend(ike_drops(&self.endpoint.counters(), self.sockets.lost()));
        Ok(drops.into_iter().map(drop).collect())
    }
}

fn answer_later(work: anyhow::Result<Work>) -> Answer {
    work.map_or_else(|error| Answer::Ready(refused(error)), Answer::Later)
}

fn answer_in_force(wanted: anyhow::Result<Wanted>) -> Answer {
    wanted.map_or_else(|error| Answer::Ready(refused(error)), Answer::InForce)
}

fn refused(error: anyhow::Error) -> Reply {
    Reply::Error(format!("{error:#}"))
}

pub(super) fn site_number(sites: &Sites, name: &str) -> anyhow::Result<u32> {
    let found = sites.by_name(name).map(|entry| entry.site);
    found.ok_or_else(|| anyhow!("no site is named \"{name}\"; `gateway nat list` shows all"))
}

pub(super) fn site_name(sites: &Sites, number: u32) -> String {
    sites
        .get(number)
        .map_or_else(|| format!("site {number}"), |entry| entry.name.clone())
}

pub(super) fn state_word(number: u8) -> &'static str {
    match number {
        state::TCP_SYN_SENT => "syn-sent",
        state::TCP_SYN_RECEIVED => "syn-received",
        state::TCP_ESTABLISHED => "established",
        state::TCP_FIN => "closing",
        state::TCP_CLOSED => "closed",
        state::TCP_TIME_WAIT => "time-wait",
        state::TCP_SYN_SENT_BOTH => "syn-sent-both",
        state::UDP_UNREPLIED | state::ICMP_UNREPLIED | state::OTHER_UNREPLIED => "unreplied",
        state::UDP_REPLIED | state::ICMP_REPLIED | state::OTHER_REPLIED => "replied",
        state::UDP_STREAM => "stream",
        state::PERMISSION => "permission",
        _ => "unknown",
    }
}

/// IKE's counts, and datagrams that it never saw, under the numbers that all drops share.
fn ike_drops(counters: &Counters, lost: u64) -> impl Iterator<Item = (u32, u64)> {
    [
        (DropReason::IkeMalformed, counters.malformed),
        (DropReason::IkeVersion, counters.unsupported_version),
        (DropReason::IkeUnknownSpi, counters.unknown_spi),
        (DropReason::IkeIntegrity, counters.bad_integrity),
        (DropReason::IkeUnexpected, counters.unexpected),
        (DropReason::IkeHalfOpenFull, counters.half_open_full),
        (DropReason::IkePuzzle, counters.puzzles_failed),
        (DropReason::IkeQueueFull, lost),
        (DropReason::IkeSiteSas, counters.over_allowance),
        (DropReason::IkeSiteNetworks, counters.networks_refused),
    ]
    .into_iter()
    .filter(|(_, messages)| *messages > 0)
    .map(|(reason, messages)| (reason as u32, messages))
}
