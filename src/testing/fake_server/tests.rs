//! Dialogues with the fake server over an in-memory pipe.

mod misbehaviour;
mod tools;

use std::future::Future;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, ReadHalf, WriteHalf};

use super::*;
use crate::testing::{Discover, Served};

/// The client's end of the pipe.
struct Client {
    reader: BufReader<ReadHalf<DuplexStream>>,
    writer: WriteHalf<DuplexStream>,
}

impl Client {
    async fn send(&mut self, text: &str) {
        self.writer.write_all(format!("{text}\n").as_bytes()).await.unwrap();
    }

    /// The next line as text; empty at the end of the stream.
    async fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).await.unwrap();
        line
    }

    async fn next(&mut self) -> Value {
        let line = self.line().await;
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line:?}"))
    }

    /// Whether nothing comes for a long time.
    async fn silence(&mut self) -> bool {
        tokio::time::timeout(Duration::from_secs(60), self.reader.fill_buf()).await.is_err()
    }

    async fn ask(&mut self, text: &str) -> Value {
        self.send(text).await;
        self.next().await
    }

    async fn initialize(&mut self, revision: &str, capabilities: Value) -> Value {
        let params = json!({ "protocolVersion": revision, "capabilities": capabilities, "clientInfo": { "name": "t", "version": "0" } });
        let answer = self.ask(&format!(r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{params}}}"#)).await;
        self.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
        answer["result"].clone()
    }

    async fn call(&mut self, id: &str, tool: &str, arguments: Value) {
        self.send(&call(id, tool, arguments, &json!({}))).await;
    }
}

/// A legacy call with `_meta` as given.
fn call(id: &str, tool: &str, arguments: Value, meta: &Value) -> String {
    let params = json!({ "name": tool, "arguments": arguments, "_meta": meta });
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{params}}}"#)
}

/// A modern request.
fn modern(id: &str, method: &str, mut params: Value, capabilities: Value) -> String {
    let mut meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": capabilities,
    });
    if let Some(extra) = params["_meta"].as_object() {
        meta.as_object_mut().unwrap().extend(extra.clone());
    }
    params["_meta"] = meta;
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#)
}

fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {answer}"))
}

/// Plays a dialogue with a server; gives back how the server ended once the client has gone.
async fn with<F: Future>(script: Script, dialogue: impl FnOnce(Client) -> F) -> Ending {
    let (client, server) = tokio::io::duplex(1 << 16);
    let (reader, writer) = tokio::io::split(client);
    let (input, output) = tokio::io::split(server);
    let client = Client { reader: BufReader::new(reader), writer };
    tokio::join!(serve(input, output, script), dialogue(client)).0
}

/// A dialogue with an initialised legacy server.
async fn legacy<F: Future>(script: Script, dialogue: impl FnOnce(Client) -> F) -> Ending {
    with(script, async |mut client| {
        client.initialize("2025-11-25", json!({ "elicitation": {}, "sampling": {}, "roots": {} })).await;
        dialogue(client).await;
    })
    .await
}

/// Whoever runs the server may do so in a task.
#[test]
fn it_can_be_spawned() {
    fn spawnable(_: impl Future<Output = Ending> + Send + 'static) {}
    spawnable(serve(tokio::io::empty(), tokio::io::sink(), Script::default()));
}

#[tokio::test(start_paused = true)]
async fn ids_come_back_as_they_were_written() {
    legacy(Script::default(), async |mut client: Client| {
        for id in ["1", "1.0", "1e2", "9007199254740993", "18446744073709551616", r#""a\u0062""#, "-0"] {
            client.call(id, "echo", json!({ "text": "x" })).await;
            let line = client.line().await;
            assert!(line.contains(&format!(r#""id":{id},"#)), "{id} in {line}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_the_input_ends() {
    let ending = with(Script::default(), async |client| drop(client)).await;
    assert!(matches!(ending, Ending::Eof));
}

#[tokio::test(start_paused = true)]
async fn legacy_results_have_nothing_modern() {
    for revision in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        with(Script::default(), async |mut client: Client| {
            let initialized = client.initialize(revision, json!({})).await;
            assert_eq!(initialized["protocolVersion"], revision);
            assert_eq!(initialized["capabilities"]["completions"].is_object(), revision >= "2025-03-26");
            for method in ["tools/list", "resources/list", "resources/templates/list", "prompts/list", "ping"] {
                let answer = client.ask(&format!(r#"{{"jsonrpc":"2.0","id":5,"method":"{method}"}}"#)).await;
                let result = answer["result"].as_object().unwrap();
                for modern in ["resultType", "ttlMs", "cacheScope", "_meta"] {
                    assert!(!result.contains_key(modern), "{modern} in {method}");
                }
                let tool = &result.get("tools").map_or(Value::Null, |tools| tools[0].clone());
                assert!(tool.is_null() || tool["title"].is_string() == (revision >= "2025-06-18"));
                assert!(tool.is_null() || tool["annotations"].is_object() == (revision >= "2025-03-26"));
            }
            let missing = r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"x:y"}}"#;
            assert_eq!(client.ask(missing).await["error"]["code"], -32002);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn modern_results_have_what_they_need() {
    with(Script::default(), async |mut client: Client| {
        let cacheable = [
            "server/discover",
            "tools/list",
            "resources/list",
            "resources/templates/list",
            "prompts/list",
            "resources/read",
        ];
        for method in cacheable.into_iter().chain(["tools/call", "prompts/get", "completion/complete"]) {
            let params = json!({
                "uri": "shadowcat://demo/hello.txt", "name": if method == "tools/call" { "echo" } else { "greet" },
                "arguments": { "text": "x", "name": "Ada" },
                "ref": { "type": "ref/prompt", "name": "greet" }, "argument": { "name": "style", "value": "f" },
            });
            let answer = client.ask(&modern("1", method, params, json!({}))).await;
            let result = &answer["result"];
            assert_eq!(result["resultType"], "complete", "{answer}");
            assert_eq!(result["ttlMs"].is_u64(), cacheable.contains(&method), "{method}");
            assert_eq!(result["cacheScope"].is_string(), cacheable.contains(&method), "{method}");
            assert!(result["_meta"]["io.modelcontextprotocol/serverInfo"]["version"].is_string(), "{method}");
        }
        for method in ["initialize", "ping", "logging/setLevel", "resources/subscribe", "no/such"] {
            let answer = client.ask(&modern("1", method, json!({}), json!({}))).await;
            assert_eq!(answer["error"]["code"], -32601, "{method}");
        }
        let missing = client.ask(&modern("1", "resources/read", json!({ "uri": "x:y" }), json!({}))).await;
        assert_eq!(
            missing["error"],
            json!({ "code": -32602, "message": "Resource not found", "data": { "uri": "x:y" } })
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_bad_envelope_is_refused() {
    with(Script::default(), async |mut client: Client| {
        let request = |version: &str, rest: &str| {
            let meta = format!(r#"{{"io.modelcontextprotocol/protocolVersion":"{version}"{rest}}}"#);
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{"_meta":{meta}}}}}"#)
        };
        let answer = client.ask(&request("2026-07-28", "")).await;
        assert_eq!(answer["error"]["code"], -32602);
        let answer = client.ask(&request("2030-01-01", r#","io.modelcontextprotocol/clientCapabilities":{}"#)).await;
        assert_eq!(answer["error"]["code"], -32022);
        assert_eq!(answer["error"]["data"]["requested"], "2030-01-01");
        assert_eq!(answer["error"]["data"]["supported"][0], "2026-07-28");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn both_eras_live_in_one_process() {
    legacy(Script::default(), async |mut client: Client| {
        client
            .send(&modern("1", "tools/call", json!({ "name": "count", "arguments": { "key": "k" } }), json!({})))
            .await;
        assert_eq!(text(&client.next().await), "1");
        client.call("2", "count", json!({ "key": "k" })).await;
        let answer = client.next().await;
        assert_eq!(text(&answer), "2");
        assert_eq!(answer["result"]["structuredContent"], json!({ "key": "k", "count": 2 }));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn old_servers_meet_discover_in_three_ways() {
    let script = |discover| Script { era: Served::Legacy, discover, ..Script::default() };
    let discover = modern("1", "server/discover", json!({}), json!({}));
    with(script(Discover::Error), async |mut client: Client| {
        assert_eq!(client.ask(&discover).await["error"]["code"], -32601);
        client.initialize("2025-11-25", json!({})).await;
    })
    .await;
    with(script(Discover::Silence), async |mut client: Client| {
        client.send(&discover).await;
        assert!(client.silence().await);
        client.initialize("2025-11-25", json!({})).await;
    })
    .await;
    let ending = with(script(Discover::Exit), async |mut client: Client| {
        client.send(&discover).await;
        client.line().await
    });
    assert!(matches!(ending.await, Ending::Exit(1)));
}
