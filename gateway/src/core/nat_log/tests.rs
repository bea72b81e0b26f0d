use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

fn holding(name: &str, first_port: u16) -> Holding {
    Holding {
        site: u32::from(name.as_bytes()[0]),
        name: name.to_owned(),
        block: Block {
            address: ADDRESS,
            first_port,
            last_port: first_port + 2047,
            protocol: None,
        },
    }
}

/// Records at these seconds.
fn records(events: &[(u64, Event)]) -> Vec<Record> {
    let numbered = events.iter().zip(1..);
    numbered
        .map(|((at_s, event), sequence)| Record {
            sequence,
            time: Time(at_s * 1_000),
            event: event.clone(),
        })
        .collect()
}

fn ask(records: &[Record], port: u16, at_s: u64) -> Vec<(String, bool)> {
    let question = Question {
        address: ADDRESS,
        port: Some(port),
        at: Some(Time(at_s * 1_000)),
    };
    let found = who(records, &question);
    let name = |answer: Answer| (answer.holding.name, answer.certain);
    found.answers.into_iter().map(name).collect()
}

fn sure(name: &str) -> Vec<(String, bool)> {
    vec![(name.to_owned(), true)]
}

#[test]
fn a_record_is_a_line_as_documented() {
    let record = Record {
        sequence: 7,
        time: Time(1_795_584_000_250),
        event: Event::Assigned(holding("a", 2048)),
    };
    let line = serde_json::to_string(&record).expect("JSON");
    assert_eq!(
        line,
        r#"{"sequence":7,"time":"2026-11-25T05:20:00.250Z","event":"assigned","site":97,"name":"a","address":"10.0.0.1","first_port":2048,"last_port":4095}"#
    );
    assert_eq!(serde_json::from_str::<Record>(&line).expect("JSON"), record);
    let page = include_str!("../../../docs/nat.md");
    for event in [
        "file",
        "held",
        "assigned",
        "released",
        "started",
        "stopped",
        "clock_set",
    ] {
        assert!(
            page.contains(&format!("`{event}`")),
            "{event} is not in docs/nat.md"
        );
    }
}

#[test]
fn the_holder_of_a_port_is_found_for_each_time() {
    let (a, b) = (holding("a", 2048), holding("b", 2048));
    let log = records(&[
        (10, Event::File { held: 0 }),
        (10, Event::Assigned(a.clone())),
        (20, Event::Assigned(holding("c", 4096))),
        (30, Event::Released(a)),
        (50, Event::Assigned(b)),
    ]);
    assert_eq!(ask(&log, 2048, 10), sure("a"));
    assert_eq!(ask(&log, 4095, 29), sure("a"));
    assert_eq!(ask(&log, 2048, 30), [], "from its release on nobody's");
    assert_eq!(ask(&log, 2048, 49), []);
    assert_eq!(ask(&log, 2048, 50), sure("b"));
    assert_eq!(ask(&log, 2048, 9_999), sure("b"));
    assert_eq!(ask(&log, 4096, 25), sure("c"));
    assert_eq!(ask(&log, 1024, 25), []);
    let whole = who(
        &log,
        &Question {
            address: ADDRESS,
            port: None,
            at: Some(Time(25_000)),
        },
    );
    assert_eq!(whole.answers.len(), 2);
    let before = who(
        &log,
        &Question {
            address: ADDRESS,
            port: None,
            at: Some(Time(9_000)),
        },
    );
    assert!(before.before_log && before.answers.is_empty());
    assert_eq!(before.begins, Some(Time(10_000)));
}

/// The same port of two protocols may be published of two sites.
#[test]
fn a_published_port_is_one_protocols() {
    let of = |name, protocol| Holding {
        block: Block {
            address: ADDRESS,
            first_port: 8443,
            last_port: 8443,
            protocol: Some(protocol),
        },
        ..holding(name, 0)
    };
    let log = records(&[
        (10, Event::File { held: 0 }),
        (10, Event::Assigned(of("a", 6))),
        (10, Event::Assigned(of("b", 17))),
        (30, Event::Released(of("a", 6))),
    ]);
    let both = [("a".to_owned(), true), ("b".to_owned(), true)];
    assert_eq!(ask(&log, 8443, 20), both);
    assert_eq!(ask(&log, 8443, 30), sure("b"));
    assert_eq!(of("a", 6).block.to_string(), "10.0.0.1:8443/tcp");
    let line = serde_json::to_string(&log[1]).expect("JSON");
    assert!(
        line.ends_with(r#""first_port":8443,"last_port":8443,"protocol":6}"#),
        "{line}"
    );
    assert_eq!(serde_json::from_str::<Record>(&line).expect("JSON"), log[1]);
}

/// Deleted files, and records that were lost between two files: the next file says what is held.
#[test]
fn a_file_begins_with_what_is_held() {
    let (a, b, c) = (holding("a", 2048), holding("b", 4096), holding("c", 6144));
    let mut log = records(&[
        (100, Event::File { held: 2 }),
        (100, Event::Held(a.clone())),
        (100, Event::Held(b.clone())),
        (200, Event::Released(b)),
        (300, Event::File { held: 2 }),
        (300, Event::Held(a)),
        (300, Event::Held(c)),
    ]);
    let question = |at_s: u64, port| Question {
        address: ADDRESS,
        port: Some(port),
        at: Some(Time(at_s * 1_000)),
    };
    let found = who(&log, &question(250, 2048));
    assert_eq!(found.answers.len(), 1);
    assert!(found.answers[0].from_before && found.answers[0].certain);
    assert_eq!(
        found.answers[0].from,
        Time(100_000),
        "not begun anew by the second file"
    );
    assert_eq!(ask(&log, 4096, 150), sure("b"));
    // The record that gave it away is lost.
    assert_eq!(ask(&log, 6144, 299), []);
    assert_eq!(ask(&log, 6144, 300), sure("c"));
    for record in &mut log[4..] {
        record.sequence += 10;
    }
    assert_eq!(who(&log, &question(300, 6144)).missing, [(5, 14)]);
    // The record that took it away is lost.
    log.remove(3);
    assert_eq!(ask(&log, 4096, 299), sure("b"));
    assert_eq!(ask(&log, 4096, 300), []);
}

/// The daemon saw the clock being set back: each time is one of before or of after, or it came twice.
#[test]
fn a_time_that_came_twice_has_both_answers() {
    let (a, b) = (holding("a", 2048), holding("b", 2048));
    let log = records(&[
        (100, Event::Assigned(a.clone())),
        (
            150,
            Event::ClockSet {
                before: Time(200_000),
            },
        ),
        (160, Event::Released(a)),
        (170, Event::Assigned(b)),
    ]);
    assert_eq!(ask(&log, 2048, 120), sure("a"));
    assert_eq!(ask(&log, 2048, 155), sure("a"), "both times");
    assert_eq!(
        ask(&log, 2048, 180),
        [("a".to_owned(), false), ("b".to_owned(), false)]
    );
    assert_eq!(ask(&log, 2048, 201), sure("b"));
}

/// The clock was set back while the daemon was down: how far it had come nobody knows.
#[test]
fn a_clock_set_back_unseen_leaves_later_times_uncertain() {
    let (a, b) = (holding("a", 2048), holding("b", 2048));
    let log = records(&[
        (100, Event::Assigned(a.clone())),
        (200, Event::Stopped),
        (50, Event::Started { version: "1".into() }),
        (60, Event::Released(a)),
        (70, Event::Assigned(b)),
    ]);
    assert_eq!(ask(&log, 2048, 55), [("a".to_owned(), true)]);
    assert_eq!(ask(&log, 2048, 40), [("a".to_owned(), false)]);
    assert_eq!(
        ask(&log, 2048, 150),
        [("a".to_owned(), false), ("b".to_owned(), false)]
    );
    assert_eq!(
        ask(&log, 2048, 300),
        [("a".to_owned(), false), ("b".to_owned(), false)]
    );
}

#[test]
fn a_clock_set_forward_changes_nothing() {
    let a = holding("a", 2048);
    let log = records(&[
        (100, Event::Assigned(a.clone())),
        (
            500,
            Event::ClockSet {
                before: Time(150_000),
            },
        ),
        (600, Event::Released(a)),
    ]);
    assert_eq!(ask(&log, 2048, 140), sure("a"));
    assert_eq!(ask(&log, 2048, 599), sure("a"));
    assert_eq!(ask(&log, 2048, 600), []);
}

/// What a crash leaves between log and state is put right in the log, releases first.
#[test]
fn the_log_is_made_to_say_what_is_held() {
    let now = || [holding("b", 2048)];
    let mut held = Held::default();
    assert_eq!(held.reconcile(now()), [Event::Assigned(holding("b", 2048))]);
    let log = records(&[
        (1, Event::File { held: 0 }),
        (2, Event::Assigned(holding("a", 2048))),
        (3, Event::Assigned(holding("c", 4096))),
    ]);
    log.iter().for_each(|record| held.apply(record));
    let events = held.reconcile(now());
    assert_eq!(
        events,
        [
            Event::Released(holding("a", 2048)),
            Event::Released(holding("c", 4096)),
            Event::Assigned(holding("b", 2048)),
        ]
    );
    for (event, sequence) in events.into_iter().zip(4..) {
        held.apply(&Record {
            sequence,
            time: Time(4_000),
            event,
        });
    }
    assert_eq!(held.reconcile(now()), []);
    assert_eq!(held.sequence, 6);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    /// Model: with a clock that only goes on, the answer is what a replay up to that second holds.
    #[test]
    fn answers_are_those_of_a_replay(
        steps in proptest::collection::vec((0u64..3, 0usize..3, 0usize..3, any::<bool>()), 1..40),
        at_s in 0u64..90,
        slot in 0u16..3,
    ) {
        let names = ["a", "b", "c"];
        let mut now_s = 1;
        let mut events = vec![(1, Event::File { held: 0 })];
        let mut holder: [Option<usize>; 3] = [None; 3];
        let mut at_time: Vec<(u64, [Option<usize>; 3])> = vec![(1, holder)];
        for (wait, name, slot, rotate) in steps {
            now_s += wait;
            let port = 2048 * (slot as u16 + 1);
            match holder[slot] {
                Some(old) => {
                    events.push((now_s, Event::Released(holding(names[old], port))));
                    holder[slot] = None;
                }
                None => {
                    events.push((now_s, Event::Assigned(holding(names[name], port))));
                    holder[slot] = Some(name);
                }
            }
            at_time.push((now_s, holder));
            if rotate {
                let held: Vec<_> = (0..3u16)
                    .filter_map(|slot| Some(holding(names[holder[slot as usize]?], 2048 * (slot + 1))))
                    .collect();
                events.push((now_s, Event::File { held: held.len() as u64 }));
                events.extend(held.into_iter().map(|held| (now_s, Event::Held(held))));
            }
        }
        let log = records(&events);
        let expected = at_time.iter().rfind(|(then_s, _)| *then_s <= at_s).and_then(|(_, held)| held[slot as usize]);
        let found = ask(&log, 2048 * (slot + 1) + 7, at_s);
        prop_assert_eq!(found, expected.map(|name| (names[name].to_owned(), true)).into_iter().collect::<Vec<_>>());
    }
}
