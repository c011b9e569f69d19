//! Which request gets which answer, and what becomes of one that the tape does not have.

use super::*;

fn counting() -> Tape {
    let count = || json!({ "name": "count", "arguments": { "key": "a" } });
    let tape = Tape::new().handshake();
    (2..5).fold(tape, |tape, id| tape.ask(id, "tools/call", count()).answer(id, said(&(id - 1).to_string())))
}

async fn echo(session: &LegacySession, text: &str) -> Value {
    session.call("echo", json!({ "text": text })).ok().await.answer().ok().await
}

/// Equal requests get the answers of the tape one after the other, and then the last; each session from the beginning.
#[tokio::test]
async fn equal_requests_are_answered_in_order() {
    let player = Player::start(&counting().end(), &[]).await;
    for _ in 0..2 {
        let session = LegacySession::open(&player.url, LEGACY, everything()).ok().await;
        for expected in ["1", "2", "3", "3"] {
            let answer = session.call("count", json!({ "key": "a" })).ok().await.answer().ok().await;
            assert_eq!(text(&answer), expected);
        }
    }
    assert_eq!(player.end().await.0, Some(0));
}

/// A request that is not on the tape is an error that says what comes nearest, and the exit code says that there was one.
#[tokio::test]
async fn what_is_not_on_the_tape_is_refused_and_counted() {
    let player = Player::start(&legacy_tape(), &[]).await;
    let session = LegacySession::open(&player.url, LEGACY, everything()).ok().await;
    let other = echo(&session, "ho").await;
    insta::assert_snapshot!(serde_json::to_string_pretty(&other["error"]).unwrap());
    let arguments = session.call("echo", json!({ "text": "hi", "loud": true })).ok().await.answer().ok().await;
    insta::assert_snapshot!(arguments["error"]["message"].as_str().unwrap());
    let method = session.request("prompts/list", json!({})).ok().await.answer().ok().await;
    insta::assert_snapshot!(serde_json::to_string_pretty(&method["error"]).unwrap());
    assert_eq!(text(&echo(&session, "hi").await), "hi", "it goes on");
    let (code, said) = player.end().await;
    assert_eq!(code, Some(7));
    insta::assert_snapshot!(said);
}

/// A client of the other era is told the same.
#[tokio::test]
async fn what_is_not_on_the_tape_is_refused_across_the_eras() {
    for tape in [legacy_tape(), modern_tape()] {
        let player = Player::start(&tape, &[]).await;
        let answer = Modern::call("echo", json!({ "text": "ho" })).post(&player.url).ok().await.answer().ok().await;
        assert_eq!(answer["error"]["data"]["reason"], "not_on_tape", "{answer}");
        let session = LegacySession::open(&player.url, LEGACY, everything()).ok().await;
        assert_eq!(echo(&session, "ho").await["error"]["data"]["reason"], "not_on_tape");
        assert_eq!(player.end().await.0, Some(7));
    }
}

/// In strict order only the next request of the tape is answered.
#[tokio::test]
async fn strict_order_answers_the_next_request_only() {
    let player = Player::start(&legacy_tape(), &["--order", "strict"]).await;
    let session = LegacySession::open(&player.url, LEGACY, everything()).ok().await;
    let early = echo(&session, "hi").await;
    insta::assert_snapshot!(early["error"]["message"].as_str().unwrap());
    let tools = session.request("tools/list", json!({})).ok().await.answer().ok().await;
    assert!(tools["result"]["tools"].is_array());
    assert_eq!(text(&echo(&session, "hi").await), "hi");
    assert_eq!(echo(&session, "hi").await["error"]["data"]["reason"], "not_on_tape");
    assert_eq!(player.end().await.0, Some(7));
}

/// What may differ is left out of the comparison: by option, and where the tape itself was redacted.
#[tokio::test]
async fn what_is_ignored_may_differ() {
    let params = json!({ "name": "login", "arguments": { "token": "[redacted]", "time": 7 } });
    let tape = Tape::new().handshake().ask(2, "tools/call", params).answer(2, said("in")).end();
    let tape = tape.replace(
        r#""connection":1,"message":{"id":2,"jsonrpc":"2.0","method""#,
        r#""connection":1,"redacted":["/params/arguments/token"],"message":{"id":2,"jsonrpc":"2.0","method""#,
    );
    assert!(tape.contains("redacted\":["));
    for (options, code) in [(&[][..], 7), (&["--ignore", "/params/arguments/time"][..], 0)] {
        let player = Player::start(&tape, options).await;
        let session = LegacySession::open(&player.url, LEGACY, everything()).ok().await;
        session.call("login", json!({ "token": "hunter2", "time": 8 })).ok().await.answer().ok().await;
        assert_eq!(player.end().await.0, Some(code), "{options:?}");
    }
}

/// On request, all that is on the tape has to be asked for.
#[tokio::test]
async fn it_can_be_required_that_all_was_asked_for() {
    let player = Player::start(&legacy_tape(), &["--require-all"]).await;
    let session = LegacySession::open(&player.url, LEGACY, everything()).ok().await;
    assert_eq!(text(&echo(&session, "hi").await), "hi");
    let (code, said) = player.end().await;
    assert_eq!(code, Some(7));
    insta::assert_snapshot!(said);
}

/// A request that was cut off on the tape is answered with an error, and not with silence.
#[tokio::test]
async fn a_request_without_an_answer_on_the_tape_is_an_error() {
    let tape = Tape::new().handshake().ask(2, "tools/call", json!({ "name": "echo", "arguments": { "text": "hi" } }));
    let player = Player::start(&tape.cut(), &[]).await;
    let session = LegacySession::open(&player.url, LEGACY, everything()).ok().await;
    let answer = echo(&session, "hi").await;
    insta::assert_snapshot!(serde_json::to_string_pretty(&answer["error"]).unwrap());
}

/// With recorded timing nothing comes sooner than it did.
#[tokio::test]
async fn recorded_timing_takes_as_long_as_it_took() {
    let player = Player::start(&legacy_tape(), &["--timing", "100x"]).await;
    let session = LegacySession::open(&player.url, LEGACY, everything()).ok().await;
    let params = json!({ "name": "progress", "arguments": { "steps": 2 }, "_meta": { "progressToken": 1 } });
    let started = tokio::time::Instant::now();
    let told = messages(session.request("tools/call", params).ok().await).await;
    assert_eq!(told.len(), 3);
    assert!(started.elapsed().as_millis() >= 300, "three times a millisecond, a hundred times slower");
    player.end().await;
}

/// Whatever a tape says of time, no message is waited for any longer than the cap.
#[tokio::test]
async fn no_message_is_waited_for_longer_than_the_cap() {
    let late = format!(r#""at":{}"#, u64::MAX);
    let tape = legacy_tape().replace(r#""at":10000"#, &late).replace(r#""at":11000"#, &late);
    assert!(tape.contains(&late));
    let player = Player::start(&tape, &["--timing", "1000x", "--timing-cap", "10ms"]).await;
    let session = LegacySession::open(&player.url, LEGACY, everything()).ok().await;
    let params = json!({ "name": "progress", "arguments": { "steps": 2 }, "_meta": { "progressToken": 1 } });
    assert_eq!(messages(session.request("tools/call", params).ok().await).await.len(), 3);
    assert_eq!(player.end().await, (Some(0), String::new()));
}

/// A client's patience can be tried with a tape, too.
#[tokio::test]
async fn a_tape_can_be_made_to_fail() {
    let mut plan = tempfile::NamedTempFile::new().unwrap();
    let fault =
        json!({ "on": { "tool": "echo", "nth": 2 }, "do": { "error": { "code": -32603, "message": "as planned" } } });
    serde_json::to_writer(&mut plan, &json!({ "faults": [fault] })).unwrap();
    let player = Player::start(&legacy_tape(), &["--faults", plan.path().to_str().unwrap()]).await;
    let session = LegacySession::open(&player.url, LEGACY, everything()).ok().await;
    assert_eq!(text(&echo(&session, "hi").await), "hi");
    assert_eq!(echo(&session, "hi").await["error"]["message"], "as planned");
    assert_eq!(text(&echo(&session, "hi").await), "hi");
    assert_eq!(player.end().await.0, Some(0));
    let missing = Stdio::start(&["replay", "x", "--listen", "127.0.0.1:0", "--faults", "no-such-file"]).end().await;
    assert_eq!(missing.0, Some(6), "the tape comes first: {missing:?}");
}

/// On standard input and output.
#[tokio::test]
async fn it_serves_a_client_on_standard_input_and_output() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), legacy_tape()).unwrap();
    let call =
        |text: &str| message("2", "tools/call", &json!({ "name": "echo", "arguments": { "text": text } }).to_string());
    let mut player = Stdio::start(&["replay", file.path().to_str().unwrap()]);
    let greeting = player.ask(&initialize(LEGACY)).await;
    assert_eq!(greeting["result"]["serverInfo"]["name"], "taped");
    player.say(&notification("notifications/initialized", json!({}))).await;
    assert_eq!(text(&player.ask(&call("hi")).await), "hi");
    assert_eq!(player.ask(&call("ho")).await["error"]["code"], -31010);
    let (code, said) = player.end().await;
    assert_eq!(code, Some(7));
    insta::assert_snapshot!(said);
}

/// What is no tape is refused, and what is wrong with one is said.
#[test]
fn a_tape_that_cannot_be_read_is_refused() {
    let run = |text: &str, options: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.tape.jsonl"), text).unwrap();
        let mut command = assert_cmd::Command::new(PROGRAM);
        let output =
            command.current_dir(folder.path()).args(["replay", "a.tape.jsonl"]).args(options).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let whole = legacy_tape();
    let newer = whole.replace("shadowcat_tape\":1", "shadowcat_tape\":2");
    let torn = &whole[..whole.len() - 200];
    let broken = whole
        .replacen(r#""kind":"message","connection":1,"message":{"jsonrpc""#, r#""kind":"mess"#, 1)
        .replacen(r#"{"at":"#, "{at:", 1);
    let said: Vec<String> = ["", "hello", &newer, torn, &broken.replacen("{\"seq\":4,", "{seq:4,", 1)]
        .into_iter()
        .map(|text| format!("{:?}\n", run(text, &[])))
        .collect();
    insta::assert_snapshot!(said.concat());
    insta::assert_snapshot!(run(&whole, &["--timing", "soon"]).1 + &run(&whole, &["--ignore", "arguments"]).1);
}

/// What is planned to go wrong does so on standard input and output, too.
#[tokio::test]
async fn faults_happen_to_a_client_on_standard_input_and_output() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let tape = file("a.tape.jsonl", &legacy_tape());
    let plan = json!({ "faults": [
        { "on": { "tool": "echo", "nth": 1 }, "do": { "error": { "code": -32000, "message": "planned" } } },
        { "on": { "tool": "echo", "nth": 2 }, "do": "duplicate" },
        { "on": { "tool": "echo", "nth": 3 }, "do": { "print": { "text": "garbage" } } },
        { "on": { "from": "server", "method": "notifications/progress", "nth": 1 }, "do": "hang" },
    ] });
    let mut client =
        Stdio::start(&["replay", &tape, "--log", "error", "--faults", &file("plan.json", &plan.to_string())]);
    client.ask(&initialize(LEGACY)).await;
    client.say(&notification("notifications/initialized", json!({}))).await;
    let echo = |id: &str| message(id, "tools/call", r#"{"name":"echo","arguments":{"text":"hi"}}"#);
    let refused = client.ask(&echo("1")).await;
    assert_eq!((&refused["id"], &refused["error"]["message"]), (&json!(1), &json!("planned")));
    let twice = [client.ask(&echo("2")).await, client.hear().await];
    assert!(twice.iter().all(|answer| answer["id"] == 2 && text(answer) == "hi"), "{twice:?}");
    client.say(&echo("3")).await;
    assert_eq!(client.line().await, "garbage");
    assert_eq!(text(&client.hear().await), "hi");
    let progress = r#"{"name":"progress","arguments":{"steps":2},"_meta":{"progressToken":"p"}}"#;
    let first = client.ask(&message("4", "tools/call", progress)).await;
    assert_eq!(first["params"]["progress"], 2, "the first was lost");
    assert_eq!(client.hear().await["id"], 4);
    assert_eq!(client.end().await, (Some(0), String::new()));
}
