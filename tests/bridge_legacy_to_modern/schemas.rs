//! Results with a structure that no revision with a handshake has (2026-07-28, Tools › Structured Content).

use serde_json::{Value, json};
use shadowcat::settings::{Settings, Structured};
use shadowcat::testing::{Do, On};

use crate::common::*;
use crate::{Client, Place, Stage};

/// What comes of a request where the server answers with this result.
async fn with_result(method: &str, params: &Value, result: &Value, revision: &str) -> (Value, Stage) {
    let (mut answers, stage) = with_results(&[(method, params.clone(), result.clone())], revision, |_| {}).await;
    (answers.remove(0), stage)
}

/// What comes of requests where the server answers the first of each method with this result. The proxy's names for its requests are
/// the same each time: a first run tells which it has.
async fn with_results(said: &[(&str, Value, Value)], revision: &str, change: fn(&mut Settings)) -> (Vec<Value>, Stage) {
    let requests = async |stage: &Stage| {
        let mut client = Client::Http(stage.session(revision).await);
        let mut answers = Vec::new();
        for (method, params, _) in said {
            answers.push(client.request(method, params.clone()).await);
        }
        answers
    };
    let stage = Stage::with(Place::Http, modern(), change).await;
    requests(&stage).await;
    let sent = stage.mock().requests();
    let mut script = modern();
    for (method, _, result) in said {
        let id = sent.iter().find(|one| one.json("/method") == *method).unwrap().json("/id");
        let body = json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string();
        let headers = [("Content-Type".to_owned(), "application/json".to_owned())].into();
        script = script.fault(On::method(method).nth(1), Do::Status { code: 200, headers, body });
    }
    let stage = Stage::with(Place::Http, script, change).await;
    (requests(&stage).await, stage)
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

/// `bridge_structured = "wrap"`: results are wrapped where the list was, and nowhere else.
#[tokio::test]
async fn results_are_wrapped_where_their_schemas_are() {
    let wrap = |settings: &mut Settings| settings.upstreams[0].bridge_structured = Structured::Wrap;
    let call = json!({ "name": "echo", "arguments": { "text": "x" } });
    let array = json!({ "type": "array", "items": { "$ref": "#/$defs/n" }, "$defs": { "n": { "type": "number" } } });
    let object = json!({ "type": "object" });
    let mut moved = array.clone();
    moved["items"]["$ref"] = "#/properties/result/$defs/n".into();
    let wrapped = json!({ "type": "object", "properties": { "result": moved }, "required": ["result"] });
    for (schema, told, structured, expected) in [
        (Some(&array), Some(&wrapped), json!([1]), json!({ "result": [1] })),
        // What the client was told counts, whatever the server says then.
        (Some(&array), Some(&wrapped), json!({ "a": 1 }), json!({ "result": { "a": 1 } })),
        (Some(&object), Some(&object), json!({ "a": 1 }), json!({ "a": 1 })),
        (None, None, json!([1]), Value::Null),
        (None, None, json!({ "a": 1 }), json!({ "a": 1 })),
    ] {
        let mut tool = json!({ "name": "echo", "inputSchema": { "type": "object" } });
        if let Some(schema) = schema {
            tool["outputSchema"] = schema.clone();
        }
        let listed = json!({ "resultType": "complete", "ttlMs": 0, "cacheScope": "private", "tools": [tool] });
        let result = json!({ "resultType": "complete", "content": [], "structuredContent": structured });
        let said = [("tools/list", json!({}), listed), ("tools/call", call.clone(), result)];
        let (answers, stage) = with_results(&said, LEGACY, wrap).await;
        assert_eq!(answers[0]["result"]["tools"][0].get("outputSchema"), told, "{}", answers[0]);
        assert_eq!(answers[1]["result"]["structuredContent"], expected, "{}", answers[1]);
        assert_eq!(stage.lost("output_schema").await, 0.0);
        // Who was told of no tools has results as ever.
        let (answers, _stage) = with_results(&said[1..], LEGACY, wrap).await;
        let expected = if structured.is_object() { structured } else { Value::Null };
        assert_eq!(answers[0]["result"]["structuredContent"], expected, "{}", answers[0]);
    }
}
