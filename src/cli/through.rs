//! `verify --through`: what it prints, and how it ends.

use std::process::ExitCode;

use serde_json::json;

use super::run::{Ended, with_runtime};
use super::tape::{named, read};
use super::verify::{Format, VerifyArgs};
use super::{Exit, complain, print, start_log};
use crate::rt::Tasks;
use crate::tape::verify::{self, report};
use crate::through::{self, Options, Outcome, ThroughError};

/// Plays a tape through the proxy, and prints what is not as it was.
pub(super) fn through(args: &VerifyArgs, options: verify::Options) -> ExitCode {
    if let Err(code) = start_log(&args.log) {
        return code;
    }
    let tape = match read(&args.tapes) {
        Ok(tape) => tape,
        Err(exit) => return exit.into(),
    };
    let options = Options { patience: options.patience, rules: options.rules };
    with_runtime(async move |signals| {
        let tasks = Tasks::new();
        let outcome = tokio::select! {
            outcome = through::through(&tape, &options, |_| {}) => outcome,
            signal = signals.obey(&tasks) => return Ended::Signal(signal),
        };
        Ended::Exit(match outcome {
            Ok(outcome) => tell(args, &outcome),
            Err(error) => {
                complain(format_args!("error: {}: {error}", named(&args.tapes)));
                match error {
                    ThroughError::OneEdge | ThroughError::Client => Exit::Tape,
                    ThroughError::Start(_) => Exit::Listen,
                    ThroughError::Io(_) | ThroughError::Tape(_) => Exit::Internal,
                }
            }
        })
    })
}

fn tell(args: &VerifyArgs, outcome: &Outcome) -> Exit {
    let Outcome { made, findings } = outcome;
    let name = named(&args.tapes);
    let printed = match args.format {
        Format::Text if findings.is_empty() => {
            print(format_args!("{made} requests of the client, all as on the tape\n"))
        }
        Format::Text => print(format_args!(
            "{}\n{made} requests of the client, {} differences\n",
            findings.join("\n"),
            findings.len()
        )),
        Format::Json => print(format_args!(
            "{:#}\n",
            json!({ "tape": name, "same": findings.is_empty(), "requests": made, "differences": findings })
        )),
        Format::Junit => print(format_args!("{}", report::junit_of(&name, "through the proxy", findings))),
    };
    match printed {
        Exit::Fine if !findings.is_empty() => Exit::Negative,
        exit => exit,
    }
}
