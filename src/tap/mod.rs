//! The seam: where traffic is seen, and interfered with, on both sides of the proxy.
//!
//! On the side of the client all passes [`front::tapped`](crate::front), on the side of the upstream the connections themselves: what
//! is noted is what crosses the wire. The order is fixed: intercept, then redact, then record. Where neither a recorder nor an
//! interceptor is asked for there is no [`Tap`], and whoever would ask it looks at a `None`.

mod disk;
mod faults;
pub(crate) mod intercept;
mod line;
mod note;
mod recorder;
mod redaction;
mod tapes;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics::{ServerMetrics, TapeMetrics};
use crate::rt::Tasks;
use crate::settings::{HttpTransport, Record, RecordEdges, Settings, Target, UpstreamSettings};
use crate::tape::format::{Edge, Header, Transport};
use disk::{Disk, Keeping};
use faults::Faults;
use intercept::{Chain, Interceptor};
pub(crate) use line::{Exchange, Line};
pub(crate) use note::{FROM_CLIENT, Head, Note, TO_CLIENT};
pub(crate) use recorder::Tape;
use recorder::{Bounds, Recorder};
use redaction::Redaction;
use tapes::Tapes;
pub(crate) use tapes::{ClientKey, InUse};

tokio::task_local! {
    /// Whose work it is that is being done: what it says to an upstream is for this tape.
    pub(crate) static CURRENT: Option<Tape>;
}

/// Whose work is being done.
pub(crate) fn current() -> Option<Tape> {
    CURRENT.try_with(Clone::clone).ok().flatten()
}

/// See the module. One for each upstream.
pub(crate) struct Tap {
    recording: Option<Recording>,
    pub(crate) chain: Chain,
    faults: Option<Arc<Faults>>,
    upstream: String,
}

struct Recording {
    recorder: Recorder,
    tapes: Arc<Tapes>,
    header: Header,
    edges: RecordEdges,
    metrics: TapeMetrics,
    /// Counts exchanges with the upstream.
    exchanges: Arc<AtomicU64>,
}

impl Tap {
    /// What is asked for; `None` if that is nothing.
    pub(crate) fn build(
        upstream: &UpstreamSettings,
        settings: &Settings,
        tasks: &Tasks,
        metrics: &ServerMetrics,
    ) -> Option<Arc<Tap>> {
        let faults = settings.faults.as_ref().map(|plan| Arc::new(Faults::new(plan)));
        let chain = Chain::new(faults.iter().map(|faults| Arc::clone(faults) as Arc<dyn Interceptor>).collect());
        let recording = upstream.record.as_ref().and_then(|record| start(record, upstream, settings, tasks, metrics));
        if recording.is_none() && chain.is_empty() {
            return None;
        }
        Some(Arc::new(Tap { recording, chain, faults, upstream: upstream.name.clone() }))
    }

    /// The tape of a session.
    pub(crate) fn of_session(&self, id: &str) -> Option<InUse> {
        self.recording.as_ref()?.tapes.of_session(id)
    }

    /// The tape of a client without a session.
    pub(crate) fn of_client(&self, key: impl FnOnce() -> ClientKey) -> Option<InUse> {
        let recording = self.recording.as_ref()?;
        Some(recording.tapes.of_client(key(), || recording.begin(Transport::Http)))
    }

    /// A new tape, of a client that speaks so and is about to have a session.
    pub(crate) fn begin(&self, client: Transport) -> Option<InUse> {
        Some(InUse::bound(self.recording.as_ref()?.begin(client)))
    }

    /// This is the tape of that session, until it has `ended`.
    pub(crate) fn bind(&self, id: &str, tape: &Tape, ended: CancellationToken) {
        if let Some(recording) = &self.recording {
            recording.tapes.bind(id, tape, ended);
        }
    }

    /// Sees a connection to the upstream, if that side is recorded.
    pub(crate) fn line(&self) -> Option<Arc<Line>> {
        let recording = self.recording.as_ref().filter(|recording| recording.edges == RecordEdges::Both)?;
        Some(Line::new(recording.metrics.clone(), &recording.exchanges))
    }

    /// Whether nothing may pass now, since it could not be recorded.
    pub(crate) fn refuses(&self) -> bool {
        self.recording.as_ref().is_some_and(|recording| recording.recorder.refuses())
    }

    /// Ends all tapes, and waits until they are written, at most until `deadline`.
    pub(crate) async fn close(&self, deadline: Instant) {
        let unused = self.faults.as_ref().map(|faults| faults.unused()).unwrap_or_default();
        if !unused.is_empty() {
            tracing::warn!(upstream = self.upstream, faults = ?unused, "Faults of the plan never happened");
        }
        let Some(recording) = &self.recording else { return };
        recording.tapes.end("shutdown");
        if !recording.recorder.close(deadline).await {
            tracing::warn!("Tapes could not be written to their end");
        }
    }
}

impl Recording {
    fn begin(&self, client: Transport) -> Tape {
        let mut header = self.header.clone();
        header.client = Some(client);
        self.recorder.tape(header)
    }
}

fn start(
    record: &Record,
    upstream: &UpstreamSettings,
    settings: &Settings,
    tasks: &Tasks,
    metrics: &ServerMetrics,
) -> Option<Recording> {
    let limits = &settings.limits;
    let redaction = match Redaction::new(&record.redact) {
        Ok(redaction) => redaction,
        Err(error) => {
            // Rather nothing than secrets.
            tracing::error!(upstream = upstream.name, %error, "Nothing is recorded: a rule of redaction makes no sense");
            return None;
        }
    };
    let keeping = Keeping {
        folder: record.folder.clone(),
        upstream: upstream.name.clone(),
        file_bytes: limits.tape_bytes as u64,
        file_age: settings.timeouts.tape_age,
        compress: record.compress,
        open_max: limits.tape_files,
        folder_bytes: limits.tape_folder_bytes as u64,
    };
    let mut header = Header::new(SystemTime::now());
    header.upstream = Some(upstream.name.clone());
    header.edges = match record.edges {
        RecordEdges::Client => vec![Edge::Client],
        RecordEdges::Both => vec![Edge::Client, Edge::Upstream],
    };
    header.server = Some(match &upstream.target {
        Target::Stdio(_) | Target::Tape(_) => Transport::Stdio,
        Target::Http(target) if target.transport == HttpTransport::Sse => Transport::HttpSse,
        Target::Http(_) => Transport::Http,
    });
    header.redaction = redaction.summary();
    let bounds = Bounds { notes: limits.tape_queue, bytes: limits.tape_queue_bytes };
    let (tapes, idle) = (Arc::new(Tapes::default()), settings.timeouts.tape_idle);
    let swept = Arc::clone(&tapes);
    let metrics = metrics.tapes();
    let disk = Disk::new(keeping, redaction, metrics.clone());
    let recorder = Recorder::start(record.policy, bounds, disk, tasks, metrics.clone(), move || swept.sweep(idle));
    Some(Recording { recorder, tapes, header, edges: record.edges, metrics, exchanges: Arc::default() })
}

/// Whether tapes can be written to a folder, which is made if it is not there.
///
/// # Errors
/// They cannot.
pub(crate) fn check(folder: &Path) -> std::io::Result<()> {
    disk::prepare(folder)
}
