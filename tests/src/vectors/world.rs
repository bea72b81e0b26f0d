//! The world of the vectors.
//!
//! ```text
//! site 1 192.168.1.0/24 (as 198.51.100.1) --+
//! site 2 192.168.1.0/24 (as 198.51.100.2) --+-- gateway 192.0.2.1, 2001:db8::1 -- center 203.0.113.0/24
//! ```
//! Documentation addresses (RFC 5737, RFC 3849). One interface stands for all: `BPF_PROG_TEST_RUN` has but one.

use gateway_common::abi::interface::{IdleLimits, Interface, Settings, role};
use gateway_common::abi::nat::{InsideKey, Mapping, kind};
use gateway_common::abi::next_hop::NextHop;
use gateway_common::abi::rule::{Rule, action, direction, flag};
use gateway_common::abi::sa::{SaInbound, SaOutbound, SaOutboundKey, encapsulation};
use gateway_common::abi::site::Site;
use gateway_common::tables::host::HostTables;

/// A site with all rights of [`GROUP_CLINIC`].
pub const SITE: u32 = 1;
/// A site in no group, with the same inner addresses.
pub const SITE_OTHER: u32 = 2;
/// Bit of the group that may reach the eligibility server.
pub const GROUP_CLINIC: u64 = 1 << 3;
/// Inner address of a terminal, at either site.
pub const TERMINAL: [u8; 4] = [192, 168, 1, 10];
/// What [`SITE`] is translated to.
pub const NAT: [u8; 4] = [198, 51, 100, 1];
/// What [`SITE_OTHER`] is translated to.
pub const NAT_OTHER: [u8; 4] = [198, 51, 100, 2];
/// The eligibility server: TCP 443 for clinics.
pub const SERVER: [u8; 4] = [203, 0, 113, 10];
/// A name server: UDP 53 for all.
pub const NAME_SERVER: [u8; 4] = [203, 0, 113, 53];
/// A server that a rule denies before a later one would allow it.
pub const FORBIDDEN: [u8; 4] = [203, 0, 113, 66];
/// A server that a rule rejects.
pub const REJECTED: [u8; 4] = [203, 0, 115, 77];
/// A server that is allowed and whose next hop is not resolved.
pub const UNRESOLVED: [u8; 4] = [203, 0, 113, 200];
/// The gateway.
pub const GATEWAY: [u8; 4] = [192, 0, 2, 1];
/// The gateway in IPv6.
pub const GATEWAY6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/// Addresses that the gateway has besides.
pub const GATEWAY_FURTHER: [u8; 4] = [192, 0, 2, 3];
/// In IPv6.
pub const GATEWAY6_FURTHER: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3];
/// Router of [`SITE`].
pub const ROUTER: [u8; 4] = [192, 0, 2, 77];
/// Router of [`SITE_OTHER`].
pub const ROUTER6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x77];
/// Plain ESP over IPv4.
pub const SPI: [u8; 4] = [0xc0, 0, 0, 1];
/// Plain ESP over IPv6.
pub const SPI6: [u8; 4] = [0xc0, 0, 0, 2];
/// ESP in UDP over IPv4.
pub const SPI_UDP: [u8; 4] = [0xc0, 0, 0, 3];
/// Index of the outbound SA of [`SITE`].
pub const SA_INDEX: u32 = 0x0001_0203;
/// MAC of the gateway.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
/// MAC of the next hop on the core side.
pub const MAC_HOP: [u8; 6] = [2, 0, 0, 0, 0, 0xb];
/// Slot of the only worker.
pub const XSK_BASE: u32 = 5;
/// Interface that leads to the center.
pub const EGRESS: u32 = 1;
/// Largest inner packet of [`SITE`]'s tunnel.
pub const MTU: u32 = 1400;
/// Largest packet that the link to the center carries.
pub const HOP_MTU: u32 = 9000;
/// IKE datagrams that one source may send in a second.
pub const IKE_PER_S: u32 = 3;
/// Our SPI of an IKE SA that stands.
pub const IKE_SPI: u64 = 0x1b2c_3d4e_5f60_7182;
/// Number of the active rule generation.
pub const GENERATION: u32 = 4;

/// Seconds after which flows are dead.
pub const IDLE: IdleLimits = IdleLimits {
    tcp_opening_s: 60,
    tcp_established_s: 7440,
    tcp_closing_s: 240,
    tcp_time_wait_s: 120,
    tcp_reset_s: 30,
    udp_new_s: 40,
    udp_s: 120,
    icmp_s: 60,
    other_s: 600,
};

/// The settings.
pub const SETTINGS: Settings = Settings {
    idle_s: IDLE.by_state(),
    ike_per_source_per_s: IKE_PER_S,
    port_low: 1024,
    port_high: 65535,
    ..Settings::UNLIMITED
};

/// A rule that allows a protocol and a port to a prefix for all; vectors narrow it.
#[must_use]
pub const fn allow(source_rule: u32, destination: [u8; 4], protocol: u8, port: u16) -> Rule {
    Rule {
        groups: 0,
        site: 0,
        source: [0; 4],
        source_mask: [0; 4],
        destination,
        destination_mask: [255; 4],
        source_port_low: 0,
        source_port_high: u16::MAX,
        destination_port_low: port,
        destination_port_high: if port == 0 { u16::MAX } else { port },
        protocol,
        action: action::ALLOW,
        flags: 0,
        directions: 0,
        source_rule,
        name_set: 0,
        to_site: 0,
        pad: 0,
        to_groups: 0,
    }
}

/// The rules of the usual world.
#[must_use]
pub fn rules() -> Vec<Rule> {
    vec![
        Rule {
            groups: GROUP_CLINIC,
            ..allow(0, SERVER, 6, 443)
        },
        Rule {
            flags: flag::LOG,
            ..allow(1, NAME_SERVER, 17, 53)
        },
        Rule {
            destination_mask: [255, 255, 255, 0],
            ..allow(2, [203, 0, 113, 0], 1, 0)
        },
        Rule {
            action: action::DENY,
            flags: flag::LOG,
            ..allow(3, FORBIDDEN, 0, 0)
        },
        allow(4, FORBIDDEN, 0, 0),
        allow(5, UNRESOLVED, 17, 0),
        Rule {
            action: action::REJECT,
            flags: flag::LOG,
            ..allow(6, REJECTED, 0, 0)
        },
    ]
}

/// Has the terminal's ICMP identifier translated.
///
/// # Panics
/// There is no room for it.
pub fn map_identifier(tables: &HostTables, identifier: u16, translated: u16, now_s: u32) {
    let inside = InsideKey {
        site: SITE,
        address: TERMINAL,
        port: identifier.to_be_bytes(),
        protocol: 1,
        pad: 0,
    };
    let mapping = Mapping {
        address: NAT,
        port: translated.to_be_bytes(),
        last_used_s: now_s,
        created_s: now_s,
        position: 0,
        kind: kind::DYNAMIC,
    };
    let put = tables.put_mapping(&inside, &mapping);
    assert!(put.is_ok(), "{put:?}");
}

/// The usual world at this time.
#[must_use]
pub fn world(now_s: u32) -> HostTables {
    let mut tables = HostTables {
        settings: Some(SETTINGS),
        interface: Some(Interface {
            role: role::WAN,
            xsk_base: XSK_BASE,
            queues: 1,
            ipv4: GATEWAY,
            ipv6: GATEWAY6,
            mac: MAC,
            pad: [0; 2],
            further_ipv4: [GATEWAY_FURTHER, [0; 4], [0; 4], [0; 4]],
            further_ipv6: [[0; 16], GATEWAY6_FURTHER, [0; 16], [0; 16]],
        }),
        rules: Some((GENERATION, rules())),
        directions: vec![(0, [0; 4], direction::SITE_TO_CENTER)],
        ..HostTables::default()
    };
    tables.now_s.set(now_s);
    tables.sites.insert(SITE, Site::whole(GROUP_CLINIC | 1, NAT));
    tables.sites.insert(SITE_OTHER, Site::whole(0, NAT_OTHER));
    let sa = |spi, family, encapsulation, outer_destination| SaInbound {
        spi,
        sa_index: 9,
        site: SITE,
        family,
        encapsulation,
        pad: [0; 2],
        outer_destination,
    };
    let mut gateway4 = [0; 16];
    gateway4[..4].copy_from_slice(&GATEWAY);
    let inbound = [
        sa(SPI, 4, encapsulation::PLAIN, gateway4),
        sa(SPI6, 6, encapsulation::PLAIN, GATEWAY6),
        sa(SPI_UDP, 4, encapsulation::UDP, gateway4),
    ];
    tables.sa_inbound.extend(inbound.map(|sa| (sa.spi, sa)));
    tables.ike_spis.insert(IKE_SPI);
    let outbound = SaOutbound {
        sa_index: SA_INDEX,
        shares: 0,
        mtu: MTU,
    };
    let destination = SaOutboundKey {
        site: SITE.to_be_bytes(),
        destination: [192, 168, 1, 0],
    };
    tables.sa_outbound.push((24, destination, outbound));
    let hop = NextHop {
        ifindex: EGRESS,
        resolved: 1,
        destination_mac: MAC_HOP,
        source_mac: MAC,
        mtu: HOP_MTU,
    };
    tables.next_hops.push((24, [203, 0, 113, 0], hop));
    tables
        .next_hops
        .push((32, UNRESOLVED, NextHop { resolved: 0, ..hop }));
    tables
}
