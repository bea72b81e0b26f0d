//! To a site: a frame with a link header of the `core` program becomes an ESP frame of the outer interface, in place.

use core::ops::Range;

use gateway_common::abi::sa::{LinkHeader, fragment};
use gateway_common::drop::DropReason;
use gateway_esp::engine::{Done, Refused};
use gateway_esp::tunnel::LINK_HEADER_LEN;
use gateway_esp::{InnerIpv4, SealError, TAILROOM_MAX};
use zerocopy::FromBytes as _;

use super::commands::{Reports, WorkerReport};
use super::fragment::fragment as cut;
use super::prepared::Prepared;
use super::table::{Entry, Outbound, owner};
use super::{Engine, Outcome};

/// Sequence numbers that are left when the controller is told to rekey.
const SEQUENCE_NEAR: u64 = 1 << 24;

impl Engine {
    /// Finds the SA for the frame in the first `len` octets of `buffer` and puts the packet into its place, ready for encryption.
    #[inline(always)]
    pub(super) fn ready(&mut self, buffer: &mut [u8], len: usize) -> Result<Prepared, DropReason> {
        let frame = buffer.get(..len).ok_or(DropReason::WorkerFrameMalformed)?;
        let (link, packet) =
            LinkHeader::read_from_prefix(frame).map_err(|_| DropReason::WorkerFrameMalformed)?;
        let Some((site, index)) = link.read() else {
            let outcome = match link.read_fragment() {
                Some((fragment::CENTER_WAITS, _, side)) => {
                    self.center_fragment(packet, side == fragment::OF_INTERNET)
                }
                Some((fragment::SITE_TOO_BIG, site, mtu)) => {
                    self.cut_for_center(site, packet, u32::from_be_bytes(mtu))
                }
                Some(_) | None => Err(DropReason::WorkerFrameMalformed),
            };
            return outcome.map(|outcome| self.done(outcome));
        };
        let (worker, slot) = owner(index);
        if worker != self.worker {
            return Ok(self.done(Outcome::HandOver(worker)));
        }
        let now_s = self.now_s;
        let entry = self.table.entry(slot).ok_or(DropReason::EspIndexStale)?;
        // The slot may have been given to another site while the frame was on its way.
        if entry.site != site {
            return Err(DropReason::EspIndexStale);
        }
        let outbound = entry.outbound.as_mut().ok_or(DropReason::EspIndexStale)?;
        let outcome = match place(outbound, buffer, len) {
            Ok(Place::Whole(prepared)) => return Ok(Prepared::Seal { slot, prepared }),
            Ok(Place::Pieces(outcome)) => Ok(outcome),
            Err(reason) => Err(reason),
        };
        sealed(entry, &outcome, now_s, &self.reports);
        outcome.map(|outcome| self.done(outcome))
    }

    /// Leaves the whole outer frame at the buffer's start, if its cryptography was done.
    #[inline(always)]
    pub(super) fn finish_seal(
        &mut self,
        buffer: &mut [u8],
        (slot, prepared): (u32, gateway_esp::Prepared),
        done: Result<Done, Refused>,
    ) -> Result<Outcome, DropReason> {
        let now_s = self.now_s;
        let entry = self.table.entry(slot).ok_or(DropReason::EspIndexStale)?;
        let outbound = entry.outbound.as_mut().ok_or(DropReason::EspIndexStale)?;
        let outcome = match outbound.sa.finish(prepared, done, buffer) {
            Ok(sealed) => Ok(Outcome::Send {
                port: outbound.port,
                len: to_front(buffer, sealed),
            }),
            Err(error) => Err(refusal(error)),
        };
        sealed(entry, &outcome, now_s, &self.reports);
        outcome
    }
}

/// Counts what was sealed; tells the controller when sequence numbers run out.
fn sealed(entry: &mut Entry, outcome: &Result<Outcome, DropReason>, now_s: u64, reports: &Reports) {
    match outcome {
        Ok(_) => entry.publish_outbound(now_s),
        Err(reason) => entry.count_refusal(*reason),
    }
    tell_sequence_near(entry, reports);
}

/// A packet before its encryption.
enum Place {
    Whole(gateway_esp::Prepared),
    /// It did not fit, and has left in pieces.
    Pieces(Outcome),
}

#[inline(always)]
fn place(outbound: &mut Outbound, buffer: &mut [u8], len: usize) -> Result<Place, DropReason> {
    let start = outbound.headroom;
    let inner = start..start + (len - LINK_HEADER_LEN);
    if inner.end + TAILROOM_MAX > buffer.len() {
        return Err(DropReason::EspTooBig);
    }
    buffer.copy_within(LINK_HEADER_LEN..len, start);
    match outbound.sa.prepare(buffer, inner.clone()) {
        Ok(prepared) => Ok(Place::Whole(prepared)),
        Err(SealError::TooBig { inner_mtu }) => {
            seal_fragments(outbound, buffer, inner, inner_mtu.into()).map(Place::Pieces)
        }
        Err(error) => Err(refusal(error)),
    }
}

/// The frame begins at 0 when `headroom` is what the SA needs; a shorter one is moved there.
fn to_front(buffer: &mut [u8], sealed: Range<usize>) -> usize {
    let len = sealed.len();
    if sealed.start != 0 {
        buffer.copy_within(sealed, 0);
    }
    len
}

/// The packet does not fit the tunnel. `core` has answered those that may not be fragmented; the others go in pieces.
fn seal_fragments(
    outbound: &mut Outbound,
    buffer: &[u8],
    inner: Range<usize>,
    inner_mtu: usize,
) -> Result<Outcome, DropReason> {
    let packet = buffer.get(inner).ok_or(DropReason::EspInnerMalformed)?;
    let header = InnerIpv4::parse(packet).ok_or(DropReason::EspInnerMalformed)?;
    if header.dont_fragment {
        return Err(DropReason::EspTooBig);
    }
    let pieces = cut(packet, inner_mtu).ok_or(DropReason::EspInnerMalformed)?;
    let mut frames = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let inner = outbound.headroom..outbound.headroom + piece.len();
        let mut frame = vec![0; inner.end + TAILROOM_MAX];
        frame
            .get_mut(inner.clone())
            .ok_or(DropReason::EspTooBig)?
            .copy_from_slice(&piece);
        let sealed = outbound.sa.seal(&mut frame, inner).map_err(refusal)?;
        let len = to_front(&mut frame, sealed);
        frame.truncate(len);
        frames.push(frame);
    }
    Ok(Outcome::SendMany {
        port: outbound.port,
        frames,
    })
}

fn tell_sequence_near(entry: &mut Entry, reports: &Reports) {
    let Some(outbound) = &mut entry.outbound else {
        return;
    };
    if !outbound.near_reported && outbound.sa.sequence_remaining() < SEQUENCE_NEAR {
        outbound.near_reported = reports.push(WorkerReport::SequenceNear(entry.handle)).is_ok();
    }
}

fn refusal(error: SealError) -> DropReason {
    match error {
        SealError::InnerMalformed => DropReason::EspInnerMalformed,
        SealError::SelectorMismatch => DropReason::EspOutboundSelector,
        SealError::TooBig { .. } | SealError::NoTailroom | SealError::NoHeadroom => DropReason::EspTooBig,
        SealError::SequenceExhausted => DropReason::EspSequenceExhausted,
        SealError::Engine => DropReason::EspMalformed,
    }
}
