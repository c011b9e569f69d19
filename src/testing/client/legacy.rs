//! Legacy sessions for tests: Streamable HTTP and HTTP+SSE.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::{Headers, Response, post, send};
use crate::testing::http::invalid;

/// A legacy session over Streamable HTTP.
#[derive(Debug)]
pub struct LegacySession {
    /// The endpoint.
    pub url: String,
    /// The session id; `None` if the server gave none.
    pub id: Option<String>,
    /// What `initialize` resulted in.
    pub initialized: Value,
    /// Headers that every request has besides.
    pub extra: Vec<(String, String)>,
    last_id: AtomicU64,
}

impl LegacySession {
    /// Initialises a session that wants this revision and has these capabilities.
    ///
    /// # Errors
    /// When there is no connection, or no result.
    pub async fn open(url: &str, revision: &str, capabilities: Value) -> io::Result<LegacySession> {
        LegacySession::open_with(url, revision, capabilities, &[]).await
    }

    /// The same for a client that has these headers in every request.
    ///
    /// # Errors
    /// As [`open`](LegacySession::open).
    pub async fn open_with(
        url: &str,
        revision: &str,
        capabilities: Value,
        extra: &[(&str, &str)],
    ) -> io::Result<LegacySession> {
        let response = post(url, &initialize(revision, &capabilities), extra).await?;
        let id = response.headers.get("mcp-session-id").map(str::to_owned);
        let answer = response.answer().await?;
        let initialized = answer.get("result").cloned().ok_or_else(|| io::Error::other(answer.to_string()))?;
        let extra = extra.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let session = LegacySession { url: url.into(), id, initialized, extra, last_id: AtomicU64::new(0) };
        session.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await?;
        Ok(session)
    }

    /// The headers of this session.
    #[must_use]
    pub fn headers(&self) -> Vec<(&str, &str)> {
        let revision = self.initialized["protocolVersion"].as_str().filter(|revision| *revision >= "2025-06-18");
        let id = self.id.as_deref().map(|id| ("Mcp-Session-Id", id));
        let extra = self.extra.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        id.into_iter().chain(revision.map(|revision| ("MCP-Protocol-Version", revision))).chain(extra).collect()
    }

    /// POSTs a message as it is.
    ///
    /// # Errors
    /// As [`send`].
    pub async fn send(&self, message: &str) -> io::Result<Response> {
        post(&self.url, message, &self.headers()).await
    }

    /// POSTs a request with a fresh id.
    ///
    /// # Errors
    /// As [`send`].
    pub async fn request(&self, method: &str, params: Value) -> io::Result<Response> {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string()).await
    }

    /// Calls a tool.
    ///
    /// # Errors
    /// As [`send`].
    pub async fn call(&self, tool: &str, arguments: Value) -> io::Result<Response> {
        self.request("tools/call", json!({ "name": tool, "arguments": arguments })).await
    }

    /// Answers a request of the server; `id` as it came.
    ///
    /// # Errors
    /// As [`send`].
    pub async fn respond(&self, id: &Value, result: &Value) -> io::Result<Response> {
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string()).await
    }

    /// Opens the GET stream, or (with an event id) resumes a stream.
    ///
    /// # Errors
    /// As [`send`].
    pub async fn stream(&self, last_event_id: Option<&str>) -> io::Result<Response> {
        let mut headers: Headers = self.headers().into_iter().collect();
        headers.push("Accept", "text/event-stream");
        if let Some(id) = last_event_id {
            headers.push("Last-Event-ID", id);
        }
        send("GET", &self.url, headers, "").await
    }

    /// Ends the session.
    ///
    /// # Errors
    /// As [`send`].
    pub async fn delete(&self) -> io::Result<Response> {
        send("DELETE", &self.url, self.headers().into_iter().collect(), "").await
    }
}

/// A session over HTTP+SSE (2024-11-05).
#[derive(Debug)]
pub struct SseSession {
    /// Where messages are POSTed to.
    pub endpoint: String,
    /// The stream on which everything comes back.
    pub stream: Response,
    /// What `initialize` resulted in.
    pub initialized: Value,
}

impl SseSession {
    /// Opens the stream, waits for the endpoint, and initialises.
    ///
    /// # Errors
    /// When there is no connection, no endpoint, or no result.
    pub async fn open(url: &str, revision: &str, capabilities: Value) -> io::Result<SseSession> {
        let mut stream = send("GET", url, [("Accept", "text/event-stream")].into_iter().collect(), "").await?;
        let first = stream.event().await?.filter(|event| event.event.as_deref() == Some("endpoint"));
        let target = first.and_then(|event| event.data).ok_or_else(|| invalid("endpoint event"))?;
        let origin = url.get(..url.rfind('/').unwrap_or(0)).unwrap_or_default();
        let endpoint = if target.starts_with('/') { format!("{origin}{target}") } else { target };
        let mut session = SseSession { endpoint, stream, initialized: Value::Null };
        session.send(&initialize(revision, &capabilities)).await?;
        session.initialized = session.next().await?["result"].clone();
        session.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await?;
        Ok(session)
    }

    /// POSTs a message as it is.
    ///
    /// # Errors
    /// As [`send`].
    pub async fn send(&self, message: &str) -> io::Result<Response> {
        post(&self.endpoint, message, &[]).await
    }

    /// The next message on the stream.
    ///
    /// # Errors
    /// When the stream has ended.
    pub async fn next(&mut self) -> io::Result<Value> {
        self.stream.message().await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

fn initialize(revision: &str, capabilities: &Value) -> String {
    let info = json!({ "name": "shadowcat-test-client", "version": env!("CARGO_PKG_VERSION") });
    let params = json!({ "protocolVersion": revision, "capabilities": capabilities, "clientInfo": info });
    json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params }).to_string()
}
