//! Port blocks over the life of the daemon: given on demand, kept over restarts and crashes, and logged before they are used.
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use gateway::api::message::Request;
use gateway::core::nat_log::{Event as Logged, Question, Record, who};
use gateway::runtime::{Happening, nat_log};
use gateway_common::abi::event::{Event, kind};
use gateway_common::abi::nat::OutsideKey;
use gateway_common::abi::site::{Block, flag};

use crate::node::{Node, Options, pair, until};
use crate::{log, names, up};

/// Two sites that share addresses, and one with an address of its own.
const SITES: &str = r#"
[[nat_pool]]
name = "shared"
addresses = ["10.201.0.0/30"]
mode = "block"
block_size = 16384
blocks_max = 2
[[site]]
name = "clinic"
identity = "clinic.example"
networks = ["192.168.1.0/24"]
nat_pool = "shared"
[[site]]
name = "pharmacy"
identity = "pharmacy.example"
networks = ["192.168.1.0/24"]
nat_pool = "shared"
[[site]]
name = "hospital"
identity = "hospital.example"
networks = ["192.168.1.0/24"]
nat_address = "10.202.0.1"
"#;

fn start() -> Node {
    Node::alone(tempfile::tempdir().expect("folder"), SITES)
}

/// The blocks that new mappings of a site come from, as the data plane was told.
fn blocks(node: &Node, site: u32) -> Vec<Block> {
    let site = node.engine().sites[&site];
    site.blocks[..usize::from(site.blocks_count)].to_vec()
}

fn site(node: &Node, name: &str) -> u32 {
    let plan = node.ask(Request::NatPlan);
    let pools = plan["pools"].as_array().expect("pools");
    let blocks = pools
        .iter()
        .flat_map(|pool| pool["blocks"].as_array().expect("blocks"));
    let mut of_name = blocks.filter(|block| block["name"] == name);
    let number = of_name.next().expect(name)["site"].as_u64();
    u32::try_from(number.expect("a number")).expect("small")
}

/// The number of a site whose address is in no pool.
fn hospital(node: &Node) -> u32 {
    let sites = node.engine().sites.clone();
    let known = [site(node, "clinic"), site(node, "pharmacy")];
    let others: Vec<_> = sites.into_keys().filter(|site| !known.contains(site)).collect();
    assert_eq!(others.len(), 1);
    others[0]
}

/// Ports of a site run short.
fn run_short(node: &Node, site: u32) {
    let event = Event {
        kind: kind::PORTS_SHORT,
        site,
        rule: 0,
        generation: 0,
        source: [192, 168, 1, 10],
        destination: [10, 100, 0, 10],
        source_port: [0, 80],
        destination_port: [0, 81],
        protocol: 6,
        pad: [0; 3],
    };
    // Many packets meet it before the first answer.
    for _ in 0..50 {
        node.engine().happened.push(Happening::Packet(event));
    }
}

fn records(state_dir: &Path) -> Vec<Record> {
    let read = nat_log::read(state_dir).expect("read");
    assert_eq!(read.faults, [""; 0]);
    read.records
}

fn holder(state_dir: &Path, block: &Block) -> Vec<String> {
    let records = records(state_dir);
    let question = Question {
        address: Ipv4Addr::from(block.address),
        port: Some(block.first),
        at: None,
    };
    let found = who(&records, &question);
    assert_eq!(found.missing, []);
    found
        .answers
        .into_iter()
        .map(|answer| answer.holding.name)
        .collect()
}

#[track_caller]
fn gets_another(node: &Node, site: u32) -> Vec<Block> {
    let before = blocks(node, site).len();
    run_short(node, site);
    until(
        || (blocks(node, site).len() > before).then_some(()),
        || log(node, "clinic"),
    );
    blocks(node, site)
}

#[test]
fn a_site_whose_ports_run_short_gets_another_block_of_its_address() {
    let node = start();
    let (clinic, pharmacy) = (site(&node, "clinic"), site(&node, "pharmacy"));
    let (first, other) = (blocks(&node, clinic), blocks(&node, pharmacy));
    assert_eq!((first.len(), other.len()), (1, 1));
    assert_ne!(first[0].address, other[0].address, "each has room to grow");
    assert_ne!(node.engine().sites[&clinic].flags & flag::MORE_BLOCKS, 0);

    let both = gets_another(&node, clinic);
    assert_eq!(both[0], first[0]);
    assert_eq!(both[1].address, first[0].address);
    let told = node.engine().sites[&clinic];
    assert_eq!((told.blocks_count, told.blocks_paired), (2, 2));
    assert_eq!(holder(node.state_dir(), &both[1]), ["clinic"]);
    assert!(log(&node, "clinic").contains("its ports ran short"));

    // 50 events were one block, and a third one is more than it may have.
    run_short(&node, clinic);
    until(
        || names(&node).contains(&"ports_short".to_owned()).then_some(()),
        || log(&node, "clinic"),
    );
    assert_eq!(blocks(&node, clinic), both);
    let count = |name| names(&node).iter().filter(|other| *other == name).count();
    assert_eq!((count("port_block_assigned"), count("ports_short")), (1, 1));
    assert!(log(&node, "clinic").contains("has 2 of NAT pool \"shared\" and may have no more"));
    // Its questions would keep others' from being heard: it does not ask for a while, and then again.
    let asks = |site| node.engine().sites[&site].flags & flag::MORE_BLOCKS != 0;
    until(|| (!asks(clinic)).then_some(()), || log(&node, "clinic"));
    assert!(asks(pharmacy));
    until(|| asks(clinic).then_some(()), || log(&node, "clinic"));

    let hospital = hospital(&node);
    run_short(&node, hospital);
    until(
        || {
            let said = log(&node, "hospital");
            said.contains("has an address of its own").then_some(())
        },
        || log(&node, "hospital"),
    );
}

#[test]
fn use_of_blocks_is_shown() {
    let node = start();
    let clinic = site(&node, "clinic");
    let block = blocks(&node, clinic)[0];
    node.engine().outsides = (0..3u16)
        .map(|port| OutsideKey {
            address: block.address,
            port: (block.first + port).to_be_bytes(),
            protocol: 6,
            pad: 0,
        })
        .collect();
    let list = node.ask(Request::NatList {
        site: Some("clinic".into()),
        limit: 10,
    });
    let shown = &list["sites"][0]["blocks"][0];
    assert_eq!((&shown["tcp"], &shown["udp"]), (&3.into(), &0.into()));
    assert_eq!(shown["first_port"], block.first);
    let list = node.ask(Request::NatList {
        site: Some("hospital".into()),
        limit: 10,
    });
    assert_eq!(list["sites"][0]["blocks"][0]["last_port"], 65_535);
}

#[test]
fn blocks_stay_with_their_site_over_a_restart_and_a_crash() {
    let node = start();
    let (clinic, pharmacy) = (site(&node, "clinic"), site(&node, "pharmacy"));
    let both = gets_another(&node, clinic);
    let other = blocks(&node, pharmacy);

    // What the disk holds at this moment is what a crash leaves.
    let crashed = tempfile::tempdir().expect("folder");
    copy(node.state_dir(), crashed.path());
    let stopped = node.stop();
    for state in [stopped, crashed] {
        let before = records(state.path());
        let node = Node::alone(state, SITES);
        assert_eq!(
            (site(&node, "clinic"), site(&node, "pharmacy")),
            (clinic, pharmacy)
        );
        assert_eq!(
            (blocks(&node, clinic), blocks(&node, pharmacy)),
            (both.clone(), other.clone())
        );
        let after = records(node.state_dir());
        assert_eq!(after[..before.len()], before);
        let new: Vec<_> = after[before.len()..].iter().map(|record| &record.event).collect();
        assert!(matches!(new.as_slice(), [Logged::Started { .. }]), "{new:?}");
        assert_eq!(holder(node.state_dir(), &both[1]), ["clinic"]);
    }
}

#[test]
fn a_stop_is_logged() {
    let state = start().stop();
    let last = records(state.path()).pop().expect("records");
    assert_eq!(last.event, Logged::Stopped);
}

/// A crash between log and state: the log says that a site has a block which the state knows nothing of. Nobody used it.
#[test]
fn what_a_crash_left_half_done_is_put_right() {
    let node = start();
    let clinic = site(&node, "clinic");
    let both = gets_another(&node, clinic);
    let state = node.stop();
    fs::remove_file(state.path().join("sites.jsonl")).expect("the block's record");
    assert_eq!(holder(state.path(), &both[1]), ["clinic"]);
    let node = Node::alone(state, SITES);
    assert_eq!(blocks(&node, clinic), both[..1]);
    assert_eq!(holder(node.state_dir(), &both[1]), [""; 0]);
    // The block is free, and may be given out again.
    assert_eq!(gets_another(&node, clinic), both);
    assert_eq!(holder(node.state_dir(), &both[1]), ["clinic"]);
}

#[test]
fn a_block_that_cannot_be_stored_is_not_given_out() {
    let node = start();
    let clinic = site(&node, "clinic");
    let first = blocks(&node, clinic);
    // Something is in the way of the file of changes.
    let changes = node.state_dir().join("sites.jsonl");
    fs::create_dir(&changes).expect("a folder in its place");
    run_short(&node, clinic);
    until(
        || names(&node).contains(&"ports_short".to_owned()).then_some(()),
        || log(&node, "clinic"),
    );
    assert_eq!(blocks(&node, clinic), first);
    let open: Vec<_> = records(node.state_dir())
        .into_iter()
        .map(|record| record.event)
        .collect();
    let (Some(Logged::Released(undone)), Some(Logged::Assigned(done))) =
        (open.last(), open.get(open.len() - 2))
    else {
        panic!("{open:?}");
    };
    assert_eq!((undone, undone.name.as_str()), (done, "clinic"));
    // As soon as it can be stored, it is given out.
    fs::remove_dir(&changes).expect("out of the way");
    until(
        || {
            run_short(&node, clinic);
            (blocks(&node, clinic).len() > 1).then_some(())
        },
        || log(&node, "clinic"),
    );
}

/// What a configuration takes away is released in the log at its start, and what it gives is assigned.
#[test]
fn a_changed_configuration_is_in_the_log() {
    let node = start();
    let (clinic, pharmacy) = (site(&node, "clinic"), site(&node, "pharmacy"));
    let (old, other) = (blocks(&node, clinic)[0], blocks(&node, pharmacy)[0]);
    let state = node.stop();
    let planned = SITES.replace("blocks_max = 2", "plan = \"deterministic\"");
    let node = Node::alone(state, &planned);
    let new = blocks(&node, pharmacy)[0];
    // The plan puts numbers 2 and 3 behind each other on the first address.
    assert_eq!(site(&node, "pharmacy"), pharmacy);
    assert_eq!(new.address, [10, 201, 0, 1]);
    assert_ne!(new, other);
    assert_eq!(holder(node.state_dir(), &new), ["pharmacy"]);
    assert_eq!(holder(node.state_dir(), &other), [""; 0]);
    let holder_of_old = holder(node.state_dir(), &old);
    assert!(holder_of_old != ["pharmacy"], "{holder_of_old:?}");
}

/// What is published has an outside of its own, and somebody may ask whose it was.
#[test]
fn publications_are_in_the_log() {
    let publications = r#"
[[publish]]
name = "mri"
site = "clinic"
address = "192.168.1.20"
protocol = "tcp"
port = 443
on = "10.203.0.1:8443"
from = ["10.100.0.0/24"]
[[publish]]
name = "server"
site = "hospital"
address = "192.168.1.21"
on = "10.203.0.2"
from = ["10.100.0.0/24"]
"#;
    let node = Node::alone(
        tempfile::tempdir().expect("folder"),
        &format!("{SITES}{publications}"),
    );
    let at = |address, port| Block {
        address,
        first: port,
        last: port,
    };
    let (port, whole) = (at([10, 203, 0, 1], 8443), at([10, 203, 0, 2], 50_000));
    assert_eq!(holder(node.state_dir(), &port), ["clinic"]);
    assert_eq!(holder(node.state_dir(), &at([10, 203, 0, 1], 8444)), [""; 0]);
    assert_eq!(holder(node.state_dir(), &whole), ["hospital"]);
    // They are published no more.
    let node = Node::alone(node.stop(), SITES);
    assert_eq!(holder(node.state_dir(), &port), [""; 0]);
    assert_eq!(holder(node.state_dir(), &whole), [""; 0]);
}

/// Regression: what could not be published of one site kept the SAs of all sites out, for as long as it could not.
#[test]
fn what_cannot_be_published_keeps_no_tunnel_out() {
    const ANY: &str = r#"
[[nat_pool]]
name = "others"
addresses = ["10.201.0.0/30"]
mode = "block"
[[any_site]]
pattern = "*.lab.test"
networks = ["192.168.1.0/24"]
nat_pool = "others"
[[publish]]
name = "mri"
site = "site1.lab.test"
address = "192.168.1.20"
protocol = "tcp"
port = 443
on = "10.203.0.1:8443"
from = ["10.100.0.0/24"]
"#;
    let (center, site) = pair(Options {
        center_knows: "another.lab.test",
        more: [String::new(), ANY.into(), String::new()],
        ..Options::default()
    });
    center.engine().unpublishable = Some(1);
    up(&site);
    assert_eq!(center.engine().installed.len(), 1);
    let told = || {
        let all = names(&center).into_iter();
        all.filter(|name| name == "not_published").count()
    };
    assert_eq!((told(), center.engine().published.len()), (1, 0));
    // It is tried again, and told once.
    let tried = center.engine().publish_attempts;
    until(
        || (center.engine().publish_attempts >= tried + 2).then_some(()),
        || log(&center, "site1.lab.test"),
    );
    assert_eq!(told(), 1);
    center.engine().unpublishable = None;
    until(
        || (center.engine().published.len() == 1).then_some(()),
        || log(&center, "site1.lab.test"),
    );
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("folder");
    for entry in fs::read_dir(from).expect("folder") {
        let entry = entry.expect("entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// What is published is told to the data plane with the site it is of; a site that has yet to come is left out until then.
#[test]
fn what_is_published_of_known_sites_is_told() {
    const PUBLISHED: &str = r#"
[[publish]]
name = "mri"
site = "clinic"
address = "192.168.1.20"
protocol = "tcp"
port = 443
on = "10.203.0.1:8443"
from = ["10.100.0.0/24", "10.100.9.9"]
[[publish]]
name = "server"
site = "hospital"
address = "192.168.1.30"
on = "10.203.0.2"
from = ["10.100.0.0/24"]
"#;
    let node = Node::alone(
        tempfile::tempdir().expect("folder"),
        &SITES
            .replacen(
                "identity = \"clinic.example\"",
                "identity = \"clinic.example\"\nfiltering = \"address-dependent\"",
                1,
            )
            .replacen("[[nat_pool]]", &format!("{PUBLISHED}[[nat_pool]]"), 1),
    );
    let (clinic, pharmacy) = (site(&node, "clinic"), site(&node, "pharmacy"));
    let engine = node.engine();
    let told: Vec<_> = engine
        .published
        .iter()
        .map(|one| {
            (
                one.number,
                one.inside.address,
                one.outside.address,
                one.outside.port,
                one.from.len(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (1, [192, 168, 1, 20], [10, 203, 0, 1], 8443u16.to_be_bytes(), 2),
            (2, [192, 168, 1, 30], [10, 203, 0, 2], [0, 0], 1),
        ]
    );
    assert_eq!(engine.published[0].inside.site, clinic);
    assert_eq!(engine.published[0].from[1], ([10, 100, 9, 9], 32));
    let flags = |site: u32| engine.sites[&site].flags & !flag::MORE_BLOCKS;
    assert_eq!(flags(clinic), flag::FILTER_ADDRESS);
    assert_eq!(flags(pharmacy), 0);
    assert_eq!(flags(engine.published[1].inside.site), flag::ONE_TO_ONE);
}
