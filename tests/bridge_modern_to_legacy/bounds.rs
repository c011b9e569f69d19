//! What a parked call may keep, and for how long it is not taken for lost.

use super::*;

/// A server over HTTP that waits for people is silent: its stream counts as lost when people have had their time, and not before.
#[tokio::test]
async fn a_parked_call_outlives_the_silence_of_its_stream() {
    let idle = |settings: &mut Settings| settings.timeouts.upstream_sse_idle = Duration::from_millis(100);
    let (http, sse) = (World::with(Via::Http, legacy(), idle).await, World::with(Via::Sse, legacy(), idle).await);
    let ask = || asking(json!({ "message": "?" }));
    let (one, other) = (http.answer(&ask()).await, sse.answer(&ask()).await);
    // The stream of what the server says by itself is silent as well, and nobody is waited for there.
    let idled = async || http.metric("shadowcat_upstream_reconnects_total", &["idle"]).await;
    until("streams have been silent for too long", idled, |seen| *seen >= 3.0).await;
    for (world, asked) in [(&http, one), (&sse, other)] {
        let done = world.answer(&again(ask(), &asked, accepting(&asked))).await;
        assert!(text(&done).starts_with("answer: accept"), "{done}");
        assert_eq!(world.lost("parked_lost").await, 0.0);
    }
    http.close().await;
    sse.close().await;
}

fn log(bytes: usize) -> String {
    let params = json!({ "level": "error", "data": "x".repeat(bytes) });
    json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": params }).to_string()
}

fn question(bytes: usize) -> String {
    let params = json!({ "message": "x".repeat(bytes), "requestedSchema": { "type": "object", "properties": {} } });
    json!({ "jsonrpc": "2.0", "id": "big", "method": "elicitation/create", "params": params }).to_string()
}

fn small(settings: &mut Settings) {
    settings.limits.parked_bytes = 8 << 10;
}

/// docs/bridge.md: a server does not decide how much is kept for a client that is away. The newest log messages are.
#[tokio::test]
async fn log_messages_for_a_client_that_is_away_are_bounded_in_bytes() {
    // All of it takes longer than other questions are waited for.
    let script = legacy()
        .fault(On::tool("echo"), Do::Print { text: question(10), times: 1, newline: true })
        .fault(On::tool("echo"), Do::Print { text: log(3 << 10), times: 10, newline: true })
        .fault(On::tool("echo"), Do::Slice { bytes: 1 << 10, gap_ms: 25, head: false });
    let world = World::with(Via::Stdio, script, small).await;
    let echo = || Modern::call("echo", json!({ "text": "x" })).capabilities(everything()).log_level("debug");
    let asked = world.answer(&echo()).await;
    questions(&asked);
    until("they are there", async || world.lost("parked_log").await, |seen| *seen == 8.0).await;
    let said = messages(world.post(&again(echo(), &asked, accepting(&asked))).await).await;
    let logs = said.iter().filter(|one| one["method"] == "notifications/message").count();
    assert_eq!(logs, 2, "{said:?}");
    assert_eq!(text(said.last().unwrap()), "x");
    world.close().await;
}

/// A question that does not fit is refused to the server, and counted; the call goes on.
#[tokio::test]
async fn questions_are_bounded_in_bytes() {
    let script = legacy().fault(On::tool("echo"), Do::Print { text: question(9 << 10), times: 1, newline: true });
    let world = World::with(Via::Stdio, script, small).await;
    let echo = Modern::call("echo", json!({ "text": "x" })).capabilities(everything());
    assert_eq!(text(&world.answer(&echo).await), "x");
    assert_eq!(world.lost("question_too_many").await, 1.0);
    world.close().await;
}

/// An answer that does not fit is told of: it is not known what it was, but that the tool ran.
#[tokio::test]
async fn an_answer_for_a_client_that_is_away_is_bounded_in_bytes() {
    let script = legacy()
        .fault(On::tool("payload"), Do::Print { text: question(10), times: 1, newline: true })
        .fault(On::tool("payload"), Do::Slice { bytes: 512, gap_ms: 25, head: false });
    let world = World::with(Via::Stdio, script, small).await;
    for (bytes, fits) in [(2 << 10, true), (12 << 10, false)] {
        let call = || Modern::call("payload", json!({ "bytes": bytes })).capabilities(everything());
        let asked = world.answer(&call()).await;
        questions(&asked);
        let lost = async || world.lost("parked_answer").await;
        if !fits {
            until("it is counted", lost, |seen| *seen == 1.0).await;
        }
        let back = world.answer(&again(call(), &asked, accepting(&asked))).await;
        if fits {
            assert_eq!(text(&back).len(), bytes);
        } else {
            assert_ours(&back, -31007);
            assert_eq!(back["error"]["data"]["reason"], "parked_answer", "{back}");
        }
    }
    world.close().await;
}

/// `message_bytes`: an answer that is larger than any may be ends its call with an error, whether or not its client is there; the next call
/// is served.
#[tokio::test]
async fn an_answer_that_is_too_large_ends_its_call() {
    for via in Via::ALL {
        let world = World::with(via, legacy(), |settings| settings.limits.message_bytes = 64 << 10).await;
        let payload = Modern::call("payload", json!({ "bytes": 100_000 })).capabilities(everything());
        let refused = world.answer(&payload).await;
        assert_ours(&refused, -31007);
        assert_eq!(refused["error"]["data"]["retryable"], false, "{via:?} {refused}");
        let echo = Modern::call("echo", json!({ "text": "x" })).capabilities(everything());
        assert_eq!(text(&world.answer(&echo).await), "x", "{via:?}");
        world.close().await;
    }
}
