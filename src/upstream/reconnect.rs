//! When a stream from an upstream breaks: whether to come back, when, and from where. Pure: time and chance are
//! arguments; connecting, waiting and telling new events from repeated ones are the caller's.
//!
//! A caller runs this loop, and limits how many of these loops connect at the same time:
//!
//! ```text
//! stream stands ── Opened ──▶ Read ── it breaks: Lost ──▶ WaitUntil(t) ── at t: Due ──▶ Connect ──▶ GET
//!                                                   └──▶ GiveUp(reason)                             │
//!       ▲                              Opened, or again Lost ◀──────────────────────────────────────┘
//! ```

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

/// One logical stream over all its connections.
#[derive(Debug)]
pub(crate) struct Reconnect {
    policy: Policy,
    origin: Origin,
    state: State,
    /// The outage that is going on; `None` while all is well.
    outage: Option<Outage>,
    /// The id of the last complete event of any connection that can be sent back; empty if the server took it back.
    last_id: Option<Bytes>,
    /// What the server last asked for with `retry:`. It outlives the connection.
    retry: Option<Duration>,
}

/// How patient we are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    /// Bound of the first wait; it doubles with each attempt.
    pub(crate) base: Duration,
    /// Bound of any wait, except for what the server asks for.
    pub(crate) cap: Duration,
    /// Shortest wait, whatever the server asks for.
    pub(crate) floor_min: Duration,
    /// Longest wait that a server can ask for with `retry:` or `Retry-After`.
    pub(crate) floor_max: Duration,
    /// Most attempts in one outage.
    pub(crate) attempts_max: u32,
    /// Longest outage: after that no further attempt is made.
    pub(crate) outage_max: Duration,
    /// A connection that stood for so long ends an outage even if no event came.
    pub(crate) healthy_after: Duration,
}

/// How a stream came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// By a GET: it may be opened again, with or without an event id.
    Get,
    /// As the answer to a POST. That is never sent again: the stream is resumed from an event id, or lost.
    Post,
}

/// What happened.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// The connection asked for stands: status 200 and an event stream.
    Opened,
    /// The connection, or the attempt to make one, is over without what the stream is for having come.
    Lost {
        /// Why.
        loss: Loss,
        /// What came over it.
        heard: Heard,
    },
    /// The time waited for has come.
    Due,
    /// The server has answered something else: a stream that was given up because its budget was spent is tried again.
    Revived,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The server ended the body properly.
    Ended,
    /// Connecting failed, or there was no answer in time.
    Unreachable,
    /// The connection was reset.
    Broken,
    /// It was silent for too long.
    Idle,
    /// The server answered with a status other than 200.
    Status {
        /// The status.
        status: StatusCode,
        /// Its `Retry-After`, see [`parse_retry_after`].
        retry_after: Option<Duration>,
    },
    /// A wrong content type, an undecodable body, or a limit exceeded: it would be the same next time.
    Unusable,
}

/// What came over a connection before it ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard {
    /// At least one complete event with data that had not been seen before.
    pub(crate) message: bool,
    /// [`Decoder::last_event_id`](crate::protocol::sse::Decoder::last_event_id).
    pub(crate) last_id: Option<Bytes>,
    /// [`Decoder::retry`](crate::protocol::sse::Decoder::retry).
    pub(crate) retry: Option<Duration>,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// The connection stands: read it.
    Read,
    /// Wait, then report [`Event::Due`]. May be cancelled at any time by dropping everything.
    WaitUntil(Instant),
    /// Send a GET, with `Last-Event-ID` if there is an id.
    Connect {
        /// The id to resume from.
        last_id: Option<Bytes>,
    },
    /// It is over. Requests that wait for an answer on this stream get one from the proxy.
    GiveUp(GiveUp),
}

/// Why a stream is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GiveUp {
    /// The answer to a POST broke off and the server gave no event id to resume from: what it did is unknown.
    NotResumable,
    /// The budget of attempts or time of this outage is spent.
    Spent,
    /// The server answered with a status that repeating does not change. 404 means that the session is gone, 405 that
    /// there is no such stream.
    Refused(StatusCode),
    /// The server sends something that is no event stream, or exceeds a limit.
    Unusable,
}

impl Loss {
    /// A word for metrics.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Loss::Ended => "ended",
            Loss::Unreachable => "unreachable",
            Loss::Broken => "broken",
            Loss::Idle => "idle",
            Loss::Status { .. } => "status",
            Loss::Unusable => "unusable",
        }
    }
}

impl GiveUp {
    /// A word for metrics.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            GiveUp::NotResumable => "not_resumable",
            GiveUp::Spent => "given_up",
            GiveUp::Refused(StatusCode::NOT_FOUND) => "session_gone",
            GiveUp::Refused(StatusCode::METHOD_NOT_ALLOWED) => "no_stream",
            GiveUp::Refused(_) => "refused",
            GiveUp::Unusable => "unusable",
        }
    }
}

impl Reconnect {
    /// A stream of which the first connection is being made (GET) or stands (POST).
    pub(crate) fn new(origin: Origin, policy: Policy, now: Instant) -> Reconnect {
        let state = match origin {
            Origin::Get => State::Connecting,
            Origin::Post => State::Open { since: now },
        };
        Reconnect { policy, origin, state, outage: None, last_id: None, retry: None }
    }

    /// Takes note of what happened and says what to do. `jitter` is a fresh random number in 0..1.
    ///
    /// Events that do not fit the state (a late word about an old connection, waking up too early) change nothing: the
    /// answer is what is to be done anyway.
    pub(crate) fn on(&mut self, event: Event, now: Instant, jitter: f64) -> Step {
        match (self.state, event) {
            (State::Connecting, Event::Opened) => self.state = State::Open { since: now },
            (State::Connecting, Event::Lost { loss, heard }) => self.lost(loss, heard, None, now, jitter),
            (State::Open { since }, Event::Lost { loss, heard }) => self.lost(loss, heard, Some(since), now, jitter),
            (State::Waiting { until }, Event::Due) if now >= until => self.state = State::Connecting,
            (State::Over(GiveUp::Spent), Event::Revived) => {
                self.outage = None;
                self.state = State::Connecting;
            }
            (State::Connecting, Event::Due | Event::Revived)
            | (State::Open { .. }, Event::Opened | Event::Due | Event::Revived)
            | (State::Waiting { .. } | State::Over(_), _) => {}
        }
        match self.state {
            State::Connecting => Step::Connect { last_id: self.cursor().cloned() },
            State::Open { .. } => Step::Read,
            State::Waiting { until } => Step::WaitUntil(until),
            State::Over(reason) => Step::GiveUp(reason),
        }
    }

    /// When the outage that is going on, or one that would begin now, has lasted for too long.
    pub(crate) fn patience(&self, now: Instant) -> Instant {
        self.outage.map_or(now, |outage| outage.since) + self.policy.outage_max
    }

    /// How many attempts the outage that is going on has seen; 0 while all is well.
    pub(crate) fn attempts(&self) -> u32 {
        self.outage.map_or(0, |outage| outage.attempts)
    }

    fn lost(&mut self, loss: Loss, heard: Heard, open_since: Option<Instant>, now: Instant, jitter: f64) {
        self.state = match self.judge(loss, heard, open_since, now) {
            Ok(Backoff { orderly, retry_after }) => {
                let until = now + self.delay(orderly, retry_after, jitter);
                if !orderly && let Some(outage) = &mut self.outage {
                    outage.attempts = outage.attempts.saturating_add(1);
                }
                State::Waiting { until }
            }
            Err(reason) => State::Over(reason),
        };
    }

    fn judge(
        &mut self,
        loss: Loss,
        heard: Heard,
        open_since: Option<Instant>,
        now: Instant,
    ) -> Result<Backoff, GiveUp> {
        // A server that says how to go on before it hangs up is polled, as it wishes (MCP 2025-11-25, Transports ›
        // Streamable HTTP): that is no outage.
        let named = heard.last_id.as_ref().is_some_and(|id| !id.is_empty());
        self.retry = heard.retry.or(self.retry);
        let orderly = loss == Loss::Ended && named && self.retry.is_some();
        // An id that no header can hold names no place to go on from. Without one a GET would open another stream.
        let sendable = heard.last_id.filter(|id| HeaderValue::from_bytes(id).is_ok());
        self.last_id = sendable.or(self.last_id.take());

        let stood = open_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if heard.message || orderly || stood >= self.policy.healthy_after {
            self.outage = None;
        }

        let retry_after = match loss {
            Loss::Ended | Loss::Unreachable | Loss::Broken | Loss::Idle => None,
            Loss::Unusable => return Err(GiveUp::Unusable),
            Loss::Status { status, .. } if !is_retryable(status) => {
                return Err(GiveUp::Refused(status));
            }
            Loss::Status { status: StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE, retry_after } => {
                retry_after
            }
            Loss::Status { .. } => None,
        };
        if self.origin == Origin::Post && self.cursor().is_none() {
            return Err(GiveUp::NotResumable);
        }
        if !orderly {
            let outage = self.outage.get_or_insert(Outage { attempts: 0, since: now });
            if outage.attempts >= self.policy.attempts_max
                || now.saturating_duration_since(outage.since) >= self.policy.outage_max
            {
                return Err(GiveUp::Spent);
            }
        }
        Ok(Backoff { orderly, retry_after })
    }

    /// Full jitter over a ceiling that doubles, but not less than what the server asked for.
    fn delay(&self, orderly: bool, retry_after: Option<Duration>, jitter: f64) -> Duration {
        let Policy { base, cap, floor_min, floor_max, .. } = self.policy;
        let jitter = if (0.0..=1.0).contains(&jitter) { jitter } else { 0.5 };
        let asked = self.retry.unwrap_or_default().max(retry_after.unwrap_or_default());
        let floor = asked.min(floor_max).max(floor_min);
        // All that were cut off at the same time were told the same time: they need spreading as well.
        let floor = floor + floor.mul_f64(0.2 * jitter);
        if orderly {
            return floor;
        }
        let ceiling = base.saturating_mul(1 << self.attempts().min(20)).min(cap);
        floor.max(ceiling.mul_f64(jitter))
    }

    fn cursor(&self) -> Option<&Bytes> {
        self.last_id.as_ref().filter(|id| !id.is_empty())
    }
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            base: Duration::from_millis(200),
            cap: Duration::from_secs(30),
            floor_min: Duration::from_millis(100),
            floor_max: Duration::from_secs(5 * 60),
            attempts_max: 10,
            outage_max: Duration::from_secs(5 * 60),
            healthy_after: Duration::from_secs(60),
        }
    }
}

/// Whether asking again for the stream may help after this status.
pub(crate) fn is_retryable(status: StatusCode) -> bool {
    matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS)
        || status.is_server_error()
}

/// Reads a `Retry-After` header: seconds, or a date, which is compared with the clock on the wall. A date in the past is
/// zero; what is neither is `None`. Nothing is clamped.
pub(crate) fn parse_retry_after(value: &[u8], now: SystemTime) -> Option<Duration> {
    let value = std::str::from_utf8(value).ok()?.trim_ascii();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[derive(Debug, Clone, Copy)]
enum State {
    Connecting,
    Open { since: Instant },
    Waiting { until: Instant },
    Over(GiveUp),
}

#[derive(Debug, Clone, Copy)]
struct Outage {
    attempts: u32,
    since: Instant,
}

struct Backoff {
    orderly: bool,
    retry_after: Option<Duration>,
}

#[cfg(test)]
mod tests;
