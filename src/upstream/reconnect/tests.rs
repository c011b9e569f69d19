use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[expect(clippy::disallowed_methods, reason = "only differences matter")]
fn now() -> Instant {
    Instant::now()
}

fn status(code: u16, retry_after: Option<Duration>) -> Loss {
    Loss::Status { status: StatusCode::from_u16(code).expect("a status"), retry_after }
}

fn nothing() -> Heard {
    Heard::default()
}

fn heard(message: bool, id: &'static str, retry: Option<Duration>) -> Heard {
    Heard { message, last_id: Some(Bytes::from(id)), retry }
}

/// A stream and a clock that goes where the stream wants it.
struct Run {
    stream: Reconnect,
    now: Instant,
}

impl Run {
    fn new(origin: Origin, policy: Policy) -> Run {
        let now = now();
        Run { stream: Reconnect::new(origin, policy, now), now }
    }

    fn get() -> Run {
        Run::new(Origin::Get, Policy::default())
    }

    /// Loses the connection and waits. The wait, or the reason to give up.
    fn lose(&mut self, loss: Loss, heard: Heard, jitter: f64) -> Result<Duration, GiveUp> {
        match self.stream.on(Event::Lost { loss, heard }, self.now, jitter) {
            Step::WaitUntil(until) => {
                let delay = until - self.now;
                self.now = until;
                let step = self.stream.on(Event::Due, self.now, jitter);
                assert!(matches!(step, Step::Connect { .. }), "{step:?}");
                Ok(delay)
            }
            Step::GiveUp(reason) => Err(reason),
            step => panic!("{step:?}"),
        }
    }

    fn open(&mut self, stands: Duration) {
        assert_eq!(self.stream.on(Event::Opened, self.now, 0.0), Step::Read);
        self.now += stands;
    }
}

/// C-SSE-1, without anything from the server: the ceiling doubles from 200 ms to 30 s.
#[test]
fn ceilings() {
    let mut run = Run::get();
    let waits = std::iter::from_fn(|| run.lose(Loss::Broken, nothing(), 1.0).ok());
    let millis = waits.map(|wait| wait.as_millis()).collect::<Vec<_>>();
    assert_eq!(millis, [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
    assert_eq!(run.lose(Loss::Broken, nothing(), 1.0), Err(GiveUp::Spent));
}

#[test]
fn an_outage_is_also_bounded_in_time() {
    let mut run = Run::get();
    assert!(run.lose(Loss::Broken, nothing(), 0.0).is_ok());
    run.now += Policy::default().outage_max - SECOND;
    assert!(run.lose(Loss::Broken, nothing(), 0.0).is_ok());
    run.now += SECOND;
    assert_eq!(run.lose(Loss::Broken, nothing(), 0.0), Err(GiveUp::Spent));
}

#[test]
fn statuses() {
    for code in [408, 425, 429, 500, 502, 503, 504, 599] {
        assert!(Run::get().lose(status(code, None), nothing(), 0.5).is_ok(), "{code}");
    }
    for code in [204, 205, 210, 299, 301, 307, 400, 401, 403, 404, 405, 406, 410, 415] {
        let reason = GiveUp::Refused(StatusCode::from_u16(code).expect("a status"));
        assert_eq!(Run::get().lose(status(code, None), nothing(), 0.5), Err(reason), "{code}");
    }
    assert_eq!(Run::get().lose(Loss::Unusable, nothing(), 0.5), Err(GiveUp::Unusable));
}

/// C-SSE-4: whatever happens to it, a stream born of a POST is not asked for again without an event id.
#[test]
fn the_answer_to_a_post_is_resumed_or_lost() {
    let post = || Run::new(Origin::Post, Policy::default());
    for loss in [Loss::Ended, Loss::Broken] {
        assert_eq!(post().lose(loss, nothing(), 0.5), Err(GiveUp::NotResumable));
        assert_eq!(post().lose(loss, heard(true, "", Some(SECOND)), 0.5), Err(GiveUp::NotResumable));
        assert!(post().lose(loss, heard(false, "1", None), 0.5).is_ok());
    }
}

#[test]
fn the_cursor_survives_connections_that_have_none() {
    let mut run = Run::get();
    let cursor = |run: &mut Run| match run.stream.on(Event::Due, run.now, 0.5) {
        Step::Connect { last_id } => last_id,
        step => panic!("{step:?}"),
    };
    assert_eq!(cursor(&mut run), None);
    run.open(SECOND);
    run.lose(Loss::Broken, heard(true, "7", None), 0.5).expect("goes on");
    assert_eq!(cursor(&mut run), Some(Bytes::from("7")));
    run.lose(Loss::Broken, nothing(), 0.5).expect("goes on");
    assert_eq!(cursor(&mut run), Some(Bytes::from("7")));
    run.open(SECOND);
    run.lose(Loss::Broken, heard(true, "", None), 0.5).expect("goes on");
    assert_eq!(cursor(&mut run), None, "the server took it back");
}

/// C-SSE-3, C-SSE-4: an id that cannot be sent back is none. The answer to a POST must not be looked for on another stream.
#[test]
fn an_id_that_no_header_can_hold_is_no_place_to_resume_from() {
    let mut post = Run::new(Origin::Post, Policy::default());
    assert_eq!(post.lose(Loss::Broken, heard(true, "\u{1}", None), 0.5), Err(GiveUp::NotResumable));
    let mut get = Run::get();
    get.open(SECOND);
    get.lose(Loss::Broken, heard(true, "7", None), 0.5).expect("goes on");
    get.open(SECOND);
    get.lose(Loss::Broken, heard(true, "a\u{7f}b", None), 0.5).expect("goes on");
    assert_eq!(get.stream.on(Event::Due, get.now, 0.5), Step::Connect { last_id: Some(Bytes::from("7")) });
    get.open(SECOND);
    get.lose(Loss::Broken, heard(true, "ü\t…", None), 0.5).expect("goes on");
    assert_eq!(get.stream.on(Event::Due, get.now, 0.5), Step::Connect { last_id: Some(Bytes::from("ü\t…")) });
}

/// U15.
#[test]
fn a_server_that_wants_to_be_polled_is_polled_for_ever_at_its_pace() {
    let mut run = Run::new(Origin::Post, Policy::default());
    for _ in 0..100 {
        let wait = run.lose(Loss::Ended, heard(false, "1", Some(3 * SECOND)), 0.5).expect("goes on");
        assert_eq!(wait, 3 * SECOND + Duration::from_millis(300));
        assert_eq!(run.stream.attempts(), 0);
        run.open(SECOND);
    }
    assert!(
        run.lose(Loss::Ended, nothing(), 0.5).is_ok(),
        "without an id it is a failure, but one that can be resumed"
    );
    assert_eq!(run.stream.attempts(), 1);
}

/// U18.
#[test]
fn only_an_event_or_a_long_life_ends_an_outage() {
    let mut run = Run::get();
    for attempt in 1..=4 {
        run.lose(Loss::Ended, nothing(), 0.5).expect("goes on");
        assert_eq!(run.stream.attempts(), attempt, "a connection that ends at once is an attempt like any other");
        run.open(Duration::from_millis(1));
    }
    run.lose(Loss::Ended, heard(true, "1", None), 0.5).expect("goes on");
    assert_eq!(run.stream.attempts(), 1, "an event: this is a new outage");
    run.open(59 * SECOND);
    run.lose(Loss::Ended, nothing(), 0.5).expect("goes on");
    assert_eq!(run.stream.attempts(), 2);
    run.open(60 * SECOND);
    run.lose(Loss::Ended, nothing(), 0.5).expect("goes on");
    assert_eq!(run.stream.attempts(), 1);
}

/// U5, U16.
#[test]
fn the_server_raises_the_floor_within_bounds() {
    let wait =
        |retry: Option<Duration>, loss| Run::get().lose(loss, Heard { retry, ..nothing() }, 0.0).expect("goes on");
    let floor_min = Duration::from_millis(100);
    assert_eq!(wait(None, Loss::Broken), floor_min);
    assert_eq!(wait(Some(Duration::ZERO), Loss::Broken), floor_min);
    assert_eq!(wait(Some(3 * SECOND), Loss::Broken), 3 * SECOND);
    assert_eq!(wait(Some(Duration::MAX), Loss::Broken), 300 * SECOND);
    assert_eq!(wait(None, status(503, Some(4 * SECOND))), 4 * SECOND);
    assert_eq!(wait(Some(5 * SECOND), status(429, Some(4 * SECOND))), 5 * SECOND);
    assert_eq!(wait(None, status(429, Some(Duration::MAX))), 300 * SECOND);
    assert_eq!(wait(None, status(500, Some(4 * SECOND))), floor_min, "it has no meaning there");

    let mut run = Run::get();
    run.lose(status(503, Some(4 * SECOND)), Heard { retry: Some(SECOND), ..nothing() }, 0.0).expect("goes on");
    assert_eq!(run.lose(Loss::Broken, nothing(), 0.0), Ok(SECOND), "`retry` stays, `Retry-After` counts once");
}

#[test]
fn retry_zero_is_no_tight_loop() {
    let mut run = Run::get();
    let start = run.now;
    let mut attempts = 0;
    while run.now < start + 10 * SECOND {
        run.lose(Loss::Ended, heard(true, "1", Some(Duration::ZERO)), 0.0).expect("goes on");
        run.open(Duration::ZERO);
        attempts += 1;
    }
    assert!(attempts <= 100, "{attempts}");
}

/// Whatever is reported at the wrong moment leaves the state alone.
#[test]
fn late_and_early_events_change_nothing() {
    let mut stream = Reconnect::new(Origin::Get, Policy::default(), now());
    let start = now();
    let lost = || Event::Lost { loss: Loss::Broken, heard: nothing() };
    assert_eq!(stream.on(Event::Due, start, 0.5), Step::Connect { last_id: None });
    assert_eq!(stream.on(Event::Opened, start, 0.5), Step::Read);
    assert_eq!(stream.on(Event::Opened, start, 0.5), Step::Read);
    assert_eq!(stream.on(Event::Due, start, 0.5), Step::Read);
    let waiting = stream.on(lost(), start, 0.5);
    for event in [Event::Due, Event::Opened, lost()] {
        assert_eq!(stream.on(event, start, 0.5), waiting);
    }
    let over = Event::Lost { loss: Loss::Unusable, heard: nothing() };
    stream.on(Event::Due, start + SECOND, 0.5);
    assert_eq!(stream.on(over, start + SECOND, 0.5), Step::GiveUp(GiveUp::Unusable));
    for event in [Event::Due, Event::Opened, lost()] {
        assert_eq!(stream.on(event, start + SECOND, 0.5), Step::GiveUp(GiveUp::Unusable));
    }
}

#[test]
fn waits_are_spread_evenly_below_the_ceiling() {
    // The sixth wait: its ceiling is 6.4 s.
    let waits = (0..1000).map(|draw| {
        let mut run = Run::get();
        for _ in 0..5 {
            run.lose(Loss::Broken, nothing(), 0.0).expect("goes on");
        }
        run.lose(Loss::Broken, nothing(), f64::from(draw) / 1000.0).expect("goes on")
    });
    let waits = waits.collect::<Vec<_>>();
    let mean = waits.iter().sum::<Duration>() / 1000;
    assert!((3_100..3_300).contains(&mean.as_millis()), "{mean:?}");
    let mut bins = [0; 64];
    for wait in waits {
        bins[wait.as_millis() as usize / 100] += 1;
    }
    assert!(bins.iter().all(|&count| count <= 50), "a herd: {bins:?}");
}

/// C-SSE-10: streams that are cut together do not come back together, whatever the chance: with the ceiling at 6.4 s or more, no
/// tenth of a second gets more than a few of 200.
#[test]
fn streams_that_are_cut_together_come_back_apart() {
    const STREAMS: usize = 200;
    for seed in 1..=100_u64 {
        // SplitMix64, so that each seed is a draw of its own.
        let mut state = seed;
        let mut draw = || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
        };
        for attempt in 5..10 {
            let mut bins = std::collections::BTreeMap::<u128, usize>::new();
            for _ in 0..STREAMS {
                let mut run = Run::get();
                for _ in 0..attempt {
                    run.lose(Loss::Broken, nothing(), 0.0).expect("goes on");
                }
                let wait = run.lose(Loss::Broken, nothing(), draw()).expect("goes on");
                *bins.entry(wait.as_millis() / 100).or_default() += 1;
            }
            let fullest = bins.values().max().copied().unwrap_or_default();
            assert!(fullest <= STREAMS * 7 / 100, "seed {seed}, attempt {attempt}: {bins:?}");
        }
    }
}

/// What was given up for lack of patience is taken up again, where it was; what the server refused is not.
#[test]
fn a_server_that_answers_again_is_asked_again() {
    let mut run = Run::get();
    run.open(SECOND);
    run.lose(Loss::Broken, heard(true, "7", None), 0.5).expect("goes on");
    assert_eq!(run.stream.on(Event::Revived, run.now, 0.5), Step::Connect { last_id: Some(Bytes::from("7")) });
    while run.lose(Loss::Unreachable, nothing(), 0.5).is_ok() {}
    assert_eq!(run.stream.on(Event::Revived, run.now, 0.5), Step::Connect { last_id: Some(Bytes::from("7")) });
    assert_eq!(run.stream.attempts(), 0, "a new outage");
    let refused = run.lose(status(405, None), nothing(), 0.5).expect_err("it has none");
    assert_eq!(run.stream.on(Event::Revived, run.now, 0.5), Step::GiveUp(refused));
}

#[test]
fn patience_ends_with_the_outage() {
    let mut run = Run::get();
    let start = run.now;
    let longest = Policy::default().outage_max;
    assert_eq!(run.stream.patience(start + SECOND), start + SECOND + longest, "there is no outage");
    run.lose(Loss::Broken, nothing(), 1.0).expect("goes on");
    assert_eq!(run.stream.patience(run.now + SECOND), start + longest);
    run.now = start + longest;
    assert_eq!(run.lose(Loss::Unreachable, nothing(), 1.0), Err(GiveUp::Spent));
}

#[test]
fn retry_after() {
    let now = httpdate::parse_http_date("Wed, 21 Oct 2015 07:28:00 GMT").expect("a date");
    let table: &[(&[u8], Option<u64>)] = &[
        (b"120", Some(120)),
        (b" 0 ", Some(0)),
        (b"99999999999999999999999", Some(u64::MAX)),
        (b"Wed, 21 Oct 2015 07:29:30 GMT", Some(90)),
        (b"Wednesday, 21-Oct-15 07:29:30 GMT", Some(90)),
        (b"Wed, 21 Oct 2015 07:00:00 GMT", Some(0)),
        (b"", None),
        (b"-1", None),
        (b"+1", None),
        (b"1.5", None),
        (b"soon", None),
        (b"\xFF", None),
    ];
    for (value, seconds) in table {
        let expected = seconds.map(Duration::from_secs);
        assert_eq!(parse_retry_after(value, now), expected, "{}", value.escape_ascii());
    }
}

fn duration() -> impl Strategy<Value = Duration> {
    prop_oneof![
        Just(Duration::ZERO),
        Just(Duration::MAX),
        (0..600_000_u64).prop_map(Duration::from_millis),
        any::<u64>().prop_map(Duration::from_nanos),
    ]
}

fn loss() -> impl Strategy<Value = Loss> {
    prop_oneof![
        Just(Loss::Ended),
        Just(Loss::Broken),
        Just(Loss::Unreachable),
        Just(Loss::Idle),
        (prop::sample::select(&[429, 500, 503][..]), prop::option::of(duration()))
            .prop_map(|(code, after)| status(code, after)),
    ]
}

proptest! {
    /// floor <= delay <= max(cap, 1.2 floor), at any number of attempts and with any jitter, also an absurd one.
    #[test]
    fn waits_are_within_bounds(
        attempts in prop_oneof![0..40_u32, Just(u32::MAX - 1)],
        loss in loss(),
        retry in prop::option::of(duration()),
        jitter in prop_oneof![0.0..1.0_f64, prop::num::f64::ANY],
    ) {
        let policy = Policy { attempts_max: u32::MAX, ..Policy::default() };
        let mut run = Run::new(Origin::Get, policy);
        run.stream.outage = Some(Outage { attempts, since: run.now });
        let heard = Heard { retry, ..nothing() };
        let delay = run.lose(loss, heard, jitter).expect("goes on");
        let after = match loss {
            Loss::Status { status, retry_after } if status != StatusCode::INTERNAL_SERVER_ERROR => retry_after,
            _ => None,
        };
        let floor = retry.max(after).unwrap_or_default().clamp(policy.floor_min, policy.floor_max);
        prop_assert!(floor <= delay && delay <= policy.cap.max(floor.mul_f64(1.2)), "{:?} for {:?}", delay, floor);
    }

    /// Without news from the server every stream is given up, within the budget plus the last wait.
    #[test]
    fn every_outage_ends(
        losses in prop::collection::vec((loss(), 0.0..1.0_f64, 0..40_u64), 11),
    ) {
        let mut run = Run::get();
        let start = run.now;
        let mut last = run.now;
        let mut attempts = 0;
        for (loss, jitter, seconds) in losses {
            match run.lose(loss, nothing(), jitter) {
                Ok(_) => attempts += 1,
                Err(reason) => {
                    prop_assert_eq!(reason, GiveUp::Spent);
                    prop_assert!(attempts <= 10);
                    return Ok(());
                }
            }
            prop_assert!(last - start < Policy::default().outage_max, "no attempt is planned after the end");
            run.open(Duration::from_secs(seconds));
            last = run.now;
        }
        prop_assert!(false, "never given up");
    }
}
