//! Everything has a limit, and whoever reaches it is told.

use serde_json::{Value, json};
use shadowcat::settings::Settings;
use shadowcat::testing::client::{LegacySession, Modern, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::*;

fn reason(answer: &Value) -> &str {
    answer["error"]["data"]["reason"].as_str().unwrap_or_else(|| panic!("no reason: {answer}"))
}

/// A full house: 503 or 429 with a time to come back, and the reason.
async fn full(response: Response, status: u16, expected: &str) {
    assert_eq!(response.status, status, "{expected}");
    assert!(response.headers.get("retry-after").is_some(), "{expected}");
    let answer = response.json().ok().await;
    assert_ours(&answer, -31004);
    assert_eq!(reason(&answer), expected);
}

/// A body over the limit is refused with 413: by its announced length before anything of it is read, else at the limit.
#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let proxy = Proxy::with(legacy(), |settings| settings.limits.body_bytes = 10_000).await;
    let session = proxy.session().await;
    let echo = |bytes: usize| {
        message("1", "tools/call", &json!({ "name": "echo", "arguments": { "text": "x".repeat(bytes) } }).to_string())
    };
    let frame = echo(0).len();
    assert_eq!(session.send(&echo(10_000 - frame)).ok().await.status, 200);
    let response = session.send(&echo(10_001 - frame)).ok().await;
    assert_eq!(response.status, 413);
    assert_ours(&response.json().ok().await, -31007);

    let head = |length: &str| {
        format!("POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{length}\r\n\r\n")
    };
    let mut announced = tokio::net::TcpStream::connect(proxy.running.address()).ok().await;
    announced.write_all(head("Content-Length: 999999999").as_bytes()).ok().await;
    let mut chunked = tokio::net::TcpStream::connect(proxy.running.address()).ok().await;
    chunked.write_all(head("Transfer-Encoding: chunked").as_bytes()).ok().await;
    let chunk = format!("1000\r\n{}\r\n", " ".repeat(0x1000));
    for _ in 0..3 {
        chunked.write_all(chunk.as_bytes()).ok().await;
    }
    for mut stream in [announced, chunked] {
        let mut answer = Vec::new();
        let _ = within("an answer, and the end of the connection", stream.read_to_end(&mut answer)).await;
        assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 413"));
    }
}

/// HTTP, RFC 6585: too many or too large header fields are refused with 431.
#[tokio::test]
async fn too_many_headers_are_refused() {
    let proxy = Proxy::start(legacy()).await;
    for headers in ["X: y\r\n".repeat(200), format!("X: {}\r\n", "y".repeat(100_000))] {
        let mut stream = tokio::net::TcpStream::connect(proxy.running.address()).ok().await;
        let _ = stream.write_all(format!("GET /mcp HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").as_bytes()).await;
        let mut answer = Vec::new();
        let _ = within("an answer, and the end of the connection", stream.read_to_end(&mut answer)).await;
        assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    }
}

/// A full session table refuses new sessions and nothing else; room is made by those who leave, not by throwing out.
#[tokio::test]
async fn a_full_session_table_refuses_new_sessions_only() {
    let proxy = Proxy::with(legacy(), |settings| settings.limits.sessions = 2).await;
    let (first, second) = (proxy.session().await, proxy.session().await);
    let post = || async { send("POST", &proxy.url, &json_headers(), &initialize(LEGACY)).await };
    full(post().await, 503, "too_many_sessions").await;
    for session in [&first, &second] {
        assert_eq!(text(&session.call("echo", json!({ "text": "x" })).ok().await.answer().ok().await), "x");
    }
    assert_eq!(proxy.metric("shadowcat_child_starts_total", &[]).await, 2.0, "and no process is started in vain");
    first.delete().ok().await;
    assert_eq!(post().await.status, 200);
}

/// One session may have so many requests in flight; others are not affected.
#[tokio::test]
async fn a_session_has_a_limit_of_requests_in_flight() {
    let proxy = Proxy::with(legacy(), |settings| settings.limits.in_flight = 2).await;
    let (session, other) = (proxy.session().await, proxy.session().await);
    let ask = async || {
        let mut response = session.call("ask", json!({ "message": "?" })).ok().await;
        let question = next(&mut response).await.unwrap().json();
        (response, question)
    };
    let ((mut first, question), _second) = (ask().await, ask().await);
    full(session.call("echo", json!({ "text": "x" })).ok().await, 429, "too_many_requests").await;
    assert_eq!(text(&other.call("echo", json!({ "text": "x" })).ok().await.answer().ok().await), "x");
    assert_eq!(session.request("ping", json!({})).ok().await.status, 200);
    session.respond(&question["id"], &json!({ "action": "decline" })).ok().await;
    rest(&mut first).await;
    assert_eq!(text(&session.call("echo", json!({ "text": "x" })).ok().await.answer().ok().await), "x");
}

/// C-POOL-1, C-POOL-4: there are never more processes than allowed; who waits for one gets it when it is free, or is told
/// in time that it is not.
#[tokio::test]
async fn connections_are_limited_and_waited_for() {
    let change = |settings: &mut Settings| {
        settings.upstreams[0].connections_max = 1;
        settings.limits.queue = 1;
        settings.timeouts.acquire = std::time::Duration::from_millis(500);
    };
    let proxy = Proxy::with(legacy(), change).await;
    let holder = proxy.session().await;
    let post = || async { send("POST", &proxy.url, &json_headers(), &initialize(LEGACY)).await };
    let (one, other) = tokio::join!(post(), post());
    let mut refusals = Vec::new();
    for response in [one, other] {
        assert_eq!(response.status, 503);
        refusals.push(reason(&response.json().ok().await).to_owned());
    }
    refusals.sort();
    assert_eq!(refusals, ["no_connection_free", "queue_full"]);
    let (waited, deleted) = tokio::join!(post(), holder.delete().ok());
    assert_eq!((waited.status, deleted.status), (200, 204), "the one who waited has it now");
    assert!(proxy.metric("shadowcat_children", &[]).await <= 1.0);
}

/// A second and a third GET stream: no more than allowed at once, the oldest makes room.
#[tokio::test]
async fn get_streams_are_limited() {
    let proxy = Proxy::with(legacy(), |settings| settings.limits.get_streams = 2).await;
    let session = proxy.session().await;
    let mut oldest = session.stream(None).ok().await;
    let _kept = [session.stream(None).ok().await, session.stream(None).ok().await];
    assert!(rest(&mut oldest).await.is_empty(), "the oldest has ended");
    proxy.until_metric("shadowcat_streams", &[], 2.0).await;
}

/// A large answer passes whole, in both eras and as event and body; what is over the limit for a server's message becomes an
/// error, not memory.
#[tokio::test]
async fn large_answers_pass_and_too_large_ones_do_not() {
    for era in Era::BOTH {
        let proxy = Proxy::with(era.server(), |settings| settings.limits.message_bytes = 4 << 20).await;
        let client = proxy.client(era).await;
        let answer = client.call("payload", json!({ "bytes": 3 << 20 })).await;
        assert_eq!(text(&answer).len(), 3 << 20, "{era:?}");
        assert_ours(&client.call("payload", json!({ "bytes": 5 << 20 })).await, -31007);
        // A server that talks beyond limits is given up, and replaced.
        assert_eq!(text(&client.call("echo", json!({ "text": "x" })).await), "x", "{era:?}");
    }
}

/// One client that does not read is cut off, and delays only itself.
#[tokio::test]
async fn a_client_that_does_not_read_delays_only_itself() {
    for era in Era::BOTH {
        let change = |settings: &mut Settings| settings.timeouts.write_stall = std::time::Duration::from_millis(300);
        let script = era.server().fault(
            shadowcat::testing::On::tool("echo").nth(1),
            shadowcat::testing::Do::Flood { count: 4000, bytes: 4000 },
        );
        let proxy = Proxy::with(script, change).await;
        let client = proxy.client(era).await;
        let stalled = match &client {
            Client::Legacy(session) => session.call("echo", json!({ "text": "x" })).ok().await,
            Client::Modern(url) => Modern::call("echo", json!({ "text": "x" })).log_level("debug").post(url).ok().await,
        };
        assert!(stalled.is_sse());
        let other = proxy.client(era).await;
        assert_eq!(text(&other.call("echo", json!({ "text": "meanwhile" })).await), "meanwhile", "{era:?}");
        proxy.until_metric("shadowcat_streams", &[], 0.0).await;
        assert_eq!(
            text(&client.call("echo", json!({ "text": "after" })).await),
            "after",
            "{era:?}: and afterwards it goes on"
        );
        drop(stalled);
    }
}

/// JSON nesting has a limit that nobody needs and nobody can get round.
#[tokio::test]
async fn nesting_is_limited() {
    let proxy = Proxy::with(legacy(), |settings| settings.limits.depth = 16).await;
    let session: LegacySession = proxy.session().await;
    let nested = |levels: usize| {
        message(
            "1",
            "tools/call",
            &format!(r#"{{"name":"meta","arguments":{{"x":{}{}}}}}"#, "[".repeat(levels), "]".repeat(levels)),
        )
    };
    assert_eq!(session.send(&nested(12)).ok().await.status, 200);
    for levels in [16, 17, 100, 1000] {
        assert_eq!(session.send(&nested(levels)).ok().await.status, 400, "{levels}");
    }
}

/// C-POOL-1: a rush of clients is served as far as there is room; the others are told to come back, soon and without harm. There
/// are never more processes than allowed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rush_of_clients_is_served_as_far_as_there_is_room() {
    let change = |settings: &mut Settings| {
        settings.upstreams[0].connections_max = 4;
        settings.limits.queue = 8;
        settings.timeouts.acquire = std::time::Duration::from_millis(200);
    };
    let proxy = Proxy::with(legacy(), change).await;
    let watch = async {
        loop {
            assert!(proxy.metric("shadowcat_children", &[]).await <= 4.0);
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let rush = futures_util::future::join_all((0..200).map(|_| async {
        let response = send("POST", &proxy.url, &json_headers(), &initialize(LEGACY)).await;
        assert!(response.status == 200 || response.headers.get("retry-after").is_some());
        response.status
    }));
    let statuses = tokio::select! { statuses = rush => statuses, () = watch => unreachable!() };
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 4, "{statuses:?}");
    assert!(statuses.iter().all(|status| [200, 503].contains(status)), "{statuses:?}");
    proxy.close().await;
}

/// 2026-07-28: modern clients share a process; many calls at once are all answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_modern_calls_at_once_are_all_answered() {
    let proxy = Proxy::start(modern()).await;
    let calls = (0..300).map(|n| {
        let url = &proxy.url;
        async move {
            let answer =
                Modern::call("echo", json!({ "text": n.to_string() })).post(url).ok().await.answer().ok().await;
            assert_eq!(text(&answer), n.to_string());
        }
    });
    futures_util::future::join_all(calls).await;
    assert_eq!(proxy.metric("shadowcat_child_starts_total", &[]).await, 1.0);
}
