//! Running flows under another rule set: each is judged as its first packet would be.
use std::cell::OnceCell;
use std::collections::HashMap;
use std::net::Ipv4Addr;

use gateway_common::abi::flow::{Flow, FlowKey, state};
use gateway_common::abi::nat::{InsideKey, Mapping, OutsideKey};
use gateway_common::abi::rule::action;
use gateway_common::abi::site::Site;
use gateway_common::packet::ipv4::protocol;
use gateway_common::path::rules::Tuple;
use gateway_common::path::tcp::flag;

use super::classifier::Generation;
use super::directions::Directions;
use super::names::Openings;
use crate::config::Direction;

/// What flows are judged by.
pub struct Rejudge<'a, G, M> {
    tables: &'a Generation,
    directions: &'a Directions,
    /// Groups of a site; `None` if it is gone.
    groups: G,
    /// All mappings, asked for once a flow between sites is met.
    mappings: M,
    outsides: OnceCell<HashMap<OutsideKey, InsideKey>>,
    /// What is open by name, and the second of the coarse clock.
    open: Option<(&'a Openings, u32)>,
}

impl<'a, G, M> Rejudge<'a, G, M>
where
    G: Fn(u32) -> Option<u64>,
    M: Fn() -> Vec<(InsideKey, Mapping)>,
{
    /// By these tables.
    pub fn new(tables: &'a Generation, directions: &'a Directions, groups: G, mappings: M) -> Self {
        Self {
            tables,
            directions,
            groups,
            mappings,
            outsides: OnceCell::new(),
            open: None,
        }
    }

    /// With what is open by name at `now_s` of the coarse clock.
    #[must_use]
    pub fn with_openings(self, openings: &'a Openings, now_s: u32) -> Self {
        Self {
            open: Some((openings, now_s)),
            ..self
        }
    }

    /// Whether a flow's other end is a site's, so that mappings say which.
    #[must_use]
    pub fn is_between_sites(&self, key: &FlowKey) -> bool {
        self.directions.from_site(Ipv4Addr::from(key.destination)) == Direction::SiteToSite
    }

    /// Asks for the mappings now. A million take their time.
    pub fn ask_for_mappings(&self) {
        self.outsides();
    }

    /// Whether the rules let the flow be made.
    #[must_use]
    pub fn allows(&self, key: &FlowKey, flow: &Flow) -> bool {
        if flow.progress.state == state::PERMISSION {
            // It is no flow, and goes with those that it stands beside.
            return true;
        }
        let tuple = self.tuple(key, flow);
        let judgement = tuple.and_then(|tuple| match self.open {
            Some((openings, now_s)) => {
                let open = openings.at(Ipv4Addr::from(tuple.destination));
                self.tables.judge_by_name(&tuple, &open, now_s)
            }
            None => self.tables.judge(&tuple),
        });
        judgement.is_some_and(|judgement| judgement.action == action::ALLOW)
    }

    fn tuple(&self, key: &FlowKey, flow: &Flow) -> Option<Tuple> {
        let site = self.site(key.site)?;
        let remote = self.directions.from_site(Ipv4Addr::from(key.destination));
        let has = |bit: u8| flow.progress.flags & bit != 0;
        if remote == Direction::SiteToSite {
            let other = self.other_end(key, flow)?;
            let other_site = self.site(other.site)?;
            return Some(match has(flag::FROM_CENTER) {
                true => Tuple::site_to_site(&other, &other_site, key, &site),
                false => Tuple::site_to_site(key, &site, &other, &other_site),
            });
        }
        Some(match has(flag::PUBLISHED) {
            true => Tuple::to_site(key, &site),
            // What filtering lets in is judged as if the site had opened it.
            false => Tuple::new(key, &site).towards(remote.number()),
        })
    }

    fn site(&self, site: u32) -> Option<Site> {
        Some(Site::whole((self.groups)(site)?, [0; 4]))
    }

    fn outsides(&self) -> &HashMap<OutsideKey, InsideKey> {
        self.outsides.get_or_init(|| {
            let all = (self.mappings)();
            let outside =
                |(inside, mapping): (InsideKey, Mapping)| (mapping.outside(inside.protocol), inside);
            all.into_iter().map(outside).collect()
        })
    }

    /// The same connection as the site at its other end sees it.
    fn other_end(&self, key: &FlowKey, flow: &Flow) -> Option<FlowKey> {
        let outsides = self.outsides();
        let is_query = key.protocol == protocol::ICMP;
        let was_called = flow.progress.flags & flag::FROM_CENTER != 0;
        // Of a query the other end's port is the type. The caller is found by the identifier that it is translated to, which the
        // called site's flow has at its own end; who is called by the address alone.
        let port = match (is_query, was_called) {
            (false, _) => key.destination_port,
            (true, true) => key.source_port,
            (true, false) => [0; 2],
        };
        let outside = OutsideKey {
            address: key.destination,
            port,
            protocol: key.protocol,
            pad: 0,
        };
        let whole = OutsideKey {
            port: [0; 2],
            protocol: 0,
            ..outside
        };
        let inside = outsides.get(&outside).or_else(|| outsides.get(&whole))?;
        Some(FlowKey {
            site: inside.site,
            source: inside.address,
            destination: flow.nat_address,
            source_port: match inside.protocol {
                // A whole address keeps its ports.
                0 => port,
                _ => inside.port,
            },
            destination_port: if is_query {
                key.destination_port
            } else {
                flow.nat_port
            },
            protocol: key.protocol,
            pad: [0; 3],
        })
    }
}
