//! C-TAPE-5: a server is asked what was asked on a tape, and its answers are compared.

use serde_json::json;
use shadowcat::tape::Tape;
use shadowcat::testing::{MockSse, Script, Served};

use super::common::{PROGRAM, fake, legacy, modern, script_file};
use super::*;

/// Verifies the fake server with this script.
fn verify(tape: &str, script: &Script, options: &[&str]) -> Run {
    let file = script_file(script);
    let server = fake(file.path());
    let server: Vec<&str> = server.iter().map(String::as_str).collect();
    shadowcat(&[&["verify", tape], options, &["--", PROGRAM], &server].concat())
}

fn initialize(capabilities: Value) -> (char, Value) {
    let client = json!({ "name": "test", "version": "1" });
    ask(0, "initialize", json!({ "protocolVersion": "2025-11-25", "capabilities": capabilities, "clientInfo": client }))
}

fn initialized() -> (char, Value) {
    ('>', json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }))
}

fn is_text(tape: &str, answer: &str) -> bool {
    Tape::open(tape)
        .unwrap()
        .frames
        .iter()
        .any(|frame| frame.body.as_ref().is_some_and(|body| String::from_utf8_lossy(body.bytes()).contains(answer)))
}

#[test]
fn a_server_that_answers_as_recorded_is_found_to() {
    let run = verify(&echo().display().to_string(), &Script::default(), &[]);
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(0), "4 requests: 4 answered as recorded, 0 otherwise, 0 not at all, 0 not compared\n"),
        "{}",
        run.stderr
    );
}

/// A server that is called otherwise, and has lost its tools but one.
fn changed() -> Script {
    Script { name: "other".into(), tools: Some(vec!["payload".into()]), ..Script::default() }
}

#[test]
fn a_server_that_has_changed_is_told_of_in_every_form() {
    let echo = echo().display().to_string();
    let folder = Folder::new();
    let copy = folder.file("echo.tape.jsonl", std::fs::read(&echo).unwrap());
    insta::assert_snapshot!("changed_text", folder.told(&verify(&copy, &changed(), &[])));
    let json = verify(&copy, &changed(), &["--format", "json"]);
    let report: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((json.code, &report["same"]), (Some(7), &json!(false)));
    let verdicts: Vec<&str> =
        report["requests"].as_array().unwrap().iter().map(|one| one["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["different", "different", "different", "same"]);
    let junit = verify(&copy, &changed(), &["--format", "junit"]);
    assert_eq!(junit.code, Some(7));
    assert!(junit.stdout.contains(r#"tests="4" failures="3" skipped="0""#), "{}", junit.stdout);
}

#[test]
fn what_does_not_count_is_no_difference() {
    let folder = Folder::new();
    let numbers = |numbers: Value| json!({ "content": [{ "type": "text", "text": numbers.to_string() }] });
    let tape = folder.tape(
        "a.tape.jsonl",
        &[
            initialize(json!({})),
            answer(0, json!({})),
            initialized(),
            call(1, "echo", json!({ "text": "[1,2]" })),
            answer(1, numbers(json!([2, 1]))),
        ],
    );
    let code = |options: &[&str]| verify(&tape, &legacy(), options).code;
    let handshake =
        ["--ignore", "/result/capabilities,/result/instructions,/result/serverInfo,/result/protocolVersion"];
    assert_eq!(code(&handshake), Some(7));
    assert_eq!(code(&[&handshake[..], &["--ignore", "/result/content/*/text"]].concat()), Some(0));
    assert_eq!(code(&[&handshake[..], &["--schema-only"]].concat()), Some(0));
}

#[test]
fn questions_of_the_server_are_answered_as_on_the_tape() {
    let folder = Folder::new();
    let question = json!({ "message": "Sure?", "requestedSchema": { "type": "object", "properties": { "name": { "type": "string" } } } });
    let dialogue = |question: (char, Value)| {
        [
            initialize(json!({ "elicitation": {} })),
            answer(0, json!({})),
            initialized(),
            call(1, "ask", json!({ "message": "Sure?" })),
            question,
            (
                '>',
                json!({ "jsonrpc": "2.0", "id": 41, "result": { "action": "accept", "content": { "name": "Ada" } } }),
            ),
            answer(1, text("answer: accept {\"name\":\"Ada\"}")),
        ]
    };
    let asked =
        |params: Value| ('<', json!({ "jsonrpc": "2.0", "id": 41, "method": "elicitation/create", "params": params }));
    let ignore = ["--ignore", "/result/capabilities,/result/instructions,/result/serverInfo,/result/protocolVersion"];
    // What the fake asks exactly is in the complaint about a question that is not on the tape.
    let wrong = folder.tape("wrong.tape.jsonl", &dialogue(asked(json!({ "message": "Other?" }))));
    let run = verify(&wrong, &legacy(), &ignore);
    assert_eq!(run.code, Some(7));
    assert!(run.stdout.contains("the server asked what cannot be answered: the tape has no request `elicitation/create` with these params; the nearest is frame 5"), "{}", run.stdout);

    let right = folder.tape("right.tape.jsonl", &dialogue(asked(fake_question(&question))));
    let run = verify(&right, &legacy(), &ignore);
    assert_eq!(run.code, Some(0), "{}", run.stdout);
}

/// The question as the fake server asks it.
fn fake_question(like: &Value) -> Value {
    let mut question = like.clone();
    question["requestedSchema"] = json!({
        "type": "object", "properties": { "answer": { "type": "string" } },
    });
    question
}

#[test]
fn an_update_makes_the_new_answers_the_truth() {
    let folder = Folder::new();
    let tape = folder.file("echo.tape.jsonl", std::fs::read(echo()).unwrap());
    let before = Tape::open(&tape).unwrap();
    let run = verify(&tape, &changed(), &["--update"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(folder.told(&run).lines().last(), Some("echo.tape.jsonl: 3 answers updated"));
    assert!(is_text(&tape, "Unknown tool: echo") && is_text(&tape, "\"name\":\"other\""));
    // All else is as it was, ids included.
    let after = Tape::open(&tape).unwrap();
    assert_eq!((&after.header, after.frames.len()), (&before.header, before.frames.len()));
    let changed: Vec<u64> =
        before.frames.iter().zip(&after.frames).filter(|(one, other)| one != other).map(|(one, _)| one.seq).collect();
    assert_eq!(changed, [2, 6, 8]);
    let id = |frame: &Frame| frame.body.as_ref().unwrap().message().unwrap().id();
    assert!(changed.iter().all(|seq| id(&before.frames[*seq as usize - 1]) == id(&after.frames[*seq as usize - 1])));
    assert_eq!(verify(&tape, &self::changed(), &[]).code, Some(0));
    #[cfg(unix)]
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&tape).unwrap().permissions()) & 0o777,
        0o600
    );
    assert_eq!(std::fs::read_dir(folder.0.path()).unwrap().count(), 1);
}

#[test]
fn answers_that_do_not_come_are_told() {
    let folder = Folder::new();
    let tape = folder.tape(
        "a.tape.jsonl",
        &[
            initialize(json!({})),
            initialized(),
            call(1, "sleep", json!({ "ms": 60_000 })),
            answer(1, text("late")),
            call(2, "exit", json!({})),
            answer(2, text("?")),
            call(3, "echo", json!({ "text": "after" })),
            answer(3, text("after")),
        ],
    );
    let run = verify(&tape, &legacy(), &["--timeout", "1s", "--format", "json"]);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    let told = |name: &str| -> Vec<String> {
        let requests = report["requests"].as_array().unwrap();
        requests.iter().map(|one| one[name].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(
        (run.code, told("verdict")),
        (Some(7), ["skipped", "no answer", "no answer", "no answer"].map(Into::into).into())
    );
    let why = told("why");
    assert_eq!(why[1], "no answer in 1s");
    assert!(why[2..].iter().all(|why| why.starts_with("the server has exited")), "{why:?}");
}

#[test]
fn what_was_taken_back_and_what_was_redacted_is_not_compared() {
    let folder = Folder::new();
    let cancel = ('>', json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 1 } }));
    let mut tape = tape(&[
        initialize(json!({})),
        initialized(),
        call(1, "sleep", json!({ "ms": 60_000 })),
        cancel,
        call(2, "echo", json!({ "text": "[redacted]" })),
        answer(2, text("hush")),
        call(3, "echo", json!({ "text": "secret" })),
        answer(3, text("[redacted]")),
    ]);
    tape.frames[4].redacted = vec!["/params/arguments/text".into()];
    tape.frames[7].redacted = vec!["/result/content/0/text".into()];
    let path = folder.path("a.tape.jsonl");
    tape.save(&path).unwrap();
    insta::assert_snapshot!(folder.told(&verify(&path, &legacy(), &[])));
}

#[tokio::test]
async fn servers_over_http_are_verified_in_the_era_of_the_tape() {
    let folder = Folder::new();
    let envelope = |mut params: Value| {
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {},
            "progressToken": "p",
        });
        params
    };
    let complete = |mut result: Value| {
        result["resultType"] = json!("complete");
        result
    };
    let modern_tape = folder.tape(
        "modern.tape.jsonl",
        &[
            ask(1, "tools/call", envelope(json!({ "name": "echo", "arguments": { "text": "hi" } }))),
            ask(1, "tools/call", envelope(json!({ "name": "progress", "arguments": { "steps": 2 } }))),
            answer(1, complete(text("hi"))),
            answer(1, complete(text("did 2 steps"))),
        ],
    );
    let cases = [(modern_tape, modern()), (echo().display().to_string(), legacy())];
    for (tape, script) in cases {
        let era = script.era;
        let server = MockSse::start(script).await.unwrap();
        let url = server.url();
        let run = tokio::task::spawn_blocking(move || shadowcat(&["verify", &tape, "--against", &url])).await.unwrap();
        assert_eq!(run.code, Some(0), "{}: {run:?}", if era == Served::Modern { "modern" } else { "legacy" });
    }
}

#[test]
fn what_cannot_be_verified_is_told() {
    let folder = Folder::new();
    let quiet = folder.tape("quiet.tape.jsonl", &[]);
    let newer = folder.file("newer.tape.jsonl", "{\"shadowcat_tape\":2}\n");
    let echo = echo().display().to_string();
    let cases: [&[&str]; 8] = [
        &["verify", &folder.path("missing.tape.jsonl"), "--", "true"],
        &["verify", &newer, "--", "true"],
        &["verify", &quiet, "--", "true"],
        &["verify", &echo, "--", "/no/such/program"],
        &["verify", &echo],
        &["verify", &echo, "--against", "ftp://x", "--ignore", "/a"],
        &["verify", &echo, "--ignore", "a.b", "--", "true"],
        &["verify", &echo, "--tolerance", "2", "--", "true"],
    ];
    let told: Vec<String> =
        cases.iter().map(|args| folder.told(&shadowcat(args)).replace(&echo, "echo.tape.jsonl")).collect();
    insta::assert_snapshot!(told.join("\n"));
    // One that ends at once.
    let run = shadowcat(&["verify", &echo, "--log", "off", "--", "true"]);
    assert!(run.code == Some(5) && run.stderr.starts_with("error: the server has exited ("), "{run:?}");
}
