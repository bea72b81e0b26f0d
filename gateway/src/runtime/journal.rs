//! The journal's way out: to the daemon's log, to subscribers, and the answers of `ike log` and `events`.
use std::net::IpAddr;

use anyhow::bail;
use gateway_ike::pki::identity::Identity;

use super::authorizer::Admission;
use super::controller::Controller;
use super::engine::Engine;
use crate::api::view;
use crate::core::journal::{Line, Notice, Record, Severity};

impl<E: Engine> Controller<E> {
    /// Notes what happened, now.
    pub(super) fn record(&mut self, notice: Notice<'_>) {
        let now_ms = self.clock.unix_ms();
        self.journal.note(now_ms, notice, &self.sites.get());
        self.publish();
    }

    /// Notes what an operator's command concerned, and whose it was.
    pub(super) fn record_command(&mut self, verb: &str, sas: &[String]) {
        let by = &self.caller.words();
        self.record(Notice::Commanded { verb, sas, by });
    }

    pub(super) fn next_second_of_journal(&mut self) {
        let now_ms = self.clock.unix_ms();
        self.journal.next_second(now_ms, &self.sites.get());
        self.publish();
    }

    /// Notes what the authorizer decided during the last call of IKE.
    pub(super) fn record_admissions(&mut self) {
        for admission in self.admissions.take() {
            match admission {
                Admission::Known { site, block } => {
                    self.new_sites.push(site);
                    self.record(Notice::SiteKnown { site, block });
                }
                Admission::Refused { peer, reason } => self.record(Notice::NotAdmitted {
                    peer: &peer,
                    reason: &reason,
                }),
            }
        }
    }

    fn publish(&mut self) {
        while let Some((record, line)) = self.journal.poll_record() {
            log(&record);
            // No subscriber is no error; a slow one loses its oldest and is told.
            let _ = self.subscribers.send(line);
        }
    }

    /// The last events, of all or of the site of this name.
    pub(super) fn recent_events(&self, count: usize, site: Option<&str>) -> anyhow::Result<view::Events> {
        let event = |line: &crate::core::journal::EventLine| serde_json::from_str(&line.json);
        Ok(view::Events {
            newest: self.journal.newest(),
            events: self
                .journal
                .recent(count, site)
                .map(event)
                .collect::<Result<_, _>>()?,
        })
    }

    /// The log of a site by name, of an identity, or of an address.
    pub(super) fn ike_log(&self, of: &str) -> anyhow::Result<view::IkeLog> {
        let sites = self.sites.get();
        let by_identity = || {
            let identity: Identity = of.parse().ok()?;
            sites.by_identity(&identity)
        };
        if let Some(site) = sites.by_name(of) {
            return Ok(log_view(Some(&site.name), self.journal.site_log(site.site)));
        }
        if let Ok(address) = of.parse::<IpAddr>() {
            return Ok(log_view(None, self.journal.peer_log(address)));
        }
        if let Some(site) = by_identity() {
            return Ok(log_view(Some(&site.name), self.journal.site_log(site.site)));
        }
        let peers: Vec<_> = self
            .journal
            .peers()
            .iter()
            .take(5)
            .map(IpAddr::to_string)
            .collect();
        let heard = match peers.is_empty() {
            true => "nobody unknown was heard".to_owned(),
            false => format!("unknown peers were heard last at {}", peers.join(", ")),
        };
        bail!(
            "no site is named \"{of}\", and it is neither an identity of one nor an address; {heard}\n  \
             to mend it: `gateway nat list` shows all sites, `gateway ike peers` all addresses with a log"
        )
    }

    /// Addresses with a log that are no site.
    pub(super) fn ike_peers(&self) -> view::IkePeers {
        let peer = |address: IpAddr| {
            let lines = self.journal.peer_log(address);
            let last = lines.last();
            view::IkePeer {
                address,
                lines: lines.iter().map(|line| u64::from(line.count)).sum(),
                last_ms: last.map_or(0, |line| line.last_ms),
                last: last.map_or_else(String::new, |line| line.text.to_string()),
            }
        };
        view::IkePeers {
            peers: self.journal.peers().into_iter().map(peer).collect(),
        }
    }
}

fn log(record: &Record) {
    let (event, text) = (record.event, &record.text);
    let site = record.site_name.as_deref().unwrap_or("-");
    match record.severity {
        Severity::Info => tracing::info!(target: "gateway::events", event, site, "{text}"),
        Severity::Warning => tracing::warn!(target: "gateway::events", event, site, "{text}"),
        Severity::Error => tracing::error!(target: "gateway::events", event, site, "{text}"),
    }
}

fn log_view(site: Option<&str>, lines: Vec<Line>) -> view::IkeLog {
    view::IkeLog {
        site: site.map(str::to_owned),
        lines: lines.iter().map(line_view).collect(),
    }
}

/// A line for people and machines.
pub(super) fn line_view(line: &Line) -> view::LogLine {
    view::LogLine {
        first_ms: line.first_ms,
        last_ms: line.last_ms,
        count: line.count,
        event: line.event.to_owned(),
        severity: line.severity,
        remote: line.remote,
        ike_sa: line.ike_sa.map(|id| id.to_string()),
        child_sa: line.child.map(|id| id.to_string()),
        unproven: line.unproven,
        text: line.text.to_string(),
    }
}
