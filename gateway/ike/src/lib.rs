//! IKEv2 (RFC 7296), sans-IO: no socket, no clock, no thread.
//!
//! Datagrams, time and commands go into an [`endpoint::Endpoint`] by `handle_*`; datagrams, Child SA
//! installations and events come out by `poll_output`, and the next deadline by `poll_timeout`. The
//! caller drains `poll_output`, applying each output before it asks for the next, after every `handle_*`:
//! an installation stands before the message that tells the peer of it.
//!
//! ```text
//! wire/      octets: one payload a file            exchange/  one exchange a file
//! crypto/    primitives                            endpoint   many IKE SAs, timers, commands
//! pki/       certificates and identities           ike_sa     one IKE SA and its awaited message
//! channel    sealing, fragments, message window    child_sa, keys, proposal, traffic_selector, nat, cookie
//! ```
//!
//! **Invariant:** nothing that is not authenticated changes an established IKE SA.
#![forbid(unsafe_code)]

pub mod child_sa;
pub mod config;
pub mod connection;
pub mod counters;
pub mod crypto;
pub mod endpoint;
pub mod half_open;
pub mod ids;
pub mod output;
pub mod pki;
pub mod ppk;
pub mod proposal;
pub mod redirect;
pub mod resource;
pub mod retransmit;
pub mod shared_key;
pub mod traffic_selector;
pub mod wire;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;

mod allowance;
mod channel;
mod context;
mod cookie;
mod crash;
mod exchange;
mod ike_sa;
mod keepalive;
mod keys;
mod mobike;
mod nat;
mod networks;
mod pmtu;
mod proof;
mod puzzle;
mod ticket;

pub use child_sa::{ChildSaInstall, KeyMaterial};
pub use config::{AuthenticatedPeer, Authorizer, EndpointConfig, Proof, SitePolicy, Time};
pub use connection::{Backoff, Connection, ConnectionInfo, ConnectionState, Idle, Remote, Start};
pub use crash::CrashSecret;
pub use endpoint::{Command, Draining, Endpoint};
pub use half_open::{Defence, HalfOpenUse};
pub use ids::{ChildId, IkeSaId};
pub use networks::{Prefix, prefixes};
pub use output::{
    CertificateDetails, ChildSaDetails, ChildSaInfo, CloseReason, Direction, Event, IkeSaDetails, IkeSaInfo,
    Output, TimeoutReason,
};
pub use ppk::{Ppk, PpkError, Ppks};
pub use proposal::{EspProposal, EspSuite, IkeProposal};
pub use redirect::OtherGateway;
pub use resource::ResourceId;
pub use shared_key::{AuthKind, PeerSharedKey, SharedKey, SharedKeys};
pub use traffic_selector::TrafficSelector;
