//! A proxy in front of servers over HTTP whose streams break, at places that chance picks.

use std::time::Duration;

use shadowcat::server::Running;
use shadowcat::settings::{HttpTarget, HttpTransport, Settings, Target, UpstreamSettings};
use shadowcat::testing::{At, Do, End, Fault, LineEnd, MockSse, On, Recorded, Script};

use crate::chance::Chance;
use crate::common::*;

/// Servers of each transport.
pub(crate) struct Broken {
    pub(crate) proxy: Running,
    /// Streamable HTTP with sessions.
    pub(crate) streams: MockSse,
    /// Streamable HTTP without.
    pub(crate) modern: MockSse,
    /// HTTP+SSE.
    pub(crate) old: MockSse,
    /// Faults of `streams` that cost a call its answer, each of them one.
    fatal: Vec<Fault>,
}

/// Among so many calls, and so many streams that are asked for, faults are placed.
const PLACES: u64 = 1000;

impl Broken {
    pub(crate) async fn start(chance: &mut Chance) -> Broken {
        let (mut streams, mut modern, mut old) = (legacy(), modern(), legacy());
        let mut fatal = Vec::new();
        for nth in 1..=PLACES {
            if chance.one_in(2) {
                let fault = Fault { on: On::tool("progress").nth(nth), fault: on_a_call(chance) };
                streams.faults.push(fault);
            } else if chance.one_in(20) {
                let fault = Fault { on: On::tool("progress").nth(nth), fault: instead_of_a_call(chance) };
                fatal.push(fault.clone());
                streams.faults.push(fault);
            }
            if chance.one_in(2) {
                streams.faults.push(Fault { on: On::http("GET").nth(nth), fault: on_a_get(chance) });
            }
            if chance.one_in(2) {
                let on = On::method("subscriptions/listen").nth(nth);
                modern.faults.push(Fault { on, fault: on_a_subscription(chance) });
            }
            if chance.one_in(3) {
                old.faults.push(Fault { on: On::http("GET").nth(nth), fault: on_a_get(chance) });
            }
        }
        let streams = server(streams).await;
        let modern = server(modern).await;
        let old = server(old).await;
        let upstream = |name: &str, url: String, transport| {
            let target = HttpTarget { url: url.parse().unwrap(), headers: vec![], transport };
            UpstreamSettings { connections_max: 200, ..UpstreamSettings::new(name, Target::Http(target)) }
        };
        let upstreams = vec![
            upstream("streams", streams.url(), HttpTransport::Streamable),
            upstream("modern", modern.url(), HttpTransport::Streamable),
            upstream("old", old.sse_url(), HttpTransport::Sse),
        ];
        let mut settings = Settings::for_upstream(upstreams[0].clone());
        settings.upstreams = upstreams;
        settings.admin = Some(([127, 0, 0, 1], 0).into());
        let (limits, timeouts) = (&mut settings.limits, &mut settings.timeouts);
        // Whatever breaks is to be mended: what happens when patience is spent is tested elsewhere.
        limits.circuit_failures = 1000;
        limits.reconnect_attempts = 1000;
        limits.crashes = 1000;
        limits.queue = 1000;
        limits.starting = 20;
        timeouts.acquire = DEADLINE / 2;
        timeouts.restart_max = Duration::from_millis(20);
        timeouts.reconnect_base = Duration::from_millis(20);
        timeouts.reconnect_cap = Duration::from_millis(100);
        timeouts.start = Duration::from_secs(4);
        timeouts.upstream_sse_idle = Duration::from_millis(1500);
        // What a client hears when nothing is said, so that it does not wait in vain.
        timeouts.sse_keepalive = Duration::from_millis(100);
        let proxy = within("start", Running::start(settings)).await.unwrap();
        Broken { proxy, streams, modern, old, fatal }
    }

    /// Where clients of a server connect.
    pub(crate) fn url(&self, name: &str) -> String {
        format!("http://{}/servers/{name}/mcp", self.proxy.address())
    }

    /// How many faults of the server with sessions have cost a call its answer.
    pub(crate) fn lost_calls(&self) -> u64 {
        let unused = self.streams.unused();
        self.fatal.iter().filter(|fault| !unused.contains(fault)).count() as u64
    }

    /// The marks of the calls that have arrived.
    pub(crate) fn arrived(&self) -> impl Iterator<Item = String> {
        let requests = self.streams.requests().into_iter().chain(self.old.requests());
        let is_call = |request: &Recorded| request.method == "POST" && request.json("/method") == "tools/call";
        requests.filter(is_call).map(|request| {
            request.json("/params/arguments/mark").as_str().unwrap_or("a call without a mark").to_owned()
        })
    }

    /// Waits until everybody has gone.
    pub(crate) async fn at_rest(&self) {
        let zero = async |name: &str, labels: &[&str]| {
            let what = format!("{name} {labels:?} is 0");
            until(&what, async || metric(&self.proxy, name, labels).await, |seen| *seen == 0.0).await;
        };
        for gauge in ["sessions", "exchanges_in_flight", "streams", "queue", "upstream_streams"] {
            zero(&format!("shadowcat_{gauge}"), &[]).await;
        }
        for state in ["closing", "creating", "leased"] {
            zero("shadowcat_pool", &[&format!("state=\"{state}\"")]).await;
        }
        // The one on which this is asked.
        let connections = async || metric(&self.proxy, "shadowcat_connections", &[]).await;
        until("nobody is connected", connections, |count| *count <= 1.0).await;
        for server in [&self.streams, &self.modern, &self.old] {
            let left = async || (server.stats()["peers"].clone(), server.stats()["listeners"].clone());
            until("the server knows nobody", left, |(peers, listeners)| *peers == 0 && *listeners == 0).await;
        }
        assert_eq!(metric(&self.proxy, "shadowcat_task_panics_total", &[]).await, 0.0);
    }
}

async fn server(script: Script) -> MockSse {
    let mut mock = MockSse::start(script).ok().await;
    mock.allow_unused();
    mock
}

fn end(chance: &mut Chance) -> End {
    *chance.pick(&[End::Abrupt, End::Clean, End::Reset])
}

fn at(chance: &mut Chance, events: std::ops::Range<u64>) -> At {
    let events = events.start + chance.below(events.end - events.start);
    At { events, bytes: i64::try_from(chance.below(70)).unwrap() }
}

fn status(chance: &mut Chance, codes: &[u16]) -> Do {
    let code = *chance.pick(codes);
    let headers = if chance.one_in(2) { vec![("Retry-After".to_owned(), "0".to_owned())] } else { vec![] };
    Do::Status { code, headers: headers.into_iter().collect(), body: String::new() }
}

/// Costs nothing.
fn harmless(chance: &mut Chance) -> Do {
    match chance.below(5) {
        0 => Do::Slice { bytes: 1 + usize::try_from(chance.below(9)).unwrap(), gap_ms: 0, head: false },
        1 => Do::LineEnd(LineEnd::Crlf),
        2 => Do::Comments { count: 20, bytes: 10 },
        3 => Do::Retry(chance.below(200).to_string()),
        _ => Do::Delay { ms: chance.below(100) },
    }
}

/// What the answer to a call survives.
fn on_a_call(chance: &mut Chance) -> Do {
    match chance.below(12) {
        0..=4 => Do::Cut { after: Some(at(chance, 0..20)), end: end(chance) },
        5 => Do::Stall(at(chance, 0..10)),
        6 | 7 => Do::Poll { retry_ms: Some(chance.below(300)) },
        8 => Do::Duplicate,
        9 => Do::LateProgress,
        _ => harmless(chance),
    }
}

/// What it does not survive.
fn instead_of_a_call(chance: &mut Chance) -> Do {
    match chance.below(2) {
        0 => status(chance, &[429, 500, 502, 503, 504]),
        _ => Do::Cut { after: None, end: *chance.pick(&[End::Abrupt, End::Reset]) },
    }
}

/// What a stream survives that is asked for. Before its first event there is no id that it could be resumed from: it does not break
/// within that.
fn on_a_get(chance: &mut Chance) -> Do {
    match chance.below(40) {
        0 => Do::Hang,
        1..=14 => Do::Cut { after: Some(at(chance, 1..8)), end: end(chance) },
        15..=17 => Do::Cut { after: Some(At::default()), end: end(chance) },
        18..=21 => Do::Stall(at(chance, 1..5)),
        22..=26 => status(chance, &[408, 425, 429, 500, 502, 503, 504]),
        27..=29 => Do::Cut { after: None, end: *chance.pick(&[End::Abrupt, End::Reset]) },
        30..=33 => Do::ReplayAll,
        _ => harmless(chance),
    }
}

/// What a subscription may meet with, which cannot be resumed.
fn on_a_subscription(chance: &mut Chance) -> Do {
    match chance.below(12) {
        0..=4 => Do::Cut { after: Some(at(chance, 0..30)), end: end(chance) },
        5 => Do::Stall(at(chance, 1..10)),
        6 => Do::Cut { after: None, end: *chance.pick(&[End::Abrupt, End::Reset]) },
        7 => status(chance, &[429, 500, 503]),
        _ => harmless(chance),
    }
}
