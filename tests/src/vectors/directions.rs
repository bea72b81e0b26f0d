//! Vectors of directions: where a destination belongs, which rules are about it, and which side it leaves by.

use gateway_common::abi::interface::role;
use gateway_common::abi::rule::{Rule, direction};
use gateway_common::drop::DropReason::*;
use gateway_common::tables::host::HostTables;

use super::clear::{dropped, leaves};
use super::world::{self, NAME_SERVER, NAT, SITE, TERMINAL};
use super::{Step, Vector};
use crate::frames::Clear;

const TO_CENTER: u8 = 1 << direction::SITE_TO_CENTER;
const TO_INTERNET: u8 = 1 << direction::SITE_TO_INTERNET;

fn query() -> Clear {
    Clear::udp((TERMINAL, 1024), (NAME_SERVER, 53))
}

/// A world in which the name server belongs there, the next hop is on an interface of this role, and one rule about these
/// directions allows everything.
fn world(now_s: u32, belongs: u8, role: u32, directions: u8) -> HostTables {
    let mut tables = world::world(now_s);
    // The center is a small part of what there is.
    tables.directions = vec![
        (8, [10, 0, 0, 0], direction::SITE_TO_CENTER),
        (24, [203, 0, 113, 0], direction::SITE_TO_CENTER),
    ];
    if belongs != direction::SITE_TO_CENTER {
        tables.directions.truncate(1);
    }
    tables.roles.insert(world::EGRESS, role);
    let rule = Rule {
        directions,
        destination_mask: [0; 4],
        ..world::allow(0, [0; 4], 0, 0)
    };
    tables.rules = Some((1, vec![rule]));
    tables
}

pub(super) fn vectors(now_s: u32) -> Vec<Vector> {
    let passes = || leaves(query(), SITE, (NAT, 1024));
    let (center, internet) = (direction::SITE_TO_CENTER, direction::SITE_TO_INTERNET);
    let cases: Vec<(&str, (u8, u32, u8), Step)> = vec![
        (
            "a rule about the center lets a packet to it pass",
            (center, role::CORE, TO_CENTER),
            passes(),
        ),
        (
            "a rule about the center lets none to the Internet pass",
            (internet, role::INTERNET, TO_CENTER),
            dropped(&query(), RuleDefault),
        ),
        (
            "a rule about the Internet lets a packet to it pass",
            (internet, role::INTERNET, TO_INTERNET),
            passes(),
        ),
        (
            "a rule about the Internet lets none to the center pass",
            (center, role::CORE, TO_INTERNET),
            dropped(&query(), RuleDefault),
        ),
        (
            "a packet for the center does not leave to the Internet, whatever routes say",
            (center, role::INTERNET, TO_CENTER | TO_INTERNET),
            dropped(&query(), WrongSide),
        ),
        (
            "a packet for the Internet does not come to the center, whatever routes say",
            (internet, role::CORE, TO_CENTER | TO_INTERNET),
            dropped(&query(), WrongSide),
        ),
    ];
    let vector = |(words, (belongs, role, directions), step): (&str, _, _)| Vector {
        description: words.to_owned(),
        world: world(now_s, belongs, role, directions),
        steps: vec![step],
    };
    cases.into_iter().map(vector).collect()
}
