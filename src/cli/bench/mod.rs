//! `bench`: how it runs, and how it ends. What it prints is in `report`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::ProgressBar;

use super::args::BenchArgs;
use super::run::{Ended, with_runtime};
use super::serve::{named, placed};
use super::{Exit, complain, print, refuse, start_log, variable};
use crate::config::{Faults, Loader, Template};
use crate::load::{Call, Crew, Failure, Pace, Plan, Tally, Target, look_around};
use crate::protocol::revision::Era;
use crate::server::Running;
use crate::settings::{EraChoice, Settings, UpstreamSettings};

mod report;

use report::{Comparison, Report, Setup};

/// A run is measured in so many parts, one after the other: what they differ by is what chance does.
const PARTS: u64 = 20;

impl BenchArgs {
    /// The server behind the proxy, where it is a program.
    fn upstream(&self) -> Result<UpstreamSettings, Faults> {
        let loader = Loader::default();
        let mut server = named("bench");
        if let [program, args @ ..] = self.command.as_slice() {
            server.command = Some(placed("COMMAND", Template::literal(program)));
            server.args = args.iter().map(|arg| placed("COMMAND", Template::literal(arg))).collect();
        }
        let mut upstream = loader.upstream(&server, &variable)?;
        upstream.isolation = self.isolation;
        upstream.era = self.era;
        upstream.connections_max = upstream.connections_max.max(self.clients);
        Ok(upstream)
    }

    fn era(&self) -> Option<Era> {
        match self.era {
            EraChoice::Auto => None,
            EraChoice::Legacy => Some(Era::Legacy),
            EraChoice::Modern => Some(Era::Modern),
        }
    }

    fn pace(&self) -> Pace {
        self.rate.map_or(Pace::Closed, |rate| Pace::Rate(rate.into()))
    }
}

/// Why nothing was measured.
enum Stop {
    Arguments(String),
    Listen(String),
    Server(Failure),
}

/// Measures, prints, and compares if that was asked for.
pub(super) fn bench(args: &BenchArgs) -> ExitCode {
    // Found out before, and not after, minutes of measuring.
    let before = match args.compare.as_deref().map(read_report).transpose() {
        Ok(before) => before,
        Err(text) => return usage(&text),
    };
    let upstream = match (!args.command.is_empty()).then(|| args.upstream()).transpose() {
        Ok(upstream) => upstream,
        Err(faults) => return refuse(&faults),
    };
    if let Err(code) = start_log(&args.log) {
        return code;
    }
    with_runtime(async move |signals| {
        let running = match upstream {
            None => None,
            Some(upstream) => match Running::start(settings(upstream, args.clients)).await {
                Ok(running) => Some(running),
                Err(error) => return Ended::Exit(stopped(&Stop::Listen(error.to_string()))),
            },
        };
        let tasks = crate::rt::Tasks::new();
        let measured = tokio::select! {
            measured = measure(args, running.as_ref()) => measured,
            signal = signals.obey(&tasks) => return Ended::Signal(signal),
        };
        if let Some(running) = running {
            running.shutdown().await;
        }
        Ended::Exit(match measured {
            Ok(report) => tell(args, &report, before.as_ref()),
            Err(stop) => stopped(&stop),
        })
    })
}

/// A proxy that refuses none of the clients for being too many.
fn settings(upstream: UpstreamSettings, clients: usize) -> Settings {
    let mut settings = Settings::for_upstream(upstream);
    let limits = &mut settings.limits;
    // Some more, since the first look at the server takes one.
    for limit in [&mut limits.sessions, &mut limits.connections, &mut limits.queue] {
        *limit = (*limit).max(clients + 8);
    }
    settings
}

async fn measure(args: &BenchArgs, running: Option<&Running>) -> Result<Report, Stop> {
    let url = match (running, &args.url) {
        (Some(running), _) => format!("http://{}/mcp", running.address()),
        (None, url) => url.clone().unwrap_or_default(),
    };
    let target = Target::parse(&url).ok_or_else(|| Stop::Arguments(format!("URL: `{url}` is no http:// address")))?;
    let (era, found) = look_around(&target, args.era(), args.payload, args.timeout).await.map_err(Stop::Server)?;
    let call = match &args.tool {
        Some(tool) => Call::tool(tool, args.args.clone()),
        None => found,
    };
    let call = call.with_progress(args.progress);
    let setup = Setup { call: call.describe(), era: era.as_str().to_owned(), clients: args.clients, rate: args.rate };
    let plan = Plan { target, era, clients: args.clients, call, patience: args.timeout };
    let mut crew = Crew::open(&plan).await.map_err(Stop::Server)?;
    let bar = ProgressBar::new(PARTS);
    crew.run(args.pace(), args.warm_up, Duration::ZERO).await;
    let mut parts: Vec<Tally> = Vec::new();
    for part in 0..PARTS {
        parts.push(match args.requests {
            Some(requests) => crew.complete(requests * (part + 1) / PARTS - requests * part / PARTS).await,
            None => crew.run(args.pace(), Duration::ZERO, args.duration / PARTS as u32).await,
        });
        bar.inc(1);
    }
    bar.finish_and_clear();
    crew.close().await;
    Ok(Report::of(setup, &parts))
}

fn tell(args: &BenchArgs, report: &Report, before: Option<&Report>) -> Exit {
    let printed = print(format_args!("{report}"));
    if printed != Exit::Fine {
        return printed;
    }
    if let Some(path) = &args.json
        && let Err(error) = std::fs::write(path, format!("{:#}\n", report.to_json()))
    {
        complain(format_args!("error: {}: {error}", path.display()));
        return Exit::Internal;
    }
    let mut fine = report.is_right();
    if let Some(before) = before {
        if before.setup != report.setup {
            complain(format_args!("error: --compare: the run before was another one: {}", before.setup));
            return Exit::Usage;
        }
        let comparison = Comparison::of(report, before, args.budget);
        fine &= comparison.passes();
        let printed = print(format_args!("{comparison}"));
        if printed != Exit::Fine {
            return printed;
        }
    }
    if fine { Exit::Fine } else { Exit::Negative }
}

fn stopped(stop: &Stop) -> Exit {
    match stop {
        Stop::Arguments(text) => {
            complain(format_args!("error: {text}"));
            Exit::Usage
        }
        Stop::Listen(text) => {
            complain(format_args!("error: {text}"));
            Exit::Listen
        }
        Stop::Server(failure) => {
            complain(format_args!("error: {failure}"));
            Exit::Upstream
        }
    }
}

fn usage(text: &str) -> ExitCode {
    stopped(&Stop::Arguments(text.to_owned())).into()
}

fn read_report(path: &Path) -> Result<Report, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("--compare: {}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("--compare: {}: {error}", path.display()))
}
