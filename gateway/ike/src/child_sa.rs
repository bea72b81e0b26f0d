//! Child SAs: the pair of ESP SAs that one negotiation makes.

use std::net::SocketAddr;

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{
    context::Context,
    ids::{ChildId, IkeSaId},
    ike_sa::{Core, Established},
    keys::{KeyError, Secret, derive_child},
    output::{Event, Output},
    proposal::{EspChoice, EspSuite},
    resource::ResourceId,
    traffic_selector::{TrafficSelector, narrow},
};

/// Keys of one direction of an ESP SA; wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct KeyMaterial {
    /// Encryption key, followed by the 4 octets of salt for the AEAD algorithms.
    pub encryption: Vec<u8>,
    /// Integrity key; empty for the AEAD algorithms.
    pub integrity: Vec<u8>,
}

impl std::fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyMaterial(secret)")
    }
}

/// What the data plane needs to run a Child SA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildSaInstall {
    /// Names the pair from now on.
    pub child: ChildId,
    /// The IKE SA it was negotiated on; a rekeying of that IKE SA hands the Child SA on.
    pub ike_sa: IkeSaId,
    /// From [`crate::config::SitePolicy`].
    pub site: u32,
    /// SPI that we receive on.
    pub spi_in: u32,
    /// SPI that the peer receives on.
    pub spi_out: u32,
    /// Algorithms.
    pub suite: EspSuite,
    /// Keys of what we receive.
    pub keys_in: KeyMaterial,
    /// Keys of what we send.
    pub keys_out: KeyMaterial,
    /// 64-bit extended sequence numbers.
    pub esn: bool,
    /// ESP goes in UDP between the ports of `local` and `remote`, because a NAT was seen.
    pub udp_encap: bool,
    /// Our outer address; the port matters only with `udp_encap`.
    pub local: SocketAddr,
    /// The peer's outer address; the port matters only with `udp_encap`.
    pub remote: SocketAddr,
    /// Inner addresses on our side.
    pub ts_local: Vec<TrafficSelector>,
    /// Inner addresses on the peer's side.
    pub ts_remote: Vec<TrafficSelector>,
    /// Send on this SA at once. When false, go on sending on `replaces` until
    /// [`crate::output::Output::ActivateOutbound`].
    pub outbound_active: bool,
    /// The Child SA that this one rekeys.
    pub replaces: Option<ChildId>,
    /// Those that have the same traffic, each for a resource (RFC 9611): they go on being sent on when this one is.
    pub beside: Vec<ChildId>,
}

/// What IKE itself remembers of a Child SA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChildSa {
    pub(crate) id: ChildId,
    pub(crate) spi_in: u32,
    pub(crate) spi_out: u32,
    pub(crate) suite: EspSuite,
    pub(crate) esn: bool,
    pub(crate) ts_local: Vec<TrafficSelector>,
    pub(crate) ts_remote: Vec<TrafficSelector>,
    /// When we start to rekey.
    pub(crate) rekey_at_ms: u64,
    /// When it must be gone, rekeyed or not.
    pub(crate) expire_at_ms: u64,
    pub(crate) outbound_active: bool,
    /// The outbound SA was removed before the inbound one.
    pub(crate) outbound_gone: bool,
    /// When a packet last passed on it, or on the one before.
    pub(crate) last_used_ms: u64,
    /// The Child SA this one took over from and which is still there.
    pub(crate) replaces: Option<ChildId>,
    /// Which resource of the peer, or of ours, it is for (RFC 9611).
    pub(crate) resource: Option<ResourceId>,
    pub(crate) phase: Phase,
}

impl ChildSa {
    /// Some traffic between these selectors goes on it.
    pub(crate) fn overlaps(&self, ts_local: &[TrafficSelector], ts_remote: &[TrafficSelector]) -> bool {
        !narrow(&self.ts_local, ts_local).is_empty() && !narrow(&self.ts_remote, ts_remote).is_empty()
    }
}

/// Where a Child SA is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Carries traffic.
    Live,
    /// Another took over; whoever rekeyed it will delete it.
    Replaced,
    /// Our DELETE is under way or waits for its turn.
    Deleting,
}

/// A negotiation that came to an agreement.
pub(crate) struct NewChild<'a> {
    pub(crate) choice: EspChoice,
    pub(crate) spi_in: u32,
    /// Of the key exchange, with perfect forward secrecy.
    pub(crate) shared: Option<Secret>,
    /// Of the additional key exchanges (RFC 9370).
    pub(crate) additional: Vec<Secret>,
    /// Of initiator and responder of the exchange.
    pub(crate) nonces: (&'a [u8], &'a [u8]),
    /// We are the initiator of the exchange.
    pub(crate) initiated: bool,
    pub(crate) ts_local: Vec<TrafficSelector>,
    pub(crate) ts_remote: Vec<TrafficSelector>,
    pub(crate) outbound_active: bool,
    pub(crate) replaces: Option<ChildId>,
    pub(crate) resource: Option<ResourceId>,
}

/// Derives the keys, has the data plane install the pair, and remembers it.
pub(crate) fn install(
    ctx: &mut Context<'_>,
    core: &Core,
    established: &mut Established,
    new: NewChild<'_>,
) -> Result<ChildId, KeyError> {
    let shared = new.shared.as_ref().map(|secret| secret.as_slice());
    let suite = new.choice.suite;
    let (initiator, responder) = derive_child(
        established.prf,
        &established.sk_d,
        (shared, &new.additional),
        new.nonces,
        suite,
    )?;
    let (keys_out, keys_in) = if new.initiated {
        (initiator, responder)
    } else {
        (responder, initiator)
    };
    let child = ctx.allocator.child();
    let selectors = (&new.ts_local[..], &new.ts_remote[..]);
    let beside = match new.resource {
        Some(_) => established.sending_for_resources(selectors, new.replaces),
        None => Vec::new(),
    };
    ctx.networks.hold(child, established.policy.site, &new.ts_remote);
    let path = established.child_path(core);
    ctx.outputs
        .push_back(Output::InstallChildSa(Box::new(ChildSaInstall {
            child,
            ike_sa: core.id,
            site: established.policy.site,
            spi_in: new.spi_in,
            spi_out: new.choice.peer_spi,
            suite,
            keys_in,
            keys_out,
            esn: new.choice.esn,
            udp_encap: core.nat.any(),
            local: path.local,
            remote: path.remote,
            ts_local: new.ts_local.clone(),
            ts_remote: new.ts_remote.clone(),
            outbound_active: new.outbound_active,
            replaces: new.replaces,
            beside,
        })));
    let before = established
        .children
        .iter()
        .find(|one| Some(one.id) == new.replaces);
    let last_used_ms = before.map_or(ctx.now.mono_ms, |before| before.last_used_ms);
    let rekeys = before.is_some();
    ctx.event(match new.replaces.filter(|_| rekeys) {
        Some(old) => Event::ChildSaRekeyed {
            old,
            new: child,
            pfs: shared.is_some(),
        },
        None => Event::ChildSaEstablished {
            child,
            ike_sa: core.id,
            site: established.policy.site,
            algorithms: suite.to_string(),
            ts_local: new.ts_local.clone(),
            ts_remote: new.ts_remote.clone(),
        },
    });
    let lifetime_s = ctx.config.child_lifetime_s;
    let expire_ms = lifetime_s.saturating_mul(1100);
    established.children.push(ChildSa {
        id: child,
        spi_in: new.spi_in,
        spi_out: new.choice.peer_spi,
        suite,
        esn: new.choice.esn,
        ts_local: new.ts_local,
        ts_remote: new.ts_remote,
        rekey_at_ms: ctx.jittered_deadline(lifetime_s),
        expire_at_ms: ctx.now.mono_ms.saturating_add(expire_ms),
        outbound_active: new.outbound_active,
        outbound_gone: false,
        last_used_ms,
        // What is on another IKE SA goes by itself.
        replaces: new.replaces.filter(|_| rekeys),
        resource: new.resource,
        phase: Phase::Live,
    });
    Ok(child)
}
