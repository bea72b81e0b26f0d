//! What the regular sweep removes: flows that timed out, NAT mappings that nobody uses, halves of mappings whose other
//! half is gone. The plan is pure; [`super::Dataplane::expire`] carries it out.

use std::collections::{HashMap, HashSet};

use gateway_common::abi::flow::{Flow, FlowKey};
use gateway_common::abi::interface::Settings;
use gateway_common::abi::nat::{InsideKey, Mapping, OutsideKey};
use gateway_common::path::filter::is_alive;

/// The tables as they were read, one after another, while packets changed them.
pub(crate) struct Tables {
    pub(crate) flows: Vec<(FlowKey, Flow)>,
    pub(crate) mappings: HashMap<InsideKey, Mapping>,
    pub(crate) reverse: HashMap<OutsideKey, InsideKey>,
}

/// What is to be done, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Flows that timed out.
    pub(crate) flows: Vec<FlowKey>,
    /// Mappings without a live flow, with their outside.
    pub(crate) mappings: Vec<(InsideKey, OutsideKey)>,
    /// Outsides that no mapping owns, now and in the sweep before.
    pub(crate) reverse: Vec<OutsideKey>,
    /// Mappings that live flows need and that are missing, or whose outside is.
    pub(crate) restore: Vec<(FlowKey, InsideKey, OutsideKey)>,
    /// Outsides that no mapping owns for the first time: the packet path may just be making the mapping.
    pub(crate) suspects: HashSet<OutsideKey>,
}

/// Plans a sweep at `now_s`. `suspects` are those of the sweep before; a mapping stays for `hold_s` after its last
/// flow was made, so that a client that comes back keeps its port.
pub(crate) fn plan(
    tables: &Tables,
    suspects: &HashSet<OutsideKey>,
    settings: &Settings,
    hold_s: u32,
    now_s: u32,
) -> Plan {
    let mut plan = Plan::default();
    let mut used = HashSet::new();
    for (key, flow) in &tables.flows {
        if !is_alive(flow, key.protocol, settings, now_s) {
            plan.flows.push(*key);
            continue;
        }
        let (inside, outside) = (inside(key), outside(key, flow));
        used.insert(inside);
        if tables
            .mappings
            .get(&inside)
            .map(|mapping| outside_of(&inside, mapping))
            != Some(outside)
            || tables.reverse.get(&outside) != Some(&inside)
        {
            plan.restore.push((*key, inside, outside));
        }
    }
    for (inside, mapping) in &tables.mappings {
        if !used.contains(inside) && now_s.saturating_sub(mapping.last_used_s) > hold_s {
            plan.mappings.push((*inside, outside_of(inside, mapping)));
        }
    }
    for (outside, inside) in &tables.reverse {
        let owner = tables.mappings.get(inside);
        if owner.map(|mapping| outside_of(inside, mapping)) == Some(*outside) || used.contains(inside) {
            continue;
        }
        if suspects.contains(outside) {
            plan.reverse.push(*outside);
        } else {
            plan.suspects.insert(*outside);
        }
    }
    plan
}

/// The inside of a flow's mapping.
pub(crate) fn inside(key: &FlowKey) -> InsideKey {
    InsideKey {
        site: key.site,
        address: key.source,
        port: key.source_port,
        protocol: key.protocol,
        pad: 0,
    }
}

/// The outside of a flow's mapping.
pub(crate) fn outside(key: &FlowKey, flow: &Flow) -> OutsideKey {
    OutsideKey {
        address: flow.nat_address,
        port: flow.nat_port,
        protocol: key.protocol,
        pad: 0,
    }
}

fn outside_of(inside: &InsideKey, mapping: &Mapping) -> OutsideKey {
    OutsideKey {
        address: mapping.address,
        port: mapping.port,
        protocol: inside.protocol,
        pad: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gateway_common::abi::flow::state;

    const SETTINGS: Settings = Settings {
        tcp_opening_s: 30,
        tcp_established_s: 7440,
        tcp_closing_s: 240,
        udp_s: 300,
        icmp_s: 60,
        ike_per_source_per_s: 10,
        port_low: 1024,
        port_high: 65535,
    };
    const HOLD_S: u32 = 120;

    fn flow(port: u8, last_seen_s: u32) -> (FlowKey, Flow) {
        let key = FlowKey {
            site: 1,
            source: [192, 168, 1, 10],
            destination: [203, 0, 113, 1],
            source_port: [0x80, port],
            destination_port: [1, 187],
            protocol: 17,
            pad: [0; 3],
        };
        let flow = Flow {
            packets_out: 1,
            bytes_out: 100,
            packets_in: 0,
            bytes_in: 0,
            last_seen_s,
            created_s: 0,
            generation: 1,
            rule: 0,
            nat_address: [10, 64, 0, 1],
            nat_port: [0x40, port],
            state: state::REPLIED,
            fins: 0,
        };
        (key, flow)
    }

    fn tables(flows: &[(FlowKey, Flow)]) -> Tables {
        let mapping = |(key, flow): &(FlowKey, Flow)| {
            let mapping = Mapping {
                address: flow.nat_address,
                port: flow.nat_port,
                pad: [0; 2],
                last_used_s: flow.last_seen_s,
                created_s: 0,
            };
            (inside(key), mapping)
        };
        Tables {
            flows: flows.to_vec(),
            mappings: flows.iter().map(mapping).collect(),
            reverse: flows
                .iter()
                .map(|(key, flow)| (outside(key, flow), inside(key)))
                .collect(),
        }
    }

    fn sweep(tables: &Tables, suspects: &HashSet<OutsideKey>, now_s: u32) -> Plan {
        plan(tables, suspects, &SETTINGS, HOLD_S, now_s)
    }

    #[test]
    fn live_tables_are_left_alone() {
        let tables = tables(&[flow(1, 1000), flow(2, 900)]);
        assert_eq!(sweep(&tables, &HashSet::new(), 1001), Plan::default());
    }

    #[test]
    fn a_dead_flow_goes_and_its_mapping_too() {
        let (dead, alive) = (flow(1, 100), flow(2, 1000));
        let plan = sweep(&tables(&[dead, alive]), &HashSet::new(), 1000);
        assert_eq!(plan.flows, [dead.0]);
        assert_eq!(plan.mappings, [(inside(&dead.0), outside(&dead.0, &dead.1))]);
        assert!(plan.restore.is_empty());
    }

    #[test]
    fn a_mapping_is_held_for_a_while() {
        let mut tables = tables(&[flow(1, 1000)]);
        tables.flows.clear();
        assert!(sweep(&tables, &HashSet::new(), 1000 + HOLD_S).mappings.is_empty());
        assert_eq!(sweep(&tables, &HashSet::new(), 1001 + HOLD_S).mappings.len(), 1);
    }

    #[test]
    fn a_live_flow_gets_its_mapping_back() {
        let lost = flow(1, 1000);
        let mut half = tables(&[lost]);
        half.mappings.clear();
        let plan = sweep(&half, &HashSet::new(), 1000);
        assert_eq!(
            plan.restore,
            [(lost.0, inside(&lost.0), outside(&lost.0, &lost.1))]
        );
        assert!(plan.suspects.is_empty(), "its outside is needed");
        let mut half = tables(&[lost]);
        half.reverse.clear();
        assert_eq!(sweep(&half, &HashSet::new(), 1000).restore.len(), 1);
    }

    #[test]
    fn a_port_without_owner_is_freed_at_the_second_sight() {
        let (key, flow) = flow(1, 1000);
        let mut tables = tables(&[(key, flow)]);
        tables.flows.clear();
        tables.mappings.clear();
        let first = sweep(&tables, &HashSet::new(), 1000);
        assert!(
            first.reverse.is_empty(),
            "the packet path may just be making the mapping"
        );
        let second = sweep(&tables, &first.suspects, 1010);
        assert_eq!(second.reverse, [outside(&key, &flow)]);
    }
}
