//! Which era a server speaks, found out by asking it (2026-07-28, Versioning; Streamable HTTP › Backward Compatibility).

use super::*;
use shadowcat::testing::{At, End, Fault};

const DISCOVER: &str = "server/discover";

#[derive(Debug, Clone, Copy, PartialEq)]
enum Verdict {
    Modern,
    Legacy,
    None,
}

/// What a modern client learns of the verdict.
async fn verdict(stage: &Stage) -> Verdict {
    let response = stage.post(&Modern::new("tools/list")).await;
    let status = response.status;
    let answer = response.answer().ok().await;
    match status {
        // A server with a handshake is used with one, whatever its client speaks.
        200 if answer["result"]["tools"].is_array() && stage.posts("initialize").is_empty() => Verdict::Modern,
        200 if answer["result"]["tools"].is_array() => Verdict::Legacy,
        503 => {
            assert_ours(&answer, -31002);
            Verdict::None
        }
        _ => panic!("{status} {answer}"),
    }
}

/// Each kind of answer to the question, and what it says. What is no evidence is forgotten: the next request asks again.
#[tokio::test]
async fn only_positive_evidence_makes_a_server_modern() {
    let result = |versions: Value| {
        let result = json!({ "supportedVersions": versions, "capabilities": {}, "resultType": "complete" });
        respond(200, "application/json", &json!({ "jsonrpc": "2.0", "id": 1, "result": result }).to_string())
    };
    let error = |status, code, data: Value| respond(status, "application/json", &error_body(code, &data));
    let supported = |versions: Value| json!({ "supported": versions, "requested": "2026-07-28" });
    let rows = [
        (result(json!(["2026-07-28", "2025-11-25"])), Verdict::Modern),
        (result(json!(["2025-11-25", "2025-06-18"])), Verdict::Legacy),
        (error(400, -32022, supported(json!(["2026-07-28"]))), Verdict::Modern),
        (error(400, -32022, supported(json!(["2025-11-25"]))), Verdict::Legacy),
        (error(400, -32020, Value::Null), Verdict::Modern),
        (error(400, -32021, json!({ "requiredCapabilities": {} })), Verdict::Modern),
        (error(400, -32602, Value::Null), Verdict::Legacy),
        (error(200, -32602, Value::Null), Verdict::Legacy),
        (error(404, -32601, Value::Null), Verdict::Legacy),
        (error(200, -32601, Value::Null), Verdict::Legacy),
        (error(400, -32000, Value::Null), Verdict::Legacy),
        (respond(400, "text/plain", ""), Verdict::Legacy),
        (respond(404, "text/html", "<h1>Not found</h1>"), Verdict::Legacy),
        (respond(405, "text/plain", "Method not allowed"), Verdict::Legacy),
        (respond(406, "application/json", "{}"), Verdict::Legacy),
        (respond(401, "application/json", r#"{"error":"unauthorized"}"#), Verdict::None),
        (error(401, -32601, Value::Null), Verdict::None),
        (respond(403, "text/plain", "no"), Verdict::None),
        (respond(429, "text/plain", ""), Verdict::None),
        (respond(500, "text/html", "<h1>Oops</h1>"), Verdict::None),
        (error(500, -32601, Value::Null), Verdict::None),
        (respond(502, "text/plain", ""), Verdict::None),
        (respond(503, "text/plain", ""), Verdict::None),
        (respond(504, "text/plain", ""), Verdict::None),
        (respond(302, "text/plain", ""), Verdict::None),
        (Do::Cut { after: None, end: End::Abrupt }, Verdict::None),
        (Do::Cut { after: None, end: End::Reset }, Verdict::None),
        (Do::Cut { after: Some(At { events: 0, bytes: 9 }), end: End::Abrupt }, Verdict::None),
    ];
    for (fault, expected) in rows {
        let stage = Stage::new(Script::default().fault(On::method(DISCOVER).nth(1), fault.clone())).await;
        assert_eq!(verdict(&stage).await, expected, "{fault:?}");
        let again = if expected == Verdict::None { Verdict::Modern } else { expected };
        assert_eq!(verdict(&stage).await, again, "after {fault:?}");
        assert_eq!(stage.posts(DISCOVER).len(), if expected == Verdict::None { 2 } else { 1 }, "{fault:?}");
    }
}

/// Silence and absence say nothing about a server behind HTTP: it may be slow, or down.
#[tokio::test]
async fn silence_and_absence_are_no_evidence() {
    let silent = Script::default().fault(On::method(DISCOVER).nth(1), Do::Hang);
    let stage = Stage::with(silent, |settings| settings.timeouts.probe = std::time::Duration::from_millis(50)).await;
    assert_eq!(verdict(&stage).await, Verdict::None);
    assert_eq!(verdict(&stage).await, Verdict::Modern);

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (_proxy, url) = front(&format!("http://{free}/mcp"), |_| {}).await;
    let response = Modern::new("tools/list").post(&url).ok().await;
    assert_eq!((response.status, response.headers.get("retry-after").is_some()), (503, true));
    assert_ours(&response.answer().ok().await, -31002);
    let mock = MockSse::start_on(free, Script::default()).ok().await;
    assert_eq!(Modern::new("tools/list").post(&url).ok().await.status, 200);
    drop(mock);
}

/// However many wait for a server that does not answer the question, none waits for longer than one that asks alone, and they
/// do not ask one after the other.
#[tokio::test]
async fn those_who_wait_for_a_silent_server_do_not_wait_for_each_other() {
    let silent = Script::default().fault(On::method(DISCOVER), Do::Hang);
    let stage = Stage::with(silent, |settings| {
        settings.timeouts.probe = std::time::Duration::from_millis(200);
        settings.timeouts.acquire = std::time::Duration::from_millis(200);
    })
    .await;
    let together = (0..30).map(|_| async { Modern::new("tools/list").post(&stage.url).ok().await.status });
    assert_eq!(futures_util::future::join_all(together).await, [503; 30]);
    assert!(stage.posts(DISCOVER).len() <= 5, "asked {} times", stage.posts(DISCOVER).len());
}

/// The question is a request that a strict modern server has nothing to object to, and an old one can answer.
#[tokio::test]
async fn the_question_is_complete() {
    let stage = Stage::new(modern()).await;
    assert_eq!(verdict(&stage).await, Verdict::Modern);
    let asked = &stage.posts(DISCOVER)[0];
    assert_eq!(asked.headers.get("mcp-protocol-version"), Some("2026-07-28"));
    assert_eq!(asked.headers.get("mcp-method"), Some(DISCOVER));
    assert_eq!(asked.headers.get("accept"), Some("application/json, text/event-stream"));
    assert_eq!(asked.headers.get("content-type"), Some("application/json"));
    let meta = asked.json("/params/_meta");
    for key in ["protocolVersion", "clientInfo", "clientCapabilities"] {
        assert!(!meta[format!("io.modelcontextprotocol/{key}")].is_null(), "{key}: {meta}");
    }
}

/// It is asked once, however many clients want to know and at the same time.
#[tokio::test]
async fn a_verdict_is_shared_and_kept() {
    for script in [modern(), legacy()] {
        let slow = script.fault(On::method(DISCOVER), Do::Delay { ms: 50 });
        let stage = Stage::new(slow).await;
        let verdicts = futures_util::future::join_all((0..8).map(|_| verdict(&stage))).await;
        assert!(verdicts.iter().all(|verdict| *verdict == verdicts[0] && *verdict != Verdict::None), "{verdicts:?}");
        assert_eq!(verdict(&stage).await, verdicts[0]);
        assert_eq!(stage.posts(DISCOVER).len(), 1);
    }
}

/// What is configured is not asked.
#[tokio::test]
async fn a_configured_era_is_not_asked_for() {
    for (era, expected) in [(EraChoice::Legacy, Verdict::Legacy), (EraChoice::Modern, Verdict::Modern)] {
        let stage = Stage::with(Script::default(), |settings| settings.upstreams[0].era = era).await;
        assert_eq!(verdict(&stage).await, expected);
        assert_eq!(stage.posts(DISCOVER).len(), 0, "{era:?}");
    }
}

/// A legacy client does not wait for a question that is not about its era.
#[tokio::test]
async fn a_handshake_asks_nothing() {
    let stage = Stage::new(Script::default()).await;
    let _session = stage.session().await;
    assert_eq!(stage.posts(DISCOVER).len(), 0);
}

/// A server that comes back in the other era is asked again: what an old server says to a stateless request is no answer to it.
#[tokio::test]
async fn a_verdict_ends_when_it_turns_out_wrong() {
    let stage = Stage::new(Script::default()).await;
    assert_eq!(verdict(&stage).await, Verdict::Modern);
    for (refusal, method) in [
        (respond(400, "application/json", &error_body(-32600, &Value::Null)), "tools/list"),
        (respond(404, "text/plain", "Not found"), "tools/list"),
        (Do::Cut { after: None, end: End::Abrupt }, "tools/call"),
    ] {
        stage.mock.add_fault(Fault { on: On::method(method).nth(1), fault: refusal }).unwrap();
        let asked = stage.posts(DISCOVER).len();
        let request =
            if method == "tools/list" { Modern::new(method) } else { Modern::call("echo", json!({ "text": "x" })) };
        let answer = stage.post(&request).await.answer().ok().await;
        assert!(answer["error"].is_object(), "{answer}");
        assert_eq!(verdict(&stage).await, Verdict::Modern);
        assert_eq!(stage.posts(DISCOVER).len(), asked + 1, "after {method}");
    }
}

/// Versioning: the question itself is answered for a server with a handshake, out of that.
#[tokio::test]
async fn the_question_is_answered_for_a_server_with_a_handshake() {
    let stage = Stage::new(legacy()).await;
    let response = stage.post(&Modern::new(DISCOVER)).await;
    assert_eq!(response.status, 200);
    let answer = response.answer().ok().await;
    assert_eq!((&answer["id"], &answer["result"]["supportedVersions"][1]), (&json!(1), &json!(LEGACY)), "{answer}");
    assert_eq!((stage.posts(DISCOVER).len(), stage.posts("initialize").len()), (1, 1));
}
