//! One record: what `gateway events` and the event file show (docs/events.md).
use std::net::{IpAddr, SocketAddr};

use gateway_ike::{ChildId, IkeSaId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::notice::Cause;

/// Version of the schema; raised when a field changes its meaning or goes. New events and new fields do not raise it.
pub const SCHEMA: u32 = 1;
/// Every event that there is, in the order of docs/events.md.
const EVENTS: [&str; 39] = [
    "daemon_started",
    "daemon_stopping",
    "rules_loaded",
    "rules_refused",
    "credentials_loaded",
    "credentials_refused",
    "certificate_ends",
    "revocation_list_ends",
    "operator_command",
    "connecting",
    "connection_down",
    "site_known",
    "port_block_assigned",
    "port_block_released",
    "ports_short",
    "site_up",
    "site_down",
    "ike_sa_established",
    "ike_sa_rekeyed",
    "ike_sa_closed",
    "peer_moved",
    "move_refused",
    "redirected",
    "redirect_refused",
    "child_sa_established",
    "child_sa_rekeyed",
    "child_sa_closed",
    "child_sa_not_installed",
    "not_published",
    "authentication_failed",
    "peer_not_admitted",
    "proposal_refused",
    "traffic_selectors_refused",
    "networks_refused",
    "refused_by_peer",
    "name_refused",
    "name_private",
    "name_not_opened",
    "events_suppressed",
];
/// Longest text in characters; what a peer sent is cut here.
const TEXT_MAX: usize = 1_000;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Things go their way.
    Info,
    /// Somebody was refused, or something ended that should not have.
    Warning,
    /// The gateway could not do what it should.
    Error,
}

/// What happened once.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its number, from 1 at each start of the daemon.
    pub sequence: u64,
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// Name of the gateway.
    pub gateway: String,
    /// Which event of docs/events.md.
    pub event: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// Who could cause it.
    pub cause: Cause,
    /// Number of the site that it is about.
    pub site: Option<u32>,
    /// Name of that site.
    pub site_name: Option<String>,
    /// A site in whose name an unproven peer spoke.
    pub claimed_site: Option<u32>,
    /// The other end.
    pub remote: Option<SocketAddr>,
    /// IKE SA.
    pub ike_sa: Option<IkeSaId>,
    /// Child SA.
    pub child: Option<ChildId>,
    /// Fields of this event alone.
    pub details: Map<String, Value>,
    /// In words.
    pub text: String,
}

impl Record {
    /// Without time, number and particulars.
    pub(super) fn new(
        event: &'static str,
        severity: Severity,
        cause: Cause,
        text: impl Into<String>,
    ) -> Self {
        debug_assert!(EVENTS.contains(&event), "{event} is not among the events");
        Self {
            sequence: 0,
            time_ms: 0,
            gateway: String::new(),
            event,
            severity,
            cause,
            site: None,
            site_name: None,
            claimed_site: None,
            remote: None,
            ike_sa: None,
            child: None,
            details: Map::new(),
            text: cut(text.into()),
        }
    }

    /// With a field of this event.
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        let value = match value.into() {
            Value::String(text) => Value::String(cut(text)),
            other => other,
        };
        self.details.insert(name.to_owned(), value);
        self
    }

    /// The address without the port.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.remote.map(|remote| remote.ip().to_canonical())
    }

    /// As one JSON object; field names as docs/events.md has them.
    #[must_use]
    pub fn json(&self) -> String {
        let mut object = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                object.insert(name.to_owned(), value);
            }
        };
        put("schema", Some(SCHEMA.into()));
        put("sequence", Some(self.sequence.into()));
        put("time", Some(utc(self.time_ms).into()));
        put("gateway", Some(self.gateway.clone().into()));
        put("event", Some(self.event.into()));
        put("severity", serde_json::to_value(self.severity).ok());
        put("site", self.site_name.clone().map(Value::from));
        put("remote", self.remote.map(|remote| remote.to_string().into()));
        put("ike_sa", self.ike_sa.map(|id| id.to_string().into()));
        put("child_sa", self.child.map(|id| id.to_string().into()));
        object.extend(self.details.clone());
        object.insert("text".to_owned(), self.text.clone().into());
        Value::Object(object).to_string()
    }
}

/// What a peer sent may be long.
fn cut(text: String) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        Some((at, _)) => format!("{}...", text.get(..at).unwrap_or_default()),
        None => text,
    }
}

/// `2026-11-25T09:41:02.345Z` (RFC 3339). The civil calendar from days since 1970: years begin in March, so that the
/// leap day is the last of a year, and 400 years have 146,097 days.
#[must_use]
pub fn utc(unix_ms: u64) -> String {
    let (days, day_ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (seconds, ms) = (day_ms / 1_000, day_ms % 1_000);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By `date -u -d @SECONDS`.
    #[test]
    fn times_are_those_of_the_calendar() {
        for (unix_ms, words) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_735_689_599_000, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(utc(unix_ms), words);
        }
    }

    #[test]
    fn every_event_is_documented() {
        let page = include_str!("../../../docs/events.md");
        for event in EVENTS {
            assert!(
                page.contains(&format!("`{event}`")),
                "{event} is not in docs/events.md"
            );
        }
    }

    /// The names that the sources give to their records.
    #[test]
    fn every_event_that_is_noted_is_among_them() {
        let mut noted = 0;
        for source in [include_str!("ike.rs"), include_str!("notice.rs")] {
            for call in ["Record::new(", "of_sa(", "refused(", "of_gateway(", "of_site("] {
                for arguments in source.split(call).skip(1) {
                    let first = arguments.trim_start().strip_prefix('"');
                    let Some((name, _)) = first.and_then(|rest| rest.split_once('"')) else {
                        continue;
                    };
                    assert!(EVENTS.contains(&name), "{name} is not among the events");
                    noted += 1;
                }
            }
        }
        assert!(noted >= 20, "{noted}");
    }

    #[test]
    fn what_a_peer_sent_is_cut() {
        let long = "é".repeat(5_000);
        let record = Record::new("refused_by_peer", Severity::Info, Cause::Stranger, long.clone())
            .with("offered", long);
        assert_eq!(record.text.chars().count(), TEXT_MAX + 3);
        assert!(record.json().len() < 5_000);
    }
}
