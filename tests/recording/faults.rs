//! Faults in live traffic: what a client sees of them, and what stands on the tape.

use serde_json::json;
use shadowcat::faults::Plan;
use shadowcat::settings::{RecordEdges, Settings};
use shadowcat::tape::{Frame, Party};
use shadowcat::testing::client::Modern;

use super::common::{Client, Era, InTime, Proxy, code, legacy, message, messages, rest, send, text};
use super::{OnDisk, recorded, tapes};

fn plan(faults: serde_json::Value) -> impl FnOnce(&mut Settings) {
    let plan = Plan::from_json(&json!({ "seed": 7, "faults": faults }).to_string()).unwrap();
    move |settings| settings.faults = Some(plan)
}

fn done_by_faults(tape: &OnDisk) -> Vec<(Party, String)> {
    let did = |frame: &Frame| frame.by.iter().filter_map(|by| Some((frame.from?, by.did.clone()))).collect::<Vec<_>>();
    tape.frames.iter().flat_map(did).collect()
}

/// C-TAPE-1: the nth call of a tool fails as planned, the others do not; the server has not seen the one that was answered for it; and
/// the tape says what was done.
#[tokio::test]
async fn the_nth_call_fails_as_planned_and_the_tape_says_so() {
    for era in Era::BOTH {
        let folder = tempfile::tempdir().unwrap();
        let faults = json!([{ "on": { "tool": "count", "nth": 2 }, "do": { "error": { "code": -32603, "message": "planned" } } }]);
        let proxy = Proxy::with(era.server(), |settings| {
            plan(faults)(settings);
            recorded(folder.path(), RecordEdges::Client)(settings);
        })
        .await;
        let client = proxy.client(era).await;
        let count = async || client.call("count", json!({ "key": "k" })).await;
        assert_eq!(text(&count().await), "1");
        let failed = count().await;
        assert_eq!((code(&failed), failed["id"].clone()), (-32603, json!(7)), "{failed}");
        assert_eq!(text(&count().await), "2", "the second call never came to the server");
        assert_eq!(text(&client.call("echo", json!({ "text": "fine" })).await), "fine");
        drop(client);
        proxy.close().await;
        let tapes = tapes(folder.path());
        let did: Vec<_> = tapes.iter().flat_map(done_by_faults).collect();
        assert_eq!(did, [(Party::Client, "answered".to_owned())], "{era:?}");
    }
}

/// An answer that is an event comes twice, a progress notification too, each where the plan says so.
#[tokio::test]
async fn events_come_twice_where_that_is_planned() {
    let faults = json!([
        { "on": { "tool": "progress" }, "do": "duplicate" },
        { "on": { "from": "server", "method": "notifications/progress", "nth": 1 }, "do": "duplicate" },
    ]);
    let proxy = Proxy::with(legacy(), plan(faults)).await;
    let client = Client::Legacy(proxy.session().await);
    let response = client.begin("9", Some("\"t\""), "progress", json!({ "steps": 2 })).await;
    let progress: Vec<_> = messages(response).await.iter().map(|one| one["params"]["progress"].clone()).collect();
    assert_eq!(progress, [json!(1), json!(1), json!(2), json!(null), json!(null)]);
    proxy.close().await;
}

/// A connection is cut in place of the answer: the request was executed, and its client cannot know.
#[tokio::test]
async fn a_cut_takes_the_answer_and_not_the_request() {
    for era in Era::BOTH {
        let proxy =
            Proxy::with(era.server(), plan(json!([{ "on": { "tool": "count", "nth": 1 }, "do": { "cut": {} } }])))
                .await;
        let client = proxy.client(era).await;
        let arguments = json!({ "key": "k" });
        let answered = match &client {
            Client::Legacy(session) => session.call("count", arguments).await,
            Client::Modern(url) => Modern::call("count", arguments).post(url).await,
        };
        // Before the head of the answer was out, or after it.
        if let Ok(response) = answered {
            response.text().await.unwrap_err();
        }
        assert_eq!(text(&client.call("count", json!({ "key": "k" })).await), "2", "{era:?}");
        proxy.close().await;
    }
}

/// What the server says by itself can be lost; a status with headers comes instead of an answer; text that is no message comes before
/// an event; an answer is late.
#[tokio::test]
async fn messages_are_lost_refused_garbled_and_late_as_planned() {
    let faults = json!([
        { "on": { "from": "server", "method": "notifications/progress", "nth": 2 }, "do": "hang" },
        { "on": { "tool": "progress" }, "do": { "print": { "text": "Welcome!" } } },
        { "on": { "tool": "progress" }, "do": { "late": { "ms": 1 } } },
        { "on": { "method": "tools/list", "nth": 1 }, "do": { "status": { "code": 429, "headers": { "Retry-After": "3" } } } },
        { "on": { "method": "ping" }, "do": { "delay": { "ms": 1 } } },
    ]);
    let proxy = Proxy::with(legacy(), plan(faults)).await;
    let session = proxy.session().await;
    let busy = session.request("tools/list", json!({})).ok().await;
    assert_eq!((busy.status, busy.headers.get("retry-after")), (429, Some("3")));
    assert_eq!(session.request("tools/list", json!({})).ok().await.status, 200);
    assert_eq!(session.request("ping", json!({})).ok().await.status, 200);
    let client = Client::Legacy(session);
    let mut response = client.begin("9", Some("\"t\""), "progress", json!({ "steps": 3 })).await;
    let said: Vec<_> = rest(&mut response).await.into_iter().filter_map(|event| event.data).collect();
    assert_eq!(said.len(), 4, "{said:?}");
    assert!(said[0].contains("\"progress\":1") && said[1].contains("\"progress\":3"), "{said:?}");
    assert_eq!(said[2], "Welcome!");
    assert!(said[3].contains("\"result\""), "{said:?}");
    proxy.close().await;
}

/// Chance is the same for the same seed, and about as often as it is said to be.
#[tokio::test]
async fn chance_is_seeded() {
    let run = async || {
        let faults = json!([{ "on": { "tool": "echo", "chance": 0.5 }, "do": { "error": { "code": -32603 } } }]);
        let proxy = Proxy::with(legacy(), plan(faults)).await;
        let client = Client::Legacy(proxy.session().await);
        let mut failed = Vec::new();
        for _ in 0..40 {
            failed.push(client.call("echo", json!({ "text": "x" })).await.get("error").is_some());
        }
        proxy.close().await;
        failed
    };
    let (first, second) = (run().await, run().await);
    assert_eq!(first, second);
    let failed = first.iter().filter(|failed| **failed).count();
    assert!((8..=32).contains(&failed), "{first:?}");
}

/// What cannot be is refused when the plan is read, with its place.
#[test]
fn impossible_plans_are_refused() {
    let error =
        |fault: serde_json::Value| Plan::from_json(&json!({ "faults": [fault] }).to_string()).unwrap_err().to_string();
    assert_eq!(error(json!({ "on": { "nth": 0 }, "do": "hang" })), "faults[0]: `nth` must be from 1");
    assert_eq!(error(json!({ "on": { "chance": 2.0 }, "do": "hang" })), "faults[0]: `chance` must be from 0 to 1");
    assert_eq!(
        error(json!({ "on": { "from": "server" }, "do": { "late": { "ms": 1 } } })),
        "faults[0]: `late` is about requests of the client, not about what the server says by itself"
    );
    assert_eq!(
        error(json!({ "do": { "status": { "code": 503, "headers": { "a b": "c" } } } })),
        "faults[0]: `a b` is no header, or its value is none"
    );
    assert!(error(json!({ "do": { "stderr": { "bytes": 1 } } })).contains("unknown variant `stderr`"));
}

/// A batch of which a message was to fail is refused as a whole, and the tape says so; another one passes.
#[tokio::test]
async fn a_batch_with_a_fault_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::with(legacy(), |settings| {
        plan(json!([{ "on": { "tool": "count" }, "do": { "error": { "code": -32603 } } }]))(settings);
        recorded(folder.path(), RecordEdges::Client)(settings);
    })
    .await;
    let session = proxy.session_of("2025-03-26").await;
    let batch = async |tool: &str| {
        let call = message("1", "tools/call", &json!({ "name": tool, "arguments": { "text": "x" } }).to_string());
        let mut headers = session.headers();
        headers.extend([("Content-Type", "application/json"), ("Accept", "application/json, text/event-stream")]);
        let response = send("POST", &proxy.url, &headers, &format!("[{},{call}]", message("2", "ping", "{}"))).await;
        (response.status, response.text().ok().await)
    };
    let (status, said) = batch("count").await;
    assert!(status == 503 && said.contains("intercepted"), "{status} {said}");
    assert_eq!(batch("echo").await.0, 200);
    session.delete().ok().await;
    proxy.close().await;
    assert_eq!(done_by_faults(&tapes(folder.path())[0]), [(Party::Client, "refused".to_owned())]);
}
