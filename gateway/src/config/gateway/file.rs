//! The shape of `gateway.toml` as it is written.
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use gateway_common::abi::limit;
use gateway_ike::crypto::sign::RsaPadding;
use gateway_ike::{EspProposal, IkeProposal};
use serde::Deserialize;
use toml::Spanned;

use super::super::address::{AddressRange, Prefix};
use super::super::list::List;
pub(super) use super::connection::Written as Connection;
use super::proof::Method;
pub(super) use super::publish::Written as Publish;
use super::{Center, Engine, Filtering, Interface, Internet, Limits, Nat, Network, PlanKind, Timeouts};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) gateway: Gateway,
    #[serde(default)]
    pub(super) interface: Vec<Spanned<Interface>>,
    pub(super) ike: Ike,
    pub(super) center: Spanned<Center>,
    pub(super) internet: Option<Spanned<Internet>>,
    #[serde(default)]
    pub(super) nat_pool: Vec<Pool>,
    #[serde(default)]
    pub(super) nat: Option<Spanned<Nat>>,
    #[serde(default)]
    pub(super) site: Vec<Site>,
    #[serde(default)]
    pub(super) any_site: Vec<Any>,
    #[serde(default)]
    pub(super) connection: Vec<Connection>,
    #[serde(default)]
    pub(super) publish: Vec<Publish>,
    #[serde(default)]
    pub(super) timeouts: Option<Spanned<Timeouts>>,
    #[serde(default)]
    pub(super) limits: Option<Spanned<Limits>>,
    #[serde(default)]
    pub(super) network: Option<Spanned<Network>>,
    pub(super) dns: Option<Spanned<super::dns::Written>>,
    pub(super) rules: Option<Rules>,
    pub(super) events: Option<Events>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Gateway {
    pub(super) name: String,
    #[serde(default = "state_dir")]
    pub(super) state_dir: PathBuf,
    #[serde(default = "socket")]
    pub(super) socket: PathBuf,
    pub(super) workers: Option<Spanned<u32>>,
    #[serde(default)]
    pub(super) engine: Engine,
}

fn state_dir() -> PathBuf {
    "/var/lib/gateway".into()
}

fn socket() -> PathBuf {
    super::DEFAULT_SOCKET.into()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ike {
    pub(super) certificate: PathBuf,
    pub(super) private_key: PathBuf,
    pub(super) ca: List<PathBuf>,
    pub(super) crl: Option<List<PathBuf>>,
    pub(super) crl_policy: Option<Spanned<CrlPolicy>>,
    #[serde(default)]
    pub(super) rsa_signatures: RsaSignatures,
    #[serde(default = "yes")]
    pub(super) address_identity_is_source: bool,
    pub(super) identity: Spanned<String>,
    pub(super) proposals: Option<List<IkeProposal>>,
    pub(super) esp_proposals: Option<List<EspProposal>>,
    pub(super) pfs: Option<Spanned<String>>,
    #[serde(default = "rekey_ike_after_s")]
    pub(super) rekey_ike_after_s: Spanned<u64>,
    #[serde(default = "rekey_child_after_s")]
    pub(super) rekey_child_after_s: Spanned<u64>,
    #[serde(default = "dpd_after_s")]
    pub(super) dpd_after_s: Spanned<u64>,
    #[serde(default = "cookie_above")]
    pub(super) cookie_above: usize,
    #[serde(default = "puzzle_above")]
    pub(super) puzzle_above: usize,
    #[serde(default = "half_open_max")]
    pub(super) half_open_max: Spanned<u64>,
    #[serde(default = "half_open_per_source")]
    pub(super) half_open_per_source: Spanned<u64>,
    #[serde(default = "nat_keepalive_s")]
    pub(super) nat_keepalive_s: Spanned<u64>,
    #[serde(default = "yes")]
    pub(super) crash_detection: bool,
    #[serde(default = "session_ticket_s")]
    pub(super) session_ticket_s: Spanned<u64>,
    #[serde(default = "mobike")]
    pub(super) mobike: bool,
    #[serde(default)]
    pub(super) additional_addresses: Vec<IpAddr>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum CrlPolicy {
    WhereListed,
    Always,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RsaSignatures {
    #[default]
    Pkcs1,
    Pss,
}

impl From<RsaSignatures> for RsaPadding {
    fn from(signatures: RsaSignatures) -> Self {
        match signatures {
            RsaSignatures::Pkcs1 => Self::Pkcs1,
            RsaSignatures::Pss => Self::Pss,
        }
    }
}

fn yes() -> bool {
    true
}

fn rekey_ike_after_s() -> Spanned<u64> {
    Spanned::new(0..0, 4 * 3600)
}

fn rekey_child_after_s() -> Spanned<u64> {
    Spanned::new(0..0, 3600)
}

fn dpd_after_s() -> Spanned<u64> {
    Spanned::new(0..0, 30)
}

fn cookie_above() -> usize {
    64
}

fn puzzle_above() -> usize {
    500
}

fn half_open_max() -> Spanned<u64> {
    Spanned::new(0..0, 1_000)
}

fn half_open_per_source() -> Spanned<u64> {
    Spanned::new(0..0, 64)
}

fn nat_keepalive_s() -> Spanned<u64> {
    Spanned::new(0..0, 20)
}

fn session_ticket_s() -> Spanned<u64> {
    Spanned::new(0..0, 0)
}

fn mobike() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pool {
    pub(super) name: Spanned<String>,
    pub(super) addresses: Spanned<Vec<Spanned<AddressRange>>>,
    #[serde(default)]
    pub(super) mode: PoolMode,
    pub(super) block_size: Option<Spanned<u32>>,
    pub(super) blocks_max: Option<Spanned<usize>>,
    pub(super) plan: Option<Spanned<PlanKind>>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum PoolMode {
    #[default]
    Address,
    Block,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Site {
    pub(super) name: Spanned<String>,
    pub(super) identity: Spanned<String>,
    pub(super) psk_file: Option<Spanned<PathBuf>>,
    pub(super) site_auth: Option<Spanned<Method>>,
    pub(super) gateway_auth: Option<Spanned<Method>>,
    pub(super) gateway_identity: Option<Spanned<String>>,
    pub(super) ppk_id: Option<Spanned<String>>,
    pub(super) ppk_file: Option<Spanned<PathBuf>>,
    pub(super) ppk_required: Option<Spanned<bool>>,
    #[serde(default)]
    pub(super) groups: Vec<Spanned<String>>,
    pub(super) networks: Spanned<Vec<Prefix>>,
    pub(super) nat_pool: Option<Spanned<String>>,
    pub(super) nat_address: Option<Spanned<Ipv4Addr>>,
    pub(super) filtering: Option<Filtering>,
    pub(super) pfs: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Any {
    pub(super) pattern: Spanned<String>,
    #[serde(default)]
    pub(super) groups: Vec<Spanned<String>>,
    pub(super) networks: Spanned<Vec<Prefix>>,
    pub(super) nat_pool: Spanned<String>,
    #[serde(default = "max")]
    pub(super) max: u32,
    pub(super) filtering: Option<Filtering>,
    pub(super) pfs: Option<Spanned<String>>,
}

fn max() -> u32 {
    limit::SITES_MAX
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Events {
    pub(super) file: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rules {
    pub(super) file: PathBuf,
}
