//! NAT detection (RFC 7296 section 2.23).

use std::net::{IpAddr, SocketAddr};

use ring::digest;

use crate::{
    context::Path,
    wire::{
        Message, Payload,
        notify::{Notify, kind},
    },
};

/// Which side has a NAT in front of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct NatStatus {
    pub(crate) local: bool,
    pub(crate) remote: bool,
}

impl NatStatus {
    pub(crate) fn any(self) -> bool {
        self.local || self.remote
    }
}

/// `SHA1(SPIi | SPIr | IP | port)`; no secret depends on it.
fn hash(spi_i: u64, spi_r: u64, address: SocketAddr) -> Vec<u8> {
    let mut input = [spi_i.to_be_bytes(), spi_r.to_be_bytes()].concat();
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => input.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => input.extend_from_slice(&ip.octets()),
    }
    input.extend_from_slice(&address.port().to_be_bytes());
    digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &input)
        .as_ref()
        .to_vec()
}

/// The two notifications that tell the peer which addresses we think the message has.
pub(crate) fn notifications(spi_i: u64, spi_r: u64, path: Path) -> [Payload; 2] {
    [
        Payload::Notify(Notify::new(
            kind::NAT_DETECTION_SOURCE_IP,
            hash(spi_i, spi_r, path.local),
        )),
        Payload::Notify(Notify::new(
            kind::NAT_DETECTION_DESTINATION_IP,
            hash(spi_i, spi_r, path.remote),
        )),
    ]
}

/// The peer does NAT traversal.
pub(crate) fn is_announced(message: &Message) -> bool {
    message.notify(kind::NAT_DETECTION_SOURCE_IP).is_some()
        || message.notify(kind::NAT_DETECTION_DESTINATION_IP).is_some()
}

/// Compares the peer's notifications with the addresses that its message really has. A peer that sends
/// none does not do NAT traversal.
pub(crate) fn detect(message: &Message, spi_i: u64, spi_r: u64, path: Path) -> NatStatus {
    let differs = |kind, address| {
        let mut hashes = message.notifies().filter(|notify| notify.kind == kind).peekable();
        let own = hash(spi_i, spi_r, address);
        hashes.peek().is_some() && !hashes.any(|notify| notify.data == own)
    };
    NatStatus {
        remote: differs(kind::NAT_DETECTION_SOURCE_IP, path.remote),
        local: differs(kind::NAT_DETECTION_DESTINATION_IP, path.local),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_who_is_behind_a_nat() {
        let a: SocketAddr = "192.0.2.1:500".parse().unwrap();
        let b: SocketAddr = "198.51.100.1:500".parse().unwrap();
        let translated: SocketAddr = "203.0.113.9:1024".parse().unwrap();
        let sent = Message(notifications(1, 2, Path { local: a, remote: b }).to_vec());
        let seen = |local, remote| detect(&sent, 1, 2, Path { local, remote });
        assert_eq!(
            seen(b, a),
            NatStatus {
                local: false,
                remote: false
            }
        );
        assert_eq!(
            seen(b, translated),
            NatStatus {
                local: false,
                remote: true
            }
        );
        assert_eq!(
            seen(translated, a),
            NatStatus {
                local: true,
                remote: false
            }
        );
        assert!(
            !detect(
                &Message(vec![]),
                1,
                2,
                Path {
                    local: b,
                    remote: translated
                }
            )
            .any()
        );
    }

    /// SHA-1 over known octets, computed with `sha1sum`.
    #[test]
    fn known_hash() {
        let address = "192.0.2.1:500".parse().unwrap();
        let expected = include_str!("../tests/data/nat_detection.sha1").trim();
        let hash: String = hash(0x0102_0304_0506_0708, 0, address)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hash, expected);
    }
}
