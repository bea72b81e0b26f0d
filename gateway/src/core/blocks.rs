//! Use of port blocks, and when a site needs one of its further blocks no more.
//!
//! A block goes in two steps. First no new mapping is made from it (it is closed), while those that are there serve their
//! clients on; when nothing of it has been in use for [`HOLD_MS`], it is free for another site.
use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use gateway_common::abi::nat::OutsideKey;
use gateway_common::packet::ipv4::protocol;

use crate::config::PortBlock;

/// A port is not given to another site before it has not been used for so long (RFC 6888 REQ-8).
pub const HOLD_MS: u64 = 120_000;
/// A block is closed when the others would be this full at most, one in so many ports, and have been for [`HOLD_MS`].
const SPARE: u32 = 4;

/// Ports of a block in use, by protocol: each has all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Of TCP.
    pub tcp: u32,
    /// Of UDP.
    pub udp: u32,
    /// Identifiers of ICMP queries.
    pub icmp: u32,
    /// Mappings of protocols without ports.
    pub other: u32,
}

impl Use {
    /// Of the protocol that has most.
    #[must_use]
    pub fn most(&self) -> u32 {
        self.tcp.max(self.udp).max(self.icmp)
    }

    /// Whether nothing is in use.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    const fn add(&mut self, other: Self) {
        self.tcp += other.tcp;
        self.udp += other.udp;
        self.icmp += other.icmp;
        self.other += other.other;
    }
}

/// Counts what is in use of some blocks.
pub fn count(
    blocks: impl IntoIterator<Item = PortBlock>,
    outsides: impl IntoIterator<Item = OutsideKey>,
) -> HashMap<PortBlock, Use> {
    let mut by_address: HashMap<Ipv4Addr, Vec<(PortBlock, Use)>> = HashMap::new();
    for block in blocks {
        by_address
            .entry(block.address)
            .or_default()
            .push((block, Use::default()));
    }
    for outside in outsides {
        let (address, port) = (Ipv4Addr::from(outside.address), u16::from_be_bytes(outside.port));
        let of_address = by_address.get_mut(&address);
        let block = of_address.and_then(|blocks| {
            let found = blocks.iter_mut().find(|(block, _)| block.contains(address, port));
            found.map(|(_, used)| used)
        });
        if let Some(used) = block {
            match outside.protocol {
                protocol::TCP => used.tcp += 1,
                protocol::UDP => used.udp += 1,
                protocol::ICMP => used.icmp += 1,
                _ => used.other += 1,
            }
        }
    }
    by_address.into_values().flatten().collect()
}

/// What is to be done with a block of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// No new mapping is to be made from it.
    Close(u32, PortBlock),
    /// It is free for others.
    Release(u32, PortBlock),
}

/// Sites with further blocks, and those of their blocks that are closed.
#[derive(Debug, Default)]
pub struct Spare {
    /// Since when a site could do without its last open block.
    small_since_ms: HashMap<u32, u64>,
    /// When something of a closed block was last in use, or closed.
    closed: BTreeMap<(u32, PortBlock), u64>,
}

impl Spare {
    /// Whether a block of a site is closed.
    #[must_use]
    pub fn is_closed(&self, site: u32, block: &PortBlock) -> bool {
        self.closed.contains_key(&(site, *block))
    }

    /// Opens a closed block of a site again, whose ports run short.
    pub fn reopen(&mut self, site: u32) -> Option<PortBlock> {
        self.small_since_ms.remove(&site);
        let of_site = |key: &&(u32, PortBlock)| key.0 == site;
        let key = *self.closed.keys().find(of_site)?;
        self.closed.remove(&key);
        Some(key.1)
    }

    /// Looks at the sites that have more than one block, all of them, and at what is in use.
    pub fn look(
        &mut self,
        now_ms: u64,
        sites: &[(u32, Vec<PortBlock>)],
        used: &HashMap<PortBlock, Use>,
    ) -> Vec<Step> {
        let use_of = |block: &PortBlock| used.get(block).copied().unwrap_or_default();
        let mut steps = Vec::new();
        for (site, blocks) in sites {
            let open: Vec<_> = blocks
                .iter()
                .filter(|block| !self.is_closed(*site, block))
                .collect();
            if let Some(block) = self.unneeded(now_ms, *site, &open, use_of) {
                self.closed.insert((*site, block), now_ms);
                steps.push(Step::Close(*site, block));
            }
        }
        let mut free = Vec::new();
        for (key, last_used_ms) in &mut self.closed {
            if !use_of(&key.1).is_none() {
                *last_used_ms = now_ms;
            } else if now_ms.saturating_sub(*last_used_ms) >= HOLD_MS {
                free.push(*key);
            }
        }
        steps.extend(free.into_iter().map(|(site, block)| Step::Release(site, block)));
        steps
    }

    /// The site's last open block, if the others have been enough for long.
    fn unneeded(
        &mut self,
        now_ms: u64,
        site: u32,
        open: &[&PortBlock],
        use_of: impl Fn(&PortBlock) -> Use,
    ) -> Option<PortBlock> {
        let (last, others) = open.split_last()?;
        let size = |block: &&&PortBlock| u32::from(block.last_port - block.first_port) + 1;
        let room: u32 = others.iter().map(|block| size(&block)).sum();
        let mut all = Use::default();
        open.iter().for_each(|block| all.add(use_of(block)));
        if others.is_empty() || all.most() > room / SPARE {
            self.small_since_ms.remove(&site);
            return None;
        }
        let since_ms = *self.small_since_ms.entry(site).or_insert(now_ms);
        if now_ms.saturating_sub(since_ms) < HOLD_MS {
            return None;
        }
        self.small_since_ms.remove(&site);
        Some(**last)
    }

    /// A block was released.
    pub fn forget(&mut self, site: u32, block: &PortBlock) {
        self.closed.remove(&(site, *block));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: u32 = 7;

    fn block(number: u16) -> PortBlock {
        PortBlock {
            address: Ipv4Addr::new(10, 0, 0, 1),
            first_port: number * 64,
            last_port: number * 64 + 63,
        }
    }

    fn outsides(number: u16, ports: u16, protocol: u8) -> impl Iterator<Item = OutsideKey> {
        (0..ports).map(move |port| OutsideKey {
            address: [10, 0, 0, 1],
            port: (number * 64 + port).to_be_bytes(),
            protocol,
            pad: 0,
        })
    }

    fn look(spare: &mut Spare, now_ms: u64, blocks: &[PortBlock], in_use: &[(u16, u16)]) -> Vec<Step> {
        let outsides = in_use
            .iter()
            .flat_map(|(number, ports)| outsides(*number, *ports, protocol::TCP));
        let used = count(blocks.iter().copied(), outsides);
        spare.look(now_ms, &[(SITE, blocks.to_vec())], &used)
    }

    #[test]
    fn ports_are_counted_by_block_and_protocol() {
        let all = outsides(16, 3, protocol::TCP)
            .chain(outsides(16, 2, protocol::UDP))
            .chain(outsides(17, 64, protocol::ICMP))
            .chain(outsides(18, 5, protocol::TCP));
        let used = count([block(16), block(17)], all);
        let expected = Use {
            tcp: 3,
            udp: 2,
            ..Use::default()
        };
        assert_eq!((used[&block(16)], expected.most()), (expected, 3));
        assert_eq!(used[&block(17)].icmp, 64);
        assert_eq!(used.len(), 2, "what is nobody's is not counted");
    }

    #[test]
    fn a_block_that_is_not_needed_is_closed_and_released_when_nothing_has_used_it_for_120_s() {
        let (mut spare, blocks) = (Spare::default(), [block(16), block(17)]);
        let used = [(16, 10), (17, 3)];
        assert_eq!(look(&mut spare, 0, &blocks, &used), []);
        assert_eq!(look(&mut spare, HOLD_MS - 1, &blocks, &used), []);
        assert_eq!(
            look(&mut spare, HOLD_MS, &blocks, &used),
            [Step::Close(SITE, block(17))]
        );
        assert!(spare.is_closed(SITE, &block(17)) && !spare.is_closed(SITE, &block(16)));
        // A connection lives on for an hour.
        let mut now_ms = HOLD_MS;
        while now_ms < 3_600_000 {
            now_ms += 10_000;
            assert_eq!(look(&mut spare, now_ms, &blocks, &[(16, 10), (17, 1)]), []);
        }
        assert_eq!(look(&mut spare, now_ms + HOLD_MS - 1, &blocks, &[(16, 1)]), []);
        let released = look(&mut spare, now_ms + HOLD_MS, &blocks, &[(16, 1)]);
        assert_eq!(released, [Step::Release(SITE, block(17))]);
        // It could not be stored: it is asked for again.
        let again = look(&mut spare, now_ms + HOLD_MS + 1, &blocks, &[]);
        assert_eq!(again, [Step::Release(SITE, block(17))]);
        spare.forget(SITE, &block(17));
        assert_eq!(look(&mut spare, now_ms + 2 * HOLD_MS, &blocks[..1], &[]), []);
        assert_eq!(
            look(&mut spare, now_ms + 9 * HOLD_MS, &blocks[..1], &[]),
            [],
            "the first one stays"
        );
    }

    #[test]
    fn a_closed_block_is_opened_again_when_ports_run_short() {
        let (mut spare, blocks) = (Spare::default(), [block(16), block(17)]);
        look(&mut spare, 0, &blocks, &[]);
        assert_eq!(
            look(&mut spare, HOLD_MS, &blocks, &[]),
            [Step::Close(SITE, block(17))]
        );
        assert_eq!(spare.reopen(SITE + 1), None);
        assert_eq!(spare.reopen(SITE), Some(block(17)));
        assert_eq!(spare.reopen(SITE), None);
        assert_eq!(
            look(&mut spare, 2 * HOLD_MS, &blocks, &[]),
            [],
            "the time begins anew"
        );
    }

    #[test]
    fn a_block_stays_open_while_the_others_would_be_more_than_a_quarter_full() {
        let (mut spare, blocks) = (Spare::default(), [block(16), block(17)]);
        for now_ms in (0..10 * HOLD_MS).step_by(10_000) {
            assert_eq!(look(&mut spare, now_ms, &blocks, &[(16, 9), (17, 8)]), []);
        }
        // Once in between is enough to begin the time anew.
        look(&mut spare, 10 * HOLD_MS, &blocks, &[]);
        look(&mut spare, 11 * HOLD_MS - 1, &blocks, &[(16, 17)]);
        assert_eq!(look(&mut spare, 11 * HOLD_MS, &blocks, &[]), []);
        assert_eq!(
            look(&mut spare, 12 * HOLD_MS, &blocks, &[]),
            [Step::Close(SITE, block(17))]
        );
    }

    #[test]
    fn further_blocks_go_one_after_another() {
        let (mut spare, blocks) = (Spare::default(), [block(16), block(17), block(18)]);
        look(&mut spare, 0, &blocks, &[]);
        assert_eq!(
            look(&mut spare, HOLD_MS, &blocks, &[]),
            [Step::Close(SITE, block(18))]
        );
        look(&mut spare, HOLD_MS + 1, &blocks, &[]);
        assert_eq!(
            look(&mut spare, 2 * HOLD_MS + 1, &blocks, &[]),
            [Step::Close(SITE, block(17)), Step::Release(SITE, block(18))]
        );
    }
}
