//! Whatever comes from the network, nothing panics, and nothing that is not authentic changes what stands.

mod common;

use common::*;
use gateway_ike::{
    IkeSaInfo,
    wire::{Exchange, Header, payload_type},
};
use proptest::prelude::*;

/// Everything of both sides that must not change.
fn standing(sim: &Sim) -> (Vec<IkeSaInfo>, Vec<String>) {
    let all = sim.endpoints.iter().flat_map(|endpoint| endpoint.ike_sas());
    let infos = all
        .filter(|info| info.state == "established")
        .map(|info| IkeSaInfo { age_s: 0, ..info })
        .collect();
    let planes = sim
        .planes
        .iter()
        .map(|plane| format!("{:?} {:?}", plane.children, plane.sending_on))
        .collect();
    (infos, planes)
}

/// Real messages of every exchange, in the order sent.
fn recorded() -> (Sim, Vec<Datagram>) {
    let (mut site, mut center) = (site_config(), center_config());
    site.fragment_size = Some(600);
    center.fragment_size = Some(600);
    let mut sim = connected(site, center, 1);
    let child = sim.only_child(SITE);
    sim.command(SITE, gateway_ike::Command::RekeyChild(child));
    sim.run_ms(300);
    let child = sim.only_child(CENTER);
    sim.command(CENTER, gateway_ike::Command::RekeyChild(child));
    sim.run_ms(300);
    let sent = sim.sent.clone();
    (sim, sent)
}

/// Whoever changes the source port on the way, which nothing authentic covers, could send an IKE SA's answers nowhere.
#[test]
fn what_comes_from_port_0_is_not_looked_at() {
    let (mut sim, sent) = recorded();
    let before = standing(&sim);
    for mut datagram in sent {
        datagram.from.set_port(0);
        let malformed = sim.endpoints.iter().map(|endpoint| endpoint.counters().malformed);
        let malformed = malformed.sum::<u64>() + 1;
        let answers = sim.sent.len();
        sim.deliver(&datagram);
        assert_eq!(sim.sent.len(), answers, "nobody is answered");
        let counted = sim.endpoints.iter().map(|endpoint| endpoint.counters().malformed);
        assert_eq!(counted.sum::<u64>(), malformed);
    }
    assert_eq!(standing(&sim), before);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Arbitrary octets, and arbitrary octets behind a header that leads to the IKE SA.
    #[test]
    fn arbitrary_octets(
        datagrams in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..40),
        exchange in 34u8..39, first in 30u8..56, flags in any::<u8>(), message_id in 0u32..4,
    ) {
        let mut sim = connected(site_config(), center_config(), 2);
        let before = standing(&sim);
        let spis = sim.endpoints[CENTER].ike_sas().next().unwrap().spis;
        for body in datagrams {
            let header = Header {
                spi_i: spis.0,
                spi_r: if exchange == 34 && flags & 1 == 0 { 0 } else { spis.1 },
                next_payload: first,
                exchange: Exchange::from(exchange),
                from_initiator: flags & 2 == 0,
                response: flags & 4 == 0,
                message_id,
            };
            let mut framed = Vec::new();
            header.emit(u32::try_from(28 + body.len()).unwrap(), &mut framed);
            framed.extend_from_slice(&body);
            for payload in [body, framed] {
                for (from, to) in [(site_address(), center_address()), (center_address(), site_address())] {
                    sim.deliver(&Datagram { from, to, payload: payload.clone() });
                }
            }
        }
        prop_assert_eq!(standing(&sim), before);
    }

    /// Real messages with octets changed, cut or lengthened.
    #[test]
    fn mutated_messages(
        mutations in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1u8..=255, 0u8..4), 1..60),
        fix_length in any::<bool>(),
    ) {
        let (mut sim, sent) = recorded();
        let before = standing(&sim);
        for (which, at, value, kind) in mutations {
            let mut datagram = which.get(&sent).clone();
            let at = at.index(datagram.payload.len());
            match kind {
                0 | 1 => datagram.payload[at] ^= value,
                2 => datagram.payload.truncate(at),
                _ => datagram.payload.insert(at, value),
            }
            let len = u32::try_from(datagram.payload.len()).unwrap();
            if fix_length && datagram.payload.len() >= 28 {
                datagram.payload[24..28].copy_from_slice(&len.to_be_bytes());
            }
            sim.deliver(&datagram);
        }
        prop_assert_eq!(standing(&sim), before);
    }

    /// A handshake with damage on the way either fails or is as good as an undamaged one.
    #[test]
    fn damaged_handshakes(
        seed in any::<u64>(), which in 0usize..8, at in any::<prop::sample::Index>(), value in 1u8..=255,
    ) {
        let mut sim = Sim::new(site_config(), center_config(), seed);
        sim.initiate();
        for count in 0.. {
            let Some((_, mut datagram)) = sim.in_flight.pop_first() else { break };
            if count == which {
                let at = at.index(datagram.payload.len());
                datagram.payload[at] ^= value;
            }
            sim.deliver(&datagram);
            prop_assert!(count < 100);
        }
        sim.run_ms(20_000);
        let up = [SITE, CENTER].map(|side| sim.planes[side].sending_on.is_some());
        if up == [true, true] {
            sim.assert_agreement();
        }
    }
}

/// Fragments that never make a whole, and forged ones beside the genuine.
#[test]
fn fragment_bombs() {
    let (mut site, center) = (site_config(), center_config());
    site.fragment_size = Some(300);
    let mut sim = Sim::new(site, center, 3);
    sim.initiate();
    let mut bombs = 0;
    for _ in 0..200 {
        let Some((_, datagram)) = sim.in_flight.pop_first() else {
            break;
        };
        if datagram.payload[16] == payload_type::SKF {
            for number in 0..=255u8 {
                let mut forged = datagram.clone();
                forged.payload[33] = number;
                forged.payload[35] = 255;
                sim.deliver(&forged);
                let mut forged = datagram.clone();
                forged.payload[33] = number;
                forged.payload[40] ^= 1;
                sim.deliver(&forged);
                bombs += 2;
            }
        }
        sim.deliver(&datagram);
    }
    assert!(bombs > 1_000, "nothing was fragmented");
    sim.assert_agreement();
    assert!(sim.planes[CENTER].sending_on.is_some(), "{}", sim.words(CENTER));
    let counters = sim.endpoints[CENTER].counters();
    assert!(counters.bad_integrity + counters.malformed > 500, "{counters:?}");
}

/// An attacker that answers IKE_SA_INIT in the responder's stead with garbage does not stop the handshake.
#[test]
fn garbage_answers_to_the_first_request() {
    let mut sim = Sim::new(site_config(), center_config(), 4);
    sim.initiate();
    let spi_i = Header::parse(&sim.sent[0].payload).unwrap().spi_i;
    for fill in 0..50u8 {
        let header = Header {
            spi_i,
            spi_r: 9,
            next_payload: 33 + fill % 16,
            exchange: Exchange::IkeSaInit,
            from_initiator: false,
            response: true,
            message_id: 0,
        };
        let mut payload = Vec::new();
        header.emit(28 + 40, &mut payload);
        payload.extend_from_slice(&[fill; 40]);
        sim.deliver(&Datagram {
            from: center_address(),
            to: site_address(),
            payload,
        });
    }
    sim.run_ms(500);
    sim.assert_agreement();
    assert!(sim.planes[SITE].sending_on.is_some(), "{}", sim.words(SITE));
}
