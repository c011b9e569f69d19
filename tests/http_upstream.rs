//! HTTP upstreams, good and bad: Streamable HTTP of both eras and HTTP+SSE behind the proxy.
//!
//! The upstream is a fake that really speaks the protocol over a socket, and really breaks it where its script says so. Each
//! test looks at both ends: what the client gets, and what arrived upstream.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/mod.rs"]
mod common;

#[path = "http_upstream/answers.rs"]
mod answers;
#[path = "http_upstream/circuit.rs"]
mod circuit;
#[path = "http_upstream/cuts.rs"]
mod cuts;
#[path = "http_upstream/era.rs"]
mod era;
#[path = "http_upstream/fairness.rs"]
mod fairness;
#[path = "http_upstream/headers.rs"]
mod headers;
#[path = "http_upstream/hostile.rs"]
mod hostile;
#[path = "http_upstream/http_sse.rs"]
mod http_sse;
#[path = "http_upstream/listening.rs"]
mod listening;
#[path = "http_upstream/modern.rs"]
mod modern;
#[path = "http_upstream/patience.rs"]
mod patience;
#[path = "http_upstream/sessions.rs"]
mod sessions;
#[path = "http_upstream/streams.rs"]
mod streams;
#[path = "http_upstream/streams_many.rs"]
mod streams_many;

use serde_json::{Value, json};
use shadowcat::server::Running;
use shadowcat::settings::{EraChoice, HttpTarget, HttpTransport, OnCrash, Settings, Target, UpstreamSettings};
use shadowcat::testing::client::{LegacySession, Modern, Response};
use shadowcat::testing::{AnswerForm, Do, HttpScript, MockSse, On, Recorded, Script};

use common::{DEADLINE, InTime, LEGACY, assert_ours, code, everything, legacy, modern, next, text, until, within};

/// A proxy in front of a fake server on a port.
struct Stage {
    /// Where clients connect.
    url: String,
    proxy: Running,
    mock: MockSse,
}

/// An upstream behind HTTP.
fn upstream(url: &str) -> UpstreamSettings {
    let target = HttpTarget { url: url.parse().unwrap(), headers: vec![], transport: HttpTransport::Auto };
    UpstreamSettings { connections_max: 64, ..UpstreamSettings::new("fake", Target::Http(target)) }
}

/// What is behind HTTP.
fn target(settings: &mut Settings) -> &mut HttpTarget {
    match &mut settings.upstreams[0].target {
        Target::Http(target) => target,
        _ => unreachable!("it is an HTTP upstream"),
    }
}

/// A proxy in front of whatever listens there.
async fn front(url: &str, change: impl FnOnce(&mut Settings)) -> (Running, String) {
    let mut settings = Settings::for_upstream(upstream(url));
    settings.admin = Some(([127, 0, 0, 1], 0).into());
    change(&mut settings);
    let proxy = within("start", Running::start(settings)).await.unwrap();
    let url = format!("http://{}/mcp", proxy.address());
    (proxy, url)
}

impl Stage {
    async fn new(script: Script) -> Stage {
        Stage::with(script, |_| {}).await
    }

    async fn with(script: Script, change: impl FnOnce(&mut Settings)) -> Stage {
        let mock = MockSse::start(script).ok().await;
        let (proxy, url) = front(&mock.url(), change).await;
        Stage { url, proxy, mock }
    }

    /// A legacy session of the newest revision, whose client can be asked anything.
    async fn session(&self) -> LegacySession {
        self.session_of(LEGACY).await
    }

    async fn session_of(&self, revision: &str) -> LegacySession {
        LegacySession::open(&self.url, revision, everything()).ok().await
    }

    /// Calls a tool as a modern client.
    async fn call(&self, tool: &str, arguments: Value) -> Value {
        self.post(&Modern::call(tool, arguments)).await.answer().ok().await
    }

    async fn post(&self, request: &Modern) -> Response {
        request.post(&self.url).ok().await
    }

    /// Waits until the sum of a metric over all labels that contain each of `labels` is this.
    async fn until_metric(&self, name: &str, labels: &[&str], value: f64) {
        let what = format!("{name} {labels:?} is {value}");
        until(&what, async || common::metric(&self.proxy, name, labels).await, |seen| *seen == value).await;
    }

    /// What the operator is told of the upstream.
    async fn status(&self) -> Value {
        common::admin(&self.proxy, "/status").await.json().ok().await["servers"]["fake"].clone()
    }

    /// What arrived upstream.
    fn arrived(&self, fits: impl Fn(&Recorded) -> bool) -> Vec<Recorded> {
        self.mock.requests().into_iter().filter(fits).collect()
    }

    /// The messages with this method that arrived upstream.
    fn posts(&self, method: &str) -> Vec<Recorded> {
        self.arrived(|request| request.method == "POST" && request.json("/method") == method)
    }

    /// Waits for something to arrive upstream.
    #[track_caller]
    fn arrival(&self, fits: impl Fn(&Recorded) -> bool) -> impl Future<Output = Recorded> {
        let place = std::panic::Location::caller();
        async move {
            let request = self.mock.request(DEADLINE, fits).await;
            request.unwrap_or_else(|| panic!("{place}: never arrived; {:#?}", self.mock.requests()))
        }
    }
}

fn is_get(request: &Recorded) -> bool {
    request.method == "GET"
}

/// A script whose answers have this form.
fn answering(answer: AnswerForm, script: Script) -> Script {
    Script { http: HttpScript { answer, ..script.http }, ..script }
}

/// A response that is no MCP server's idea.
fn respond(status: u16, content_type: &str, body: &str) -> Do {
    Do::Status { code: status, headers: [("Content-Type".into(), content_type.into())].into(), body: body.into() }
}

/// A JSON-RPC error as a body, without an id that anybody used.
fn error_body(code: i64, data: &Value) -> String {
    json!({ "jsonrpc": "2.0", "id": null, "error": { "code": code, "message": "no", "data": data } }).to_string()
}

/// All messages up to the end of a response.
async fn all(response: Response) -> Vec<Value> {
    common::messages(response).await
}

/// The progress that messages report.
fn progress(messages: &[Value]) -> Vec<i64> {
    messages.iter().filter_map(|message| message["params"]["progress"].as_i64()).collect()
}
