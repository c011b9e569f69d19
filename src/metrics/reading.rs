//! What the gauges of one upstream say at this moment.

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::streams::{CIRCUIT_STATES, STREAM_STATES};
use super::{POOL_STATES, ServerLabels, ServerMetrics, StateLabels};

/// See the module. The numbers are read one after the other: they need not fit together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Live legacy sessions.
    pub(crate) sessions: i64,
    /// Requests without a final answer.
    pub(crate) in_flight: i64,
    /// Requests that wait for a connection.
    pub(crate) queue: i64,
    /// Child processes.
    pub(crate) children: i64,
    /// Connections by state.
    pub(crate) pool: Vec<(&'static str, i64)>,
    /// Most connections at once.
    pub(crate) pool_max: i64,
    /// Streams from the upstream by state; empty if it is not behind HTTP.
    pub(crate) streams: Vec<(&'static str, i64)>,
    /// The state of its circuit, if it is behind HTTP.
    pub(crate) circuit: Option<&'static str>,
}

impl ServerMetrics {
    /// See [`Reading`]. Nothing is made that had not been counted before.
    pub(crate) fn reading(&self) -> Reading {
        let metrics = &self.metrics;
        let by_state = |family: &Family<StateLabels, Gauge>, states: &[&'static str]| {
            let value =
                |state| family.get(&StateLabels { server: self.server.clone(), state }).map(|gauge| gauge.get());
            states.iter().filter_map(|state| Some((*state, value(*state)?))).collect::<Vec<_>>()
        };
        let circuit = by_state(&metrics.upstream.circuit, &CIRCUIT_STATES);
        let pool_max = metrics.pool_max.get(&ServerLabels { server: self.server.clone() }).map(|gauge| gauge.get());
        Reading {
            sessions: self.sessions.get(),
            in_flight: self.in_flight.get(),
            queue: self.queue.get(),
            children: self.children.get(),
            pool: by_state(&metrics.pool, &POOL_STATES),
            pool_max: pool_max.unwrap_or_default(),
            streams: by_state(&metrics.upstream.streams, &STREAM_STATES),
            circuit: circuit.into_iter().find(|(_, is_it)| *is_it == 1).map(|(state, _)| state),
        }
    }
}
