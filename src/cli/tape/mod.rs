//! `tape`: what it prints, and how it ends.

use std::io::{BufRead, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::{Exit, complain, print};
use crate::tape::check::{Check, Report, Weight};
use crate::tape::compare::Rules;
use crate::tape::diff::{Change, Drift, Surface};
use crate::tape::pointer::Pointers;
use crate::tape::redact::{self, Header, Redactor};
use crate::tape::series::{self, Recording, Series, Unreadable};
use crate::tape::show::{Filter, Timeline, printable, title};
use crate::tape::{Body, Ending, Frame, Reader, Tape, TapeError, export, write_private};

mod args;

pub use args::{CheckArgs, DiffArgs, ExportArgs, ListArgs, RedactArgs, ShowArgs, TapeCommand};

/// Most recordings that are named where only one is wanted.
const FIRSTS_MAX: usize = 20;
/// How often a tape that is being written is looked at again.
const FOLLOW_EVERY: Duration = Duration::from_millis(100);

/// Does what the arguments say.
pub(super) fn tape(command: &TapeCommand) -> ExitCode {
    let done = match command {
        TapeCommand::Show(args) => show(args),
        TapeCommand::List(args) => list(args),
        TapeCommand::Check(args) => check(args),
        TapeCommand::Diff(args) => diff(args),
        TapeCommand::Redact(args) => redact(args),
        TapeCommand::Export(args) => export(args),
    };
    done.unwrap_or_else(|exit| exit).into()
}

/// Says why a tape cannot be used.
pub(super) fn unreadable(path: &Path, error: &TapeError) -> Exit {
    complain(format_args!("error: {}: {error}", path.display()));
    Exit::Tape
}

/// What the arguments name, in words.
pub(super) fn named(paths: &[PathBuf]) -> String {
    match paths {
        [one] => one.display().to_string(),
        [first, rest @ ..] => format!("{} and {} more", first.display(), rest.len()),
        [] => String::new(),
    }
}

/// The tapes of a folder, by name. Whatever else has such a name is none: reading it might never end.
fn tapes_of(folder: &Path) -> Result<Vec<PathBuf>, Exit> {
    let entries = std::fs::read_dir(folder).map_err(|error| {
        complain(format_args!("error: {}: {error}", folder.display()));
        Exit::Tape
    })?;
    let is_file = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|found| found.is_file());
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut paths: Vec<PathBuf> = paths.filter(|path| is_tape(path) && is_file(path)).collect();
    paths.sort();
    Ok(paths)
}

/// The recordings that files and folders hold, and what of them is no tape.
fn recordings(paths: &[PathBuf]) -> Result<(Vec<Series>, Vec<Unreadable>), Exit> {
    if let [one] = paths
        && !one.is_dir()
    {
        return Ok((vec![vec![one.clone()]], vec![]));
    }
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let tapes = tapes_of(path)?;
        if tapes.is_empty() {
            complain(format_args!("error: {}: no tapes", path.display()));
            return Err(Exit::Tape);
        }
        files.extend(tapes);
    }
    Ok(series::gather(files))
}

/// The one recording that files and folders hold.
fn recording(paths: &[PathBuf]) -> Result<Recording, Exit> {
    let (mut all, unreadable) = recordings(paths)?;
    if let Some((path, error)) = unreadable.first() {
        return Err(self::unreadable(path, error));
    }
    if all.len() > 1 {
        let first = |series: &Series| series.first().map(|path| format!("\n  {}", path.display()));
        let firsts: String = all.iter().take(FIRSTS_MAX).filter_map(first).collect();
        complain(format_args!("error: one recording is wanted, and these are {}, which begin with{firsts}", all.len()));
        return Err(Exit::Usage);
    }
    let series = all.pop().unwrap_or_default();
    let first = series.first().cloned().unwrap_or_default();
    Recording::open(series).map_err(|error| self::unreadable(&first, &error))
}

/// Reads a whole tape, of one file or several. What of it is broken or missing is told and left out.
pub(super) fn read(paths: &[PathBuf]) -> Result<Tape, Exit> {
    let name = named(paths);
    let mut recording = recording(paths)?;
    let tape = Tape::read_all(&mut recording).map_err(|error| {
        complain(format_args!("error: {name}: {error}"));
        Exit::Tape
    })?;
    for what in recording.missing() {
        complain(format_args!("warning: {name}: {}", printable(what)));
    }
    for fault in &tape.faults {
        complain(format_args!("warning: {name}: {fault}"));
    }
    if let Ending::Torn { bytes } = tape.ending {
        complain(format_args!("warning: {name}: cut short: its last {bytes} bytes are no whole line and left out"));
    }
    Ok(tape)
}

fn show(args: &ShowArgs) -> Result<Exit, Exit> {
    let filter = Filter { method: args.method.clone(), subject: args.tool.clone(), id: args.id.clone() };
    let mut timeline = Timeline::new(filter);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if args.follow {
        return follow(args, &mut timeline, &mut out);
    }
    let mut recording = recording(&args.tapes)?;
    // Whoever reads it may go away at any time, and is not owed the rest.
    let gone = |_| Exit::Fine;
    writeln!(out, "{}", title(recording.header())).map_err(gone)?;
    for frame in recording.by_ref() {
        shown(&mut out, &mut timeline, frame, &args.tapes)?;
    }
    out.write_all(timeline.summary(&recording.ending()).as_bytes()).map_err(gone)?;
    out.flush().map_err(gone)?;
    for what in recording.missing() {
        complain(format_args!("warning: {}: {}", named(&args.tapes), printable(what)));
    }
    Ok(Exit::Fine)
}

/// Shows a frame, or why it is none.
fn shown(
    out: &mut impl std::io::Write,
    timeline: &mut Timeline,
    frame: Result<Frame, TapeError>,
    paths: &[PathBuf],
) -> Result<(), Exit> {
    let written = match frame {
        Ok(frame) => out.write_all(timeline.see(&frame).as_bytes()),
        Err(error) if error.is_of_one_line() => writeln!(out, "        ✘ {error}"),
        Err(error) => {
            complain(format_args!("error: {}: {error}", named(paths)));
            return Err(Exit::Tape);
        }
    };
    written.map_err(|_| Exit::Fine)
}

/// Shows what is written to a tape, and to those that it goes on in.
fn follow(args: &ShowArgs, timeline: &mut Timeline, out: &mut impl std::io::Write) -> Result<Exit, Exit> {
    let [path] = args.tapes.as_slice() else {
        complain(format_args!("error: --follow: one tape is followed: name that which is being written"));
        return Err(Exit::Usage);
    };
    let gone = |_| Exit::Fine;
    let mut path = path.clone();
    let mut reader = Reader::open(&path).map_err(|error| unreadable(&path, &error))?;
    loop {
        writeln!(out, "{}", title(reader.header())).map_err(gone)?;
        let next = loop {
            match next_of_growing(&mut reader) {
                Some(frame) => shown(out, timeline, frame, &args.tapes)?,
                None => match reader.ending() {
                    Ending::Proper { next, .. } => break next,
                    _ => {
                        out.flush().map_err(gone)?;
                        std::thread::sleep(FOLLOW_EVERY);
                    }
                },
            }
        };
        // A tape may say anything: it goes on beside itself, or nowhere.
        let next = next.filter(|next| Path::new(next).file_name().is_some_and(|name| *name == **next));
        let Some(next) = next else { break };
        out.flush().map_err(gone)?;
        path.set_file_name(next);
        reader = loop {
            match Reader::open(&path) {
                Ok(reader) => break reader,
                // It is there when there is something to write to it.
                Err(TapeError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(TapeError::Empty) => {}
                Err(error) => return Err(unreadable(&path, &error)),
            }
            std::thread::sleep(FOLLOW_EVERY);
        };
    }
    out.write_all(timeline.summary(&reader.ending()).as_bytes()).map_err(gone)?;
    out.flush().map_err(gone)?;
    Ok(Exit::Fine)
}

fn next_of_growing<R: BufRead>(reader: &mut Reader<R>) -> Option<Result<Frame, TapeError>> {
    reader.next_written().transpose()
}

fn list(args: &ListArgs) -> Result<Exit, Exit> {
    let mut listed = Vec::new();
    for path in tapes_of(&args.folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match look(&path) {
            Ok((header, count, ending, duration)) => {
                let state = match ending {
                    Ending::Proper { .. } => "whole",
                    Ending::CutShort => "open",
                    Ending::Torn { .. } => "torn",
                };
                let started = header.started;
                listed.push(json!({
                    "name": name, "started": started, "upstream": header.upstream, "frames": count.frames,
                    "requests": count.requests, "errors": count.errors, "lost": count.lost,
                    "milliseconds": duration / 1000, "state": state,
                }));
            }
            Err(error) => listed.push(json!({ "name": name, "error": error.to_string() })),
        }
    }
    if args.json {
        return Ok(print(format_args!("{:#}\n", json!({ "tapes": listed }))));
    }
    let mut text = String::new();
    for tape in &listed {
        let word = |name: &str| match &tape[name] {
            serde_json::Value::String(text) => printable(text),
            serde_json::Value::Null => "-".to_owned(),
            other => other.to_string(),
        };
        text += &match tape.get("error") {
            Some(_) => format!("{}  ✘ {}\n", word("name"), word("error")),
            None => format!(
                "{}  {}  {}: {} frames, {} requests, {} errors{}, {} ms, {}\n",
                word("name"),
                word("started"),
                word("upstream"),
                word("frames"),
                word("requests"),
                word("errors"),
                if tape["lost"] == 0 { String::new() } else { format!(", {} missing", word("lost")) },
                word("milliseconds"),
                word("state"),
            ),
        };
    }
    if listed.is_empty() {
        complain(format_args!("{}: no tapes", args.folder.display()));
    }
    Ok(print(format_args!("{text}")))
}

/// Whether a file has the name of a tape.
fn is_tape(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".tape.jsonl") || name.ends_with(".tape.jsonl.zst")
}

type Look = (crate::tape::Header, crate::tape::show::Count, Ending, u64);

fn look(path: &Path) -> Result<Look, TapeError> {
    let mut reader = Reader::open(path)?;
    let (mut timeline, mut last) = (Timeline::default(), 0);
    for frame in reader.by_ref() {
        match frame {
            Ok(frame) => {
                last = frame.at;
                timeline.see(&frame);
            }
            Err(error) if error.is_of_one_line() => {}
            Err(error) => return Err(error),
        }
    }
    Ok((reader.header().clone(), timeline.counted(), reader.ending(), last))
}

fn check(args: &CheckArgs) -> Result<Exit, Exit> {
    let (all, unreadable) = recordings(&args.tapes)?;
    let mut worst = Exit::Fine;
    for (path, error) in unreadable {
        worst = self::unreadable(&path, &error);
    }
    for series in all {
        let name = named(&series);
        let report = match report(series) {
            Ok(report) => report,
            Err(error) => {
                complain(format_args!("error: {name}: {error}"));
                worst = Exit::Tape;
                continue;
            }
        };
        let notes = report.findings.iter().any(|finding| finding.weight == Weight::Note);
        if worst == Exit::Fine && (report.faults > 0 || (args.strict && notes)) {
            worst = Exit::Negative;
        }
        match args.json {
            true => print(format_args!("{}\n", checked_json(&name, &report))),
            false => print(format_args!("{}", checked(&name, &report))),
        };
    }
    Ok(worst)
}

fn report(series: Series) -> Result<Report, TapeError> {
    let mut recording = Recording::open(series)?;
    let mut check = Check::default();
    for frame in recording.by_ref() {
        match frame {
            Ok(frame) => check.see(&frame),
            Err(error) if error.is_of_one_line() => check.broken(&error),
            Err(error) => return Err(error),
        }
    }
    Ok(check.finish(&recording.ending()))
}

fn checked(name: &str, report: &Report) -> String {
    let mut text = format!("{name}\n");
    for finding in &report.findings {
        text += &format!("  {finding}\n");
    }
    if report.more > 0 {
        text += &format!("  and {} more\n", report.more);
    }
    let Report { frames, messages, checked, faults, .. } = report;
    text + &format!("  {frames} frames, {messages} messages, {checked} held against the schema, {faults} faults\n")
}

fn checked_json(name: &str, report: &Report) -> serde_json::Value {
    let findings = report.findings.iter().map(|finding| {
        let weight = if finding.weight == Weight::Fault { "fault" } else { "note" };
        json!({ "frame": finding.seq, "weight": weight, "what": finding.what })
    });
    json!({
        "tape": name, "frames": report.frames, "messages": report.messages,
        "checked": report.checked, "faults": report.faults, "findings": findings.collect::<Vec<_>>(), "more": report.more,
    })
}

fn diff(args: &DiffArgs) -> Result<Exit, Exit> {
    let ignore = Pointers::parse(args.ignore.iter().map(String::as_str)).map_err(|error| {
        complain(format_args!("error: --ignore: {error}"));
        Exit::Usage
    })?;
    let surface = |path: &PathBuf| read(std::slice::from_ref(path)).map(|tape| Surface::of(&tape.calls(tape.edge())));
    let (old, new) = (surface(&args.old)?, surface(&args.new)?);
    for offer in old.unknown(&new) {
        complain(format_args!("note: not compared: only one of the tapes tells of any {}", offer.as_str()));
    }
    let drift = old.drift(&new, &Rules { ignore, ..Rules::default() });
    let printed = match args.json {
        true => print(format_args!("{:#}\n", json!({ "drift": drift.iter().map(drift_json).collect::<Vec<_>>() }))),
        false => print(format_args!("{}", drift.iter().map(|one| format!("{one}\n")).collect::<String>())),
    };
    match printed {
        Exit::Fine if !drift.is_empty() => Ok(Exit::Negative),
        exit => Ok(exit),
    }
}

fn drift_json(drift: &Drift) -> serde_json::Value {
    let (change, differences) = match &drift.change {
        Change::New => ("new", vec![]),
        Change::Gone => ("gone", vec![]),
        Change::Changed(differences) => ("changed", differences.iter().map(super::verify::difference_json).collect()),
    };
    json!({ "kind": drift.offer.as_str(), "name": drift.name, "change": change, "differences": differences })
}

fn redact(args: &RedactArgs) -> Result<Exit, Exit> {
    let rules = redact::Rules {
        defaults: !args.no_redact_defaults,
        keys: args.keys.clone(),
        pointers: args.pointers.clone(),
        patterns: args.patterns.clone(),
        headers: vec![],
    };
    let redactor = Redactor::new(rules).map_err(|error| {
        complain(format_args!("error: {error}"));
        Exit::Usage
    })?;
    let mut tape = Tape::open(&args.tape).map_err(|error| unreadable(&args.tape, &error))?;
    if !tape.faults.is_empty() && args.output.is_none() {
        // What cannot be read would be gone, or stay with its secrets.
        complain(format_args!(
            "error: {}: {} lines cannot be read, and would be lost: name another file with --output",
            args.tape.display(),
            tape.faults.len()
        ));
        return Err(Exit::Tape);
    }
    let places: u64 = tape.frames.iter_mut().map(|frame| redact_frame(frame, &redactor)).sum();
    for rule in redactor.summary() {
        if !tape.header.redaction.contains(&rule) {
            tape.header.redaction.push(rule);
        }
    }
    save(&tape, args.output.as_deref().unwrap_or(&args.tape))?;
    complain(format_args!("{places} places redacted"));
    Ok(Exit::Fine)
}

/// Takes the secrets out of one frame; how many there were.
pub(super) fn redact_frame(frame: &mut Frame, redactor: &Redactor) -> u64 {
    let mut count = 0;
    if let Some(http) = &mut frame.http {
        Arc::make_mut(http).headers.retain(|name, value| match redactor.header(name, value) {
            Header::Dropped => {
                count += 1;
                false
            }
            Header::Kept(left) => {
                count += u64::from(left != *value);
                *value = left;
                true
            }
            // It is one already: nothing else is recorded.
            Header::Pseudonym => true,
        });
    }
    if let Some(body) = &frame.body {
        let left = redactor.message(body.bytes());
        count += left.places.len() as u64 + left.more;
        if left.bytes != *body.bytes() {
            frame.body = Some(Body::of(left.bytes));
            frame.redacted.extend(left.places);
            frame.redacted_more = frame.redacted_more.saturating_add(left.more);
        }
    }
    count
}

/// Writes a tape.
pub(super) fn save(tape: &Tape, path: &Path) -> Result<(), Exit> {
    tape.save(path).map_err(|error| {
        complain(format_args!("error: {}: cannot be written: {error}", path.display()));
        Exit::Internal
    })
}

fn export(args: &ExportArgs) -> Result<Exit, Exit> {
    let tape = read(std::slice::from_ref(&args.tape))?;
    let text = match args.har {
        true => format!("{:#}\n", export::har(&tape)).into_bytes(),
        false => export::json(&tape),
    };
    match &args.output {
        None => Ok(print(format_args!("{}", String::from_utf8_lossy(&text)))),
        Some(path) => write_private(path, &text).map(|()| Exit::Fine).map_err(|error| {
            complain(format_args!("error: {}: cannot be written: {error}", path.display()));
            Exit::Internal
        }),
    }
}
