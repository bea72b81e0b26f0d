//! What the fuzzer calls with octets of its own, and tests with those of the corpora in `tests/fuzz/corpus`. Each
//! target panics when an input shows a fault. Sessions of IKE messages are in `gateway_ike::fuzzing`.

mod certificate;
mod dns;
mod esp;
mod files;
mod fragments;
mod ike;
mod packet;

pub use certificate::certificate;
pub use dns::dns;
pub use esp::esp_inbound;
pub use files::{config, rules};
pub use fragments::fragments;
pub use ike::{ike_message, ike_payloads};
pub use packet::{packet_clear, packet_core, packet_wan};

/// A target takes any octets.
pub type Target = fn(&[u8]);

/// The targets of this module by the names of their corpora.
pub const TARGETS: [(&str, Target); 11] = [
    ("certificate", certificate),
    ("config", config),
    ("dns", dns),
    ("esp_inbound", esp_inbound),
    ("fragments", fragments),
    ("ike_message", ike_message),
    ("ike_payloads", ike_payloads),
    ("packet_clear", packet_clear),
    ("packet_core", packet_core),
    ("packet_wan", packet_wan),
    ("rules", rules),
];

/// Reads octets off the front; zeros when there are none left.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn octet(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    /// A piece with its length in front, 16 bits; `None` at the end.
    fn piece(&mut self) -> Option<&'a [u8]> {
        if self.0.is_empty() {
            return None;
        }
        let length = usize::from(u16::from_be_bytes([self.octet(), self.octet()]));
        let (piece, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        Some(piece)
    }
}
