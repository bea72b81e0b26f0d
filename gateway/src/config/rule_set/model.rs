//! The tables of a rule-set file as they are written.
use serde::{Deserialize, Serialize};

use super::fqdn::NamePattern;
use super::words::{AddressWord, Direction, IcmpType, PortRange, Protocol};
use crate::config::list::List;

/// What to do with a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Let it be made.
    Allow,
    /// Drop it.
    Deny,
    /// Drop it and tell the sender.
    Reject,
}

/// One rule as it is written. Conditions are joined by "and", the words of one list by "or".
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RuleModel {
    /// Name in tables and logs; unique in the file.
    pub name: String,
    /// What to do.
    pub action: Action,
    /// Which way the flow is opened; left out: from a site to the center.
    #[serde(default, skip_serializing_if = "List::is_any")]
    pub direction: List<Direction>,
    /// Sites; joined with `groups` by "or".
    #[serde(default, alias = "site", skip_serializing_if = "List::is_any")]
    pub sites: List<String>,
    /// Site groups, of the configuration or of this file; joined with `sites` by "or".
    #[serde(default, alias = "group", skip_serializing_if = "List::is_any")]
    pub groups: List<String>,
    /// Sites that are called, in flows from site to site; joined with `to_groups` by "or".
    #[serde(default, alias = "to_site", skip_serializing_if = "List::is_any")]
    pub to_sites: List<String>,
    /// Groups of sites that are called; joined with `to_sites` by "or".
    #[serde(default, alias = "to_group", skip_serializing_if = "List::is_any")]
    pub to_groups: List<String>,
    /// Addresses of who opens the flow, before translation.
    #[serde(default, skip_serializing_if = "List::is_any")]
    pub source: List<AddressWord>,
    /// Addresses of who is called: in the center or the Internet, or in the site, as the site knows them.
    #[serde(default, skip_serializing_if = "List::is_any")]
    pub destination: List<AddressWord>,
    /// Named services; in place of the four keys below.
    #[serde(default, alias = "service", skip_serializing_if = "List::is_any")]
    pub services: List<String>,
    /// IP protocols.
    #[serde(default, skip_serializing_if = "List::is_any")]
    pub protocol: List<Protocol>,
    /// Source ports; TCP and UDP only.
    #[serde(default, skip_serializing_if = "List::is_any")]
    pub source_ports: List<PortRange>,
    /// Destination ports; TCP and UDP only.
    #[serde(default, skip_serializing_if = "List::is_any")]
    pub destination_ports: List<PortRange>,
    /// ICMP types; ICMP only.
    #[serde(default, skip_serializing_if = "List::is_any")]
    pub icmp_types: List<IcmpType>,
    /// Names of Internet sites, in rules that allow; joined with `destination` by "or".
    #[serde(default, skip_serializing_if = "List::is_any")]
    pub fqdn: List<NamePattern>,
    /// The `[[schedule]]` at whose times the rule is in force; left out: always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// Log each new flow or denied packet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub log: bool,
    /// Why the rule is there.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
}

/// A name for addresses.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AddressModel {
    /// The name.
    pub name: String,
    /// Addresses, prefixes, ranges, or names of other ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<List<AddressWord>>,
    /// Names of Internet sites; in place of `addresses`.
    #[serde(default, skip_serializing_if = "List::is_any")]
    pub fqdn: List<NamePattern>,
    /// What it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
}

/// A name for protocols and ports.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceModel {
    /// The name.
    pub name: String,
    /// Names of other services; in place of the keys below.
    #[serde(default, skip_serializing_if = "List::is_any")]
    pub members: List<String>,
    /// As in a rule.
    #[serde(default, skip_serializing_if = "List::is_any")]
    pub protocol: List<Protocol>,
    /// As in a rule.
    #[serde(default, skip_serializing_if = "List::is_any")]
    pub source_ports: List<PortRange>,
    /// As in a rule.
    #[serde(default, skip_serializing_if = "List::is_any")]
    pub destination_ports: List<PortRange>,
    /// As in a rule.
    #[serde(default, skip_serializing_if = "List::is_any")]
    pub icmp_types: List<IcmpType>,
    /// What it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
}

/// A name for sites.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SiteGroupModel {
    /// The name; none that `gateway.toml` has a group of.
    pub name: String,
    /// Sites.
    #[serde(default, skip_serializing_if = "List::is_any")]
    pub sites: List<String>,
    /// Groups of `gateway.toml`.
    #[serde(default, skip_serializing_if = "List::is_any")]
    pub groups: List<String>,
    /// What it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
}

/// A name for times of the week.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleModel {
    /// The name.
    pub name: String,
    /// Time zone by its IANA name, like `Asia/Tokyo`.
    pub time_zone: String,
    /// Days of the week on which it begins, `mon` to `sun`; left out: every day.
    #[serde(default, skip_serializing_if = "List::is_any")]
    pub days: List<String>,
    /// Local time at which it begins, `HH:MM`; left out: midnight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Local time at which it ends, `HH:MM` up to `24:00`; not later than `from`: on the next day. Left out: midnight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// What it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
}
