//! What is counted of tapes.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{ServerLabels, ServerMetrics};

#[derive(Default)]
pub(super) struct TapeFamilies {
    tapes: Family<ServerLabels, Gauge>,
    frames: Family<ServerLabels, Counter>,
    bytes: Family<ServerLabels, Counter>,
    lost: Family<super::ReasonLabels, Counter>,
}

impl TapeFamilies {
    pub(super) fn register(&self, r: &mut Registry) {
        r.register("tapes", "Tapes that are being recorded", self.tapes.clone());
        r.register("tape_frames", "Frames that were written to tapes", self.frames.clone());
        r.register("tape_bytes", "Bytes that were written to tapes", self.bytes.clone());
        r.register(
            "tape_frames_lost",
            "Frames that are missing on tapes, by reason: the queue was full, the disk failed, their tape had ended, nobody knew \
             whose they are",
            self.lost.clone(),
        );
    }
}

/// What is counted of the tapes of one upstream.
#[derive(Clone)]
pub(crate) struct TapeMetrics {
    server: ServerMetrics,
    tapes: Gauge,
    frames: Counter,
    bytes: Counter,
}

impl ServerMetrics {
    /// The tapes of this upstream.
    pub(crate) fn tapes(&self) -> TapeMetrics {
        let labels = ServerLabels { server: self.server.clone() };
        let families = &self.metrics.tapes;
        TapeMetrics {
            tapes: families.tapes.get_or_create_owned(&labels),
            frames: families.frames.get_or_create_owned(&labels),
            bytes: families.bytes.get_or_create_owned(&labels),
            server: self.clone(),
        }
    }
}

impl TapeMetrics {
    /// So many tapes are being recorded.
    pub(crate) fn tapes(&self, count: usize) {
        self.tapes.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn written(&self, frames: u64, bytes: u64) {
        self.frames.inc_by(frames);
        self.bytes.inc_by(bytes);
    }

    pub(crate) fn lost(&self, reason: &'static str, frames: u64) {
        self.server.metrics.tapes.lost.get_or_create(&self.server.reason(reason)).inc_by(frames);
    }
}
