//! A client of 2026-07-28 in front of servers that have a handshake: real processes and sockets behind the proxy, over each
//! transport that such servers have.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/mod.rs"]
mod common;

#[path = "bridge_modern_to_legacy/bounds.rs"]
mod bounds;
#[path = "bridge_modern_to_legacy/calls.rs"]
mod calls;
#[path = "bridge_modern_to_legacy/ends.rs"]
mod ends;
#[path = "bridge_modern_to_legacy/listening.rs"]
mod listening;
#[path = "bridge_modern_to_legacy/pinned.rs"]
mod pinned;
#[path = "bridge_modern_to_legacy/questions.rs"]
mod questions;
#[path = "bridge_modern_to_legacy/tasks.rs"]
mod tasks;
#[path = "bridge_modern_to_legacy/tokens.rs"]
mod tokens;
#[path = "bridge_modern_to_legacy/words.rs"]
mod words;

use std::time::Duration;

use serde_json::{Map, Value, json};
use shadowcat::server::Running;
use shadowcat::settings::{BridgeReuse, HttpTarget, HttpTransport, Settings, Target, UpstreamSettings};
use shadowcat::testing::client::{Modern, Response};
use shadowcat::testing::{Do, HttpScript, MockSse, On, Recorded, Script, When};

use common::{
    DEADLINE, InTime, PROGRAM, assert_ours, code, everything, fake, legacy, messages, script_file, text, until, within,
};

/// How the server is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Via {
    Stdio,
    Http,
    /// The transport of 2024-11-05.
    Sse,
}

impl Via {
    const ALL: [Via; 3] = [Via::Stdio, Via::Http, Via::Sse];
}

/// A proxy in front of one such server.
struct World {
    proxy: Running,
    url: String,
    mock: Option<MockSse>,
    _script: tempfile::NamedTempFile,
}

impl World {
    async fn new(via: Via) -> World {
        World::with(via, legacy(), |_| {}).await
    }

    async fn with(via: Via, script: Script, change: impl FnOnce(&mut Settings)) -> World {
        let file = script_file(&script);
        let (upstream, mock) = match via {
            Via::Stdio => (common::command(PROGRAM, fake(file.path())), None),
            Via::Http | Via::Sse => {
                let streamable = via == Via::Http;
                let mock =
                    MockSse::start(Script { http: HttpScript { streamable, ..script.http }, ..script }).ok().await;
                let url = if streamable { mock.url() } else { mock.sse_url() };
                let target = HttpTarget { url: url.parse().unwrap(), headers: vec![], transport: HttpTransport::Auto };
                let upstream =
                    UpstreamSettings { connections_max: 64, ..UpstreamSettings::new("fake", Target::Http(target)) };
                (upstream, Some(mock))
            }
        };
        let mut settings = Settings::for_upstream(upstream);
        settings.admin = Some(([127, 0, 0, 1], 0).into());
        change(&mut settings);
        let proxy = within("start", Running::start(settings)).await.unwrap();
        let url = format!("http://{}/mcp", proxy.address());
        World { proxy, url, mock, _script: file }
    }

    async fn post(&self, request: &Modern) -> Response {
        request.post(&self.url).ok().await
    }

    async fn answer(&self, request: &Modern) -> Value {
        self.post(request).await.answer().ok().await
    }

    /// What arrived at a server behind HTTP, with this method.
    fn arrived(&self, method: &str) -> Vec<Recorded> {
        let fits = |request: &Recorded| request.method == "POST" && request.json("/method") == method;
        self.mock.as_ref().unwrap().requests().into_iter().filter(fits).collect()
    }

    /// Waits for that.
    async fn arrival(&self, method: &str) -> Recorded {
        let mock = self.mock.as_ref().unwrap();
        let fits = |request: &Recorded| request.method == "POST" && request.json("/method") == method;
        mock.request(DEADLINE, fits).await.unwrap_or_else(|| panic!("no {method}: {:#?}", mock.requests()))
    }

    async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        common::metric(&self.proxy, name, labels).await
    }

    async fn until_metric(&self, name: &str, labels: &[&str], value: f64) {
        let what = format!("{name} {labels:?} is {value}");
        until(&what, async || self.metric(name, labels).await, |seen| *seen == value).await;
    }

    /// How often a translation lost this.
    async fn lost(&self, kind: &str) -> f64 {
        self.metric("shadowcat_bridge_loss_total", &[kind]).await
    }

    /// What the server says of itself, on a connection of those who can be asked everything.
    async fn stats(&self) -> Value {
        let stats = Modern::call("stats", json!({})).capabilities(everything());
        serde_json::from_str(text(&self.answer(&stats).await)).unwrap()
    }

    async fn close(self) {
        let report = within("shutdown", self.proxy.shutdown()).await;
        assert!(report.is_clean(), "{report:?}");
    }
}

/// A call that asks its client something.
fn asking(arguments: Value) -> Modern {
    Modern::call("ask", arguments).capabilities(everything())
}

/// The questions in a result.
#[track_caller]
fn questions(answer: &Value) -> &Map<String, Value> {
    assert_eq!(answer["result"]["resultType"], "input_required", "{answer}");
    answer["result"]["inputRequests"].as_object().unwrap_or_else(|| panic!("no questions: {answer}"))
}

/// What accepts every question of a form, saying its key.
fn accepting(answer: &Value) -> Value {
    let answers =
        questions(answer).keys().map(|key| (key.clone(), json!({ "action": "accept", "content": { "answer": key } })));
    answers.collect::<Map<_, _>>().into()
}

/// The same request with answers.
fn again(request: Modern, answer: &Value, answers: Value) -> Modern {
    request
        .id("\"again\"")
        .param("requestState", answer["result"]["requestState"].clone())
        .param("inputResponses", answers)
}
