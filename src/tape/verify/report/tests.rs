//! What is told of a server that was verified.

use std::time::Duration;

use super::super::super::json::Json;
use super::*;

fn outcome(seq: u64, method: &str, subject: Option<&str>, verdict: Verdict) -> Outcome {
    Outcome {
        seq,
        answer_seq: Some(seq + 1),
        method: method.into(),
        subject: subject.map(Into::into),
        verdict,
        took: Duration::from_millis(12),
        answer: None,
    }
}

fn verified() -> Verified {
    let number = |text: &str| Json::parse(text.as_bytes()).ok();
    let differences = vec![
        Difference { path: "/result/n".into(), expected: number("1"), actual: number("1.5"), kinds_only: false },
        Difference { path: "/result/<x>".into(), expected: None, actual: number("\"a&b\\u0007\""), kinds_only: false },
    ];
    Verified {
        outcomes: vec![
            outcome(1, "initialize", None, Verdict::Same),
            outcome(5, "tools/call", Some("ech\u{1b}o"), Verdict::Different(differences)),
            outcome(7, "tools/call", Some("slow"), Verdict::NoAnswer("no answer in 30s".into())),
            outcome(9, "tools/call", Some("login"), Verdict::Skipped("its params were redacted")),
        ],
        questions: vec!["the tape has no request `elicitation/create`".into()],
    }
}

#[test]
fn people_are_told_what_is_different() {
    insta::assert_snapshot!(text(&verified()));
}

#[test]
fn programs_are_told_everything() {
    insta::assert_snapshot!(format!("{:#}", json("a.tape.jsonl", &verified())));
}

#[test]
fn test_runners_are_told_in_junit() {
    insta::assert_snapshot!(junit("a.tape.jsonl", &verified()));
}
