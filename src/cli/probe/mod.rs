//! `probe`: its arguments, what it prints, how it ends.

use std::process::ExitCode;
use std::time::Duration;

use indicatif::ProgressBar;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::args::ProbeArgs;
use super::run::{Ended, with_runtime};
use super::{Exit, complain, print, refuse, start_log, variable};
use crate::config::{Faults, Loader};
use crate::probing::{self, Failure, Plan, Report, Stage};
use crate::rt::Tasks;
use crate::settings::{Target, UpstreamSettings};

mod report;

/// How long processes may take to end after a trial: longer than any stop does.
const LAST_STOPS: Duration = Duration::from_secs(15);
/// How often the sign of life moves.
const TICK: Duration = Duration::from_millis(100);
/// How much of a server's standard error is shown: so many lines, of so many characters at most.
const WORDS_LINES: usize = 10;
const LINE_CHARS: usize = 300;

impl ProbeArgs {
    /// The server to try. `variable` looks up environment variables.
    ///
    /// # Errors
    ///
    /// All faults of the arguments.
    pub fn load(&self, variable: &dyn Fn(&str) -> Option<String>) -> Result<UpstreamSettings, Faults> {
        let mut loader = Loader::default();
        let server = self.child.server("probe", &self.command, &mut loader);
        loader.upstream(&server, variable)
    }
}

/// Tries a server, and prints what was found.
pub(super) fn probe(args: &ProbeArgs) -> ExitCode {
    let upstream = match args.load(&variable) {
        Ok(upstream) => upstream,
        Err(faults) => return refuse(&faults),
    };
    let Target::Stdio(target) = upstream.target else {
        complain(format_args!("error: COMMAND: a program is needed"));
        return Exit::Usage.into();
    };
    if let Err(code) = start_log(&args.log) {
        return code;
    }
    let plan = Plan { target, patience: args.timeout, calls: args.call.clone() };
    let json = args.json;
    with_runtime(async move |signals| {
        let tasks = Tasks::new();
        let tried = tokio::select! {
            tried = with_sign_of_life(&plan, &tasks) => tried,
            signal = signals.obey(&tasks) => return Ended::Signal(signal),
        };
        // Nothing of the server is to be left when the verdict is read.
        tasks.close(Instant::now() + LAST_STOPS).await;
        Ended::Exit(match tried {
            Ok(found) => tell(&found, json),
            Err(failure) => fail(&failure),
        })
    })
}

/// Shows what is being done, where standard error is a terminal.
async fn with_sign_of_life(plan: &Plan, tasks: &Tasks) -> Result<Report, Failure> {
    let bar = ProgressBar::new_spinner();
    let show = |stage: Stage| bar.set_message(stage.as_str());
    let mut trial = std::pin::pin!(probing::run(plan, tasks, &show));
    // Moved from here, so that no thread of the library's has to.
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let tried = loop {
        tokio::select! {
            tried = &mut trial => break tried,
            _ = ticks.tick() => bar.tick(),
        }
    };
    bar.finish_and_clear();
    tried
}

fn tell(found: &Report, json: bool) -> Exit {
    let printed = match json {
        true => print(format_args!("{}\n", report::Json(found))),
        false => print(format_args!("{}", report::Text(found))),
    };
    match (printed, found.judgement.is_safe()) {
        (Exit::Fine, false) => Exit::Negative,
        (exit, _) => exit,
    }
}

fn fail(failure: &Failure) -> Exit {
    complain(format_args!("error: {failure}"));
    let words = last_lines(failure.last_words());
    if !words.is_empty() {
        complain(format_args!("the last of its standard error:\n{words}"));
    }
    if matches!(failure, Failure::NoSuchTool { .. }) { Exit::Usage } else { Exit::Upstream }
}

/// The last lines of a text, indented, too long ones cut.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines.iter().skip(lines.len().saturating_sub(WORDS_LINES));
    let cut = |line: &&str| format!("  {}", line.chars().take(LINE_CHARS).collect::<String>());
    last.map(cut).collect::<Vec<_>>().join("\n")
}
