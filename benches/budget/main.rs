//! The performance gate: is shadowcat as fast as the legacy baseline? `cargo bench --bench budget`, `-- --quick` for a minute of it,
//! `-- --recording` for what recording costs, `-- --crossing` for what a translation does.
//!
//! Contract: C-PERF. All that is compared runs at the same time, each proxy as a process of its own, in front of the same server,
//! called by the same clients. They are measured in turns (A B, B A, A B …), each turn a fraction of a second: first closed-loop,
//! for the rate, then open-loop at three tenths of the rate that the slower one reached, for the latency. What is judged is the ratio of
//! neighbouring turns, of that half of them during which the machine did least else, by its bootstrapped 95 % interval: a budget is kept where all of the interval is inside, broken where all of it is
//! outside, and open else; then more turns are taken, up to a limit. Open at the end is not a pass.
//!
//! Exit codes: 0 all kept; 7 a budget broken, or an answer wrong; 10 undecided.
#![allow(unreachable_pub, missing_docs, reason = "a program, not a library")]
#![allow(clippy::panic, clippy::unwrap_used, clippy::disallowed_methods, reason = "a benchmark fails by panicking")]

mod controls;
mod crossing;
mod flat;
mod gate;
#[path = "../legacy/mod.rs"]
mod legacy;
mod memory;
mod opening;
mod paths;
mod recording;
#[path = "../support/mod.rs"]
mod support;
mod table;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use gate::{Effort, Outcome};
use shadowcat::load::stats::Verdict;

/// How long all of it may take: what is undecided then stays so.
const FULL: Duration = Duration::from_secs(330);
const QUICK: Duration = Duration::from_secs(45);
/// What can be asked for alone.
const PARTS: [&str; 6] = ["--controls", "--crossing", "--recording", "--opening", "--memory", "--flat"];
const USAGE: &str =
    "cargo bench --bench budget -- [--quick | --controls | --crossing | --recording | --opening | --memory | --flat]
    [--only TEXT] [--against PROGRAM] [--json FILE] [--page FILE]";

fn main() -> ExitCode {
    support::process::play_role();
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let value = |name: &str| arguments.iter().skip_while(|argument| *argument != name).nth(1).cloned();
    // `cargo bench NAME` asks every bench for what is called so.
    let asked = arguments.first().filter(|first| !first.starts_with('-'));
    if asked.is_some_and(|name| !"budget".contains(name.as_str())) {
        return ExitCode::SUCCESS;
    }
    let is_known = |(at, argument): (usize, &String)| {
        let takes = |name: &str| ["--only", "--against", "--json", "--page"].contains(&name);
        let is_value = at > 0 && takes(&arguments[at - 1]);
        is_value
            || takes(argument)
            || argument == "--quick"
            || PARTS.contains(&argument.as_str())
            || asked == Some(argument)
    };
    if !arguments.iter().enumerate().all(is_known) {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    let quick = has("--quick");
    let started = Instant::now();
    let deadline = started + if quick { QUICK } else { FULL };
    let (only, against) = (value("--only"), value("--against"));
    let part = PARTS.into_iter().any(&has);
    let all = !part && !quick && only.is_none() && against.is_none();
    let effort = match (quick, all) {
        (true, _) => Effort::quick(deadline),
        (false, true) => Effort::full(deadline),
        (false, false) => Effort::patient(deadline),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut outcomes: Vec<Outcome> = Vec::new();
    runtime.block_on(async {
        if quick || has("--controls") {
            outcomes.extend(controls::run(&effort).await);
        }
        if !part {
            outcomes.extend(paths::run(&effort, quick, only.as_deref(), against.as_deref()).await);
        }
        if all || has("--crossing") {
            outcomes.extend(crossing::run(&effort).await);
        }
        if all || has("--recording") {
            outcomes.extend(recording::run(&effort).await);
        }
        if all || has("--opening") || only.as_ref().is_some_and(|only| opening::NAME.contains(only.as_str())) {
            outcomes.push(opening::run(&effort).await);
        }
        // It takes minutes, most of which is the million requests.
        if has("--flat") {
            outcomes.extend(flat::run(&effort).await);
        }
        if all || has("--memory") {
            outcomes.extend(memory::run().await);
        }
    });
    println!("\n{}", table::Machine);
    println!("{}", table::Table(&outcomes));
    let file = value("--json").unwrap_or_else(|| format!("{}/budget.json", env!("CARGO_TARGET_TMPDIR")));
    std::fs::write(&file, format!("{:#}\n", table::json(&outcomes))).unwrap();
    if let Some(file) = value("--page") {
        std::fs::write(file, format!("{}\n\n{}", table::Machine, table::Page(&outcomes))).unwrap();
    }
    println!("{} in {:.0} s; {file}", table::Summary(&outcomes), started.elapsed().as_secs_f64());
    match outcomes.iter().map(Outcome::verdict).max_by_key(|verdict| severity(*verdict)) {
        Some(Verdict::Pass) => ExitCode::SUCCESS,
        Some(Verdict::Inconclusive) => ExitCode::from(10),
        // Nothing measured is nothing shown.
        Some(Verdict::Fail) | None => ExitCode::from(7),
    }
}

fn severity(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Pass => 0,
        Verdict::Inconclusive => 1,
        Verdict::Fail => 2,
    }
}
