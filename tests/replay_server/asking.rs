//! What a server does besides answering: it asks, tells by itself, and hears that a call is taken back.

use super::*;

const URI: &str = "fake://resource/1";

fn question() -> Value {
    let schema = json!({ "type": "object", "properties": { "name": { "type": "string" } } });
    json!({ "jsonrpc": "2.0", "id": "q-1", "method": "elicitation/create", "params": { "mode": "form", "message": "Who?", "requestedSchema": schema } })
}

fn asking_tape() -> String {
    Tape::new()
        .handshake()
        .ask(2, "tools/call", json!({ "name": "ask", "arguments": {} }))
        .down(question())
        .up(json!({ "jsonrpc": "2.0", "id": "q-1", "result": { "action": "accept", "content": { "name": "Alice" } } }))
        .tell("notifications/message", json!({ "level": "info", "data": "heard" }))
        .answer(2, said("accept Alice"))
        .end()
}

/// A question is asked as a question, and nothing that came after its answer is said before there is one.
#[tokio::test]
async fn a_question_is_asked_and_waited_for() {
    let player = Player::start(&asking_tape(), &[]).await;
    let session = LegacySession::open(&player.url, LEGACY, everything()).ok().await;
    let mut call = session.call("ask", json!({})).ok().await;
    let asked = call.message().ok().await.unwrap();
    session.respond(&asked["id"], &json!({ "action": "decline" })).ok().await;
    let rest: Vec<Value> = rest(&mut call).await.iter().map(|event| event.json()).collect();
    assert_eq!(rest[0]["params"]["data"], "heard");
    assert_eq!(text(&rest[1]), "accept Alice", "the tape says what the server said");
    player.end().await;
}

/// A client of 2026-07-28 is asked in its way: by the end of its request.
#[tokio::test]
async fn a_question_is_asked_across_the_eras() {
    let player = Player::start(&asking_tape(), &[]).await;
    let call = || Modern::call("ask", json!({})).capabilities(everything());
    let asked = call().post(&player.url).ok().await.answer().ok().await;
    let (key, question) = asked["result"]["inputRequests"].as_object().unwrap().iter().next().unwrap();
    assert_eq!(question["params"]["message"], "Who?");
    let answers = json!({ key: { "action": "accept", "content": { "name": "Alice" } } });
    let again = call().param("requestState", asked["result"]["requestState"].clone()).param("inputResponses", answers);
    assert_eq!(text(&again.post(&player.url).ok().await.answer().ok().await), "accept Alice");
    assert_eq!(player.end().await, (Some(0), String::new()));
}

/// What a server tells by itself after a request is told after that request.
#[tokio::test]
async fn what_a_server_tells_by_itself_is_told_when_it_was() {
    let tape = Tape::new()
        .handshake()
        .ask(2, "resources/subscribe", json!({ "uri": URI }))
        .answer(2, json!({}))
        .ask(3, "tools/call", json!({ "name": "touch", "arguments": {} }))
        .answer(3, said("touched"))
        .tell("notifications/resources/updated", json!({ "uri": URI }))
        .ask(4, "resources/unsubscribe", json!({ "uri": URI }))
        .answer(4, json!({}))
        .end();
    let player = Player::start(&tape, &[]).await;
    let session = LegacySession::open(&player.url, LEGACY, everything()).ok().await;
    let mut stream = session.stream(None).ok().await;
    let subscribed = session.request("resources/subscribe", json!({ "uri": URI })).ok().await.json().ok().await;
    assert_eq!(subscribed["result"], json!({}));
    assert_eq!(text(&session.call("touch", json!({})).ok().await.answer().ok().await), "touched");
    let told = stream.message().ok().await.unwrap();
    assert_eq!(told["params"]["uri"], URI);

    // A client of 2026-07-28 listens on a connection, and calls on another.
    let filter = json!({ "resourceSubscriptions": [URI] });
    let listen = Modern::new("subscriptions/listen").id("\"L\"").param("notifications", filter);
    let mut listening = listen.post(&player.url).ok().await;
    assert_eq!(listening.message().ok().await.unwrap()["method"], "notifications/subscriptions/acknowledged");
    let touch = Modern::call("touch", json!({})).post(&player.url).ok().await;
    assert_eq!(text(&touch.answer().ok().await), "touched");
    let told = listening.message().ok().await.unwrap();
    assert_eq!((&told["method"], &told["params"]["uri"]), (&json!("notifications/resources/updated"), &json!(URI)));
    drop(listening);
    assert_eq!(player.end().await, (Some(0), String::new()));
}

/// The same the other way around: a stream of notifications serves a session.
#[tokio::test]
async fn a_stream_of_notifications_serves_sessions_too() {
    let tag = json!({ "io.modelcontextprotocol/subscriptionId": 1 });
    let filter = json!({ "resourceSubscriptions": [URI] });
    let mut touched = said("touched");
    touched["resultType"] = json!("complete");
    let capabilities = json!({ "tools": {}, "resources": { "subscribe": true } });
    let discovered = json!({ "resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": capabilities, "ttlMs": 0, "cacheScope": "private" });
    let tape = Tape::new()
        .ask(9, "server/discover", envelope(json!({})))
        .answer(9, discovered)
        .ask(1, "subscriptions/listen", envelope(json!({ "notifications": filter })))
        .tell("notifications/subscriptions/acknowledged", json!({ "_meta": tag, "notifications": filter }))
        .ask(2, "tools/call", envelope(json!({ "name": "touch", "arguments": {} })))
        .answer(2, touched)
        .tell("notifications/resources/updated", json!({ "_meta": tag, "uri": URI }))
        .end();
    let player = Player::start(&tape, &[]).await;
    let listen = Modern::new("subscriptions/listen").id("\"L\"").param("notifications", filter.clone());
    let mut listening = listen.post(&player.url).ok().await;
    assert_eq!(listening.message().ok().await.unwrap()["params"]["notifications"], filter);
    let touch = Modern::call("touch", json!({})).post(&player.url).ok().await;
    assert_eq!(text(&touch.answer().ok().await), "touched");
    let told = listening.message().ok().await.unwrap();
    assert_eq!(told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "L");
    drop(listening);

    let session = LegacySession::open(&player.url, LEGACY, everything()).ok().await;
    let mut stream = session.stream(None).ok().await;
    session.request("resources/subscribe", json!({ "uri": URI })).ok().await.json().ok().await;
    let mut called = 0;
    // The session's own stream of notifications is opened beside the answer.
    let told = loop {
        called += 1;
        assert_eq!(text(&session.call("touch", json!({})).ok().await.answer().ok().await), "touched");
        let heard = tokio::time::timeout(std::time::Duration::from_millis(200), stream.message()).await;
        match heard {
            Ok(told) => break told.unwrap().unwrap(),
            Err(_) => assert!(called < 50, "it is never told"),
        }
    };
    assert_eq!(told["params"]["uri"], URI);
    assert_eq!(player.end().await, (Some(0), String::new()));
}

/// A call that was taken back on the tape waits until it is, and says what the server said then.
#[tokio::test]
async fn a_call_that_was_taken_back_waits_for_that() {
    let tape = Tape::new()
        .handshake()
        .ask(2, "tools/call", json!({ "name": "wait", "arguments": {}, "_meta": { "progressToken": 2 } }))
        .tell("notifications/progress", json!({ "progressToken": 2, "progress": 1 }))
        .up(json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 2 } }))
        .ask(3, "ping", json!({}))
        .answer(3, json!({}))
        .end();
    let player = Player::start(&tape, &[]).await;
    let session = LegacySession::open(&player.url, LEGACY, everything()).ok().await;
    let params = json!({ "name": "wait", "arguments": {}, "_meta": { "progressToken": "t" } });
    let mut call = session.send(&message("\"w\"", "tools/call", &params.to_string())).ok().await;
    let progress = call.message().ok().await.unwrap();
    assert_eq!(progress["params"], json!({ "progressToken": "t", "progress": 1 }));
    session.send(&cancelled(json!("w"))).ok().await;
    assert_eq!(rest(&mut call).await, [], "it ends without an answer");
    assert_eq!(session.request("ping", json!({})).ok().await.json().ok().await["result"], json!({}));
    // A client of 2026-07-28 goes away; the next one finds the tape as it was.
    for _ in 0..2 {
        let wait = Modern::call("wait", json!({})).progress_token(json!(7));
        let mut wait = wait.post(&player.url).ok().await;
        assert_eq!(wait.message().ok().await.unwrap()["params"]["progress"], 1);
    }
    assert_eq!(player.end().await, (Some(0), String::new()));
}
