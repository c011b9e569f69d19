//! `shadowcat replay`: a tape as a server.

use std::future::poll_fn;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};

use super::args::{Mode, ReplayArgs};
use super::run::{Ended, listen, pipe, processors, with_workers};
use super::serve::faults;
use super::tape::{named, read, redact_frame};
use super::{Exit, complain, refuse, start_log, variable};
use crate::config::{Faults, Loader};
use crate::faults::{Do, Plan};
use crate::protocol::revision::Era;
use crate::replay::{Options, Replay, Timing, Unknown};
use crate::rt::Tasks;
use crate::server::Inside;
use crate::settings::{Behind, EraChoice, Settings, TapeTarget, Target, UpstreamSettings};
use crate::tape::format::{Edge, Header, Transport};
use crate::tape::pointer::Pointers;
use crate::tape::redact::{self, Redactor};
use crate::tape::{Ending, Tape};

/// How long what comes to a tape waits for more of it before it is written.
const GATHER: Duration = Duration::from_millis(50);
/// How many times longer than it takes to write a tape it is not written again.
const SHARE: u32 = 10;
/// How long the server behind a tape may take to end.
const LAST_STOPS: Duration = Duration::from_secs(10);

impl ReplayArgs {
    fn has_server(&self) -> bool {
        self.upstream.is_some() || !self.command.is_empty()
    }

    /// The server behind the tape. `variable` looks up environment variables.
    ///
    /// # Errors
    ///
    /// All faults of the arguments.
    pub fn load(&self, variable: &dyn Fn(&str) -> Option<String>) -> Result<UpstreamSettings, Faults> {
        let mut loader = Loader::default();
        let mut server = self.child.server("behind", &self.command, &mut loader);
        if let Some(url) = &self.upstream {
            self.headers.overlay(&mut server, "--upstream", url, self.transport, &mut loader);
        }
        loader.upstream(&server, variable)
    }

    /// What is to go wrong.
    fn plan(&self) -> Result<Option<Plan>, Faults> {
        let mut loader = Loader::default();
        let plan = self.faults.as_deref().and_then(|path| faults(path, &mut loader));
        loader.check().map(|()| plan)
    }

    /// The tape, and what becomes of what is not on it.
    fn open(&self) -> Result<(Tape, Unknown), Exit> {
        let mode = self.mode.unwrap_or(if self.has_server() { Mode::Once } else { Mode::None });
        if mode != Mode::None && !self.has_server() {
            complain(format_args!("error: --mode: it needs a server behind the tape: give --upstream or COMMAND"));
            return Err(Exit::Usage);
        }
        let one = self.file();
        if one.is_none() && matches!(mode, Mode::All | Mode::NewEpisodes) {
            complain(format_args!("error: --mode: it writes one file: name that"));
            return Err(Exit::Usage);
        }
        let is_new = self.has_server() && mode != Mode::None && one.is_some_and(|path| !path.exists());
        if is_new || mode == Mode::All {
            return Ok((blank(), Unknown::Record));
        }
        let tape = read(&self.tapes)?;
        if mode != Mode::NewEpisodes {
            return Ok((tape, Unknown::Refuse));
        }
        if !tape.faults.is_empty() || matches!(tape.ending, Ending::Torn { .. }) {
            complain(format_args!("error: {}: not added to: what is broken of it would be lost", named(&self.tapes)));
            return Err(Exit::Tape);
        }
        Ok((tape, Unknown::Learn))
    }

    /// The one file that the tape is.
    fn file(&self) -> Option<&Path> {
        match self.tapes.as_slice() {
            [one] if !one.is_dir() => Some(one),
            _ => None,
        }
    }
}

/// A tape with nothing on it.
fn blank() -> Tape {
    let mut header = Header::new(SystemTime::now());
    (header.edges, header.server) = (vec![Edge::Upstream], Some(Transport::Stdio));
    header.redaction = vec!["defaults".to_owned()];
    Tape { header, frames: Vec::new(), ending: Ending::CutShort, faults: Vec::new() }
}

/// Answers clients from a tape until told to stop, or until the client goes.
pub(super) fn replay(args: &ReplayArgs) -> ExitCode {
    if let Err(code) = start_log(&args.log) {
        return code;
    }
    let (tape, unknown) = match args.open() {
        Ok(opened) => opened,
        Err(exit) => return exit.into(),
    };
    let behind = match args.has_server().then(|| args.load(&variable)).transpose() {
        Ok(behind) => behind.filter(|_| unknown != Unknown::Refuse),
        Err(faults) => return refuse(&faults),
    };
    let plan = match args.plan() {
        Ok(plan) => plan,
        Err(faults) => return refuse(&faults),
    };
    let has_status = |plan: &Plan| plan.faults.iter().any(|fault| matches!(fault.fault, Do::Status { .. }));
    if args.listen.is_none() && plan.as_ref().is_some_and(has_status) {
        complain(format_args!(
            "error: --faults: `status` is for clients over HTTP, and this one is on standard input and output: give --listen, or take it out"
        ));
        return Exit::Usage.into();
    }
    let timing = Timing { factor: args.timing, cap: args.timing_cap };
    let ignore = args.ignore.iter().cloned().fold(Pointers::default(), Pointers::and);
    let options = Options { order: args.order, timing, ignore, edge: args.edge, unknown, ..Options::default() };
    let replay = Arc::new(Replay::new(&tape.header, &tape.frames, options));
    if replay.lost() > 0 {
        complain(format_args!("warning: {}: {} frames are missing", named(&args.tapes), replay.lost()));
    }
    let era = match replay.era() {
        // Nobody knows yet.
        _ if tape.frames.is_empty() => EraChoice::Auto,
        Era::Legacy => EraChoice::Legacy,
        Era::Modern => EraChoice::Modern,
    };
    let name = tape.header.upstream.clone().unwrap_or_else(|| "tape".to_owned());
    with_workers(processors(), async move |crew, signals| {
        let tasks = Tasks::new();
        let behind = behind.map(|upstream| Arc::new(Inside::new(upstream, &tasks)) as Arc<dyn Behind>);
        let mut upstream =
            UpstreamSettings::new(name, Target::Tape(TapeTarget { replay: Arc::clone(&replay), behind }));
        upstream.era = era;
        let mut keeper = match Keeper::new(&tape, args.file().unwrap_or(Path::new("")), &replay) {
            Ok(keeper) => keeper,
            Err(exit) => return Ended::Exit(exit),
        };
        let served = async {
            let settings = Settings { faults: plan, ..Settings::for_upstream(upstream) };
            match args.listen {
                Some(listen_on) => {
                    listen(Settings { listen: listen_on, path: args.path.clone(), ..settings }, &crew, signals).await
                }
                None => pipe(settings, signals).await,
            }
        };
        let ended = tokio::select! {
            ended = served => ended,
            () = keeper.keep(&tasks) => Ended::Exit(Exit::Internal),
        };
        tasks.close(Instant::now() + LAST_STOPS).await;
        let kept = keeper.save(&tasks).await;
        match judge(ended, &replay, args.require_all) {
            Ended::Exit(Exit::Fine) if !kept => Ended::Exit(Exit::Tape),
            ended => ended,
        }
    })
}

/// Writes down what is added to a tape.
struct Keeper<'a> {
    tape: &'a Tape,
    path: &'a Path,
    replay: &'a Replay,
    redactor: Redactor,
    written: usize,
}

impl<'a> Keeper<'a> {
    fn new(tape: &'a Tape, path: &'a Path, replay: &'a Replay) -> Result<Self, Exit> {
        let redactor = Redactor::new(redact::Rules::default()).map_err(|error| {
            complain(format_args!("error: {error}"));
            Exit::Internal
        })?;
        Ok(Keeper { tape, path, replay, redactor, written: 0 })
    }

    /// Does so for as long as it is polled.
    async fn keep(&mut self, tasks: &Tasks) {
        loop {
            poll_fn(|context| self.replay.added().keeper().poll(context)).await;
            sleep(GATHER).await;
            let begun = Instant::now();
            self.save(tasks).await;
            // The longer the tape, the more rarely it is written.
            sleep(begun.elapsed() * SHARE).await;
        }
    }

    /// Writes the whole tape anew, if there is something new; `false` if that fails.
    async fn save(&mut self, tasks: &Tasks) -> bool {
        let written = self.replay.added().len();
        let Some(mut added) = self.replay.added().beyond(self.written) else { return true };
        for frame in &mut added {
            redact_frame(frame, &self.redactor);
        }
        let kept = self.tape.frames.iter().filter(|frame| !matches!(frame.kind, crate::tape::Kind::End { .. }));
        let frames = kept.cloned().chain(added).collect();
        let whole = Tape { header: self.tape.header.clone(), frames, ending: Ending::CutShort, faults: Vec::new() };
        let path = self.path.to_owned();
        let saved = tasks.block_on_thread("tape", move || whole.save(path)).await;
        match saved {
            Some(Ok(())) => {
                self.written = written;
                true
            }
            Some(Err(error)) => {
                complain(format_args!("error: {}: cannot be written: {error}", self.path.display()));
                false
            }
            None => false,
        }
    }
}

/// Says what was not on the tape, and what of it was not asked for; either may be a reason for another exit code.
fn judge(ended: Ended, replay: &Replay, require_all: bool) -> Ended {
    let report = replay.report();
    for what in &report.told {
        complain(format_args!("not on the tape: {what}"));
    }
    let untold = report.unknown - report.told.len() as u64;
    if untold > 0 {
        complain(format_args!("not on the tape: {untold} more requests"));
    }
    if require_all {
        for what in &report.unused {
            complain(format_args!("nobody asked for {what}"));
        }
    }
    match ended {
        Ended::Exit(Exit::Fine) if report.unknown > 0 || (require_all && !report.unused.is_empty()) => {
            Ended::Exit(Exit::Negative)
        }
        ended => ended,
    }
}
