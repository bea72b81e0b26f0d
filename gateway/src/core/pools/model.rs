//! The allocator against a naive one that looks at everything.
use std::collections::{BTreeMap, BTreeSet, HashSet};

use proptest::prelude::*;

use super::*;
use crate::config::{Nat, PlanKind};

/// What is done to the allocator.
#[derive(Clone, Debug)]
enum Step {
    /// A name comes, or comes again.
    Assign(u8),
    /// Its ports run short.
    More(u8),
    /// One of its blocks is not needed any more.
    Less(u8, usize),
    /// The configuration no longer admits it.
    Orphan(u8),
    /// The daemon starts again.
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = 0u8..12;
    proptest::collection::vec(
        prop_oneof![
            4 => name.clone().prop_map(Step::Assign),
            3 => name.clone().prop_map(Step::More),
            2 => (name.clone(), 0usize..5).prop_map(|(name, at)| Step::Less(name, at)),
            1 => name.prop_map(Step::Orphan),
            1 => Just(Step::Restart),
        ],
        1..80,
    )
}

fn pool(kind: PlanKind, blocks_max: usize) -> NatPool {
    NatPool {
        name: "sites".into(),
        addresses: vec![
            "10.0.0.0/30".parse().expect("range"),
            "10.9.0.7".parse().expect("range"),
        ],
        // Three blocks of an address: nine in all, for twelve names.
        mode: PoolMode::Block(BlockPlan::new(kind, 16_384, blocks_max, &Nat::default())),
    }
}

/// Every block of the pool, one after another.
fn every_block(pool: &NatPool) -> Vec<PortBlock> {
    let PoolMode::Block(plan) = pool.mode else {
        return Vec::new();
    };
    let of = |address| (0..plan.per_address).filter_map(move |number| plan.block(address, number));
    pool.addresses_from(0).flat_map(of).collect()
}

/// What the naive one knows: who holds what, in a list for each name.
#[derive(Default)]
struct Naive {
    held: BTreeMap<String, Vec<PortBlock>>,
    orphans: BTreeSet<String>,
}

impl Naive {
    fn free(&self, pool: &NatPool) -> Vec<PortBlock> {
        let taken: HashSet<_> = self.held.values().flatten().copied().collect();
        let all = every_block(pool);
        all.into_iter().filter(|block| !taken.contains(block)).collect()
    }

    fn check(&self, real: &Assignments, pool: &NatPool, max: usize) -> Result<(), TestCaseError> {
        let same: BTreeMap<_, _> = real
            .iter()
            .map(|(name, held)| (name.to_owned(), held.blocks.clone()))
            .collect();
        prop_assert_eq!(&same, &self.held);
        prop_assert_eq!(real.check(), Ok(()));
        for (name, held) in real.iter() {
            prop_assert!((1..=max).contains(&held.blocks.len()), "{name}: {held:?}");
            for block in &held.blocks {
                prop_assert!(every_block(pool).contains(block));
                let found = real.holder(block.address, block.last_port);
                prop_assert_eq!(found.map(|(name, _)| name), Some(name));
            }
            // Those of one address are together.
            let mut addresses: Vec<_> = held.blocks.iter().map(|block| block.address).collect();
            addresses.dedup();
            let different: BTreeSet<_> = addresses.iter().collect();
            prop_assert_eq!(different.len(), addresses.len());
        }
        Ok(())
    }
}

fn run(steps: &[Step], pool: &NatPool, max: usize) -> Result<(), TestCaseError> {
    let (mut real, mut naive) = (Assignments::default(), Naive::default());
    let fixed = HashSet::new();
    for step in steps {
        match step {
            Step::Assign(name) => {
                let name = format!("n{name}");
                naive.orphans.remove(&name);
                let orphans = naive.orphans.clone();
                let around = Surroundings {
                    fixed: &fixed,
                    is_orphan: &|name| orphans.contains(name),
                };
                let before = naive.held.get(&name).cloned();
                let outcome = real.propose(&name, Wanted::Pool(pool), &around);
                if let Some(before) = before {
                    prop_assert_eq!(outcome.map(|new| new.assignment.blocks), Ok(before));
                    continue;
                }
                let free = naive.free(pool);
                match outcome {
                    Ok(proposal) => {
                        let blocks = proposal.assignment.blocks.clone();
                        prop_assert_eq!(blocks.len(), 1);
                        match &proposal.evicts {
                            None => prop_assert!(free.contains(&blocks[0])),
                            Some(evicted) => {
                                prop_assert!(free.is_empty() && orphans.contains(evicted));
                                let lost = naive.held.remove(evicted).expect("it held something");
                                prop_assert!(lost.contains(&blocks[0]));
                            }
                        }
                        naive.held.insert(name, blocks);
                        real.accept(proposal);
                    }
                    Err(_) => {
                        prop_assert!(free.is_empty() && !naive.held.keys().any(|name| orphans.contains(name)))
                    }
                }
            }
            Step::More(name) => {
                let name = format!("n{name}");
                let free = naive.free(pool);
                let orphans = naive.orphans.clone();
                let around = Surroundings {
                    fixed: &fixed,
                    // Whose ports run short is somebody's.
                    is_orphan: &|other| other != name && orphans.contains(other),
                };
                let outcome = real.propose_more(&name, pool, &around);
                let lost = outcome.as_ref().ok().and_then(|proposal| proposal.evicts.clone());
                if let Some(lost) = &lost {
                    prop_assert!(free.is_empty() && orphans.contains(lost) && *lost != name);
                }
                let lost = lost.and_then(|lost| naive.held.remove(&lost)).unwrap_or_default();
                let someone_else = naive
                    .held
                    .keys()
                    .any(|other| *other != name && orphans.contains(other));
                match (outcome, naive.held.get_mut(&name)) {
                    (Ok(proposal), Some(held)) => {
                        prop_assert!(held.len() < max);
                        let new: Vec<_> = proposal
                            .assignment
                            .blocks
                            .iter()
                            .filter(|block| !held.contains(block))
                            .copied()
                            .collect();
                        prop_assert_eq!(new.len(), 1);
                        prop_assert!(free.contains(&new[0]) || lost.contains(&new[0]));
                        prop_assert_eq!(proposal.assignment.blocks[0], held[0]);
                        // As long as an address that it has is not full, it gets no other.
                        let own = free
                            .iter()
                            .any(|block| held.iter().any(|old| old.address == block.address));
                        let is_own = held.iter().any(|old| old.address == new[0].address);
                        prop_assert!(is_own || !own);
                        prop_assert!(own || !is_own || !lost.is_empty());
                        held.clone_from(&proposal.assignment.blocks);
                        real.accept(proposal);
                    }
                    (Err(_), Some(held)) => {
                        prop_assert!(held.len() == max || (free.is_empty() && !someone_else));
                    }
                    (outcome, None) => prop_assert!(outcome.is_err()),
                }
            }
            Step::Less(name, at) => {
                let name = format!("n{name}");
                let Some(held) = naive.held.get_mut(&name) else {
                    continue;
                };
                let Some(block) = held.get(*at).copied() else {
                    continue;
                };
                let proposal = real.propose_less(&name, &block);
                prop_assert_eq!(proposal.is_some(), *at > 0, "the first one stays");
                if let Some(proposal) = proposal {
                    held.remove(*at);
                    real.accept(proposal);
                }
            }
            Step::Orphan(name) => {
                naive.orphans.insert(format!("n{name}"));
            }
            Step::Restart => {
                let stored = serde_json::to_string(&real).expect("JSON");
                let again: Assignments = serde_json::from_str(&stored).expect("JSON");
                prop_assert_eq!(&again, &real);
                real = again;
            }
        }
        naive.check(&real, pool, max)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    /// Model: blocks do not overlap, a name keeps what it has over everything, gets no more than it may, and is refused only
    /// when nothing is left; the same after a restart.
    #[test]
    fn dynamic_blocks_are_those_of_the_naive_allocator(steps in steps(), max in 1usize..=4) {
        run(&steps, &pool(PlanKind::Dynamic, max), max)?;
    }

    /// Model: what a deterministic plan gives is what the number says, whoever came before.
    #[test]
    fn a_deterministic_block_follows_from_the_number(names in proptest::collection::vec(0u8..12, 1..30)) {
        let pool = pool(PlanKind::Deterministic, 1);
        let PoolMode::Block(plan) = pool.mode else { unreachable!() };
        let mut all = Assignments::default();
        let (fixed, is_orphan) = (HashSet::new(), |_: &str| false);
        let around = Surroundings { fixed: &fixed, is_orphan: &is_orphan };
        for name in names {
            let name = format!("n{name}");
            match all.assign(&name, Wanted::Pool(&pool), &around) {
                Ok(got) => {
                    prop_assert_eq!(&got.blocks, &vec![pool.planned(&plan, got.site).expect("in the plan")]);
                    let block = got.blocks[0];
                    prop_assert_eq!(pool.planned_site(&plan, block.address, block.first_port), Some(got.site));
                }
                Err(error) => {
                    prop_assert!(matches!(error, AssignError::BeyondPlan { site: 10.., .. }), "{error}");
                    prop_assert_eq!(all.get(&name), None);
                }
            }
            prop_assert_eq!(all.check(), Ok(()));
        }
    }
}
