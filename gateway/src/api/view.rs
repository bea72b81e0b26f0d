//! What replies hold; `--json` prints it as it is.
use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// How the daemon is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Name of the gateway.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// Version of the maps.
    pub abi: u32,
    /// Process id.
    pub pid: u32,
    /// Seconds since its start.
    pub uptime_s: u64,
    /// Interfaces with a role.
    pub interfaces: Vec<Interface>,
    /// ESP workers.
    pub workers: usize,
    /// Sites with a `[[site]]`, or known through an `[[any_site]]`.
    pub sites_known: usize,
    /// Sites with at least one Child SA.
    pub sites_up: usize,
    /// IKE SAs.
    pub ike_sas: usize,
    /// Child SAs.
    pub child_sas: usize,
    /// Tracked connections.
    pub flows: u64,
    /// NAT mappings.
    pub mappings: u64,
    /// Dropped packets since the start, all reasons.
    pub drops: u64,
    /// The rule set in force; `None`: nothing passes.
    pub rules: Option<ActiveRules>,
    /// Packets that were not dropped, by what happened to them.
    pub paths: Vec<PathCounter>,
}

/// An interface with a role.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Interface {
    /// Name.
    pub name: String,
    /// `wan`, `core` or `clear`.
    pub role: String,
    /// How XDP is attached: `native` or `generic`.
    pub xdp: String,
    /// Receive queues.
    pub queues: u32,
}

/// The rule set in force, in short.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ActiveRules {
    /// Its name.
    pub name: String,
    /// The file it came from, as the operator named it.
    pub file: String,
    /// Its generation, counting from 1 at each start of the daemon.
    pub generation: u32,
    /// Rules in the file.
    pub rules: usize,
    /// Rules after expansion.
    pub compiled: usize,
}

/// Packets that took a way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PathCounter {
    /// Name of [`gateway_common::abi::stats::Path`].
    pub path: String,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// An IKE SA with its Child SAs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IkeSa {
    /// `ike#N`.
    pub id: String,
    /// Name of the site; empty while the peer is not authenticated.
    pub site: String,
    /// The peer's identity.
    pub peer: String,
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// `half-open`, `established`, `closing`.
    pub state: String,
    /// A NAT is on the way.
    pub nat: bool,
    /// Algorithms.
    pub algorithms: String,
    /// Seconds since it was established.
    pub age_s: u64,
    /// Its Child SAs.
    pub children: Vec<ChildSa>,
}

/// A pair of ESP SAs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChildSa {
    /// `child#N`.
    pub id: String,
    /// SPI of what we receive, 8 hex digits.
    pub spi_in: String,
    /// SPI of what we send, 8 hex digits.
    pub spi_out: String,
    /// Algorithms.
    pub algorithms: String,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Traffic selectors on our side.
    pub ts_local: Vec<String>,
    /// Traffic selectors on the site's side.
    pub ts_remote: Vec<String>,
    /// Received and good.
    pub packets_in: u64,
    /// Bytes of inner packets received.
    pub bytes_in: u64,
    /// Sent.
    pub packets_out: u64,
    /// Bytes of inner packets sent.
    pub bytes_out: u64,
}

/// Tracked connections.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Flows {
    /// How many there are that were asked for.
    pub total: usize,
    /// Some of them.
    pub flows: Vec<Flow>,
}

/// A tracked connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Flow {
    /// Name of the site.
    pub site: String,
    /// `tcp`, `udp`, `icmp` or a number.
    pub protocol: String,
    /// Address in the site.
    pub source: Ipv4Addr,
    /// Port in the site, or ICMP identifier.
    pub source_port: u16,
    /// Translated address.
    pub nat_address: Ipv4Addr,
    /// Translated port or ICMP identifier.
    pub nat_port: u16,
    /// Address in the center.
    pub destination: Ipv4Addr,
    /// Port in the center.
    pub destination_port: u16,
    /// State of the connection.
    pub state: String,
    /// Name of the rule that allowed it; with its generation if that is not in force any more.
    pub rule: String,
    /// Packets to the center.
    pub packets_out: u64,
    /// Bytes to the center.
    pub bytes_out: u64,
    /// Packets to the site.
    pub packets_in: u64,
    /// Bytes to the site.
    pub bytes_in: u64,
    /// Seconds since its first packet.
    pub age_s: u32,
    /// Seconds since its last packet.
    pub idle_s: u32,
}

/// NAT mappings.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mappings {
    /// How many there are that were asked for.
    pub total: usize,
    /// Some of them.
    pub mappings: Vec<Mapping>,
    /// Translated address of each known site.
    pub sites: Vec<SiteAddress>,
}

/// A NAT mapping.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mapping {
    /// Name of the site.
    pub site: String,
    /// `tcp`, `udp`, `icmp` or a number.
    pub protocol: String,
    /// Address in the site.
    pub inside: Ipv4Addr,
    /// Port or ICMP identifier in the site.
    pub inside_port: u16,
    /// Translated address.
    pub outside: Ipv4Addr,
    /// Translated port or ICMP identifier.
    pub outside_port: u16,
    /// Seconds since its creation.
    pub age_s: u32,
}

/// A site's translated address.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SiteAddress {
    /// Name of the site.
    pub site: String,
    /// Its groups.
    pub groups: Vec<String>,
    /// The address that it is translated to.
    pub nat_address: Ipv4Addr,
}

/// A reason to drop packets that has occurred.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Drop {
    /// Number of [`gateway_common::drop::DropReason`].
    pub number: u32,
    /// Its name.
    pub reason: String,
    /// What it means.
    pub words: String,
    /// Packets.
    pub packets: u64,
}

/// The outcome of putting a rule set in force, or of confirming it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RulesLoaded {
    /// What is in force now.
    pub rules: ActiveRules,
    /// Running flows that were ended because the new rules do not allow them.
    pub ended_flows: usize,
    /// Seconds until it falls back unless it is confirmed.
    pub confirm_within_s: Option<u32>,
}

/// A rule set that is or was in force.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RulesGeneration {
    /// When, who, what.
    #[serde(flatten)]
    pub entry: crate::core::generations::Entry,
    /// Whether it is in force.
    pub in_force: bool,
    /// Seconds until it falls back, if it waits to be confirmed.
    pub falls_back_in_s: Option<u64>,
}

/// The text of a rule set.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RulesText {
    /// Its generation.
    pub generation: u32,
    /// File as the operator named it.
    pub file: String,
    /// Its content.
    pub text: String,
}

/// Which rule decides on a flow.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RulesExplained {
    /// The generation in force.
    pub generation: u32,
    /// The answer.
    #[serde(flatten)]
    pub explanation: crate::core::explain::Explanation,
}

/// The rule set in force.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RuleSet {
    /// In short.
    pub active: ActiveRules,
    /// Its rules in order.
    pub rules: Vec<Rule>,
}

/// A rule with its hits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rule {
    /// As it is written.
    #[serde(flatten)]
    pub rule: crate::config::RuleModel,
    /// New flows or packets that it decided.
    pub hits: u64,
}

/// The outcome of a command to SAs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Commanded {
    /// The SAs that it concerned.
    pub sas: Vec<String>,
}
