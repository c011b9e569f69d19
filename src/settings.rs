//! What the program runs on: parsed, checked and complete. Made from a [`crate::config::Config`] and the
//! command line; every field is read by somebody.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};

/// Everything the proxy needs to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where MCP clients connect.
    pub listen: SocketAddr,
    /// Path of the Streamable HTTP endpoint of a single upstream; `/mcp` by default.
    pub path: String,
    /// Listener of `/health`, `/ready` and `/metrics`; `None` switches it off.
    pub admin: Option<SocketAddr>,
    /// Values of `Origin` that are served besides loopback ones (exact match).
    pub allow_origins: Vec<String>,
    /// Values of `Host` that are served besides loopback names and the listening address (exact match, port optional).
    pub allow_hosts: Vec<String>,
    /// Whether the endpoints of the HTTP+SSE transport (2024-11-05) are served.
    pub http_sse: bool,
    /// The servers behind the proxy; never empty, names unique.
    pub upstreams: Vec<UpstreamSettings>,
    /// Sizes and counts.
    pub limits: Limits,
    /// Waits.
    pub timeouts: Timeouts,
}

/// One server behind the proxy.
#[derive(Debug, Clone)]
pub struct UpstreamSettings {
    /// Its name: `[A-Za-z0-9_.-]{1,64}`; part of its URL.
    pub name: String,
    /// How it is reached.
    pub target: Target,
    /// Which eras it is taken to speak.
    pub era: EraChoice,
    /// How many connections (child processes, or upstream sessions) may exist at once.
    pub connections_max: usize,
    /// Client request headers that are passed on to an HTTP upstream. Empty by default: credentials stay here.
    pub forward_headers: Vec<HeaderName>,
}

/// How an upstream is reached.
#[derive(Debug, Clone)]
pub enum Target {
    /// A child process that speaks MCP on its standard input and output.
    Stdio(StdioTarget),
    /// An HTTP server.
    Http(HttpTarget),
}

/// A child process: an argument vector, never a shell line.
#[derive(Debug, Clone)]
pub struct StdioTarget {
    /// Program, looked up in `PATH` when it has no slash.
    pub program: String,
    /// Arguments.
    pub args: Vec<String>,
    /// Variables set for the child, over the inherited allow-list.
    pub env: Vec<(String, Secret)>,
    /// Further variables inherited from the proxy's own environment, by name.
    pub pass_env: Vec<String>,
    /// Working directory; the proxy's own when `None`.
    pub cwd: Option<PathBuf>,
}

/// An HTTP server.
#[derive(Debug, Clone)]
pub struct HttpTarget {
    /// Its endpoint.
    pub url: Uri,
    /// Headers sent with every request (values are marked sensitive).
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Which transport it speaks.
    pub transport: HttpTransport,
}

/// Which HTTP transport an upstream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpTransport {
    /// Streamable HTTP, falling back to HTTP+SSE.
    Auto,
    /// Streamable HTTP only.
    Streamable,
    /// HTTP+SSE (2024-11-05) only.
    Sse,
}

/// Which eras an upstream is taken to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EraChoice {
    /// Found out by probing.
    Auto,
    /// Handshake and session (2024-11-05 … 2025-11-25).
    Legacy,
    /// Stateless (2026-07-28).
    Modern,
}

/// A text that must not be shown: its `Debug` is redacted.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Sizes and counts. None is unlimited.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest body of a client's request, in bytes (413 beyond it).
    pub body_bytes: usize,
    /// Largest header block of a client's request, in bytes (431 beyond it).
    pub header_bytes: usize,
    /// Most header fields in a client's request.
    pub header_count: usize,
    /// Deepest nesting of a message.
    pub depth: usize,
    /// Largest message from an upstream, in bytes: a line of a child, an SSE event, a JSON body.
    pub message_bytes: usize,
    /// Most entries in a batch (2025-03-26).
    pub batch: usize,
    /// Most sessions at once, over all upstreams.
    pub sessions: usize,
    /// Most requests in flight in one session.
    pub in_flight: usize,
    /// Most client connections at once.
    pub connections: usize,
    /// Most requests waiting for a connection of one upstream.
    pub queue: usize,
    /// Most events kept per stream for resumption.
    pub backlog_events: usize,
    /// Most bytes kept per stream for resumption.
    pub backlog_bytes: usize,
    /// Most GET streams at once in one session.
    pub get_streams: usize,
}

/// Waits. None is infinite.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// From accepting a connection, or from the first byte of a further request, to complete headers.
    pub header_read: Duration,
    /// From complete headers to a complete body.
    pub body_total: Duration,
    /// Between two pieces of a body.
    pub body_idle: Duration,
    /// How long a client may not read what is written to it.
    pub write_stall: Duration,
    /// Silence on an SSE stream after which a comment is sent.
    pub sse_keepalive: Duration,
    /// From a session's start to `notifications/initialized`.
    pub session_init: Duration,
    /// Life of a session without client activity.
    pub session_idle: Duration,
    /// Life of a session at all (it ends when idle).
    pub session_max_age: Duration,
    /// How long events are kept for resumption.
    pub backlog_retention: Duration,
    /// Waiting for a connection of an upstream.
    pub acquire: Duration,
    /// From starting a child or connection to its answer to the handshake.
    pub start: Duration,
    /// Waiting for the answer to `server/discover` when the era is not known.
    pub probe: Duration,
    /// A child not reading its input.
    pub write_stall_child: Duration,
    /// A started line of a child not ending.
    pub partial_line: Duration,
    /// A request without an answer; each progress notification starts it again.
    pub request: Duration,
    /// A request without an answer, whatever its progress.
    pub request_max: Duration,
    /// A question to the client (sampling, elicitation, roots) without an answer.
    pub question: Duration,
    /// After a cancellation: how long a late answer is waited for before the connection counts as dirty.
    pub cancel_grace: Duration,
    /// Connecting to an HTTP upstream, TLS included.
    pub connect: Duration,
    /// Between two pieces of an upstream's JSON body.
    pub upstream_body_idle: Duration,
    /// Silence on an upstream's SSE stream after which it counts as lost.
    pub upstream_sse_idle: Duration,
    /// Life of an unused pooled HTTP connection.
    pub upstream_keepalive: Duration,
    /// Stopping a child: from closing its input to SIGTERM.
    pub stop_eof: Duration,
    /// Stopping a child: from SIGTERM to SIGKILL.
    pub stop_term: Duration,
    /// Shutdown: how long requests in flight may finish.
    pub drain: Duration,
    /// Shutdown at all.
    pub shutdown: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body_bytes: 4 << 20,
            header_bytes: 32 << 10,
            header_count: 100,
            depth: 128,
            message_bytes: 16 << 20,
            batch: 100,
            sessions: 1_000,
            in_flight: 32,
            connections: 4_096,
            queue: 64,
            backlog_events: 256,
            backlog_bytes: 1 << 20,
            get_streams: 2,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        let s = Duration::from_secs;
        Timeouts {
            header_read: s(10),
            body_total: s(30),
            body_idle: s(10),
            write_stall: s(30),
            sse_keepalive: s(15),
            session_init: s(30),
            session_idle: s(30 * 60),
            session_max_age: s(24 * 3600),
            backlog_retention: s(5 * 60),
            acquire: s(5),
            start: s(30),
            probe: s(5),
            write_stall_child: s(10),
            partial_line: s(30),
            request: s(5 * 60),
            request_max: s(60 * 60),
            question: s(10 * 60),
            cancel_grace: s(5),
            connect: s(5),
            upstream_body_idle: s(30),
            upstream_sse_idle: s(5 * 60),
            upstream_keepalive: s(4),
            stop_eof: s(2),
            stop_term: s(3),
            drain: s(20),
            shutdown: s(30),
        }
    }
}
