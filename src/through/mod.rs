//! A tape of both sides of the proxy, played through the proxy as it is now: what the client said is said to it once more, a player
//! stands where the server was, and what comes of that must be what the tape says (C-TAPE-4).
//!
//! The proxy under test records; the two tapes are then compared thread by thread
//! ([`tape::canonical`](crate::tape::canonical)): within a request, its answer and all that belongs to it, order matters; between
//! requests it does not. What the proxy says in its own name to find out what a server is, is not compared: that depends on what
//! other clients did before.

mod client;
mod script;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::Uri;

use crate::protocol::method::Known;
use crate::protocol::revision::Era;
use crate::replay::{self, Replay};
use crate::server::{Running, StartError};
use crate::settings::{
    EraChoice, HttpTarget, HttpTransport, Record, RecordEdges, RecordPolicy, Settings, TapeTarget, Target,
    UpstreamSettings,
};
use crate::tape::canonical::{self, Line, Thread};
use crate::tape::compare;
use crate::tape::format::{Edge, Frame, Transport};
use crate::tape::json::Json;
use crate::tape::{Reader, Tape, TapeError};
use client::{Client, Way};

/// How a tape is played through the proxy.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long is waited for what the tape says comes next.
    pub patience: Duration,
    /// What counts as a difference.
    pub rules: compare::Rules,
}

impl Default for Options {
    fn default() -> Self {
        Options { patience: Duration::from_secs(10), rules: compare::Rules::default() }
    }
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// How many requests and notifications of the client were made again.
    pub made: usize,
    /// In what the proxy differs from what it was when the tape was made, each with its side and frame.
    pub findings: Vec<String>,
}

/// Why a tape cannot be played through the proxy.
#[derive(Debug, thiserror::Error)]
pub enum ThroughError {
    /// One of its sides is missing.
    #[error("the tape has one side of the proxy only: record it with --record-edges both")]
    OneEdge,
    /// How its client spoke is not known here.
    #[error("the tape does not say how its client spoke, or in a way that is not known here")]
    Client,
    /// The proxy does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The files of the proxy under test cannot be made or read.
    #[error("the tape of the proxy under test cannot be made: {0}")]
    Io(#[from] io::Error),
    /// What the proxy under test recorded is no tape.
    #[error(transparent)]
    Tape(#[from] TapeError),
}

/// Plays a tape through the proxy. `settings` may be changed before it starts: all but the upstream and where it listens.
///
/// # Errors
/// See [`ThroughError`]. That the proxy does something else than it did is an [`Outcome`].
///
/// # Cancel safety
/// Dropped before it is done, the proxies are stopped, and their files are removed.
pub async fn through(
    tape: &Tape,
    options: &Options,
    settings: impl FnOnce(&mut Settings),
) -> Result<Outcome, ThroughError> {
    let (header, frames) = (&tape.header, &tape.frames[..]);
    if !(header.edges.contains(&Edge::Client) && header.edges.contains(&Edge::Upstream)) {
        return Err(ThroughError::OneEdge);
    }
    if !matches!(header.client, Some(Transport::Http | Transport::HttpSse | Transport::Stdio)) {
        return Err(ThroughError::Client);
    }
    let in_step = Some(options.patience / 4);
    let replay = Arc::new(Replay::new(header, frames, replay::Options { in_step, ..replay::Options::default() }));
    let folder = Folder::new()?;
    let name = header.upstream.clone().unwrap_or_else(|| "main".to_owned());
    // A server behind HTTP is one here, too: another proxy, in front of the player.
    let behind = match header.server {
        Some(Transport::Stdio | Transport::Other(_)) | None => None,
        Some(Transport::Http | Transport::HttpSse) => {
            let settings =
                Settings::for_upstream(upstream(&name, Target::Tape(TapeTarget::new(Arc::clone(&replay))), &replay));
            Some(Running::start(settings).await?)
        }
    };
    let target = match &behind {
        None => Target::Tape(TapeTarget::new(Arc::clone(&replay))),
        Some(behind) => Target::Http(HttpTarget {
            url: at(behind, "/mcp")?,
            headers: Vec::new(),
            transport: HttpTransport::Streamable,
        }),
    };
    let mut under_test = Settings::for_upstream(upstream(&name, target, &replay));
    let mut record = Record::to(&folder.0);
    (record.edges, record.policy) = (RecordEdges::Both, RecordPolicy::Block);
    under_test.upstreams[0].record = Some(record);
    settings(&mut under_test);
    let running = Running::start(under_test).await?;

    let script = script::of(frames);
    let way = match header.client {
        Some(Transport::HttpSse) => Way::HttpSse(at(&running, "/sse")?),
        Some(Transport::Stdio) => Way::Pipe(None),
        _ => Way::Http,
    };
    let mut client = Client::new(&running, &replay, at(&running, "/mcp")?, way, options.patience)?;
    let late = client.play(&script).await;
    drop(client);
    running.shutdown().await;
    if let Some(behind) = behind {
        behind.shutdown().await;
    }

    let made = read_all(&folder.0)?;
    let mut findings = late;
    let mut side = |edge: Edge, name: &str, counts: &dyn Fn(&Thread, &Line) -> bool| {
        let (first, second) = (canonical::threads(edge, frames), canonical::threads(edge, &made));
        let found = canonical::compare(&first, &second, &options.rules, counts);
        findings.extend(found.into_iter().map(|finding| format!("{name}: {finding}")));
    };
    side(Edge::Client, "to the client", &|_, _| true);
    // Where the handshake is the proxy's, so is the end of it, and which log messages are asked for on connections that requests lease.
    let shaken = canonical::threads(Edge::Upstream, frames);
    let leases = shaken.iter().any(|one| one.of_proxy && method(one) == Some(Known::Initialize));
    let is_of_lease = |thread: &Thread| leases && matches!(method(thread), Some(Known::Initialized | Known::SetLevel));
    side(Edge::Upstream, "to the server", &|thread, line| line.upward && !thread.of_proxy && !is_of_lease(thread));
    let report = replay.report();
    findings.extend(report.told.into_iter().map(|what| format!("to the server: {what}")));
    Ok(Outcome { made: script.len(), findings })
}

fn upstream(name: &str, target: Target, replay: &Replay) -> UpstreamSettings {
    let mut upstream = UpstreamSettings::new(name, target);
    upstream.era = match replay.era() {
        Era::Legacy => EraChoice::Legacy,
        Era::Modern => EraChoice::Modern,
    };
    upstream
}

fn at(running: &Running, path: &str) -> Result<Uri, io::Error> {
    Uri::try_from(format!("http://{}{path}", running.address())).map_err(io::Error::other)
}

fn method(thread: &Thread) -> Option<Known> {
    thread.lines.first()?.message.as_ref()?.get("method").and_then(Json::as_str).and_then(Known::parse)
}

/// All frames of all tapes in a folder.
fn read_all(folder: &Path) -> Result<Vec<Frame>, ThroughError> {
    let mut frames = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        for frame in Reader::open(entry?.path())? {
            frames.push(frame?);
        }
    }
    Ok(frames)
}

/// A folder that is gone when this is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Folder> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let name = format!("shadowcat-through-{:016x}", u64::from_be_bytes(random));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder)?;
        Ok(Folder(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left lies where such things are cleaned away.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
