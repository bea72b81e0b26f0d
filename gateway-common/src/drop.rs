//! The one numbered list of reasons to drop a packet, shared by XDP, workers, metrics and CLI.

/// Declares the reasons once: number, name for machines, words for people.
macro_rules! drop_reasons {
    ($($number:literal $variant:ident $name:literal $words:literal,)*) => {
        /// Why a packet was dropped. Numbers are stable: a new reason takes the next free one.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DropReason { $(#[doc = $words] $variant = $number,)* }

        impl DropReason {
            /// Every reason in the order of its number.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)*];
            /// Name for machines (`--json`, metrics).
            #[must_use]
            pub const fn name(self) -> &'static str { match self { $(DropReason::$variant => $name,)* } }
            /// Words for people.
            #[must_use]
            pub const fn words(self) -> &'static str { match self { $(DropReason::$variant => $words,)* } }
        }
    };
}

/// Room in the `DROPS` map; larger than the highest reason so that a newer CLI reads an older map.
pub const DROP_SLOTS: u32 = 128;

drop_reasons! {
    // Outer packet, `wan`.
    1  TruncatedLink "truncated_link" "frame shorter than its link header",
    2  UnknownEtherType "unknown_ether_type" "neither IPv4, IPv6 nor ARP",
    3  TruncatedIp "truncated_ip" "packet shorter than its IP header says",
    4  MalformedIp "malformed_ip" "IP version, header length or total length is wrong",
    5  OuterFragment "outer_fragment" "outer packet is a fragment",
    6  OuterProtocol "outer_protocol" "outside may send ESP, IKE and the ICMP that PMTU needs only",
    7  OuterDestination "outer_destination" "outer destination is not this gateway",
    8  TruncatedUdp "truncated_udp" "UDP shorter than its header says",
    9  TruncatedEsp "truncated_esp" "ESP shorter than SPI, sequence number and ICV",
    10 UnknownSpi "unknown_spi" "no inbound SA has this SPI",
    11 SaDestination "sa_destination" "SPI is known, but not for this outer destination",
    12 SaEncapsulation "sa_encapsulation" "ESP without UDP for an SA whose ESP comes in UDP",
    13 NoWorker "no_worker" "no worker serves this queue",
    14 IkeRateLimit "ike_rate_limit" "source sent more IKE datagrams than it may",
    15 NatKeepalive "nat_keepalive" "NAT keepalive (RFC 3948), consumed",
    16 InterfaceUnknown "interface_unknown" "interface has no role",
    17 OuterOptions "outer_options" "outer packet carries IP options or extension headers",
    18 PathMtu "path_mtu" "ICMP \"too big\" about ESP of ours: the tunnel's MTU is lowered, nothing is passed on",
    19 PathMtuRefused "path_mtu_refused" "ICMP \"too big\" that quotes no SA in use, is damaged, or says an MTU below the floor or not below the present one",
    // ESP, workers.
    20 EspIndexStale "esp_index_stale" "SA was removed while the packet was on its way",
    21 EspMalformed "esp_malformed" "ESP length does not fit the SA's algorithms",
    22 EspReplay "esp_replay" "sequence number seen before or left of the window (RFC 4303 3.4.3)",
    23 EspAuthentication "esp_authentication" "ICV is wrong: forged or damaged",
    24 EspPadding "esp_padding" "padding after decryption is not 1, 2, 3...",
    25 EspNextHeader "esp_next_header" "payload is not IPv4",
    26 EspInnerMalformed "esp_inner_malformed" "inner IPv4 header is malformed",
    27 EspSelector "esp_selector" "inner packet is outside the SA's traffic selectors (RFC 4301 5.2)",
    28 EspEcn "esp_ecn" "outer CE on an inner packet that is not ECN-capable (RFC 6040 4.2)",
    29 EspDummy "esp_dummy" "dummy packet (RFC 4303 2.6), discarded as meant",
    30 EspSequenceExhausted "esp_sequence_exhausted" "sequence numbers of the outbound SA are used up",
    31 EspTooBig "esp_too_big" "packet does not fit the tunnel and may not be fragmented",
    32 EspNoRoute "esp_no_route" "no resolved next hop to the peer",
    33 EspOutboundSelector "esp_outbound_selector" "packet is outside the outbound SA's traffic selectors",
    34 WorkerQueueFull "worker_queue_full" "a worker's ring is full: to receive, to hand over or to send",
    35 WorkerFrameMalformed "worker_frame_malformed" "frame reached a worker without a valid link header",
    // Clear side.
    40 LinkHeaderInvalid "link_header_invalid" "clear link carried a frame that no worker made",
    41 UnknownSite "unknown_site" "site is not configured",
    42 InnerMalformed "inner_malformed" "inner packet is malformed",
    43 InnerFragment "inner_fragment" "inner packet is a fragment",
    44 InnerProtocol "inner_protocol" "inner protocol is not tracked",
    45 InnerTtl "inner_ttl" "TTL is used up",
    46 InnerAddress "inner_address" "source or destination may not appear here",
    47 RuleDenied "rule_denied" "a rule denies it",
    48 RuleDefault "rule_default" "no rule allows it",
    49 NoRuleSet "no_rule_set" "no rule set is loaded",
    50 TcpState "tcp_state" "TCP segment does not fit the state of its flow",
    51 TcpFlags "tcp_flags" "TCP flags that no sane stack sends",
    52 FlowTableFull "flow_table_full" "flow table is full",
    53 NatExhausted "nat_exhausted" "no free port for a new mapping",
    54 NextHopUnresolved "next_hop_unresolved" "next hop to the center is not resolved",
    55 IcmpType "icmp_type" "ICMP type is not let through",
    56 TruncatedTransport "truncated_transport" "transport header is truncated or malformed",
    57 InnerOptions "inner_options" "inner packet carries IP options",
    // Core side.
    60 NoMapping "no_mapping" "no NAT mapping for this destination",
    61 NoFlow "no_flow" "mapping exists, but this remote has no flow (address- and port-dependent filtering)",
    62 NoSa "no_sa" "site has no outbound SA for this destination",
    63 CoreDestination "core_destination" "destination is not an address of the NAT pools",
    64 Internal "internal" "packet head could not be moved",
    65 FlowExpired "flow_expired" "flow had timed out",
    66 PublicationSource "publication_source" "port is published, but not for this source",
    // IKE, user space.
    70 IkeMalformed "ike_malformed" "not a well-formed IKE message",
    71 IkeVersion "ike_version" "IKE major version is not 2 (RFC 7296 2.5)",
    72 IkeUnknownSpi "ike_unknown_spi" "no IKE SA has these SPIs",
    73 IkeIntegrity "ike_integrity" "integrity check of an IKE message failed: forged or damaged",
    74 IkeUnexpected "ike_unexpected" "IKE message outside the message window, or an answer that nobody waits for",
    75 IkeHalfOpenFull "ike_half_open_full" "handshake refused, too many are in progress",
    76 IkePuzzle "ike_puzzle" "the solution of an IKE puzzle is wrong (RFC 8019)",
    77 IkeQueueFull "ike_queue_full" "IKE messages came faster than they could be worked on: a socket's buffer or the queue behind it was full",
    78 IkeSiteSas "ike_site_sas" "a site had set up or rekeyed more SAs in a short time than it may",
    79 IkeSiteNetworks "ike_site_networks" "a Child SA would have given a site more networks than it may have, or than there is room for",
    // Flows and their limits, clear and core side.
    80 TcpWindow "tcp_window" "TCP segment is outside of what its sender may send or acknowledge",
    81 SiteFlows "site_flows" "site has as many flows as it may",
    82 SiteFlowRate "site_flow_rate" "site opens more flows a second than it may",
    83 SiteHalfOpen "site_half_open" "site has as many half-open TCP connections as it may",
    84 SiteMappings "site_mappings" "site has as many NAT mappings as it may",
    85 SiteShare "site_share" "flow table is nearly full and the site has its share",
    89 NatPortless "nat_portless" "protocol has no ports, and the site has port blocks instead of an address of its own",
    // ICMP errors and fragments.
    90 IcmpErrorUnmatched "icmp_error_unmatched" "ICMP error is damaged, or quotes no packet of a live flow",
    91 FragmentMalformed "fragment_malformed" "fragment overlaps or contradicts another, or is too short or too long (RFC 1858, RFC 5722)",
    92 FragmentLimit "fragment_limit" "fragments took more room or came faster than their source may, or newer ones needed the room",
    93 FragmentTimeout "fragment_timeout" "the other fragments of the packet did not come in time",
    // Directions and answers.
    94 RuleRejected "rule_rejected" "a rule rejects it; its sender is told, as often as the limit lets",
    95 WrongSide "wrong_side" "came from or would leave to another side (center, Internet) than its address belongs to",
    96 NextHopTooBig "next_hop_too_big" "packet does not fit the link to the next hop and may not be fragmented",
    // Outer packet, again.
    97 IcmpLimit "icmp_limit" "outside sent more ICMP errors than the kernel gets in a second",
    98 DiscoveryHopLimit "discovery_hop_limit" "neighbour discovery from beyond the link: its hop limit is not 255 (RFC 4861)",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_rise_and_fit_the_map() {
        assert!(
            DropReason::ALL
                .windows(2)
                .all(|pair| (pair[0] as u32) < (pair[1] as u32))
        );
        assert!(DropReason::ALL.iter().all(|reason| (*reason as u32) < DROP_SLOTS));
    }

    #[test]
    fn names_are_unique() {
        let mut names: std::vec::Vec<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::ALL.len());
    }
}
