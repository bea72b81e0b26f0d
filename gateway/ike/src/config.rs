//! What an endpoint is told once, by its caller.

use std::sync::Arc;

use crate::{
    connection::{Connection, Idle},
    crash::CrashSecret,
    half_open::Defence,
    pki::{
        credential::Credential,
        identity::Identity,
        trust::{TrustAnchors, VerifiedPeer},
    },
    ppk::Ppks,
    proposal::{
        EspProposal, IkeProposal, default_esp_proposals, default_ike_proposals, hybrid_ike_proposals,
    },
    redirect::OtherGateway,
    retransmit::RetransmitPolicy,
    shared_key::{AuthKind, SharedKeys},
    traffic_selector::TrafficSelector,
};

/// The two clocks of one instant, given by the caller with every call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time {
    /// Monotonic milliseconds; only differences matter.
    pub mono_ms: u64,
    /// Seconds since 1970, for the validity of certificates.
    pub unix_s: u64,
}

/// A peer that has proved who it is.
#[derive(Debug, Clone)]
pub struct AuthenticatedPeer {
    /// Who the peer says it is (IDi or IDr).
    pub identity: Identity,
    /// What proved it.
    pub proof: Proof,
}

/// What an authenticated peer proved itself with.
#[derive(Debug, Clone)]
pub enum Proof {
    /// Its certificate leads to an authority of ours and speaks for its identity, and it signed the exchange with the
    /// certificate's key.
    Certificate(Arc<VerifiedPeer>),
    /// It knows the shared key of its identity.
    SharedKey,
}

impl AuthenticatedPeer {
    /// By which method.
    pub fn method(&self) -> AuthKind {
        match self.proof {
            Proof::Certificate(_) => AuthKind::Certificate,
            Proof::SharedKey => AuthKind::SharedKey,
        }
    }

    /// The certificate, if that was the proof.
    pub fn certificate(&self) -> Option<&VerifiedPeer> {
        match &self.proof {
            Proof::Certificate(verified) => Some(verified),
            Proof::SharedKey => None,
        }
    }
}

/// Decides who may connect, and as which site, once the peer has proved its identity.
pub trait Authorizer {
    /// The policy of the peer, or `None` to refuse it.
    fn authorize(&self, peer: &AuthenticatedPeer) -> Option<SitePolicy>;
}

/// What one site may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SitePolicy {
    /// Number of the site.
    pub site: u32,
    /// Name of the site, for people.
    pub name: String,
    /// Traffic on our side that the site may reach.
    pub ts_local: Vec<TrafficSelector>,
    /// Addresses that the site may use on its side.
    pub ts_remote: Vec<TrafficSelector>,
    /// In place of [`EndpointConfig::esp_proposals`] for this site.
    pub esp_proposals: Option<Vec<EspProposal>>,
}

/// Everything an endpoint needs to know.
pub struct EndpointConfig {
    /// Our certificate chain and private key.
    pub credential: Credential,
    /// Who we say we are.
    pub local_identity: Identity,
    /// The authorities whose certificates we accept.
    pub trust: TrustAnchors,
    /// Peers with whom shared keys are used on one side or both.
    pub shared_keys: SharedKeys,
    /// Peers with whom a post-quantum preshared key is mixed in (RFC 8784).
    pub ppks: Ppks,
    /// A peer whose identity is an IP address must send from it (RFC 4945 section 3.1.1).
    pub address_identity_is_source: bool,
    /// IKE algorithms, preferred first.
    pub ike_proposals: Vec<IkeProposal>,
    /// IKE algorithms that are accepted from initiators, before the above, but not offered.
    pub ike_proposals_accepted: Vec<IkeProposal>,
    /// ESP algorithms, preferred first.
    pub esp_proposals: Vec<EspProposal>,
    /// Decides about verified peers that connect to us.
    pub authorizer: Box<dyn Authorizer + Send>,
    /// Peers that we connect to.
    pub connections: Vec<Connection>,
    /// When SAs that peers began are closed for want of traffic.
    pub idle: Idle,
    /// Silence after which we ask whether the peer is there.
    pub dpd_after_s: u64,
    /// Age at which an IKE SA is rekeyed; a tenth more, and it is closed. Each SA draws up to a tenth less.
    pub ike_lifetime_s: u64,
    /// Age at which a Child SA is rekeyed; likewise.
    pub child_lifetime_s: u64,
    /// Handshakes in progress at most; further ones are not answered.
    pub half_open_max: usize,
    /// Handshakes in progress from which on initiators must return a cookie (RFC 7296 section 2.6).
    pub cookie_from: usize,
    /// What is done under attack beyond these two.
    pub defence: Defence,
    /// Speak MOBIKE (RFC 4555) with peers that do.
    pub mobike: bool,
    /// Our addresses, for peers with MOBIKE to choose from.
    pub additional_addresses: Vec<std::net::IpAddr>,
    /// Behind a NAT, silence towards the peer after which a keepalive is sent (RFC 3948); 0 for never.
    pub nat_keepalive_s: u64,
    /// Prove to peers that we lost our IKE SAs, and believe those that prove it to us (RFC 6290); `None`: neither.
    pub crash_secret: Option<CrashSecret>,
    /// Let initiators set up an IKE SA without a Child SA (RFC 6023).
    pub childless: bool,
    /// Send peers that can be redirected to this gateway (RFC 5685); see [`crate::Command::Drain`].
    pub redirect_to: Option<OtherGateway>,
    /// Give tickets that are good for so long at most to peers that ask, and resume their sessions (RFC 5723); `None`:
    /// no tickets.
    pub ticket_lifetime_s: Option<u64>,
    /// Child SAs for resources with the same traffic selectors at most (RFC 9611); all count among `children_max`.
    pub resource_sas_max: usize,
    /// Time that a handshake may take.
    pub half_open_timeout_s: u64,
    /// Child SAs of one IKE SA at most.
    pub children_max: usize,
    /// Child SAs with all peers that the data plane has room for; the last eighth is for peers with less than their share.
    pub children_in_all_max: usize,
    /// Networks of one site at most, as prefixes.
    pub networks_per_site_max: usize,
    /// Networks of all sites that the data plane has room for; the last eighth is for sites with no more than their share.
    pub networks_in_all_max: usize,
    /// Sites that there may be. Each has the same share of the room, whether it is connected or not: who comes first leaves room
    /// for others.
    pub sites_max: usize,
    /// IKE SAs with one peer identity at most; a further one ends the oldest.
    pub ike_sas_per_peer_max: usize,
    /// Lowest bits of an inbound ESP SPI in which no two agree, so that the data plane may find SAs by them; 32: SPIs merely
    /// differ. An endpoint keeps to what it was made with.
    pub esp_spi_index_bits: u32,
    /// The same of our SPI of an IKE SA; 64: they merely differ.
    pub ike_spi_index_bits: u32,
    /// IP datagrams with IKE messages are kept below this size in octets when the peer can reassemble
    /// (RFC 7383); `None` leaves it to IP.
    pub fragment_size: Option<usize>,
    /// Announce and use the signatures of RFC 7427 (method 14); without, those of RFC 7296 (1, 9, 10).
    pub digital_signatures: bool,
    /// Inbound SAs are kept this long after a rekey, for packets in flight.
    pub linger_s: u64,
    /// How requests are repeated.
    pub retransmit: RetransmitPolicy,
}

impl EndpointConfig {
    /// A configuration with defaults for everything that has one.
    pub fn new(
        credential: Credential,
        local_identity: Identity,
        trust: TrustAnchors,
        authorizer: Box<dyn Authorizer + Send>,
    ) -> Self {
        Self {
            credential,
            local_identity,
            trust,
            shared_keys: SharedKeys::default(),
            ppks: Ppks::default(),
            address_identity_is_source: true,
            ike_proposals: default_ike_proposals(),
            ike_proposals_accepted: hybrid_ike_proposals(),
            esp_proposals: default_esp_proposals(),
            authorizer,
            connections: Vec::new(),
            idle: Idle::default(),
            dpd_after_s: 30,
            ike_lifetime_s: 4 * 3600,
            child_lifetime_s: 3600,
            half_open_max: 1_000,
            cookie_from: 100,
            defence: Defence::default(),
            mobike: true,
            additional_addresses: Vec::new(),
            nat_keepalive_s: 20,
            crash_secret: None,
            childless: true,
            redirect_to: None,
            ticket_lifetime_s: None,
            resource_sas_max: 8,
            half_open_timeout_s: 30,
            children_max: 16,
            children_in_all_max: usize::MAX,
            networks_per_site_max: usize::MAX,
            networks_in_all_max: usize::MAX,
            sites_max: 1,
            ike_sas_per_peer_max: 16,
            esp_spi_index_bits: 32,
            ike_spi_index_bits: 64,
            fragment_size: Some(1_280),
            digital_signatures: true,
            linger_s: 5,
            retransmit: RetransmitPolicy::default(),
        }
    }

    /// Octets of an IKE message that fit [`Self::fragment_size`] behind IPv6, UDP and non-ESP marker.
    pub(crate) fn message_max(&self) -> usize {
        self.fragment_size
            .map_or(usize::MAX, |size| size.saturating_sub(40 + 8 + 4))
    }
}
