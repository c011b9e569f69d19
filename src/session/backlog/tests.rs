use proptest::prelude::*;

use super::*;

const BOUNDS: Bounds = Bounds { events: 3, bytes: 100, retention: Duration::from_secs(300) };

#[expect(clippy::disallowed_methods, reason = "only differences matter")]
fn now() -> Instant {
    Instant::now()
}

fn id(stream: u32, number: u64) -> EventId {
    EventId { stream, number }
}

fn after(backlog: &Backlog, id: EventId) -> Result<Vec<(EventId, Bytes)>, ResumeError> {
    backlog.after(id).map(Iterator::collect)
}

#[test]
fn everything_behind_an_id_is_replayed_in_order() {
    let mut backlog = Backlog::new(7, BOUNDS);
    assert_eq!(after(&backlog, backlog.start()), Ok(vec![]));
    assert_eq!(backlog.push(b"a", now(), false), id(7, 1));
    assert_eq!(backlog.push(b"b", now(), false), id(7, 2));
    let (a, b) = ((id(7, 1), Bytes::from("a")), (id(7, 2), Bytes::from("b")));
    assert_eq!(after(&backlog, id(7, 0)), Ok(vec![a, b.clone()]));
    assert_eq!(after(&backlog, id(7, 1)), Ok(vec![b]));
    assert_eq!(after(&backlog, id(7, 2)), Ok(vec![]));
}

/// C18, S9.
#[test]
fn a_dropped_event_is_a_gap_only_for_those_who_have_not_seen_it() {
    let mut backlog = Backlog::new(7, BOUNDS);
    for payload in [b"a", b"b", b"c", b"d"] {
        backlog.push(payload, now(), false);
    }
    assert_eq!(after(&backlog, id(7, 0)), Err(ResumeError::Gap));
    assert_eq!(after(&backlog, id(7, 1)).map(|events| events.len()), Ok(3), "b, c and d are all there");
    backlog.push(&[b'x'; 101], now(), false);
    assert!(backlog.is_empty(), "an event that does not fit takes its predecessors with it");
    assert_eq!(after(&backlog, id(7, 4)), Err(ResumeError::Gap));
    assert_eq!(after(&backlog, id(7, 5)), Ok(vec![]));
}

/// C19.
#[test]
fn ids_of_other_streams_and_of_the_future_are_unknown() {
    let mut backlog = Backlog::new(7, BOUNDS);
    backlog.push(b"a", now(), false);
    for unknown in [id(6, 0), id(6, 1), id(8, 1), id(7, 2), id(7, u64::MAX)] {
        assert_eq!(after(&backlog, unknown), Err(ResumeError::Unknown), "{unknown}");
    }
}

#[test]
fn events_expire() {
    let start = now();
    let mut backlog = Backlog::new(7, BOUNDS);
    backlog.push(b"a", start, false);
    backlog.push(b"b", start + Duration::from_secs(1), false);
    backlog.expire(start + BOUNDS.retention - Duration::from_nanos(1));
    assert_eq!(after(&backlog, id(7, 0)).map(|events| events.len()), Ok(2));
    backlog.expire(start + BOUNDS.retention);
    assert_eq!(after(&backlog, id(7, 0)), Err(ResumeError::Gap));
    assert_eq!(after(&backlog, id(7, 1)).map(|events| events.len()), Ok(1));
    backlog.expire(start + BOUNDS.retention * 2);
    assert!(backlog.is_empty());
    assert_eq!(after(&backlog, id(7, 1)), Err(ResumeError::Gap));
    assert_eq!(backlog.push(b"c", start + BOUNDS.retention * 2, false), id(7, 3), "numbers are not used again");
}

#[test]
fn what_is_kept_does_not_hold_on_to_what_it_was_cut_from() {
    let buffer = Bytes::from(vec![b'x'; 4096]);
    let mut backlog = Backlog::new(7, BOUNDS);
    backlog.push(&buffer[..10], now(), false);
    assert!(buffer.is_unique());
}

#[test]
fn event_ids_are_parsed_strictly() {
    let largest = id(u32::MAX, u64::MAX);
    assert_eq!(largest.to_string().len(), TEXT_BYTES_MAX);
    assert_eq!(EventId::parse(b"4294967295-18446744073709551615"), Some(largest));
    assert_eq!(EventId::parse(b"0-0"), Some(id(0, 0)));
    let refused: &[&[u8]] = &[
        b"",
        b"-",
        b"1",
        b"1-",
        b"-1",
        b"1-2-3",
        b"+1-2",
        b"1-+2",
        b"01-2",
        b"1-02",
        b"00-1",
        b" 1-2",
        b"1-2 ",
        b"1-2\n",
        b"a-b",
        b"1_000-1",
        b"0x1-1",
        b"1-\xFF",
        "١-٢".as_bytes(),
        b"4294967296-1",
        b"1-18446744073709551616",
        b"00000000000000000000000000000001-1",
    ];
    for text in refused {
        assert_eq!(EventId::parse(text), None, "{}", text.escape_ascii());
    }
}

#[derive(Debug, Clone)]
enum Op {
    Push { bytes: usize },
    Wait { seconds: u64 },
    Expire,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..60_usize).prop_map(|bytes| Op::Push { bytes }),
        1 => (60..140_usize).prop_map(|bytes| Op::Push { bytes }),
        3 => (0..200_u64).prop_map(|seconds| Op::Wait { seconds }),
        1 => Just(Op::Expire),
    ]
}

proptest! {
    /// Compared with a list of everything that was ever pushed: after each step the backlog has the longest tail of it
    /// that the bounds allow, and each resumption gets exactly the tail behind its id, or an error.
    #[test]
    fn keeps_the_longest_tail_within_bounds(
        ops in prop::collection::vec(op(), 0..60),
        events in 0..6_usize,
        bytes in 0..150_usize,
    ) {
        let bounds = Bounds { events, bytes, ..BOUNDS };
        let mut backlog = Backlog::new(7, bounds);
        let mut all = Vec::<(Bytes, Instant)>::new();
        let mut dropped = 0;
        let mut time = now();
        for op in ops {
            match op {
                Op::Wait { seconds } => time += Duration::from_secs(seconds),
                Op::Expire => backlog.expire(time),
                Op::Push { bytes } => {
                    let payload = vec![all.len() as u8; bytes];
                    prop_assert_eq!(backlog.push(&payload, time, false), id(7, all.len() as u64 + 1));
                    all.push((payload.into(), time));
                }
            }
            if !matches!(op, Op::Wait { .. }) {
                let fits = |tail: &[(Bytes, Instant)]| {
                    tail.len() <= bounds.events
                        && tail.iter().map(|(payload, _)| payload.len()).sum::<usize>() <= bounds.bytes
                        && tail.iter().all(|(_, since)| time - *since < bounds.retention)
                };
                while !fits(&all[dropped..]) {
                    dropped += 1;
                }
            }
            for number in 0..all.len() + 2 {
                let resumed = after(&backlog, id(7, number as u64));
                if number > all.len() {
                    prop_assert_eq!(resumed, Err(ResumeError::Unknown));
                } else if number < dropped {
                    prop_assert_eq!(resumed, Err(ResumeError::Gap));
                } else {
                    let expected = all[number..].iter().zip(number as u64 + 1..);
                    let expected = expected.map(|((payload, _), number)| (id(7, number), payload.clone()));
                    prop_assert_eq!(resumed, Ok(expected.collect::<Vec<_>>()));
                }
                prop_assert_eq!(after(&backlog, id(8, number as u64)), Err(ResumeError::Unknown));
            }
        }
    }

    /// One id, one text; any other text, no id.
    #[test]
    fn ids_and_texts_are_one_to_one(stream: u32, number: u64, other in "[0-9+-]{0,12}") {
        let id = id(stream, number);
        prop_assert_eq!(EventId::parse(&id.to_bytes()), Some(id));
        if let Some(id) = EventId::parse(other.as_bytes()) {
            prop_assert_eq!(id.to_string(), other);
        }
    }

    #[test]
    fn parsing_is_total(text in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = EventId::parse(&text);
    }
}
