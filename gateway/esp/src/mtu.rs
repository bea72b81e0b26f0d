//! How large an inner packet a path carries.

use crate::tunnel::{IPV4_HEADER_LEN, IPV6_HEADER_LEN, UDP_HEADER_LEN};
use crate::{ESP_HEADER_LEN, ESP_TRAILER_LEN, Suite};

/// The largest inner packet, in octets, whose ESP packet fits an outer path MTU; 0 if none does.
///
/// `outer_ipv6`: the outer header is IPv6's 40 octets, not IPv4's 20. `udp`: ESP goes in UDP (RFC 3948).
pub const fn inner_mtu(outer_mtu: u16, suite: Suite, outer_ipv6: bool, udp: bool) -> u16 {
    let ip = if outer_ipv6 {
        IPV6_HEADER_LEN
    } else {
        IPV4_HEADER_LEN
    };
    let udp = if udp { UDP_HEADER_LEN } else { 0 };
    let fixed = ip + udp + ESP_HEADER_LEN + suite.iv_len() + suite.icv_len();
    let room = (outer_mtu as usize).saturating_sub(fixed);
    let aligned = room - room % suite.alignment();
    // Smaller than `outer_mtu`, so it fits.
    aligned.saturating_sub(ESP_TRAILER_LEN) as u16
}

/// Octets of ciphertext (payload, padding, trailer) for an inner packet of `inner_len`.
pub(crate) const fn ciphertext_len(inner_len: usize, suite: Suite) -> usize {
    (inner_len + ESP_TRAILER_LEN).next_multiple_of(suite.alignment())
}
