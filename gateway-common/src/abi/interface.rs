//! Attached interfaces and settings.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::flow::state;
use super::limit;
use crate::abi_assert;

/// Roles of an interface, the value of [`Interface::role`].
pub mod role {
    /// Outer side: ESP and IKE.
    pub const WAN: u32 = 1;
    /// Center side: clear IPv4 of the servers.
    pub const CORE: u32 = 2;
    /// The gateway's own clear link, XDP end.
    pub const CLEAR: u32 = 3;
    /// Internet side: clear IPv4 of what sites may reach there.
    pub const INTERNET: u32 = 4;
}

/// An interface that carries one of the XDP programs.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Interface {
    /// One of [`role`].
    pub role: u32,
    /// First slot in `XSKS`; the receive queue's number is added.
    pub xsk_base: u32,
    /// Receive queues, at most `limit::QUEUES_MAX`.
    pub queues: u32,
    /// This interface's own IPv4 address, the first that it has: what it sends errors from. Zero if none.
    pub ipv4: [u8; 4],
    /// This interface's own global IPv6 address, likewise.
    pub ipv6: [u8; 16],
    /// MAC address.
    pub mac: [u8; 6],
    /// Zero.
    pub pad: [u8; 2],
    /// Further ones that it is reached at from outside; zero if none.
    pub further_ipv4: [[u8; 4]; limit::FURTHER_ADDRESSES_MAX],
    /// Likewise.
    pub further_ipv6: [[u8; 16]; limit::FURTHER_ADDRESSES_MAX],
}
abi_assert!(Interface, size = 120, align = 4);

/// All interfaces, in one value: the few indexes of a gateway are compared in less time than a hash is drawn.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Interfaces {
    /// The kernel's index of each interface; zero in places that are free, after all others.
    pub indexes: [u32; INTERFACES],
    /// The interface in the same place.
    pub interfaces: [Interface; INTERFACES],
}
abi_assert!(Interfaces, size = 1984, align = 4);

const INTERFACES: usize = limit::INTERFACES_MAX as usize;

impl Interfaces {
    /// Puts an interface in a place of its own, or in that of the same index; `false` if there is no room.
    pub fn put(&mut self, index: u32, interface: Interface) -> bool {
        let mut places = self.indexes.iter_mut().zip(&mut self.interfaces);
        let place = places.find(|(have, _)| **have == index || **have == 0);
        let Some((have, place)) = place else { return false };
        *have = index;
        *place = interface;
        true
    }
}

/// States of a flow, with room for more: entries of [`Settings::idle_s`].
pub const STATES: usize = 16;

/// What the operator may set for the packet path as a whole; times in seconds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Settings {
    /// Silence after which a flow is dead, by its [`state`](super::flow::state); see [`IdleLimits`].
    pub idle_s: [u32; STATES],
    /// IKE datagrams a second that one source may send to user space.
    pub ike_per_source_per_s: u32,
    /// Lowest port of NAPT.
    pub port_low: u16,
    /// Highest port of NAPT.
    pub port_high: u16,
    /// Flows in the table, at most.
    pub flows_max: u32,
    /// Flows of one site, at most.
    pub site_flows_max: u32,
    /// New flows of one site in a second, at most.
    pub site_new_flows_per_s: u32,
    /// TCP connections of one site whose handshake is not complete, at most.
    pub site_half_open_max: u32,
    /// NAT mappings of one site, at most.
    pub site_mappings_max: u32,
    /// Largest MSS that a SYN may offer, where its tunnel does not ask for less; zero leaves offers as they are.
    pub mss_max: u16,
    /// Zero.
    pub pad: u16,
    /// Site whose packets are traced; zero: none, [`EVERY_SITE`](super::trace::EVERY_SITE): all.
    pub trace_site: u32,
    /// Answers (TCP resets, ICMP errors) in a second to one site, at most.
    pub site_answers_per_s: u32,
    /// Bits of [`nat_flag`].
    pub nat_flags: u32,
}
abi_assert!(Settings, size = 108, align = 4);

/// Bits of [`Settings::nat_flags`].
pub mod nat_flag {
    /// A mapping has the inside port, where it is free.
    pub const PRESERVE_PORT: u32 = 1;
    /// A well-known port is mapped to a well-known one, another one to another (RFC 4787 REQ-3 b).
    pub const PRESERVE_RANGE: u32 = 2;
}

impl Settings {
    /// No limits, all ports, and flows that are dead at once: a base for tests.
    pub const UNLIMITED: Self = Self {
        idle_s: [0; STATES],
        ike_per_source_per_s: u32::MAX,
        port_low: 1,
        port_high: u16::MAX,
        flows_max: u32::MAX,
        site_flows_max: u32::MAX,
        site_new_flows_per_s: u32::MAX,
        site_half_open_max: u32::MAX,
        site_mappings_max: u32::MAX,
        mss_max: u16::MAX,
        pad: 0,
        trace_site: 0,
        site_answers_per_s: u32::MAX,
        nat_flags: nat_flag::PRESERVE_PORT | nat_flag::PRESERVE_RANGE,
    };
}

/// Seconds of silence after which flows are dead, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleLimits {
    /// TCP before the handshake is complete.
    pub tcp_opening_s: u32,
    /// Established TCP (RFC 5382 REQ-5: at least 2 h 4 min).
    pub tcp_established_s: u32,
    /// TCP after one FIN (RFC 5382 REQ-5: at least 4 min for transitory).
    pub tcp_closing_s: u32,
    /// TCP after both FINs.
    pub tcp_time_wait_s: u32,
    /// TCP after RST.
    pub tcp_reset_s: u32,
    /// UDP that was answered once or not at all.
    pub udp_new_s: u32,
    /// UDP that was answered twice (RFC 4787 REQ-5: at least 2 min).
    pub udp_s: u32,
    /// ICMP query (RFC 5508 REQ-2: at least 60 s).
    pub icmp_s: u32,
    /// Any other protocol.
    pub other_s: u32,
}

/// Seconds that a permission outlives its last flow: longer than it takes until the next sweep keeps it.
const PERMISSION_S: u32 = 30;

impl IdleLimits {
    /// As the packet path reads them.
    #[must_use]
    pub const fn by_state(&self) -> [u32; STATES] {
        let mut idle_s = [0; STATES];
        idle_s[state::TCP_SYN_SENT as usize] = self.tcp_opening_s;
        idle_s[state::TCP_SYN_SENT_BOTH as usize] = self.tcp_opening_s;
        idle_s[state::TCP_SYN_RECEIVED as usize] = self.tcp_opening_s;
        idle_s[state::TCP_ESTABLISHED as usize] = self.tcp_established_s;
        idle_s[state::TCP_FIN as usize] = self.tcp_closing_s;
        idle_s[state::TCP_TIME_WAIT as usize] = self.tcp_time_wait_s;
        idle_s[state::TCP_CLOSED as usize] = self.tcp_reset_s;
        idle_s[state::UDP_UNREPLIED as usize] = self.udp_new_s;
        idle_s[state::UDP_REPLIED as usize] = self.udp_new_s;
        idle_s[state::UDP_STREAM as usize] = self.udp_s;
        idle_s[state::ICMP_UNREPLIED as usize] = self.icmp_s;
        idle_s[state::ICMP_REPLIED as usize] = self.icmp_s;
        idle_s[state::OTHER_UNREPLIED as usize] = self.other_s;
        idle_s[state::OTHER_REPLIED as usize] = self.other_s;
        idle_s[state::PERMISSION as usize] = PERMISSION_S;
        idle_s
    }
}

/// Token bucket of one IKE source.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct RateBucket {
    /// Second in which the count began.
    pub second: u32,
    /// Datagrams in that second.
    pub count: u32,
}
abi_assert!(RateBucket, size = 8, align = 4);

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::{INTERFACES, Interface, Interfaces};

    fn with_role(role: u32) -> Interface {
        Interface {
            role,
            ..Interface::new_zeroed()
        }
    }

    #[test]
    fn an_interface_keeps_its_place_and_none_is_put_out() {
        let mut all = Interfaces::new_zeroed();
        let indexes = (1..).map(|number| number * 64).take(INTERFACES);
        assert!(indexes.clone().all(|index| all.put(index, with_role(index))));
        assert!(all.put(128, with_role(7)));
        assert!(!all.put(3, with_role(8)), "no place is left");
        assert!(all.indexes.iter().copied().eq(indexes.clone()));
        let roles = indexes.map(|index| if index == 128 { 7 } else { index });
        assert!(all.interfaces.iter().map(|interface| interface.role).eq(roles));
    }
}
