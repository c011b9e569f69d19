//! Questions of servers to clients that lease a process for each request.

use futures_util::future::join_all;
use serde_json::{Value, json};
use shadowcat::settings::Isolation;

use crate::common::*;
use crate::support::*;

/// 2025-11-25, Elicitation: servers number their questions from 1, each for itself. Several clients with several calls at once
/// are each asked what their own call wants to know, and each answer goes to the process that asked.
#[tokio::test]
async fn each_question_reaches_its_client_and_each_answer_its_process() {
    let proxy = isolated(Isolation::Request, legacy(), plain).await;
    let clients = join_all((0..4).map(|_| open(&proxy))).await;
    let calls = (0..8).map(async |n: usize| {
        let client = &clients[n % 4];
        let message = format!("question {n}");
        (n, asking(client, &(n / 4).to_string(), &message).await, message)
    });
    let open_calls = join_all(calls).await;
    let books = books(&proxy).await;
    assert_eq!((books.leased, books.children), (8.0, 8.0), "{books:?}");
    for (n, call, message) in open_calls.into_iter().rev() {
        assert_eq!(call.1["params"]["message"], message);
        let answer = answering(&clients[n % 4], call, &format!("answer {n}")).await;
        assert_eq!(answer, format!("answer: accept {{\"answer\":\"answer {n}\"}}"));
    }
    rests_with(&proxy, 8, 0).await;
    for client in &clients {
        let stats = client.stats().await;
        assert_eq!(stats["stray_answers"], 0, "{stats}");
    }
}

/// 2025-11-25, Sampling: the same with a question of another kind in several rounds, where a call stays with its process.
#[tokio::test]
async fn a_call_stays_with_its_process_from_question_to_question() {
    let proxy = isolated(Isolation::Request, legacy(), plain).await;
    let clients = join_all((0..4).map(|_| open(&proxy))).await;
    let calls = clients.iter().enumerate().map(async |(n, client)| {
        let mut call = client.begin("1", None, "sample", json!({ "prompt": format!("p{n}"), "rounds": 3 })).await;
        for round in 0..3 {
            let question = next(&mut call).await.unwrap().json();
            assert_eq!(question["params"]["messages"][0]["content"]["text"], format!("p{n}"));
            let said = json!({ "role": "assistant", "model": "m", "content": { "type": "text", "text": format!("{n}.{round}") } });
            assert_eq!(session(client).respond(&question["id"], &said).ok().await.status, 202);
        }
        let answer = rest(&mut call).await.pop().unwrap().json();
        assert_eq!(text(&answer), (0..3).map(|round| format!("sampled: {n}.{round}")).collect::<Vec<_>>().join("\n"));
    });
    join_all(calls).await;
    let books = at_rest(&proxy).await;
    assert!(books.leased == 0.0 && books.children <= 4.0, "{books:?}");
}

/// 2025-11-25, Basic › Responses: an answer that comes when the call is over, or from somebody else, goes to no process, least
/// of all to the one that has the same number now.
#[tokio::test]
async fn an_answer_to_a_call_that_is_over_goes_nowhere() {
    let proxy = isolated(Isolation::Request, legacy(), one).await;
    let (ada, bob) = (open(&proxy).await, open(&proxy).await);
    let first = asking(&ada, "1", "first").await;
    let late = first.1["id"].clone();
    assert!(answering(&ada, first, "in time").await.contains("in time"));
    let accept = |said: &str| json!({ "action": "accept", "content": { "answer": said } });
    let second = asking(&bob, "1", "second").await;
    for client in [&ada, &bob] {
        for id in [late.clone(), json!(late.to_string()), json!(99)] {
            if matches!(client, Client::Legacy(_)) && std::ptr::eq(client, &bob) && id == second.1["id"] {
                continue;
            }
            assert_eq!(session(client).respond(&id, &accept("forged")).ok().await.status, 202);
        }
    }
    assert_eq!(answering(&bob, second, "real").await, r#"answer: accept {"answer":"real"}"#);
    let stats: Value = bob.stats().await;
    assert_eq!((&stats["answers"], &stats["stray_answers"]), (&json!(2), &json!(0)), "{stats}");
}
