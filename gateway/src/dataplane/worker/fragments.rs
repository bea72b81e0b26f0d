//! What a worker does with fragments: of outer packets, of sites' packets, of the center's packets, of the Internet's.
//! Each packet's wait at one worker until all are there.
//!
//! An outer packet is put together: ESP is opened then, IKE goes to the daemon. Of a clear packet the fragments go on as
//! they came, in order and each with the ports in its link header (`gateway_common::path::fragment`), so that what the
//! rules decided on is all that passes.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use gateway_common::abi::sa::{LinkHeader, fragment as mark};
use gateway_common::drop::DropReason;
use gateway_common::packet::icmp::Query;
use gateway_common::packet::ike;
use gateway_common::packet::ipv4::protocol;
use zerocopy::IntoBytes as _;

use super::fragment::{fragment, set_identification};
use super::handover::Side;
use super::outer::{self, Assembled, OuterFragment};
use super::reassembly::{Bounds, Key, Piece, Reassembly};
use super::{Engine, Outcome};
use crate::dataplane::ike_spis::IkeSpis;

/// Octets behind the IP header of the longest IPv4 packet.
const IPV4_PAYLOAD_MAX: usize = 65_515;
/// Outer packets that wait at one worker.
pub(crate) const OUTER: Bounds = Bounds {
    per_source: 64,
    octets_per_source: 256 << 10,
    packets: 1024,
    octets: 4 << 20,
    length: IPV4_PAYLOAD_MAX,
};
/// Clear packets of sites, of the center, and of the Internet, that wait at one worker; a site is one source.
pub(crate) const CLEAR: Bounds = Bounds {
    per_source: 256,
    octets_per_source: 1 << 20,
    packets: 2048,
    octets: 8 << 20,
    length: IPV4_PAYLOAD_MAX,
};
/// IKE messages in IP fragments that a source may send in a second: an IPv4 address, or an IPv6 /64.
const IKE_PER_SOURCE_PER_S: u32 = 20;
/// And all sources together. As many again may come on IKE SAs that stand.
const IKE_PER_S: u32 = 1000;
/// Octets of the header up to the flags.
const IKE_HEAD: usize = 4 * ike::WORDS;

/// Scope of what is no site's.
const NO_SITE: u32 = 0;
/// An IPv4 header without options.
const IPV4_HEADER: usize = 20;

/// An IKE datagram that came in fragments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IkeDatagram {
    /// Our address and port.
    pub local: SocketAddr,
    /// Who sent it.
    pub remote: SocketAddr,
    /// UDP payload.
    pub payload: Vec<u8>,
}

/// Takes IKE datagrams; must not wait.
pub(crate) type IkeSink = Box<dyn Fn(IkeDatagram) + Send + Sync>;

/// Fragments that wait at a worker.
pub(crate) struct Fragments {
    workers: u32,
    outer: Reassembly,
    sites: Reassembly,
    center: Reassembly,
    /// Apart from the center's, whose room nobody in the Internet takes.
    internet: Reassembly,
    /// Sites' packets that were given an identification, as far as it tells theirs.
    identified: u32,
    ike: Arc<OnceLock<IkeSink>>,
    /// Our SPIs of IKE SAs, if any can be known.
    ike_spis: Option<Arc<IkeSpis>>,
    ike_second: u64,
    /// Messages of this second by source.
    ike_of_sources: Counted<(u32, IpAddr)>,
    /// Those that were too many of their source, by our SPI of the IKE SA that they are on.
    ike_of_sas: Counted<u64>,
}

/// IKE messages of a second: all, and those of each sender.
struct Counted<K> {
    all: u32,
    senders: HashMap<K, u32>,
}

impl<K> Default for Counted<K> {
    fn default() -> Self {
        Self {
            all: 0,
            senders: HashMap::new(),
        }
    }
}

impl<K: Eq + Hash> Counted<K> {
    /// Counts another one of a sender, if he may send it.
    fn count(&mut self, sender: K) -> bool {
        if self.all >= IKE_PER_S {
            return false;
        }
        let of_sender = self.senders.entry(sender).or_default();
        if *of_sender >= IKE_PER_SOURCE_PER_S {
            return false;
        }
        *of_sender += 1;
        self.all += 1;
        true
    }
}

impl Fragments {
    pub(crate) fn new(workers: u32, ike: Arc<OnceLock<IkeSink>>) -> Self {
        Self::bounded(workers, ike, OUTER, CLEAR)
    }

    /// With other bounds: of outer packets, and of clear ones each way.
    pub(crate) fn bounded(workers: u32, ike: Arc<OnceLock<IkeSink>>, outer: Bounds, clear: Bounds) -> Self {
        Self {
            workers,
            outer: Reassembly::new(outer),
            sites: Reassembly::new(clear),
            center: Reassembly::new(clear),
            internet: Reassembly::new(clear),
            identified: 0,
            ike,
            ike_spis: None,
            ike_second: 0,
            ike_of_sources: Counted::default(),
            ike_of_sas: Counted::default(),
        }
    }

    /// With our SPIs of IKE SAs.
    pub(crate) fn knowing(self, ike_spis: Arc<IkeSpis>) -> Self {
        Self {
            ike_spis: Some(ike_spis),
            ..self
        }
    }

    /// Packets and octets that wait: outer ones, of sites, of the center, of the Internet.
    pub(crate) fn held(&self) -> [(usize, usize); 4] {
        let Self {
            outer,
            sites,
            center,
            internet,
            ..
        } = self;
        [outer.held(), sites.held(), center.held(), internet.held()]
    }

    /// Identification of the next packet of a site. Hosts behind one address must not use the same (RFC 6864 section 5.3),
    /// and sites behind it may be at other workers: each worker has numbers of its own.
    fn next_identification(&mut self, worker: u32) -> u16 {
        const IDENTIFICATIONS: u32 = 1 << 16;
        let workers = self.workers.clamp(1, IDENTIFICATIONS);
        self.identified = (self.identified + 1) % (IDENTIFICATIONS / workers);
        (self.identified * workers + worker % workers) as u16
    }

    /// Whether the source of a packet may send another IKE message in fragments in this second; if it has had all that it may,
    /// whether it is on an IKE SA that may have another, as `wan` has it of whole packets. `message` begins with the header.
    fn may_send_ike(&mut self, key: &Key, message: &[u8], now_s: u64) -> bool {
        if self.ike_second != now_s {
            self.ike_second = now_s;
            self.ike_of_sources = Counted::default();
            self.ike_of_sas = Counted::default();
        }
        if self.ike_of_sources.count(key.owner()) {
            return true;
        }
        let spi = self
            .ike_spis
            .as_ref()
            .and_then(|standing| receiver_spi(message).filter(|spi| standing.has(*spi)));
        spi.is_some_and(|spi| self.ike_of_sas.count(spi))
    }
}

impl Engine {
    /// Drops what has waited too long; calls `dropped` with everything that was dropped since the last call.
    pub(crate) fn tend_fragments(&mut self, mut dropped: impl FnMut(DropReason, u64)) {
        for waiting in [
            &mut self.fragments.outer,
            &mut self.fragments.sites,
            &mut self.fragments.center,
            &mut self.fragments.internet,
        ] {
            if waiting.is_idle() {
                continue;
            }
            waiting.expire(self.now_s);
            for (reason, count) in waiting.take_lost().by_reason() {
                if count > 0 {
                    dropped(reason, count);
                }
            }
        }
    }

    /// Another worker, if the packet's fragments wait there.
    fn elsewhere(&self, key: &Key) -> Option<Outcome> {
        // Fragments of one packet may come by different queues, which hash what they see of it.
        let place = key.spread() % self.fragments.workers.max(1);
        (place != self.worker).then_some(Outcome::HandOver(place))
    }

    /// A fragment of an outer packet: ESP or UDP.
    pub(crate) fn outer_fragment(&mut self, frame: &[u8]) -> Result<Outcome, DropReason> {
        let OuterFragment { key, piece } = OuterFragment::parse(frame).ok_or(DropReason::OuterFragment)?;
        if let Some(elsewhere) = self.elsewhere(&key) {
            return Ok(elsewhere);
        }
        let header_min = |_: &[u8]| outer::header_min(key.protocol);
        let added = self.fragments.outer.add(key, piece, header_min, self.now_s)?;
        let Some(pieces) = added else {
            return Ok(Outcome::Wait);
        };
        let (local, remote) = (key.destination, key.source);
        match outer::assemble(&key, &pieces)? {
            Assembled::Esp(frame) => Ok(Outcome::Again {
                side: Side::Wan,
                frame,
            }),
            Assembled::Ike {
                ports,
                payload,
                header,
            } => {
                let message = payload.get(header..).unwrap_or_default();
                if !self.fragments.may_send_ike(&key, message, self.now_s) {
                    return Err(DropReason::IkeRateLimit);
                }
                if let Some(ike) = self.fragments.ike.get() {
                    ike(IkeDatagram {
                        local: SocketAddr::new(local, ports.1),
                        remote: SocketAddr::new(remote, ports.0),
                        payload,
                    });
                }
                Ok(Outcome::Wait)
            }
        }
    }

    /// A fragment that a site sent, opened and inside its selectors.
    pub(crate) fn site_fragment(&mut self, site: u32, packet: &[u8]) -> Result<Outcome, DropReason> {
        let (key, piece) = clear_fragment(site, packet).ok_or(DropReason::InnerMalformed)?;
        let header_min = |payload: &[u8]| header_min(key.protocol, payload);
        let added = self.fragments.sites.add(key, piece, header_min, self.now_s)?;
        let Some(mut pieces) = added else {
            return Ok(Outcome::Wait);
        };
        self.identify(&mut pieces);
        self.send_in_order(&key, &pieces, [mark::SITE_FIRST, mark::SITE_LATER])
    }

    /// A packet of a site that the way to the center does not carry and that may be fragmented, as `clear` handed it on:
    /// it goes back into the clear link in fragments of at most `mtu` octets.
    pub(crate) fn cut_for_center(
        &mut self,
        site: u32,
        packet: &[u8],
        mtu: u32,
    ) -> Result<Outcome, DropReason> {
        let cut = usize::try_from(mtu).ok().and_then(|mtu| fragment(packet, mtu));
        let cut = cut.ok_or(DropReason::NextHopTooBig)?;
        let pieces: Option<Vec<_>> = cut.iter().map(|piece| clear_fragment(site, piece)).collect();
        let pieces = pieces.ok_or(DropReason::InnerMalformed)?;
        let (key, start) = pieces.first().ok_or(DropReason::InnerMalformed)?;
        // What the rules look at stays in the first one.
        if start.payload.len() < header_min(key.protocol, &start.payload) {
            return Err(DropReason::NextHopTooBig);
        }
        let key = *key;
        let mut pieces: Vec<_> = pieces.into_iter().map(|(_, piece)| piece).collect();
        self.identify(&mut pieces);
        self.send_in_order(&key, &pieces, [mark::SITE_FIRST, mark::SITE_LATER])
    }

    /// Gives the fragments of a site's packet an identification that no other packet of its address has.
    fn identify(&mut self, pieces: &mut [Piece]) {
        let identification = self.fragments.next_identification(self.worker);
        for piece in pieces {
            set_identification(&mut piece.header, identification);
        }
    }

    /// A fragment from the center's side, as `core` handed it on: from the center, or from the Internet.
    pub(crate) fn center_fragment(
        &mut self,
        packet: &[u8],
        is_internet: bool,
    ) -> Result<Outcome, DropReason> {
        let (key, piece) = clear_fragment(NO_SITE, packet).ok_or(DropReason::InnerMalformed)?;
        if let Some(elsewhere) = self.elsewhere(&key) {
            return Ok(elsewhere);
        }
        let header_min = |payload: &[u8]| header_min(key.protocol, payload);
        let waiting = if is_internet {
            &mut self.fragments.internet
        } else {
            &mut self.fragments.center
        };
        let added = waiting.add(key, piece, header_min, self.now_s)?;
        let Some(pieces) = added else {
            return Ok(Outcome::Wait);
        };
        self.send_in_order(&key, &pieces, [mark::CENTER_FIRST, mark::CENTER_LATER])
    }

    /// Sends all fragments of a packet into the clear link, the first one first.
    fn send_in_order(
        &self,
        key: &Key,
        pieces: &[Piece],
        [first, later]: [[u8; 2]; 2],
    ) -> Result<Outcome, DropReason> {
        let (Some(start), Some(end)) = (pieces.first(), pieces.last()) else {
            return Err(DropReason::FragmentMalformed);
        };
        let length = (end.offset + end.payload.len()) as u32;
        let ports = ports(key.protocol, &start.payload, first == mark::SITE_FIRST);
        let frame = |piece: &Piece| {
            let link = if piece.offset == 0 {
                LinkHeader::of_fragment(first, key.scope, length.to_be_bytes())
            } else {
                LinkHeader::of_fragment(later, key.scope, ports)
            };
            [link.as_bytes(), &piece.header, &piece.payload].concat()
        };
        Ok(Outcome::SendMany {
            port: self.clear_port,
            frames: pieces.iter().map(frame).collect(),
        })
    }
}

/// The SPI of ours that an IKE message is for.
fn receiver_spi(message: &[u8]) -> Option<u64> {
    let head: &[u8; IKE_HEAD] = message.first_chunk()?;
    let (words, _) = head.as_chunks();
    let words: [[u8; 4]; ike::WORDS] = words.try_into().ok()?;
    ike::receiver_spi(words.map(u32::from_ne_bytes))
}

/// Whether an IPv4 packet is a fragment.
pub(crate) fn is_fragment(packet: &[u8]) -> bool {
    const MORE_AND_OFFSET: u16 = 0x3fff;
    matches!(packet, [_, _, _, _, _, _, high, low, ..] if u16::from_be_bytes([*high, *low]) & MORE_AND_OFFSET != 0)
}

/// A fragment of an IPv4 packet. One with options is none of ours: the packet core refuses them.
fn clear_fragment(scope: u32, packet: &[u8]) -> Option<(Key, Piece)> {
    let (header, rest) = packet.split_at_checked(IPV4_HEADER)?;
    let &[
        version,
        _,
        l0,
        l1,
        i0,
        i1,
        f0,
        f1,
        _,
        protocol,
        _,
        _,
        s0,
        s1,
        s2,
        s3,
        d0,
        d1,
        d2,
        d3,
    ] = header
    else {
        return None;
    };
    let length = usize::from(u16::from_be_bytes([l0, l1])).checked_sub(IPV4_HEADER)?;
    let place = u16::from_be_bytes([f0, f1]);
    if version != 0x45 {
        return None;
    }
    let key = Key {
        scope,
        source: IpAddr::from([s0, s1, s2, s3]),
        destination: IpAddr::from([d0, d1, d2, d3]),
        identification: u16::from_be_bytes([i0, i1]).into(),
        protocol,
    };
    let piece = Piece {
        offset: usize::from(place & 0x1fff) * 8,
        more: place & 0x2000 != 0,
        header: header.to_vec(),
        payload: rest.get(..length)?.to_vec(),
    };
    Some((key, piece))
}

/// What the first fragment must hold: the transport header whole, so that nothing that is judged can come later
/// (RFC 1858 section 3, RFC 3128).
fn header_min(protocol: u8, payload: &[u8]) -> usize {
    const TCP_LEAST: usize = 20;
    match protocol {
        protocol::TCP => payload
            .get(12)
            .map_or(TCP_LEAST, |offset| usize::from(offset >> 4) * 4)
            .max(TCP_LEAST),
        // UDP, ICMP, and what has no header that is looked at.
        _ => 8,
    }
}

/// Source and destination port as [`mark::SITE_LATER`] has them: of a query the identifier at the site's end, and at the
/// other what stands for its type.
fn ports(protocol: u8, payload: &[u8], of_site: bool) -> [u8; 4] {
    match (protocol, payload) {
        (protocol::TCP | protocol::UDP, &[s0, s1, d0, d1, ..]) => [s0, s1, d0, d1],
        (protocol::ICMP, &[kind, code, _, _, i0, i1, ..]) => {
            let [p0, p1] = Query::of(kind, code).map_or([0; 2], |query| query.port);
            if of_site {
                [i0, i1, p0, p1]
            } else {
                [p0, p1, i0, i1]
            }
        }
        _ => [0; 4],
    }
}
