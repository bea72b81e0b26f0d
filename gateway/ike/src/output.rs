//! What an endpoint tells its caller.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use crate::{
    child_sa::ChildSaInstall,
    ids::{ChildId, IkeSaId},
    pki::utc,
    resource::ResourceId,
    shared_key::AuthKind,
    traffic_selector::TrafficSelector,
};

/// One thing for the caller to do, in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send a datagram; on port 4500 the non-ESP marker is already in front.
    Transmit {
        /// Our address and port.
        local: SocketAddr,
        /// Where to.
        remote: SocketAddr,
        /// UDP payload.
        payload: Vec<u8>,
    },
    /// Install both directions of a Child SA.
    InstallChildSa(Box<ChildSaInstall>),
    /// From now on send on this Child SA, in place of all others that carry its traffic.
    ActivateOutbound {
        /// Which.
        child: ChildId,
        /// Those that have the same traffic, each for a resource (RFC 9611): they are sent on as well.
        beside: Vec<ChildId>,
    },
    /// The Child SA goes between other outer addresses from now on: the peer's NAT has another mapping, or one
    /// side moved (RFC 7296 section 2.23, RFC 4555). SPIs, keys and sequence numbers stay.
    UpdateChildSa {
        /// Which.
        child: ChildId,
        /// Our outer address; the port matters only with `udp_encap`.
        local: SocketAddr,
        /// The peer's outer address; likewise.
        remote: SocketAddr,
        /// ESP goes in UDP.
        udp_encap: bool,
    },
    /// Remove one or both directions. The inbound one lingers a few seconds after a rekey, so that packets
    /// in flight are not lost.
    RemoveChildSa {
        /// Which.
        child: ChildId,
        /// Which directions of it.
        direction: Direction,
    },
    /// This SPI of ours is that of an IKE SA from now on whose peer has proved itself, or no more. Who does not see the path
    /// cannot know it. No two that stand agree in the bits of
    /// [`EndpointConfig::ike_spi_index_bits`](crate::EndpointConfig::ike_spi_index_bits); an IKE SA that found none of its own
    /// is not told of.
    IkeSpi {
        /// Which.
        spi: u64,
        /// Whether it stands.
        stands: bool,
    },
    /// For logs, counters and the status page.
    Event(Event),
}

/// Directions of a Child SA, seen from this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the peer.
    Inbound,
    /// To the peer.
    Outbound,
    /// Both.
    Both,
}

/// Why an IKE SA came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer deleted it.
    DeletedByPeer,
    /// A command of ours.
    Requested,
    /// The peer did not answer, however often we asked.
    PeerUnresponsive,
    /// Its lifetime ended and it had not been rekeyed.
    LifetimeExpired,
    /// The peer began anew and said so (INITIAL_CONTACT).
    ReplacedByInitialContact,
    /// The peer answered a request with an error that leaves no way on.
    PeerRefused(&'static str),
    /// The handshake did not end in time.
    HandshakeTimeout,
    /// The peer has newer ones, more than are allowed.
    TooMany,
    /// It carried no traffic for the configured time.
    Idle,
    /// An IKE SA on which the peer was authenticated anew took over.
    Reauthenticated,
    /// The peer answered TEMPORARY_FAILURE for minutes: the two sides no longer agree (RFC 7296 section 2.25).
    OutOfStep,
    /// Something that the peer said after it was authenticated was not well-formed.
    ProtocolViolation,
    /// A certificate of the peer's chain reached the end of its validity.
    CertificateExpired {
        /// Whose certificate: the peer's own, or an authority's.
        subject: String,
        /// Last second of validity, unix time.
        not_after_unix_s: i64,
    },
    /// The peer's chain was verified again and is not accepted any more: which certificate and which check.
    CertificateRefused(String),
    /// The shared key that the peer proved itself with was changed or taken away.
    SharedKeyChanged,
    /// The peer proved that it lost the IKE SA, as by a restart (QCD token, RFC 6290).
    PeerRestarted,
}

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // the fields say what they are
pub enum Event {
    /// Both sides are authenticated.
    IkeSaEstablished {
        ike_sa: IkeSaId,
        peer: String,
        site: u32,
        remote: SocketAddr,
        algorithms: String,
    },
    /// A Child SA carries traffic from now on.
    ChildSaEstablished {
        child: ChildId,
        ike_sa: IkeSaId,
        site: u32,
        algorithms: String,
        ts_local: Vec<TrafficSelector>,
        ts_remote: Vec<TrafficSelector>,
    },
    /// A Child SA took over from another.
    ChildSaRekeyed { old: ChildId, new: ChildId, pfs: bool },
    /// An IKE SA took over from another, with its Child SAs.
    IkeSaRekeyed { old: IkeSaId, new: IkeSaId },
    /// The peer is at another address.
    PeerMoved {
        ike_sa: IkeSaId,
        peer: String,
        from: SocketAddr,
        to: SocketAddr,
    },
    /// An IKE SA stays where it is, although we wanted to move it.
    MoveRefused {
        ike_sa: IkeSaId,
        to: SocketAddr,
        reason: &'static str,
    },
    /// A Child SA is gone and none took over.
    ChildSaClosed { child: ChildId, ike_sa: IkeSaId },
    /// The gateway of a connection sends us to another, and we go (RFC 5685).
    Redirected {
        connection: String,
        from: IpAddr,
        to: String,
    },
    /// The gateway of a connection sends us to another, and we do not go.
    RedirectRefused {
        connection: String,
        from: IpAddr,
        to: String,
        reason: &'static str,
    },
    /// A connection of ours is down; when it is tried again, if it is.
    ConnectionDown {
        connection: String,
        failures: u32,
        retry_in_ms: Option<u64>,
    },
    /// An IKE SA is gone with its Child SAs.
    Closed {
        ike_sa: IkeSaId,
        peer: String,
        reason: CloseReason,
    },
    /// The peer did not prove who it is, or may not connect.
    AuthenticationFailed {
        remote: SocketAddr,
        peer: String,
        reason: String,
    },
    /// No algorithms in common.
    ProposalRefused {
        remote: SocketAddr,
        offered: String,
        configured: String,
        /// What of the offer is refused by name, and what would have matched.
        reason: String,
    },
    /// No traffic in common.
    TrafficSelectorsRefused {
        remote: SocketAddr,
        offered: String,
        configured: String,
    },
    /// No Child SA: its networks would be more than the site may have, or than there is room for.
    NetworksRefused {
        ike_sa: IkeSaId,
        site: u32,
        /// How many the site would have, as prefixes, and how many it may have.
        networks: usize,
        max: usize,
        reason: &'static str,
    },
    /// The peer refused something of ours; what for, and its notification.
    RefusedByPeer {
        remote: SocketAddr,
        what: &'static str,
        notification: &'static str,
    },
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeletedByPeer => f.write_str("deleted by the peer"),
            Self::Requested => f.write_str("closed on request"),
            Self::PeerUnresponsive => f.write_str("the peer does not answer"),
            Self::LifetimeExpired => f.write_str("its lifetime ended without a rekey"),
            Self::ReplacedByInitialContact => f.write_str("the peer began anew (INITIAL_CONTACT)"),
            Self::PeerRefused(notification) => write!(f, "the peer answered {notification}"),
            Self::HandshakeTimeout => f.write_str("the handshake did not end in time"),
            Self::TooMany => f.write_str("the peer has too many newer IKE SAs"),
            Self::Idle => f.write_str("idle"),
            Self::Reauthenticated => f.write_str("authenticated anew on another IKE SA"),
            Self::OutOfStep => f.write_str("the peer answered TEMPORARY_FAILURE for minutes"),
            Self::ProtocolViolation => f.write_str("the peer broke the protocol"),
            Self::CertificateExpired {
                subject,
                not_after_unix_s,
            } => write!(
                f,
                "the certificate of {subject} expired on {}",
                utc(*not_after_unix_s)
            ),
            Self::CertificateRefused(reason) => {
                write!(f, "its certificate is not accepted any more: {reason}")
            }
            Self::SharedKeyChanged => f.write_str("its shared key was changed or taken away"),
            Self::PeerRestarted => {
                f.write_str("the peer has restarted and proved that it lost it (QCD token)")
            }
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IkeSaEstablished {
                ike_sa,
                peer,
                site,
                remote,
                algorithms,
            } => {
                write!(
                    f,
                    "{ike_sa} established with {peer} at {remote}, site {site}, {algorithms}"
                )
            }
            Self::ChildSaEstablished {
                child,
                ike_sa,
                site,
                algorithms,
                ts_local,
                ts_remote,
            } => {
                let (ours, theirs) = (list(ts_local), list(ts_remote));
                write!(
                    f,
                    "{child} of {ike_sa} established, site {site}, {algorithms}, {ours} === {theirs}"
                )
            }
            Self::ChildSaRekeyed { old, new, pfs } => {
                write!(
                    f,
                    "{old} rekeyed as {new} with{} a new key exchange",
                    if *pfs { "" } else { "out" }
                )
            }
            Self::IkeSaRekeyed { old, new } => write!(f, "{old} rekeyed as {new}"),
            Self::PeerMoved {
                ike_sa,
                peer,
                from,
                to,
            } => write!(f, "{ike_sa} with {peer} moved from {from} to {to}"),
            Self::MoveRefused { ike_sa, to, reason } => {
                write!(f, "{ike_sa} cannot move to a path to {to}: {reason}")
            }
            Self::ChildSaClosed { child, ike_sa } => write!(f, "{child} of {ike_sa} closed"),
            Self::Redirected { connection, from, to } => {
                write!(f, "connection \"{connection}\" is sent from {from} to {to}")
            }
            Self::RedirectRefused {
                connection,
                from,
                to,
                reason,
            } => {
                write!(
                    f,
                    "connection \"{connection}\" is not sent from {from} to {to}: {reason}"
                )
            }
            Self::ConnectionDown {
                connection,
                failures,
                retry_in_ms,
            } => {
                write!(f, "connection \"{connection}\" is down")?;
                if *failures > 0 {
                    write!(f, ", attempts failed: {failures}")?;
                }
                match retry_in_ms {
                    Some(ms) => write!(f, ", next attempt in {}.{} s", ms / 1000, ms % 1000 / 100),
                    None => Ok(()),
                }
            }
            Self::Closed { ike_sa, peer, reason } => write!(f, "{ike_sa} with {peer} closed: {reason}"),
            Self::AuthenticationFailed { remote, peer, reason } => {
                write!(f, "authentication of {peer} at {remote} failed: {reason}")
            }
            Self::ProposalRefused {
                remote,
                offered,
                configured,
                reason,
            } => {
                write!(
                    f,
                    "no proposal of {remote} is acceptable: it offers {offered}; configured are {configured}; {reason}"
                )
            }
            Self::TrafficSelectorsRefused {
                remote,
                offered,
                configured,
            } => {
                write!(
                    f,
                    "traffic selectors of {remote} refused: it asks for {offered}; allowed are {configured}"
                )
            }
            Self::NetworksRefused {
                ike_sa,
                site,
                networks,
                max,
                reason,
            } => {
                write!(
                    f,
                    "no further Child SA of {ike_sa}: site {site} would have {networks} networks, as prefixes, of {max}: {reason}"
                )
            }
            Self::RefusedByPeer {
                remote,
                what,
                notification,
            } => {
                write!(f, "{remote} refused {what}: {notification}")
            }
        }
    }
}

/// Selectors in words.
pub(crate) fn list(selectors: &[TrafficSelector]) -> String {
    selectors
        .iter()
        .map(TrafficSelector::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Why the endpoint wants to be called at a given time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimeoutReason {
    /// A request is due to be sent again.
    Retransmit,
    /// A puzzle is to be worked on (RFC 8019).
    Puzzle,
    /// A half-open handshake ends.
    HalfOpen,
    /// The peer was silent long enough to ask whether it is there.
    Liveness,
    /// A NAT keepalive is due.
    Keepalive,
    /// An SA is to be rekeyed.
    Rekey,
    /// An SA reaches the end of its life.
    Expire,
    /// What was kept for stragglers is to be forgotten.
    Linger,
    /// An SA without traffic is to be closed.
    Idle,
    /// A connection is to be brought up.
    Connect,
    /// The peer of a connection is to be authenticated anew.
    Reauthenticate,
    /// Something that was put off is to be tried again.
    Retry,
    /// Peers are to be sent to another gateway.
    Redirect,
    /// Chains of certificates are to be verified again, because trust changed.
    Verify,
}

/// One IKE SA in words, for lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IkeSaInfo {
    /// Its name.
    pub id: IkeSaId,
    /// SPIs of initiator and responder.
    pub spis: (u64, u64),
    /// We began it.
    pub initiator: bool,
    /// `half-open`, `established`, `closing`.
    pub state: &'static str,
    /// The peer's identity; empty while it is not authenticated.
    pub peer: String,
    /// Our address.
    pub local: SocketAddr,
    /// The peer's address.
    pub remote: SocketAddr,
    /// A NAT is on the way, ESP goes in UDP.
    pub nat: bool,
    /// Algorithms.
    pub algorithms: String,
    /// Site number and name.
    pub site: Option<(u32, String)>,
    /// Seconds since it was established.
    pub age_s: u64,
    /// Its Child SAs.
    pub children: Vec<ChildSaInfo>,
}

/// One Child SA in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildSaInfo {
    /// Its name.
    pub id: ChildId,
    /// SPI we receive on.
    pub spi_in: u32,
    /// SPI the peer receives on.
    pub spi_out: u32,
    /// Algorithms.
    pub algorithms: String,
    /// Extended sequence numbers.
    pub esn: bool,
    /// The resource that it is for (RFC 9611).
    pub resource: Option<ResourceId>,
    /// Our side.
    pub ts_local: Vec<TrafficSelector>,
    /// The peer's side.
    pub ts_remote: Vec<TrafficSelector>,
}

/// Everything known of an established IKE SA that [`IkeSaInfo`] does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IkeSaDetails {
    /// Who we say we are.
    pub local_identity: String,
    /// We are behind a NAT.
    pub nat_local: bool,
    /// The peer is behind a NAT.
    pub nat_remote: bool,
    /// The connection of ours that it belongs to.
    pub connection: Option<String>,
    /// What the peer proved itself with.
    pub authenticated_by: AuthKind,
    /// A post-quantum preshared key is in its keys (RFC 8784).
    pub ppk: bool,
    /// The peer's certificate, if that is what it proved itself with.
    pub certificate: Option<CertificateDetails>,
    /// Seconds since the peer was heard: by IKE or by ESP.
    pub heard_before_s: u64,
    /// Seconds until we rekey it; `None`: another took over or it ends.
    pub rekey_in_s: Option<u64>,
    /// Seconds until the peer is authenticated anew, where that is configured.
    pub reauthenticate_in_s: Option<u64>,
    /// Seconds until it is closed if nothing replaces it.
    pub expire_in_s: Option<u64>,
    /// A request of ours is not answered yet.
    pub waits_for_peer: bool,
    /// Its Child SAs, in the order of [`IkeSaInfo::children`].
    pub children: Vec<ChildSaDetails>,
}

/// Who a peer is by its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateDetails {
    /// Subject.
    pub subject: String,
    /// Issuer.
    pub issuer: String,
    /// Serial number.
    pub serial: Vec<u8>,
    /// Valid from.
    pub not_before_unix_s: i64,
    /// Valid until.
    pub not_after_unix_s: i64,
    /// Its whole chain is valid until then, and the IKE SA no longer.
    pub chain_valid_until_unix_s: i64,
    /// The authority of ours that its chain ends at.
    pub authority: String,
}

/// What [`ChildSaInfo`] does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildSaDetails {
    /// Its name.
    pub id: ChildId,
    /// We send on it.
    pub sends: bool,
    /// `live`, `replaced`, `closing`.
    pub phase: &'static str,
    /// Seconds until we rekey it.
    pub rekey_in_s: Option<u64>,
    /// Seconds until it is closed if nothing replaces it.
    pub expire_in_s: Option<u64>,
    /// Seconds since a packet passed on it.
    pub unused_for_s: u64,
}
