//! What is told of a server that was verified.

use std::time::Duration;

use super::super::super::json::Json;
use super::*;
use crate::protocol::message::Message;

fn outcome(seq: u64, method: &str, subject: Option<&str>, verdict: Verdict) -> Outcome {
    Outcome {
        seq,
        answer_seq: Some(seq + 1),
        method: method.into(),
        subject: subject.map(Into::into),
        verdict,
        took: Duration::from_millis(12),
        answer: None,
        told: Vec::new(),
    }
}

fn verified() -> Verified {
    let number = |text: &str| Json::parse(text.as_bytes()).ok();
    let differences = vec![
        Difference { path: "/result/n".into(), expected: number("1"), actual: number("1.5"), kinds_only: false },
        Difference { path: "/result/<x>".into(), expected: None, actual: number("\"a&b\\u0007\""), kinds_only: false },
    ];
    let progress = |seq: u64| (seq, "notifications/progress".to_owned());
    let ((seq, method), (moved, again), (missing, gone)) = (progress(12), progress(13), progress(14));
    let now = Message::parse(r#"{"jsonrpc":"2.0","method":"m"}"#.into(), 8).unwrap();
    let told = vec![
        Told::Different { seq, method, differences: differences[..1].to_vec(), now },
        Told::Moved { seq: moved, method: again },
        Told::Missing { seq: missing, method: gone },
        Told::Unexpected { method: "notifications/m".into(), said: "{\"a\":\"\u{1b}\"}".into() },
    ];
    Verified {
        outcomes: vec![
            outcome(1, "initialize", None, Verdict::Same),
            outcome(5, "tools/call", Some("ech\u{1b}o"), Verdict::Different(differences)),
            outcome(7, "tools/call", Some("slow"), Verdict::NoAnswer("no answer in 30s".into())),
            outcome(9, "tools/call", Some("login"), Verdict::Skipped("its params were redacted")),
            Outcome { told: told.clone(), ..outcome(11, "tools/call", Some("progress"), Verdict::Same) },
        ],
        told: told[2..3].to_vec(),
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
