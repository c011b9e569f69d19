//! C-TAPE-1, C-TAPE-2: tapes are shown, listed, checked, compared, cleaned and written in other forms.

use std::io::Write as _;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::common::InTime as _;
use super::*;

fn tools(names: &[&str]) -> Value {
    let tools = names.iter().map(|name| json!({ "name": name, "inputSchema": { "type": "object" } }));
    json!({ "tools": tools.collect::<Vec<_>>() })
}

#[test]
fn a_recorded_tape_is_shown_checked_and_listed() {
    let echo = echo().display().to_string();
    let folder = Folder::new();
    let copy = folder.file("echo.tape.jsonl", std::fs::read(echo).unwrap());
    folder.file("notes.txt", "no tape");
    folder.file("torn.tape.jsonl", "{\"shadowcat_tape\":1,\"started\":\"2026-11-23T14:00:00.000Z\"}\n{\"seq\":1,");
    folder.file("not.tape.jsonl", "hello");
    let runs = [
        shadowcat(&["tape", "show", &copy]),
        shadowcat(&["tape", "show", &copy, "--tool", "echo"]),
        shadowcat(&["tape", "check", &copy, &folder.path("torn.tape.jsonl")]),
        shadowcat(&["tape", "list", &folder.path("")]),
    ];
    insta::assert_snapshot!(runs.map(|run| folder.told(&run)).join("\n"));
    let listed = shadowcat(&["tape", "list", &folder.path(""), "--json"]);
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(listed["tapes"].as_array().unwrap().len(), 3);
    let checked = shadowcat(&["tape", "check", "--json", &copy]);
    assert_eq!(serde_json::from_str::<Value>(&checked.stdout).unwrap()["faults"], 0);
}

#[test]
fn notes_are_faults_if_it_is_said_so() {
    let folder = Folder::new();
    let tape = folder.tape("a.tape.jsonl", &[call(1, "echo", json!({}))]);
    assert_eq!(shadowcat(&["tape", "check", &tape]).code, Some(0));
    assert_eq!(shadowcat(&["tape", "check", "--strict", &tape]).code, Some(7));
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "a test of the program while it runs")]
async fn a_tape_is_followed_until_its_end() {
    let folder = Folder::new();
    let whole = std::fs::read(echo()).unwrap();
    let half = whole.len() / 2;
    let path = folder.file("a.tape.jsonl", &whole[..half]);
    let mut child = tokio::process::Command::new(PROGRAM)
        .args(["tape", "show", "--follow", &path])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while !lines.next_line().ok().await.unwrap().contains("#5") {}
    std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(&whole[half..]).unwrap();
    while !lines.next_line().ok().await.unwrap().contains("end of the tape") {}
    assert!(child.wait().ok().await.success());
}

#[test]
fn drift_is_told_as_text_and_as_json() {
    let folder = Folder::new();
    let old = folder.tape("old.tape.jsonl", &[ask(1, "tools/list", json!({})), answer(1, tools(&["a", "b"]))]);
    let new = folder.tape(
        "new.tape.jsonl",
        &[
            ask(1, "tools/list", json!({})),
            answer(1, tools(&["b", "c"])),
            ask(2, "prompts/list", json!({})),
            answer(2, json!({ "prompts": [] })),
        ],
    );
    let runs = [
        shadowcat(&["tape", "diff", &old, &new]),
        shadowcat(&["tape", "diff", "--json", &old, &new]),
        shadowcat(&["tape", "diff", &old, &old]),
        shadowcat(&["tape", "diff", &old, &new, "--ignore", "x"]),
        shadowcat(&["tape", "diff", &old, &folder.path("missing")]),
    ];
    insta::assert_snapshot!(runs.map(|run| folder.told(&run)).join("\n"));
}

#[test]
fn secrets_are_taken_out_of_a_tape_and_nothing_else() {
    let folder = Folder::new();
    let dialogue = [
        call(1, "login", json!({ "user": "ada", "password": "hunter2", "ssn": "078-05-1120", "n": 1 })),
        answer(1, text("logged in with AKIAIOSFODNN7EXAMPLE")),
        call(2, "echo", json!({ "text": "nothing" })),
    ];
    let tape = folder.tape("a.tape.jsonl", &dialogue);
    let before = std::fs::read_to_string(&tape).unwrap();
    let clean = folder.path("clean.tape.jsonl.zst");
    let run = shadowcat(&["tape", "redact", &tape, "--redact-key", "ssn", "--output", &clean]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), "3 places redacted\n"));
    assert_eq!(std::fs::read_to_string(&tape).unwrap(), before);

    assert_eq!(shadowcat(&["tape", "redact", &tape, "--redact-key", "ssn"]).code, Some(0));
    let after = std::fs::read_to_string(&tape).unwrap();
    for secret in ["hunter2", "078-05-1120", "AKIA"] {
        assert!(before.contains(secret) && !after.contains(secret), "{secret}");
    }
    assert_eq!(before.lines().nth(3), after.lines().nth(3));
    let (clean, tape) = (Tape::open(clean).unwrap(), Tape::open(&tape).unwrap());
    assert_eq!((&clean.frames, &clean.header), (&tape.frames, &tape.header));
    let followed = shadowcat(&["tape", "show", "--follow", &folder.path("clean.tape.jsonl.zst")]);
    assert_eq!(folder.told(&followed), "exit 2\nerror: clean.tape.jsonl.zst: a compressed tape cannot be followed\n");
    assert_eq!(tape.frames[0].redacted, ["/params/arguments/password", "/params/arguments/ssn"]);
    assert_eq!(tape.header.redaction, ["defaults", "keys: 1"]);
}

#[test]
fn what_cannot_be_redacted_is_left_alone() {
    let folder = Folder::new();
    let mut text = std::fs::read(echo()).unwrap();
    text.extend_from_slice(b"nonsense\n");
    let broken = folder.file("broken.tape.jsonl", &text);
    let runs = [
        shadowcat(&["tape", "redact", &broken]),
        shadowcat(&["tape", "redact", &broken, "--redact-pointer", "x"]),
        shadowcat(&["tape", "redact", &broken, "--output", "/no/such/folder/x"]),
    ];
    insta::assert_snapshot!(runs.map(|run| folder.told(&run)).join("\n"));
    assert_eq!(std::fs::read(&broken).unwrap(), text);
}

#[test]
fn a_tape_is_exported_as_json_and_as_an_archive() {
    let echo = echo().display().to_string();
    let json: Value = serde_json::from_str(&shadowcat(&["tape", "export", "--json", &echo]).stdout).unwrap();
    assert_eq!((json["frames"].as_array().unwrap().len(), &json["whole"]), (13, &json!(true)));

    let folder = Folder::new();
    let file = folder.path("echo.har");
    assert_eq!(shadowcat(&["tape", "export", "--har", &echo, "--output", &file]).code, Some(0));
    let har: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let entries = har["log"]["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 5);
    let echoed = &entries[3];
    assert_eq!(
        echoed["request"]["postData"]["text"],
        r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"echo","arguments":{"text":"hi"}}}"#
    );
    assert_eq!(
        echoed["response"]["content"]["text"],
        r#"{"jsonrpc":"2.0","id":2,"result":{"content":[{"text":"hi","type":"text"}]}}"#
    );
    assert_eq!(
        (&echoed["response"]["status"], &echoed["startedDateTime"]),
        (&json!(200), &json!("2026-11-23T14:58:34.451Z"))
    );
    assert_eq!(echoed["time"], 3.67);
    assert_eq!(shadowcat(&["tape", "export", &echo]).code, Some(2));
}
