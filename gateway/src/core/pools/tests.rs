use super::*;

fn pool(addresses: &str) -> NatPool {
    NatPool {
        name: "sites".into(),
        addresses: vec![addresses.parse().expect("range")],
        mode: PoolMode::Address,
    }
}

fn assign(
    all: &mut Assignments,
    name: &str,
    wanted: Wanted<'_>,
    fixed: &[&str],
) -> Result<Assignment, AssignError> {
    let fixed = fixed
        .iter()
        .map(|address| address.parse().expect("address"))
        .collect();
    all.assign(
        name,
        wanted,
        &Surroundings {
            fixed: &fixed,
            is_orphan: &|name| name.starts_with("gone"),
        },
    )
}

#[test]
fn a_name_keeps_what_it_has() {
    let (mut all, pool) = (Assignments::default(), pool("10.0.0.0/30"));
    let first = assign(&mut all, "a", Wanted::Pool(&pool), &[]).expect("free");
    let second = assign(&mut all, "b", Wanted::Pool(&pool), &[]).expect("free");
    let whole = PortBlock::whole(Ipv4Addr::new(10, 0, 0, 1));
    assert_eq!((first.site, first.blocks.as_slice()), (1, [whole].as_slice()));
    assert_ne!(first.blocks, second.blocks);
    assert_eq!(assign(&mut all, "a", Wanted::Pool(&pool), &[]), Ok(first));
}

#[test]
fn an_address_outside_the_changed_pool_is_replaced_and_the_number_stays() {
    let mut all = Assignments::default();
    assign(&mut all, "x", Wanted::Pool(&pool("10.0.0.0/30")), &[]).expect("free");
    let before = assign(&mut all, "a", Wanted::Pool(&pool("10.0.0.0/30")), &[]).expect("free");
    let after = assign(&mut all, "a", Wanted::Pool(&pool("10.9.0.0/30")), &[]).expect("free");
    assert_eq!(
        after,
        Assignment {
            site: before.site,
            blocks: vec![PortBlock::whole(Ipv4Addr::new(10, 9, 0, 1))],
        }
    );
}

#[test]
fn an_exhausted_pool_says_so_and_changes_nothing() {
    let (mut all, pool) = (Assignments::default(), pool("10.0.0.1"));
    assign(&mut all, "a", Wanted::Pool(&pool), &[]).expect("free");
    let before = all.clone();
    let error = assign(&mut all, "b", Wanted::Pool(&pool), &[]).expect_err("exhausted");
    assert_eq!(
        error,
        AssignError::PoolExhausted {
            pool: "sites".into(),
            size: 1
        }
    );
    assert_eq!(all, before);
}

#[test]
fn an_orphan_gives_way_only_when_the_pool_is_exhausted() {
    let (mut all, pool) = (Assignments::default(), pool("10.0.0.0/31"));
    let gone = assign(&mut all, "gone-1", Wanted::Pool(&pool), &[]).expect("free");
    let first = assign(&mut all, "a", Wanted::Pool(&pool), &[]).expect("free");
    assert_ne!(first.blocks, gone.blocks);
    let second = assign(&mut all, "b", Wanted::Pool(&pool), &[]).expect("orphan's");
    assert_eq!(second.blocks, gone.blocks);
    assert_eq!(all.get("gone-1"), None);
}

/// Every site number is somebody's: names in their order, the first with site number 1 and so on, each with an address of its
/// own from 10.0.0.1 on.
fn all_numbers_taken(name: impl Fn(u32) -> String) -> Assignments {
    let mut all = Assignments::default();
    for site in 1..SITES_MAX {
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + site);
        all.accept(Proposal {
            name: name(site),
            assignment: Assignment {
                site,
                blocks: vec![PortBlock::whole(address)],
            },
            evicts: None,
        });
    }
    all
}

/// Regression: a name kept its number for good, also when the configuration no longer admitted it. Once 65,535 names had been
/// seen, a new `[[site]]` kept the daemon from starting, with addresses left.
#[test]
fn an_orphan_gives_its_number_when_none_is_left() {
    let mut all = all_numbers_taken(|site| format!("gone-{site:05}"));
    let pool = pool("10.0.0.0/15");
    let around = Surroundings {
        fixed: &HashSet::new(),
        is_orphan: &|name| name.starts_with("gone"),
    };
    let proposal = all.propose("a", Wanted::Pool(&pool), &around).expect("orphan's");
    let changes = all.changes(&proposal);
    let changes = changes.iter().map(|change| {
        (
            change.given,
            change.site,
            change.name.as_str(),
            change.block.address,
        )
    });
    assert_eq!(
        changes.collect::<Vec<_>>(),
        [
            (false, 1, "gone-00001", Ipv4Addr::new(10, 0, 0, 1)),
            (true, 1, "a", Ipv4Addr::new(10, 1, 0, 0)),
        ]
    );
    all.accept(proposal);
    assert_eq!(all.iter().count(), SITES_MAX as usize - 1);
    assert_eq!(all.check(), Ok(()));
    // One that has lost its address goes before those that have one.
    all.prune(|name, _, _| name != "gone-00500");
    let b = assign(&mut all, "b", Wanted::Pool(&pool), &[]).expect("orphan's");
    assert_eq!((b.site, all.get("gone-00500")), (500, None));
    // A fixed address has none to take from.
    let fixed = Ipv4Addr::new(10, 9, 0, 1);
    let c = assign(&mut all, "c", Wanted::Fixed(fixed), &["10.9.0.1"]).expect("orphan's");
    assert_eq!((c.site, all.get("gone-00002")), (2, None));
    assert_eq!(all.iter().count(), SITES_MAX as usize - 1);
}

/// One orphan is enough where both number and address are short.
#[test]
fn an_orphan_gives_number_and_address_together() {
    let mut all = all_numbers_taken(|site| format!("gone-{site:05}"));
    let short = pool("10.0.1.0");
    let got = assign(&mut all, "a", Wanted::Pool(&short), &[]).expect("orphan's");
    let whole = PortBlock::whole(Ipv4Addr::new(10, 0, 1, 0));
    assert_eq!((got.site, got.blocks.as_slice()), (256, [whole].as_slice()));
    assert_eq!(all.get("gone-00256"), None);
    assert_eq!(all.iter().count(), SITES_MAX as usize - 1);
}

/// A deterministic plan has room for some numbers alone.
#[test]
fn an_orphan_with_a_number_of_the_plan_gives_it() {
    let mut all = all_numbers_taken(|site| format!("gone-{:05}", SITES_MAX - site));
    let plan = BlockPlan::new(PlanKind::Deterministic, 2_048, 1, &crate::config::Nat::default());
    let pool = NatPool {
        mode: PoolMode::Block(plan),
        ..pool("10.9.0.0/29")
    };
    let got = assign(&mut all, "a", Wanted::Pool(&pool), &[]).expect("orphan's");
    assert_eq!(got.site, pool.room() as u32);
    assert_eq!(pool.planned(&plan, got.site), got.blocks.first().copied());
    assert_eq!(all.iter().count(), SITES_MAX as usize - 1);
    assert_eq!(all.check(), Ok(()));
}

#[test]
fn without_orphans_there_are_as_many_sites_as_numbers() {
    let mut all = all_numbers_taken(|site| format!("x-{site:05}"));
    let before = all.clone();
    let error = assign(&mut all, "a", Wanted::Pool(&pool("10.0.0.0/15")), &[]).expect_err("exhausted");
    assert_eq!(error, AssignError::SitesExhausted);
    assert!(error.to_string().contains("remove a [[site]]"), "{error}");
    assert_eq!(all, before);
}

#[test]
fn a_fixed_address_is_taken_from_whoever_holds_it() {
    let (mut all, pool) = (Assignments::default(), pool("10.0.0.0/31"));
    let held = assign(&mut all, "a", Wanted::Pool(&pool), &[]).expect("free");
    let address = held.blocks[0].address;
    let fixed = address.to_string();
    assign(&mut all, "h", Wanted::Fixed(address), &[&fixed]).expect("fixed");
    let moved = assign(&mut all, "a", Wanted::Pool(&pool), &[&fixed]).expect("other");
    assert_ne!(moved.blocks, held.blocks);
}

/// What releases before port blocks wrote is read, and an address as a whole is still written so.
#[test]
fn what_was_stored_before_is_understood() {
    let stored = r#"{"names":{"a":{"site":1,"nat_address":"10.0.0.1"}}}"#;
    let all: Assignments = serde_json::from_str(stored).expect("JSON");
    let held = all.get("a").expect("held");
    assert_eq!(held.blocks, [PortBlock::whole(Ipv4Addr::new(10, 0, 0, 1))]);
    assert_eq!(serde_json::to_string(&all).expect("JSON"), stored);
    let mut more = all.clone();
    let block = PortBlock {
        address: Ipv4Addr::new(10, 0, 0, 2),
        first_port: 2048,
        last_port: 4095,
    };
    more.accept(Proposal {
        name: "b".into(),
        assignment: Assignment {
            site: 2,
            blocks: vec![block],
        },
        evicts: None,
    });
    let text = serde_json::to_string(&more).expect("JSON");
    assert_eq!(serde_json::from_str::<Assignments>(&text).expect("JSON"), more);
}

#[test]
fn what_two_names_hold_is_a_conflict() {
    let stored = |one: &str, other: &str| {
        let text = format!(r#"{{"names":{{"a":{one},"b":{other}}}}}"#);
        serde_json::from_str::<Assignments>(&text).expect("JSON").check()
    };
    let block = r#""blocks":[{"address":"10.0.0.1","first_port":2048,"last_port":4095}]"#;
    let whole = r#"{"site":1,"nat_address":"10.0.0.1"}"#;
    let error = stored(whole, &format!("{{\"site\":2,{block}}}")).expect_err("overlap");
    assert_eq!((error.one.as_str(), error.other.as_str()), ("a", "b"));
    assert_eq!(error.what, "10.0.0.1:2048-4095");
    let error = stored(whole, r#"{"site":1,"nat_address":"10.0.0.2"}"#).expect_err("number");
    assert_eq!(error.what, "site number 1");
    assert_eq!(stored(whole, r#"{"site":2,"nat_address":"10.0.0.2"}"#), Ok(()));
}
