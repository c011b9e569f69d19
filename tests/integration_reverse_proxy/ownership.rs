//! Everybody gets what is theirs, whatever they call it.

use futures_util::future::join_all;
use serde_json::{Value, json};
use shadowcat::testing::client::{LegacySession, Modern};
use shadowcat::testing::{Do, On, Script, WrongId};

use crate::common::*;

/// How many clients use the same names at the same time.
const CLIENTS: usize = 50;

/// 2025-11-25 and 2026-07-28, Basic › Requests, Progress: ids and tokens are names of one client only. Clients that all use
/// id 1 and the same token never meet: each gets its own answer and its own progress, and no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_all_use_id_1_never_meet() {
    for era in Era::BOTH {
        let proxy = Proxy::start(era.server()).await;
        let clients = join_all((0..CLIENTS).map(|_| proxy.client(era))).await;
        let call = async |client: &Client, who: usize| {
            let steps = who % 7 + 1;
            let progress = client.begin("1", Some("\"t\""), "progress", json!({ "steps": steps, "delay_ms": 1 }));
            let heard = messages(progress.await).await;
            assert_eq!(heard.len(), steps + 1, "{era:?} {who}: {heard:?}");
            for (message, step) in heard.iter().zip(1..=steps) {
                let params = &message["params"];
                assert_eq!((&params["progressToken"], &params["total"]), (&json!("t"), &json!(steps)), "{era:?} {who}");
                assert_eq!(params["progress"], step);
            }
            assert_eq!(heard[steps]["id"], 1);
            let mine = format!("for {who} only");
            let echo = client.begin("1", Some("\"t\""), "echo", json!({ "text": mine })).await.answer().ok().await;
            assert_eq!((text(&echo), &echo["id"]), (mine.as_str(), &json!(1)), "{era:?}");
        };
        join_all(clients.iter().enumerate().map(|(who, client)| call(client, who))).await;
    }
}

/// 2025-11-25, Basic › Requests: within a session an id may be used once at a time; a second use is refused and the first
/// one is answered. Afterwards the id is free.
#[tokio::test]
async fn an_id_in_flight_is_not_used_twice() {
    let proxy = Proxy::start(legacy()).await;
    let session = proxy.session().await;
    let call = |tool: &str, arguments: Value| {
        message("1", "tools/call", &json!({ "name": tool, "arguments": arguments }).to_string())
    };
    let mut first = session.send(&call("ask", json!({ "message": "?" }))).ok().await;
    let question = next(&mut first).await.unwrap().json();
    for same in ["1", "1.0", "1e0"] {
        let text = call("echo", json!({ "text": "x" })).replace("\"id\":1", &format!("\"id\":{same}"));
        let second = session.send(&text).ok().await;
        assert_eq!(second.status, 400);
        let refusal = second.text().ok().await;
        assert!(refusal.contains(&format!("\"id\":{same}")) && refusal.contains("duplicate_id"), "{refusal}");
    }
    let other = session.send(&call("echo", json!({ "text": "x" })).replace("\"id\":1", "\"id\":\"1\"")).ok().await;
    assert_eq!(text(&other.answer().ok().await), "x", "a text is another id");
    session.respond(&question["id"], &json!({ "action": "decline" })).ok().await;
    assert!(text(&next(&mut first).await.unwrap().json()).starts_with("answer: decline"));
    assert_eq!(text(&session.send(&call("echo", json!({ "text": "again" }))).ok().await.answer().ok().await), "again");
}

/// 2026-07-28, Basic › Requests: requests of a modern client stand each for itself; the same id twice gives two answers.
#[tokio::test]
async fn modern_requests_with_the_same_id_are_both_answered() {
    let proxy = Proxy::start(modern()).await;
    let calls = (0..20).map(async |n| {
        let answer =
            Modern::call("echo", json!({ "text": n.to_string() })).post(&proxy.url).ok().await.answer().ok().await;
        assert_eq!(text(&answer), n.to_string());
    });
    join_all(calls).await;
}

/// 2025-11-25, Cancellation; 2026-07-28, Cancellation: cancelling one's own request 1 does nothing to another client's.
#[tokio::test]
async fn cancelling_touches_nobody_elses_request() {
    let proxy = Proxy::start(legacy()).await;
    let ask = async |session: &LegacySession| {
        let call = json!({ "name": "ask", "arguments": { "message": "?" } }).to_string();
        let mut response = session.send(&message("1", "tools/call", &call)).ok().await;
        let question = next(&mut response).await.unwrap().json();
        (response, question)
    };
    let (a, b) = (proxy.session().await, proxy.session().await);
    let ((mut mine, _), (mut theirs, question)) = (ask(&a).await, ask(&b).await);
    assert_eq!(a.send(&cancelled(json!(1))).ok().await.status, 202);
    assert!(rest(&mut mine).await.iter().all(|event| event.json().get("result").is_none()));
    b.respond(&question["id"], &json!({ "action": "decline" })).ok().await;
    assert!(text(&next(&mut theirs).await.unwrap().json()).starts_with("answer: decline"));

    let proxy = Proxy::start(modern()).await;
    let client = proxy.client(Era::Modern).await;
    let slow =
        |steps: u64| Modern::call("progress", json!({ "steps": steps, "delay_ms": 50 })).progress_token(1.into());
    let (mut mine, mut theirs) = (slow(100_000).post(&proxy.url).ok().await, slow(10).post(&proxy.url).ok().await);
    next(&mut mine).await.unwrap();
    drop(mine);
    client.until_stats("/cancelled", 1).await;
    let heard = rest(&mut theirs).await;
    assert_eq!(text(&heard.last().unwrap().json()), "did 10 steps");
}

/// 2025-11-25, Basic › Responses: an answer to nobody's request, in the wrong type, or for the second time is nobody's, even
/// if there is only one who waits.
#[tokio::test]
async fn answers_that_fit_no_request_are_dropped() {
    let answers = [
        ("unknown", Do::Id(WrongId::Unknown)),
        ("retyped", Do::Id(WrongId::Retyped)),
        ("null", Do::Id(WrongId::Null)),
        ("missing", Do::Id(WrongId::Missing)),
    ];
    for era in Era::BOTH {
        for (what, fault) in answers.clone() {
            let script = era.server().fault(On::tool("echo").nth(1), fault);
            let quick = |settings: &mut shadowcat::settings::Settings| {
                settings.timeouts.request = std::time::Duration::from_millis(400)
            };
            let proxy = Proxy::with(script, quick).await;
            let client = proxy.client(era).await;
            // What waits gets no answer of somebody else: here, the proxy's own at the deadline.
            let lost = client.call("echo", json!({ "text": "misdelivered" })).await;
            assert_ours(&lost, -31001);
            assert_eq!(text(&client.call("echo", json!({ "text": "x" })).await), "x", "{era:?} {what}: and it goes on");
            assert!(proxy.metric("shadowcat_dropped_total", &[]).await > 0.0, "{era:?} {what}: counted");
        }
        let script = era
            .server()
            .fault(On::tool("echo").nth(1), Do::Duplicate)
            .fault(On::tool("progress").nth(1), Do::LateProgress);
        let proxy = Proxy::start(script).await;
        let client = proxy.client(era).await;
        assert_eq!(text(&client.call("echo", json!({ "text": "first" })).await), "first");
        assert_eq!(messages(client.begin("7", Some("7"), "progress", json!({ "steps": 1 })).await).await.len(), 2);
        for n in 0..4 {
            assert_eq!(text(&client.call("echo", json!({ "text": n.to_string() })).await), n.to_string(), "{era:?}");
        }
        assert_eq!(proxy.metric("shadowcat_dropped_total", &["unknown_answer"]).await, 1.0);
        assert_eq!(proxy.metric("shadowcat_dropped_total", &["no_recipient"]).await, 1.0, "progress after the answer");
    }
}

/// 2025-11-25, Session Management (security): two upstreams behind one listener are two worlds: the session of one is
/// unknown to the other.
#[tokio::test]
async fn a_session_of_one_server_is_unknown_to_the_other() {
    let (one, two) = (
        script_file(&Script { name: "one".into(), ..legacy() }),
        script_file(&Script { name: "two".into(), ..legacy() }),
    );
    let upstream = |name: &str, script: &tempfile::NamedTempFile| shadowcat::settings::UpstreamSettings {
        name: name.into(),
        ..command(PROGRAM, fake(script.path()))
    };
    let both = [upstream("one", &one), upstream("two", &two)];
    let proxy = Proxy::with(legacy(), |settings| settings.upstreams = both.into()).await;
    let at = |name: &str| proxy.at(&format!("/servers/{name}/mcp"));
    let mut session = LegacySession::open(&at("one"), LEGACY, json!({})).ok().await;
    assert_eq!(session.initialized["serverInfo"]["name"], "one");
    assert_eq!(LegacySession::open(&at("two"), LEGACY, json!({})).ok().await.initialized["serverInfo"]["name"], "two");
    session.url = at("two");
    assert_eq!(session.call("echo", json!({ "text": "x" })).ok().await.status, 404);
    for nowhere in [proxy.url.clone(), at("three"), proxy.at("/"), proxy.at("/servers/one")] {
        assert_eq!(send("POST", &nowhere, &json_headers(), &initialize(LEGACY)).await.status, 404, "{nowhere}");
    }
}

/// 2025-11-25, Basic › Responses: an answer carries the id of its request as it was sent. In another spelling it is nobody's, and the
/// real one still arrives.
#[tokio::test]
async fn an_id_in_another_spelling_answers_nothing() {
    let forged = |id: String| {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":"forged"}}]}}}}"#)
    };
    // The proxy counts its requests from 1, so that one of these is about the call.
    let spellings = (1..10).flat_map(|n| [format!("{n}.0"), format!("{n}e0"), format!("\"{n}\""), format!("-{n}")]);
    let lines: Vec<String> = spellings.map(forged).collect();
    for era in Era::BOTH {
        let print = Do::Print { text: lines.join("\n"), times: 1, newline: true };
        let proxy = Proxy::start(era.server().fault(On::tool("echo"), print)).await;
        let client = proxy.client(era).await;
        assert_eq!(text(&client.call("echo", json!({ "text": "real" })).await), "real", "{era:?}");
        assert_eq!(proxy.metric("shadowcat_dropped_total", &["unknown_answer"]).await, 36.0, "{era:?}");
    }
}
