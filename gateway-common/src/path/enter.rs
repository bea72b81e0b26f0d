//! Packets of the center that belong to no flow and may open one: to a published port, or to a mapping that the site's
//! filtering opens (RFC 4787 section 5). Stages of their own: an answer to a site's packet never comes here.
//!
//! | what the packet is sent to | what must hold |
//! |---|---|
//! | published port or address (static mapping) | its source is the center's and in the publication's `from`, and a rule of direction center-to-site allows it |
//! | mapping of a site with endpoint-independent filtering | its source is the center's, and a rule lets the inside endpoint reach it |
//! | the same with address-dependent filtering | and the endpoint has a flow to the sender's address |
//! | any other | nothing opens a flow |
//!
//! An address-dependent site's flows have a *permission* beside them: a flow to port 0 of the same remote address, which no
//! packet uses and an unsolicited one is looked up by. The sweep keeps it as long as one of its flows lives.

use crate::abi::event::{RULE_PUBLICATION, kind as event_kind};
use crate::abi::flow::{FlowKey, halves, pair, state};
use crate::abi::interface::{Interface, Settings};
use crate::abi::nat::OutsideKey;
use crate::abi::rule::{action, direction};
use crate::abi::site::{Site, flag};
use crate::drop::DropReason;
use crate::packet::Packet;
use crate::packet::ipv4::protocol;
use crate::tables::Tables;
use crate::tables::hash::port_protocol;
use crate::tables::words::Words;

use super::back::sa_to_site;
use super::clear::{Next, tell};
use super::filter::{self, Direction, First};
use super::inner::Inner;
use super::open::{Stage, denied, hide, left, make};
use super::rules::{Judgement, Tuple};
use super::{limits, tcp};

/// What a packet without a flow is sent to.
#[derive(Clone, Copy)]
pub(super) struct Target {
    /// The flow that it would open, as the site sees it.
    pub(super) key: FlowKey,
    /// Place of the mapping.
    pub(super) mapping: u32,
    /// Number of the publication; zero for a mapping that the site made.
    pub(super) publication: u32,
}

impl Target {
    /// Nothing, to be overwritten.
    pub(super) const NONE: Self = Self {
        key: FlowKey::NONE,
        mapping: 0,
        publication: 0,
    };
}

/// The stage that judges.
///
/// # Errors
/// The reason to drop the packet.
#[inline(always)]
pub fn enter<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Result<Next, DropReason> {
    let inner = Inner::parse(packet, Direction::In)?;
    let settings = tables.settings().ok_or(DropReason::Internal)?;
    let now_s = tables.now_s();
    let outside = inner.outside();
    let Some(otherwise) = refusal(tables, &inner, &outside, settings, now_s) else {
        // Another CPU has made the flow meanwhile.
        return Ok(Next::Stage(Stage::Core));
    };
    let mut target = Target::NONE;
    if !find(tables, &inner, &outside, &mut target) {
        let interface = tables.interface().ok_or(DropReason::InterfaceUnknown)?;
        return Err(unmapped(&inner, interface, otherwise));
    }
    let has_ports = matches!(inner.ip.protocol, protocol::TCP | protocol::UDP);
    let site = tables.site(target.key.site).ok_or(DropReason::UnknownSite)?;
    let is_open = target.publication != 0 || is_let_in(tables, site, &inner, &outside, settings);
    if !has_ports || !is_open {
        return Err(otherwise);
    }
    filter::may_open(&inner)?;
    if inner.ip.ttl <= 1 {
        return Err(DropReason::InnerTtl);
    }
    let tuple = if target.publication != 0 {
        may_enter(tables, &target)?;
        Tuple::to_site(&target.key, site)
    } else {
        // The site might open the same flow. The Internet calls nobody: the port that rules ask about would be one of its choice.
        let direction = tables.direction_to(target.key.destination);
        if direction != direction::SITE_TO_CENTER {
            return Err(otherwise);
        }
        Tuple::new(&target.key, site).towards(direction)
    };
    if !tables.is_site(site, target.key.site) {
        return Ok(Next::Stage(Stage::Enter));
    }
    let judgement = tables.judge(&tuple).ok_or(DropReason::NoRuleSet)?;
    tables.count_rule(judgement.counter, inner.length());
    if judgement.action != action::ALLOW {
        return denied_to_center(tables, &target.key, &judgement);
    }
    // Nothing is remembered for a site whose router is away.
    sa_to_site(tables, target.key.site, target.key.source)?;
    limits::rate_of_calls(tables, target.key.site, settings, now_s)?;
    let scratch = tables.scratch().ok_or(DropReason::Internal)?;
    scratch.store(left::RULE, pair(judgement.rule, judgement.generation));
    scratch.store(left::FLAGS, u64::from(judgement.flags));
    let port = port_protocol(outside.port, 0);
    scratch.store(left::NAT, pair(u32::from_ne_bytes(outside.address), port));
    scratch.store(left::MAPPING, u64::from(target.mapping));
    Ok(Next::Stage(Stage::EnterAdd))
}

/// The stage that makes the flow. The packet goes on to `core`, which finds it.
///
/// # Errors
/// The reason to drop the packet.
#[inline(always)]
pub fn add<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Result<Next, DropReason> {
    let mut target = Target::NONE;
    let mut first = First::NONE;
    let length = look(packet, tables, &mut target, &mut first)?;
    let scratch = tables.scratch().ok_or(DropReason::Internal)?;
    // What was judged is what is made.
    if scratch.load(left::MAPPING) != u64::from(target.mapping) {
        return Err(DropReason::NoMapping);
    }
    if target.publication != 0 {
        first.progress.flags |= tcp::flag::PUBLISHED;
    }
    make(tables, &target.key, &first, length)?;
    Ok(Next::Stage(Stage::Core))
}

/// The packet as far as making a flow of it goes, and its length.
#[inline(never)]
fn look<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    target: &mut Target,
    first: &mut First,
) -> Result<u32, DropReason> {
    let inner = Inner::parse(packet, Direction::In)?;
    if !find(tables, &inner, &inner.outside(), target) {
        return Err(DropReason::NoMapping);
    }
    *first = filter::open(&inner, Direction::In, tables.now_s());
    hide::<P>(&mut target.key, first);
    Ok(inner.length())
}

/// Why the packet is dropped if it opens nothing; `None` if it has a flow that takes it.
#[inline(never)]
fn refusal<T: Tables>(
    tables: &T,
    inner: &Inner,
    outside: &OutsideKey,
    settings: &Settings,
    now_s: u32,
) -> Option<DropReason> {
    let found = tables
        .flows()
        .find_answer(outside, inner.ip.source, inner.ports.source());
    let Some(entry) = found else {
        return Some(DropReason::NoFlow);
    };
    let (state, last_seen_s) = filter::state_and_last_seen_s(entry.record);
    if !filter::is_alive(state, last_seen_s, settings, now_s) {
        Some(DropReason::FlowExpired)
    } else if filter::reopens(state, inner) {
        Some(DropReason::TcpState)
    } else {
        None
    }
}

/// The mapping that the packet is sent to: that of its port, or that of a whole address.
#[inline(never)]
pub(super) fn find<T: Tables>(tables: &T, inner: &Inner, outside: &OutsideKey, target: &mut Target) -> bool {
    let mappings = tables.mappings();
    let whole = OutsideKey {
        port: [0; 2],
        protocol: 0,
        ..*outside
    };
    let found = mappings
        .find_outside(outside)
        .or_else(|| mappings.find_outside(&whole));
    let Some((inside, mapping)) = found else {
        return false;
    };
    target.mapping = mapping.position;
    target.publication = mapping.publication();
    target.key = FlowKey {
        site: inside.site,
        source: inside.address,
        destination: inner.ip.source,
        // A whole address keeps its ports.
        source_port: if inside.protocol == 0 {
            outside.port
        } else {
            inside.port
        },
        destination_port: inner.ports.source(),
        protocol: outside.protocol,
        pad: [0; 3],
    };
    true
}

/// Why a packet to an address without a mapping is dropped.
#[inline(always)]
fn unmapped(inner: &Inner, interface: &Interface, otherwise: DropReason) -> DropReason {
    if !matches!(otherwise, DropReason::NoFlow) {
        otherwise
    } else if interface.ipv4 != [0; 4] && inner.ip.destination == interface.ipv4 {
        DropReason::CoreDestination
    } else {
        DropReason::NoMapping
    }
}

/// Whether the site's filtering lets a packet to one of its mappings in (RFC 4787 section 5, REQ-8).
#[inline(never)]
pub(super) fn is_let_in<T: Tables>(
    tables: &T,
    site: &Site,
    inner: &Inner,
    outside: &OutsideKey,
    settings: &Settings,
) -> bool {
    if site.flags & flag::FILTER_NOTHING != 0 {
        return true;
    }
    if site.flags & flag::FILTER_ADDRESS == 0 {
        return false;
    }
    let permission = tables.flows().find_answer(outside, inner.ip.source, [0; 2]);
    permission.is_some_and(|entry| {
        let (found, last_seen_s) = filter::state_and_last_seen_s(entry.record);
        found == state::PERMISSION && filter::is_alive(found, last_seen_s, settings, tables.now_s())
    })
}

/// Whether a publication is for the sender, who must be of the center.
#[inline(always)]
fn may_enter<T: Tables>(tables: &T, target: &Target) -> Result<(), DropReason> {
    let caller = target.key.destination;
    let is_center = tables.direction_to(caller) == direction::SITE_TO_CENTER;
    if is_center && tables.may_enter(target.publication, caller) {
        return Ok(());
    }
    let key = reversed(&target.key);
    tell(tables, event_kind::DENIED, &key, RULE_PUBLICATION, 0);
    Err(DropReason::PublicationSource)
}

/// What becomes of a call that the rules do not allow.
#[inline(always)]
fn denied_to_center<T: Tables>(tables: &T, key: &FlowKey, judgement: &Judgement) -> Result<Next, DropReason> {
    denied(tables, &reversed(key), judgement).map(|next| match next {
        Next::Stage(Stage::Answer) => Next::Stage(Stage::CenterAnswer),
        next => next,
    })
}

/// A flow as the one who calls sees it, for the log: the site is the one that is called.
#[inline(always)]
const fn reversed(key: &FlowKey) -> FlowKey {
    FlowKey {
        source: key.destination,
        destination: key.source,
        source_port: key.destination_port,
        destination_port: key.source_port,
        ..*key
    }
}

/// The stage of `clear` that notes, beside a new flow of a site with address-dependent filtering, that its remote address
/// may send to the mapping.
///
/// # Errors
/// The reason to drop the packet.
#[inline(always)]
pub fn permit<P: Packet, T: Tables>(_packet: &mut P, tables: &T) -> Result<Next, DropReason> {
    let (mut key, mut first) = (FlowKey::NONE, First::NONE);
    super::open::look(tables, &mut key, &mut first)?;
    key.destination_port = [0; 2];
    first.progress.state = state::PERMISSION;
    super::open::permit(tables, &key, &first);
    Ok(Next::Stage(Stage::Forward))
}

/// Whether what judgement left says that the flow needs a permission beside it.
#[inline(always)]
pub(super) fn needs_permission(left_flags: u64, protocol: u8) -> bool {
    let (_, site_flags) = halves(left_flags);
    site_flags & flag::FILTER_ADDRESS != 0 && matches!(protocol, protocol::TCP | protocol::UDP)
}
