//! C-TAPE-5: a server is asked what was asked on a tape, and its answers are compared.

use serde_json::json;
use shadowcat::settings::{Record, RecordEdges};
use shadowcat::tape::Tape;
use shadowcat::testing::client::Modern;
use shadowcat::testing::{MockSse, Script, Served};

use super::common::{InTime as _, PROGRAM, Proxy, fake, legacy, modern, script_file};
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
    assert_eq!(folder.told(&run).lines().last(), Some("echo.tape.jsonl: 3 messages updated"));
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

fn tell(method: &str, params: Value) -> (char, Value) {
    ('<', json!({ "jsonrpc": "2.0", "method": format!("notifications/{method}"), "params": params }))
}

fn progress(token: &str, mut params: Value) -> (char, Value) {
    params["progressToken"] = json!(token);
    tell("progress", params)
}

/// A session in which the server says more than it is asked.
fn talkative(said: &[(char, Value)]) -> Vec<(char, Value)> {
    let capabilities = json!({ "tools": { "listChanged": true }, "logging": {} });
    let server = json!({ "name": "s", "version": "1" });
    let welcome = json!({ "protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": server });
    let call = json!({ "name": "work", "arguments": {}, "_meta": { "progressToken": "p" } });
    let before = [initialize(json!({})), answer(0, welcome), initialized(), ask(1, "tools/call", call)];
    [&before, said, &[answer(1, text("done"))]].concat()
}

fn step(number: u64) -> (char, Value) {
    progress("p", json!({ "progress": number, "message": format!("step {number}") }))
}

fn log(data: &str) -> (char, Value) {
    tell("message", json!({ "level": "info", "data": data }))
}

/// Verifies what replays `server` by what is on `tape`.
fn verify_replay(tape: &str, server: &str, options: &[&str]) -> Run {
    shadowcat(&[&["verify", tape, "--timeout", "8s"], options, &["--", PROGRAM, "replay", server]].concat())
}

#[test]
fn what_is_told_before_an_answer_is_compared_in_order() {
    let folder = Folder::new();
    let changed = || tell("tools/list_changed", json!({}));
    let whole = [step(1), log("half"), step(2), changed(), step(3)];
    let tape = folder.tape("a.tape.jsonl", &talkative(&whole));
    let mut said = Vec::new();
    let mut server = |what: &str, told: &[(char, Value)]| {
        let server = folder.tape(&format!("{what}.tape.jsonl"), &talkative(told));
        said.push(format!("{what}: {}", folder.told(&verify_replay(&tape, &server, &[]))));
        server
    };
    server("the same", &whole);
    let other = server("another progress", &[step(1), log("half"), step(7), changed(), step(3)]);
    server("less progress", &[step(1), log("half"), changed(), step(3)]);
    server("more logs", &[step(1), log("half"), log("more"), step(2), changed(), step(3)]);
    server("another order", &[log("half"), step(1), step(2), changed(), step(3)]);
    server("no change of a list", &[step(1), log("half"), step(2), step(3)]);
    let report = verify_replay(&tape, &other, &["--format", "json"]);
    let report: Value = serde_json::from_str(&report.stdout).unwrap();
    assert_eq!(report["requests"][1]["verdict"], "different");
    said.push(format!("JSON: {:#}", report["requests"][1]["notifications"]));
    let junit = verify_replay(&tape, &other, &["--format", "junit"]);
    assert!(junit.stdout.contains(r#"tests="2" failures="1" skipped="0""#), "{}", junit.stdout);
    assert!(junit.stdout.contains("/params/message: expected"), "{}", junit.stdout);
    insta::assert_snapshot!(said.join("\n"));

    let code = |options: &[&str]| verify_replay(&tape, &other, options).code;
    assert_eq!(code(&["--only-answers"]), Some(0));
    assert_eq!(code(&["--ignore", "/params/progress,/params/message"]), Some(0));
    assert_eq!(code(&["--ignore", "/params/message", "--tolerance", "0.8"]), Some(0));
    assert_eq!(code(&["--schema-only"]), Some(0));
}

#[test]
fn an_update_changes_what_is_told_too_and_says_what_it_cannot() {
    let folder = Folder::new();
    let tape = folder.tape("a.tape.jsonl", &talkative(&[step(1), step(2)]));
    let server = folder.tape("server.tape.jsonl", &talkative(&[step(1), step(7)]));
    let run = verify_replay(&tape, &server, &["--update"]);
    assert_eq!((run.code, folder.told(&run).lines().last()), (Some(0), Some("a.tape.jsonl: 1 messages updated")));
    assert!(is_text(&tape, "step 7") && !is_text(&tape, "step 2"));
    assert!(is_text(&tape, r#""progressToken":"p""#), "the names of the tape stay");
    assert_eq!(verify_replay(&tape, &server, &[]).code, Some(0));

    let less = folder.tape("less.tape.jsonl", &talkative(&[step(1)]));
    insta::assert_snapshot!(folder.told(&verify_replay(&tape, &less, &["--update"])));
}

/// Records what a client does at a server, on both sides of the proxy.
async fn recorded(folder: &Folder, script: Script, client: impl AsyncFnOnce(&Proxy)) -> String {
    let proxy = Proxy::with(script, |settings| {
        let record = Record { edges: RecordEdges::Both, ..Record::to(folder.0.path()) };
        settings.upstreams[0].record = Some(record);
    })
    .await;
    client(&proxy).await;
    proxy.close().await;
    let mut tapes = std::fs::read_dir(folder.0.path()).unwrap().map(|entry| entry.unwrap().path());
    tapes.next().unwrap().display().to_string()
}

/// Of a tape with both sides, what is verified and what is replayed are the same before and after.
#[tokio::test]
async fn an_update_changes_both_sides_of_the_proxy() {
    let folder = Folder::new();
    let tape = recorded(&folder, legacy(), async |proxy: &Proxy| {
        let session = proxy.session().await;
        session.call("echo", json!({ "text": "hi" })).ok().await.answer().ok().await;
        session.delete().ok().await;
    })
    .await;
    let run = async |args: Vec<String>| {
        let run = move || shadowcat(&args.iter().map(String::as_str).collect::<Vec<_>>());
        tokio::task::spawn_blocking(run).await.unwrap()
    };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
    let script = script_file(&changed());
    let server = [words(&["--", PROGRAM]), fake(script.path())].concat();
    assert_eq!(run([words(&["verify", &tape]), server.clone()].concat()).await.code, Some(7));
    let updated = run([words(&["verify", &tape, "--update"]), server.clone()].concat()).await;
    assert_eq!(updated.code, Some(0), "{updated:?}");
    assert!(updated.stderr.ends_with(": 4 messages updated\n"), "{updated:?}");
    assert_eq!(run([words(&["verify", &tape]), server].concat()).await.code, Some(0));
    let replayed = run(words(&["verify", &tape, "--", PROGRAM, "replay", &tape])).await;
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    let through = run(words(&["verify", &tape, "--through"])).await;
    assert_eq!(through.code, Some(0), "{through:?}");
}

/// Where the proxy translates, the server did not say what the client got: nothing is changed, and that is said.
#[tokio::test]
async fn what_was_translated_is_not_updated() {
    let folder = Folder::new();
    let tape = recorded(&folder, legacy(), async |proxy: &Proxy| {
        let call = Modern::call("echo", json!({ "text": "hi" })).post(&proxy.url).ok().await;
        call.answer().ok().await;
    })
    .await;
    let before = std::fs::read(&tape).unwrap();
    let other = Script { tools: Some(vec!["payload".into()]), ..modern() };
    let server = MockSse::start(other).await.unwrap();
    let (url, path) = (server.url(), tape.clone());
    let run = move || shadowcat(&["verify", &path, "--update", "--against", &url]);
    let run = tokio::task::spawn_blocking(run).await.unwrap();
    assert_eq!(run.code, Some(7), "{run:?}");
    let said = "not updated: the tape has both sides of the proxy, and there is nothing that the server said as the client got it in frame";
    assert!(run.stderr.contains(said), "{run:?}");
    assert_eq!(std::fs::read(&tape).unwrap(), before);
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
            progress("p", json!({ "progress": 1, "total": 2, "message": "step 1 of 2" })),
            progress("p", json!({ "progress": 2, "total": 2, "message": "step 2 of 2" })),
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
    // One that ends at once: whether that is noticed first, or that nobody reads, is a matter of chance.
    let run = shadowcat(&["verify", &echo, "--log", "off", "--", "true"]);
    let said = ["error: the server has exited (", "error: the connection to the server broke"];
    assert!(run.code == Some(5) && said.iter().any(|said| run.stderr.starts_with(said)), "{run:?}");
}
