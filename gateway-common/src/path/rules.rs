//! Rules: the first that matches decides, no match is a deny.

use crate::abi::event::RULE_DEFAULT;
use crate::abi::flow::FlowKey;
use crate::abi::rule::{Rule, RuleSetHeader, action, flag};
use crate::abi::site::Site;

/// What rules look at. Ports are native; for ICMP both are zero.
#[derive(Clone, Copy, Debug)]
pub struct Tuple {
    /// Groups of the site.
    pub groups: u64,
    /// Site.
    pub site: u32,
    /// Source address, in memory order.
    pub source: u32,
    /// Destination address, in memory order.
    pub destination: u32,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// IP protocol.
    pub protocol: u8,
}

impl Tuple {
    /// What rules look at in a flow of this site. An ICMP identifier is not a port.
    #[inline(always)]
    #[must_use]
    pub const fn new(key: &FlowKey, site: &Site) -> Self {
        let has_ports = key.protocol != crate::packet::ipv4::protocol::ICMP;
        Self {
            groups: site.groups,
            site: key.site,
            source: u32::from_ne_bytes(key.source),
            destination: u32::from_ne_bytes(key.destination),
            source_port: if has_ports {
                u16::from_be_bytes(key.source_port)
            } else {
                0
            },
            destination_port: if has_ports {
                u16::from_be_bytes(key.destination_port)
            } else {
                0
            },
            protocol: key.protocol,
        }
    }
}

/// Whether all conditions of a rule hold.
#[inline(always)]
#[must_use]
pub const fn matches(rule: &Rule, tuple: &Tuple) -> bool {
    (rule.protocol == 0 || rule.protocol == tuple.protocol)
        && tuple.destination & u32::from_ne_bytes(rule.destination_mask)
            == u32::from_ne_bytes(rule.destination)
        && tuple.source & u32::from_ne_bytes(rule.source_mask) == u32::from_ne_bytes(rule.source)
        && rule.destination_port_low <= tuple.destination_port
        && tuple.destination_port <= rule.destination_port_high
        && rule.source_port_low <= tuple.source_port
        && tuple.source_port <= rule.source_port_high
        && (rule.site == 0 || rule.site == tuple.site)
        && (rule.groups == 0 || rule.groups & tuple.groups != 0)
}

/// What the rules say of a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Generation that decided.
    pub generation: u32,
    /// [`Rule::source_rule`] of the rule that matched, or [`RULE_DEFAULT`].
    pub rule: u32,
    /// One of [`action`].
    pub action: u8,
    /// Bits of [`flag`].
    pub flags: u8,
}

impl Judgement {
    /// The default: deny, and tell.
    #[inline(always)]
    #[must_use]
    pub const fn default_deny(header: &RuleSetHeader) -> Self {
        Self {
            generation: header.generation,
            rule: RULE_DEFAULT,
            action: action::DENY,
            flags: flag::LOG,
        }
    }

    /// Takes over what `rule` says.
    #[inline(always)]
    pub const fn decide(&mut self, rule: &Rule) {
        self.rule = rule.source_rule;
        self.action = rule.action;
        self.flags = rule.flags;
    }
}
