//! What makes a flow: stages for a packet that belongs to none, each a program of its own in BPF. The stage of judgement parses
//! the packet and leaves for those behind it what they need of it; none of them changes the packet.

use crate::abi::event::{RULE_DEFAULT, kind};
use crate::abi::flow::{self, FlowKey, Progress, halves, pair, word};
use crate::abi::interface::Settings;
use crate::abi::rule::{action, direction, flag};
use crate::abi::site::Site;
use crate::abi::stats::Path;
use crate::drop::DropReason;
use crate::packet::Packet;
use crate::tables::flows::Entry;
use crate::tables::hash::{port_protocol, ports};
use crate::tables::words::Words;
use crate::tables::{Refused, Tables};

use super::answer::{Refusal, no_room, refuse};
use super::clear::{Next, read_any, site_of, tell};
use super::filter::{self, Direction, First};
use super::inner::Inner;
use super::rules::{Judgement, Tuple};
use super::{enter, limits, nat, tcp};

/// A stage behind [`super::clear::clear`] or [`super::core::core`]; its number is its place in the program array.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// [`judge`].
    Judge = 0,
    /// [`map`].
    Map = 1,
    /// [`add`].
    Add = 2,
    /// [`super::clear::clear`].
    Forward = 3,
    /// [`super::answer::answer`].
    Answer = 4,
    /// [`super::enter::permit`].
    Permit = 5,
    /// [`super::enter::enter`].
    Enter = 6,
    /// [`super::enter::add`].
    EnterAdd = 7,
    /// [`super::core::core`].
    Core = 8,
    /// [`super::hairpin::judge`].
    HairpinJudge = 9,
    /// [`super::hairpin::forward`].
    Hairpin = 10,
    /// [`super::hairpin::enter`].
    HairpinEnter = 11,
    /// [`super::hairpin::add`].
    HairpinAdd = 12,
    /// [`super::answer::answer_center`].
    CenterAnswer = 13,
    /// [`super::error::from_site`].
    SiteError = 14,
    /// [`super::error::from_center`].
    CenterError = 15,
    /// [`super::fragment::from_site`].
    SiteFragment = 16,
    /// [`super::fragment::from_center`].
    CenterFragment = 17,
    /// [`super::error::between_sites`].
    HairpinError = 18,
}

/// Number of [`Stage`]s.
pub const STAGES: u32 = 19;
/// Words of what a stage leaves for the next one.
pub const SCRATCH_WORDS: usize = 10;

/// Words of what stages leave for later ones; `low | high << 32`.
pub(super) mod left {
    /// Rule; generation.
    pub(in crate::path) const RULE: usize = 0;
    /// Flags of the rule; flags of the site ([`crate::abi::site::flag`]).
    pub(in crate::path) const FLAGS: usize = 1;
    /// Translated address; translated port.
    pub(in crate::path) const NAT: usize = 2;
    /// Place of the mapping.
    pub(in crate::path) const MAPPING: usize = 3;
    /// Number of a [`Refusal`](crate::path::answer::Refusal); its argument.
    pub(in crate::path) const REFUSAL: usize = 4;
    /// As the word of a flow's record.
    pub(in crate::path) const SITE_SOURCE: usize = 5;
    /// As the word of a flow's record.
    pub(in crate::path) const DESTINATION_PORTS: usize = 6;
    /// [`Progress`](crate::abi::flow::Progress) to begin with; protocol, length of the packet.
    pub(in crate::path) const PROGRESS: usize = 7;
    /// First words of what [`First`](crate::path::filter::First) says of a TCP segment.
    pub(in crate::path) const SEGMENT: usize = 8;
}

/// A packet that may open a flow.
#[derive(Clone, Copy)]
pub(super) struct Opening<'a> {
    pub(super) key: &'a FlowKey,
    pub(super) site: &'a Site,
    pub(super) settings: &'a Settings,
    pub(super) now_s: u32,
}

/// What the stage of judgement has found.
#[derive(Clone, Copy)]
struct Admitted {
    nat_address: [u8; 4],
    nat_port: [u8; 2],
    mapping: u32,
    flags: u32,
    rule: u32,
    generation: u32,
}

impl Admitted {
    #[inline(always)]
    fn load<V: Words>(scratch: V) -> Self {
        let (nat_address, nat) = halves(scratch.load(left::NAT));
        let (rule, generation) = halves(scratch.load(left::RULE));
        let [p0, p1, _, _] = nat.to_ne_bytes();
        Self {
            nat_address: nat_address.to_ne_bytes(),
            nat_port: [p0, p1],
            mapping: scratch.load(left::MAPPING) as u32,
            flags: scratch.load(left::FLAGS) as u32,
            rule,
            generation,
        }
    }
}

/// Rule and generation that the stage of judgement has found for the packet.
#[inline(always)]
pub(super) fn judged<T: Tables>(tables: &T) -> Option<(u32, u32)> {
    Some(halves(tables.scratch()?.load(left::RULE)))
}

/// Address and port that the stage of mapping has found for the packet.
#[inline(always)]
pub(super) fn mapped<T: Tables>(tables: &T) -> Option<([u8; 4], [u8; 2])> {
    let (address, port) = halves(tables.scratch()?.load(left::NAT));
    let [p0, p1, _, _] = port.to_ne_bytes();
    Some((address.to_ne_bytes(), [p0, p1]))
}

/// The second stage: judges a new flow by protocol, rules and rate.
///
/// # Errors
/// The reason to drop the packet.
#[inline(always)]
pub fn judge<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Result<Next, DropReason> {
    let site = site_of(packet)?;
    let mut inner = Inner::NONE;
    read_any(packet, &mut inner)?;
    let key = inner.flow_from_site(site);
    let direction = tables.direction_to(key.destination);
    if direction == direction::SITE_TO_SITE {
        return Ok(Next::Stage(Stage::HairpinJudge));
    }
    let site = tables.site(site).ok_or(DropReason::UnknownSite)?;
    filter::may_open(&inner)?;
    let (tuple, site_flags) = (Tuple::new(&key, site).towards(direction), site.flags);
    if !tables.is_site(site, key.site) {
        return Ok(Next::Stage(Stage::Judge));
    }
    let judgement = tables.judge(&tuple).ok_or(DropReason::NoRuleSet)?;
    tables.count_rule(judgement.counter, inner.length());
    let scratch = tables.scratch().ok_or(DropReason::Internal)?;
    scratch.store(left::RULE, pair(judgement.rule, judgement.generation));
    if judgement.action != action::ALLOW {
        return denied(tables, &key, &judgement);
    }
    let settings = tables.settings().ok_or(DropReason::Internal)?;
    if let Err(reason) = limits::rate(tables, key.site, settings, tables.now_s()) {
        return no_room(tables, reason);
    }
    scratch.store(left::FLAGS, pair(u32::from(judgement.flags), site_flags));
    leave_packet(scratch, &key, &inner);
    Ok(Next::Stage(Stage::Map))
}

/// Leaves what the stages that make a flow need of its packet. Apart from its caller, whose stack is needed below it.
#[inline(never)]
pub(super) fn leave_packet<V: Words>(scratch: V, key: &FlowKey, inner: &Inner) {
    let first = filter::open(inner, Direction::Out, 0);
    let (site_source, destination_ports) = flow::key_words(key);
    scratch.store(left::SITE_SOURCE, site_source);
    scratch.store(left::DESTINATION_PORTS, destination_ports);
    let about = u32::from(key.protocol) | inner.length() << 16;
    scratch.store(left::PROGRESS, pair(first.progress.bits(), about));
    first.leave(scratch, left::SEGMENT);
}

/// The third stage: maps the flow's source.
///
/// # Errors
/// The reason to drop the packet.
#[inline(always)]
pub fn map<P: Packet, T: Tables>(_packet: &mut P, tables: &T) -> Result<Next, DropReason> {
    let (mut key, mut first) = (FlowKey::NONE, First::NONE);
    look(tables, &mut key, &mut first)?;
    let opening = Opening {
        key: &key,
        site: tables.site(key.site).ok_or(DropReason::UnknownSite)?,
        settings: tables.settings().ok_or(DropReason::Internal)?,
        now_s: first.now_s,
    };
    let mut mapping = nat::UNMAPPED;
    match nat::map(tables, &opening, &mut mapping) {
        Ok(true) => {}
        Ok(false) => return Ok(Next::Stage(Stage::Map)),
        Err(_) if !tables.is_site(opening.site, key.site) => return Ok(Next::Stage(Stage::Map)),
        Err(reason) => return no_room(tables, reason),
    }
    let scratch = tables.scratch().ok_or(DropReason::Internal)?;
    let nat = port_protocol(mapping.port, 0);
    scratch.store(left::NAT, pair(u32::from_ne_bytes(mapping.address), nat));
    scratch.store(left::MAPPING, u64::from(mapping.position));
    Ok(Next::Stage(Stage::Add))
}

/// The fourth stage: puts the flow into the table, or begins a dead one anew. The packet goes back to the first stage, which
/// finds the flow and forwards it as the flow's first packet.
///
/// # Errors
/// The reason to drop the packet.
#[inline(always)]
pub fn add<P: Packet, T: Tables>(_packet: &mut P, tables: &T) -> Result<Next, DropReason> {
    let (mut key, mut first) = (FlowKey::NONE, First::NONE);
    let length = look(tables, &mut key, &mut first)?;
    if needs_permission(tables, &key) {
        first.progress.flags |= tcp::flag::HAS_PERMISSION;
        first.hide::<P>();
    }
    if let Err(reason) = make(tables, &key, &first, length) {
        return no_room(tables, reason);
    }
    // Asked again: the verifier would follow what comes in between for both answers.
    Ok(Next::Stage(if needs_permission(tables, &key) {
        Stage::Permit
    } else {
        Stage::Forward
    }))
}

/// Whether the flow needs a permission beside it, by what the stage of judgement has left.
#[inline(always)]
fn needs_permission<T: Tables>(tables: &T, key: &FlowKey) -> bool {
    let left_flags = tables.scratch().map_or(0, |scratch| scratch.load(left::FLAGS));
    enter::needs_permission(left_flags, key.protocol)
}

/// Puts a flow into the table, or begins a dead one anew.
#[inline(always)]
pub(super) fn make<T: Tables>(
    tables: &T,
    key: &FlowKey,
    first: &First,
    length: u32,
) -> Result<(), DropReason> {
    let is_new = put_or_renew(tables, key, first)?;
    // Otherwise another CPU made it at the same moment, from the same mapping.
    if is_new {
        tables.count(Path::FlowsCreated, length);
        let admitted = Admitted::load(tables.scratch().ok_or(DropReason::Internal)?);
        if admitted.flags & u32::from(flag::LOG) != 0 {
            let (rule, generation) = (admitted.rule, admitted.generation);
            tell(tables, kind::FLOW_CREATED, key, rule, generation);
        }
    }
    Ok(())
}

/// Puts a permission into the table, or begins it anew. Without room there is none: who would need it is not let in.
#[inline(always)]
pub(super) fn permit<T: Tables>(tables: &T, key: &FlowKey, first: &First) {
    let _ = put_or_renew(tables, key, first);
}

/// Whether the flow is new.
#[inline(always)]
fn put_or_renew<T: Tables>(tables: &T, key: &FlowKey, first: &First) -> Result<bool, DropReason> {
    let mut renewal = Renewal::Elsewhere;
    if let Some(entry) = tables.flows().find(key) {
        renewal = renew(tables, key, &entry, first)?;
    }
    // Hidden, to be verified once, not once for each way to here.
    let renewal = <T::Usage<'_> as Words>::hide(renewal as u64);
    if renewal == Renewal::Elsewhere as u64 {
        put(tables, key, first)
    } else {
        Ok(renewal == Renewal::Done as u64)
    }
}

/// What [`leave_packet`] has left: how the flow begins, and the length of its packet.
#[inline(always)]
pub(super) fn look<T: Tables>(tables: &T, key: &mut FlowKey, first: &mut First) -> Result<u32, DropReason> {
    let scratch = tables.scratch().ok_or(DropReason::Internal)?;
    let (progress, about) = halves(scratch.load(left::PROGRESS));
    let (site_source, destination_ports) = (
        scratch.load(left::SITE_SOURCE),
        scratch.load(left::DESTINATION_PORTS),
    );
    *key = flow::key_of(site_source, destination_ports, about as u8);
    *first = First::left(
        scratch,
        left::SEGMENT,
        Progress::from_bits(progress),
        tables.now_s(),
    );
    Ok(about >> 16)
}

/// Hides what a packet says of its flow: what follows is verified once, not once for each protocol. Apart from its caller, whose
/// stack is needed below it.
#[inline(never)]
pub(super) fn hide<P: Packet>(key: &mut FlowKey, first: &mut First) {
    let [s0, s1, d0, d1] = P::hide(ports(key.source_port, key.destination_port)).to_ne_bytes();
    (key.source_port, key.destination_port) = ([s0, s1], [d0, d1]);
    key.protocol = P::hide(u32::from(key.protocol)) as u8;
    first.hide::<P>();
}

/// What became of a dead flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Renewal {
    /// It lives again.
    Done,
    /// Another CPU was faster.
    Lost,
    /// There is none, or its mapping is another by now: the flow takes a new place.
    Elsewhere,
}

/// Puts a flow into the table, within the site's limits. `false` if it is there already.
#[inline(always)]
fn put<T: Tables>(tables: &T, key: &FlowKey, first: &First) -> Result<bool, DropReason> {
    let half_open = filter::is_half_open(first.progress.state);
    take(tables, key.site, half_open, is_call(first))?;
    match insert(tables, key, first) {
        Ok(()) => Ok(true),
        Err(refused) => {
            give(tables, key.site, half_open);
            match refused {
                Refused::Exists => Ok(false),
                Refused::Full => Err(DropReason::FlowTableFull),
            }
        }
    }
}

/// Whether another opens the flow to the site.
#[inline(always)]
const fn is_call(first: &First) -> bool {
    first.progress.flags & tcp::flag::FROM_CENTER != 0
}

/// Counts a flow as the site's.
#[inline(never)]
fn take<T: Tables>(tables: &T, site: u32, half_open: bool, is_call: bool) -> Result<(), DropReason> {
    let settings = tables.settings().ok_or(DropReason::Internal)?;
    if half_open {
        limits::take_half_open(tables, site, settings, is_call)?;
    }
    let taken = limits::take_flow(tables, site, settings, is_call);
    if taken.is_err() && half_open {
        limits::give_half_open(tables, site);
    }
    taken
}

/// Counts a flow less.
#[inline(never)]
fn give<T: Tables>(tables: &T, site: u32, half_open: bool) {
    limits::give_flow(tables, site);
    if half_open {
        limits::give_half_open(tables, site);
    }
}

#[inline(never)]
fn insert<T: Tables>(tables: &T, key: &FlowKey, first: &First) -> Result<(), Refused> {
    let (Some(scratch), Some(nat)) = (tables.scratch(), mapped(tables)) else {
        return Err(Refused::Full);
    };
    tables.flows().insert_with(key, nat, |record, other| {
        fill(record, key, first, scratch, other);
    })
}

/// Writes the record of a new flow. Apart from its caller, whose stack is not large enough for both.
#[inline(never)]
fn fill<V: Words, S: Words>(record: V, key: &FlowKey, first: &First, scratch: S, other: u32) {
    let admitted = Admitted::load(scratch);
    flow::write_key(record, key, (admitted.nat_address, admitted.nat_port));
    record.store(word::PROGRESS, pair(first.progress.bits(), admitted.mapping));
    record.store(word::RULE, pair(admitted.rule, other));
    begin(record, first, admitted.generation);
}

/// Writes what a flow begins with.
#[inline(always)]
fn begin<V: Words>(record: V, first: &First, generation: u32) {
    record.store(word::HOP, 0);
    record.store(word::SA, 0);
    record.store(word::CREATED, pair(first.now_s, generation));
    first.out().write(record, word::OUT);
    first.back().write(record, word::IN);
}

/// Begins a dead flow anew in its place, or takes it out if its mapping is another by now.
#[inline(never)]
fn renew<V: Words, T: Tables>(
    tables: &T,
    key: &FlowKey,
    dead: &Entry<V>,
    first: &First,
) -> Result<Renewal, DropReason> {
    let settings = tables.settings().ok_or(DropReason::Internal)?;
    let admitted = Admitted::load(tables.scratch().ok_or(DropReason::Internal)?);
    let found = dead.record.load(word::PROGRESS);
    let state = Progress::from_bits(halves(found).0).state;
    let was_half_open = filter::is_half_open(state);
    let nat = u32::from_ne_bytes(admitted.nat_address);
    let port = port_protocol(admitted.nat_port, key.protocol);
    if dead.record.load(word::NAT) != pair(nat, port) {
        if tables.flows().retire(dead.position, dead.word) {
            // The sweep that frees the place looks whether it was half-open.
            limits::give_flow(tables, key.site);
        }
        return Ok(Renewal::Elsewhere);
    }
    if filter::is_taken_up(dead.record, settings, first) {
        // Another CPU has begun it anew since this one looked.
        return Ok(Renewal::Lost);
    }
    let half_open = filter::is_half_open(first.progress.state);
    if half_open && !was_half_open {
        limits::take_half_open(tables, key.site, settings, is_call(first))?;
    }
    let new = pair(first.progress.bits(), admitted.mapping);
    let won = dead.record.compare_exchange(word::PROGRESS, found, new).is_ok();
    if won {
        let (_, other) = halves(dead.record.load(word::RULE));
        dead.record.store(word::RULE, pair(admitted.rule, other));
        begin(dead.record, first, admitted.generation);
    }
    if was_half_open != half_open && won == was_half_open {
        limits::give_half_open(tables, key.site);
    }
    Ok(if won { Renewal::Done } else { Renewal::Lost })
}

#[inline(always)]
pub(super) fn denied<T: Tables>(
    tables: &T,
    key: &FlowKey,
    judgement: &Judgement,
) -> Result<Next, DropReason> {
    if judgement.flags & flag::LOG != 0 {
        tell(tables, kind::DENIED, key, judgement.rule, judgement.generation);
    }
    if judgement.action == action::REJECT {
        refuse(tables, Refusal::Rejected)
    } else if judgement.rule == RULE_DEFAULT {
        Err(DropReason::RuleDefault)
    } else {
        Err(DropReason::RuleDenied)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::ipv4::protocol::{ICMP, TCP, UDP};
    use crate::path::inner::Ports;
    use crate::path::tcp::Segment;
    use crate::tables::host::HostTables;

    proptest! {
        /// Property: the stages that make a flow take its packet for what the stage of judgement has seen, whatever it is.
        #[test]
        fn what_judgement_leaves_is_what_the_packet_says(
            (site, source, destination, ports) in any::<(u32, [u8; 4], [u8; 4], ([u8; 2], [u8; 2]))>(),
            protocol in prop_oneof![Just(TCP), Just(UDP), Just(ICMP), any::<u8>()],
            (total_length, sequence, window, scale, now_s) in any::<(u16, u32, u16, u8, u32)>(),
        ) {
            let mut inner = Inner::NONE;
            (inner.ip.source, inner.ip.destination) = (source, destination);
            inner.ip.protocol = protocol;
            inner.ip.total_length = total_length.to_be_bytes();
            inner.ports = Ports::new(ports.0, ports.1);
            if protocol == TCP {
                inner.segment = Segment { sequence, window, scale: scale % 15, flags: 2, ..Segment::NONE };
            }
            let tables = HostTables { now_s: now_s.into(), ..HostTables::default() };
            let key = inner.flow_from_site(site);
            leave_packet(tables.scratch().unwrap(), &key, &inner);
            let (mut found, mut first) = (FlowKey::NONE, First::NONE);
            prop_assert_eq!(look(&tables, &mut found, &mut first), Ok(u32::from(total_length)));
            prop_assert_eq!(found, key);
            prop_assert_eq!(first, filter::open(&inner, Direction::Out, now_s));
        }
    }
}
