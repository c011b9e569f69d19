//! Results with a structure that no revision with a handshake has (2026-07-28, Tools › Structured Content).

use serde_json::{Value, json};
use shadowcat::testing::{Do, On};

use crate::common::*;
use crate::{Client, Place, Stage};

/// What comes of requests where the server answers the nth of `method` with this result. The proxy's names for its requests are the same
/// each time: a first run tells which it has.
async fn with_result(method: &str, params: &Value, result: &Value, revision: &str) -> (Value, Stage) {
    let request = async |stage: &Stage| {
        let mut client = Client::Http(stage.session(revision).await);
        client.request(method, params.clone()).await
    };
    let stage = Stage::new(Place::Http, modern()).await;
    request(&stage).await;
    let sent: Vec<_> = stage.mock().requests().into_iter().filter(|one| one.json("/method") == method).collect();
    let id = sent.last().unwrap().json("/id");
    let body = json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string();
    let headers = [("Content-Type".to_owned(), "application/json".to_owned())].into();
    let fault = Do::Status { code: 200, headers, body };
    let stage = Stage::new(Place::Http, modern().fault(On::method(method).nth(sent.len() as u64), fault)).await;
    (request(&stage).await, stage)
}

/// 2025-11-25, Tools › Output Schema: what is a schema of an object stays, any other goes; and the rest of each tool stays.
#[tokio::test]
async fn schemas_that_the_clients_revision_cannot_have_are_left_out() {
    let object = json!({ "type": "object", "properties": { "a": { "$ref": "#/$defs/x" } }, "$defs": { "x": {} } });
    let listed = json!({ "resultType": "complete", "ttlMs": 0, "cacheScope": "public", "tools": [
        { "name": "a", "inputSchema": { "type": "object" }, "outputSchema": { "type": "array" }, "n": 1.5 },
        { "name": "b", "inputSchema": { "type": "object" }, "outputSchema": object },
        { "name": "c", "inputSchema": { "type": "object", "oneOf": [] }, "outputSchema": { "anyOf": [] } },
    ] });
    for revision in REVISIONS {
        let (answer, stage) = with_result("tools/list", &json!({}), &listed, revision).await;
        let expected = json!({ "tools": [
            { "name": "a", "inputSchema": { "type": "object" }, "n": 1.5 },
            { "name": "b", "inputSchema": { "type": "object" }, "outputSchema": object },
            { "name": "c", "inputSchema": { "type": "object", "oneOf": [] } },
        ] });
        assert_eq!(answer["result"], expected, "{revision}");
        assert_eq!(stage.lost("output_schema").await, 2.0);
    }
}

/// 2025-11-25, Tools › Structured Content: what is no object is told as text, once; and an object is told as text to those who know none.
#[tokio::test]
async fn structured_results_are_told_in_the_clients_words() {
    let call = json!({ "name": "echo", "arguments": { "text": "x" } });
    let text = |text: &str| json!({ "type": "text", "text": text });
    for (structured, content, revision, expected, lost) in [
        (json!([1, 2.5]), json!([]), LEGACY, json!({ "content": [text("[1,2.5]")] }), 1.0),
        (json!([1]), json!([text(" [1] ")]), LEGACY, json!({ "content": [text(" [1] ")] }), 1.0),
        (Value::Null, json!([text("?")]), LEGACY, json!({ "content": [text("?"), text("null")] }), 1.0),
        (json!({ "a": 1 }), json!([]), LEGACY, json!({ "content": [], "structuredContent": { "a": 1 } }), 0.0),
    ] {
        let result = json!({ "resultType": "complete", "content": content, "structuredContent": structured });
        let (answer, stage) = with_result("tools/call", &call, &result, revision).await;
        assert_eq!(answer["result"], expected, "{structured} {revision}");
        assert_eq!(stage.lost("structured_content").await, lost, "{structured}");
    }
    let result = json!({ "resultType": "complete", "content": [], "structuredContent": { "a": 1 } });
    let (answer, _stage) = with_result("tools/call", &call, &result, "2025-03-26").await;
    assert_eq!(answer["result"]["content"], json!([text(r#"{"a":1}"#)]), "{answer}");
}
