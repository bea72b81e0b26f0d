//! Peers that this side connects to, and when.

use std::net::SocketAddr;

use crate::{config::SitePolicy, pki::identity::Identity, resource::ResourceId};

/// When a connection is brought up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// By [`crate::Command::Initiate`] only; when it ends it stays down.
    #[default]
    Manual,
    /// By the first packet that needs it ([`crate::Command::Acquire`]); when it ends it waits for the next.
    OnDemand,
    /// As soon as it is configured, and again whenever it ends, until [`crate::Command::Terminate`].
    Now,
}

/// One way to reach a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Remote {
    /// Our address, with the IKE port (500).
    pub local: SocketAddr,
    /// The peer's address, of the same family, with the IKE port (500).
    pub address: SocketAddr,
}

/// When SAs that carry nothing are closed. Off by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Idle {
    /// A Child SA without a packet in either direction for this long is deleted. The caller tells of packets
    /// by [`crate::Endpoint::handle_child_traffic`] and [`crate::Endpoint::handle_child_sent`].
    pub child_after_s: Option<u64>,
    /// An IKE SA without Child SAs for this long is deleted.
    pub ike_after_s: Option<u64>,
}

/// How long a connection waits after failures: the first wait, twice as long after each further failure,
/// and never longer than the longest. Each wait is shortened by up to a half, drawn, so that the sites of a
/// center that was down do not all come back at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure of all remotes.
    pub first_s: u64,
    /// At most.
    pub longest_s: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first_s: 5,
            longest_s: 300,
        }
    }
}

/// A peer that this side connects to.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Names it in commands; unique.
    pub name: String,
    /// Ways to the peer, tried in order: the next after a failure, the first again after the last.
    pub remotes: Vec<Remote>,
    /// The identity that the peer must prove, whichever way it is reached.
    pub remote_identity: Identity,
    /// What the Child SA is to carry. Several selectors go into one Child SA; a peer that takes only one pair
    /// (SINGLE_PAIR_REQUIRED) is asked for one Child SA a pair.
    pub policy: SitePolicy,
    /// When it is brought up.
    pub start: Start,
    /// When it is closed for want of traffic; means nothing with [`Start::Now`].
    pub idle: Idle,
    /// Age at which we authenticate anew (RFC 7296 section 2.8.3): a new IKE SA with its Child SAs is up
    /// before the old one is deleted.
    pub reauth_after_s: Option<u64>,
    /// How long to wait after failures.
    pub backoff: Backoff,
    /// IKE_AUTH makes no Child SA where the peer can do without (RFC 6023): the first is made by CREATE_CHILD_SA,
    /// with a key exchange of its own, at once; with [`Start::OnDemand`] when a packet wants it.
    pub childless: bool,
    /// Go where the peer redirects us to (RFC 5685). Whoever is there must prove the same identity.
    pub redirects: bool,
    /// Ask for a ticket, and resume the session with it when the peer went silent or the SA was idle (RFC 5723).
    pub resumption: bool,
    /// So many Child SAs with the same traffic selectors are set up, for the processors of the peer (RFC 9611).
    pub child_sas: u8,
}

impl Connection {
    /// The identifiers of its Child SAs, if there are to be several (RFC 9611).
    pub(crate) fn resources(&self) -> impl Iterator<Item = ResourceId> {
        let several = (0..self.child_sas).filter(|_| self.child_sas > 1);
        several.map(|number| ResourceId::new(number.to_string().as_bytes()))
    }

    /// A connection with one remote that is brought up by command.
    pub fn new(
        name: impl Into<String>,
        remote: Remote,
        remote_identity: Identity,
        policy: SitePolicy,
    ) -> Self {
        Self {
            name: name.into(),
            remotes: vec![remote],
            remote_identity,
            policy,
            start: Start::default(),
            idle: Idle::default(),
            reauth_after_s: None,
            backoff: Backoff::default(),
            childless: false,
            redirects: false,
            resumption: false,
            child_sas: 1,
        }
    }
}

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionState {
    /// Nothing is there and nothing is tried.
    Down,
    /// An IKE SA is being set up.
    Connecting,
    /// The last attempt failed; the next is due in so many milliseconds.
    Waiting {
        /// From now.
        retry_in_ms: u64,
    },
    /// An IKE SA is there.
    Up,
}

/// A connection, for lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// Its name.
    pub name: String,
    /// The identity that the peer must prove.
    pub remote_identity: String,
    /// When it is brought up.
    pub start: Start,
    /// Where it stands.
    pub state: ConnectionState,
    /// The remote in use, or to be tried next.
    pub remote: Option<Remote>,
    /// Attempts that failed since one succeeded.
    pub failures: u32,
    /// Its IKE SAs; two while it is authenticated anew.
    pub ike_sas: Vec<crate::ids::IkeSaId>,
}
