//! `shadowcat replay`: a tape as a server.

use std::process::ExitCode;
use std::sync::Arc;

use super::args::ReplayArgs;
use super::run::{Ended, listen, pipe, with_runtime, workers_of_a_proxy};
use super::tape::read;
use super::{Exit, complain, start_log};
use crate::protocol::revision::Era;
use crate::replay::{Options, Replay, Timing};
use crate::settings::{EraChoice, Settings, Target, UpstreamSettings};
use crate::tape::pointer::Pointers;

/// Answers clients from a tape until told to stop, or until the client goes.
pub(super) fn replay(args: &ReplayArgs) -> ExitCode {
    if let Err(code) = start_log(&args.log) {
        return code;
    }
    let tape = match read(&args.tape) {
        Ok(tape) => tape,
        Err(exit) => return exit.into(),
    };
    let timing = Timing { factor: args.timing, cap: args.timing_cap };
    let ignore = args.ignore.iter().cloned().fold(Pointers::default(), Pointers::and);
    let options = Options { order: args.order, timing, ignore, edge: args.edge, ..Options::default() };
    let replay = Arc::new(Replay::new(&tape.header, &tape.frames, options));
    let name = tape.header.upstream.clone().unwrap_or_else(|| "tape".to_owned());
    drop(tape);
    if replay.lost() > 0 {
        complain(format_args!("{}: {} frames are missing", args.tape.display(), replay.lost()));
    }
    let mut upstream = UpstreamSettings::new(name, Target::Tape(Arc::clone(&replay)));
    upstream.era = match replay.era() {
        Era::Legacy => EraChoice::Legacy,
        Era::Modern => EraChoice::Modern,
    };
    let require_all = args.require_all;
    with_runtime(workers_of_a_proxy(), async move |signals| {
        let ended = match args.listen {
            Some(address) => {
                let settings =
                    Settings { listen: address, path: args.path.clone(), ..Settings::for_upstream(upstream) };
                listen(settings, signals).await
            }
            None => pipe(upstream, signals).await,
        };
        judge(ended, &replay, require_all)
    })
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
