//! What is done in bursts is what is done packet by packet: the same octets, the same refusals. With the feature `ipsec-mb`,
//! bursts are the multi-buffer library's work and single packets are not, so that the two check each other.

mod common;

use common::{inbound, inner, outbound, seal, tunnel};
use gateway_esp::engine::{Burst, Refused, Task};
use gateway_esp::tunnel::Received;
use gateway_esp::{HEADROOM_MAX, InboundSa, OpenError, Opened, OutboundSa, Suite, TAILROOM_MAX, Tunnel};
use proptest::prelude::*;

/// A packet of a burst, before and after.
#[derive(Clone, Copy, Debug)]
struct Case {
    /// Which of the SAs.
    sa: usize,
    size: usize,
    /// An octet of the ESP packet is changed on the way, by its place.
    damaged: Option<usize>,
}

fn case() -> impl Strategy<Value = Case> {
    (
        0..Suite::ALL.len() * 2,
        20_usize..1380,
        prop::option::weighted(0.2, 0_usize..2000),
    )
        .prop_map(|(sa, size, damaged)| Case { sa, size, damaged })
}

/// Each suite with 32-bit and with extended sequence numbers.
fn each<T>(make: impl Fn(Suite, bool) -> T) -> Vec<T> {
    let extended = Suite::ALL.iter().map(|suite| make(*suite, true));
    Suite::ALL
        .iter()
        .map(|suite| make(*suite, false))
        .chain(extended)
        .collect()
}

/// Seals these packets, `(SA, packet)`, in one burst.
fn seal_at_once(burst: &mut Burst, sas: &mut [OutboundSa], packets: &[(usize, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut prepared = Vec::new();
    for (sa, packet) in packets {
        let mut frame = vec![0xee; HEADROOM_MAX + packet.len() + TAILROOM_MAX];
        frame[HEADROOM_MAX..HEADROOM_MAX + packet.len()].copy_from_slice(packet);
        let inner = HEADROOM_MAX..HEADROOM_MAX + packet.len();
        prepared.push(sas[*sa].prepare(&mut frame, inner).unwrap());
        frames.push(frame);
    }
    let mut tasks: Vec<_> = packets
        .iter()
        .zip(&prepared)
        .zip(&mut frames)
        .map(|(((sa, _), prepared), frame)| sas[*sa].task(prepared, frame))
        .collect();
    burst.run(&mut tasks);
    let outcomes: Vec<_> = tasks.into_iter().map(|task| task.unwrap().outcome()).collect();
    let finished = packets.iter().zip(prepared).zip(outcomes).zip(frames);
    finished
        .map(|((((sa, _), prepared), outcome), mut frame)| {
            let sealed = sas[*sa].finish(prepared, outcome, &mut frame).unwrap();
            frame[sealed].to_vec()
        })
        .collect()
}

/// Opens these frames, `(SA, frame)`, in one burst; the inner packets.
fn open_at_once(
    burst: &mut Burst,
    sas: &mut [InboundSa],
    frames: &[(usize, Vec<u8>)],
) -> Vec<Result<Vec<u8>, OpenError>> {
    let mut packets: Vec<_> = frames
        .iter()
        .map(|(_, frame)| frame[Received::parse(frame).unwrap().esp].to_vec())
        .collect();
    let admitted: Vec<_> = frames
        .iter()
        .zip(&packets)
        .map(|((sa, _), esp)| sas[*sa].admit(esp))
        .collect();
    let mut tasks: Vec<Option<Task<'_>>> = frames
        .iter()
        .zip(&admitted)
        .zip(&mut packets)
        .map(|(((sa, _), admitted), esp)| Some(sas[*sa].task(admitted.as_ref().ok()?, esp)))
        .collect();
    burst.run(&mut tasks);
    let outcomes: Vec<_> = tasks
        .into_iter()
        .map(|task| task.map_or(Err(Refused), Task::outcome))
        .collect();
    let finished = frames.iter().zip(admitted).zip(outcomes).zip(&mut packets);
    finished
        .map(
            |((((sa, _), admitted), outcome), esp)| match sas[*sa].finish(admitted?, outcome, esp, 0)? {
                Opened::Packet { inner, .. } => Ok(esp[inner].to_vec()),
                Opened::Dummy => panic!("no dummy was sent"),
            },
        )
        .collect()
}

fn open_alone(sa: &mut InboundSa, frame: &[u8]) -> Result<Vec<u8>, OpenError> {
    let mut esp = frame[Received::parse(frame).unwrap().esp].to_vec();
    match sa.open(&mut esp, 0)? {
        Opened::Packet { inner, .. } => Ok(esp[inner].to_vec()),
        Opened::Dummy => panic!("no dummy was sent"),
    }
}

fn path() -> Tunnel {
    tunnel(false, true)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_burst_does_what_each_packet_alone_does(cases in prop::collection::vec(case(), 1..150)) {
        let mut burst = Burst::default();
        let mut senders = each(|suite, esn| outbound(suite, esn, path()));
        let mut alone = each(|suite, esn| outbound(suite, esn, path()));
        let packets: Vec<_> = cases.iter().map(|case| (case.sa, inner(case.size, 0))).collect();
        let sealed = seal_at_once(&mut burst, &mut senders, &packets);
        for ((sa, packet), sealed) in packets.iter().zip(&sealed) {
            prop_assert_eq!(&seal(&mut alone[*sa], packet), sealed);
        }

        let mut frames: Vec<_> = cases.iter().map(|case| case.sa).zip(sealed).collect();
        for (case, (_, frame)) in cases.iter().zip(&mut frames) {
            if let Some(place) = case.damaged {
                let esp = Received::parse(frame).unwrap().esp;
                // Not the SPI, by which the SA was found.
                let at = esp.start + 4 + place % (esp.len() - 4);
                frame[at] ^= 0x10;
            }
        }
        let mut receivers = each(inbound);
        let mut alone = each(inbound);
        let opened = open_at_once(&mut burst, &mut receivers, &frames);
        for (((sa, frame), opened), (case, (_, packet))) in
            frames.iter().zip(opened).zip(cases.iter().zip(&packets))
        {
            match &opened {
                Ok(inner) => prop_assert!(case.damaged.is_none() && inner == packet),
                Err(_) => prop_assert!(case.damaged.is_some()),
            }
            prop_assert_eq!(open_alone(&mut alone[*sa], frame), opened);
        }
    }
}

#[test]
fn a_packet_twice_in_one_burst_is_taken_once() {
    for suite in Suite::ALL {
        let frame = seal(&mut outbound(suite, true, path()), &inner(100, 0));
        let twice = [(0, frame.clone()), (0, frame)];
        let opened = open_at_once(&mut Burst::default(), &mut [inbound(suite, true)], &twice);
        assert_eq!(opened, [Ok(inner(100, 0)), Err(OpenError::Replayed)], "{suite}");
    }
}

#[test]
fn what_a_burst_did_not_run_is_refused() {
    let suite = Suite::AesGcm16_256;
    let frame = seal(&mut outbound(suite, false, path()), &inner(100, 0));
    let mut esp = frame[Received::parse(&frame).unwrap().esp].to_vec();
    let mut receiver = inbound(suite, false);
    let admitted = receiver.admit(&esp).unwrap();
    let outcome = receiver.task(&admitted, &mut esp).outcome();
    assert_eq!(
        receiver.finish(admitted, outcome, &mut esp, 0),
        Err(OpenError::AuthenticationFailed)
    );
    assert_eq!(receiver.highest_sequence(), 0);
}
