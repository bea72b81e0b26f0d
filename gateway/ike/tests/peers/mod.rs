//! Sites and centers for the tests of authentication, and what became of them.
#![allow(dead_code, unreachable_pub)] // each test file uses its part

use gateway_ike::{CloseReason, EndpointConfig, Event, IkeSaDetails, pki::identity::Identity};

use crate::{
    common::*,
    issue::{Authority, Leaf, dns, nothing},
};

pub fn identity(text: &str) -> Identity {
    text.parse().unwrap()
}

/// Site and center with certificates of `root`, which both trust.
pub fn with_certificates(root: &Authority, site_leaf: &Leaf) -> (EndpointConfig, EndpointConfig) {
    let (mut site, mut center) = (site_config(), center_config());
    site.credential = site_leaf.credential(&[]);
    center.credential = root
        .issue("gw", vec![dns("gw.lab.test")], nothing)
        .credential(&[]);
    (site.trust, center.trust) = (root.trust(), root.trust());
    (site, center)
}

pub fn refused(site: EndpointConfig, center: EndpointConfig) -> Sim {
    let mut sim = Sim::new(site, center, 1);
    sim.initiate();
    sim.run_ms(500);
    for side in [SITE, CENTER] {
        assert!(sim.planes[side].children.is_empty());
        assert_eq!(sim.endpoints[side].ike_sas().count(), 0, "{}", sim.words(side));
    }
    sim
}

pub fn reason(sim: &Sim, side: usize) -> String {
    let found = sim.events[side].iter().find_map(|event| match event {
        Event::AuthenticationFailed { reason, .. } => Some(reason.clone()),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no such event: {}", sim.words(side)))
}

pub fn details(sim: &Sim, side: usize) -> IkeSaDetails {
    let last = sim.endpoints[side].ike_sas().last().unwrap();
    sim.endpoints[side].ike_sa_details(last.id).unwrap()
}

pub fn close_reason(sim: &Sim, side: usize) -> Option<&CloseReason> {
    sim.events[side].iter().find_map(|event| match event {
        Event::Closed { reason, .. } => Some(reason),
        _ => None,
    })
}
