//! What passes through unchanged, and the little that does not.

use serde_json::json;
use shadowcat::testing::client::{self, Response};

use crate::common::*;

/// Posts a `tools/call` whose `params` are this text, to a server of this era. For a modern one the envelope is put
/// in at the end of `_meta`, with which `params` has to end.
async fn call(proxy: &Proxy, client: &Client, id: &str, params: &str) -> Response {
    match client {
        Client::Legacy(session) => session.send(&message(id, "tools/call", params)).ok().await,
        Client::Modern(url) => {
            assert!(proxy.url == *url);
            let name: serde_json::Value = serde_json::from_str(params).unwrap();
            let name = name["name"].as_str().unwrap().to_owned();
            let headers = [("MCP-Protocol-Version", MODERN), ("Mcp-Method", "tools/call"), ("Mcp-Name", name.as_str())];
            client::post(url, &message(id, "tools/call", params), &headers).ok().await
        }
    }
}

/// 2025-11-25 and 2026-07-28, Basic: unknown fields, the digits of numbers, the order of keys, escapes and white space of a
/// request reach the server byte for byte. Only the progress token is the proxy's.
#[tokio::test]
async fn requests_reach_the_server_byte_for_byte() {
    let odd = r#""arguments" : {"z":1.10,"a":1E5,"big":18446744073709551616,"neg":-0,"t":"\u0041\/ü☃ \ud83d\ude00","n":[ ],"o":{ }},
      "unknown":{"b":0.10000000000000000000001,"a":[null,true,1e308]}"#;
    let envelope = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{ "elicitation" : {} },"vendor.example/x":  1.0 ,"traceparent":"00-ab-cd-01""#;
    for era in Era::BOTH {
        let proxy = Proxy::start(era.server()).await;
        let client = proxy.client(era).await;
        let params = format!(r#"{{"name":"meta", {odd},"_meta":{{"progressToken":"T",{envelope}}}}}"#);
        let params = match era {
            Era::Modern => params,
            Era::Legacy => params.replace("io.modelcontextprotocol/", "com.example/"),
        };
        let answer = call(&proxy, &client, "1", &params).await.answer().ok().await;
        let arrived = text(&answer);
        let (before, rest) = params.split_once("\"T\"").unwrap();
        // Between tokens a line break cannot stay one: it would end the line.
        let one_line = |text: &str| text.replace('\n', " ");
        let token = arrived.strip_prefix(&one_line(before)).and_then(|token| token.strip_suffix(&one_line(rest)));
        let token = token.unwrap_or_else(|| panic!("{era:?}\nsent:    {params}\narrived: {arrived}"));
        assert!(token.parse::<u64>().is_ok(), "the token is the proxy's own: {token}");
        assert_eq!(client.stats().await["junk"], 0, "{era:?}: a line break between tokens is not one on the pipe");
    }
}

/// 2025-11-25 and 2026-07-28, Basic: what a server says reaches its client byte for byte.
#[tokio::test]
async fn answers_and_notifications_reach_the_client_byte_for_byte() {
    let params = r#"{"z":1.10,"a":18446744073709551616,"n":1E5,"u":"\u00fc\/","o":{"b":[],"a":null}}"#;
    for era in Era::BOTH {
        let proxy = Proxy::start(era.server()).await;
        let client = proxy.client(era).await;
        let envelope = match era {
            Era::Legacy => String::new(),
            Era::Modern => r#","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/logLevel":"debug"}"#.to_owned(),
        };
        let call_params =
            format!(r#"{{"name":"notify","arguments":{{"method":"vendor/odd","params":{params}}}{envelope}}}"#);
        // An unknown notification of a legacy server belongs to no request: it goes to the session's own stream.
        let mut standing = match &client {
            Client::Legacy(session) => Some(session.stream(None).ok().await),
            Client::Modern(_) => None,
        };
        let mut response = call(&proxy, &client, "\"i\\u0064\"", &call_params).await;
        let notification = next(standing.as_mut().unwrap_or(&mut response)).await.unwrap().data.unwrap();
        assert_eq!(notification, format!(r#"{{"jsonrpc":"2.0","method":"vendor/odd","params":{params}}}"#), "{era:?}");
        let answer = match era {
            Era::Legacy => response.text().ok().await,
            Era::Modern => next(&mut response).await.unwrap().data.unwrap(),
        };
        assert!(answer.starts_with(r#"{"jsonrpc":"2.0","id":"i\u0064","result":{"#), "{answer}");
    }
}

/// 2025-11-25, Basic › Requests: an id comes back as it was written, whatever it is and however long.
#[tokio::test]
async fn ids_come_back_as_they_were_written() {
    let long = format!("\"{}\"", "x".repeat(10_000));
    let ids = [
        "1",
        "0",
        "-1",
        "1.0",
        "1e2",
        "9007199254740993",
        "18446744073709551616",
        "\"1\"",
        "\"\"",
        "\"\\u0061\"",
        &long,
    ];
    for era in Era::BOTH {
        let proxy = Proxy::start(era.server()).await;
        let client = proxy.client(era).await;
        for id in ids {
            let response = client.begin(id, None, "echo", json!({ "text": "x" })).await;
            let body = response.text().ok().await;
            assert!(body.contains(&format!(r#""id":{id},"#)), "{era:?} {id}: {body}");
        }
        let stats = client.stats().await;
        let seen: Vec<i64> =
            stats["last_ids"].as_array().unwrap().iter().filter_map(|id| id.as_str()?.parse().ok()).collect();
        assert!(
            seen.windows(2).all(|pair| pair[0] < pair[1]),
            "upstream ids are the proxy's own and never used again: {stats}"
        );
    }
}

/// 2025-11-25, Progress: the token comes back as it was written, and nothing comes for a call without one.
#[tokio::test]
async fn progress_comes_under_the_clients_own_token() {
    for era in Era::BOTH {
        let proxy = Proxy::start(era.server()).await;
        let client = proxy.client(era).await;
        for token in ["\"t\"", "1", "0", "-7", "9007199254740993", "\"1\""] {
            let response = client.begin("1", Some(token), "progress", json!({ "steps": 3 })).await;
            let heard = messages(response).await;
            assert_eq!(heard.len(), 4, "{era:?} {heard:?}");
            for (message, step) in heard.iter().zip(1..=3) {
                let expected: serde_json::Value = serde_json::from_str(token).unwrap();
                assert_eq!(message["params"]["progressToken"], expected, "{era:?}");
                assert_eq!(message["params"]["progress"], step, "in order");
            }
        }
        let heard = messages(client.begin("1", None, "progress", json!({ "steps": 3 })).await).await;
        assert_eq!(heard.len(), 1, "{era:?} {heard:?}");
    }
}

/// 2025-11-25, Tools, Resources, Prompts, Completion: everything a server can do is there, page by page.
#[tokio::test]
async fn a_session_can_do_all_that_its_server_can() {
    let proxy = Proxy::start(shadowcat::testing::Script { page_size: 7, ..legacy() }).await;
    let session = proxy.session().await;
    let ask = async |method: &str, params: serde_json::Value| {
        let answer = session.request(method, params).ok().await.answer().ok().await;
        assert!(answer.get("result").is_some(), "{method}: {answer}");
        answer["result"].clone()
    };
    let mut tools = Vec::new();
    let mut cursor = json!({});
    loop {
        let page = ask("tools/list", cursor).await;
        tools.extend(page["tools"].as_array().unwrap().clone());
        let Some(more) = page.get("nextCursor") else { break };
        cursor = json!({ "cursor": more });
    }
    assert!(tools.len() > 14 && tools.iter().any(|tool| tool["name"] == "region"), "{}", tools.len());
    assert!(session.initialized["capabilities"]["logging"].is_object());
    assert_eq!(ask("resources/list", json!({})).await["resources"][0]["name"], "hello");
    assert_eq!(ask("resources/templates/list", json!({})).await["resourceTemplates"][0]["name"], "count");
    assert_eq!(
        ask("resources/read", json!({ "uri": "shadowcat://demo/hello.txt" })).await["contents"][0]["mimeType"],
        "text/plain"
    );
    let prompt = ask("prompts/get", json!({ "name": "greet", "arguments": { "name": "Ada" } })).await;
    assert!(prompt["messages"][0]["content"]["text"].as_str().unwrap().contains("Ada"));
    let reference = json!({ "type": "ref/prompt", "name": "greet" });
    let completion =
        ask("completion/complete", json!({ "ref": reference, "argument": { "name": "style", "value": "f" } })).await;
    assert_eq!(completion["completion"]["values"], json!(["formal", "friendly", "funny"]));
    assert_eq!(ask("logging/setLevel", json!({ "level": "error" })).await, json!({}));
}

/// 2025-11-25, Tasks: the wish for a task, its methods and the news of it cross like anything else; what a server does not
/// know of them, it says itself.
#[tokio::test]
async fn tasks_cross() {
    let proxy = Proxy::start(legacy()).await;
    let session = proxy.session().await;
    let params = r#"{"name":"meta","task":{"ttl":60000,"x":1.0}}"#;
    let answer = session.send(&message("1", "tools/call", params)).ok().await.answer().ok().await;
    assert_eq!(text(&answer), params);
    let mut standing = session.stream(None).ok().await;
    let status = r#"{"taskId":"t","status":"working","ttl":60000,"pollInterval":1.50}"#;
    let notify =
        format!(r#"{{"name":"notify","arguments":{{"method":"notifications/tasks/status","params":{status}}}}}"#);
    session.send(&message("2", "tools/call", &notify)).ok().await.answer().ok().await;
    let news = next(&mut standing).await.unwrap().data.unwrap();
    assert_eq!(news, format!(r#"{{"jsonrpc":"2.0","method":"notifications/tasks/status","params":{status}}}"#));
    for method in ["tasks/get", "tasks/result", "tasks/list", "tasks/cancel"] {
        let answer = session.send(&message("3", method, r#"{"taskId":"t"}"#)).ok().await.answer().ok().await;
        assert_eq!(code(&answer), -32601, "{method}");
        assert_eq!(answer["error"]["data"].get("origin"), None, "the server's own words: {answer}");
    }
}
