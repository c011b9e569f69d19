//! Every metric: its name, its help text, its labels. Labels come from closed sets and from the configuration, never from a peer.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

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
struct StateLabels {
    server: String,
    state: &'static str,
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
    start_time: Family<ServerLabels, Histogram>,
    children: Family<StateLabels, Gauge>,
    child_starts: Family<ServerLabels, Counter>,
    child_exits: Family<ReasonLabels, Counter>,
    stderr_lines: Family<ServerLabels, Counter>,
    errors: Family<ErrorLabels, Counter>,
    dropped: Family<ReasonLabels, Counter>,
    refused: Family<RefusedLabels, Counter>,
    connections: Gauge,
    streams: Gauge,
    panics: Gauge,
}

/// 0.1 ms … 100 s: a relay hop is far below a millisecond, a tool may take minutes.
const SECONDS: [f64; 13] = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];

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
            children: Family::default(),
            child_starts: Family::default(),
            child_exits: Family::default(),
            stderr_lines: Family::default(),
            errors: Family::default(),
            dropped: Family::default(),
            refused: Family::default(),
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
            "From starting an upstream connection to its first answer",
            Unit::Seconds,
            metrics.start_time.clone(),
        );
        r.register("children", "Child processes, by state", metrics.children.clone());
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
        ServerMetrics {
            in_flight: self.in_flight.get_or_create_owned(&labels),
            latency: self.latency.get_or_create_owned(&labels),
            queue: self.queue.get_or_create_owned(&labels),
            queue_wait: self.queue_wait.get_or_create_owned(&labels),
            start_time: self.start_time.get_or_create_owned(&labels),
            sessions: self.sessions.get_or_create_owned(&labels),
            child_starts: self.child_starts.get_or_create_owned(&labels),
            stderr_lines: self.stderr_lines.get_or_create_owned(&labels),
            children: ["creating", "leased", "closing"]
                .map(|state| self.children.get_or_create_owned(&StateLabels { server: server.to_owned(), state })),
            metrics: Arc::clone(self),
            server: server.to_owned(),
        }
    }

    pub(crate) fn refused(&self, side: &'static str, kind: &'static str) {
        self.refused.get_or_create(&RefusedLabels { side, kind }).inc();
    }

    pub(crate) fn connection(&self) -> GaugeGuard {
        GaugeGuard::new(&self.connections)
    }

    pub(crate) fn stream(&self) -> GaugeGuard {
        GaugeGuard::new(&self.streams)
    }
}

/// The metrics of one upstream.
#[derive(Clone)]
pub(crate) struct ServerMetrics {
    metrics: Arc<Metrics>,
    server: String,
    in_flight: Gauge,
    latency: Histogram,
    queue: Gauge,
    queue_wait: Histogram,
    start_time: Histogram,
    sessions: Gauge,
    child_starts: Counter,
    stderr_lines: Counter,
    children: [Gauge; 3],
}

/// What a child process is doing, as `children == creating + leased + closing` counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChildState {
    Creating = 0,
    Leased = 1,
    Closing = 2,
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
        let labels = ExchangeLabels { server: self.server.clone(), era, method, outcome };
        self.metrics.exchanges.get_or_create(&labels).inc();
    }

    pub(crate) fn waiting(&self) -> GaugeGuard {
        GaugeGuard::new(&self.queue)
    }

    pub(crate) fn waited(&self, took: Duration) {
        self.queue_wait.observe(took.as_secs_f64());
    }

    pub(crate) fn started(&self, took: Duration) {
        self.start_time.observe(took.as_secs_f64());
    }

    pub(crate) fn child(&self, state: ChildState) -> ChildGauge {
        if state == ChildState::Creating {
            self.child_starts.inc();
        }
        self.children[state as usize].inc();
        ChildGauge { gauges: self.children.clone(), state }
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
        self.metrics.dropped.get_or_create(&self.reason(reason)).inc();
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

/// Counts one child process in the state it is in.
pub(crate) struct ChildGauge {
    gauges: [Gauge; 3],
    state: ChildState,
}

impl ChildGauge {
    pub(crate) fn is(&self, state: ChildState) -> bool {
        self.state == state
    }

    pub(crate) fn become_(&mut self, state: ChildState) {
        self.gauges[self.state as usize].dec();
        self.state = state;
        self.gauges[state as usize].inc();
    }
}

impl Drop for ChildGauge {
    fn drop(&mut self) {
        self.gauges[self.state as usize].dec();
    }
}
