//! Calls that a server of 2026-07-28 only carries out as tasks (extension `io.modelcontextprotocol/tasks`), for clients that know no
//! such tasks: each waits for its answer as ever.

use serde_json::{Value, json};
use shadowcat::settings::{Isolation, Reuse};
use shadowcat::testing::{Recorded, Script};

use crate::common::*;
use crate::{Client, Place, Stage};

fn script() -> Script {
    Script { tasks: true, ..modern() }
}

fn call(tool: &str, arguments: Value) -> Value {
    json!({ "name": tool, "arguments": arguments })
}

/// Extension for tasks, Capability Negotiation: the server insists on a client that takes tasks, and gets one.
#[tokio::test]
async fn a_call_that_has_to_be_a_task_is_answered_when_it_is_done() {
    for place in Place::BOTH {
        let stage = Stage::new(place, script()).await;
        for (what, mut client) in stage.clients(everything()).await {
            assert!(client.welcome()["capabilities"].get("tasks").is_none(), "{what}: those are other tasks");
            assert!(client.welcome()["capabilities"].get("extensions").is_none(), "{what}");
            assert_eq!(text(&client.call("echo", json!({ "text": "x" })).await), "x", "{place:?} {what}");
            let failed = client.call("fail", json!({ "message": "no" })).await;
            assert_eq!((text(&failed), &failed["result"]["isError"]), ("no", &json!(true)), "{what}");
            assert_eq!(code(&client.call("error", json!({ "code": 7 })).await), 7, "{what}");
        }
        assert_eq!(stage.lost("missing_capability").await, 0.0);
    }
}

/// What such a task asks becomes questions to the client, once each, however often the server is looked at.
#[tokio::test]
async fn a_task_asks_the_client_of_its_call() {
    for place in Place::BOTH {
        let stage = Stage::new(place, script()).await;
        let mut client = Client::Http(stage.session(LEGACY).await);
        let accept = json!({ "result": { "action": "accept", "content": { "answer": "y" } } });
        let arguments = json!({ "message": "?", "rounds": 2, "parallel": 2 });
        let heard = client.converse("tools/call", call("ask", arguments), |_| accept.clone()).await;
        let asked = heard.iter().filter(|one| one["method"] == "elicitation/create").count();
        assert_eq!(asked, 4, "{place:?} {heard:?}");
        assert_eq!(text(heard.last().unwrap()).lines().count(), 4, "{heard:?}");
        let refusal = json!({ "error": { "code": -1, "message": "User rejected" } });
        let heard = client.converse("tools/call", call("sample", json!({ "prompt": "?" })), |_| refusal.clone()).await;
        assert_eq!(heard.last().unwrap()["result"]["isError"], true, "{heard:?}");
    }
}

/// 2025-11-25, Cancellation: who takes the call back, or ends the session, has cancelled the task.
#[tokio::test]
async fn a_task_that_nobody_waits_for_is_cancelled() {
    for ends in [false, true] {
        let stage = Stage::new(Place::Http, script()).await;
        let session = stage.session(LEGACY).await;
        let call = message("77", "tools/call", &call("sleep", json!({ "ms": 60_000 })).to_string());
        let looks = |request: &Recorded| request.json("/method") == "tasks/get";
        tokio::select! {
            answer = session.send(&call) => panic!("it sleeps: {answer:?}"),
            looks = stage.mock().request(DEADLINE, looks) => assert!(looks.is_some(), "it is looked at"),
        }
        if ends {
            assert_eq!(session.delete().ok().await.status, 204);
        } else {
            assert_eq!(session.send(&cancelled(json!(77))).ok().await.status, 202);
        }
        let left = |request: &Recorded| request.json("/method") == "tasks/cancel";
        let left = stage.mock().request(DEADLINE, left).await.unwrap();
        assert_eq!(left.json("/params/taskId"), "task-1", "{ends}");
    }
}

/// Where each request has a process for itself there is nobody who could be asked for the task: the server's refusal stands.
#[tokio::test]
async fn there_are_no_tasks_where_each_request_has_a_process() {
    let stage = Stage::with(Place::Child, script(), |settings| {
        let upstream = &mut settings.upstreams[0];
        (upstream.isolation, upstream.reuse) = (Isolation::Request, Reuse::usual(Isolation::Request));
    })
    .await;
    let mut client = Client::Http(stage.session(LEGACY).await);
    let refused = client.call("echo", json!({ "text": "x" })).await;
    assert_eq!(code(&refused), -32603, "{refused}");
    assert!(refused["error"]["data"]["requiredCapabilities"]["extensions"].is_object(), "{refused}");
    assert_eq!(stage.lost("missing_capability").await, 1.0);
}
