//! Records of IKE's events.
use std::net::SocketAddr;

use gateway_ike::pki::identity::Identity;
use gateway_ike::{ChildId, CloseReason, Event, IkeSaId, TrafficSelector};

use super::facts::Facts;
use super::notice::Cause;
use super::record::{Record, Severity};
use crate::core::sites::Sites;

/// The record of an event; the site of an SA comes from earlier events.
pub(super) fn record(event: &Event, facts: &Facts, sites: &Sites) -> Record {
    match event {
        Event::IkeSaEstablished {
            ike_sa,
            peer,
            site,
            remote,
            algorithms,
        } => {
            let mut record = of_sa("ike_sa_established", Severity::Info, event, Some(*site));
            record.remote = Some(*remote);
            sas(record, Some(*ike_sa), None)
                .with("peer", peer.as_str())
                .with("algorithms", algorithms.as_str())
        }
        Event::ChildSaEstablished {
            child,
            ike_sa,
            site,
            algorithms,
            ts_local,
            ts_remote,
        } => {
            let record = of_sa("child_sa_established", Severity::Info, event, Some(*site));
            sas(record, Some(*ike_sa), Some(*child))
                .with("algorithms", algorithms.as_str())
                .with("ts_local", words(ts_local))
                .with("ts_remote", words(ts_remote))
        }
        Event::ChildSaRekeyed { old, new, pfs } => {
            let record = of_sa(
                "child_sa_rekeyed",
                Severity::Info,
                event,
                facts.site_of_child(*old),
            );
            sas(record, facts.ike_of_child(*old), Some(*new))
                .with("replaces", old.to_string())
                .with("pfs", *pfs)
        }
        Event::IkeSaRekeyed { old, new } => {
            let record = of_sa("ike_sa_rekeyed", Severity::Info, event, facts.site_of_ike(*old));
            sas(record, Some(*new), None).with("replaces", old.to_string())
        }
        Event::PeerMoved {
            ike_sa,
            peer,
            from,
            to,
        } => {
            let site = facts.site_of_ike(*ike_sa);
            let mut record = of_sa("peer_moved", Severity::Info, event, site);
            record.remote = Some(*to);
            sas(record, Some(*ike_sa), None)
                .with("peer", peer.as_str())
                .with("from", from.to_string())
        }
        Event::MoveRefused { ike_sa, to, reason } => {
            let site = facts.site_of_ike(*ike_sa);
            let mut record = of_sa("move_refused", Severity::Warning, event, site);
            record.remote = Some(*to);
            sas(record, Some(*ike_sa), None).with("reason", *reason)
        }
        Event::ChildSaClosed { child, ike_sa } => {
            let record = of_sa(
                "child_sa_closed",
                Severity::Info,
                event,
                facts.site_of_child(*child),
            );
            sas(record, Some(*ike_sa), Some(*child))
        }
        Event::Closed { ike_sa, peer, reason } => {
            let site = facts.site_of_ike(*ike_sa);
            let mut record = of_sa("ike_sa_closed", severity(reason), event, site);
            // One that was never established: its peer is whom we wanted to reach.
            record.claimed_site = site.is_none().then(|| site_of(peer, sites)).flatten();
            sas(record, Some(*ike_sa), None)
                .with("peer", peer.as_str())
                .with("reason", reason_word(reason))
        }
        Event::Redirected { connection, from, to } => {
            let site = facts.site_of_connection(connection);
            of_sa("redirected", Severity::Info, event, site)
                .with("connection", connection.as_str())
                .with("from", from.to_string())
                .with("to", to.as_str())
        }
        Event::RedirectRefused {
            connection,
            from,
            to,
            reason,
        } => {
            let site = facts.site_of_connection(connection);
            of_sa("redirect_refused", Severity::Warning, event, site)
                .with("connection", connection.as_str())
                .with("from", from.to_string())
                .with("to", to.as_str())
                .with("reason", *reason)
        }
        Event::ConnectionDown {
            connection,
            failures,
            retry_in_ms,
        } => {
            let site = facts.site_of_connection(connection);
            of_sa("connection_down", Severity::Warning, event, site)
                .with("connection", connection.as_str())
                .with("failures", *failures)
                .with("retry_in_ms", *retry_in_ms)
        }
        Event::AuthenticationFailed { remote, peer, reason } => {
            let mut record = refused("authentication_failed", *remote, event.to_string())
                .with("claimed_peer", peer.as_str())
                .with("reason", reason.as_str());
            record.claimed_site = site_of(peer, sites);
            record
        }
        Event::ProposalRefused {
            remote,
            offered,
            configured,
            reason,
        } => refused("proposal_refused", *remote, event.to_string())
            .with("offered", offered.as_str())
            .with("configured", configured.as_str())
            .with("nearest", reason.as_str()),
        Event::TrafficSelectorsRefused {
            remote,
            offered,
            configured,
        } => refused("traffic_selectors_refused", *remote, event.to_string())
            .with("offered", offered.as_str())
            .with("configured", configured.as_str()),
        Event::NetworksRefused {
            ike_sa,
            site,
            networks,
            max,
            reason,
        } => {
            let record = of_sa("networks_refused", Severity::Warning, event, Some(*site));
            sas(record, Some(*ike_sa), None)
                .with("networks", *networks)
                .with("max", *max)
                .with("reason", *reason)
        }
        Event::RefusedByPeer {
            remote,
            what,
            notification,
        } => refused("refused_by_peer", *remote, event.to_string())
            .with("what", *what)
            .with("notification", *notification),
    }
}

/// Somebody was refused, and is not known by more than an address.
fn refused(name: &'static str, remote: SocketAddr, text: String) -> Record {
    let mut record = Record::new(name, Severity::Warning, Cause::Stranger, text);
    record.remote = Some(remote);
    record
}

fn words(list: &[TrafficSelector]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn of_sa(name: &'static str, severity: Severity, event: &Event, site: Option<u32>) -> Record {
    let cause = site.map_or(Cause::Stranger, Cause::Site);
    let mut record = Record::new(name, severity, cause, event.to_string());
    record.site = site;
    record
}

fn sas(mut record: Record, ike_sa: Option<IkeSaId>, child: Option<ChildId>) -> Record {
    record.ike_sa = ike_sa;
    record.child = child;
    record
}

/// The site of an identity in words, proven or not.
pub(super) fn site_of(peer: &str, sites: &Sites) -> Option<u32> {
    let identity: Identity = peer.parse().ok()?;
    sites.by_identity(&identity).map(|entry| entry.site)
}

fn severity(reason: &CloseReason) -> Severity {
    match reason {
        CloseReason::DeletedByPeer
        | CloseReason::Requested
        | CloseReason::ReplacedByInitialContact
        | CloseReason::Idle
        | CloseReason::Reauthenticated => Severity::Info,
        CloseReason::PeerUnresponsive
        | CloseReason::LifetimeExpired
        | CloseReason::PeerRefused(_)
        | CloseReason::HandshakeTimeout
        | CloseReason::TooMany
        | CloseReason::OutOfStep
        | CloseReason::ProtocolViolation
        | CloseReason::CertificateExpired { .. }
        | CloseReason::CertificateRefused(_)
        | CloseReason::SharedKeyChanged
        | CloseReason::PeerRestarted => Severity::Warning,
    }
}

fn reason_word(reason: &CloseReason) -> &'static str {
    match reason {
        CloseReason::DeletedByPeer => "deleted_by_peer",
        CloseReason::Requested => "requested",
        CloseReason::PeerUnresponsive => "peer_unresponsive",
        CloseReason::LifetimeExpired => "lifetime_expired",
        CloseReason::ReplacedByInitialContact => "replaced_by_initial_contact",
        CloseReason::PeerRefused(_) => "peer_refused",
        CloseReason::HandshakeTimeout => "handshake_timeout",
        CloseReason::TooMany => "too_many",
        CloseReason::Idle => "idle",
        CloseReason::Reauthenticated => "reauthenticated",
        CloseReason::CertificateExpired { .. } => "certificate_expired",
        CloseReason::CertificateRefused(_) => "certificate_refused",
        CloseReason::SharedKeyChanged => "shared_key_changed",
        CloseReason::PeerRestarted => "peer_restarted",
        CloseReason::OutOfStep => "out_of_step",
        CloseReason::ProtocolViolation => "protocol_violation",
    }
}
