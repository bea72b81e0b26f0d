//! Where the packet core and the kernel's filter differ, and why. `gateway/docs/filter.md` has each reason.

/// Script, number of its step, whether the gateway lets it pass, and why the two differ.
pub(super) const DIFFERENCES: &[(&str, usize, bool, &str)] = &[
    ("a server sends data before its SYN", 1, false, EARLY_DATA),
    ("a refusal that acknowledges no SYN", 2, false, BLIND_RESET),
    ("a refusal that acknowledges no SYN", 3, true, BLIND_RESET),
    ("the client answers as a server", 2, false, CLIENT_AS_SERVER),
    ("data up to the window and beyond", 5, false, OVER_WINDOW),
    ("data up to the window and beyond", 6, false, OVER_WINDOW),
    ("old data is sent again", 7, false, OLD_DATA),
    (
        "acknowledgments of what was not sent, and of long ago",
        6,
        false,
        OLD_ACKNOWLEDGMENT,
    ),
    ("a SYN with an urgent pointer", 0, false, URGENT_SYN),
    ("a TCP checksum is wrong", 0, true, CHECKSUM),
    ("an IP header's checksum is wrong", 0, true, CHECKSUM),
    (
        "an error that quotes a header with a wrong checksum",
        2,
        false,
        QUOTED_CHECKSUM,
    ),
    ("an error that quotes IP options", 2, false, QUOTED_OPTIONS),
    ("redirects and source quench", 4, false, SOURCE_QUENCH),
    ("redirects and source quench", 5, false, SOURCE_QUENCH),
    ("a query and its answer in fragments", 2, true, IDENTIFICATION),
    (
        "a query and its answer in fragments out of order",
        2,
        true,
        IDENTIFICATION,
    ),
    (
        "a connection's data in fragments, both ways",
        5,
        true,
        IDENTIFICATION,
    ),
    ("a ping and its reply in fragments", 2, true, IDENTIFICATION),
    ("fragments of two queries come mixed", 4, true, IDENTIFICATION),
    ("fragments of two queries come mixed", 5, true, IDENTIFICATION),
    ("a fragment is repeated", 4, true, IDENTIFICATION),
    (
        "fragments of the center that nobody asked for",
        5,
        true,
        IDENTIFICATION,
    ),
    (
        "fragments overlap, and the first one comes again",
        4,
        false,
        OVERLAP,
    ),
    (
        "a fragment says another thing of a place that is taken",
        3,
        false,
        OTHER_OCTETS,
    ),
    (
        "a first fragment without the whole TCP header",
        2,
        false,
        TINY_FRAGMENT,
    ),
];

const EARLY_DATA: &str = "Before the center's SYN it lets pass an ACK without data, which may be a challenge; the kernel lets data pass as well.";
const BLIND_RESET: &str = "A reset without an acknowledgment does not end a handshake (RFC 9293 section 3.10.7.3); the kernel lets it pass and forgets the connection.";
const CLIENT_AS_SERVER: &str = "A SYN+ACK of the site passes if the center's SYN came alone (simultaneous open); the kernel lets any pass.";
const OVER_WINDOW: &str = "A segment that begins beyond the window is dropped, since its receiver takes none of it; the kernel lets up to a further window pass.";
const OLD_DATA: &str = "A segment that is older than a whole window is dropped: no sender has it to send again; the kernel lets it pass.";
const OLD_ACKNOWLEDGMENT: &str = "An acknowledgment older than the largest window, and than 66,000 octets, is dropped (RFC 5961 section 5.2); the kernel lets it pass.";
const URGENT_SYN: &str = "A SYN with URG is dropped as a scan; the kernel lets it pass.";
const CHECKSUM: &str = "Checksums of clear packets are not verified: they are updated, so that a wrong one stays wrong and the next router or the receiver drops it; the kernel drops it itself.";
const QUOTED_CHECKSUM: &str = "An ICMP error that quotes an IP header with a wrong checksum is dropped (RFC 5508 REQ-3); the kernel lets it pass.";
const QUOTED_OPTIONS: &str = "An ICMP error that quotes IP options is dropped: no packet with options has passed; the kernel lets it pass.";
const SOURCE_QUENCH: &str = "Source quench is dropped (RFC 6633); the kernel lets it pass.";
const IDENTIFICATION: &str = "Fragments of a site's packet get an identification of the gateway's (RFC 6864 section 5.3); the kernel leaves them the terminal's.";
const OVERLAP: &str = "Once fragments have overlapped, none of their packet is taken for 10 s, not even all of them anew (RFC 5722 section 3); the kernel begins anew with the next one.";
const OTHER_OCTETS: &str = "A fragment with other octets at a place that is taken ends its packet; the kernel drops that fragment and keeps what came first.";
const TINY_FRAGMENT: &str = "A first fragment without the whole transport header is dropped with its packet (RFC 1858, RFC 3128); the kernel puts the packet together and lets it pass.";
