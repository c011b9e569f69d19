//! What is held for a client that does not read, in front of a server of the other era that does not stop talking: C-SSE-7 across
//! the eras. Counted by the allocator, in a process that does nothing else.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/mod.rs"]
mod common;
#[path = "common/counting.rs"]
mod counting;

use serde_json::{Value, json};
use shadowcat::server::Running;
use shadowcat::settings::Settings;
use shadowcat::testing::client::{LegacySession, Modern, SseSession};
use shadowcat::testing::{Do, On, Script};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::Child;

use common::{Era, InTime as _, LEGACY, PROGRAM, fake, script_file, text, within};
use counting::settled;

/// What is said: far more than may be held.
const MESSAGES: u64 = 200_000;
const MESSAGE: usize = 2_000;
const STEPS: u64 = 1_000_000;
/// Queues, a backlog, and the buffers of two connections.
const BYTES_MAX: usize = 8 << 20;
/// How long a line is that is no message.
const NOISE_LINE: usize = 512 << 10;
/// What a call may leave behind.
const NOISE: usize = 1 << 20;

/// A proxy in front of a server in a process of its own.
struct World {
    proxy: Running,
    url: String,
    _script: tempfile::NamedTempFile,
    _server: Option<Child>,
}

impl World {
    async fn new(script: Script, over_http: bool) -> World {
        let script = script_file(&script);
        let (upstream, server) = if over_http {
            let (server, upstream) = common::fake_sse(script.path()).await;
            (upstream, Some(server))
        } else {
            (common::command(PROGRAM, fake(script.path())), None)
        };
        let proxy = within("start", Running::start(Settings::for_upstream(upstream))).await.unwrap();
        let url = format!("http://{}/mcp", proxy.address());
        World { proxy, url, _script: script, _server: server }
    }
}

/// A server that says a lot before it answers `echo` for the second time.
fn flooding(era: Era) -> Script {
    era.server().fault(On::tool("echo").nth(2), Do::Flood { count: MESSAGES, bytes: MESSAGE })
}

/// One that says little, each time behind a long line that is no message.
fn noisy(era: Era) -> Script {
    let log = common::notification("notifications/message", json!({ "level": "error", "data": "x".repeat(16 << 10) }));
    let text = format!("{}\n{log}", "noise ".repeat(NOISE_LINE / 6));
    era.server().fault(On::tool("echo").nth(2), Do::Print { text, times: 1200, newline: true })
}

/// Whatever the client is and does not read, what is held for it is bounded, and goes with it.
#[tokio::test]
async fn memory_does_not_grow_with_what_nobody_reads() {
    for over_http in [false, true] {
        // A client of 2026-07-28, a server with a handshake: log messages, then progress.
        let world = World::new(flooding(Era::Legacy), over_http).await;
        let echo = || Modern::call("echo", json!({ "text": "x" })).log_level("debug");
        assert_eq!(text(&echo().post(&world.url).ok().await.answer().ok().await), "x");
        let before = settled().await;
        let unread = echo().post(&world.url).ok().await;
        assert!(unread.is_sse());
        bounded("log messages, modern client", over_http, before).await;
        drop(unread);
        let steps = Modern::call("progress", json!({ "steps": STEPS })).progress_token("p".into());
        let unread = steps.post(&world.url).ok().await;
        bounded("progress, modern client", over_http, before).await;
        drop(unread);
        left("modern client", over_http, before).await;
        assert!(within("shutdown", world.proxy.shutdown()).await.is_clean());

        // A client with a handshake, a server of 2026-07-28.
        let world = World::new(flooding(Era::Modern), over_http).await;
        let session = LegacySession::open(&world.url, LEGACY, json!({})).ok().await;
        let level = session.request("logging/setLevel", json!({ "level": "debug" })).ok().await.answer().ok().await;
        assert_eq!(level["result"], json!({}), "{level}");
        let echo = async || session.call("echo", json!({ "text": "x" })).ok().await;
        assert_eq!(text(&echo().await.answer().ok().await), "x");
        let before = settled().await;
        let unread = echo().await;
        assert!(unread.is_sse());
        bounded("log messages, legacy client", over_http, before).await;
        // The connection is lost, and the call goes on: what it says is kept for one who comes back, within bounds.
        drop(unread);
        bounded("log messages, legacy client that is away", over_http, before).await;
        session.delete().ok().await;
        left("legacy client", over_http, before).await;
        assert!(within("shutdown", world.proxy.shutdown()).await.is_clean());

        // The same on the one stream of HTTP+SSE.
        let world = World::new(flooding(Era::Modern), over_http).await;
        let url = world.url.replace("/mcp", "/sse");
        let mut session = SseSession::open(&url, "2024-11-05", json!({})).ok().await;
        let call = |id: u64, method: &str, params: Value| common::message(&id.to_string(), method, &params.to_string());
        session.send(&call(1, "logging/setLevel", json!({ "level": "debug" }))).ok().await;
        assert_eq!(session.next().ok().await["result"], json!({}));
        let echo = |id| call(id, "tools/call", json!({ "name": "echo", "arguments": { "text": "x" } }));
        session.send(&echo(2)).ok().await;
        assert_eq!(text(&session.next().ok().await), "x");
        let before = settled().await;
        session.send(&echo(3)).ok().await;
        let first = session.next().ok().await;
        assert_eq!(first["method"], "notifications/message", "{first}");
        bounded("log messages, HTTP+SSE", over_http, before).await;
        drop(session);
        left("HTTP+SSE", over_http, before).await;
        assert!(within("shutdown", world.proxy.shutdown()).await.is_clean());
    }

    // A message may be a small part of what it was read with: a child's lines are read as they come.
    let world = World::new(noisy(Era::Legacy), false).await;
    let echo = || Modern::call("echo", json!({ "text": "x" })).log_level("debug");
    assert_eq!(text(&echo().post(&world.url).ok().await.answer().ok().await), "x");
    let before = settled().await;
    let unread = narrow(&world, &echo()).await;
    bounded("parts of buffers, modern client", false, before).await;
    drop(unread);
    assert!(within("shutdown", world.proxy.shutdown()).await.is_clean());
}

/// A request of a client whose own buffers hold next to nothing; it waits for the first byte of its answer, and reads none.
async fn narrow(world: &World, request: &Modern) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    let mut stream = socket.connect(world.proxy.address()).ok().await;
    let body = request.body();
    let headers: String = request.headers().iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n\
         Content-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).ok().await;
    stream.peek(&mut [0]).ok().await;
    stream
}

async fn bounded(what: &str, over_http: bool, before: usize) {
    // What flows through without a pause looks like rest, too.
    let (mut last, mut now) = (0, settled().await);
    while now.abs_diff(last) > NOISE {
        (last, now) = (now, settled().await);
    }
    let held = now.saturating_sub(before);
    println!("{what}, HTTP {over_http}: {held} bytes");
    assert!(held <= BYTES_MAX, "{what}, HTTP {over_http}: {held} bytes");
}

async fn left(what: &str, over_http: bool, before: usize) {
    let held = settled().await.saturating_sub(before);
    assert!(held <= NOISE, "{what}, HTTP {over_http}: {held} bytes stay");
}
