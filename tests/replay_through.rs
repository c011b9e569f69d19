//! A tape of both sides of the proxy, played through the proxy (C-TAPE-4), and what is recorded of that.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use shadowcat::faults::Plan;
use shadowcat::replay::{self, Replay};
use shadowcat::settings::{Record, RecordEdges, TapeTarget, Target};
use shadowcat::tape::compare::Rules;
use shadowcat::tape::{Edge, Tape, canonical};
use shadowcat::testing::MockSse;
use shadowcat::testing::client::{LegacySession, Modern};
use shadowcat::through::{Options, Outcome, through};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use common::{
    Era, InTime as _, LEGACY, PROGRAM, Proxy, cancelled, everything, initialize, message, messages, notification, rest,
    text, within,
};

/// Records what `client` does at a server of this era: the one tape of that.
async fn recorded(server: Era, client: impl AsyncFnOnce(&Proxy)) -> (tempfile::TempDir, PathBuf) {
    recorded_at(None, server, client).await
}

/// The same, at something else than a server.
async fn recorded_at(
    target: Option<Target>,
    server: Era,
    client: impl AsyncFnOnce(&Proxy),
) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::with(server.server(), |settings| {
        let record = Record { edges: RecordEdges::Both, ..Record::to(folder.path()) };
        settings.upstreams[0].record = Some(record);
        if let Some(target) = target {
            settings.upstreams[0].target = target;
        }
    })
    .await;
    client(&proxy).await;
    proxy.close().await;
    let tapes: Vec<PathBuf> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(tapes.len(), 1, "{tapes:?}");
    let tape = tapes.into_iter().next().unwrap();
    (folder, tape)
}

async fn play(path: &Path) -> Outcome {
    let tape = Tape::open(path).unwrap();
    within("the tape", through(&tape, &Options::default(), |_| {})).await.unwrap()
}

/// What a client with sessions does in these tests.
async fn legacy_client(proxy: &Proxy) {
    let session = LegacySession::open(&proxy.url, LEGACY, everything()).ok().await;
    let list = session.request("tools/list", json!({})).ok().await.answer().ok().await;
    assert!(list["result"]["tools"].is_array());
    let call =
        session.send(&message("\"c\"", "tools/call", r#"{"name":"echo","arguments":{"text":"h\u00e9"}}"#)).ok().await;
    assert_eq!(text(&call.answer().ok().await), "hé");
    let params = json!({ "name": "progress", "arguments": { "steps": 3 }, "_meta": { "progressToken": "p" } });
    assert_eq!(messages(session.request("tools/call", params).ok().await).await.len(), 4);
    let mut call = session.call("ask", json!({ "message": "?" })).ok().await;
    let asked = call.message().ok().await.unwrap();
    session.respond(&asked["id"], &json!({ "action": "accept", "content": { "answer": "yes" } })).ok().await;
    let told: Vec<Value> = rest(&mut call).await.iter().map(|event| event.json()).collect();
    assert!(text(&told[0]).starts_with("answer: accept"));
    let wait = json!({ "name": "sleep", "arguments": { "ms": 60000 }, "_meta": { "progressToken": "w" } });
    let wait = message("\"w\"", "tools/call", &wait.to_string());
    let wait = session.send(&wait);
    let cancel = async {
        proxy.until_metric("shadowcat_exchanges_in_flight", &[], 1.0).await;
        session.send(&cancelled(json!("w"))).ok().await
    };
    let (waited, _) = tokio::join!(wait.ok(), cancel);
    drop(waited);
    session.delete().ok().await;
}

/// What a client without sessions does.
async fn modern_client(proxy: &Proxy) {
    let list = Modern::new("tools/list").post(&proxy.url).ok().await.answer().ok().await;
    assert!(list["result"]["tools"].is_array());
    let call = Modern::call("echo", json!({ "text": "hé" })).post(&proxy.url).ok().await;
    assert_eq!(text(&call.answer().ok().await), "hé");
    let progress = Modern::call("progress", json!({ "steps": 3 })).progress_token(json!("p"));
    assert_eq!(messages(progress.post(&proxy.url).ok().await).await.len(), 4);
    let ask = || Modern::call("ask", json!({ "message": "?" })).capabilities(everything());
    let asked = ask().post(&proxy.url).ok().await.answer().ok().await;
    let (key, _) = asked["result"]["inputRequests"].as_object().unwrap().iter().next().unwrap();
    let answers = json!({ key: { "action": "accept", "content": { "answer": "yes" } } });
    let again = ask().param("requestState", asked["result"]["requestState"].clone()).param("inputResponses", answers);
    let answer = again.post(&proxy.url).ok().await.answer().ok().await;
    assert!(text(&answer).starts_with("answer: accept"), "{answer}");
}

/// In all four cells: what was recorded is what comes of it again.
#[tokio::test]
async fn what_passed_once_passes_again() {
    for server in Era::BOTH {
        for client in Era::BOTH {
            let (_folder, tape) = recorded(server, async |proxy: &Proxy| match client {
                Era::Legacy => legacy_client(proxy).await,
                Era::Modern => modern_client(proxy).await,
            })
            .await;
            let outcome = play(&tape).await;
            assert_eq!(outcome.findings, [] as [String; 0], "{client:?} at {server:?}");
            assert!(outcome.made > 4);
        }
    }
}

/// A client of HTTP+SSE likewise, whose answers come on another stream than its requests are accepted on.
#[tokio::test]
async fn what_a_client_of_http_sse_said_passes_again() {
    for server in Era::BOTH {
        let (_folder, tape) = recorded(server, async |proxy: &Proxy| {
            let mut client = proxy.sse().await;
            for (id, said) in [("1", "one"), ("2", "two")] {
                let call = json!({ "name": "echo", "arguments": { "text": said } });
                client.send(&message(id, "tools/call", &call.to_string())).ok().await;
            }
            let mut said = [client.next().ok().await, client.next().ok().await].map(|answer| text(&answer).to_owned());
            said.sort();
            assert_eq!(said, ["one", "two"]);
        })
        .await;
        let outcome = play(&tape).await;
        assert_eq!(outcome.findings, [] as [String; 0], "{server:?}");
        assert!(outcome.made > 4);
        let original = std::fs::read_to_string(&tape).unwrap();
        let is_answer = |line: &&str| line.contains(r#""to":"client""#) && line.contains("two");
        let answer = original.lines().find(is_answer).unwrap();
        std::fs::write(&tape, original.replace(answer, &answer.replace("two", "TWO"))).unwrap();
        let found = play(&tape).await.findings;
        assert!(found.len() == 1 && found[0].contains("expected \"TWO\", got \"two\""), "{found:?}");
    }
}

/// And a client on standard input and output, of which there are tapes since `connect` records.
#[tokio::test]
async fn what_a_client_on_standard_input_and_output_said_passes_again() {
    let server = MockSse::start(Era::Legacy.server()).ok().await;
    let folder = tempfile::tempdir().unwrap();
    let record = ["--record", folder.path().to_str().unwrap(), "--record-edges", "both", "--log", "error"];
    #[expect(clippy::disallowed_methods, reason = "a test of processes")]
    let mut child = tokio::process::Command::new(PROGRAM)
        .args(["connect", &server.url()])
        .args(record)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (mut input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut output = BufReader::new(output).lines();
    let mut ask = async |text: &str, answers: usize| {
        input.write_all(format!("{text}\n").as_bytes()).ok().await;
        let mut said: Value = Value::Null;
        for _ in 0..answers {
            said = serde_json::from_str(&output.next_line().ok().await.unwrap()).unwrap();
        }
        said
    };
    let call = |id: &str, tool: &str, arguments: Value| {
        let meta = json!({ "progressToken": id });
        message(id, "tools/call", &json!({ "name": tool, "arguments": arguments, "_meta": meta }).to_string())
    };
    ask(&initialize(LEGACY), 1).await;
    ask(&notification("notifications/initialized", json!({})), 0).await;
    assert_eq!(text(&ask(&call("1", "echo", json!({ "text": "one" })), 1).await), "one");
    assert_eq!(text(&ask(&call("2", "progress", json!({ "steps": 2 })), 3).await), "did 2 steps");
    ask("no message", 1).await;
    drop(input);
    assert!(child.wait().ok().await.success());

    let tape = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let whole = Tape::open(&tape).unwrap();
    assert!(matches!(whole.ending, shadowcat::tape::Ending::Proper { .. }), "{:?}", whole.ending);
    assert_eq!(whole.header.client, Some(shadowcat::tape::Transport::Stdio));
    assert!(whole.frames.iter().all(|frame| frame.edge() != Some(Edge::Client) || frame.exchange.is_none()));
    let outcome = play(&tape).await;
    assert_eq!(outcome.findings, [] as [String; 0]);
    assert!(outcome.made > 4);
    let original = std::fs::read_to_string(&tape).unwrap();
    let is_answer = |line: &&str| line.contains(r#""to":"client""#) && line.contains(r#""text":"one""#);
    let answer = original.lines().find(is_answer).unwrap();
    std::fs::write(&tape, original.replace(answer, &answer.replace("one", "ONE"))).unwrap();
    let found = play(&tape).await.findings;
    assert!(found.len() == 1 && found[0].contains("expected \"ONE\", got \"one\""), "{found:?}");
}

/// The same text whatever the numbers of frames are: those of both sides come as they come.
fn unnumbered(text: &str) -> String {
    let mut parts = text.split("frame ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts
        .fold(first, |text, part| text + "frame N" + part.trim_start_matches(|c: char| c.is_ascii_digit()))
        .replace("before frame N did", "before it did")
}

/// What the proxy says otherwise than it did is found, on either side; here the tape is what was changed.
#[tokio::test]
async fn what_is_not_as_it_was_is_found() {
    let (_folder, tape) = recorded(Era::Legacy, legacy_client).await;
    let original = std::fs::read_to_string(&tape).unwrap();
    let line = |wanted: &[&str]| {
        let found = original.lines().find(|line| wanted.iter().all(|part| line.contains(part)));
        found.unwrap_or_else(|| panic!("{wanted:?} is on the tape"))
    };
    let answer = line(&[r#""to":"client""#, "\u{e9}"]);
    let progress = line(&[r#""to":"client""#, "step 2 of 3"]);
    let call = line(&[r#""to":"upstream""#, r#""name":"ask""#]);
    let accepted = line(&[r#""status":202"#]);
    let mut said = Vec::new();
    for (what, changed) in [
        ("another answer", original.replace(answer, &answer.replace("\u{e9}", "e"))),
        ("no progress", original.replace(&format!("{progress}\n"), "")),
        ("another request", original.replace(call, &call.replace(r#""message":"?""#, r#""message":"!""#))),
        ("no request", original.replace(&format!("{call}\n"), "")),
        ("another status", original.replacen(accepted, &accepted.replace("202", "200"), 1)),
    ] {
        assert_ne!(changed, original, "{what}");
        std::fs::write(&tape, changed).unwrap();
        let (tape, options) =
            (Tape::open(&tape).unwrap(), Options { patience: Duration::from_secs(1), ..Options::default() });
        let outcome = within("the tape", through(&tape, &options, |_| {})).await.unwrap();
        said.push(format!("{what}:\n{}\n", outcome.findings.join("\n")));
    }
    insta::assert_snapshot!(unnumbered(&said.join("\n")));
}

/// What the proxy under test does wrong is found, whatever it is: here it is broken on purpose, and the tape is as it was.
#[tokio::test]
async fn a_broken_proxy_is_found() {
    let (_folder, path) = recorded(Era::Legacy, async |proxy: &Proxy| {
        let session = LegacySession::open(&proxy.url, LEGACY, everything()).ok().await;
        for (id, said) in [("1", "one"), ("2", "two")] {
            let call = message(id, "tools/call", &json!({ "name": "echo", "arguments": { "text": said } }).to_string());
            session.send(&call).ok().await.answer().ok().await;
        }
        let params = json!({ "name": "progress", "arguments": { "steps": 3 }, "_meta": { "progressToken": "p" } });
        assert_eq!(messages(session.request("tools/call", params).ok().await).await.len(), 4);
        let mut call = session.call("ask", json!({ "message": "?" })).ok().await;
        let asked = call.message().ok().await.unwrap();
        session.respond(&asked["id"], &json!({ "action": "accept", "content": { "answer": "yes" } })).ok().await;
        rest(&mut call).await;
        session.delete().ok().await;
    })
    .await;
    let tape = Tape::open(&path).unwrap();
    let echo = |nth: u64| json!({ "tool": "echo", "nth": nth });
    let result = |id: u64, text: &str| {
        let result = json!({ "content": [{ "type": "text", "text": text }] });
        json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string()
    };
    let respond = |code: u16, body: String| json!({ "status": { "code": code, "body": body } });
    let welcome = tape.frames.iter().find(|frame| {
        frame.edge() == Some(Edge::Client)
            && !frame.is_upward()
            && frame.http.as_ref().is_some_and(|http| http.headers.contains_key("mcp-session-id"))
    });
    let welcome = String::from_utf8_lossy(welcome.unwrap().body.as_ref().unwrap().bytes()).into_owned();
    let from_server = |method: &str, nth: u64| json!({ "from": "server", "method": method, "nth": nth });
    let broken = [
        ("a progress is lost", json!([{ "on": from_server("notifications/progress", 2), "do": "hang" }])),
        ("a progress comes twice", json!([{ "on": from_server("notifications/progress", 2), "do": "duplicate" }])),
        (
            "two answers are swapped",
            json!([
                { "on": echo(1), "do": respond(200, result(2, "two")) },
                { "on": echo(2), "do": respond(200, result(1, "one")) },
            ]),
        ),
        ("a body is altered", json!([{ "on": echo(1), "do": respond(200, result(1, "ONE")) }])),
        ("another status", json!([{ "on": echo(1), "do": respond(500, result(1, "one")) }])),
        ("the session has no name", json!([{ "on": { "method": "initialize" }, "do": respond(200, welcome) }])),
        ("a question is lost", json!([{ "on": from_server("elicitation/create", 1), "do": "hang" }])),
        ("an answer is cut off", json!([{ "on": echo(2), "do": { "cut": {} } }])),
    ];
    let mut said = Vec::new();
    for (what, faults) in broken {
        let plan = Plan::from_json(&json!({ "faults": faults }).to_string()).unwrap();
        let options = Options { patience: Duration::from_secs(2), ..Options::default() };
        let outcome = within(what, through(&tape, &options, |settings| settings.faults = Some(plan))).await.unwrap();
        assert!(!outcome.findings.is_empty(), "{what}");
        // How long it takes to find out that nothing comes is not the point.
        let found: Vec<String> = outcome.findings.into_iter().filter(|text| !text.contains("in time")).collect();
        said.push(format!("{what}:\n{}\n", found.join("\n")));
    }
    insta::assert_snapshot!(unnumbered(&said.join("\n")));
}

/// A header that the proxy does not send, or the tape does not have, is found; here the tape is what was changed.
#[tokio::test]
async fn headers_that_are_not_as_they_were_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/fixtures/tapes/typescript-2-modern-at-typescript-2-modern-http.tape.jsonl"
    );
    let original = std::fs::read_to_string(fixture).unwrap();
    let is_call = |line: &&str| line.contains(r#""to":"upstream""#) && line.contains(r#""mcp-name":"echo""#);
    let call = original.lines().find(is_call).unwrap();
    let mut said = Vec::new();
    for (what, other) in [("lost", r#""x-lost":"""#), ("another", r#""mcp-name":"other""#)] {
        let path = folder.path().join("a.tape.jsonl");
        std::fs::write(&path, original.replacen(call, &call.replacen(r#""mcp-name":"echo""#, other, 1), 1)).unwrap();
        let outcome = play(&path).await;
        said.push(format!("{what}:\n{}\n", outcome.findings.join("\n")));
    }
    insta::assert_snapshot!(unnumbered(&said.join("\n")));
}

/// The program says the same, and ends with 7.
#[tokio::test]
async fn the_program_verifies_the_proxy() {
    let (folder, tape) = recorded(Era::Modern, modern_client).await;
    let run = |options: &[&str]| {
        let mut command = assert_cmd::Command::new(PROGRAM);
        let output = command
            .current_dir(folder.path())
            .args(["verify", "a.tape.jsonl", "--through"])
            .args(options)
            .output()
            .unwrap();
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        format!("{:?}\n{}{}", output.status.code(), said(&output.stdout), said(&output.stderr))
    };
    let original = std::fs::read_to_string(&tape).unwrap();
    let file = folder.path().join("a.tape.jsonl");
    std::fs::write(&file, &original).unwrap();
    let mut said = vec![run(&[])];
    let answers = original.lines().find(|line| line.contains(r#""to":"client""#) && line.contains("h\u{e9}")).unwrap();
    std::fs::write(&file, original.replace(answers, &answers.replace("h\u{e9}", "he"))).unwrap();
    said.extend([
        run(&[]),
        run(&["--format", "json"]),
        run(&["--format", "junit"]),
        run(&["--ignore", "/result/content/*/text"]),
    ]);
    std::fs::write(&file, original.replace(r#""edges":["client","upstream"]"#, r#""edges":["client"]"#)).unwrap();
    said.push(run(&[]));
    std::fs::write(&file, original.replace(r#""client":"http""#, r#""client":"pigeons""#)).unwrap();
    said.push(run(&[]));
    insta::assert_snapshot!(unnumbered(&said.join("\n")));
}

/// What is recorded of a tape that is replayed is that tape.
#[tokio::test]
async fn a_tape_of_a_tape_is_the_same_tape() {
    for (era, client) in [(Era::Legacy, Era::Legacy), (Era::Modern, Era::Modern)] {
        let play = async |proxy: &Proxy| match client {
            Era::Legacy => legacy_client(proxy).await,
            Era::Modern => modern_client(proxy).await,
        };
        let (_folder, first) = recorded(era, play).await;
        let first = Tape::open(first).unwrap();
        let replay = Arc::new(Replay::new(&first.header, &first.frames, replay::Options::default()));
        let (_folder, second) = recorded_at(Some(Target::Tape(TapeTarget::new(Arc::clone(&replay)))), era, play).await;
        let second = Tape::open(second).unwrap();
        for edge in [Edge::Client, Edge::Upstream] {
            let (one, other) = (canonical::threads(edge, &first.frames), canonical::threads(edge, &second.frames));
            let findings = canonical::compare(&one, &other, &Rules::default(), |thread, _| !thread.of_proxy);
            assert_eq!(findings, [], "{era:?} {edge:?}");
        }
        let report = replay.report();
        assert_eq!((report.unknown, report.told), (0, vec![]));
    }
}

/// What a generated client does.
#[derive(Debug, Clone)]
enum Act {
    List,
    Echo(String),
    Progress(u8),
    Ask(bool),
    /// There is no such tool, or method.
    Nonsense(bool),
}

impl Act {
    fn any() -> impl Strategy<Value = Act> {
        prop_oneof![
            Just(Act::List),
            // Few texts, so that some are equal.
            prop_oneof!["[ab]", "\\PC{0,8}"].prop_map(Act::Echo),
            (0..4_u8).prop_map(Act::Progress),
            any::<bool>().prop_map(Act::Ask),
            any::<bool>().prop_map(Act::Nonsense),
        ]
    }

    async fn legacy(&self, session: &LegacySession) {
        let call = |tool: &str, arguments: Value| ("tools/call", json!({ "name": tool, "arguments": arguments }));
        let (method, mut params) = match self {
            Act::List => ("tools/list", json!({})),
            Act::Echo(text) => call("echo", json!({ "text": text })),
            Act::Progress(steps) => call("progress", json!({ "steps": steps })),
            Act::Ask(_) => call("ask", json!({ "message": "?" })),
            Act::Nonsense(true) => call("nonsense", json!({})),
            Act::Nonsense(false) => ("non/sense", json!({})),
        };
        if let Act::Progress(steps) = self {
            params["_meta"] = json!({ "progressToken": steps });
        }
        let mut answer = session.request(method, params).ok().await;
        if let Act::Ask(accepts) = self {
            let asked = answer.message().ok().await.unwrap();
            let action =
                if *accepts { json!({ "action": "accept", "content": {} }) } else { json!({ "action": "decline" }) };
            session.respond(&asked["id"], &action).ok().await;
        }
        rest(&mut answer).await;
    }

    async fn modern(&self, proxy: &Proxy) {
        let request = match self {
            Act::List => Modern::new("tools/list"),
            Act::Echo(text) => Modern::call("echo", json!({ "text": text })),
            Act::Progress(steps) => Modern::call("progress", json!({ "steps": steps })).progress_token(json!(steps)),
            Act::Ask(_) => Modern::call("ask", json!({ "message": "?" })).capabilities(everything()),
            Act::Nonsense(true) => Modern::call("nonsense", json!({})),
            Act::Nonsense(false) => Modern::new("non/sense"),
        };
        rest(&mut request.post(&proxy.url).ok().await).await;
    }
}

/// Whatever a client does one after the other: what is recorded of the tape that is replayed is that tape.
#[test]
fn a_tape_of_a_tape_is_the_same_tape_whatever_is_on_it() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let acts = (any::<bool>(), proptest::collection::vec(Act::any(), 1..8));
    let config = ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |((is_legacy, acts) in acts)| {
        let era = if is_legacy { Era::Legacy } else { Era::Modern };
        let client = async |proxy: &Proxy| {
            if !is_legacy {
                for act in &acts {
                    act.modern(proxy).await;
                }
                return;
            }
            let session = LegacySession::open(&proxy.url, LEGACY, everything()).ok().await;
            for act in &acts {
                act.legacy(&session).await;
            }
            session.delete().ok().await;
        };
        let findings = runtime.block_on(async {
            let (_folder, first) = recorded(era, client).await;
            let first = Tape::open(first).unwrap();
            let replay = Arc::new(Replay::new(&first.header, &first.frames, replay::Options::default()));
            let (_folder, second) = recorded_at(Some(Target::Tape(TapeTarget::new(replay))), era, client).await;
            let second = Tape::open(second).unwrap();
            let compare = |edge: Edge| {
                let (one, other) = (canonical::threads(edge, &first.frames), canonical::threads(edge, &second.frames));
                canonical::compare(&one, &other, &Rules::default(), |thread, _| !thread.of_proxy)
            };
            [Edge::Client, Edge::Upstream].map(compare).concat()
        });
        prop_assert_eq!(findings, vec![]);
    });
}
