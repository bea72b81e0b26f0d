//! The way back to a site: whatever program has a packet for one puts a link header in front of it and hands it to the
//! worker of the queue that it came by, which seals it or passes it on to the SA's owner.
//!
//! The clear link's XDP end has AF_XDP sockets of the workers for this, as a core interface has: a frame that a worker
//! sent into the link by queue n is received by queue n, so that it comes back to the same worker without another hop.

use crate::abi::event::kind;
use crate::abi::flow::FlowKey;
use crate::abi::interface::Interface;
use crate::abi::sa::{LinkHeader, SaOutbound, SaOutboundKey};
use crate::abi::stats::Path;
use crate::drop::DropReason;
use crate::packet::Packet;
use crate::tables::Tables;

use super::clear::tell;
use super::{Outcome, worker};

/// The outbound SA of a site to one of its addresses; the controller hears of its absence.
///
/// # Errors
/// [`DropReason::NoSa`].
#[inline(always)]
pub fn sa_to_site<T: Tables>(tables: &T, site: u32, address: [u8; 4]) -> Result<&SaOutbound, DropReason> {
    let key = SaOutboundKey {
        site: site.to_be_bytes(),
        destination: address,
    };
    if let Some(number) = tables.sa_route(&key)
        && let Some(sa) = tables.sa_outbound(number)
    {
        return Ok(sa);
    }
    let flow = FlowKey {
        site,
        source: address,
        ..FlowKey::NONE
    };
    tell(tables, kind::NO_SA, &flow, 0, 0);
    Err(DropReason::NoSa)
}

/// Index of the SA that a packet to the site goes on: where several share the traffic, that of this queue's worker
/// (RFC 9611).
#[inline(always)]
pub fn share<T: Tables>(tables: &T, sa: &SaOutbound) -> u32 {
    if sa.shares != 0
        && let Some(shares) = tables.sa_shares(sa.shares - 1)
    {
        return shares.of_queue(tables.queue());
    }
    sa.sa_index
}

/// Hands a frame, whose packet is what the site is to receive, to the worker of this queue.
///
/// # Errors
/// [`DropReason::NoWorker`] if no worker serves the queue; the frame is not changed then.
#[inline(always)]
pub fn to_site<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    site: u32,
    sa: &SaOutbound,
    path: Path,
) -> Outcome {
    let interface: &Interface = tables.interface().ok_or(DropReason::InterfaceUnknown)?;
    let verdict = worker(tables, interface, path)?;
    packet
        .store(0, &LinkHeader::new(site, share(tables, sa)))
        .ok_or(DropReason::Internal)?;
    Ok(verdict)
}
