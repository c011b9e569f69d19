//! Every metric: its name, its help text, its labels. Labels come from closed sets and from the configuration, never from a peer.

mod reading;
mod streams;
mod tapes;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::bridge::loss::Loss;

pub(crate) use streams::{CircuitAt, StreamAt, StreamMetrics, StreamState};
pub(crate) use tapes::TapeMetrics;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServerLabels {
    server: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    server: String,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    server: String,
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    server: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StartLabels {
    server: String,
    start: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    server: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ExchangeLabels {
    server: String,
    era: &'static str,
    method: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    server: String,
    side: &'static str,
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    side: &'static str,
    kind: &'static str,
}

/// All metrics of one proxy.
pub(crate) struct Metrics {
    registry: Registry,
    sessions: Family<ServerLabels, Gauge>,
    sessions_ended: Family<ReasonLabels, Counter>,
    exchanges: Family<ExchangeLabels, Counter>,
    in_flight: Family<ServerLabels, Gauge>,
    latency: Family<ServerLabels, Histogram>,
    queue: Family<ServerLabels, Gauge>,
    queue_wait: Family<ServerLabels, Histogram>,
    start_time: Family<StartLabels, Histogram>,
    pool: Family<StateLabels, Gauge>,
    pool_max: Family<ServerLabels, Gauge>,
    pool_acquires: Family<ServerLabels, Counter>,
    pool_leases: Family<StartLabels, Counter>,
    pool_creations: Family<ResultLabels, Counter>,
    pool_timeouts: Family<ServerLabels, Counter>,
    pool_closes: Family<ReasonLabels, Counter>,
    pool_use: Family<ServerLabels, Histogram>,
    pool_create: Family<ServerLabels, Histogram>,
    restarts: Family<ReasonLabels, Counter>,
    listens: Family<ReasonLabels, Counter>,
    repeats: Family<ReasonLabels, Counter>,
    upstream: streams::StreamFamilies,
    tapes: tapes::TapeFamilies,
    children: Family<ServerLabels, Gauge>,
    child_starts: Family<ServerLabels, Counter>,
    child_exits: Family<ReasonLabels, Counter>,
    stderr_lines: Family<ServerLabels, Counter>,
    errors: Family<ErrorLabels, Counter>,
    dropped: Family<ReasonLabels, Counter>,
    refused: Family<RefusedLabels, Counter>,
    losses: Family<KindLabels, Counter>,
    parked: Family<ServerLabels, Gauge>,
    tasks: Family<ServerLabels, Gauge>,
    connections: Gauge,
    streams: Gauge,
    panics: Gauge,
}

/// 0.1 ms … 100 s: a relay hop is far below a millisecond, a tool may take minutes.
const SECONDS: [f64; 13] = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];

/// The states of a pooled connection.
const POOL_STATES: [&str; 4] = ["idle", "leased", "creating", "closing"];

fn histogram() -> Histogram {
    Histogram::new(SECONDS)
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let mut metrics = Metrics {
            registry: Registry::with_prefix("shadowcat"),
            sessions: Family::default(),
            sessions_ended: Family::default(),
            exchanges: Family::default(),
            in_flight: Family::default(),
            latency: Family::new_with_constructor(histogram),
            queue: Family::default(),
            queue_wait: Family::new_with_constructor(histogram),
            start_time: Family::new_with_constructor(histogram),
            pool: Family::default(),
            pool_max: Family::default(),
            pool_acquires: Family::default(),
            pool_leases: Family::default(),
            pool_creations: Family::default(),
            pool_timeouts: Family::default(),
            pool_closes: Family::default(),
            pool_use: Family::new_with_constructor(histogram),
            pool_create: Family::new_with_constructor(histogram),
            restarts: Family::default(),
            listens: Family::default(),
            repeats: Family::default(),
            upstream: streams::StreamFamilies::default(),
            tapes: tapes::TapeFamilies::default(),
            children: Family::default(),
            child_starts: Family::default(),
            child_exits: Family::default(),
            stderr_lines: Family::default(),
            errors: Family::default(),
            dropped: Family::default(),
            refused: Family::default(),
            losses: Family::default(),
            parked: Family::default(),
            tasks: Family::default(),
            connections: Gauge::default(),
            streams: Gauge::default(),
            panics: Gauge::default(),
        };
        let r = &mut metrics.registry;
        r.register("sessions", "Live legacy sessions", metrics.sessions.clone());
        r.register("sessions_ended", "Legacy sessions that have ended, by reason", metrics.sessions_ended.clone());
        r.register("exchanges", "Client requests that have ended, by outcome", metrics.exchanges.clone());
        r.register("exchanges_in_flight", "Client requests without a final answer yet", metrics.in_flight.clone());
        r.register_with_unit(
            "exchange",
            "From a client's request to its final answer",
            Unit::Seconds,
            metrics.latency.clone(),
        );
        r.register("queue", "Requests that wait for a connection of the upstream", metrics.queue.clone());
        r.register_with_unit(
            "queue_wait",
            "Waiting for a connection of the upstream",
            Unit::Seconds,
            metrics.queue_wait.clone(),
        );
        r.register_with_unit(
            "start",
            "From a client's need of an upstream connection to one that is ready: started for it (cold), started ahead (warm), used before (reused)",
            Unit::Seconds,
            metrics.start_time.clone(),
        );
        r.register(
            "pool",
            "Connections of the upstream by state: idle, leased, creating, closing; their sum never exceeds pool_max",
            metrics.pool.clone(),
        );
        r.register("pool_max", "Most connections of the upstream at once", metrics.pool_max.clone());
        r.register("pool_acquires", "Connections asked for", metrics.pool_acquires.clone());
        r.register("pool_leases", "Connections leased, by where they came from", metrics.pool_leases.clone());
        r.register("pool_creations", "Attempts to make a connection, by result", metrics.pool_creations.clone());
        r.register("pool_timeouts", "Connections that were not free in time", metrics.pool_timeouts.clone());
        r.register(
            "pool_closes",
            "Connections closed by the pool, by reason; `lost` ended by themselves",
            metrics.pool_closes.clone(),
        );
        r.register_with_unit(
            "pool_use",
            "From the lease of a connection to its return",
            Unit::Seconds,
            metrics.pool_use.clone(),
        );
        r.register_with_unit("pool_create", "Making a connection", Unit::Seconds, metrics.pool_create.clone());
        r.register(
            "session_restarts",
            "Sessions whose connection was lost and that got a new one, or did not, by result",
            metrics.restarts.clone(),
        );
        r.register(
            "listen_reopenings",
            "Streams of notifications that were lost and opened again, or not, by result",
            metrics.listens.clone(),
        );
        r.register(
            "repeats",
            "Requests that were sent on another connection because the first had not taken them up, by reason",
            metrics.repeats.clone(),
        );
        metrics.upstream.register(r);
        metrics.tapes.register(r);
        r.register("children", "Child processes that live, or are not reaped yet", metrics.children.clone());
        r.register("child_starts", "Child processes started", metrics.child_starts.clone());
        r.register("child_exits", "Child processes that have ended, by reason", metrics.child_exits.clone());
        r.register("child_stderr_lines", "Lines that children wrote to stderr", metrics.stderr_lines.clone());
        r.register("errors", "Errors, by whose side they are on and their kind", metrics.errors.clone());
        r.register("dropped", "Messages that were not delivered to anybody, by reason", metrics.dropped.clone());
        r.register(
            "refused",
            "Client requests that did not reach an upstream, by whose side that is on and why",
            metrics.refused.clone(),
        );
        r.register(
            "bridge_loss",
            "What a translation between the eras could not carry, by kind",
            metrics.losses.clone(),
        );
        r.register("tasks", "Calls that became tasks, and are looked after", metrics.tasks.clone());
        r.register("parked", "Calls that wait for their clients to come back with answers", metrics.parked.clone());
        r.register("connections", "Open client connections", metrics.connections.clone());
        r.register("streams", "Open SSE streams to clients", metrics.streams.clone());
        r.register("task_panics", "Tasks that ended in a panic", metrics.panics.clone());
        metrics
    }

    /// The Prometheus text exposition; `panics` is counted elsewhere.
    pub(crate) fn exposition(&self, panics: u64) -> String {
        self.panics.set(i64::try_from(panics).unwrap_or(i64::MAX));
        let mut out = String::new();
        // Writing to a string cannot fail; a formatting error would only shorten the page.
        let _ = text::encode(&mut out, &self.registry);
        out
    }

    /// The metrics of one upstream, its name filled in.
    pub(crate) fn server(self: &Arc<Self>, server: &str) -> ServerMetrics {
        let labels = ServerLabels { server: server.to_owned() };
        let start_time = STARTS.map(|start| {
            self.start_time.get_or_create_owned(&StartLabels { server: server.to_owned(), start: start.as_str() })
        });
        ServerMetrics(Arc::new(OfServer {
            start_time,
            ended: RwLock::default(),
            in_flight: self.in_flight.get_or_create_owned(&labels),
            latency: self.latency.get_or_create_owned(&labels),
            queue: self.queue.get_or_create_owned(&labels),
            queue_wait: self.queue_wait.get_or_create_owned(&labels),
            sessions: self.sessions.get_or_create_owned(&labels),
            child_starts: self.child_starts.get_or_create_owned(&labels),
            stderr_lines: self.stderr_lines.get_or_create_owned(&labels),
            children: self.children.get_or_create_owned(&labels),
            metrics: Arc::clone(self),
            server: server.to_owned(),
        }))
    }

    pub(crate) fn refused(&self, side: &'static str, kind: &'static str) {
        self.refused.get_or_create(&RefusedLabels { side, kind }).inc();
    }

    /// How many connections of clients there are.
    pub(crate) fn connections(&self) -> &Gauge {
        &self.connections
    }

    pub(crate) fn connection(&self) -> GaugeGuard {
        GaugeGuard::new(&self.connections)
    }

    pub(crate) fn stream(&self) -> GaugeGuard {
        GaugeGuard::new(&self.streams)
    }
}

/// The metrics of one upstream. Clones share it.
#[derive(Clone)]
pub(crate) struct ServerMetrics(Arc<OfServer>);

/// See [`ServerMetrics`].
pub(crate) struct OfServer {
    metrics: Arc<Metrics>,
    server: String,
    in_flight: Gauge,
    latency: Histogram,
    queue: Gauge,
    queue_wait: Histogram,
    sessions: Gauge,
    child_starts: Counter,
    stderr_lines: Counter,
    children: Gauge,
    start_time: [Histogram; STARTS.len()],
    /// Those of `exchanges` that came up first, so that they are not looked for by their labels each time.
    ended: RwLock<Vec<(Ended, Counter)>>,
}

/// Era, method and outcome of a request.
type Ended = (&'static str, &'static str, &'static str);

/// Most combinations of them that are found at once: a server is asked few things over and over.
const ENDED_MAX: usize = 16;

const STARTS: [Start; 3] = [Start::Cold, Start::Warm, Start::Reused];

impl std::ops::Deref for ServerMetrics {
    type Target = OfServer;

    fn deref(&self) -> &OfServer {
        &self.0
    }
}

/// Where a connection came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// It was made for whoever asked.
    Cold,
    /// It was made ahead.
    Warm,
    /// Others used it before.
    Reused,
}

impl Start {
    fn as_str(self) -> &'static str {
        match self {
            Start::Cold => "cold",
            Start::Warm => "warm",
            Start::Reused => "reused",
        }
    }
}

fn same_words(one: &Ended, other: &Ended) -> bool {
    std::ptr::eq(one.0, other.0) && std::ptr::eq(one.1, other.1) && std::ptr::eq(one.2, other.2)
}

impl ServerMetrics {
    /// The upstream's name.
    pub(crate) fn name(&self) -> &str {
        &self.server
    }

    pub(crate) fn session(&self) -> GaugeGuard {
        GaugeGuard::new(&self.sessions)
    }

    pub(crate) fn session_ended(&self, reason: &'static str) {
        self.metrics.sessions_ended.get_or_create(&self.reason(reason)).inc();
    }

    pub(crate) fn exchange_started(&self) -> GaugeGuard {
        GaugeGuard::new(&self.in_flight)
    }

    pub(crate) fn exchange_ended(
        &self,
        era: &'static str,
        method: &'static str,
        outcome: &'static str,
        took: Duration,
    ) {
        self.latency.observe(took.as_secs_f64());
        let ended = (era, method, outcome);
        let known = self.ended.read().unwrap_or_else(PoisonError::into_inner);
        // The words are constants: where they are tells them apart, or tells too much apart, which does no harm.
        if let Some((_, counter)) = known.iter().find(|(known, _)| same_words(known, &ended)) {
            counter.inc();
            return;
        }
        let is_full = known.len() >= ENDED_MAX;
        drop(known);
        let labels = ExchangeLabels { server: self.server.clone(), era, method, outcome };
        let counter = self.metrics.exchanges.get_or_create_owned(&labels);
        counter.inc();
        if !is_full {
            self.ended.write().unwrap_or_else(PoisonError::into_inner).push((ended, counter));
        }
    }

    /// The pool of this upstream.
    pub(crate) fn pool(&self) -> PoolMetrics {
        let labels = ServerLabels { server: self.server.clone() };
        let metrics = &self.metrics;
        let states = POOL_STATES
            .map(|state| metrics.pool.get_or_create_owned(&StateLabels { server: self.server.clone(), state }));
        let leases = STARTS.map(|start| metrics.pool_leases.get_or_create_owned(&self.start_labels(start)));
        PoolMetrics {
            states,
            leases,
            max: metrics.pool_max.get_or_create_owned(&labels),
            acquires: metrics.pool_acquires.get_or_create_owned(&labels),
            timeouts: metrics.pool_timeouts.get_or_create_owned(&labels),
            used: metrics.pool_use.get_or_create_owned(&labels),
            create: metrics.pool_create.get_or_create_owned(&labels),
            server: self.clone(),
        }
    }

    /// A client has the connection it needed.
    pub(crate) fn ready(&self, start: Start, took: Duration) {
        self.start_time[start as usize].observe(took.as_secs_f64());
    }

    /// A session whose connection was lost got a new one, or did not.
    pub(crate) fn session_restarted(&self, result: &'static str) {
        self.metrics.restarts.get_or_create(&self.reason(result)).inc();
    }

    /// A stream of notifications was lost; and with what result it was opened again.
    pub(crate) fn listen_reopened(&self, result: &'static str) {
        self.metrics.listens.get_or_create(&self.reason(result)).inc();
    }

    /// A request went to another connection.
    pub(crate) fn repeated(&self, reason: &'static str) {
        self.metrics.repeats.get_or_create(&self.reason(reason)).inc();
    }

    /// Counts a child process that has been started, until nothing is left of it.
    pub(crate) fn child(&self) -> GaugeGuard {
        self.child_starts.inc();
        GaugeGuard::new(&self.children)
    }

    fn start_labels(&self, start: Start) -> StartLabels {
        StartLabels { server: self.server.clone(), start: start.as_str() }
    }

    pub(crate) fn child_exited(&self, reason: &'static str) {
        self.metrics.child_exits.get_or_create(&self.reason(reason)).inc();
    }

    pub(crate) fn stderr_lines(&self, lines: u64) {
        self.stderr_lines.inc_by(lines);
    }

    pub(crate) fn error(&self, side: &'static str, kind: &'static str) {
        self.metrics.errors.get_or_create(&ErrorLabels { server: self.server.clone(), side, kind }).inc();
    }

    pub(crate) fn dropped(&self, reason: &'static str) {
        self.dropped_many(reason, 1);
    }

    pub(crate) fn dropped_many(&self, reason: &'static str, count: u64) {
        self.metrics.dropped.get_or_create(&self.reason(reason)).inc_by(count);
    }

    /// Counts a call that waits for its client.
    pub(crate) fn parked(&self) -> GaugeGuard {
        GaugeGuard::new(&self.metrics.parked.get_or_create_owned(&ServerLabels { server: self.server.clone() }))
    }

    /// Counts a call that became a task.
    pub(crate) fn task(&self) -> GaugeGuard {
        GaugeGuard::new(&self.metrics.tasks.get_or_create_owned(&ServerLabels { server: self.server.clone() }))
    }

    /// A translation between the eras could not carry something.
    pub(crate) fn lost(&self, loss: Loss) {
        let labels = KindLabels { server: self.server.clone(), kind: loss.as_str() };
        self.metrics.losses.get_or_create(&labels).inc();
    }

    fn reason(&self, reason: &'static str) -> ReasonLabels {
        ReasonLabels { server: self.server.clone(), reason }
    }
}

/// Counts one thing for as long as it lives.
pub(crate) struct GaugeGuard(Gauge);

impl GaugeGuard {
    fn new(gauge: &Gauge) -> GaugeGuard {
        gauge.inc();
        GaugeGuard(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The metrics of the pool of one upstream.
#[derive(Clone)]
pub(crate) struct PoolMetrics {
    states: [Gauge; 4],
    leases: [Counter; 3],
    max: Gauge,
    acquires: Counter,
    timeouts: Counter,
    used: Histogram,
    create: Histogram,
    server: ServerMetrics,
}

impl PoolMetrics {
    pub(crate) fn name(&self) -> &str {
        self.server.name()
    }

    pub(crate) fn max(&self, max: usize) {
        self.max.set(i64::try_from(max).unwrap_or(i64::MAX));
    }

    /// How many are idle, leased, being created, closing; and how many wait.
    pub(crate) fn counts(&self, states: [usize; 4], waiting: usize) {
        for (gauge, count) in self.states.iter().zip(states) {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.server.queue.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    pub(crate) fn asked(&self) {
        self.acquires.inc();
    }

    pub(crate) fn leased(&self, start: Start, waited: Duration) {
        self.leases[start as usize].inc();
        self.server.queue_wait.observe(waited.as_secs_f64());
    }

    pub(crate) fn timed_out(&self) {
        self.timeouts.inc();
    }

    pub(crate) fn created(&self, took: Duration) {
        self.create.observe(took.as_secs_f64());
        self.creation("ok");
    }

    pub(crate) fn create_failed(&self) {
        self.creation("failed");
    }

    fn creation(&self, result: &'static str) {
        let labels = ResultLabels { server: self.server.server.clone(), result };
        self.server.metrics.pool_creations.get_or_create(&labels).inc();
    }

    pub(crate) fn closed(&self, reason: &'static str) {
        self.server.metrics.pool_closes.get_or_create(&self.server.reason(reason)).inc();
    }

    pub(crate) fn used(&self, took: Duration) {
        self.used.observe(took.as_secs_f64());
    }
}
