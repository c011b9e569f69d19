//! What the commands do once their arguments are understood.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::available_parallelism;
use std::time::Duration;

use super::{Exit, complain};
use crate::rt::{Crew, Signal, Signals, Tasks, Workers};
use crate::server::Running;
use crate::settings::{Settings, Target, UpstreamSettings};

/// How much longer than the configured time a shutdown may take before the process ends itself.
const WATCHDOG_GRACE: Duration = Duration::from_secs(2);
/// How long work that blocks may take when everything else has ended.
const LAST_WORK: Duration = Duration::from_millis(200);

/// Serves until told to stop.
pub(super) fn serve(settings: Settings, workers: Option<usize>) -> ExitCode {
    if let Err(code) = check_programs(&settings) {
        return code;
    }
    if let Err(code) = check_tapes(&settings) {
        return code;
    }
    let workers = workers.unwrap_or_else(|| workers_for(&settings));
    with_workers(workers, async move |crew, signals| listen(settings, &crew, signals).await)
}

/// Serves HTTP until told to stop.
pub(super) async fn listen(settings: Settings, crew: &Crew, signals: &mut Signals) -> Ended {
    let shutdown_time = settings.timeouts.shutdown;
    let names: Vec<String> = settings.upstreams.iter().map(|upstream| upstream.name.clone()).collect();
    let (path, http_sse) = (settings.path.clone(), settings.http_sse);
    let running = match Running::start_on(settings, crew).await {
        Ok(running) => running,
        Err(error) => {
            complain(format_args!("error: {error}"));
            return Ended::Exit(Exit::Listen);
        }
    };
    complain(format_args!("{}", banner(&running, &names, &path, http_sse)));
    let signal = signals.obey(running.tasks()).await;
    tracing::info!(?signal, "Stopping; a second signal stops at once");
    watchdog(shutdown_time + WATCHDOG_GRACE);
    tokio::select! {
        biased;
        report = running.shutdown() => {
            if report.is_clean() {
                return Ended::Exit(Exit::Fine);
            }
            tracing::warn!(requests_cut = report.requests_cut, survivors = ?report.survivors, "Stopped by force");
            Ended::Exit(Exit::Forced)
        }
        signal = signals.obey(running.tasks()) => Ended::Signal(signal),
    }
}

/// Relays between standard input and output and an HTTP server until either ends.
pub(super) fn connect(upstream: UpstreamSettings) -> ExitCode {
    let settings = Settings::for_upstream(upstream);
    if let Err(code) = check_tapes(&settings) {
        return code;
    }
    with_workers(1, async move |_, signals| pipe(settings, signals).await)
}

/// Serves one client on standard input and output until either end closes.
pub(super) async fn pipe(settings: Settings, signals: &mut Signals) -> Ended {
    let tasks = Tasks::new();
    tokio::select! {
        ended = crate::server::connect(settings, &tasks) => match ended {
            Ok(()) => Ended::Exit(Exit::Fine),
            Err(error) => {
                complain(format_args!("error: {error}"));
                Ended::Exit(Exit::Internal)
            }
        },
        signal = signals.obey(&tasks) => Ended::Signal(signal),
    }
}

/// How a command came to its end.
pub(super) enum Ended {
    Exit(Exit),
    /// With a code that somebody else decided.
    Code(u8),
    /// At once, by a signal.
    Signal(Signal),
}

impl Ended {
    fn code(self) -> ExitCode {
        match self {
            Ended::Exit(exit) => exit.into(),
            Ended::Code(code) => ExitCode::from(code),
            Ended::Signal(signal) => ExitCode::from(signal.exit_code()),
        }
    }
}

/// As many as there are processors where a server is elsewhere. Where all of them are processes of ours, these need processors, too, and
/// those who share one are best served by few threads, since what it says must be handed to whoever waits for it: half of the processors.
fn workers_for(settings: &Settings) -> usize {
    if settings.has_http_servers() { processors() } else { (processors() / 2).max(1) }
}

/// How many the program may use.
pub(super) fn processors() -> usize {
    available_parallelism().map_or(1, NonZero::get)
}

/// Runs one of the tools, whose tasks go from thread to thread.
pub(super) fn with_runtime(main: impl AsyncFnOnce(&mut Signals) -> Ended) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return no_runtime(&error),
    };
    let ended = runtime.block_on(with_signals(main));
    runtime.shutdown_timeout(LAST_WORK);
    ended.code()
}

/// Runs a proxy, whose connections stay where they were put.
pub(super) fn with_workers(count: usize, main: impl AsyncFnOnce(Crew, &mut Signals) -> Ended) -> ExitCode {
    let workers = match Workers::start(count) {
        Ok(workers) => workers,
        Err(error) => return no_runtime(&error),
    };
    let ended = workers.block_on(async |crew| with_signals(async |signals| main(crew, signals).await).await);
    // Dropping the tasks kills what children are left, by their guards; nothing is waited for.
    workers.end(LAST_WORK);
    ended.code()
}

fn no_runtime(error: &io::Error) -> ExitCode {
    complain(format_args!("error: no runtime: {error}"));
    Exit::Internal.into()
}

async fn with_signals(main: impl AsyncFnOnce(&mut Signals) -> Ended) -> Ended {
    match Signals::listen() {
        Ok(mut signals) => main(&mut signals).await,
        Err(error) => {
            complain(format_args!("error: no signal handlers: {error}"));
            Ended::Exit(Exit::Internal)
        }
    }
}

/// Ends the process when the shutdown does not: the last resort, outside of the runtime that may be what hangs.
#[expect(clippy::disallowed_methods, reason = "the only thread: it watches the runtime, so it cannot be a task of it")]
fn watchdog(time: Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(time);
        complain(format_args!("error: the shutdown hangs; ending the process"));
        std::process::exit(Exit::Forced as i32);
    });
}

/// Who asks for tapes is told at once if there will be none.
fn check_tapes(settings: &Settings) -> Result<(), ExitCode> {
    for record in settings.upstreams.iter().filter_map(|upstream| upstream.record.as_ref()) {
        if let Err(error) = crate::tap::check(&record.folder) {
            let folder = record.folder.display();
            complain(format_args!(
                "error: cannot record to {folder}: {error}; name a folder that can be written with --record"
            ));
            return Err(Exit::Config.into());
        }
    }
    Ok(())
}

/// A single server whose program does not exist is refused at once. Among several it must not take the others down.
fn check_programs(settings: &Settings) -> Result<(), ExitCode> {
    let missing: Vec<_> = settings
        .upstreams
        .iter()
        .filter_map(|upstream| match &upstream.target {
            Target::Stdio(target) if !exists(&target.program, target.cwd.as_deref()) => {
                Some((&upstream.name, &target.program))
            }
            _ => None,
        })
        .collect();
    for (name, program) in &missing {
        complain(format_args!(
            "error: server `{name}`: program `{program}` not found: check the spelling, or give its full path"
        ));
    }
    if missing.len() == settings.upstreams.len() && !missing.is_empty() { Err(Exit::Upstream.into()) } else { Ok(()) }
}

fn exists(program: &str, cwd: Option<&Path>) -> bool {
    let candidate = |path: PathBuf| {
        path.is_file() || (cfg!(windows) && ["exe", "cmd", "bat"].iter().any(|e| path.with_extension(e).is_file()))
    };
    if Path::new(program).components().count() > 1 {
        return candidate(cwd.unwrap_or(Path::new("")).join(program));
    }
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| candidate(dir.join(program))))
}

/// Where it listens, and what to paste into a client.
fn banner(running: &Running, names: &[String], path: &str, http_sse: bool) -> String {
    let base = format!("http://{}", reachable(running.address()));
    let url =
        |name: &str| if names.len() == 1 { format!("{base}{path}") } else { format!("{base}/servers/{name}/mcp") };
    let mut text = format!("shadowcat {} serves", env!("CARGO_PKG_VERSION"));
    for name in names {
        let _ = write!(text, "\n  {name:<12} {}", url(name));
        if http_sse {
            let sse =
                url(name).strip_suffix(if names.len() == 1 { path } else { "/mcp" }).map(|base| format!("{base}/sse"));
            let _ = write!(text, "   (2024-11-05 clients: {})", sse.unwrap_or_default());
        }
    }
    if let Some(admin) = running.admin_address() {
        let _ = write!(text, "\n  {:<12} http://{admin}/health  /ready  /status  /metrics", "admin");
    }
    let servers: serde_json::Map<_, _> =
        names.iter().map(|name| (name.clone(), serde_json::json!({ "type": "http", "url": url(name) }))).collect();
    let paste = serde_json::json!({ "mcpServers": servers });
    let _ = write!(text, "\nPaste into your client's configuration:\n{paste:#}");
    text
}

/// The listening address as a client can use it.
fn reachable(address: SocketAddr) -> SocketAddr {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}
