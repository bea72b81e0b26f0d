//! The first stage of [`super::clear`] where a worker runs it, over the same tables, and sends the packet out itself.
//!
//! **Architecture invariant:** a packet is decided here, or it is unchanged and `clear` decides: nothing is written, to the
//! packet or to its flow, before it is sure that this is the way. What opens flows, asks for routes, rules or SAs, or makes
//! another packet of one is for the program alone.

use crate::drop::DropReason;
use crate::packet::Packet;
use crate::packet::tcp::flag;
use crate::tables::Tables;

use super::Verdict;
use super::clear::{forward, goes_on, parse, remembered_next_hop, site_of};
use super::inner::Inner;

/// A packet of the clear link, as far as the worker looks at it.
#[derive(Clone, Copy)]
pub struct Parsed {
    /// Its site.
    pub site: u32,
    /// The packet.
    pub inner: Inner,
}

/// Reads a frame of the clear link; `None` if it is one for the program: an ICMP error, a fragment, or what opens a TCP
/// connection (whose MSS the outbound SA bounds).
///
/// # Errors
/// The reason to drop it, as `clear` has it.
#[inline(always)]
pub fn read<P: Packet>(packet: &P) -> Result<Option<Parsed>, DropReason> {
    let site = site_of(packet)?;
    let inner = match parse(packet) {
        Ok(inner) => inner,
        Err(DropReason::IcmpType | DropReason::InnerFragment) => return Ok(None),
        Err(reason) => return Err(reason),
    };
    let is_syn = inner.segment.flags & flag::SYN != 0;
    Ok((!is_syn).then_some(Parsed { site, inner }))
}

/// Forwards a packet of a flow whose next hop is known, to an interface that [`Tables::next_hop`] knows; `None`, and all is
/// as it was, if the program is to decide.
///
/// # Errors
/// The reason to drop it, as `clear` has it.
#[inline(always)]
pub fn pass<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed,
) -> Result<Option<Verdict>, DropReason> {
    let Parsed { site, inner } = parsed;
    let settings = tables.settings().ok_or(DropReason::Internal)?;
    let (now_s, epochs) = tables.clock();
    let Some(record) = tables.flows().find_record(&inner.key_words(*site)) else {
        return Ok(None);
    };
    if !goes_on(record, inner, settings, now_s) {
        return Ok(None);
    }
    let hop = remembered_next_hop(tables, record, epochs);
    let Some(hop) = hop.filter(|hop| inner.length() <= hop.mtu) else {
        return Ok(None);
    };
    forward(packet, tables, *site, inner, record, hop, now_s).map(Some)
}
