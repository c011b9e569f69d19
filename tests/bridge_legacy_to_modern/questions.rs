//! What the server wants to know in the middle of a request.

use std::time::Duration;

use serde_json::{Value, json};
use shadowcat::settings::Settings;
use shadowcat::testing::client::LegacySession;

use crate::common::*;
use crate::{Place, Stage};

fn methods(heard: &[Value]) -> Vec<&str> {
    heard.iter().map(|one| one["method"].as_str().unwrap_or("answer")).collect()
}

/// 2026-07-28, Multi Round-Trip Requests; 2025-11-25, Elicitation, Sampling, Roots: what the server asks in a result becomes
/// requests to the client, all at once, in as many rounds as it takes; the answers go up with the request, repeated.
#[tokio::test]
async fn questions_become_requests_and_answers_go_up() {
    for place in Place::BOTH {
        let stage = Stage::new(place, modern()).await;
        for (what, mut client) in stage.clients(everything()).await {
            let sampled =
                json!({ "result": { "role": "assistant", "model": "m", "content": { "type": "text", "text": "Hi" } } });
            let roots = json!({ "result": { "roots": [{ "uri": "file:///a" }] } });
            let call = |tool: &str, arguments: Value| json!({ "name": tool, "arguments": arguments });
            let heard =
                client.converse("tools/call", call("sample", json!({ "prompt": "?" })), |_| sampled.clone()).await;
            assert_eq!(methods(&heard), ["sampling/createMessage", "answer"], "{place:?} {what}");
            assert_eq!(text(&heard[1]), "sampled: Hi", "{what}");
            let heard = client.converse("tools/call", call("roots", json!({})), |_| roots.clone()).await;
            assert_eq!(text(&heard[1]), "roots: file:///a", "{what}");

            let arguments = json!({ "message": "Well?", "rounds": 3, "parallel": 2 });
            let accept = json!({ "result": { "action": "accept", "content": { "answer": "ä \"1.50\"" } } });
            let heard = client.converse("tools/call", call("ask", arguments), |_| accept.clone()).await;
            let last = heard.last().unwrap();
            if what.starts_with("2025-06-18") || what.starts_with("2025-11-25") {
                assert_eq!(heard.len(), 7, "{what}");
                assert!(heard[..6].iter().all(|one| one["method"] == "elicitation/create"), "{what}");
                assert_eq!(text(last).lines().count(), 6, "{what}");
                assert!(text(last).lines().all(|line| line.contains("ä")), "{what}");
            } else {
                assert_eq!(code(last), -32603, "{what}: there are no such questions in its revision");
            }
        }
    }
}

/// 2025-11-25, Elicitation: an error is no consent; Sampling, Roots: a refusal cannot be told to the server, and ends the call.
#[tokio::test]
async fn refusals_end_where_they_cannot_be_told() {
    for place in Place::BOTH {
        let stage = Stage::new(place, modern()).await;
        for (what, mut client) in stage.clients(everything()).await {
            let refusal = json!({ "error": { "code": -1, "message": "User rejected" } });
            for tool in ["sample", "roots"] {
                let params = json!({ "name": tool, "arguments": { "prompt": "?" } });
                let heard = client.converse("tools/call", params, |_| refusal.clone()).await;
                assert_eq!(heard[1]["result"]["isError"], true, "{what}");
                assert!(text(&heard[1]).contains("User rejected"), "{what}");
            }
            if what.starts_with("2025-06-18") || what.starts_with("2025-11-25") {
                let params = json!({ "name": "ask", "arguments": { "message": "?" } });
                let heard = client.converse("tools/call", params, |_| refusal.clone()).await;
                assert_eq!(text(&heard[1]), "answer: cancel null", "{what}");
            }
        }
        assert!(stage.lost("question_refused").await >= 10.0);
    }
}

/// A refusal of one question takes the others back; an answer that comes too late is for nobody.
#[tokio::test]
async fn what_need_not_be_answered_any_more_is_taken_back() {
    for place in Place::BOTH {
        let stage = Stage::new(place, modern()).await;
        let session = stage.session(LEGACY).await;
        let mut response = session.call("sample", json!({ "prompt": "?", "parallel": 3 })).ok().await;
        let mut asked = Vec::new();
        for _ in 0..3 {
            asked.push(next(&mut response).await.unwrap().json()["id"].clone());
        }
        let refusal = json!({ "jsonrpc": "2.0", "id": asked[1], "error": { "code": -1, "message": "no" } });
        assert_eq!(session.send(&refusal.to_string()).ok().await.status, 202);
        let rest: Vec<Value> = rest(&mut response).await.iter().map(|event| event.json()).collect();
        let withdrawn: Vec<_> = rest[..2].iter().map(|one| one["params"]["requestId"].clone()).collect();
        assert_eq!(withdrawn, [asked[0].clone(), asked[2].clone()], "{place:?}");
        assert_eq!(rest[2]["result"]["isError"], true);
        let late = session.respond(&asked[0], &json!({ "role": "assistant" })).ok().await;
        assert_eq!(late.status, 202);
        stage.until_metric("shadowcat_dropped_total", &["answer_to_nothing"], 1.0).await;
    }
}

/// 2025-11-25, Lifecycle › Timeouts: people have their own time, and it ends.
#[tokio::test]
async fn a_question_that_nobody_answers_ends() {
    for place in Place::BOTH {
        let quick = |settings: &mut Settings| settings.timeouts.question = Duration::from_millis(300);
        let stage = Stage::with(place, modern(), quick).await;
        let session = stage.session(LEGACY).await;
        let mut response = session.call("ask", json!({ "message": "?" })).ok().await;
        let heard: Vec<Value> = rest(&mut response).await.iter().map(|event| event.json()).collect();
        assert_eq!(methods(&heard), ["elicitation/create", "notifications/cancelled", "answer"], "{place:?}");
        assert_eq!(heard[1]["params"]["requestId"], heard[0]["id"]);
        assert_eq!(heard[2]["result"]["isError"], true);
        assert_eq!(stage.lost("question_unanswered").await, 1.0);
    }
}

/// 2025-11-25, Streamable HTTP › Sending Messages: who reads no streams cannot be asked, and the server is told so.
#[tokio::test]
async fn who_reads_no_streams_is_not_asked() {
    for place in Place::BOTH {
        let stage = Stage::new(place, modern()).await;
        let session = stage.session(LEGACY).await;
        let mut headers = vec![("Content-Type", "application/json"), ("Accept", "application/json")];
        headers.extend(session.headers());
        let call = message("1", "tools/call", r#"{"name":"ask","arguments":{"message":"?"}}"#);
        let answer = send("POST", &stage.url, &headers, &call).await.json().ok().await;
        assert_eq!(code(&answer), -32603, "{place:?}: {answer}");
        assert_eq!(stage.lost("missing_capability").await, 1.0);
    }
}

/// An answer is good for the session that was asked.
#[tokio::test]
async fn an_answer_is_taken_from_the_one_who_was_asked() {
    let stage = Stage::new(Place::Child, modern()).await;
    let (mine, theirs) = (stage.session(LEGACY).await, stage.session(LEGACY).await);
    let ask = async |session: &LegacySession| {
        let mut response = session.call("ask", json!({ "message": "?" })).ok().await;
        let id = next(&mut response).await.unwrap().json()["id"].clone();
        (response, id)
    };
    let ((mut one, id), (mut other, other_id)) = (ask(&mine).await, ask(&theirs).await);
    assert_eq!(id, other_id, "names are the session's");
    let say = |word: &str| json!({ "action": "accept", "content": { "answer": word } });
    assert_eq!(theirs.respond(&other_id, &say("theirs")).ok().await.status, 202);
    assert!(text(&next(&mut other).await.unwrap().json()).contains("theirs"));
    assert_eq!(mine.respond(&id, &say("mine")).ok().await.status, 202);
    assert!(text(&next(&mut one).await.unwrap().json()).contains("mine"));
}

/// 2025-06-18, 2025-11-25, Elicitation: forms are put into the words of the client's revision; what it has no words for ends the call.
#[tokio::test]
async fn choices_are_put_into_the_clients_words() {
    for place in Place::BOTH {
        let stage = Stage::new(place, modern()).await;
        let titled =
            json!({ "type": "string", "oneOf": [{ "const": "a", "title": "A" }, { "const": "b", "title": "B" }] });
        let params = |property: &Value| json!({ "mode": "form", "message": "?", "requestedSchema": { "type": "object", "properties": { "p": property } } });
        let call = |property: &Value| json!({ "name": "ask", "arguments": { "params": params(property) } });
        let chosen = json!({ "result": { "action": "accept", "content": { "p": "b" } } });
        for (revision, expected) in [
            ("2025-11-25", titled.clone()),
            ("2025-06-18", json!({ "type": "string", "enum": ["a", "b"], "enumNames": ["A", "B"] })),
        ] {
            let mut client = crate::Client::Http(stage.session(revision).await);
            let heard = client.converse("tools/call", call(&titled), |_| chosen.clone()).await;
            assert_eq!(heard[0]["params"]["requestedSchema"]["properties"]["p"], expected, "{place:?} {revision}");
            assert_eq!(heard[0]["params"].get("mode").is_some(), revision == "2025-11-25");
            assert_eq!(text(&heard[1]), r#"answer: accept {"p":"b"}"#, "{revision}");
        }
        let many = json!({ "type": "array", "items": { "type": "string", "enum": ["a"] } });
        let mut older = crate::Client::Http(stage.session("2025-06-18").await);
        let ended = older.request("tools/call", call(&many)).await;
        assert_eq!(ended["result"]["isError"], true, "{ended}");
        assert_eq!(stage.lost("question_unspeakable").await, 1.0);
    }
}

/// 2025-11-25, Elicitation › URL mode: an errand gets a name of its own; who cannot go is not declared to the server as one who can.
#[tokio::test]
async fn errands_get_a_name() {
    for place in Place::BOTH {
        let stage = Stage::new(place, modern()).await;
        let errand = json!({ "mode": "url", "message": "Sign in", "url": "https://a.example" });
        let call = json!({ "name": "ask", "arguments": { "params": errand } });
        let can = json!({ "elicitation": { "form": {}, "url": {} } });
        let session = LegacySession::open(&stage.url, LEGACY, can).ok().await;
        let mut client = crate::Client::Http(session);
        let accept = json!({ "result": { "action": "accept" } });
        let mut names = std::collections::BTreeSet::new();
        for _ in 0..2 {
            let heard = client.converse("tools/call", call.clone(), |_| accept.clone()).await;
            let asked = &heard[0]["params"];
            assert_eq!((&asked["mode"], &asked["url"]), (&json!("url"), &json!("https://a.example")), "{place:?}");
            assert!(names.insert(asked["elicitationId"].as_str().unwrap().to_owned()), "{heard:?}");
            assert_eq!(text(&heard[1]), "answer: accept null");
        }
        let mut cannot = crate::Client::Http(stage.session(LEGACY).await);
        let ended = cannot.request("tools/call", call.clone()).await;
        assert_eq!(code(&ended), -31006, "a server that asks all the same breaks the rules: {ended}");
    }
}

/// 2025-11-25, Streamable HTTP › Session Management: who ends the session has answered no question, and waits for nothing. The server
/// hears nothing more of the call, and others go on.
#[tokio::test]
async fn a_session_that_ends_takes_its_questions_along() {
    for place in Place::BOTH {
        let stage = Stage::new(place, modern()).await;
        let (mine, theirs) = (stage.session(LEGACY).await, stage.session(LEGACY).await);
        let mut response = mine.call("ask", json!({ "message": "?" })).ok().await;
        let id = next(&mut response).await.unwrap().json()["id"].clone();
        let mut other = theirs.call("ask", json!({ "message": "?" })).ok().await;
        let other_id = next(&mut other).await.unwrap().json()["id"].clone();
        assert_eq!(mine.delete().ok().await.status, 204);
        let last = rest(&mut response).await;
        let last = last.last().unwrap().json();
        assert_eq!(last["error"]["data"]["reason"], "session_ended", "{place:?} {last}");
        let accept = json!({ "action": "accept", "content": {} });
        assert_eq!(mine.respond(&id, &accept).ok().await.status, 404, "{place:?}");
        assert_eq!(theirs.respond(&other_id, &accept).ok().await.status, 202);
        assert!(text(&next(&mut other).await.unwrap().json()).starts_with("answer: accept"));
        stage.until_metric("shadowcat_sessions", &[], 1.0).await;
        stage.until_metric("shadowcat_exchanges_in_flight", &[], 0.0).await;
        if let Some(mock) = &stage.mock {
            let calls = mock.requests().into_iter().filter(|one| one.json("/method") == "tools/call").count();
            assert_eq!(calls, 3, "each once, and once with answers");
        }
    }
}
