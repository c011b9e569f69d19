//! `shadowcat bench` as its users run it: in front of real servers, judged by its exit code and what it writes.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use assert_cmd::Command;
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_shadowcat");

/// A short run with these options in front of the fake server, which plays this script. Exit code, both outputs.
fn bench(options: &[&str], script: &Value) -> (i32, String, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    serde_json::to_writer(&file, script).unwrap();
    let script = file.path().display().to_string();
    let mut command = Command::new(PROGRAM);
    command.args(["bench", "--clients", "3", "--duration", "400ms", "--warm-up", "20ms"]).args(options);
    let output = command.args(["--", PROGRAM, "fake", "stdio", "--script", &script]).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_server_is_measured_in_either_era_and_its_answers_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("run.json");
    for era in ["legacy", "modern"] {
        let (code, out, err) = bench(&["--era", era, "--json", json.to_str().unwrap()], &json!({}));
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        let report = read(&json);
        assert_eq!(report["setup"]["era"], era);
        assert_eq!(report["setup"]["call"], "echo, 200 bytes");
        assert!(
            report["answers"].as_u64().unwrap() > 0 && report["latency_us"]["p95"].as_f64().unwrap() > 0.0,
            "{report}"
        );
        assert!(out.contains(" a second") && out.contains("p99.9"), "{out}");
    }
}

#[test]
fn as_many_requests_are_made_as_were_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("run.json");
    let options = ["--clients", "3", "--requests", "47", "--warm-up", "0s", "--json", json.to_str().unwrap()];
    let command = ["--", PROGRAM, "fake", "stdio"];
    let output = Command::new(PROGRAM).arg("bench").args(options).args(command).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(read(&json)["answers"], 47);

    let both = Command::new(PROGRAM).args(["bench", "--requests", "47", "--rate", "5"]).args(command).output().unwrap();
    assert_eq!(both.status.code(), Some(2));
}

#[test]
fn a_tool_of_ones_own_is_called_and_its_progress_counted() {
    let options = ["--tool", "progress", "--args", r#"{"steps":4}"#, "--progress", "4", "--rate", "40"];
    let (code, out, err) = bench(&options, &json!({}));
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("40 requests a second") && out.contains(" notifications\n"), "{out}");
}

#[test]
fn an_answer_that_is_wrong_fails_the_run() {
    let faults = json!({ "faults": [{ "on": { "tool": "echo", "nth": 9 }, "do": { "exit": {} } }] });
    let (code, out, _) = bench(&[], &faults);
    assert_eq!(code, 7, "{out}");
    assert!(out.contains("× not the payload that was sent, or no result") && out.contains("-31003"), "{out}");
}

#[test]
fn a_server_that_cannot_do_it_at_all_is_another_matter() {
    let (code, _, err) = bench(&["--progress", "2"], &json!({}));
    assert_eq!(code, 5, "{err}");
    assert!(err.contains("0 progress notifications instead of 2"), "{err}");

    let nobody = Command::new(PROGRAM).args(["bench", "http://127.0.0.1:1/mcp"]).output().unwrap();
    assert_eq!(nobody.status.code(), Some(5));
    let other = Command::new(PROGRAM).args(["bench", "ftp://127.0.0.1/"]).output().unwrap();
    assert_eq!(other.status.code(), Some(2));
}

#[test]
fn a_run_that_is_slower_than_its_budget_breaks_it() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("before.json");
    let json = json.to_str().unwrap();
    let (code, ..) = bench(&["--json", json], &json!({}));
    assert_eq!(code, 0);

    let (code, out, _) = bench(&["--compare", json, "--budget", "1000%"], &json!({}));
    assert!(code == 0 && out.contains("within the budget"), "{out}");

    let mut before = read(Path::new(json));
    for rate in before["rates"].as_array_mut().unwrap() {
        *rate = json!(rate.as_f64().unwrap() * 100.0);
    }
    std::fs::write(json, before.to_string()).unwrap();
    let (code, out, _) = bench(&["--compare", json, "--budget", "50%"], &json!({}));
    assert!(code == 7 && out.contains("BUDGET BROKEN"), "{code}: {out}");

    let (code, _, err) = bench(&["--compare", json, "--payload", "300"], &json!({}));
    assert!(code == 2 && err.contains("the run before was another one"), "{err}");
}
