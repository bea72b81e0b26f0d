//! From a site: an ESP frame of the outer interface becomes a clear-link frame, in place.

use std::net::IpAddr;

use gateway_common::abi::sa::LinkHeader;
use gateway_common::drop::DropReason;
use gateway_esp::engine::{Done, Refused};
use gateway_esp::tunnel::{LINK_HEADER_LEN, Received, ReceivedError};
use gateway_esp::{InnerIpv4, OpenError, Opened};
use zerocopy::IntoBytes as _;

use super::commands::WorkerReport;
use super::fragments::is_fragment;
use super::outer::OuterFragment;
use super::prepared::{Opening, Prepared};
use super::table::{Entry, owner};
use super::{Engine, Outcome};
use crate::dataplane::clear_link;

/// Octets of the longest packet that the clear link carries.
const CARRIED_MAX: usize = clear_link::MTU as usize;
/// Octets of the fragments that a longer one is cut into: what any link carries.
const CUT_MTU: u32 = 1280;

impl Engine {
    /// Finds the SA of the frame in the first `len` octets of `buffer`, and whether the packet is worth opening.
    pub(super) fn admit(&mut self, buffer: &[u8], len: usize) -> Result<Prepared, DropReason> {
        let frame = buffer.get(..len).ok_or(DropReason::TruncatedLink)?;
        let received = match Received::parse(frame) {
            Ok(received) => received,
            Err(ReceivedError::Fragment | ReceivedError::NotEsp) if OuterFragment::parse(frame).is_some() => {
                return self.outer_fragment(frame).map(|outcome| self.done(outcome));
            }
            Err(error) => return Err(not_esp(error)),
        };
        let index = self.table.route(received.spi).ok_or(DropReason::UnknownSpi)?;
        let (worker, slot) = owner(index);
        if worker != self.worker {
            return Ok(self.done(Outcome::HandOver(worker)));
        }
        let entry = self.table.entry(slot).ok_or(DropReason::EspIndexStale)?;
        let sa = entry.inbound.as_ref().ok_or(DropReason::EspIndexStale)?;
        let as_agreed = received.udp.is_some() == entry.is_encapsulated();
        // `wan` has seen to it for all but what fragments have made.
        if !as_agreed && entry.is_encapsulated() {
            return Err(DropReason::SaEncapsulation);
        }
        let esp = buffer.get(received.esp.clone()).ok_or(DropReason::TruncatedEsp)?;
        match sa.admit(esp) {
            Ok(admitted) => Ok(Prepared::Open(Opening {
                admitted,
                index,
                start: received.esp.start as u32,
                end: received.esp.end as u32,
                tos: received.tos,
                // Without a NAT a peer that sends in UDP for once has not moved.
                is_elsewhere: as_agreed && entry.peer != outer_source(&received),
            })),
            Err(error) => {
                let reason = refusal(error);
                entry.count_refusal(reason);
                Err(reason)
            }
        }
    }

    /// Leaves link header and inner packet at the buffer's start, if its cryptography says that the packet is authentic.
    pub(super) fn opened(
        &mut self,
        buffer: &mut [u8],
        opening: Opening,
        done: Result<Done, Refused>,
    ) -> Result<Outcome, DropReason> {
        let (index, esp) = (opening.index, opening.esp());
        // Before the packet is moved to the buffer's start.
        let elsewhere = if opening.is_elsewhere {
            Received::parse(buffer).ok()
        } else {
            None
        };
        let (_, slot) = owner(index);
        let now_s = self.now_s;
        let entry = self.table.entry(slot).ok_or(DropReason::EspIndexStale)?;
        let site = entry.site;
        let highest = entry.highest_sequence();
        let opened = finish(entry, buffer, opening, done);
        let authentic = match &opened {
            Ok(_) => true,
            Err(reason) => was_authentic(*reason),
        };
        if authentic {
            entry.publish_inbound(now_s);
            let newest = entry.highest_sequence() > highest;
            if let Some(received) = elsewhere
                && let Some(report) = moved(entry, &received, newest, now_s)
                && self.reports.push(report).is_ok()
            {
                (entry.peer, entry.moved_s) = (outer_source(&received), Some(now_s));
            }
            if !entry.heard {
                entry.heard = self
                    .reports
                    .push(WorkerReport::FirstInbound(entry.handle))
                    .is_ok();
            }
        }
        let inner = opened?;
        let start = esp.start + inner.start;
        let end = esp.start + inner.end;
        let packet = buffer.get(start..end).ok_or(DropReason::EspInnerMalformed)?;
        if is_fragment(packet) {
            return self.site_fragment(site, packet);
        }
        if packet.len() > CARRIED_MAX {
            return self.cut_long(site, packet);
        }
        buffer.copy_within(start..end, LINK_HEADER_LEN);
        buffer
            .get_mut(..LINK_HEADER_LEN)
            .ok_or(DropReason::EspInnerMalformed)?
            .copy_from_slice(LinkHeader::new(site, index).as_bytes());
        Ok(Outcome::Opened {
            len: LINK_HEADER_LEN + inner.len(),
        })
    }
}

impl Engine {
    /// A packet that only came because its ESP packet came in fragments. The rules see it in fragments that every link of
    /// the center carries; one that must not be cut goes no further, as it would not have come without the outer ones.
    fn cut_long(&mut self, site: u32, packet: &[u8]) -> Result<Outcome, DropReason> {
        let header = InnerIpv4::parse(packet).ok_or(DropReason::EspInnerMalformed)?;
        if header.dont_fragment {
            return Err(DropReason::NextHopTooBig);
        }
        self.cut_for_center(site, packet, CUT_MTU)
    }
}

fn finish(
    entry: &mut Entry,
    buffer: &mut [u8],
    opening: Opening,
    done: Result<Done, Refused>,
) -> Result<core::ops::Range<usize>, DropReason> {
    let sa = entry.inbound.as_mut().ok_or(DropReason::EspIndexStale)?;
    let esp = buffer.get_mut(opening.esp()).ok_or(DropReason::TruncatedEsp)?;
    let reason = match sa.finish(opening.admitted, done, esp, opening.tos) {
        Ok(Opened::Packet { inner, .. }) => return Ok(inner),
        Ok(Opened::Dummy) => return Err(DropReason::EspDummy),
        Err(error) => refusal(error),
    };
    entry.count_refusal(reason);
    Err(reason)
}

/// What the controller is to hear if an authentic packet came from elsewhere. Only the newest packet tells where the
/// peer is: one that was held back on the way would move it back. At most once a second, whatever the peer does.
fn moved(entry: &Entry, received: &Received, newest: bool, now_s: u64) -> Option<WorkerReport> {
    let (source, port) = outer_source(received);
    let due = newest && entry.peer != (source, port) && entry.moved_s != Some(now_s);
    due.then_some(WorkerReport::PeerMoved {
        handle: entry.handle,
        source,
        port,
    })
}

fn outer_source(received: &Received) -> (IpAddr, u16) {
    (received.source, received.udp.map_or(0, |udp| udp.remote_port))
}

/// Whether the ICV was right although the packet goes no further.
fn was_authentic(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::EspDummy
            | DropReason::EspPadding
            | DropReason::EspNextHeader
            | DropReason::EspInnerMalformed
            | DropReason::EspSelector
            | DropReason::EspEcn
    )
}

fn not_esp(error: ReceivedError) -> DropReason {
    match error {
        ReceivedError::EtherType => DropReason::UnknownEtherType,
        ReceivedError::Malformed => DropReason::MalformedIp,
        ReceivedError::Fragment => DropReason::OuterFragment,
        ReceivedError::NotEsp | ReceivedError::Ike => DropReason::OuterProtocol,
        ReceivedError::Keepalive => DropReason::NatKeepalive,
    }
}

fn refusal(error: OpenError) -> DropReason {
    match error {
        OpenError::TooShort => DropReason::TruncatedEsp,
        OpenError::Misaligned => DropReason::EspMalformed,
        OpenError::SpiMismatch => DropReason::EspIndexStale,
        OpenError::OutsideWindow | OpenError::Replayed => DropReason::EspReplay,
        OpenError::AuthenticationFailed => DropReason::EspAuthentication,
        OpenError::BadPadding => DropReason::EspPadding,
        OpenError::NextHeader => DropReason::EspNextHeader,
        OpenError::InnerMalformed => DropReason::EspInnerMalformed,
        OpenError::SelectorMismatch => DropReason::EspSelector,
        OpenError::EcnNotCapable => DropReason::EspEcn,
    }
}
