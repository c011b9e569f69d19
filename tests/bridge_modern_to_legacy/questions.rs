//! A server with a handshake asks in the middle of a call; a client of 2026-07-28 is asked by the end of its request, and
//! answers with another (2026-07-28, Multi Round-Trip Requests).

use super::*;

/// Several questions at once, several rounds: the tool runs once, and gets every answer where it belongs.
#[tokio::test]
async fn a_question_is_answered_by_calling_again() {
    for via in Via::ALL {
        let world = World::with(via, legacy(), |settings| settings.upstreams[0].connections_max = 1).await;
        let ask = || asking(json!({ "message": "?", "rounds": 2, "parallel": 3 }));
        let mut answer = world.answer(&ask().id("7")).await;
        assert_eq!(answer["id"], 7);
        for _ in 0..2 {
            assert_eq!(questions(&answer).len(), 3, "{via:?} {answer}");
            for question in questions(&answer).values() {
                assert_eq!(question["method"], "elicitation/create");
                assert_eq!(question["params"]["message"], "?");
            }
            world.until_metric("shadowcat_parked", &[], 1.0).await;
            answer = world.answer(&again(ask(), &answer, accepting(&answer))).await;
            assert_eq!(answer["id"], "again");
        }
        assert_eq!(answer["result"]["resultType"], "complete", "{via:?} {answer}");
        assert_eq!(text(&answer).lines().count(), 6, "{via:?} {answer}");
        assert!(text(&answer).lines().all(|line| line.starts_with("answer: accept")), "{answer}");
        let stats = world.stats().await;
        assert_eq!(
            (&stats["tools"]["ask"], &stats["answers"], &stats["stray_answers"]),
            (&json!(1), &json!(6), &json!(0))
        );
        assert_eq!(world.metric("shadowcat_parked", &[]).await, 0.0);
        world.close().await;
    }
}

/// Each kind of question that there is.
#[tokio::test]
async fn models_and_roots_are_asked_for_the_same_way() {
    for via in Via::ALL {
        let world = World::new(via).await;
        for (tool, method, answer, said) in [
            (
                "sample",
                "sampling/createMessage",
                json!({ "role": "assistant", "model": "m", "content": { "type": "text", "text": "hm" } }),
                "sampled: hm",
            ),
            ("roots", "roots/list", json!({ "roots": [{ "uri": "file:///a" }] }), "roots: file:///a"),
        ] {
            let call = || Modern::call(tool, json!({})).capabilities(everything());
            let asked = world.answer(&call()).await;
            let (key, question) = questions(&asked).iter().next().unwrap();
            assert_eq!(question["method"], method);
            let answered = world.answer(&again(call(), &asked, json!({ key: answer }))).await;
            assert_eq!(text(&answered), said, "{via:?}");
        }
        world.close().await;
    }
}

/// Who has answered its call serves others, or may go, although the client that it asked something has not come back: its answer
/// is kept, and the client gets it.
#[tokio::test]
async fn an_answer_that_comes_without_its_client_is_kept_and_its_connection_is_not() {
    for exits in [false, true] {
        let params = json!({ "message": "?", "requestedSchema": { "type": "object", "properties": {} } });
        let question = json!({ "jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": params });
        // The answer takes longer than other questions are waited for.
        let mut script = legacy()
            .fault(On::tool("echo"), Do::Print { text: question.to_string(), times: 1, newline: true })
            .fault(On::tool("echo"), Do::Slice { bytes: 4, gap_ms: 20, head: false });
        if exits {
            script = script.fault(On::tool("echo"), Do::Exit { code: 0, when: When::After });
        }
        let world = World::with(Via::Stdio, script, |settings| settings.upstreams[0].connections_max = 1).await;
        let echo = || Modern::call("echo", json!({ "text": "x" })).capabilities(everything());
        let asked = world.answer(&echo()).await;
        questions(&asked);
        // It gets its turn, be it at a server that is about to exit.
        let other = world.answer(&Modern::call("stats", json!({})).capabilities(everything())).await;
        assert!(exits || other["result"].is_object(), "{other}");
        assert_eq!(text(&world.answer(&again(echo(), &asked, accepting(&asked))).await), "x", "{exits}");
        world.close().await;
    }
}

/// A server that was told one client's roots does not serve the next, whoever that is: what it does may depend on them. Nor does one that
/// was told that its client has any serve a client that has none.
#[tokio::test]
async fn who_was_told_roots_serves_nobody_else() {
    for via in [Via::Http, Via::Sse] {
        let world = World::with(via, legacy(), |settings| settings.upstreams[0].bridge_reuse = BridgeReuse::Any).await;
        let roots = || Modern::call("roots", json!({})).capabilities(everything());
        let echo = |can: Value| Modern::call("echo", json!({ "text": "x" })).capabilities(can);
        let asked = world.answer(&roots()).await;
        let key = questions(&asked).keys().next().unwrap().clone();
        world.answer(&again(roots(), &asked, json!({ key: { "roots": [] } }))).await;
        let first = world.arrived("initialize").len();
        let more = || world.arrived("initialize").len() - first;
        world.answer(&echo(everything())).await;
        assert_eq!(more(), 1, "{via:?}: after it was told roots");
        world.answer(&echo(everything())).await;
        assert_eq!(more(), 1, "{via:?}: it was told none");
        world.answer(&echo(json!({ "elicitation": {}, "sampling": {} }))).await;
        assert_eq!(more(), 2, "{via:?}: this client has none");
        world.close().await;
    }
}

/// 2026-07-28, Multi Round-Trip Requests: an answer that is missing, or is none, is asked for again.
#[tokio::test]
async fn what_is_not_answered_is_asked_again() {
    for via in Via::ALL {
        let world = World::new(via).await;
        let ask = || asking(json!({ "message": "?", "parallel": 2 }));
        let first = world.answer(&ask()).await;
        let keys: Vec<String> = questions(&first).keys().cloned().collect();
        let accept = json!({ "action": "accept", "content": { "answer": "x" } });
        let one = json!({ &keys[0]: accept, &keys[1]: { "method": "m", "result": {} }, "other": {} });
        let second = world.answer(&again(ask(), &first, one)).await;
        assert_eq!(questions(&second).keys().collect::<Vec<_>>(), [&keys[1]], "{via:?}");
        assert_ne!(first["result"]["requestState"], second["result"]["requestState"]);
        let third = world.answer(&again(ask(), &second, json!({ &keys[1]: { "action": "decline" } }))).await;
        let mut lines: Vec<&str> = text(&third).lines().collect();
        lines.sort_unstable();
        assert!(lines[0].starts_with("answer: accept") && lines[1].starts_with("answer: decline"), "{third}");
        world.close().await;
    }
}

/// 2026-07-28, Multi Round-Trip Requests: what a client does not declare is not asked, by a server that was told so.
#[tokio::test]
async fn a_client_is_asked_what_it_declares_on_this_request() {
    for via in Via::ALL {
        let world = World::new(via).await;
        let able = world.answer(&asking(json!({ "message": "?" }))).await;
        assert_eq!(questions(&able).len(), 1);
        let unable = world.answer(&Modern::call("ask", json!({ "message": "?" }))).await;
        assert_eq!(unable["result"]["isError"], true, "{via:?} {unable}");
        let less = Modern::call("sample", json!({})).capabilities(json!({ "elicitation": {} }));
        assert_eq!(world.answer(&less).await["result"]["isError"], true, "{via:?}");
        world.close().await;
    }
}

/// docs/bridge.md: nobody comes back. The server gets an answer, and is told that the call is over.
#[tokio::test]
async fn a_client_that_does_not_come_back_is_given_up() {
    for via in Via::ALL {
        let world = World::with(via, legacy(), |settings| settings.timeouts.parked = Duration::from_millis(100)).await;
        let ask = || asking(json!({ "message": "?", "parallel": 2 }));
        let asked = world.answer(&ask()).await;
        world.until_metric("shadowcat_parked", &[], 0.0).await;
        until("it is counted", async || world.lost("parked_expired").await, |seen| *seen == 1.0).await;
        let late = world.answer(&again(ask(), &asked, accepting(&asked))).await;
        assert_ours(&late, -32602);
        if via != Via::Stdio {
            let stats = until("all is told", async || world.stats().await, |stats| stats["answers"] == 2).await;
            assert_eq!((&stats["tools"]["ask"], &stats["stray_answers"]), (&json!(1), &json!(0)), "{via:?} {stats}");
        }
        world.close().await;
    }
}

/// A server that dies while its call waits: who comes back is told, once, and that the call may have been executed.
#[tokio::test]
async fn a_server_that_dies_with_a_parked_call_is_told_of() {
    let world = World::with(Via::Stdio, legacy(), |_| {}).await;
    let ask = || asking(json!({ "message": "?" }));
    let asked = world.answer(&ask()).await;
    let children = common::children(std::process::id().try_into().unwrap());
    let script = world._script.path().display().to_string();
    for child in children {
        let line = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(&script) {
            let pid = rustix::process::Pid::from_raw(child).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
    }
    until("it is counted", async || world.lost("parked_lost").await, |seen| *seen == 1.0).await;
    let back = world.answer(&again(ask(), &asked, accepting(&asked))).await;
    assert_ours(&back, -31003);
    let once_more = world.answer(&again(ask(), &asked, accepting(&asked))).await;
    assert_ours(&once_more, -32602);
    world.close().await;
}

/// There is a limit to what waits, of all and of one.
#[tokio::test]
async fn there_are_only_so_many_parked_calls() {
    for via in Via::ALL {
        let world = World::with(via, legacy(), |settings| {
            settings.limits.parked = 3;
            settings.limits.parked_per_principal = 2;
        })
        .await;
        let ask = |who: &str| asking(json!({ "message": "?" })).header("Authorization", Some(who));
        let mut waiting = Vec::new();
        for who in ["a", "a", "b"] {
            let asked = world.answer(&ask(who)).await;
            assert_eq!(questions(&asked).len(), 1, "{via:?} {who}");
            waiting.push((who, asked));
        }
        for who in ["a", "b", "c"] {
            let refused = world.answer(&ask(who)).await;
            assert_ours(&refused, -31004);
            assert_eq!(refused["error"]["data"]["reason"], "too_many_parked", "{via:?}");
        }
        assert_eq!(world.lost("parked_too_many").await, 3.0);
        let (who, asked) = waiting.remove(0);
        assert_eq!(world.answer(&again(ask(who), &asked, accepting(&asked))).await["result"]["resultType"], "complete");
        let asked = world.answer(&ask("a")).await;
        assert_eq!(questions(&asked).len(), 1, "there is room again");
        world.close().await;
    }
}

/// Shutdown does not wait for people: what is parked is given up, and the server is told.
#[tokio::test]
async fn shutdown_gives_up_what_is_parked() {
    for via in Via::ALL {
        let world = World::new(via).await;
        world.answer(&asking(json!({ "message": "?" }))).await;
        world.until_metric("shadowcat_parked", &[], 1.0).await;
        world.close().await;
    }
}

/// What a server behind HTTP answers to the nth call of a tool, in place of its own answer. The proxy's ids count from 1 on each
/// connection: the handshake is the first, and the question for its tools, which the first call needs, the second.
fn instead(nth: u64, error: Value) -> Script {
    let body = json!({ "jsonrpc": "2.0", "id": nth + 2, "error": error }).to_string();
    let headers = [("Content-Type".to_owned(), "application/json".to_owned())].into();
    legacy().fault(On::tool("echo").nth(nth), Do::Status { code: 200, headers, body })
}

/// 2025-11-25, Elicitation › URL mode: a user who has to go somewhere first is sent there; then the tool is called again.
#[tokio::test]
async fn a_user_who_has_to_go_somewhere_first_is_sent_there() {
    let place = json!({ "mode": "url", "url": "https://a.example", "elicitationId": "e", "message": "Sign in" });
    let required = json!({ "code": -32042, "message": "Sign in first", "data": { "elicitations": [place] } });
    let call = || {
        Modern::call("echo", json!({ "text": "x" })).capabilities(json!({ "elicitation": { "form": {}, "url": {} } }))
    };
    for (action, calls) in [("accept", 2), ("decline", 1), ("cancel", 1)] {
        let world = World::with(Via::Http, instead(1, required.clone()), |_| {}).await;
        let sent = world.answer(&call()).await;
        let (key, question) = questions(&sent).iter().next().unwrap();
        let asked = json!({ "mode": "url", "url": "https://a.example", "message": "Sign in" });
        assert_eq!(question, &json!({ "method": "elicitation/create", "params": asked }));
        let done = world.answer(&again(call(), &sent, json!({ key: { "action": action } }))).await;
        assert_eq!(done["result"]["isError"].as_bool().unwrap_or(false), action != "accept", "{done}");
        assert_eq!(world.arrived("tools/call").len(), calls, "{action}");
        assert_eq!(world.arrived("initialize").len(), 1, "it goes on where it was");
        world.close().await;
    }
    let world = World::with(Via::Http, instead(1, required), |_| {}).await;
    let unable = world.post(&Modern::call("echo", json!({ "text": "x" }))).await;
    assert_eq!(unable.status, 400, "2026-07-28, Basic › Error Codes");
    let unable = unable.answer().ok().await;
    assert_eq!(code(&unable), -32021);
    assert_eq!(unable["error"]["data"]["requiredCapabilities"], json!({ "elicitation": { "url": {} } }));
    world.close().await;
}

/// 2025-11-25, Tasks: a tool that can only be called as a task is called as one, and the client gets its result.
#[tokio::test]
async fn a_tool_that_requires_a_task_is_called_as_one() {
    let refusal = json!({ "code": -32601, "message": "Task augmentation required" });
    let world = World::with(Via::Http, Script { tasks: true, ..instead(1, refusal) }, |_| {}).await;
    let done = world.answer(&Modern::call("echo", json!({ "text": "x" })).id("\"t\"")).await;
    assert_eq!((text(&done), &done["id"], &done["result"]["resultType"]), ("x", &json!("t"), &json!("complete")));
    let calls = world.arrived("tools/call");
    assert_eq!(calls.len(), 2, "once it was refused");
    assert_eq!((calls[0].json("/params/task"), calls[1].json("/params/task")), (Value::Null, json!({})));
    assert_eq!(world.arrived("tasks/result").len(), 1);
    let discovered = world.answer(&Modern::new("server/discover")).await;
    assert!(discovered["result"]["capabilities"].get("tasks").is_none(), "{discovered}");
    let response = world.post(&Modern::new("tasks/result").param("taskId", "task-1".into())).await;
    assert_eq!(response.status, 404, "tasks of 2025-11-25 are not those of 2026-07-28");
    world.close().await;
}
