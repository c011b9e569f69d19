//! Clients with a handshake, of every revision and over every transport, in front of a server that has none.
//!
//! Real processes and sockets: the server is a fake that speaks 2026-07-28 only, as a child and over HTTP. Each test looks at
//! what the client gets, and where it matters at what arrived upstream.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/mod.rs"]
mod common;

#[path = "bridge_legacy_to_modern/between.rs"]
mod between;
#[path = "bridge_legacy_to_modern/calls.rs"]
mod calls;
#[path = "bridge_legacy_to_modern/handshake.rs"]
mod handshake;
#[path = "bridge_legacy_to_modern/questions.rs"]
mod questions;
#[path = "bridge_legacy_to_modern/schemas.rs"]
mod schemas;
#[path = "bridge_legacy_to_modern/standing.rs"]
mod standing;
#[path = "bridge_legacy_to_modern/tasks.rs"]
mod tasks;

use std::process::Stdio;

use serde_json::{Value, json};
use shadowcat::server::Running;
use shadowcat::settings::{HttpTarget, HttpTransport, Settings, Target, UpstreamSettings};
use shadowcat::testing::client::{LegacySession, SseSession};
use shadowcat::testing::{MockSse, Script};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use common::{InTime, PROGRAM, Proxy, REVISIONS, everything, next, within};

/// Where the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Child,
    Http,
}

impl Place {
    const BOTH: [Place; 2] = [Place::Child, Place::Http];
}

/// A proxy in front of a server, and the server where it is not a child.
struct Stage {
    url: String,
    sse_url: String,
    mock: Option<MockSse>,
    child: Option<Proxy>,
    front: Option<Running>,
}

impl Stage {
    async fn new(place: Place, script: Script) -> Stage {
        Stage::with(place, script, |_| {}).await
    }

    async fn with(place: Place, script: Script, change: impl FnOnce(&mut Settings)) -> Stage {
        if place == Place::Child {
            let proxy = Proxy::with(script, change).await;
            let (url, sse_url) = (proxy.url.clone(), proxy.at("/sse"));
            return Stage { url, sse_url, mock: None, child: Some(proxy), front: None };
        }
        let mock = MockSse::start(script).ok().await;
        let target = HttpTarget { url: mock.url().parse().unwrap(), headers: vec![], transport: HttpTransport::Auto };
        let mut settings = Settings::for_upstream(UpstreamSettings::new("fake", Target::Http(target)));
        settings.admin = Some(([127, 0, 0, 1], 0).into());
        change(&mut settings);
        let front = within("start", Running::start(settings)).await.unwrap();
        let base = format!("http://{}", front.address());
        Stage {
            url: format!("{base}/mcp"),
            sse_url: format!("{base}/sse"),
            mock: Some(mock),
            child: None,
            front: Some(front),
        }
    }

    fn running(&self) -> &Running {
        self.front.as_ref().or_else(|| self.child.as_ref().map(|proxy| &proxy.running)).unwrap()
    }

    fn mock(&self) -> &MockSse {
        self.mock.as_ref().unwrap()
    }

    async fn lost(&self, kind: &str) -> f64 {
        common::metric(self.running(), "shadowcat_bridge_loss_total", &[&format!("kind=\"{kind}\"")]).await
    }

    async fn until_metric(&self, name: &str, labels: &[&str], value: f64) {
        let what = format!("{name} {labels:?} is {value}");
        common::until(&what, async || common::metric(self.running(), name, labels).await, |seen| *seen == value).await;
    }

    async fn session(&self, revision: &str) -> LegacySession {
        LegacySession::open(&self.url, revision, everything()).ok().await
    }

    /// A client of each kind.
    async fn clients(&self, capabilities: Value) -> Vec<(String, Client)> {
        let mut all = Vec::new();
        for revision in REVISIONS {
            let session = LegacySession::open(&self.url, revision, capabilities.clone()).ok().await;
            all.push((format!("{revision} over HTTP"), Client::Http(session)));
        }
        let session = SseSession::open(&self.sse_url, "2024-11-05", capabilities.clone()).ok().await;
        all.push(("HTTP+SSE".into(), Client::Sse(Box::new(session))));
        if let Some(mock) = &self.mock {
            for revision in REVISIONS {
                let stdio = Connected::open(&mock.url(), revision, capabilities.clone()).await;
                all.push((format!("{revision} over stdio"), Client::Stdio(Box::new(stdio))));
            }
        }
        all
    }
}

/// `shadowcat connect` as the server of a client that can only spawn one.
struct Connected {
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    welcome: Value,
    _child: Child,
}

impl Connected {
    async fn open(url: &str, revision: &str, capabilities: Value) -> Connected {
        #[expect(clippy::disallowed_methods, reason = "a test of processes")]
        let mut command = Command::new(PROGRAM);
        command.args(["connect", url]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());
        let mut connected = Connected { input, output, welcome: Value::Null, _child: child };
        let params = json!({ "protocolVersion": revision, "capabilities": capabilities, "clientInfo": { "name": "test", "version": "0" } });
        connected.send(&common::message("0", "initialize", &params.to_string())).await;
        connected.welcome = connected.next().await;
        connected.send(&common::notification("notifications/initialized", json!({}))).await;
        connected
    }

    async fn send(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).ok().await;
    }

    async fn next(&mut self) -> Value {
        serde_json::from_str(&self.output.next_line().ok().await.unwrap()).unwrap()
    }
}

/// A client, whatever it speaks over.
enum Client {
    Http(LegacySession),
    Sse(Box<SseSession>),
    Stdio(Box<Connected>),
}

impl Client {
    /// What its handshake resulted in.
    fn welcome(&self) -> Value {
        match self {
            Client::Http(session) => session.initialized.clone(),
            Client::Sse(session) => session.initialized.clone(),
            Client::Stdio(connected) => connected.welcome["result"].clone(),
        }
    }

    /// Sends a request and answers what is asked meanwhile: everything that came, the answer last.
    async fn converse(&mut self, method: &str, params: Value, answer: impl Fn(&Value) -> Value) -> Vec<Value> {
        let request = common::message("\"c1\"", method, &params.to_string());
        let is_question = |message: &Value| message.get("method").is_some() && message.get("id").is_some();
        let is_last = |message: &Value| message.get("method").is_none();
        let reply = |message: &Value| {
            let mut reply = json!({ "jsonrpc": "2.0", "id": message["id"] });
            for (key, value) in answer(message).as_object().unwrap() {
                reply[key] = value.clone();
            }
            reply.to_string()
        };
        let mut heard = Vec::new();
        if let Client::Http(session) = self {
            let mut response = session.send(&request).ok().await;
            if !response.is_sse() {
                return vec![response.json().ok().await];
            }
            while let Some(event) = next(&mut response).await {
                let message = event.json();
                heard.push(message.clone());
                if is_question(&message) {
                    assert_eq!(session.send(&reply(&message)).ok().await.status, 202);
                }
            }
            assert!(is_last(heard.last().unwrap()), "{heard:?}");
            return heard;
        }
        self.say(&request).await;
        loop {
            let message = self.hear().await;
            heard.push(message.clone());
            if is_question(&message) {
                self.say(&reply(&message)).await;
            } else if is_last(&message) {
                return heard;
            }
        }
    }

    async fn say(&mut self, line: &str) {
        match self {
            Client::Http(_) => unreachable!("each message has a connection of its own"),
            Client::Sse(session) => assert_eq!(session.send(line).ok().await.status, 202),
            Client::Stdio(connected) => connected.send(line).await,
        }
    }

    async fn hear(&mut self) -> Value {
        match self {
            Client::Http(_) => unreachable!("each message has a connection of its own"),
            Client::Sse(session) => session.next().ok().await,
            Client::Stdio(connected) => connected.next().await,
        }
    }

    /// The answer to a request that nothing is asked about.
    async fn request(&mut self, method: &str, params: Value) -> Value {
        let heard = self.converse(method, params, |question| panic!("it is asked {question}")).await;
        heard.last().unwrap().clone()
    }

    async fn call(&mut self, tool: &str, arguments: Value) -> Value {
        self.request("tools/call", json!({ "name": tool, "arguments": arguments })).await
    }
}
