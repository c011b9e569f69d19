//! Questions of a legacy server to its client, in the middle of a call.

use futures_util::future::join_all;
use serde_json::{Value, json};
use shadowcat::testing::client::{LegacySession, Response};

use crate::common::*;

async fn begin(session: &LegacySession, tool: &str, arguments: Value) -> Response {
    session.call(tool, arguments).ok().await
}

/// 2025-11-25, Elicitation, Sampling, Roots: each question comes on the stream of the call that caused it; the answer, or
/// the refusal, goes back to the server that asked.
#[tokio::test]
async fn questions_come_on_the_calls_stream_and_are_answered() {
    let proxy = Proxy::start(legacy()).await;
    let client = proxy.client(Era::Legacy).await;
    let Client::Legacy(session) = &client else { unreachable!() };
    let error = |id: &Value| json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -1, "message": "User rejected" } });
    let result = |id: &Value, result: Value| json!({ "jsonrpc": "2.0", "id": id, "result": result });
    let said = json!({ "role": "assistant", "model": "m", "content": { "type": "text", "text": "Hi" } });
    let roots = json!({ "roots": [{ "uri": "file:///a" }, { "uri": "file:///b" }] });
    type Answer<'a> = &'a dyn Fn(&Value) -> Value;
    let rows: [(&str, Value, &str, Answer<'_>, &str); 5] = [
        (
            "ask",
            json!({ "message": "?" }),
            "elicitation/create",
            &|id| result(id, json!({ "action": "decline" })),
            "answer: decline null",
        ),
        ("ask", json!({ "message": "?" }), "elicitation/create", &error, "error: -1 User rejected"),
        (
            "sample",
            json!({ "prompt": "Speak" }),
            "sampling/createMessage",
            &|id| result(id, said.clone()),
            "sampled: Hi",
        ),
        ("sample", json!({ "prompt": "Speak" }), "sampling/createMessage", &error, "error: -1 User rejected"),
        ("roots", json!({}), "roots/list", &|id| result(id, roots.clone()), "roots: file:///a file:///b"),
    ];
    for (tool, arguments, method, answer, expected) in rows {
        let mut response = begin(session, tool, arguments).await;
        let question = next(&mut response).await.unwrap().json();
        assert_eq!(question["method"], method);
        let sent = session.send(&answer(&question["id"]).to_string()).ok().await;
        assert_eq!((sent.status, sent.text().ok().await), (202, String::new()));
        let rest = rest(&mut response).await;
        assert_eq!(rest.len(), 1, "{rest:?}");
        assert_eq!(text(&rest[0].json()), expected);
    }
    let stats = client.stats().await;
    assert_eq!((&stats["answers"], &stats["stray_answers"]), (&json!(5), &json!(0)));
}

/// 2025-11-25, Basic › Responses: an answer is good once, and for the session that was asked.
#[tokio::test]
async fn an_answer_is_taken_once_and_from_the_one_who_was_asked() {
    let proxy = Proxy::start(legacy()).await;
    let (a, b) = (proxy.client(Era::Legacy).await, proxy.client(Era::Legacy).await);
    let (Client::Legacy(mine), Client::Legacy(theirs)) = (&a, &b) else { unreachable!() };
    let mut asked = begin(mine, "ask", json!({ "message": "?" })).await;
    let question = next(&mut asked).await.unwrap().json();
    let answer = |action: &str| json!({ "action": action, "content": {} });
    assert_eq!(theirs.respond(&question["id"], &answer("accept")).ok().await.status, 202, "dropped");
    assert_eq!(
        mine.respond(&json!(question["id"].to_string()), &answer("accept")).ok().await.status,
        202,
        "of another type: dropped"
    );
    for action in ["decline", "accept", "cancel"] {
        assert_eq!(mine.respond(&question["id"], &answer(action)).ok().await.status, 202);
    }
    assert!(text(&next(&mut asked).await.unwrap().json()).starts_with("answer: decline"), "the first one counts");
    for client in [&a, &b] {
        let stats = client.stats().await;
        assert_eq!(stats["stray_answers"], 0, "a server hears nothing of answers to nothing: {stats}");
    }
    assert_eq!(a.stats().await["answers"], 1);
}

/// 2025-11-25, Elicitation: parallel questions are answered in any order; each answer finds its question.
#[tokio::test]
async fn parallel_questions_are_answered_in_any_order() {
    let proxy = Proxy::start(legacy()).await;
    let session = proxy.session().await;
    let mut response = begin(&session, "ask", json!({ "message": "?", "parallel": 4 })).await;
    let mut questions = Vec::new();
    for _ in 0..4 {
        questions.push(next(&mut response).await.unwrap().json());
    }
    for (n, question) in questions.iter().enumerate().rev() {
        session
            .respond(&question["id"], &json!({ "action": "accept", "content": { "answer": n.to_string() } }))
            .ok()
            .await;
    }
    let answer = next(&mut response).await.unwrap().json();
    let lines: Vec<&str> = text(&answer).lines().collect();
    assert_eq!(lines.len(), 4);
    for (n, line) in lines.iter().enumerate() {
        assert!(line.ends_with(&format!("{{\"answer\":\"{n}\"}}")), "{lines:?}");
    }
}

/// 2025-11-25, Sampling (user interaction): servers number their questions from 1, each for itself; no client is asked what
/// another client's server wants to know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_with_the_same_id_reach_their_own_clients() {
    let proxy = Proxy::start(legacy()).await;
    let ask = async |n: usize| {
        let session = proxy.session().await;
        let mut response = begin(&session, "ask", json!({ "message": format!("to {n}"), "rounds": 2 })).await;
        for round in 0..2 {
            let question = next(&mut response).await.unwrap().json();
            assert_eq!(question["params"]["message"], format!("to {n}"));
            let content = json!({ "answer": format!("{n}.{round}") });
            session.respond(&question["id"], &json!({ "action": "accept", "content": content })).ok().await;
        }
        let answer = next(&mut response).await.unwrap().json();
        let expected: Vec<String> =
            (0..2).map(|round| format!("answer: accept {{\"answer\":\"{n}.{round}\"}}")).collect();
        assert_eq!(text(&answer), expected.join("\n"));
    };
    join_all((0..10).map(ask)).await;
}

/// 2025-11-25, Lifecycle › Capability Negotiation: a client's capabilities reach its server as they are, so that it is not
/// asked what it cannot answer.
#[tokio::test]
async fn a_client_is_not_asked_what_it_cannot_answer() {
    let proxy = Proxy::start(legacy()).await;
    let sampling_only = LegacySession::open(&proxy.url, LEGACY, json!({ "sampling": {} })).ok().await;
    for tool in ["ask", "roots"] {
        let answer = begin(&sampling_only, tool, json!({ "message": "?" })).await.answer().ok().await;
        assert_eq!(answer["result"]["isError"], true, "{answer}");
    }
    let mut sampled = begin(&sampling_only, "sample", json!({ "prompt": "?" })).await;
    assert_eq!(next(&mut sampled).await.unwrap().json()["method"], "sampling/createMessage");
}

/// C-LIFE; 2025-11-25, Lifecycle › Timeouts: people take their time; while a question is open the call's own deadline waits.
#[tokio::test]
async fn a_call_waits_for_the_people_it_asks() {
    let quick = |settings: &mut shadowcat::settings::Settings| {
        settings.timeouts.request = std::time::Duration::from_millis(150);
        settings.timeouts.sse_keepalive = std::time::Duration::from_millis(400);
    };
    let proxy = Proxy::with(legacy(), quick).await;
    let session = proxy.session().await;
    let mut response = begin(&session, "ask", json!({ "message": "?" })).await;
    let question = next(&mut response).await.unwrap().json();
    // A comment comes only after more than twice the deadline.
    assert_eq!(response.event().ok().await.unwrap().data, None);
    session.respond(&question["id"], &json!({ "action": "decline" })).ok().await;
    assert!(text(&next(&mut response).await.unwrap().json()).starts_with("answer: decline"));
}
