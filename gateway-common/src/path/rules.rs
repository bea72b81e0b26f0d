//! Rules: the first that matches decides, no match is a deny.

use crate::abi::event::RULE_DEFAULT;
use crate::abi::flow::FlowKey;
use crate::abi::names::OpenAddress;
use crate::abi::rule::{GROUP_MULTIPLIER, Rule, action, direction, flag, layout};
use crate::abi::site::Site;
use crate::packet::icmp::Query;
use crate::packet::ipv4::protocol;

/// What rules look at; all in native order.
#[derive(Clone, Copy, Debug)]
pub struct Tuple {
    /// Groups of the site.
    pub groups: u64,
    /// Site.
    pub site: u32,
    /// Source address.
    pub source: u32,
    /// Destination address.
    pub destination: u32,
    /// Source port; zero where there is none.
    pub source_port: u16,
    /// Destination port; for ICMP type and code, zero for other protocols without ports.
    pub destination_port: u16,
    /// IP protocol.
    pub protocol: u8,
    /// One of [`direction`].
    pub direction: u8,
    /// The site that is called, of a flow from site to site.
    pub to_site: u32,
    /// Its groups.
    pub to_groups: u64,
}

impl Tuple {
    /// What rules look at in a flow that this site opens to the center. An ICMP identifier is not a port: the type of the query
    /// stands in its place.
    #[inline(always)]
    #[must_use]
    pub const fn new(key: &FlowKey, site: &Site) -> Self {
        let (source_port, destination_port) = match key.protocol {
            protocol::TCP | protocol::UDP => (
                u16::from_be_bytes(key.source_port),
                u16::from_be_bytes(key.destination_port),
            ),
            protocol::ICMP => (0, (Query::kind_of(key.destination_port) as u16) << 8),
            _ => (0, 0),
        };
        Self {
            groups: site.groups,
            site: key.site,
            source: u32::from_be_bytes(key.source),
            destination: u32::from_be_bytes(key.destination),
            source_port,
            destination_port,
            protocol: key.protocol,
            direction: direction::SITE_TO_CENTER,
            to_site: 0,
            to_groups: 0,
        }
    }

    /// The same with the direction that the destination gives it.
    #[inline(always)]
    #[must_use]
    pub const fn towards(self, direction: u8) -> Self {
        Self { direction, ..self }
    }

    /// What rules look at in a flow that the center opens to this site: `key` is the flow as the site sees it. Its site and
    /// groups are those of the site, and the addresses that the site knows count: translation is none of the rules' business.
    #[inline(always)]
    #[must_use]
    pub const fn to_site(key: &FlowKey, site: &Site) -> Self {
        let from_site = Self::new(key, site);
        Self {
            source: from_site.destination,
            destination: from_site.source,
            source_port: match key.protocol {
                protocol::ICMP => 0,
                _ => from_site.destination_port,
            },
            destination_port: match key.protocol {
                protocol::ICMP => from_site.destination_port,
                _ => from_site.source_port,
            },
            direction: direction::CENTER_TO_SITE,
            ..from_site
        }
    }

    /// What rules look at in a flow of a site to another one: `key` is the flow as the first one sees it, `called` as the
    /// other one does.
    #[inline(always)]
    #[must_use]
    pub const fn site_to_site(key: &FlowKey, site: &Site, called: &FlowKey, other: &Site) -> Self {
        let from_site = Self::new(key, site);
        Self {
            destination: u32::from_be_bytes(called.source),
            destination_port: match key.protocol {
                protocol::ICMP => from_site.destination_port,
                _ => u16::from_be_bytes(called.source_port),
            },
            direction: direction::SITE_TO_SITE,
            to_site: called.site,
            to_groups: other.groups,
            ..from_site
        }
    }
}

/// Whether all conditions of a rule hold; `open` is what the destination is open for by name at `now_s`.
#[must_use]
pub fn matches_by_name(rule: &Rule, tuple: &Tuple, open: &OpenAddress, now_s: u32) -> bool {
    let is_open = || {
        is_to_internet(tuple)
            && u32::from_be_bytes(open.address) == tuple.destination
            && open.is_open_for(rule.name_set, now_s)
    };
    matches(rule, tuple) && (rule.name_set == 0 || is_open())
}

/// Whether all conditions of a rule hold but for names.
#[must_use]
pub const fn matches(rule: &Rule, tuple: &Tuple) -> bool {
    (rule.protocol == 0 || rule.protocol == tuple.protocol)
        && tuple.destination & u32::from_be_bytes(rule.destination_mask)
            == u32::from_be_bytes(rule.destination)
        && tuple.source & u32::from_be_bytes(rule.source_mask) == u32::from_be_bytes(rule.source)
        && rule.destination_port_low <= tuple.destination_port
        && tuple.destination_port <= rule.destination_port_high
        && rule.source_port_low <= tuple.source_port
        && tuple.source_port <= rule.source_port_high
        && (rule.site == 0 || rule.site == tuple.site)
        && (rule.groups == 0 || rule.groups & tuple.groups != 0)
        && (rule.directions == 0 || rule.directions >> tuple.direction & 1 != 0)
        && (rule.to_site == 0 || (is_to_site(tuple) && rule.to_site == tuple.to_site))
        && (rule.to_groups == 0 || (is_to_site(tuple) && rule.to_groups & tuple.to_groups != 0))
}

const fn is_to_site(tuple: &Tuple) -> bool {
    tuple.direction == direction::SITE_TO_SITE
}

/// Whether names may decide: they are of the Internet.
#[inline(always)]
#[must_use]
pub const fn is_to_internet(tuple: &Tuple) -> bool {
    tuple.direction == direction::SITE_TO_INTERNET
}

/// What the rules say of a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Generation that decided.
    pub generation: u32,
    /// [`crate::abi::rule::Record::source_rule`] of the rule that matched, or [`RULE_DEFAULT`].
    pub rule: u32,
    /// Its counter in `RULE_HITS`; none if no rule matched.
    pub counter: u32,
    /// One of [`action`].
    pub action: u8,
    /// Bits of [`flag`].
    pub flags: u8,
}

impl Judgement {
    /// The default: deny, and tell.
    #[inline(always)]
    #[must_use]
    pub const fn default_deny(generation: u32) -> Self {
        Self {
            generation,
            rule: RULE_DEFAULT,
            counter: RULE_DEFAULT,
            action: action::DENY,
            flags: flag::LOG,
        }
    }

    /// Takes over what `rule` says.
    #[inline(always)]
    pub const fn decide(&mut self, rule: &Rule) {
        self.rule = rule.source_rule;
        self.counter = rule.source_rule;
        self.action = rule.action;
        self.flags = rule.flags;
    }
}

/// The words of one generation, and room for the look-up of one packet in it.
///
/// What a look-up has to remember goes through [`Words::put`] and [`Words::get`], not through local variables: BPF's stack is
/// small, and the verifier takes a value that comes from memory for any value, so that the ways through the tables meet
/// again instead of multiplying.
pub trait Words {
    /// A run of words that lies in one chunk.
    type Run: Copy;
    /// The run that begins at a word; `None` behind the end.
    fn run(&self, word: u32) -> Option<Self::Run>;
    /// The same for a word of the first chunk.
    fn head(&self, word: u32) -> Option<Self::Run>;
    /// A word of a run.
    fn word(run: &Self::Run, index: u32) -> u64;
    /// A half of a word of a run; in memory order, the first half is 0.
    fn half(run: &Self::Run, index: u32) -> u32;
    /// The set of names in a place of what the destination is open for now; zero: none.
    fn open_set(&self, place: u32) -> u32;
    /// Whether what [`Words::open_set`] has just said is of this destination still.
    fn is_open_of(&self, destination: u32) -> bool;
    /// Remembers a value.
    fn put(&self, slot: Slot, value: u64);
    /// The value remembered last.
    fn get(&self, slot: Slot) -> u64;
}

/// What a look-up remembers.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Words 0 to 63 that may hold a match.
    Candidates0,
    /// Words 64 to 127.
    Candidates1,
    /// Words 128 to 191.
    Candidates2,
    /// Words 192 to 255.
    Candidates3,
    /// Vector of the rules that name the site.
    Site,
    /// Vector of the rules about its groups, or about everyone.
    Groups,
    /// Vector of the destination address.
    Destination,
    /// Vector of the source address.
    Source,
    /// Vector of the destination port.
    DestinationPort,
    /// Vector of direction and protocol.
    Protocol,
    /// Vector of the source port.
    SourcePort,
    /// Whether the destination is open for names that rules speak of; if not, the next slots mean nothing.
    Names,
    /// Vectors of the sets of names that the destination is open for; zero: none.
    Name0,
    /// The second.
    Name1,
    /// The third.
    Name2,
    /// The fourth.
    Name3,
    /// The fifth.
    Name4,
    /// The sixth.
    Name5,
    /// The seventh.
    Name6,
    /// The eighth.
    Name7,
    /// Vector of the rules that name the site that is called; [`NOT_ASKED`] where none is.
    ToSite,
    /// Vector of the rules about its groups, or about all.
    ToGroups,
    /// The word that is looked at.
    Word,
    /// Index of the compiled rule that was found.
    Found,
    /// Room for the shell.
    Shell,
}

/// How many there are.
pub const SLOTS: usize = Slot::Shell as usize + 1;

/// Whether a search goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It does.
    More,
    /// It ended: a rule was found, or there is none.
    Done,
}

/// No rule found.
const NONE: u64 = u64::MAX;
/// No site is called: rules about one that is have its direction as a condition too, so that the vectors need no look.
const NOT_ASKED: u64 = u64::MAX;
/// Half of the header that names the hash of the groups' vectors; the shift is behind it.
const GROUPS: u32 = 3;
/// The same for the groups of the site that is called.
const TO_GROUPS: u32 = 6;
/// Half of the header that names the entries of sets of names; how many there are is behind it.
const NAMES: u32 = 8;

/// Begins the look-up of a packet: finds the vector of each dimension and the words that may hold a match. What cannot
/// be found is a vector without a bit: nothing matches, which is a deny.
#[inline(always)]
pub fn begin<W: Words>(words: &W, tuple: &Tuple) {
    words.put(Slot::Found, NONE);
    let protocol = ((tuple.direction as u32 & 3) << 8) | tuple.protocol as u32;
    let entries = words.head(layout::PROTOCOLS + (protocol >> 1));
    let vector = entries.map_or(0, |run| W::half(&run, protocol & 1));
    words.put(Slot::Protocol, vector as u64);
    let vector = entry(words, layout::SOURCE_PORTS, tuple.source_port as u32);
    words.put(Slot::SourcePort, vector as u64);
    let vector = entry(words, layout::DESTINATION_PORTS, tuple.destination_port as u32);
    words.put(Slot::DestinationPort, vector as u64);
    let vector = descend(words, layout::SOURCES, tuple.source);
    words.put(Slot::Source, vector as u64);
    let vector = descend(words, layout::DESTINATIONS, tuple.destination);
    words.put(Slot::Destination, vector as u64);
    words.put(Slot::Names, 0);
    if is_to_internet(tuple) {
        names(words, tuple.destination);
    }
    let vector = descend(words, layout::SITES, tuple.site);
    words.put(Slot::Site, vector as u64);
    words.put(Slot::Groups, groups(words, GROUPS, tuple.groups) as u64);
    words.put(Slot::ToSite, NOT_ASKED);
    if is_to_site(tuple) {
        let vector = descend(words, layout::TO_SITES, tuple.to_site);
        words.put(Slot::ToSite, vector as u64);
        words.put(Slot::ToGroups, groups(words, TO_GROUPS, tuple.to_groups) as u64);
    }
    for (slot, word) in CANDIDATES.into_iter().zip(candidates(words)) {
        words.put(slot, word);
    }
}

const CANDIDATES: [Slot; layout::SUMMARY_WORDS as usize] = [
    Slot::Candidates0,
    Slot::Candidates1,
    Slot::Candidates2,
    Slot::Candidates3,
];

/// Whether rules of this generation speak of names: if not, nobody need ask what the destination is open for.
#[inline(always)]
pub fn speaks_of_names<W: Words>(words: &W) -> bool {
    words
        .head(layout::HEADER)
        .is_some_and(|header| W::half(&header, NAMES + 1) != 0)
}

/// Finds the vectors of the sets of names that the destination is open for. (Here and in [`word_of_names`] place by
/// place, not in a loop: the verifier wants to see which slot is meant.)
#[cfg_attr(target_arch = "bpf", inline(never))]
fn names<W: Words>(words: &W, destination: u32) {
    if !words.is_open_of(destination) {
        return;
    }
    let Some(header) = words.head(layout::HEADER) else {
        return;
    };
    let table = (W::half(&header, NAMES), W::half(&header, NAMES + 1));
    let any = name(words, Slot::Name0, 0, table)
        | name(words, Slot::Name1, 1, table)
        | name(words, Slot::Name2, 2, table)
        | name(words, Slot::Name3, 3, table)
        | name(words, Slot::Name4, 4, table)
        | name(words, Slot::Name5, 5, table)
        | name(words, Slot::Name6, 6, table)
        | name(words, Slot::Name7, 7, table);
    if any != 0 && words.is_open_of(destination) {
        words.put(Slot::Names, 1);
    }
}

/// Finds the vector of one of them.
#[inline(always)]
fn name<W: Words>(words: &W, slot: Slot, place: u32, (table, count): (u32, u32)) -> u32 {
    let set = words.open_set(place);
    let vector = if set != 0 && set < count {
        entry(words, table, set)
    } else {
        0
    };
    words.put(slot, vector as u64);
    vector
}

/// A word of the vectors of all names that the destination is open for. (As [`names`], a subprogram of BPF: few packets need it.)
#[cfg_attr(target_arch = "bpf", inline(never))]
fn word_of_names<W: Words>(words: &W, index: u32) -> u64 {
    word_of(words, Slot::Name0, index)
        | word_of(words, Slot::Name1, index)
        | word_of(words, Slot::Name2, index)
        | word_of(words, Slot::Name3, index)
        | word_of(words, Slot::Name4, index)
        | word_of(words, Slot::Name5, index)
        | word_of(words, Slot::Name6, index)
        | word_of(words, Slot::Name7, index)
}

/// The words in which each dimension has a bit.
#[inline(always)]
fn candidates<W: Words>(words: &W) -> Summary {
    // A site whose groups the generation does not know is denied: a rule about them could be missed.
    if words.get(Slot::Groups) == 0 {
        return NOTHING;
    }
    let mut all = any_of(summary(words, Slot::Site), summary(words, Slot::Groups));
    for vector in DIMENSIONS {
        all = all_of(all, summary(words, vector));
    }
    all = all_of(all, summary_of_destination(words));
    if words.get(Slot::ToSite) == NOT_ASKED {
        return all;
    }
    if words.get(Slot::ToGroups) == 0 {
        return NOTHING;
    }
    let called = any_of(summary(words, Slot::ToSite), summary(words, Slot::ToGroups));
    all_of(all, called)
}

/// The words in which the destination has a bit, by its address or by a name.
#[inline(always)]
fn summary_of_destination<W: Words>(words: &W) -> Summary {
    let summary = summary(words, Slot::Destination);
    if words.get(Slot::Names) == 0 {
        return summary;
    }
    any_of(summary, [0, 1, 2, 3].map(|index| word_of_names(words, index)))
}

/// Which words of a vector have a bit.
type Summary = [u64; layout::SUMMARY_WORDS as usize];
const NOTHING: Summary = [0; layout::SUMMARY_WORDS as usize];

/// The summary of the vector that a slot names.
#[inline(always)]
fn summary<W: Words>(words: &W, vector: Slot) -> Summary {
    match words.run(words.get(vector) as u32) {
        Some(run) => [0, 1, 2, 3].map(|index| W::word(&run, index)),
        None => NOTHING,
    }
}

#[inline(always)]
const fn any_of([a, b, c, d]: Summary, [e, f, g, h]: Summary) -> Summary {
    [a | e, b | f, c | g, d | h]
}

#[inline(always)]
const fn all_of([a, b, c, d]: Summary, [e, f, g, h]: Summary) -> Summary {
    [a & e, b & f, c & g, d & h]
}

/// Dimensions but who sent the packet and its destination. The ones that decide most come first.
const DIMENSIONS: [Slot; 4] = [
    Slot::Source,
    Slot::DestinationPort,
    Slot::Protocol,
    Slot::SourcePort,
];

/// Looks at the next word that may hold a match; at most [`layout::VECTOR_WORDS`] steps and one.
#[inline(always)]
pub fn step<W: Words>(words: &W) -> Step {
    let (slot, base) = if words.get(Slot::Candidates0) != 0 {
        (Slot::Candidates0, 0)
    } else if words.get(Slot::Candidates1) != 0 {
        (Slot::Candidates1, 64)
    } else if words.get(Slot::Candidates2) != 0 {
        (Slot::Candidates2, 128)
    } else if words.get(Slot::Candidates3) != 0 {
        (Slot::Candidates3, 192)
    } else {
        return Step::Done;
    };
    let bits = words.get(slot);
    words.put(Slot::Word, u64::from(base + bits.trailing_zeros()));
    words.put(slot, bits & bits.wrapping_sub(1));
    // Out of memory: the verifier follows what comes now once, not once for each slot.
    let word = words.get(Slot::Word) as u32;
    let index = layout::SUMMARY_WORDS + word;
    let mut matching = word_of(words, Slot::Site, index) | word_of(words, Slot::Groups, index);
    let mut destination = word_of(words, Slot::Destination, index);
    if words.get(Slot::Names) != 0 {
        destination |= word_of_names(words, index);
    }
    matching &= destination;
    for vector in DIMENSIONS {
        matching &= word_of(words, vector, index);
    }
    if words.get(Slot::ToSite) != NOT_ASKED {
        matching &= word_of(words, Slot::ToSite, index) | word_of(words, Slot::ToGroups, index);
    }
    if matching == 0 {
        return Step::More;
    }
    words.put(Slot::Found, (word * 64 + matching.trailing_zeros()) as u64);
    Step::Done
}

/// A word of the vector that a slot names.
#[inline(always)]
fn word_of<W: Words>(words: &W, vector: Slot, index: u32) -> u64 {
    match words.run(words.get(vector) as u32) {
        Some(run) => W::word(&run, index),
        None => 0,
    }
}

/// What the rule that was found says, or the default; `None` if this is no generation.
#[inline(always)]
pub fn judgement<W: Words>(words: &W) -> Option<Judgement> {
    let header = words.head(layout::HEADER)?;
    let mut judgement = Judgement::default_deny(W::half(&header, 0));
    let found = words.get(Slot::Found);
    if found != NONE {
        let run = words.run(W::half(&header, 5).wrapping_add(found as u32))?;
        let what = W::half(&run, 1).to_ne_bytes();
        judgement.rule = W::half(&run, 0);
        judgement.counter = judgement.rule.wrapping_add(W::half(&header, 2));
        judgement.action = what[0];
        judgement.flags = what[1];
    }
    Some(judgement)
}

/// The vector of a 32-bit key.
#[inline(always)]
fn descend<W: Words>(words: &W, table: u32, key: u32) -> u32 {
    let found = entry(words, table, key >> 16);
    if found & layout::CHILD == 0 {
        return found;
    }
    let found = entry(words, found & !layout::CHILD, (key >> 8) & 255);
    if found & layout::CHILD == 0 {
        return found;
    }
    entry(words, found & !layout::CHILD, key & 255)
}

/// An entry of a table, which may span chunks.
#[inline(always)]
fn entry<W: Words>(words: &W, table: u32, index: u32) -> u32 {
    match words.run(table.wrapping_add(index >> 1)) {
        Some(run) => W::half(&run, index & 1),
        None => 0,
    }
}

/// The vector of a group bitmap in the hash that this half of the header names; zero, which is no vector, if the
/// generation does not know it.
#[inline(always)]
fn groups<W: Words>(words: &W, half: u32, bitmap: u64) -> u32 {
    let Some(header) = words.head(layout::HEADER) else {
        return 0;
    };
    let place = (bitmap.wrapping_mul(GROUP_MULTIPLIER) >> (W::half(&header, half + 1) & 63)) as u32;
    let bucket = W::half(&header, half).wrapping_add(place.wrapping_mul(2 * layout::GROUPS_A_BUCKET));
    let Some(bucket) = words.run(bucket) else {
        return 0;
    };
    let mut vector = 0;
    let mut pair = 0;
    while pair < layout::GROUPS_A_BUCKET {
        if W::word(&bucket, 2 * pair) == bitmap {
            // A free pair has bitmap and vector zero, and comes behind that of the bitmap zero.
            vector |= W::half(&bucket, 4 * pair + 2);
        }
        pair += 1;
    }
    vector
}

/// A generation in ordinary memory.
#[cfg(feature = "std")]
pub mod host {
    use std::cell::Cell;

    use super::{Judgement, SLOTS, Slot, Step, Tuple, Words, begin, judgement, step};
    use crate::abi::names::OpenAddress;
    use crate::abi::rule::{Chunk, layout};

    struct Host<'a> {
        chunks: &'a [Chunk],
        open: OpenAddress,
        now_s: u32,
        slots: Cell<[u64; SLOTS]>,
    }

    impl<'a> Words for Host<'a> {
        type Run = (&'a Chunk, u32);

        fn run(&self, word: u32) -> Option<Self::Run> {
            let chunk = self.chunks.get((word / layout::CHUNK_WORDS) as usize)?;
            Some((chunk, word % layout::CHUNK_WORDS))
        }

        fn head(&self, word: u32) -> Option<Self::Run> {
            self.run(word)
        }

        fn word((chunk, first): &Self::Run, index: u32) -> u64 {
            let place = (first + index) % layout::CHUNK_WORDS;
            chunk.words.get(place as usize).copied().unwrap_or_default()
        }

        fn half(run: &Self::Run, index: u32) -> u32 {
            let [a, b, c, d, e, f, g, h] = Self::word(run, index / 2).to_ne_bytes();
            match index % 2 {
                0 => u32::from_ne_bytes([a, b, c, d]),
                _ => u32::from_ne_bytes([e, f, g, h]),
            }
        }

        fn open_set(&self, place: u32) -> u32 {
            let name = self.open.names.get(place as usize);
            name.map_or(0, |name| name.set_at(self.now_s))
        }

        fn is_open_of(&self, destination: u32) -> bool {
            u32::from_be_bytes(self.open.address) == destination
        }

        fn put(&self, slot: Slot, value: u64) {
            let mut slots = self.slots.get();
            slots[slot as usize] = value;
            self.slots.set(slots);
        }

        fn get(&self, slot: Slot) -> u64 {
            self.slots.get()[slot as usize]
        }
    }

    /// What a generation says of a new flow to a destination that is open for no name; `None` if the chunks are no
    /// generation.
    #[must_use]
    pub fn judge(chunks: &[Chunk], tuple: &Tuple) -> Option<Judgement> {
        judge_by_name(chunks, tuple, &OpenAddress::default(), 0)
    }

    /// As [`judge`], to a destination that is `open` for names.
    #[must_use]
    pub fn judge_by_name(
        chunks: &[Chunk],
        tuple: &Tuple,
        open: &OpenAddress,
        now_s: u32,
    ) -> Option<Judgement> {
        let host = Host {
            chunks,
            open: *open,
            now_s,
            slots: Cell::new([0; SLOTS]),
        };
        begin(&host, tuple);
        while step(&host) == Step::More {}
        judgement(&host)
    }
}
