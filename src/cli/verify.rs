//! `verify`: its arguments, what it prints, how it ends.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use tokio::time::Instant;

use super::args::{ChildArgs, HeaderArgs, LogArgs, request_timeout, transport};
use super::run::{Ended, with_runtime};
use super::tape::{named, read, redact_frame, save};
use super::{Exit, complain, print, refuse, start_log, variable};
use crate::config::{Faults, Loader};
use crate::rt::Tasks;
use crate::settings::{HttpTransport, UpstreamSettings};
use crate::tape::compare::Rules;
use crate::tape::pointer::{NotAPointer, Pointers};
use crate::tape::redact::{self, Redactor};
use crate::tape::verify::{self, Options, Verified, report};
use crate::tape::{Ending, Tape};

pub(super) use crate::tape::verify::report::difference_json;

/// How long the server may take to end.
const LAST_STOPS: Duration = Duration::from_secs(15);

/// `verify`: ask a server what a tape's client asked, and compare the answers.
#[derive(Debug, Args)]
// Its logs would stand between its words.
#[command(mut_arg("log", |arg| arg.default_value("error")))]
pub struct VerifyArgs {
    /// The tape: a file, several of one recording, or a folder with nothing else
    #[arg(value_name = "TAPE", required = true)]
    pub tapes: Vec<PathBuf>,

    /// The server: one that speaks HTTP
    #[arg(
        long,
        env = "SHADOWCAT_AGAINST",
        value_name = "URL",
        hide_env_values = true,
        required_unless_present_any = ["command", "through"],
        conflicts_with_all = ["command", "through"]
    )]
    pub against: Option<String>,

    /// Instead of a server, verify the proxy itself: what the client said is said to it again, what the server said is given back,
    /// and what comes of that must be what the tape says, which has to be one of both sides
    #[arg(
        long,
        env = "SHADOWCAT_THROUGH",
        value_parser = BoolishValueParser::new(),
        conflicts_with_all = ["command", "update", "transport", "headers", "env", "pass_env", "cwd"]
    )]
    pub through: bool,

    /// How it speaks [default: auto]
    #[arg(long, env = "SHADOWCAT_TRANSPORT", value_parser = transport())]
    pub transport: Option<HttpTransport>,

    /// Headers for it.
    #[command(flatten)]
    pub headers: HeaderArgs,

    /// What COMMAND gets.
    #[command(flatten)]
    pub child: ChildArgs,

    /// What of an answer does not count, as a JSON pointer such as `/result/content/*/text`; `*` stands for any member, `**` for any
    /// number of them (repeatable, or separated by commas)
    #[arg(long, env = "SHADOWCAT_IGNORE", value_name = "POINTER", value_delimiter = ',')]
    pub ignore: Vec<String>,

    /// Look also at what is new with every run: `_meta` of results, cursors, names of tasks, the server's version
    #[arg(long, env = "SHADOWCAT_NO_DEFAULT_IGNORE", value_parser = BoolishValueParser::new())]
    pub no_default_ignore: bool,

    /// An array whose order does not matter, as a JSON pointer (repeatable, or separated by commas)
    #[arg(long, env = "SHADOWCAT_UNORDERED", value_name = "POINTER", value_delimiter = ',')]
    pub unordered: Vec<String>,

    /// How far apart two numbers may be, as a share of the larger one, such as 0.001
    #[arg(long, env = "SHADOWCAT_TOLERANCE", value_name = "SHARE", default_value = "0", value_parser = share)]
    pub tolerance: f64,

    /// Compare names and types only, not values
    #[arg(long, env = "SHADOWCAT_SCHEMA_ONLY", value_parser = BoolishValueParser::new())]
    pub schema_only: bool,

    /// Compare answers only, and not what the server tells before them or by itself: progress, log messages, changes of lists
    #[arg(long, env = "SHADOWCAT_ONLY_ANSWERS", value_parser = BoolishValueParser::new(), conflicts_with = "through")]
    pub only_answers: bool,

    /// How long an answer may take
    #[arg(long, env = "SHADOWCAT_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = request_timeout)]
    pub timeout: Duration,

    /// How to print what was found
    #[arg(long, env = "SHADOWCAT_FORMAT", value_enum, default_value_t = Format::Text)]
    pub format: Format,

    /// Write what the server says now to the tape in place of what differs; on a tape of both sides of the proxy, on both
    #[arg(long, env = "SHADOWCAT_UPDATE", value_parser = BoolishValueParser::new())]
    pub update: bool,

    /// What is logged.
    #[command(flatten)]
    pub log: LogArgs,

    /// Or the server: a program that speaks MCP on standard input and output
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// How something is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Lines for people
    Text,
    /// One JSON object
    Json,
    /// JUnit XML
    Junit,
}

impl VerifyArgs {
    /// The server to ask. `variable` looks up environment variables.
    ///
    /// # Errors
    ///
    /// All faults of the arguments.
    pub fn load(&self, variable: &dyn Fn(&str) -> Option<String>) -> Result<UpstreamSettings, Faults> {
        let mut loader = Loader::default();
        let mut server = self.child.server("verify", &self.command, &mut loader);
        if let Some(url) = &self.against {
            self.headers.overlay(&mut server, "--against", url, self.transport, &mut loader);
        }
        loader.upstream(&server, variable)
    }

    fn options(&self) -> Result<Options, NotAPointer> {
        let parse = |texts: &[String]| Pointers::parse(texts.iter().map(String::as_str));
        // The proxy says what it said, or it does not.
        let usual = match (self.through, self.no_default_ignore) {
            (true, _) => Pointers::default(),
            (false, true) => verify::names()?,
            (false, false) => verify::ignored()?,
        };
        let rules = Rules {
            ignore: usual.and(parse(&self.ignore)?),
            unordered: parse(&self.unordered)?,
            tolerance: self.tolerance,
            shape_only: self.schema_only,
        };
        Ok(Options { rules, patience: self.timeout, only_answers: self.only_answers })
    }
}

/// Verifies, and prints what was found.
pub(super) fn verify(args: &VerifyArgs) -> ExitCode {
    let options = match args.options() {
        Ok(options) => options,
        Err(error) => {
            complain(format_args!("error: {error}"));
            return Exit::Usage.into();
        }
    };
    let path = match args.tapes.as_slice() {
        [one] if !one.is_dir() => one.clone(),
        _ if args.update => {
            complain(format_args!("error: --update: it changes one file: name that"));
            return Exit::Usage.into();
        }
        _ => PathBuf::new(),
    };
    if args.through {
        return super::through::through(args, options);
    }
    let server = match args.load(&variable) {
        Ok(server) => server,
        Err(faults) => return refuse(&faults),
    };
    if let Err(code) = start_log(&args.log) {
        return code;
    }
    let mut tape = match read(&args.tapes) {
        Ok(tape) => tape,
        Err(exit) => return exit.into(),
    };
    with_runtime(async move |signals| {
        let tasks = Tasks::new();
        let verified = tokio::select! {
            verified = verify::run(&tape, &server, &options, &tasks) => verified,
            signal = signals.obey(&tasks) => return Ended::Signal(signal),
        };
        // Nothing of the server is to be left when the verdict is read.
        tasks.close(Instant::now() + LAST_STOPS).await;
        Ended::Exit(match verified {
            Ok(verified) => tell(args, &mut tape, &path, &verified),
            Err(failure) => {
                complain(format_args!("error: {failure}"));
                if failure == verify::Failure::NothingToDo { Exit::Tape } else { Exit::Upstream }
            }
        })
    })
}

fn tell(args: &VerifyArgs, tape: &mut Tape, path: &Path, verified: &Verified) -> Exit {
    let name = named(&args.tapes);
    let printed = match args.format {
        Format::Text => print(format_args!("{}", report::text(verified))),
        Format::Json => print(format_args!("{:#}\n", report::json(&name, verified))),
        Format::Junit => print(format_args!("{}", report::junit(&name, verified))),
    };
    if args.update && !verified.is_same() {
        return update(tape, path, verified);
    }
    match printed {
        Exit::Fine if !verified.is_same() => Exit::Negative,
        exit => exit,
    }
}

/// Writes the new truth to the tape. What is not an answer cannot be written, and stays a difference.
fn update(tape: &mut Tape, path: &Path, verified: &Verified) -> Exit {
    if !tape.faults.is_empty() || matches!(tape.ending, Ending::Torn { .. }) {
        complain(format_args!("error: {}: not updated: what is broken of it would be lost", path.display()));
        return Exit::Tape;
    }
    let redactor = match Redactor::new(redact::Rules::default()) {
        Ok(redactor) => redactor,
        Err(error) => {
            complain(format_args!("error: {error}"));
            return Exit::Internal;
        }
    };
    let updated = verified.update(tape, |frame| {
        redact_frame(frame, &redactor);
    });
    let updated = match updated {
        Ok(updated) => updated,
        Err(error) => {
            complain(format_args!("error: {}: not updated: {error}", path.display()));
            return Exit::Negative;
        }
    };
    if let Err(exit) = save(tape, path) {
        return exit;
    }
    let (changed, name) = (updated.changed, path.display());
    complain(format_args!("{name}: {changed} messages updated"));
    if updated.left > 0 {
        complain(format_args!(
            "{name}: {} differences stay: there is no message to change: record it anew",
            updated.left
        ));
    }
    let unanswered = |outcome: &verify::Outcome| matches!(outcome.verdict, verify::Verdict::NoAnswer(_));
    let rest = updated.left + verified.questions.len() + verified.outcomes.iter().filter(|one| unanswered(one)).count();
    if rest > 0 { Exit::Negative } else { Exit::Fine }
}

/// Reads a number from 0 to 1.
fn share(text: &str) -> Result<f64, &'static str> {
    text.parse().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or("a number from 0 to 1 is expected")
}
