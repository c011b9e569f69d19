//! Arrays of messages: a matter of 2025-03-26.

use serde_json::{Value, json};
use shadowcat::settings::Settings;
use shadowcat::testing::client::LegacySession;

use crate::common::*;

fn echo(id: &str) -> String {
    message(id, "tools/call", &json!({ "name": "echo", "arguments": { "text": id } }).to_string())
}

fn array(messages: &[String]) -> String {
    format!("[{}]", messages.join(","))
}

/// Posts an array; the answers by their ids, however they come.
async fn answers(session: &LegacySession, accept: &str, batch: &[String]) -> Vec<Value> {
    let mut headers = session.headers();
    headers.extend([("Content-Type", "application/json"), ("Accept", accept)]);
    let response = send("POST", &session.url, &headers, &array(batch)).await;
    assert_eq!(response.status, 200);
    let mut answers = if response.is_sse() {
        messages(response).await
    } else {
        serde_json::from_str(&response.text().ok().await).unwrap()
    };
    answers.sort_by_key(|answer| answer["id"].to_string());
    answers
}

/// 2025-03-26, Basic › Batching; Transports › Sending Messages: each message of an array is answered for itself, as one array or
/// on one stream; one bad element harms none of the others.
#[tokio::test]
async fn each_message_of_a_batch_is_answered_for_itself() {
    let proxy = Proxy::start(legacy()).await;
    let session = proxy.session_of("2025-03-26").await;
    let batch = [
        echo("1"),
        notification("notifications/roots/list_changed", json!({})),
        echo("\"1\""),
        initialize("2025-03-26").replace("\"id\":0", "\"id\":2"),
        message("3", "ping", "{}"),
        r#"{"jsonrpc":"2.0","id":4}"#.into(),
        "17".into(),
        message("5", "no/such/method", "{}"),
        echo("6").replace("echo", "progress"),
    ];
    for accept in ["application/json", "text/event-stream", "application/json, text/event-stream"] {
        let answers = answers(&session, accept, &batch).await;
        let outcome = |answer: &Value| match answer.get("result") {
            Some(_) => answer["id"].to_string(),
            None => format!("{}: {}", answer["id"], code(answer)),
        };
        let outcomes: Vec<String> = answers.iter().map(outcome).collect();
        assert_eq!(
            outcomes,
            ["\"1\"", "1", "2: -32600", "3", "4: -32600", "5: -32601", "6", "null: -32600"],
            "{accept}"
        );
        assert_eq!((text(&answers[0]), text(&answers[1])), ("\"1\"", "1"), "{accept}");
    }
    let stats = Client::Legacy(session).stats().await;
    assert_eq!(stats["notifications"]["notifications/roots/list_changed"], 3);
    assert_eq!(stats["junk"], 0, "each message went upstream alone");
    assert_eq!(stats["requests"]["initialize"], 1);
}

/// 2025-03-26, Transports › Sending Messages: an array without requests is accepted with 202.
#[tokio::test]
async fn a_batch_without_requests_is_accepted() {
    let proxy = Proxy::start(legacy()).await;
    let session = proxy.session_of("2025-03-26").await;
    let mut asked = session.call("sample", json!({ "prompt": "?" })).ok().await;
    let question = next(&mut asked).await.unwrap().json();
    let said = json!({ "role": "assistant", "model": "m", "content": { "type": "text", "text": "Hi" } });
    let answer = json!({ "jsonrpc": "2.0", "id": question["id"], "result": said }).to_string();
    let batch = array(&[answer, cancelled(json!(77)), r#"{"jsonrpc":"2.0","id":99,"result":{}}"#.into()]);
    let response = session.send(&batch).ok().await;
    assert_eq!((response.status, response.text().ok().await), (202, String::new()));
    assert_eq!(text(&next(&mut asked).await.unwrap().json()), "sampled: Hi");
}

/// 2025-06-18, Key Changes: later revisions have no arrays; nothing of one is executed. Neither is anything of an empty one,
/// or of one that is longer than allowed.
#[tokio::test]
async fn batches_are_refused_where_there_are_none() {
    let proxy = Proxy::with(legacy(), |settings: &mut Settings| settings.limits.batch = 3).await;
    let count = message("1", "tools/call", r#"{"name":"count","arguments":{"key":"k"}}"#);
    for revision in REVISIONS {
        let session = proxy.session_of(revision).await;
        let good = revision == "2025-03-26";
        let rows = [(vec![count.clone()], good), (vec![], false), (vec![count.clone(); 4], false)];
        for (batch, served) in rows {
            let response = session.send(&array(&batch)).ok().await;
            assert_eq!(response.status, if served { 200 } else { 400 }, "{revision} {}", batch.len());
            match served {
                true => assert_eq!(messages(response).await.len(), 1),
                false => assert_ours(&response.json().ok().await, -32600),
            }
        }
        let counted = session.send(&count).ok().await.answer().ok().await;
        assert_eq!(text(&counted), if good { "2" } else { "1" }, "{revision}");
    }
    let mut headers = json_headers();
    assert_eq!(
        send("POST", &proxy.url, &headers, &array(&[initialize(LEGACY)])).await.status,
        400,
        "nor can a session begin in one"
    );
    headers.push(("MCP-Protocol-Version", MODERN));
    assert_eq!(send("POST", &proxy.url, &headers, &array(&[count])).await.status, 400);
}

/// 2025-03-26, Basic › Batching: a server of that revision may answer in arrays, too.
#[tokio::test]
async fn a_servers_array_is_taken_apart() {
    let pair = r#"[{"jsonrpc":"2.0","method":"vendor/one"},{"jsonrpc":"2.0","method":"vendor/two"}]"#;
    let print = shadowcat::testing::Do::Print { text: pair.into(), times: 1, newline: true };
    let proxy = Proxy::start(legacy().fault(shadowcat::testing::On::tool("echo"), print)).await;
    let session = proxy.session_of("2025-03-26").await;
    let mut stream = session.stream(None).ok().await;
    assert_eq!(text(&session.call("echo", json!({ "text": "x" })).ok().await.answer().ok().await), "x");
    for method in ["vendor/one", "vendor/two"] {
        assert_eq!(next(&mut stream).await.unwrap().json()["method"], method);
    }
}
