//! Tasks of a server with a handshake (2025-11-25, Tasks), for clients that speak of tasks in other words (2026-07-28, extension
//! `io.modelcontextprotocol/tasks`).

use shadowcat::settings::Isolation;

use super::*;

async fn world(via: Via) -> World {
    with(via, |_| {}).await
}

async fn with(via: Via, change: impl FnOnce(&mut Settings)) -> World {
    World::with(via, Script { tasks: true, ..legacy() }, change).await
}

/// The capabilities of a client that can be asked anything, and takes tasks for an answer.
fn takes_tasks() -> Value {
    let mut all = everything();
    all["extensions"] = json!({ "io.modelcontextprotocol/tasks": {} });
    all
}

fn call(tool: &str, arguments: Value) -> Modern {
    Modern::call(tool, arguments).capabilities(takes_tasks())
}

fn about(method: &str, task: &str) -> Modern {
    Modern::new(method).param("taskId", task.into()).header("Mcp-Name", Some(task)).capabilities(takes_tasks())
}

/// The name of the task that a call has become.
#[track_caller]
fn made(answer: &Value) -> String {
    assert_eq!(answer["result"]["resultType"], "task", "{answer}");
    assert_eq!(answer["result"]["status"], "working", "{answer}");
    assert!(answer["result"]["ttlMs"].is_u64() && answer["result"]["pollIntervalMs"].is_u64(), "{answer}");
    answer["result"]["taskId"].as_str().unwrap().to_owned()
}

async fn look(world: &World, task: &str) -> Value {
    let answer = world.answer(&about("tasks/get", task)).await;
    assert_eq!(
        (&answer["result"]["resultType"], &answer["result"]["taskId"]),
        (&json!("complete"), &json!(task)),
        "{answer}"
    );
    answer["result"].clone()
}

async fn until_status(world: &World, task: &str, status: &str) -> Value {
    until(&format!("it is {status}"), async || look(world, task).await, |task| task["status"] == status).await
}

/// A call becomes a task where its client takes one, and its result comes with its state; for others nothing has changed.
#[tokio::test]
async fn a_call_becomes_a_task_for_those_who_take_one() {
    for via in Via::ALL {
        let world = world(via).await;
        let discovered = world.answer(&Modern::new("server/discover")).await;
        let capabilities = &discovered["result"]["capabilities"];
        assert_eq!(capabilities["extensions"], json!({ "io.modelcontextprotocol/tasks": {} }), "{via:?} {discovered}");
        assert!(capabilities.get("tasks").is_none(), "{discovered}");

        let task = made(&world.answer(&call("echo", json!({ "text": "x" })).id("\"t\"")).await);
        assert_ne!(task, "task-1", "names of the server's stay here");
        let ended = look(&world, &task).await;
        assert_eq!(
            (&ended["status"], &ended["result"]["content"][0]["text"]),
            (&json!("completed"), &json!("x")),
            "{ended}"
        );
        assert!(ended.get("ttl").is_none() && ended["createdAt"].is_string(), "{ended}");
        assert_eq!(look(&world, &task).await, ended, "and once more");

        let plain = world.answer(&Modern::call("echo", json!({ "text": "y" })).capabilities(everything())).await;
        assert_eq!((text(&plain), &plain["result"]["resultType"]), ("y", &json!("complete")), "{via:?}");
        assert_eq!(world.metric("shadowcat_tasks", &[]).await, 1.0);
        world.close().await;
    }
}

/// Extension for tasks, Task Status: a tool that fails has completed, and only an error has not.
#[tokio::test]
async fn a_task_that_failed_says_how() {
    for via in Via::ALL {
        let world = world(via).await;
        let failed = look(&world, &made(&world.answer(&call("fail", json!({ "message": "no" }))).await)).await;
        assert_eq!((&failed["status"], &failed["result"]["isError"]), (&json!("completed"), &json!(true)), "{failed}");
        let error = look(&world, &made(&world.answer(&call("error", json!({ "code": 7 }))).await)).await;
        assert_eq!((&error["status"], &error["error"]["code"]), (&json!("failed"), &json!(7)), "{error}");
        world.close().await;
    }
}

/// A server that cannot say how a task stands may say so the next time; one that has forgotten it has lost it.
#[tokio::test]
async fn an_error_about_a_task_is_not_its_end() {
    // The fourth request on its connection: after the handshake, the list of tools and the call.
    let says = |code: i64| {
        let body = json!({ "jsonrpc": "2.0", "id": 4, "error": { "code": code, "message": "m" } }).to_string();
        let headers = [("Content-Type".to_owned(), "application/json".to_owned())].into();
        Do::Status { code: 200, headers, body }
    };
    for (error, again) in [(-32603, true), (-32602, false)] {
        let script = Script { tasks: true, ..legacy() }.fault(On::method("tasks/get").nth(1), says(error));
        let world = World::with(Via::Http, script, |_| {}).await;
        let task = made(&world.answer(&call("echo", json!({ "text": "x" }))).await);
        assert_eq!(code(&world.answer(&about("tasks/get", &task)).await), error);
        let next = world.answer(&about("tasks/get", &task)).await;
        assert_eq!(next["result"]["status"] == "completed", again, "{next}");
        assert_eq!(world.lost("task_lost").await, if again { 0.0 } else { 1.0 });
        world.close().await;
    }
}

/// Extension for tasks, Task Update Requests: what the server asks meanwhile comes with the state, and is answered beside it.
#[tokio::test]
async fn a_task_asks_its_client_and_is_answered() {
    for via in Via::ALL {
        let world = world(via).await;
        let ask = call("ask", json!({ "message": "?", "parallel": 2, "rounds": 2 }));
        let task = made(&world.answer(&ask).await);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..2 {
            let both = |task: &Value| task["inputRequests"].as_object().is_some_and(|all| all.len() == 2);
            let asked = until("it asks", async || look(&world, &task).await, both).await;
            assert_eq!(asked["status"], "input_required");
            assert_eq!(look(&world, &task).await["inputRequests"], asked["inputRequests"], "until it is answered");
            for (key, question) in asked["inputRequests"].as_object().unwrap() {
                assert_eq!(question["method"], "elicitation/create", "{via:?}");
                assert!(seen.insert(key.clone()), "a name is used once: {asked}");
                let answers = json!({ key: { "action": "accept", "content": { "answer": key } }, "none": {} });
                let update = about("tasks/update", &task).param("inputResponses", answers);
                for _ in 0..2 {
                    let taken = world.answer(&update).await;
                    assert_eq!(taken["result"], json!({ "resultType": "complete" }), "{via:?} {taken}");
                }
            }
        }
        let ended = until_status(&world, &task, "completed").await;
        let lines = ended["result"]["content"][0]["text"].as_str().unwrap();
        assert_eq!(lines.lines().filter(|line| line.starts_with("answer: accept")).count(), 4, "{via:?} {ended}");
        assert!(ended.get("inputRequests").is_none(), "{ended}");
        let stats = Modern::call("stats", json!({})).capabilities(everything());
        if via != Via::Stdio {
            let stats: Value = serde_json::from_str(text(&world.answer(&stats).await)).unwrap();
            let ran = (&stats["tools"]["ask"], &stats["answers"], &stats["stray_answers"]);
            assert_eq!(ran, (&json!(1), &json!(4), &json!(0)), "{stats}");
        }
        world.close().await;
    }
}

/// Extension for tasks, Task Cancellation: it is acknowledged, whatever comes of it.
#[tokio::test]
async fn a_task_is_cancelled() {
    for via in Via::ALL {
        let world = world(via).await;
        let task = made(&world.answer(&call("sleep", json!({ "ms": 60_000 }))).await);
        assert_eq!(look(&world, &task).await["status"], "working", "{via:?}");
        for _ in 0..2 {
            let taken = world.answer(&about("tasks/cancel", &task)).await;
            assert_eq!(taken["result"], json!({ "resultType": "complete" }), "{via:?} {taken}");
            assert_eq!(look(&world, &task).await["status"], "cancelled", "{via:?}");
        }
        world.close().await;
    }
}

/// Extension for tasks, Protocol Errors: who may speak of which task.
#[tokio::test]
async fn a_task_is_its_clients() {
    for via in Via::ALL {
        let world = world(via).await;
        let mine = |request: Modern| request.header("Authorization", Some("a"));
        let task = made(&world.answer(&mine(call("echo", json!({ "text": "x" })))).await);
        for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
            for (who, name) in [(Some("b"), &*task), (None, &task), (Some("a"), "task-1"), (Some("a"), "")] {
                let refused = world.answer(&about(method, name).header("Authorization", who)).await;
                assert_ours(&refused, -32602);
                assert_eq!(refused["error"]["data"]["reason"], "no_such_task", "{via:?} {method} {who:?} {name}");
            }
            let undeclared = mine(Modern::new(method).param("taskId", (&*task).into()).header("Mcp-Name", Some(&task)));
            let refused = world.post(&undeclared).await;
            assert_eq!(refused.status, 400, "{via:?}");
            let refused = refused.answer().ok().await;
            assert_eq!(code(&refused), -32021);
            let needed = &refused["error"]["data"]["requiredCapabilities"];
            assert_eq!(needed, &json!({ "extensions": { "io.modelcontextprotocol/tasks": {} } }), "{refused}");
        }
        for method in ["tasks/list", "tasks/result"] {
            let response = world.post(&mine(about(method, &task))).await;
            assert_eq!(response.status, 404, "{via:?} {method}");
        }
        let ended = world.answer(&mine(about("tasks/get", &task))).await;
        assert_eq!(ended["result"]["result"]["content"][0]["text"], "x", "nobody has spoilt it: {ended}");
        world.close().await;
    }
}

/// Where connections are shared, nothing can be kept for one task, and none is offered.
#[tokio::test]
async fn there_are_no_tasks_where_connections_are_shared() {
    let world = with(Via::Stdio, |settings| settings.upstreams[0].isolation = Isolation::Shared).await;
    let discovered = world.answer(&Modern::new("server/discover")).await;
    assert!(discovered["result"]["capabilities"].get("extensions").is_none(), "{discovered}");
    assert_eq!(text(&world.answer(&call("echo", json!({ "text": "x" }))).await), "x");
    assert_eq!(world.post(&about("tasks/get", "task-1")).await.status, 404);
    world.close().await;
}

/// There are only so many; a call for which there is no room is one like any other, and a task whose result was fetched makes
/// room.
#[tokio::test]
async fn there_are_only_so_many_tasks() {
    for (all, each) in [(1, 10), (10, 1)] {
        let world = with(Via::Http, |settings| {
            (settings.limits.tasks, settings.limits.tasks_per_principal) = (all, each);
        })
        .await;
        let echo = |text: &str| call("echo", json!({ "text": text })).header("Authorization", Some("a"));
        let about = |method: &str, task: &str| about(method, task).header("Authorization", Some("a"));
        let first = made(&world.answer(&echo("1")).await);
        assert_eq!(text(&world.answer(&echo("2")).await), "2", "there is no room");
        let ended = world.answer(&about("tasks/get", &first)).await;
        assert_eq!(ended["result"]["result"]["content"][0]["text"], "1");
        assert!(ended["result"]["ttlMs"].as_u64().unwrap() < 120_000, "it is not kept for long any more: {ended}");
        let third = made(&world.answer(&echo("3")).await);
        assert_eq!(code(&world.answer(&about("tasks/get", &first)).await), -32602);
        let ended = world.answer(&about("tasks/get", &third)).await;
        assert_eq!(ended["result"]["result"]["content"][0]["text"], "3");
        world.close().await;
    }
}

/// A task for which nobody comes is given up, and its server is told.
#[tokio::test]
async fn a_task_that_nobody_fetches_ends() {
    for via in Via::ALL {
        let world = with(via, |settings| settings.timeouts.task = Duration::from_millis(200)).await;
        let answer = world.answer(&call("sleep", json!({ "ms": 60_000 }))).await;
        assert_eq!(answer["result"]["ttlMs"], 200, "{answer}");
        until("it is counted", async || world.lost("task_expired").await, |seen| *seen == 1.0).await;
        assert_eq!(code(&world.answer(&about("tasks/get", &made(&answer))).await), -32602);
        if via != Via::Stdio {
            let cancelled = world.arrival("tasks/cancel").await;
            assert_eq!(cancelled.json("/params"), json!({ "taskId": "task-1" }), "{via:?}");
        }
        world.until_metric("shadowcat_tasks", &[], 0.0).await;
        world.close().await;
    }
}

/// A task dies with its server; that is counted, and told to whoever comes.
#[tokio::test]
async fn a_task_is_lost_with_its_server() {
    let world = world(Via::Stdio).await;
    let task = made(&world.answer(&call("sleep", json!({ "ms": 60_000 }))).await);
    let script = world._script.path().display().to_string();
    for child in common::children(std::process::id().try_into().unwrap()) {
        let line = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(&script) {
            let pid = rustix::process::Pid::from_raw(child).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
    }
    until("it is counted", async || world.lost("task_lost").await, |seen| *seen == 1.0).await;
    assert_eq!(code(&world.answer(&about("tasks/get", &task)).await), -32602);
    world.close().await;
}

/// Shutdown does not wait for tasks.
#[tokio::test]
async fn shutdown_gives_up_tasks() {
    for via in Via::ALL {
        let world = world(via).await;
        made(&world.answer(&call("ask", json!({ "message": "?" }))).await);
        made(&world.answer(&call("echo", json!({ "text": "x" }))).await);
        world.close().await;
    }
}

/// Extension for tasks, Task Status Notifications: who listens to a task is told what `tasks/get` would say, when it changes.
#[tokio::test]
async fn who_listens_to_a_task_is_told_how_it_stands() {
    for via in Via::ALL {
        let world = world(via).await;
        let task = made(&world.answer(&call("ask", json!({ "message": "?" }))).await);
        let listen =
            |names: Value| Modern::new("subscriptions/listen").param("notifications", json!({ "taskIds": names }));
        let undeclared = world.post(&listen(json!([task]))).await;
        assert_eq!(undeclared.status, 400, "{via:?}");
        assert_eq!(code(&undeclared.answer().ok().await), -32021);

        let request = listen(json!([task, "another", task])).capabilities(takes_tasks()).id("\"L\"");
        let mut stream = world.post(&request).await;
        let mut next = async || common::next(&mut stream).await.unwrap().json();
        let acknowledged = next().await;
        assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged");
        assert_eq!(acknowledged["params"]["notifications"], json!({ "taskIds": [task] }), "{via:?}");
        let asked = loop {
            let news = next().await;
            assert_eq!(news["method"], "notifications/tasks", "{via:?} {news}");
            assert_eq!(news["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "L");
            if news["params"]["status"] == "input_required" {
                break news;
            }
        };
        assert_eq!(asked["params"]["taskId"], *task);
        let key = asked["params"]["inputRequests"].as_object().unwrap().keys().next().unwrap().clone();
        let answers = json!({ key: { "action": "decline" } });
        world.answer(&about("tasks/update", &task).param("inputResponses", answers)).await;
        let ended = loop {
            let news = next().await;
            if news["params"]["status"] != "input_required" && news["params"]["status"] != "working" {
                break news;
            }
        };
        assert_eq!(ended["params"]["status"], "completed", "{via:?} {ended}");
        assert_eq!(ended["params"]["result"]["content"][0]["text"], "answer: decline null", "{ended}");
        drop(stream);
        world.close().await;
    }
}

/// `bridge_reuse`: what a task leaves behind is as little for others as what any call does; least of all where a server was told
/// roots.
#[tokio::test]
async fn a_task_leaves_its_connection_to_whom_a_call_would() {
    for (reuse, tool, idle) in [
        (BridgeReuse::Never, "echo", 0.0),
        (BridgeReuse::SamePrincipal, "echo", 1.0),
        (BridgeReuse::SamePrincipal, "roots", 0.0),
    ] {
        let world = with(Via::Http, |settings| {
            settings.upstreams[0].bridge_reuse = reuse;
            settings.limits.tasks = 1;
        })
        .await;
        let first = made(&world.answer(&call(tool, json!({ "text": "1" }))).await);
        if tool == "roots" {
            let asked = until_status(&world, &first, "input_required").await;
            let key = asked["inputRequests"].as_object().unwrap().keys().next().unwrap().clone();
            let roots = json!({ key: { "roots": [{ "uri": "file:///a" }] } });
            world.answer(&about("tasks/update", &first).param("inputResponses", roots)).await;
        }
        until_status(&world, &first, "completed").await;
        // It makes room for the next, which has a connection of its own.
        made(&world.answer(&call("sleep", json!({ "ms": 1 }))).await);
        world.until_metric("shadowcat_pool", &["leased"], 1.0).await;
        world.until_metric("shadowcat_pool", &["closing"], 0.0).await;
        assert_eq!(world.metric("shadowcat_pool", &["idle"]).await, idle, "{reuse:?} {tool}");
        world.close().await;
    }
}
