//! From a worker: decrypted packets of sites. Known flows are translated and forwarded; a packet without one goes through
//! the stages of [`super::open`].

use crate::abi::event::{Event, kind};
use crate::abi::flow::{FlowKey, halves, pair, word};
use crate::abi::interface::{Settings, role};
use crate::abi::next_hop::NextHop;
use crate::abi::rule::direction;
use crate::abi::sa::{LinkHeader, fragment as fragment_mark};
use crate::abi::stats::Path;
use crate::drop::DropReason;
use crate::packet::Packet;
use crate::packet::ethernet::{Ethernet, ether_type};
use crate::packet::tcp::flag;
use crate::tables::words::Words;
use crate::tables::{Epochs, Tables};

use super::answer::{Refusal, refuse};
use super::filter::{self, Direction};
use super::inner::Inner;
use super::open::{self, Stage};
use super::{Outcome, Verdict, answer, core, enter, error, fragment, hairpin, limits, mss, worker};

/// Rounds that a packet makes at most: two through all stages, should its flow vanish meanwhile.
const ROUNDS_MAX: u32 = 20;

/// Where a packet goes on: it is decided, or another stage decides. A stage is a program of its own in BPF, with a stack
/// of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is decided.
    Decided(Verdict),
    /// This stage is next.
    Stage(Stage),
}

/// Forwards a frame of the clear link to the core side, translated: all stages, one after another.
///
/// # Errors
/// The reason to drop it.
pub fn clear_through<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Outcome {
    through(packet, tables, Stage::Forward)
}

/// Runs stages from this one on.
pub(super) fn through<P: Packet, T: Tables>(packet: &mut P, tables: &T, first: Stage) -> Outcome {
    stages(packet, tables, first, |_, _, _| {})
}

/// The same; `after` is told what became of the packet at the end of each stage.
///
/// # Errors
/// The reason to drop it.
pub fn stages<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    first: Stage,
    mut after: impl FnMut(&P, Stage, Result<Next, DropReason>),
) -> Outcome {
    let mut stage = first;
    for _ in 0..ROUNDS_MAX {
        let next = match stage {
            Stage::Forward => clear(packet, tables),
            Stage::Judge => open::judge(packet, tables),
            Stage::Map => open::map(packet, tables),
            Stage::Add => open::add(packet, tables),
            Stage::Permit => enter::permit(packet, tables),
            Stage::Enter => enter::enter(packet, tables),
            Stage::EnterAdd => enter::add(packet, tables),
            Stage::Core => core::core(packet, tables),
            Stage::HairpinJudge => hairpin::judge(packet, tables),
            Stage::Hairpin => hairpin::forward(packet, tables),
            Stage::HairpinEnter => hairpin::enter(packet, tables),
            Stage::HairpinAdd => hairpin::add(packet, tables),
            Stage::Answer => answer::answer(packet, tables).map(Next::Decided),
            Stage::CenterAnswer => answer::answer_center(packet, tables).map(Next::Decided),
            Stage::SiteError => error::from_site(packet, tables),
            Stage::SiteFragment => fragment::from_site(packet, tables),
            Stage::CenterFragment => fragment::from_center(packet, tables),
            Stage::CenterError => error::from_center(packet, tables),
            Stage::HairpinError => error::between_sites(packet, tables),
        };
        after(packet, stage, next);
        match next? {
            Next::Decided(verdict) => return Ok(verdict),
            Next::Stage(next) => stage = next,
        }
    }
    Err(DropReason::Internal)
}

/// The first stage: forwards what belongs to a flow.
///
/// # Errors
/// The reason to drop it.
#[inline(always)]
pub fn clear<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Result<Next, DropReason> {
    let site = site_of(packet)?;
    let mut inner = Inner::NONE;
    match inner.read(packet, Direction::Out) {
        Ok(()) if inner.ip.ttl <= 1 => return Err(DropReason::InnerTtl),
        Ok(()) => {}
        // No query: perhaps an error.
        Err(DropReason::IcmpType) => return Ok(Next::Stage(Stage::SiteError)),
        Err(DropReason::InnerFragment) => return Ok(Next::Stage(Stage::SiteFragment)),
        Err(reason) => return Err(reason),
    }
    pass(packet, tables, site, &inner)
}

/// Forwards a packet that is parsed, or the first fragment of one, if it belongs to a flow.
#[inline(always)]
pub(super) fn pass<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    site: u32,
    inner: &Inner,
) -> Result<Next, DropReason> {
    let settings = tables.settings().ok_or(DropReason::Internal)?;
    let (now_s, epochs) = tables.clock();
    let Some(record) = tables.flows().find_record(&inner.key_words(site)) else {
        return Ok(Next::Stage(Stage::Judge));
    };
    if !goes_on(record, inner, settings, now_s) {
        return Ok(Next::Stage(Stage::Judge));
    }
    let hop = match remembered_next_hop(tables, record, epochs) {
        Some(hop) => hop,
        None => match look_up_next_hop(tables, &inner.flow_from_site(site), record)? {
            SITES => return Ok(Next::Stage(Stage::Hairpin)),
            number => tables.next_hop(number).ok_or(DropReason::NextHopUnresolved)?,
        },
    };
    if inner.length() > hop.mtu {
        return too_big(packet, tables, inner.ip.dont_fragment(), hop.mtu);
    }
    forward(packet, tables, site, inner, record, hop, now_s).map(Next::Decided)
}

/// Whether a packet is one more of a flow, and opens none.
#[inline(always)]
pub fn goes_on<V: Words>(record: V, inner: &Inner, settings: &Settings, now_s: u32) -> bool {
    let (state, last_seen_s) = filter::state_and_last_seen_s(record);
    filter::is_alive(state, last_seen_s, settings, now_s) && !filter::reopens(state, inner)
}

/// Moves a flow on by its packet, which is translated and addressed to the flow's next hop. Before this nothing of the
/// packet is changed.
///
/// # Errors
/// The reason to drop it.
#[inline(always)]
pub fn forward<P: Packet, T: Tables, V: Words>(
    packet: &mut P,
    tables: &T,
    site: u32,
    inner: &Inner,
    record: V,
    hop: &NextHop,
    now_s: u32,
) -> Outcome {
    if filter::follow::<_, true>(record, inner, now_s)? {
        limits::give_half_open(tables, site);
    }
    let (address, nat) = halves(record.load(word::NAT));
    let [p0, p1, _, _] = nat.to_ne_bytes();
    inner.translate(packet, Direction::Out, address.to_ne_bytes(), [p0, p1])?;
    if inner.segment.flags & flag::SYN != 0 {
        mss::clamp_from_site(packet, tables, site, inner.ip.source)?;
    }
    leave(packet, hop)
}

/// A packet that the way to the center does not carry: its site is told (RFC 1191), or a worker cuts it (RFC 4787 REQ-13). The
/// fragments come back, to be judged and translated as a site's own are.
#[inline(never)]
fn too_big<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    dont_fragment: bool,
    mtu: u32,
) -> Result<Next, DropReason> {
    if dont_fragment {
        return refuse(tables, Refusal::NextHopTooBig { mtu });
    }
    let link: LinkHeader = packet.load(0).ok_or(DropReason::Internal)?;
    // A fragment that has to be cut again would need its ports and the MTU beside each other.
    let (site, _) = link.read().ok_or(DropReason::NextHopTooBig)?;
    let interface = tables.interface().ok_or(DropReason::InterfaceUnknown)?;
    let verdict = worker(tables, interface, Path::ClearTooBig)?;
    let link = LinkHeader::of_fragment(fragment_mark::SITE_TOO_BIG, site, mtu.to_be_bytes());
    packet.store(0, &link).ok_or(DropReason::Internal)?;
    Ok(Next::Decided(verdict))
}

/// The site of a frame of the clear link.
///
/// # Errors
/// The reason to drop it.
#[inline(always)]
pub fn site_of<P: Packet>(packet: &P) -> Result<u32, DropReason> {
    let [front, back] = packet.load_words(0).ok_or(DropReason::TruncatedLink)?;
    let ether_type = packet.load(12).ok_or(DropReason::TruncatedLink)?;
    LinkHeader::site_of([front, back], ether_type).ok_or(DropReason::LinkHeaderInvalid)
}

/// The packet in it.
///
/// # Errors
/// The reason to drop it.
#[inline(always)]
pub fn parse<P: Packet>(packet: &P) -> Result<Inner, DropReason> {
    let inner = Inner::parse(packet, Direction::Out)?;
    if inner.ip.ttl <= 1 {
        return Err(DropReason::InnerTtl);
    }
    Ok(inner)
}

/// The packet in it, or the first fragment of one.
#[inline(always)]
pub(super) fn parse_any<P: Packet>(packet: &P) -> Result<Inner, DropReason> {
    let mut inner = Inner::NONE;
    read_any(packet, &mut inner)?;
    Ok(inner)
}

/// The same, to where it stays.
#[inline(always)]
pub(super) fn read_any<P: Packet>(packet: &P, inner: &mut Inner) -> Result<(), DropReason> {
    inner.read_any(packet, Direction::Out)?;
    if inner.ip.ttl <= 1 {
        return Err(DropReason::InnerTtl);
    }
    Ok(())
}

/// The next hop with this number, if the packet fits the way there.
///
/// # Errors
/// The reason to drop it.
#[inline(always)]
pub(super) fn fitting<T: Tables>(tables: &T, hop: u32, length: u32) -> Result<&NextHop, DropReason> {
    let hop = tables.next_hop(hop).ok_or(DropReason::NextHopUnresolved)?;
    if length > hop.mtu {
        return Err(DropReason::NextHopTooBig);
    }
    Ok(hop)
}

/// The packet in it, or the first fragment of one, where both queries and replies go: from site to site.
#[inline(always)]
pub(super) fn parse_between<P: Packet>(packet: &P) -> Result<Inner, DropReason> {
    let inner = Inner::parse_between(packet)?;
    if inner.ip.ttl <= 1 {
        return Err(DropReason::InnerTtl);
    }
    Ok(inner)
}

/// Writes the Ethernet header of the next hop.
///
/// # Errors
/// [`DropReason::Internal`] if the frame is shorter than that.
#[inline(always)]
pub fn leave<P: Packet>(packet: &mut P, hop: &NextHop) -> Outcome {
    let ethernet = Ethernet {
        destination: hop.destination_mac,
        source: hop.source_mac,
        ether_type: ether_type::IPV4,
    };
    packet.store(0, &ethernet).ok_or(DropReason::Internal)?;
    Ok(Verdict::Egress {
        ifindex: hop.ifindex,
        path: Path::ClearForwarded,
    })
}

/// Number of the next hop that the flow has used before, as long as routes are what they were.
///
/// # Errors
/// The reason to drop the packet.
#[inline(always)]
pub fn known_next_hop<V: Words, T: Tables>(tables: &T, key: &FlowKey, record: V) -> Result<u32, DropReason> {
    if remembered_next_hop(tables, record, tables.epochs()).is_some() {
        return Ok(halves(record.load(word::HOP)).0);
    }
    look_up_next_hop(tables, key, record)
}

/// The same by the routes.
#[inline(always)]
fn look_up_next_hop<V: Words, T: Tables>(tables: &T, key: &FlowKey, record: V) -> Result<u32, DropReason> {
    let epoch = tables.epochs().hop;
    let number = next_hop(tables, key)?;
    record.store(word::HOP, pair(number, epoch));
    Ok(number)
}

/// The next hop itself, if it need not be looked up.
#[inline(always)]
pub(super) fn remembered_next_hop<V: Words, T: Tables>(
    tables: &T,
    record: V,
    epochs: Epochs,
) -> Option<&NextHop> {
    let (number, looked_up) = halves(record.load(word::HOP));
    if looked_up != epochs.hop {
        return None;
    }
    tables.next_hop(number).filter(|hop| hop.resolved != 0)
}

/// In place of the number of a next hop: the destination is what a site is translated to.
pub(super) const SITES: u32 = u32::MAX;

/// Number of a resolved next hop, or [`SITES`]; the controller hears of its absence.
#[inline(never)]
pub(super) fn next_hop<T: Tables>(tables: &T, key: &FlowKey) -> Result<u32, DropReason> {
    let direction = tables.direction_to(key.destination);
    if direction == direction::SITE_TO_SITE {
        return Ok(SITES);
    }
    if let Some(number) = tables.route(key.destination)
        && let Some(hop) = tables.next_hop(number)
        && hop.resolved != 0
    {
        return is_on_its_side(tables, direction, hop.ifindex)
            .then_some(number)
            .ok_or(DropReason::WrongSide);
    }
    tell(tables, kind::NEXT_HOP_MISSING, key, 0, 0);
    Err(DropReason::NextHopUnresolved)
}

/// Whether the interface leads to where the destination belongs: the center's addresses never leave to the Internet, however
/// routes change, and what is not the center's never comes to it.
#[inline(always)]
fn is_on_its_side<T: Tables>(tables: &T, direction: u8, ifindex: u32) -> bool {
    (direction == direction::SITE_TO_INTERNET) == (tables.role(ifindex) == role::INTERNET)
}

/// Sends an event about a flow, if its site has not had its share of such.
#[inline(never)]
pub(super) fn tell<T: Tables>(tables: &T, kind: u32, key: &FlowKey, rule: u32, generation: u32) {
    if !limits::event(tables, key.site, kind) {
        return;
    }
    tables.event(&Event {
        kind,
        site: key.site,
        rule,
        generation,
        source: key.source,
        destination: key.destination,
        source_port: key.source_port,
        destination_port: key.destination_port,
        protocol: key.protocol,
        pad: [0; 3],
    });
}
