//! What is fetched ahead where SAs are many changes nothing of what becomes of frames.

use super::*;

/// More than a table that counts as small has.
const FAR_SLOT: u32 = 700;

const SUITES: [Suite; 2] = [Suite::AesGcm16_256, Suite::AesCbc256HmacSha256_128];

/// A bench whose worker 1 has another SA pair in a far slot.
fn with_many(suite: Suite) -> Bench {
    let mut bench = Bench::new(suite, None, 1);
    let handle = SaHandle {
        worker: 1,
        slot: FAR_SLOT,
        generation: 1,
    };
    let path = tunnel(OVER_IPV4, None);
    let any = Selectors::any();
    let install = Install {
        handle,
        site: SITE + 1,
        inbound: inbound(suite, SPI_IN + 1, 5, &any),
        outbound: outbound(suite, SPI_OUT + 1, 6, 1, &any, path),
        port: WAN,
        tunnel: path,
        counters: Arc::<SaCounters>::default(),
    };
    bench.order(1, Order::Install(Box::new(install)));
    assert!(bench.workers[1].engine.table.is_large());
    bench
}

/// Frames of all kinds, more than a batch.
fn mixture(bench: &mut Bench) -> [Vec<Vec<u8>>; 2] {
    let mut wan = Vec::new();
    for number in 0..100 {
        let mut frame = bench.sealed_by_router(&packet([192, 168, 1, 10], [203, 0, 113, 10], 100, false));
        match number % 10 {
            // Replayed.
            3 => wan.push(frame.clone()),
            // No such SPI.
            4 => frame[37] ^= 0xff,
            // Cut short.
            5 => frame.truncate(number / 2),
            // Not authentic.
            6 => frame[60] ^= 1,
            // Neither IPv4 nor IPv6.
            7 => frame[12] = 0,
            _ => {}
        }
        wan.push(frame);
    }
    let inner = packet([203, 0, 113, 10], [192, 168, 1, 10], 100, false);
    let stale = ClearHeader::new(
        SITE,
        SaHandle {
            slot: 600,
            ..bench.handle
        }
        .index(),
    );
    let beyond = ClearHeader::new(
        SITE,
        SaHandle {
            slot: 90_000,
            ..bench.handle
        }
        .index(),
    );
    let core = (0..100).map(|number| match number % 10 {
        3 => bench.core_frame(SITE + 5, &inner),
        4 => vec![0xff; 9],
        5 => [stale.as_bytes(), &inner].concat(),
        6 => [beyond.as_bytes(), &inner].concat(),
        _ => bench.core_frame(SITE, &inner),
    });
    let core = core.collect();
    [wan, core]
}

/// What leaves and what is dropped when they come to a worker, all of a side at once.
fn outcome(mut bench: Bench, worker: usize) -> (Vec<Vec<Vec<u8>>>, Vec<u64>) {
    let [wan, core] = mixture(&mut bench);
    bench.workers[worker].rings.arrived = [wan.into(), core.into()];
    for _ in 0..4 {
        bench.round(worker);
        bench.round(1 - worker);
    }
    bench.assert_no_leak();
    let left = [0, 1]
        .into_iter()
        .flat_map(|worker| [WAN, CORE, CLEAR].map(|port| (worker, port)));
    let left = left.map(|(worker, port)| bench.left(worker, port)).collect();
    let drops = [0, 1]
        .into_iter()
        .flat_map(|worker| DropReason::ALL.iter().map(move |reason| (worker, *reason)));
    let drops = drops
        .map(|(worker, reason)| bench.drops(worker, reason))
        .collect();
    (left, drops)
}

#[test]
fn frames_fare_alike_whether_sas_are_few_or_many() {
    for suite in SUITES {
        // The SA's own worker, and one that hands its frames over.
        for worker in [1, 0] {
            let few = outcome(Bench::new(suite, None, 1), worker);
            let many = outcome(with_many(suite), worker);
            assert!(few == many, "{suite}, worker {worker}");
            let (left, drops) = few;
            assert_eq!(
                left.iter().map(Vec::len).sum::<usize>(),
                60 + 60,
                "{suite}, worker {worker}"
            );
            assert!(drops.iter().filter(|count| **count > 0).count() >= 4, "{drops:?}");
        }
    }
}
