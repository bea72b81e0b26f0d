//! Port blocks that run short: the controller is told, and a block that it adds is used by the next packet.

use std::collections::{BTreeMap, BTreeSet};

use gateway_common::abi::event::{Event, kind};
use gateway_common::abi::rule::{Rule, direction};
use gateway_common::abi::site::{BLOCKS_MAX, Block, Site, flag};
use gateway_common::abi::stats::Path;
use gateway_common::drop::DropReason;
use gateway_common::path::Verdict;
use gateway_tests::frames::Clear;
use gateway_tests::kernel::{Kernel, monotonic};
use gateway_tests::vectors::Program;
use gateway_tests::vectors::blocks::{pair_of_ports, query, take, world_of};
use gateway_tests::vectors::world::{
    GENERATION, GROUP_CLINIC, MAC, MAC_HOP, NAME_SERVER, NAT, NAT_OTHER, SA_INDEX, SITE, SITE_OTHER,
    TERMINAL, allow,
};
use proptest::prelude::*;

const NOW_S: u32 = 100_000;
/// Inside and outside endpoints that were seen.
type Seen = BTreeMap<(u32, u16), ([u8; 4], u16)>;
const XDP_REDIRECT: u32 = 4;

fn told(events: &[Event]) -> Vec<(u32, u32, [u8; 4])> {
    events
        .iter()
        .filter(|event| event.kind == kind::PORTS_SHORT)
        .map(|event| (event.kind, event.site, event.source))
        .collect()
}

#[test]
fn a_block_that_is_added_serves_the_next_packet_on_the_host() {
    let blocks = [pair_of_ports(NAT, 5000), pair_of_ports(NAT, 6000)];
    let mut tables = world_of(NOW_S, &blocks[..1], flag::MORE_BLOCKS);
    take(&tables, (NAT, 5000), NOW_S);
    take(&tables, (NAT, 5001), NOW_S);
    let frame = query(1026).linked(SITE, SA_INDEX);
    let (outcome, _) = Program::Clear.run(&frame, &tables);
    assert_eq!(outcome.map(Verdict::path), Ok(Path::SiteAnswered));
    assert_eq!(
        tables.drops.take(),
        BTreeMap::from([(DropReason::NatExhausted, 1)])
    );
    assert_eq!(
        told(&tables.events.borrow()),
        [(kind::PORTS_SHORT, SITE, TERMINAL)]
    );

    let more = Site::with_blocks(GROUP_CLINIC | 1, &blocks, flag::MORE_BLOCKS);
    tables.sites.insert(SITE, more);
    let (outcome, sent) = Program::Clear.run(&frame, &tables);
    assert!(matches!(outcome, Ok(Verdict::Egress { .. })), "{outcome:?}");
    assert_eq!(sent[14 + 20..14 + 22], 6000u16.to_be_bytes());
}

#[test]
fn a_block_that_is_added_serves_the_next_packet_in_the_kernel() -> anyhow::Result<()> {
    let now_s = u32::try_from(monotonic().as_secs())?;
    let blocks = [pair_of_ports(NAT, 5000), pair_of_ports(NAT, 6000)];
    let tables = world_of(now_s, &blocks[..1], flag::MORE_BLOCKS);
    take(&tables, (NAT, 5000), now_s);
    take(&tables, (NAT, 5001), now_s);
    let mut kernel = Kernel::load()?;
    kernel.fill(&tables)?;
    let frame = query(1026).linked(SITE, SA_INDEX);
    assert_eq!(kernel.run("clear", &frame)?.code, XDP_REDIRECT);
    assert_eq!(kernel.drops()?, BTreeMap::from([(DropReason::NatExhausted, 1)]));
    assert_eq!(
        told(&kernel.take_events()?),
        [(kind::PORTS_SHORT, SITE, TERMINAL)]
    );

    let more = Site::with_blocks(GROUP_CLINIC | 1, &blocks, flag::MORE_BLOCKS);
    kernel.set_site(SITE, &more)?;
    let run = kernel.run("clear", &frame)?;
    assert_eq!(run.code, XDP_REDIRECT);
    assert_eq!(run.frame[14 + 20..14 + 22], 6000u16.to_be_bytes());
    Ok(())
}

/// A site that was refused is nothing to bother the controller with.
#[test]
fn who_is_not_to_ask_does_not() {
    let tables = world_of(NOW_S, &[pair_of_ports(NAT, 5000)], 0);
    take(&tables, (NAT, 5000), NOW_S);
    take(&tables, (NAT, 5001), NOW_S);
    let (outcome, _) = Program::Clear.run(&query(1026).linked(SITE, SA_INDEX), &tables);
    assert_eq!(outcome.map(Verdict::path), Ok(Path::SiteAnswered));
    assert_eq!(
        tables.drops.take(),
        BTreeMap::from([(DropReason::NatExhausted, 1)])
    );
    assert_eq!(told(&tables.events.borrow()), []);
}

/// The kernel may give a site's element to another site at once when the controller changes both: a packet that is being
/// looked at then is neither judged as the other site's nor mapped to a port of its.
#[test]
fn a_site_whose_element_turns_into_another_sites_gets_nothing_of_it() {
    let (own, others) = (pair_of_ports(NAT, 5000), pair_of_ports(NAT, 6000));
    let turning = |lookups: u32| {
        let mut tables = world_of(NOW_S, &[own], 0);
        tables
            .sites
            .insert(SITE_OTHER, Site::with_blocks(0, &[others], 0));
        tables.reused.set(Some((lookups, SITE_OTHER)));
        tables
    };
    let mut turned = 0;
    for lookups in 0..6 {
        let tables = turning(lookups);
        let (outcome, sent) = Program::Clear.run(&query(1026).linked(SITE, SA_INDEX), &tables);
        assert!(
            matches!(outcome, Ok(Verdict::Egress { .. })),
            "{lookups}: {outcome:?}"
        );
        assert_eq!(sent[34..36], own.first.to_be_bytes(), "{lookups}");
        let mapped: Vec<_> = tables
            .mapping_list()
            .into_values()
            .map(|mapping| mapping.port)
            .collect();
        assert_eq!(mapped, [own.first.to_be_bytes()], "{lookups}");
        assert_eq!(tables.used(SITE), [1, 0, 1], "{lookups}");
        turned += u32::from(tables.reused.get().is_none());
    }
    assert_eq!(
        turned, 3,
        "judgement, the search for a port, and once more behind it"
    );

    // What the other site's groups may do, this one's may not.
    let mut tables = turning(0);
    if let Some((_, rules)) = &mut tables.rules {
        rules.iter_mut().for_each(|rule| rule.groups = 1 << 40);
    }
    let of_group = Site::with_blocks(1 << 40, &[others], 0);
    tables.sites.insert(SITE_OTHER, of_group);
    let (outcome, _) = Program::Clear.run(&query(1026).linked(SITE, SA_INDEX), &tables);
    assert_eq!(outcome, Err(DropReason::RuleDefault));
}

/// The same between sites, of the site that calls and of the one that is called.
#[test]
fn a_flow_between_sites_is_judged_by_their_own_groups() {
    const GROUP: u64 = 1 << 40;
    const SITE_THIRD: u32 = SITE_OTHER + 1;
    let call = Clear::udp((TERMINAL, 1026), (NAT, 5000)).linked(SITE_OTHER, SA_INDEX);
    let between = Rule {
        destination_mask: [0; 4],
        directions: 1 << direction::SITE_TO_SITE,
        ..allow(1, [0; 4], 17, 0)
    };
    let of_caller = Rule {
        groups: GROUP,
        ..between
    };
    let of_called = Rule {
        to_groups: GROUP,
        ..between
    };
    for (lookups, rule) in [(0, of_caller), (1, of_called)] {
        let mut tables = world_of(NOW_S, &[pair_of_ports(NAT, 5000)], 0);
        tables.directions.push((32, NAT, direction::SITE_TO_SITE));
        tables.rules = Some((GENERATION, vec![rule]));
        tables.sites.insert(SITE_THIRD, Site::whole(GROUP, NAT_OTHER));
        take(&tables, (NAT, 5000), NOW_S);
        tables.reused.set(Some((lookups, SITE_THIRD)));
        let (outcome, _) = Program::Clear.run(&call, &tables);
        assert_eq!(outcome, Err(DropReason::RuleDefault), "{lookups}");
        assert_eq!(tables.reused.get(), None, "it was another's once");
    }
}

/// The same of filtering: what another site lets in is not let in to this one.
#[test]
fn a_packet_of_the_center_meets_the_filtering_of_its_own_site() {
    let mut tables = world_of(NOW_S, &[pair_of_ports(NAT, 5000)], 0);
    tables.rules = Some((GENERATION, vec![allow(1, NAME_SERVER, 17, 0)]));
    let open = Site::with_blocks(0, &[pair_of_ports(NAT, 6000)], flag::FILTER_NOTHING);
    tables.sites.insert(SITE_OTHER, open);
    take(&tables, (NAT, 5000), NOW_S);
    tables.reused.set(Some((0, SITE_OTHER)));
    let call = Clear::udp((NAME_SERVER, 54), (NAT, 5000)).ethernet(MAC, MAC_HOP);
    let (outcome, _) = Program::Core.run(&call, &tables);
    assert_eq!(outcome, Err(DropReason::NoFlow));
    assert_eq!(tables.reused.get(), None, "it was another's once");
    assert!(tables.flow_list().is_empty());
}

/// The controller hears before the last port is taken: of 64 ports, well before 64 are.
#[test]
fn a_block_is_asked_for_before_the_last_port_is_taken() {
    let block = Block {
        address: NAT,
        first: 5056,
        last: 5119,
    };
    let tables = world_of(NOW_S, &[block], flag::MORE_BLOCKS);
    let mut passed = 0;
    for port in 1024..1088u16 {
        let (outcome, sent) = Program::Clear.run(&query(port).linked(SITE, SA_INDEX), &tables);
        if matches!(outcome, Ok(Verdict::Egress { .. })) {
            passed += 1;
            let port = u16::from_be_bytes([sent[34], sent[35]]);
            assert!((block.first..=block.last).contains(&port), "{port}");
        }
        if !told(&tables.events.borrow()).is_empty() {
            break;
        }
    }
    assert!((32..64).contains(&passed), "asked after {passed}");
}

/// All blocks that a site may have are used, and none of them twice.
#[test]
fn every_block_is_used() {
    let blocks: Vec<Block> = (0..BLOCKS_MAX as u16)
        .map(|number| pair_of_ports([198, 51, 100, (number / 4 + 1) as u8], 5000 + 2 * number))
        .collect();
    let tables = world_of(NOW_S, &blocks, 0);
    let mut used = BTreeSet::new();
    // A packet may find none of the last ports at random; another one does.
    for port in 1024..2048u16 {
        let (outcome, sent) = Program::Clear.run(&query(port).linked(SITE, SA_INDEX), &tables);
        if matches!(outcome, Ok(Verdict::Egress { .. })) {
            let end = (sent[29], u16::from_be_bytes([sent[34], sent[35]]));
            assert!(used.insert(end), "{end:?} twice");
        }
    }
    let all: BTreeSet<_> = blocks
        .iter()
        .flat_map(|block| (block.first..=block.last).map(|port| (block.address[3], port)))
        .collect();
    assert_eq!(used, all);
}

/// Blocks of 16 ports for two sites, which share two addresses: the slots of each site.
fn slots() -> impl Strategy<Value = [Vec<Block>; 2]> {
    let block = |slot: u16| Block {
        address: if slot < 8 { NAT } else { NAT_OTHER },
        first: 4096 + slot % 8 * 16,
        last: 4096 + slot % 8 * 16 + 15,
    };
    let whose = proptest::collection::vec(0usize..3, 16);
    whose.prop_map(move |whose| {
        [0, 1].map(|site| {
            let slots = (0u16..16).zip(&whose).filter(|(_, owner)| **owner == site);
            slots.map(|(slot, _)| block(slot)).take(BLOCKS_MAX).collect()
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// Model: whatever sites with the same inner addresses send, each is seen by ports of its own blocks only, and no two
    /// inside endpoints by the same port; one inside endpoint by the same port each time.
    #[test]
    fn sites_are_seen_by_their_own_ports(
        blocks in slots(),
        packets in proptest::collection::vec((any::<bool>(), 4090u16..4240), 1..120),
    ) {
        let mut tables = world_of(NOW_S, &blocks[0], 0);
        tables.sites.insert(SITE_OTHER, Site::with_blocks(0, &blocks[1], 0));
        let (mut seen, mut taken): (Seen, BTreeSet<_>) = Default::default();
        for (first, port) in packets {
            let (site, own) = if first { (SITE, &blocks[0]) } else { (SITE_OTHER, &blocks[1]) };
            let (outcome, sent) = Program::Clear.run(&query(port).linked(site, SA_INDEX), &tables);
            if !matches!(outcome, Ok(Verdict::Egress { .. })) {
                // The site is told by ICMP code 13 (RFC 5508 REQ-8), or not again at once.
                let is_told = outcome.map(Verdict::path) == Ok(Path::SiteAnswered);
                prop_assert!(is_told || outcome == Err(DropReason::NatExhausted), "{outcome:?}");
                prop_assert!(!seen.contains_key(&(site, port)));
                continue;
            }
            let outside = ([sent[26], sent[27], sent[28], sent[29]], u16::from_be_bytes([sent[34], sent[35]]));
            let is_in = |block: &Block| {
                block.address == outside.0 && (block.first..=block.last).contains(&outside.1)
            };
            prop_assert!(own.iter().any(is_in), "{outside:?} is in none of {own:?}");
            match seen.insert((site, port), outside) {
                Some(before) => prop_assert_eq!(before, outside),
                None => prop_assert!(taken.insert(outside), "{outside:?} twice"),
            }
        }
    }
}
