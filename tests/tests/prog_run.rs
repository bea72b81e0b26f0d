//! The packet vectors in the kernel, by `BPF_PROG_TEST_RUN`; needs root.

use std::collections::BTreeMap;

use aya::util::KernelVersion;
use gateway_common::abi::limit;
use gateway_common::abi::stats::Path;
use gateway_common::drop::DropReason;
use gateway_tests::kernel::{Kernel, increase, monotonic, wait_for_a_fresh_second};
use gateway_tests::vectors::{self, Expect, Step, Vector};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;

/// The XDP code.
fn code(expect: &Expect) -> u32 {
    match expect {
        Expect::Drop(_) => XDP_DROP,
        Expect::Pass(_) => XDP_PASS,
        Expect::Worker(..) | Expect::Egress(_) | Expect::Answer(..) => XDP_REDIRECT,
        Expect::Reflect(_) | Expect::CenterAnswer(..) => XDP_TX,
    }
}

/// Runs one step; says what is wrong.
fn check(kernel: &mut Kernel, step: &Step) -> anyhow::Result<Option<String>> {
    let (drops, paths) = (kernel.drops()?, kernel.paths()?);
    let run = kernel.run(step.program.name(), &step.frame)?;
    let (code, (dropped, path)) = (code(&step.expect), step.expect.counted());
    let new_drops = increase(&drops, &kernel.drops()?);
    let new_paths = increase(&paths, &kernel.paths()?);
    if run.code != code {
        return Ok(Some(format!(
            "code {}, not {code}; drops {new_drops:?}",
            run.code
        )));
    }
    let frame = step.expect.frame().unwrap_or(&step.frame);
    if run.frame != frame {
        return Ok(Some(format!("\n got {:02x?}\nwant {frame:02x?}", run.frame)));
    }
    let right = new_drops == dropped && path.is_none_or(|path| new_paths.get(&(path as u32)) == Some(&1));
    Ok((!right).then(|| format!("counted {new_drops:?} {new_paths:?}, not {dropped:?} {path:?}")))
}

fn run_vector(kernel: &mut Kernel, vector: &Vector) -> anyhow::Result<Vec<String>> {
    kernel.fill(&vector.world)?;
    let mut failures = vec![];
    for (number, step) in vector.steps.iter().enumerate() {
        if let Some(failure) = check(kernel, step)? {
            failures.push(format!("{} [{number}]: {failure}", vector.description));
        }
    }
    Ok(failures)
}

#[test]
fn vectors_hold_in_the_kernel() -> anyhow::Result<()> {
    let mut kernel = Kernel::load()?;
    // The world's two interfaces have the last places that there are.
    kernel.set_neighbours(limit::INTERFACES_MAX - 2);
    let mut failures = vec![];
    let mut vectors = vectors::Fresh::default();
    for index in 0.. {
        wait_for_a_fresh_second();
        let Some(vector) = vectors.get(index, u32::try_from(monotonic().as_secs())?) else {
            break;
        };
        failures.extend(run_vector(&mut kernel, vector)?);
    }
    assert!(
        failures.is_empty(),
        "{} on {:?}:\n{}",
        failures.len(),
        KernelVersion::current(),
        failures.join("\n")
    );
    Ok(())
}

/// A generation that is replaced decides on no packet that comes later; running flows go on.
#[test]
fn a_new_generation_decides_at_once() -> anyhow::Result<()> {
    use gateway_common::abi::rule::action;
    use gateway_common::packet::tcp::flag::{ACK, SYN};
    use gateway_tests::frames::Clear;
    use vectors::world::{self, SA_INDEX, SERVER, SITE, TERMINAL};

    let mut kernel = Kernel::load()?;
    kernel.fill(&world::world(u32::try_from(monotonic().as_secs())?))?;
    let syn = |port| Clear::tcp((TERMINAL, port), (SERVER, 443), SYN).linked(SITE, SA_INDEX);
    assert_eq!(kernel.run("clear", &syn(2000))?.code, XDP_REDIRECT);

    let deny = gateway_common::abi::rule::Rule {
        action: action::DENY,
        ..world::allow(0, SERVER, 6, 443)
    };
    kernel.load_rules(5, &[deny])?;
    assert_eq!(kernel.run("clear", &syn(2001))?.code, XDP_DROP);
    assert_eq!(
        kernel.run("clear", &syn(2000))?.code,
        XDP_REDIRECT,
        "the flow of before goes on"
    );
    assert_eq!(kernel.drops()?, BTreeMap::from([(DropReason::RuleDenied, 1)]));

    kernel.load_rules(6, &[world::allow(0, SERVER, 6, 443)])?;
    assert_eq!(kernel.run("clear", &syn(2001))?.code, XDP_REDIRECT);
    let out_of_state = Clear::tcp((TERMINAL, 2001), (SERVER, 443), ACK).linked(SITE, SA_INDEX);
    assert_eq!(kernel.run("clear", &out_of_state)?.code, XDP_DROP);
    let state = kernel.state();
    let generations: Vec<u32> = state.flows.values().map(|flow| flow.generation).collect();
    assert_eq!(generations, [4, 6]);
    Ok(())
}

/// The last of as many rules as fit is found, and no rule behind the count.
#[test]
fn all_rules_are_asked() -> anyhow::Result<()> {
    use gateway_common::abi::limit::RULES_MAX;
    use gateway_tests::frames::Clear;
    use vectors::world::{self, NAME_SERVER, SA_INDEX, SITE, TERMINAL};

    let mut kernel = Kernel::load()?;
    kernel.fill(&world::world(u32::try_from(monotonic().as_secs())?))?;
    let query = |port| Clear::udp((TERMINAL, port), (NAME_SERVER, 53)).linked(SITE, SA_INDEX);
    let mut rules = vec![world::allow(1, NAME_SERVER, 17, 54); RULES_MAX as usize];
    kernel.load_rules(5, &rules)?;
    assert_eq!(kernel.run("clear", &query(2000))?.code, XDP_DROP);
    rules.pop();
    rules.push(world::allow(2, NAME_SERVER, 17, 53));
    kernel.load_rules(6, &rules)?;
    assert_eq!(kernel.run("clear", &query(2000))?.code, XDP_REDIRECT);
    Ok(())
}

/// A redirect whose target is gone is a drop, and counts as nothing else.
#[test]
fn a_missing_target_is_a_drop() -> anyhow::Result<()> {
    use gateway_tests::frames::Clear;
    use vectors::world::{self, NAME_SERVER, SA_INDEX, SITE, TERMINAL};

    let mut kernel = Kernel::load()?;
    let mut tables = world::world(u32::try_from(monotonic().as_secs())?);
    for (_, _, hop) in &mut tables.next_hops {
        hop.ifindex = 999_999;
    }
    kernel.fill(&tables)?;
    let query = Clear::udp((TERMINAL, 2000), (NAME_SERVER, 53)).linked(SITE, SA_INDEX);
    assert_eq!(kernel.run("clear", &query)?.code, XDP_DROP);
    assert_eq!(
        kernel.drops()?,
        BTreeMap::from([(DropReason::NextHopUnresolved, 1)])
    );
    assert_eq!(kernel.paths()?.get(&(Path::ClearForwarded as u32)), None);
    Ok(())
}

/// RFC 4301 section 8.2: what a router says of a tunnel's path reaches the controller, and what is forged does not.
#[test]
fn a_narrow_path_is_told_to_the_controller() -> anyhow::Result<()> {
    use gateway_tests::vectors::pmtu;

    let mut kernel = Kernel::load()?;
    let (tables, frame, event) = pmtu::heeded(u32::try_from(monotonic().as_secs())?);
    kernel.fill(&tables)?;
    kernel.take_events()?;
    assert_eq!(kernel.run("wan", &frame)?.code, XDP_DROP);
    assert_eq!(kernel.take_events()?, [event]);
    assert_eq!(kernel.drops()?, BTreeMap::from([(DropReason::PathMtu, 1)]));
    let mut forged = frame;
    // The quoted SPI.
    forged[14 + 20 + 8 + 20] ^= 1;
    assert_eq!(kernel.run("wan", &forged)?.code, XDP_DROP);
    assert_eq!(kernel.take_events()?, []);
    Ok(())
}

/// Without a rule set, without a socket and without an egress interface, packets are dropped.
#[test]
fn an_empty_map_set_fails_closed() -> anyhow::Result<()> {
    let mut kernel = Kernel::load()?;
    for vector in vectors::all(u32::try_from(monotonic().as_secs())?) {
        for step in vector.steps {
            let code = kernel.run(step.program.name(), &step.frame)?.code;
            assert_eq!(code, XDP_DROP, "{}", vector.description);
        }
    }
    Ok(())
}
