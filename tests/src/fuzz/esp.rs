//! ESP packets into one inbound SA: forged ones, and those of a peer that has the keys and means ill.

use gateway_esp::engine::{self, Job};
use gateway_esp::{
    ESP_HEADER_LEN, InboundConfig, InboundSa, InnerIpv4, KeyMaterial, Opened, REPLAY_WINDOW_MIN, Selectors,
    Suite, TrafficSelector,
};

use super::Input;

const SPI: u32 = 0xc0de_0001;
/// Packets of one run at most.
const PACKETS_MAX: usize = 40;

/// Suite and sequence numbers; then packets, each with a flag octet and its length in front: sent as they are, or
/// sealed with the keys under a sequence number of the fuzzer's.
///
/// # Panics
/// When a forged or repeated packet is opened, or what comes out is not a packet that the selectors admit.
pub fn esp_inbound(input: &[u8]) {
    let mut input = Input(input);
    let suite = Suite::ALL[usize::from(input.octet()) % Suite::ALL.len()];
    let esn = input.octet() & 1 == 1;
    let mut sa = InboundSa::new(InboundConfig {
        spi: SPI,
        suite,
        keys: keys(suite),
        esn,
        replay_window: REPLAY_WINDOW_MIN,
        selectors: selectors(),
    })
    .expect("an SA");
    for _ in 0..PACKETS_MAX {
        let (kind, tos) = (input.octet(), input.octet());
        let Some(piece) = input.piece() else { break };
        let mut packet = match kind & 3 {
            0 => piece.to_vec(),
            _ => sealed(suite, esn, sa.highest_sequence(), piece),
        };
        let genuine = kind & 3 != 0;
        let highest = sa.highest_sequence();
        let again = packet.clone();
        match sa.open(&mut packet, tos) {
            Ok(opened) => {
                assert!(genuine, "a forgery was opened");
                is_admitted(&mut packet, opened);
                assert!(sa.open(&mut again.clone(), tos).is_err(), "a replay was opened");
            }
            Err(_) if !genuine => assert_eq!(sa.highest_sequence(), highest, "a forgery moved the window"),
            Err(_) => {}
        }
    }
}

fn is_admitted(packet: &mut [u8], opened: Opened) {
    let Opened::Packet { inner, .. } = opened else {
        return;
    };
    let length = inner.len();
    let bytes = packet
        .get_mut(inner)
        .expect("the inner packet lies in the buffer");
    let inner = InnerIpv4::parse(bytes).expect("the inner packet is well-formed");
    assert_eq!(inner.total_len, length);
    assert!(
        selectors().admits_inbound(&inner.flow),
        "{inner:?} is not admitted"
    );
}

/// What a peer with the keys may send: `piece` is the sequence number (four octets) and the text with its trailer.
fn sealed(suite: Suite, esn: bool, highest: u64, piece: &[u8]) -> Vec<u8> {
    let (number, text) = piece.split_at(piece.len().min(4));
    let mut low = [0; 4];
    low[..number.len()].copy_from_slice(number);
    let mut packet = SPI.to_be_bytes().to_vec();
    packet.extend(low);
    packet.resize(ESP_HEADER_LEN + suite.iv_len(), 0x5a);
    packet.extend(text);
    let text_len = text.len().next_multiple_of(suite.alignment());
    packet.resize(ESP_HEADER_LEN + suite.iv_len() + text_len + suite.icv_len(), 0);
    let engine = engine::new(suite, &keys(suite)).expect("an engine");
    let job = Job {
        esp: &mut packet,
        sequence_high: esn.then_some((highest >> 32) as u32),
    };
    engine.seal(job).expect("a packet of a lawful size");
    packet
}

fn keys(suite: Suite) -> KeyMaterial {
    KeyMaterial::new(
        &vec![0x42; suite.encryption_key_len()],
        &vec![0x24; suite.integrity_key_len()],
    )
}

fn selectors() -> Selectors {
    let net = |first: [u8; 4], last: [u8; 4]| TrafficSelector::addresses(first.into(), last.into());
    Selectors::new(
        [net([10, 100, 0, 0], [10, 101, 255, 255])],
        [net([192, 168, 1, 0], [192, 168, 1, 255])],
    )
}
