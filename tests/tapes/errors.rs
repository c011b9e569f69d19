//! What is said when something is wrong with tapes, rules and plans: every error of the library that is about these, word for word.

use std::io;

use shadowcat::faults::PlanError;
use shadowcat::protocol::scan::ScanError;
use shadowcat::server::StartError;
use shadowcat::tape::format::{FrameError, HeaderError};
use shadowcat::tape::pointer::NotAPointer;
use shadowcat::tape::redact::{Redactor, RuleError, Rules};
use shadowcat::tape::verify::{Contradiction, Failure};
use shadowcat::tape::{NoAnswer, TapeError};
use shadowcat::through::ThroughError;

use super::*;

/// Those of one kind, and what makes the compiler ask for more when there is one more.
fn told<E: std::fmt::Display>(all: &[E], known: impl Fn(&E)) -> String {
    all.iter().inspect(|error| known(error)).map(|error| format!("{error}\n")).collect()
}

fn io_error() -> io::Error {
    io::Error::other("the disk is on fire")
}

#[test]
fn every_error_is_told_in_words() {
    let headers = told(&[HeaderError::NotATape, HeaderError::Newer(9), HeaderError::Broken], |error| match error {
        HeaderError::NotATape | HeaderError::Newer(_) | HeaderError::Broken => {}
    });
    let frames = [
        FrameError::Utf8(7),
        FrameError::Scan(ScanError::Syntax(7)),
        FrameError::Scan(ScanError::TooDeep(7)),
        FrameError::Scan(ScanError::DuplicateKey(7)),
        FrameError::Scan(ScanError::TooManyMembers(7)),
        FrameError::TooLong,
        FrameError::Missing("seq"),
        FrameError::Malformed("at"),
        FrameError::TwoBodies,
    ];
    let frames = told(&frames, |error| match error {
        FrameError::Scan(error) => match error {
            ScanError::Syntax(_)
            | ScanError::TooDeep(_)
            | ScanError::DuplicateKey(_)
            | ScanError::TooManyMembers(_) => {}
        },
        FrameError::Utf8(_)
        | FrameError::TooLong
        | FrameError::Missing(_)
        | FrameError::Malformed(_)
        | FrameError::TwoBodies => {}
    });
    let tapes = [
        TapeError::Io(io_error()),
        TapeError::Empty,
        TapeError::Header(HeaderError::NotATape),
        TapeError::Frame { line: 3, error: FrameError::TooLong },
        TapeError::LineTooLong { line: 3, bytes_max: 100 },
        TapeError::TooLarge(100),
    ];
    let tapes = told(&tapes, |error| match error {
        TapeError::Io(_)
        | TapeError::Empty
        | TapeError::Header(_)
        | TapeError::Frame { .. }
        | TapeError::LineTooLong { .. }
        | TapeError::TooLarge(_) => {}
    });
    let pattern = Redactor::new(Rules { patterns: vec!["(".into()], ..Rules::default() }).unwrap_err();
    let rules = told(&[RuleError::Pointer(NotAPointer("a.b".into())), pattern], |error| match error {
        RuleError::Pointer(NotAPointer(_)) | RuleError::Pattern { .. } => {}
    });
    let answers = [NoAnswer::NotARequest("why".into()), NoAnswer::Unknown("what".into()), NoAnswer::Unanswered(3)];
    let answers = told(&answers, |error| match error {
        NoAnswer::NotARequest(_) | NoAnswer::Unknown(_) | NoAnswer::Unanswered(_) => {}
    });
    let failures = told(&[Failure::NothingToDo, Failure::Server("what it said".into())], |error| match error {
        Failure::NothingToDo | Failure::Server(_) => {}
    });
    let contradiction = told(&[Contradiction { seq: 3 }], |_| {});
    let plans = [
        PlanError::Json(serde_json::from_str::<Value>("{").unwrap_err()),
        PlanError::Number { index: 2, name: "nth", expected: "at least 1" },
        PlanError::NotOfTheServer { index: 2, name: "respond" },
        PlanError::Header { index: 2, name: "a b".into() },
    ];
    let plans = told(&plans, |error| match error {
        PlanError::Json(_) | PlanError::Number { .. } | PlanError::NotOfTheServer { .. } | PlanError::Header { .. } => {
        }
    });
    let through = [
        ThroughError::OneEdge,
        ThroughError::Client,
        ThroughError::Io(io_error()),
        ThroughError::Tape(TapeError::Empty),
    ];
    let through = told(&through, |error| match error {
        ThroughError::OneEdge
        | ThroughError::Client
        | ThroughError::Start(StartError { .. })
        | ThroughError::Io(_)
        | ThroughError::Tape(_) => {}
    });
    insta::assert_snapshot!(
        [headers, frames, tapes, rules, answers, failures, contradiction, plans, through].join("\n")
    );
}

/// What the program says where nothing of the library is wrong.
#[test]
fn every_command_says_what_it_cannot_do() {
    let (folder, nothing) = (Folder::new(), Folder::new());
    let none = folder.path("none.tape.jsonl");
    let elsewhere = folder.path("no/such/folder.jsonl");
    let echo = echo().display().to_string();
    let runs = [
        shadowcat(&["tape", "show", &none]),
        shadowcat(&["tape", "list", &none]),
        shadowcat(&["tape", "redact", &echo, "--redact-pattern", "("]),
        shadowcat(&["tape", "redact", &echo, "--output", &elsewhere]),
    ];
    insta::assert_snapshot!(runs.map(|run| folder.told(&run)).join("\n"));
    let listed = shadowcat(&["tape", "list", nothing.path("").trim_end_matches('/')]);
    assert!(listed.code == Some(0) && listed.stderr.ends_with(": no tapes\n"), "{listed:?}");
}
