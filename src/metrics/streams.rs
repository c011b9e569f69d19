//! What is counted of streams from HTTP upstreams, and of their circuits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{ReasonLabels, ServerLabels, ServerMetrics, StateLabels};

/// The states of a stream, by [`StreamAt`].
pub(super) const STREAM_STATES: [&str; 3] = ["connecting", "open", "backoff"];
/// The states of a circuit, by [`CircuitAt`].
pub(super) const CIRCUIT_STATES: [&str; 3] = ["closed", "open", "half_open"];

#[derive(Default)]
pub(super) struct StreamFamilies {
    pub(super) streams: Family<StateLabels, Gauge>,
    reconnects: Family<ReasonLabels, Counter>,
    ended: Family<ReasonLabels, Counter>,
    pub(super) circuit: Family<StateLabels, Gauge>,
    openings: Family<ServerLabels, Counter>,
}

impl StreamFamilies {
    pub(super) fn register(&self, r: &mut Registry) {
        r.register(
            "upstream_streams",
            "SSE streams from the upstream by state: connecting, open, backoff (lost, and waiting to be connected again)",
            self.streams.clone(),
        );
        r.register(
            "upstream_reconnects",
            "Times that a stream from the upstream was lost and is to be connected again, by reason",
            self.reconnects.clone(),
        );
        r.register("upstream_streams_ended", "Streams from the upstream that are over, by reason", self.ended.clone());
        r.register(
            "circuit",
            "Circuit of the HTTP upstream by state: 1 for the one it is in; open: nothing is sent",
            self.circuit.clone(),
        );
        r.register(
            "circuit_openings",
            "Times that the circuit opened since the upstream kept failing",
            self.openings.clone(),
        );
    }
}

/// What is counted of the streams and the circuit of one HTTP upstream.
pub(crate) struct StreamMetrics {
    server: ServerMetrics,
    streams: [Gauge; 3],
    circuit: [Gauge; 3],
    openings: Counter,
}

/// Where a stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamAt {
    /// It has been asked for.
    Connecting,
    /// It is read.
    Open,
    /// It is waited for before it is asked for (again).
    Backoff,
}

/// Where a circuit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CircuitAt {
    /// All goes through.
    Closed,
    /// Nothing is sent.
    Open,
    /// Somebody finds out whether the upstream is there again.
    HalfOpen,
}

impl ServerMetrics {
    /// The streams and the circuit of this upstream, which is one behind HTTP.
    pub(crate) fn streams(&self) -> Arc<StreamMetrics> {
        let families = &self.metrics.upstream;
        let of = |family: &Family<StateLabels, Gauge>, states: [&'static str; 3]| {
            states.map(|state| family.get_or_create_owned(&StateLabels { server: self.server.clone(), state }))
        };
        let metrics = StreamMetrics {
            streams: of(&families.streams, STREAM_STATES),
            circuit: of(&families.circuit, CIRCUIT_STATES),
            openings: families.openings.get_or_create_owned(&ServerLabels { server: self.server.clone() }),
            server: self.clone(),
        };
        metrics.circuit(CircuitAt::Closed);
        Arc::new(metrics)
    }
}

impl StreamMetrics {
    /// The upstream's name.
    pub(crate) fn name(&self) -> &str {
        self.server.name()
    }

    /// Counts a stream, for as long as what is returned lives.
    pub(crate) fn stream(self: &Arc<Self>, at: StreamAt) -> StreamState {
        self.streams[at as usize].inc();
        StreamState { metrics: Arc::clone(self), at: AtomicUsize::new(at as usize) }
    }

    /// A stream was lost and is to be connected again.
    pub(crate) fn reconnects(&self, reason: &'static str) {
        self.server.metrics.upstream.reconnects.get_or_create(&self.server.reason(reason)).inc();
    }

    /// A stream is over.
    pub(crate) fn ended(&self, reason: &'static str) {
        self.server.metrics.upstream.ended.get_or_create(&self.server.reason(reason)).inc();
    }

    /// Where the circuit stands now.
    pub(crate) fn circuit(&self, at: CircuitAt) {
        for (state, gauge) in self.circuit.iter().enumerate() {
            gauge.set(i64::from(state == at as usize));
        }
    }

    /// The circuit has opened.
    pub(crate) fn opened(&self) {
        self.openings.inc();
    }
}

/// Counts one stream in the state that it is in, for as long as it lives.
pub(crate) struct StreamState {
    metrics: Arc<StreamMetrics>,
    at: AtomicUsize,
}

impl StreamState {
    /// It has moved on.
    pub(crate) fn to(&self, at: StreamAt) {
        let before = self.at.swap(at as usize, Ordering::Relaxed);
        self.metrics.streams[at as usize].inc();
        self.metrics.streams[before].dec();
    }
}

impl Drop for StreamState {
    fn drop(&mut self) {
        self.metrics.streams[*self.at.get_mut()].dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn streams_are_counted_where_they_stand_and_not_when_they_are_gone() {
        let metrics = Arc::new(Metrics::new());
        let streams = metrics.server("s").streams();
        let count = || streams.streams.each_ref().map(Gauge::get);
        let (one, other) = (streams.stream(StreamAt::Connecting), streams.stream(StreamAt::Backoff));
        assert_eq!(count(), [1, 0, 1]);
        one.to(StreamAt::Open);
        one.to(StreamAt::Open);
        other.to(StreamAt::Connecting);
        assert_eq!(count(), [1, 1, 0]);
        drop(one);
        drop(other);
        assert_eq!(count(), [0, 0, 0]);
    }

    #[test]
    fn a_circuit_is_in_one_state() {
        let metrics = Arc::new(Metrics::new());
        let streams = metrics.server("s").streams();
        for at in [CircuitAt::Open, CircuitAt::HalfOpen, CircuitAt::Closed] {
            streams.circuit(at);
            let page = metrics.exposition(0);
            for (state, name) in CIRCUIT_STATES.iter().enumerate() {
                let value = u8::from(state == at as usize);
                let line = format!("shadowcat_circuit{{server=\"s\",state=\"{name}\"}} {value}\n");
                assert!(page.contains(&line), "{at:?}: {page}");
            }
        }
    }
}
