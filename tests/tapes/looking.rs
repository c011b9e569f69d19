//! C-TAPE-1, C-TAPE-2: tapes are shown, listed, checked, compared, cleaned and written in other forms.

use std::io::Write as _;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};

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

/// `tape show --follow` of a file.
struct Followed {
    child: tokio::process::Child,
    lines: Lines<BufReader<tokio::process::ChildStdout>>,
}

impl Followed {
    fn start(path: &str) -> Followed {
        #[expect(clippy::disallowed_methods, reason = "a test of the program while it runs")]
        let mut child = tokio::process::Command::new(PROGRAM)
            .args(["tape", "show", "--follow", path])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Followed { child, lines }
    }

    async fn until(&mut self, text: &str) {
        while !self.lines.next_line().ok().await.unwrap().contains(text) {}
    }

    async fn end(mut self) {
        self.until("end of the tape").await;
        assert!(self.child.wait().ok().await.success());
    }
}

fn append(path: &str, bytes: &[u8]) {
    std::fs::OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
}

#[tokio::test]
async fn a_tape_is_followed_until_its_end() {
    let folder = Folder::new();
    let whole = std::fs::read(echo()).unwrap();
    let half = whole.len() / 2;
    let path = folder.file("a.tape.jsonl", &whole[..half]);
    let mut followed = Followed::start(&path);
    followed.until("#5").await;
    append(&path, &whole[half..]);
    followed.end().await;
}

/// Compressed, it grows by pieces; and half a piece is nothing yet.
#[tokio::test]
async fn a_compressed_tape_is_followed_likewise() {
    let folder = Folder::new();
    let whole = std::fs::read(echo()).unwrap();
    let (one, other) = whole.split_at(whole.len() / 2);
    let [one, other] = [one, other].map(|part| zstd::encode_all(part, 3).unwrap());
    let path = folder.file("a.tape.jsonl.zst", &one);
    let mut followed = Followed::start(&path);
    followed.until("#5").await;
    append(&path, &other[..other.len() / 2]);
    append(&path, &other[other.len() / 2..]);
    followed.end().await;
}

/// Three files of one recording, the second of which begins two seconds after the first.
fn rotated(folder: &Folder) -> [String; 3] {
    let parts = [
        vec![call(1, "echo", json!({ "text": "a" }))],
        vec![answer(1, text("a")), call(2, "echo", json!({ "text": "b" }))],
        vec![answer(2, text("b"))],
    ];
    let name = |number: usize| format!("part-{number}.tape.jsonl");
    [0, 1, 2].map(|number| {
        let mut part = tape(&parts[number]);
        part.header.started = format!("2026-11-23T14:00:0{}.000Z", 2 * number);
        part.header.continues = number.checked_sub(1).map(name);
        let end = part.frames.last_mut().unwrap();
        if number < 2 {
            end.kind = Kind::End { reason: "rotated".into(), next: Some(name(number + 1)) };
        }
        let path = folder.path(&name(number));
        part.save(&path).unwrap();
        path
    })
}

#[test]
fn files_of_one_recording_are_one_tape() {
    let folder = Folder::new();
    let [one, two, three] = rotated(&folder);
    let whole = folder.path("");
    let shown = shadowcat(&["tape", "show", &three, &one, &two]);
    assert_eq!(shadowcat(&["tape", "show", &whole]).stdout, shown.stdout);
    let strict = |paths: &[&str]| shadowcat(&[&["tape", "check", "--strict"], paths].concat());
    assert_eq!(strict(&[&whole]).code, Some(0), "each answer has its request");
    assert_eq!(strict(&[&one]).code, Some(7), "which is not so with one of them alone");
    // A server that says what is on all of them.
    let verified = shadowcat(&["verify", &one, &two, &three, "--", PROGRAM, "replay", &whole]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    let without = [
        shadowcat(&["tape", "show", &one, &three]),
        strict(&[&one, &three]),
        shadowcat(&["tape", "check", &two, &three]),
        shadowcat(&["verify", &one, &three, "--update", "--", "true"]),
        shadowcat(&["replay", &whole, "--mode", "new-episodes", "--", "true"]),
        shadowcat(&["tape", "show", "--follow", &one, &two]),
    ];
    folder.tape("other.tape.jsonl", &[call(1, "echo", json!({}))]);
    let several = shadowcat(&["tape", "show", &whole]);
    let all = std::iter::once(shown).chain(without).chain([several]);
    let told: Vec<String> = all.map(|run| folder.told(&run)).collect();
    insta::assert_snapshot!(told.join("\n").replace(whole.trim_end_matches('/'), "DIR"));
}

/// Whatever is in a folder that is looked at: nothing of it stops the program, or leads it elsewhere.
#[test]
fn hostile_tapes_are_told_and_no_more() {
    const HEADER: &str =
        "{\"shadowcat_tape\":1,\"started\":\"2026-11-23T14:00:00.000Z\",\"upstream\":\"\\u001b[2J\"}\n";
    let folder = Folder::new();
    let with = |name: &str, frames: &[u8]| folder.file(name, [HEADER.as_bytes(), frames].concat());
    let deep = format!(
        "{{\"seq\":1,\"at\":1,\"kind\":\"message\",\"message\":{}1{}}}\n",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let tapes = [
        with("deep.tape.jsonl", deep.as_bytes()),
        with("utf8.tape.jsonl", b"{\"seq\":1,\"at\":1,\"kind\":\"\xff\"}\n"),
        with("numbers.tape.jsonl", b"{\"seq\":18446744073709551615,\"at\":18446744073709551615,\"kind\":\"gap\",\"lost\":18446744073709551615}\n{\"seq\":-1,\"at\":0,\"kind\":\"end\"}\n"),
        with("escape.tape.jsonl", b"{\"seq\":1,\"at\":1,\"kind\":\"end\",\"reason\":\"\\u001b[2J\",\"next\":\"../../../etc/passwd\"}\n"),
        folder.file("no-json.tape.jsonl", "{".repeat(100_000)),
        folder.file("other-version.tape.jsonl", "{\"shadowcat_tape\":-1}\n"),
        folder.file("not-zstd.tape.jsonl.zst", [&[0x28, 0xB5, 0x2F, 0xFD], &[0xFF; 100][..]].concat()),
        folder.file("empty.tape.jsonl", ""),
    ];
    #[cfg(unix)]
    {
        // Read, the one would never end, and the other is not there.
        std::os::unix::fs::symlink("/dev/zero", folder.path("endless.tape.jsonl")).unwrap();
        std::os::unix::fs::symlink("nowhere", folder.path("link.tape.jsonl")).unwrap();
    }
    let mut runs = vec![shadowcat(&["tape", "list", &folder.path("")])];
    for tape in &tapes {
        runs.push(shadowcat(&["tape", "show", tape]));
        runs.push(shadowcat(&["tape", "check", tape]));
    }
    runs.push(shadowcat(&["tape", "show", "--follow", &tapes[3]]));
    let told: Vec<String> = runs.iter().map(|run| folder.told(run)).collect();
    assert!(!told.iter().any(|text| text.contains('\u{1b}')), "nothing plays tricks on a terminal");
    insta::assert_snapshot!(told.join("\n"));
}

/// What a link leads to is what is changed: its secrets would be there otherwise, where nobody looks for them any more.
#[cfg(unix)]
#[test]
fn a_tape_behind_a_link_is_redacted_where_it_is() {
    let folder = Folder::new();
    let tape = folder.tape("a.tape.jsonl", &[call(1, "login", json!({ "password": "hunter2" }))]);
    let link = folder.path("link.tape.jsonl");
    std::os::unix::fs::symlink("a.tape.jsonl", &link).unwrap();
    assert_eq!(shadowcat(&["tape", "redact", &link]).code, Some(0));
    assert!(!std::fs::read_to_string(&tape).unwrap().contains("hunter2"));
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
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
