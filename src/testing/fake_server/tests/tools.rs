//! Each tool, and what else the server offers.

use super::*;

#[tokio::test(start_paused = true)]
async fn echo_and_payload_and_meta() {
    legacy(Script::default(), async |mut client: Client| {
        client.call("1", "echo", json!({ "text": "hé\n" })).await;
        assert_eq!(text(&client.next().await), "hé\n");
        client
            .send(
                r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":1.10}}}"#,
            )
            .await;
        assert_eq!(text(&client.next().await), "1.10");
        client.call("1", "payload", json!({ "bytes": 100_000 })).await;
        assert_eq!(text(&client.next().await).len(), 100_000);
        let params = r#"{"name":"meta","_meta":{"z":1.0,"a":[1E5, 2]},"x":null}"#;
        client.send(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#)).await;
        assert_eq!(text(&client.next().await), params);
        client.call("1", "region", json!({ "region": "eu" })).await;
        assert_eq!(text(&client.next().await), "eu");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn progress_carries_the_token_as_it_was_written() {
    legacy(Script::default(), async |mut client: Client| {
        let request =
            call("7", "progress", json!({ "steps": 2, "delay_ms": 10 }), &json!({ "progressToken": "TOKEN" }));
        client.send(&request.replace("\"TOKEN\"", "1.0")).await;
        for step in 1..=2 {
            let line = client.line().await;
            assert!(line.contains(r#""progressToken":1.0,"#), "{line}");
            assert!(line.contains(&format!(r#""progress":{step},"#)), "{line}");
        }
        assert_eq!(text(&client.next().await), "did 2 steps");
        client.call("8", "progress", json!({})).await;
        assert_eq!(client.next().await["id"], 8, "no token, no progress");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_legacy_client_hears_logs_from_the_level_it_set() {
    legacy(Script::default(), async |mut client: Client| {
        client.call("1", "log", json!({ "level": "debug", "text": "unasked" })).await;
        assert_eq!(client.next().await["params"]["data"], "unasked");
        client.next().await;
        let set = r#"{"jsonrpc":"2.0","id":2,"method":"logging/setLevel","params":{"level":"error"}}"#;
        assert_eq!(client.ask(set).await["result"], json!({}));
        client.call("3", "log", json!({ "level": "warning", "text": "too mild" })).await;
        assert_eq!(text(&client.next().await), "not logged");
        assert_eq!(client.ask(&set.replace("error", "loud")).await["error"]["code"], -32602);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_modern_client_hears_logs_only_if_the_request_says_so() {
    with(Script::default(), async |mut client: Client| {
        let log = |level: Option<&str>| {
            let meta = level.map_or(json!({}), |level| json!({ "io.modelcontextprotocol/logLevel": level }));
            let arguments = json!({ "level": "warning", "text": "hot" });
            modern("1", "tools/call", json!({ "name": "log", "arguments": arguments, "_meta": meta }), json!({}))
        };
        assert_eq!(text(&client.ask(&log(None)).await), "not logged");
        assert_eq!(text(&client.ask(&log(Some("error"))).await), "not logged");
        assert_eq!(client.ask(&log(Some("warning"))).await["params"]["level"], "warning");
        client.next().await;
        assert_eq!(client.ask(&log(Some("loud"))).await["error"]["code"], -32602);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn tools_fail_in_both_ways() {
    legacy(Script::default(), async |mut client: Client| {
        client.call("1", "fail", json!({ "message": "no" })).await;
        let answer = client.next().await;
        assert_eq!((text(&answer), &answer["result"]["isError"]), ("no", &json!(true)));
        client.call("1", "error", json!({ "code": -32050, "message": "never" })).await;
        assert_eq!(client.next().await["error"], json!({ "code": -32050, "message": "never" }));
        client.call("1", "no such tool", json!({})).await;
        assert_eq!(client.next().await["error"]["code"], -32602);
        client.call("1", "payload", json!({ "bytes": "many" })).await;
        assert_eq!(client.next().await["result"]["isError"], true);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_sleeper_blocks_nobody_and_can_be_cancelled() {
    legacy(Script::default(), async |mut client: Client| {
        client.call("1.0", "sleep", json!({ "ms": 1000 })).await;
        client.call("2", "sleep", json!({ "ms": 10_000 })).await;
        client.call("3", "echo", json!({ "text": "first" })).await;
        assert_eq!(client.next().await["id"], 3);
        assert_eq!(text(&client.next().await), "slept 1000 ms");
        client.send(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2.0}}"#).await;
        client.send(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}"#).await;
        assert!(client.silence().await);
        client.call("4", "stats", json!({})).await;
        let stats: Value = serde_json::from_str(text(&client.next().await)).unwrap();
        assert_eq!((&stats["cancellations"], &stats["cancelled"]), (&json!(2), &json!(1)), "2.0 is another id than 2");
        assert_eq!(stats["tools"], json!({ "sleep": 2, "echo": 1, "stats": 1 }));
        assert_eq!(stats["last_ids"], json!(["0", "1.0", "2", "3", "4"]));
        assert_eq!(stats["notifications"]["notifications/initialized"], 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_legacy_client_is_asked_by_request() {
    legacy(Script::default(), async |mut client: Client| {
        client.call("1", "ask", json!({ "message": "really?", "rounds": 2, "parallel": 2 })).await;
        for _ in 0..2 {
            let (first, second) = (client.next().await, client.next().await);
            assert_eq!(first["method"], "elicitation/create");
            assert_eq!(first["params"]["message"], "really?");
            for (question, action) in [(second, "decline"), (first, "accept")] {
                let id = &question["id"];
                client
                    .send(&format!(r#"{{"jsonrpc":"2.0","id":"{id}","result":{{"action":"wrong type of id"}}}}"#))
                    .await;
                client
                    .send(&format!(
                        r#"{{"jsonrpc":"2.0","id":{id},"result":{{"action":"{action}","content":{{"a":1}}}}}}"#
                    ))
                    .await;
            }
        }
        let answer = client.next().await;
        let round = "answer: accept {\"a\":1}\nanswer: decline {\"a\":1}";
        assert_eq!(text(&answer), format!("{round}\n{round}"));

        client.call("2", "sample", json!({ "prompt": "hi" })).await;
        let question = client.next().await;
        assert_eq!(question["params"]["messages"][0]["content"]["text"], "hi");
        let result = json!({ "role": "assistant", "model": "m", "content": { "type": "text", "text": "ho" } });
        client.send(&json!({ "jsonrpc": "2.0", "id": question["id"], "result": result }).to_string()).await;
        assert_eq!(text(&client.next().await), "sampled: ho");

        client.call("3", "roots", json!({})).await;
        let question = client.next().await;
        let error = json!({ "code": -1, "message": "no" });
        client.send(&json!({ "jsonrpc": "2.0", "id": question["id"], "error": error }).to_string()).await;
        let answer = client.next().await;
        assert_eq!((text(&answer), &answer["result"]["isError"]), ("error: -1 no", &json!(true)));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_question_is_withdrawn_with_its_call() {
    legacy(Script::default(), async |mut client: Client| {
        client.call("1", "ask", json!({ "message": "?" })).await;
        let question = client.next().await;
        client.send(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#).await;
        let withdrawn = client.next().await;
        assert_eq!(withdrawn["method"], "notifications/cancelled");
        assert_eq!(withdrawn["params"]["requestId"], question["id"]);
        assert!(client.silence().await);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_what_he_did_not_offer() {
    with(Script::default(), async |mut client: Client| {
        client.initialize("2025-03-26", json!({ "elicitation": {} })).await;
        client.call("1", "ask", json!({ "message": "?" })).await;
        assert_eq!(client.next().await["result"]["isError"], true, "2025-03-26 has no elicitation");
        let answer =
            client.ask(&modern("1", "tools/call", json!({ "name": "roots" }), json!({ "sampling": {} }))).await;
        assert_eq!(answer["error"]["code"], -32021);
        assert_eq!(answer["error"]["data"], json!({ "requiredCapabilities": { "roots": {} } }));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_modern_client_is_asked_by_result() {
    with(Script::default(), async |mut client: Client| {
        let leg = |responses: Value, state: &Value| {
            let mut params = json!({ "name": "ask", "arguments": { "message": "well?", "rounds": 2, "parallel": 2 } });
            if !state.is_null() {
                params["requestState"] = state.clone();
                params["inputResponses"] = responses;
            }
            modern("1", "tools/call", params, json!({ "elicitation": {} }))
        };
        let accept = |n: u64| json!({ "action": "accept", "content": { "n": n } });
        let first = client.ask(&leg(json!({}), &Value::Null)).await["result"].clone();
        assert_eq!(first["resultType"], "input_required");
        assert!(first.get("ttlMs").is_none());
        let requests = first["inputRequests"].as_object().unwrap();
        assert_eq!(requests.len(), 2);
        for request in requests.values() {
            assert_eq!(request["method"], "elicitation/create");
            assert!(request.get("id").is_none() && request.get("jsonrpc").is_none());
        }
        let again = client.ask(&leg(json!({ "r1q1": accept(1), "other": 1 }), &first["requestState"])).await;
        assert_eq!(again["result"]["inputRequests"].as_object().unwrap().len(), 1, "only what is missing: {again}");
        let second = client.ask(&leg(json!({ "r1q2": accept(2) }), &again["result"]["requestState"])).await;
        let state = &second["result"]["requestState"];
        let done = client.ask(&leg(json!({ "r2q1": accept(3), "r2q2": accept(4) }), state)).await;
        let lines: Vec<String> = (1..=4).map(|n| format!("answer: accept {{\"n\":{n}}}")).collect();
        assert_eq!(text(&done), lines.join("\n"));
        let forged = Value::from(state.as_str().unwrap().replace('ü', "ue"));
        assert_eq!(client.ask(&leg(json!({}), &forged)).await["error"]["code"], -32602);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn changes_reach_those_who_asked() {
    legacy(Script::default(), async |mut client: Client| {
        let uri = "shadowcat://demo/hello.txt";
        let subscribe = json!({ "jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": { "uri": uri } });
        client.ask(&subscribe.to_string()).await;
        let filter =
            json!({ "notifications": { "toolsListChanged": true, "resourceSubscriptions": [uri], "odd": true } });
        let acknowledged = client.ask(&modern("1.50", "subscriptions/listen", filter, json!({}))).await;
        assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged");
        assert_eq!(
            acknowledged["params"]["notifications"],
            json!({ "toolsListChanged": true, "resourceSubscriptions": [uri] })
        );

        client.call("2", "touch", json!({ "uri": uri })).await;
        let (plain, tagged) = (client.next().await, client.line().await);
        assert_eq!(plain["params"], json!({ "uri": uri }));
        assert!(tagged.contains(r#""_meta":{"io.modelcontextprotocol/subscriptionId":1.50}"#), "{tagged}");
        assert_eq!(text(&client.next().await), "told 2");

        client.call("3", "change", json!({ "kind": "prompts" })).await;
        assert_eq!(client.next().await["method"], "notifications/prompts/list_changed");
        assert_eq!(text(&client.next().await), "told 1", "the listener did not ask for it");

        client.send(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1.50}}"#).await;
        assert!(client.silence().await);
        client.call("4", "change", json!({ "kind": "tools" })).await;
        assert_eq!(client.next().await["params"], json!({}));
        assert_eq!(text(&client.next().await), "told 1");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_subscription_ends_with_a_result_when_the_server_does() {
    with(Script::default(), async |mut client: Client| {
        client.ask(&modern("\"s\"", "subscriptions/listen", json!({ "notifications": {} }), json!({}))).await;
        client.writer.shutdown().await.unwrap();
        let result = client.next().await["result"].clone();
        assert_eq!(result["resultType"], "complete");
        assert_eq!(result["_meta"]["io.modelcontextprotocol/subscriptionId"], "s");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn lists_come_in_pages_if_the_script_says_so() {
    legacy(Script { page_size: 8, ..Script::default() }, async |mut client: Client| {
        let (mut names, mut cursor) = (Vec::new(), Value::Null);
        loop {
            let request = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": { "cursor": cursor } });
            let result = client.ask(&request.to_string()).await["result"].clone();
            names.extend(result["tools"].as_array().unwrap().iter().map(|tool| tool["name"].to_string()));
            match result.get("nextCursor") {
                Some(next) => cursor = next.clone(),
                None => break,
            }
        }
        assert_eq!(names.len(), 19);
        let bad = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":"nonsense"}}"#;
        assert_eq!(client.ask(bad).await["error"]["code"], -32602);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn resources_prompts_and_completion() {
    legacy(Script::default(), async |mut client: Client| {
        let mut ask = async |method: &str, params: Value| {
            let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
            client.ask(&request.to_string()).await
        };
        ask("tools/call", json!({ "name": "count", "arguments": { "key": "k1" } })).await;
        let read = ask("resources/read", json!({ "uri": "shadowcat://demo/count/k1" })).await;
        assert_eq!(read["result"]["contents"][0]["text"], r#"{"count":1,"key":"k1"}"#);
        let read = ask("resources/read", json!({ "uri": "shadowcat://demo/dot.png" })).await;
        assert!(read["result"]["contents"][0]["blob"].is_string());
        let prompt = ask("prompts/get", json!({ "name": "greet", "arguments": { "name": "Ada" } })).await;
        assert_eq!(prompt["result"]["messages"][0]["content"]["text"], "Greet Ada in a friendly way.");
        assert_eq!(ask("prompts/get", json!({ "name": "greet" })).await["error"]["code"], -32602);
        let reference = json!({ "type": "ref/prompt", "name": "greet" });
        let params = json!({ "ref": reference, "argument": { "name": "style", "value": "f" } });
        let completed = ask("completion/complete", params).await;
        assert_eq!(completed["result"]["completion"]["values"], json!(["formal", "friendly", "funny"]));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_process_describes_itself() {
    legacy(Script::default(), async |mut client: Client| {
        client.call("1", "pid", json!({})).await;
        let report: Value = serde_json::from_str(text(&client.next().await)).unwrap();
        assert_eq!(report["pid"], std::process::id());
        assert!(report["argv"].is_array() && report["env"].is_array());
        if cfg!(target_os = "linux") {
            assert!(report["fds"]["0"].is_string() && report["pgid"].is_u64() && report["ppid"].is_u64());
        }
        client.call("2", "notify", json!({ "method": "x/y", "params": { "a": 1 } })).await;
        assert_eq!(client.next().await, json!({ "jsonrpc": "2.0", "method": "x/y", "params": { "a": 1 } }));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn batches_are_taken_where_the_revision_has_them() {
    for (revision, answers) in [("2025-03-26", 2), ("2025-06-18", 0)] {
        with(Script::default(), async |mut client: Client| {
            client.initialize(revision, json!({})).await;
            client
                .send(r#"[{"jsonrpc":"2.0","id":1.0,"method":"ping"}, {"jsonrpc":"2.0","id":2,"method":"ping"}]"#)
                .await;
            for _ in 0..answers {
                assert_eq!(client.next().await["result"], json!({}));
            }
            assert!(client.silence().await);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn it_has_the_tools_that_the_script_names_and_reveals_the_hidden_ones() {
    let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>();
    let script = Script {
        tools: Some(named(&["echo", "change", "region"])),
        hidden_tools: named(&["region"]),
        ..Script::default()
    };
    legacy(script, async |mut client: Client| {
        let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
        let names = |answer: Value| {
            let tools = answer["result"]["tools"].as_array().unwrap().clone();
            tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(client.ask(list).await), ["echo", "change"]);
        for absent in ["region", "count"] {
            client.call("2", absent, json!({ "region": "here", "key": "k" })).await;
            assert_eq!(client.next().await["error"]["code"], -32602, "{absent}");
        }
        client.call("3", "change", json!({ "kind": "tools" })).await;
        assert_eq!(client.next().await["method"], "notifications/tools/list_changed");
        assert_eq!(text(&client.next().await), "told 1");
        assert_eq!(names(client.ask(list).await), ["echo", "change", "region"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn calls_become_tasks_if_the_script_has_them() {
    legacy(Script { tasks: true, ..Script::default() }, async |mut client: Client| {
        let mut ask = async |method: &str, params: Value| {
            let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
            client.ask(&request.to_string()).await
        };
        let call = json!({ "name": "echo", "arguments": { "text": "x" }, "task": {} });
        let id = ask("tools/call", call).await["result"]["task"]["taskId"].clone();
        assert_eq!(ask("tasks/list", json!({})).await["result"]["tasks"][0]["taskId"], id);
        assert_eq!(ask("tasks/get", json!({ "taskId": id })).await["result"]["status"], "completed");
        let result = ask("tasks/result", json!({ "taskId": id })).await["result"].clone();
        assert_eq!(result["content"][0]["text"], "x");
        assert_eq!(result["_meta"]["io.modelcontextprotocol/related-task"]["taskId"], id);
        assert_eq!(ask("tasks/cancel", json!({ "taskId": id })).await["error"]["code"], -32602);
        assert_eq!(ask("tasks/get", json!({ "taskId": "nobody's" })).await["error"]["code"], -32602);
    })
    .await;
    legacy(Script::default(), async |mut client: Client| {
        let list = r#"{"jsonrpc":"2.0","id":1,"method":"tasks/list"}"#;
        assert_eq!(client.ask(list).await["error"]["code"], -32601, "no tasks unless the script has them");
    })
    .await;
}
