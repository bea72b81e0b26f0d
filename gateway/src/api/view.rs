//! What replies hold; `--json` prints it as it is.
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::PlanKind;
use crate::core::journal::Severity;
use crate::dns::proxy::Counters;

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
    /// Who forwards packets of known connections: `xdp` or `direct`.
    pub engine: String,
    /// Packets that workers forwarded by themselves; they are in the path `clear_forwarded` as well.
    pub forwarded_directly: u64,
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
    /// The gateway is being emptied.
    #[serde(default)]
    pub draining: Option<Drained>,
    /// Packets that were not dropped, by what happened to them.
    pub paths: Vec<PathCounter>,
}

/// How far the gateway is emptied (RFC 5685).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Drained {
    /// Where sites are sent to; `None`: the gateway is not being emptied.
    pub to: Option<String>,
    /// IKE SAs of sites that can be sent away and are still here.
    pub redirectable: usize,
    /// IKE SAs of sites that cannot.
    pub staying: usize,
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
    /// Those of them that have AF_XDP zero copy; the others are in copy mode.
    pub zero_copy: u32,
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
    /// The resource that it is for, where the site has several Child SAs for the same traffic (RFC 9611).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
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
    /// Received and dropped: refused by the replay window.
    pub replayed: u64,
    /// Received and dropped: the ICV is wrong.
    pub unauthentic: u64,
    /// Received and dropped for another reason.
    pub refused: u64,
    /// Sequence numbers left to send with.
    pub sequence_left: u64,
}

/// A site that the gateway connects to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Connection {
    /// Name of the `[[connection]]`.
    pub name: String,
    /// Name of its site.
    pub site: String,
    /// Its addresses in order.
    pub remote: Vec<IpAddr>,
    /// `now`, `on-demand` or `manual`.
    pub start: String,
    /// `up`: a Child SA carries traffic; `childless`: an IKE SA stands, but the peer refused the Child SA;
    /// `connecting`; `waiting`: the last attempt failed, another follows; `down`.
    pub state: String,
    /// While it waits: seconds until the next attempt.
    pub retry_in_s: Option<u64>,
    /// IKE SAs of the site.
    pub sas: Vec<String>,
    /// Attempts that failed since it was up last.
    pub failures: u32,
    /// Why the last attempt failed or the connection ended; empty when it is up.
    pub failure: String,
    /// When, in milliseconds since 1970; zero: never.
    pub failed_at_ms: u64,
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
    /// Name of the `[[publish]]` that made it; port and protocol 0 stand for the whole address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<String>,
}

/// A site's translated address.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SiteAddress {
    /// Name of the site.
    pub site: String,
    /// Its groups.
    pub groups: Vec<String>,
    /// The address that it is translated to, or the first one.
    pub nat_address: Ipv4Addr,
    /// The address as a whole, or the site's port blocks.
    #[serde(default)]
    pub blocks: Vec<PortBlock>,
}

/// Ports of an address that a site has, and how many of them are in use; ports 0 to 65535: all of the address.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PortBlock {
    /// The address.
    pub address: Ipv4Addr,
    /// First port.
    pub first_port: u16,
    /// Last port.
    pub last_port: u16,
    /// TCP ports in use.
    pub tcp: u32,
    /// UDP ports in use.
    pub udp: u32,
    /// ICMP identifiers in use.
    pub icmp: u32,
    /// Mappings of protocols without ports.
    pub other: u32,
    /// It serves what is in use and nothing new, and goes back when nothing is.
    pub closed: bool,
}

/// How addresses are divided among sites.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NatPlan {
    /// Where the log of addresses and ports is.
    pub state_dir: PathBuf,
    /// Days that it is kept for.
    pub log_keep_days: u32,
    /// The pools.
    pub pools: Vec<NatPool>,
}

/// A pool of addresses.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NatPool {
    /// Its name.
    pub name: String,
    /// Its ranges.
    pub addresses: Vec<String>,
    /// How many addresses that are.
    pub address_count: u64,
    /// How they are divided; `None`: each site has one of its own.
    pub plan: Option<BlockPlan>,
    /// Sites or blocks that it has room for.
    pub room: u64,
    /// Addresses or blocks that are taken.
    pub taken: u64,
    /// What is taken; of a deterministic plan all of it.
    pub blocks: Vec<PlannedBlock>,
}

/// How the ports of an address are divided.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BlockPlan {
    /// Who gets which block.
    pub kind: PlanKind,
    /// Ports of a block.
    pub block_size: u32,
    /// The first port of an address's first block, in blocks.
    pub first_block: u32,
    /// Blocks of an address.
    pub blocks_per_address: u32,
    /// Blocks of one site at most.
    pub blocks_max: usize,
}

/// A block and whose it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlannedBlock {
    /// Number of the site.
    pub site: u32,
    /// Its name; `None`: there is no such site yet.
    pub name: Option<String>,
    /// The address.
    pub address: Ipv4Addr,
    /// First port.
    pub first_port: u16,
    /// Last port.
    pub last_port: u16,
}

/// Who had an address or a port of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NatWho {
    /// The address.
    pub address: Ipv4Addr,
    /// The port, if one was asked for.
    pub port: Option<u16>,
    /// The time asked for, RFC 3339; `None`: now.
    pub at: Option<String>,
    /// Who.
    pub answers: Vec<NatHolder>,
    /// Time of the first record of the log; `None`: there is no log.
    pub log_begins: Option<String>,
    /// What makes the answer less than certain.
    pub warnings: Vec<String>,
}

/// A site that had an address or block.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NatHolder {
    /// Number of the site.
    pub site: u32,
    /// Its name.
    pub name: String,
    /// The address.
    pub address: Ipv4Addr,
    /// First port.
    pub first_port: u16,
    /// Last port.
    pub last_port: u16,
    /// Number of the only protocol whose port it is, where it is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// Since when; `None`: since before the log begins.
    pub from: Option<String>,
    /// Until when; `None`: still.
    pub until: Option<String>,
    /// No other answer is possible.
    pub certain: bool,
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
    /// Running flows were to be judged, and could not be yet: it is tried again each second.
    #[serde(default)]
    pub flows_not_judged: bool,
    /// The generation that it brought back, if that is what it did.
    #[serde(default)]
    pub brought_back: Option<u32>,
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

/// The last events, as docs/events.md has them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Events {
    /// Number of the last that there was.
    pub newest: u64,
    /// Oldest first.
    pub events: Vec<serde_json::Value>,
}

/// The IKE log of a site or peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IkeLog {
    /// The site, if it is one.
    pub site: Option<String>,
    /// What happened, oldest first.
    pub lines: Vec<LogLine>,
}

/// Something that happened, once or often.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogLine {
    /// When first, in milliseconds since 1970.
    pub first_ms: u64,
    /// When last, in milliseconds since 1970.
    pub last_ms: u64,
    /// How often.
    pub count: u32,
    /// Name of docs/events.md.
    pub event: String,
    /// How bad it is.
    pub severity: Severity,
    /// Where the peer was.
    pub remote: Option<SocketAddr>,
    /// `ike#N`.
    pub ike_sa: Option<String>,
    /// `child#N`.
    pub child_sa: Option<String>,
    /// Whoever caused it did not prove who it is.
    pub unproven: bool,
    /// In words.
    pub text: String,
}

/// Peers with a log that are no site.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IkePeers {
    /// Those heard last first.
    pub peers: Vec<IkePeer>,
}

/// A peer that is no site.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IkePeer {
    /// Its address.
    pub address: IpAddr,
    /// How often something was noted.
    pub lines: u64,
    /// When last, in milliseconds since 1970.
    pub last_ms: u64,
    /// What last.
    pub last: String,
}

/// Everything known of an IKE SA and its Child SAs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SaDetails {
    /// As in the list.
    #[serde(flatten)]
    pub ike: IkeSa,
    /// SPIs of initiator and responder, 16 hex digits each.
    pub spis: [String; 2],
    /// We began it.
    pub initiator: bool,
    /// The connection of ours that it belongs to.
    pub connection: Option<String>,
    /// Who we say we are.
    pub own_identity: String,
    /// We are behind a NAT.
    pub nat_local: bool,
    /// The peer is behind a NAT.
    pub nat_remote: bool,
    /// A post-quantum preshared key is in its keys.
    #[serde(default)]
    pub ppk: bool,
    /// The peer's certificate.
    pub certificate: Option<Certificate>,
    /// The site's translated address.
    pub nat_address: Option<Ipv4Addr>,
    /// Seconds since the peer was heard.
    pub heard_before_s: u64,
    /// Seconds until the gateway rekeys it.
    pub rekey_in_s: Option<u64>,
    /// Seconds until the peer is authenticated anew.
    pub reauthenticate_in_s: Option<u64>,
    /// Seconds until it is closed if nothing replaces it.
    pub expire_in_s: Option<u64>,
    /// A request of ours is not answered yet.
    pub waits_for_peer: bool,
    /// More of its Child SAs, in the same order.
    pub child_details: Vec<ChildDetails>,
    /// What happened to it, its predecessors and its Child SAs, oldest first.
    pub history: Vec<LogLine>,
}

/// Who a peer is by its certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Certificate {
    /// Subject.
    pub subject: String,
    /// Issuer.
    pub issuer: String,
    /// Serial number in hex.
    pub serial: String,
    /// Valid from, RFC 3339.
    pub not_before: String,
    /// Valid until, RFC 3339.
    pub not_after: String,
    /// The whole chain is valid until then, RFC 3339: the IKE SA is closed at that time.
    pub chain_valid_until: String,
    /// The configured authority that its chain ends at.
    pub authority: String,
}

/// More of a Child SA.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChildDetails {
    /// `child#N`.
    pub id: String,
    /// The gateway sends on it.
    pub sends: bool,
    /// `live`, `replaced`, `closing`.
    pub phase: String,
    /// Seconds until the gateway rekeys it.
    pub rekey_in_s: Option<u64>,
    /// Seconds until it is closed if nothing replaces it.
    pub expire_in_s: Option<u64>,
    /// Seconds since a packet passed on it.
    pub unused_for_s: u64,
}

/// What peers' certificates are measured by from now on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reloaded {
    /// Subjects of the authorities.
    pub authorities: Vec<String>,
    /// Revocation lists, newest first.
    pub revocation_lists: Vec<RevocationList>,
    /// The configuration, if its file says something else than at the start: that takes a restart.
    #[serde(default)]
    pub configuration_changed: Option<PathBuf>,
}

/// A revocation list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RevocationList {
    /// Whose it is.
    pub issuer: String,
    /// When it was made, RFC 3339.
    pub this_update: String,
    /// When there is a newer one at the latest, RFC 3339.
    pub next_update: Option<String>,
    /// Certificates on it.
    pub revoked: usize,
}

/// The outcome of a command to SAs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Commanded {
    /// The SAs that it concerned.
    pub sas: Vec<String>,
}

/// A trace that has begun.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tracing {
    /// Name of the site.
    pub site: String,
    /// Ends after so many seconds.
    pub seconds: u64,
}

/// A line of a trace.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum TraceLine {
    /// A packet at one place.
    Packet(Box<TracedPacket>),
    /// Packets that there was no room to tell of: the rate is bounded.
    Gap {
        /// How many.
        lost: u64,
    },
    /// The trace is at its end.
    End {
        /// `time` or `count`.
        why: String,
        /// Lines of packets.
        packets: u64,
        /// Packets that there was no room to tell of.
        lost: u64,
    },
}

/// A packet at one place.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TracedPacket {
    /// When, RFC 3339 with microseconds.
    pub time: String,
    /// Name of the site.
    pub site: String,
    /// Where: `wan`, `worker_in`, `clear`, `clear_judge`, `clear_map`, `clear_add`, `core`, `worker_out`.
    pub point: String,
    /// `out`: from the site; `in`: to it.
    pub direction: String,
    /// `sent`, `dropped`, or `stage`: another stage goes on with it.
    pub outcome: String,
    /// Path that it was sent on, reason for which it was dropped, or the stage.
    pub what: String,
    /// The reason for which it was dropped in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words: Option<String>,
    /// `tcp`, `udp`, `icmp` or a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Address and port of the site's end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Address and port of the center's end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// What the site's end is translated to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat: Option<String>,
    /// State of its flow behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Number of its mapping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping: Option<u32>,
    /// Name of its rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Flags of a TCP segment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<String>,
    /// SPI of the ESP packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spi: Option<String>,
    /// Bytes of the inner packet, or of the frame where that is not known.
    pub bytes: u32,
}

/// What is open by name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpenNames {
    /// Address of the DNS proxy; `None`: there is none.
    pub proxy: Option<Ipv4Addr>,
    /// What it has done so far.
    pub counters: Counters,
    /// Names and addresses.
    pub names: Vec<OpenName>,
}

/// An address that is open by a name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpenName {
    /// The name that a site asked for.
    pub name: String,
    /// Where it leads.
    pub address: Ipv4Addr,
    /// Seconds that it stays open.
    pub left_s: u32,
    /// The `[[address]]` or rule whose names it is among; `None`: no rule in force speaks of them.
    pub set: Option<String>,
    /// Rules that it is open to.
    pub rules: Vec<String>,
}
