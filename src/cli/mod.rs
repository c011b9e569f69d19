//! The command line: arguments, logging, exit code.

use std::ffi::OsString;
use std::fmt;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

mod args;
mod bench;
mod exit;
mod fake;
mod probe;
mod replay;
mod run;
mod serve;
mod tape;
#[cfg(test)]
mod tests;
mod through;
mod verify;

pub use args::{
    Admin, BenchArgs, Cli, Command, ConfigCommand, ConnectArgs, Fake, HeaderArgs, LogArgs, LogFormat, Mode, ProbeArgs,
    ReplayArgs, ServeArgs,
};
pub use exit::Exit;
pub use tape::{CheckArgs, DiffArgs, ExportArgs, ListArgs, RedactArgs, ShowArgs, TapeCommand};
pub use verify::{Format, VerifyArgs};

use crate::config::{FaultKind, Faults, Note, NoteKind, Place};

/// Runs the program: parses the arguments, does what they say, returns the exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(with_subcommand(std::env::args_os().collect())) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come as errors too, for standard output and with code 0. If nobody reads, so be it.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Fine.into() };
        }
    };
    match cli.command {
        Command::Serve(args) => serve(&args),
        Command::Connect(args) => connect(&args),
        Command::Probe(args) => probe::probe(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::Replay(args) => replay::replay(&args),
        Command::Verify(args) => verify::verify(&args),
        Command::Tape(command) => tape::tape(&command),
        Command::Fake(fake) => fake::run(fake),
        Command::Config(ConfigCommand::Schema) => print(format_args!("{:#}\n", crate::config::schema())).into(),
    }
}

/// `shadowcat -- COMMAND` is `shadowcat serve -- COMMAND`.
fn with_subcommand(mut args: Vec<OsString>) -> Vec<OsString> {
    if args.get(1).is_some_and(|arg| arg == "--") {
        args.insert(1, "serve".into());
    }
    args
}

fn serve(args: &ServeArgs) -> ExitCode {
    // The demo server is this program in another role.
    let own_program = match std::env::current_exe().map(|path| path.into_os_string().into_string()) {
        Ok(Ok(program)) => program,
        Ok(Err(_)) | Err(_) => "shadowcat".to_owned(),
    };
    let loaded = match args.load(&own_program, &variable) {
        Ok(loaded) => loaded,
        Err(faults) => return refuse(&faults),
    };
    if args.check {
        for note in &loaded.notes {
            complain(format_args!("note: {note}"));
        }
        return print(format_args!("The configuration is valid.\n{}", serve::Summary(&loaded.settings))).into();
    }
    if let Err(code) = start_log(&args.log) {
        return code;
    }
    loaded.notes.iter().for_each(log_note);
    run::serve(loaded.settings, args.workers)
}

fn connect(args: &ConnectArgs) -> ExitCode {
    let upstream = match args.load(&variable) {
        Ok(upstream) => upstream,
        Err(faults) => return refuse(&faults),
    };
    if let Err(code) = start_log(&args.log) {
        return code;
    }
    run::connect(upstream)
}

/// A variable of the environment. One that is not Unicode counts as unset, as what it means cannot be said.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn start_log(args: &LogArgs) -> Result<(), ExitCode> {
    crate::telemetry::init(&args.log, args.log_format == LogFormat::Json).map_err(|error| {
        complain(format_args!("error: --log: {error}"));
        Exit::Usage.into()
    })
}

fn log_note(note: &Note) {
    let (place, kind) = (&note.place, &note.kind);
    match kind {
        // Something was asked for that will not be.
        NoteKind::Unused(_) => tracing::warn!(%place, note = %kind, "Configuration note"),
        NoteKind::Disabled | NoteKind::Renamed(_) => {
            tracing::info!(%place, note = %kind, "Configuration note");
        }
    }
}

/// Reports faults, one per line with its place first, as editors and terminals like to link them.
fn refuse(faults: &Faults) -> ExitCode {
    match faults.iter().count() {
        1 => complain(format_args!("error: {faults}")),
        count => complain(format_args!("error: the configuration has {count} faults\n{faults}")),
    }
    let of = |fault: &crate::config::Fault| match (&fault.kind, &fault.place) {
        (FaultKind::Exposed { .. }, _) => Exit::Refused,
        (_, Place::File { .. }) => Exit::Config,
        (_, Place::Argument(_)) => Exit::Usage,
    };
    // A file's faults outweigh an argument's; that the address is unsafe is only the reason if it is the only one.
    let exits: Vec<Exit> = faults.iter().map(of).collect();
    let weighed = [Exit::Config, Exit::Usage, Exit::Refused];
    let exit = weighed.into_iter().find(|exit| exits.contains(exit));
    exit.unwrap_or(Exit::Internal).into()
}

/// Writes a result to standard output. A reader that has gone away is no fault of ours.
fn print(text: fmt::Arguments<'_>) -> Exit {
    match std::io::stdout().write_fmt(text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Exit::Internal,
        _ => Exit::Fine,
    }
}

/// Writes a line to standard error, if anybody is there to read it.
fn complain(text: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
