//! What the program runs on: parsed, checked and complete. Made from a [`crate::config::Config`] and the
//! command line; every field is read by somebody.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue, Uri};
use tokio::io::DuplexStream;

use crate::faults::Plan;
use crate::replay::Replay;

/// How many children of one server there may be if nothing is said: each is a process.
const CHILDREN_MAX: usize = 64;
/// How many sessions at one HTTP server there may be if nothing is said: as many as clients may have here.
const UPSTREAM_SESSIONS_MAX: usize = 1_000;

/// Everything the proxy needs to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where MCP clients connect.
    pub listen: SocketAddr,
    /// Path of the Streamable HTTP endpoint of a single upstream; `/mcp` by default.
    pub path: String,
    /// Listener of `/health`, `/ready`, `/status` and `/metrics`; `None` switches it off.
    pub admin: Option<SocketAddr>,
    /// Whether the start fails when `admin` cannot be bound: true when the address was asked for, false when it is the
    /// default, which a second proxy on the same machine finds taken.
    pub admin_required: bool,
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
    /// What goes wrong on purpose, between clients and the proxy.
    pub faults: Option<Plan>,
}

impl Settings {
    /// Whether one of the servers is reached over HTTP.
    pub(crate) fn has_http_servers(&self) -> bool {
        self.upstreams.iter().any(|upstream| matches!(upstream.target, Target::Http(_)))
    }

    /// The defaults, for one upstream.
    pub fn for_upstream(upstream: UpstreamSettings) -> Settings {
        Settings {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            path: "/mcp".to_owned(),
            admin: None,
            admin_required: false,
            allow_origins: Vec::new(),
            allow_hosts: Vec::new(),
            http_sse: true,
            upstreams: vec![upstream],
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            faults: None,
        }
    }
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
    /// Who has a connection in common.
    pub isolation: Isolation,
    /// What becomes of a connection when whoever had it is done with it.
    pub reuse: Reuse,
    /// What becomes of a connection when the request of 2026-07-28 that used it is over, where the server has a handshake and
    /// connections are not shared. Those of whom nothing is known are one principal here.
    pub bridge_reuse: BridgeReuse,
    /// What clients with a handshake get of structured results of a server of 2026-07-28 that are no objects.
    pub bridge_structured: Structured,
    /// How many children are kept started ahead for sessions to come. Each that is taken is replaced; they count in
    /// `connections_max`.
    pub warm_spares: usize,
    /// The request header whose value says who the client is: its principal, for [`Isolation::Principal`] and
    /// [`Reuse::SamePrincipal`]. The proxy does not verify it. With `authorization`, the default, whoever knows a
    /// credential is its principal; any other header must be set by something trusted in front of the proxy, which must
    /// also remove it from the requests that clients send.
    pub principal_header: HeaderName,
    /// What happens to a session whose connection is lost.
    pub on_crash: OnCrash,
    /// Whether traffic is recorded, and how.
    pub record: Option<Record>,
}

/// How traffic is recorded (C-TAPE).
#[derive(Debug, Clone)]
pub struct Record {
    /// Where the tapes go. It is made if it is not there.
    pub folder: PathBuf,
    /// What is recorded.
    pub edges: RecordEdges,
    /// What happens when the disk cannot keep up, or fails.
    pub policy: RecordPolicy,
    /// Whether tapes are compressed (zstd).
    pub compress: bool,
    /// What is replaced before it comes to the disk.
    pub redact: Redact,
}

impl Record {
    /// The defaults, in this folder.
    pub fn to(folder: impl Into<PathBuf>) -> Record {
        Record {
            folder: folder.into(),
            edges: RecordEdges::Client,
            policy: RecordPolicy::Drop,
            compress: false,
            redact: Redact::default(),
        }
    }
}

/// Which sides of the proxy are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordEdges {
    /// What passes between client and proxy.
    Client,
    /// That, and what passes between proxy and upstream.
    Both,
}

impl RecordEdges {
    /// The choices by the names that the configuration and the command line use.
    pub const NAMED: [(&'static str, Self); 2] = [("client", Self::Client), ("both", Self::Both)];
}

/// What happens to traffic that cannot be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordPolicy {
    /// It waits while the disk is slow. If the disk fails, it passes, and what is missing is counted.
    Block,
    /// It passes, and what is missing is counted.
    Drop,
    /// It waits while the disk is slow, and is refused while the disk fails.
    Required,
}

impl RecordPolicy {
    /// The choices by the names that the configuration and the command line use.
    pub const NAMED: [(&'static str, Self); 3] =
        [("block", Self::Block), ("drop", Self::Drop), ("required", Self::Required)];
}

/// What is replaced before anything comes to the disk. Credentials in headers never come there, whatever is said here.
#[derive(Debug, Clone)]
pub struct Redact {
    /// Whether the usual names and forms of secrets are replaced.
    pub defaults: bool,
    /// Members with such names, in which `*` stands for anything.
    pub keys: Vec<String>,
    /// What is at such JSON pointers into a message.
    pub pointers: Vec<String>,
    /// What matches such regular expressions in a text.
    pub patterns: Vec<String>,
}

impl Default for Redact {
    fn default() -> Self {
        Redact { defaults: true, keys: Vec::new(), pointers: Vec::new(), patterns: Vec::new() }
    }
}

impl UpstreamSettings {
    /// The defaults, for a server that is reached this way.
    pub fn new(name: impl Into<String>, target: Target) -> Self {
        UpstreamSettings {
            name: name.into(),
            era: EraChoice::Auto,
            connections_max: match target {
                Target::Stdio(_) => CHILDREN_MAX,
                Target::Http(_) | Target::Tape(_) => UPSTREAM_SESSIONS_MAX,
            },
            target,
            forward_headers: Vec::new(),
            isolation: Isolation::Session,
            reuse: Reuse::usual(Isolation::Session),
            bridge_reuse: BridgeReuse::SamePrincipal,
            bridge_structured: Structured::Omit,
            warm_spares: 0,
            principal_header: AUTHORIZATION,
            on_crash: OnCrash::Reinitialize,
            record: None,
        }
    }
}

/// How an upstream is reached.
#[derive(Debug, Clone)]
pub enum Target {
    /// A child process that speaks MCP on its standard input and output.
    Stdio(StdioTarget),
    /// An HTTP server.
    Http(HttpTarget),
    /// A tape that answers in a server's place.
    Tape(TapeTarget),
}

/// A tape that answers in a server's place.
#[derive(Debug, Clone)]
pub struct TapeTarget {
    /// The tape.
    pub replay: Arc<Replay>,
    /// Who is asked what is not on the tape, if anybody is.
    pub behind: Option<Arc<dyn Behind>>,
}

impl TapeTarget {
    /// A tape, and nobody behind it.
    #[must_use]
    pub fn new(replay: Arc<Replay>) -> TapeTarget {
        TapeTarget { replay, behind: None }
    }
}

/// Who is asked what is not on a tape.
pub trait Behind: fmt::Debug + Send + Sync {
    /// A connection: one message in a line, either way.
    fn open(&self) -> DuplexStream;
}

/// A child process: an argument vector, never a shell line. Its `Debug` only counts the arguments: they may hold secrets.
#[derive(Clone)]
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

/// An HTTP server. Its `Debug` shows no more of the URL than [`HttpTarget::shown_url`].
#[derive(Clone)]
pub struct HttpTarget {
    /// Its endpoint.
    pub url: Uri,
    /// Headers sent with every request (values are marked sensitive).
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Which transport it speaks.
    pub transport: HttpTransport,
}

impl HttpTarget {
    /// The URL without what may be a secret: hosted servers put keys into the query, and some into the path, so only the
    /// usual paths are shown.
    #[must_use]
    pub fn shown_url(&self) -> String {
        let scheme = self.url.scheme_str().unwrap_or("http");
        let authority = self.url.authority().map_or("", |authority| authority.as_str());
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let path = match self.url.path() {
            usual @ ("/" | "/mcp" | "/sse") => usual,
            _ => "/[redacted]",
        };
        let query = if self.url.query().is_some() { "?[redacted]" } else { "" };
        format!("{scheme}://{host}{path}{query}")
    }
}

impl fmt::Debug for StdioTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StdioTarget")
            .field("program", &self.program)
            .field("args", &format_args!("[{} redacted]", self.args.len()))
            .field("env", &self.env)
            .field("pass_env", &self.pass_env)
            .field("cwd", &self.cwd)
            .finish()
    }
}

impl fmt::Debug for HttpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpTarget")
            .field("url", &self.shown_url())
            .field("headers", &self.headers)
            .field("transport", &self.transport)
            .finish()
    }
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

impl HttpTransport {
    /// The choices by the names that the configuration and the command line use.
    pub const NAMED: [(&'static str, Self); 3] =
        [("auto", Self::Auto), ("streamable-http", Self::Streamable), ("sse", Self::Sse)];
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

impl EraChoice {
    /// The choices by the names that the configuration and the command line use.
    pub const NAMED: [(&'static str, Self); 3] =
        [("auto", Self::Auto), ("legacy", Self::Legacy), ("modern", Self::Modern)];
}

/// Who has a connection to an upstream in common. Requests of 2026-07-28 have no session: under [`Isolation::Session`] and
/// [`Isolation::Shared`] they share one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Nobody: each legacy session has a connection (a child process, where it is one) of its own.
    Session,
    /// All clients use one; ids and tokens are rewritten.
    Shared,
    /// All clients of one principal use one.
    Principal,
    /// Nobody at a time: each request leases a connection for itself, from initialised ones that are used again.
    Request,
}

impl Isolation {
    /// The choices by the names that the configuration and the command line use.
    pub const NAMED: [(&'static str, Self); 4] = [
        ("session", Self::Session),
        ("shared", Self::Shared),
        ("principal", Self::Principal),
        ("request", Self::Request),
    ];

    /// The name that the configuration and the command line use.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMED.iter().find(|(_, one)| *one == self).map_or("", |(name, _)| name)
    }
}

/// What becomes of a connection when its session (under [`Isolation::Request`], its request) is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// It is closed.
    Never,
    /// It is kept for others of the same principal.
    SamePrincipal,
    /// It is kept for anybody.
    Any,
}

impl Reuse {
    /// The choices by the names that the configuration and the command line use.
    pub const NAMED: [(&'static str, Self); 3] =
        [("never", Self::Never), ("same-principal", Self::SamePrincipal), ("any", Self::Any)];

    /// The choice if nothing is said: to use connections again is what isolation by request is about, and what the
    /// others do only when told to.
    #[must_use]
    pub fn usual(isolation: Isolation) -> Self {
        match isolation {
            Isolation::Session | Isolation::Shared | Isolation::Principal => Reuse::Never,
            Isolation::Request => Reuse::Any,
        }
    }
}

/// What becomes of a connection when the request of 2026-07-28 that used it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BridgeReuse {
    /// It is closed.
    Never,
    /// It is kept for others of the same principal.
    SamePrincipal,
    /// It is kept for the same principal, which never has another: its requests take turns. Without a principal as
    /// [`BridgeReuse::SamePrincipal`].
    Pinned,
    /// It is kept for anybody.
    Any,
}

impl BridgeReuse {
    /// The choices by the names that the configuration and the command line use.
    pub const NAMED: [(&'static str, Self); 4] =
        [("never", Self::Never), ("same-principal", Self::SamePrincipal), ("pinned", Self::Pinned), ("any", Self::Any)];
}

/// What clients with a handshake get of structured results that are no objects: no revision with a handshake has such.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Structured {
    /// The text of them: the tool is listed without its schema.
    Omit,
    /// Those of tools whose schema says so, as the member `result` of an object: the tool is listed with the schema of that.
    Wrap,
}

impl Structured {
    /// The choices by the names that the configuration and the command line use.
    pub const NAMED: [(&'static str, Self); 2] = [("omit", Self::Omit), ("wrap", Self::Wrap)];
}

/// What happens to a session whose connection is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnCrash {
    /// The next request makes a new connection, which repeats the handshake, the log level and the subscriptions.
    Reinitialize,
    /// It ends, and its next request gets a 404: for servers that keep state which must not be lost without the
    /// client knowing.
    EndSession,
}

impl OnCrash {
    /// The choices by the names that the configuration and the command line use.
    pub const NAMED: [(&'static str, Self); 2] =
        [("reinitialize", Self::Reinitialize), ("end-session", Self::EndSession)];
}

/// A text that must not be shown: its `Debug` is redacted.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// One number of [`Limits`] or [`Timeouts`]: how it is called, where it is kept, and what it may be. The configuration
/// reader, its schema and its documentation all work through these, so that they cannot disagree.
pub(crate) struct Number<Table: 'static, Value: 'static> {
    /// The name of the field, and of the key.
    pub(crate) name: &'static str,
    /// The doc comment of the field.
    pub(crate) about: &'static str,
    /// What is accepted. Zero is in no range: it would be read as "unlimited" by one half of the readers.
    pub(crate) range: RangeInclusive<Value>,
    /// The field.
    pub(crate) slot: fn(&mut Table) -> &mut Value,
}

impl<Table> Number<Table, usize> {
    /// Whether the number is a size (which may be written "4 MiB") and not a count.
    pub(crate) fn is_size(&self) -> bool {
        self.name.ends_with("_bytes")
    }
}

/// Declares a table of numbers once: the struct, its default, and the list of its [`Number`]s.
macro_rules! numbers {
    ($(#[doc = $about:literal])+ pub struct $Table:ident of $Value:ty {
        $($(#[doc = $doc:literal])+ $field:ident: $default:expr, in $range:expr;)+
    }) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone)]
        pub struct $Table {
            $($(#[doc = $doc])+ pub $field: $Value,)+
        }

        impl Default for $Table {
            fn default() -> Self {
                $Table { $($field: $default,)+ }
            }
        }

        impl $Table {
            /// Every field.
            pub(crate) const NUMBERS: &'static [Number<Self, $Value>] = &[
                $(Number {
                    name: stringify!($field),
                    about: concat!($($doc),+),
                    range: $range,
                    slot: |table| &mut table.$field,
                },)+
            ];
        }
    };
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// No size is larger than 4 GiB: lengths fit 32 bits, and sums of a few of them fit `usize` everywhere.
const BYTES_MAX: usize = u32::MAX as usize;

numbers! {
    /// Sizes and counts. None is unlimited.
    pub struct Limits of usize {
        /// Largest body of a client's request, in bytes (413 beyond it).
        body_bytes: 4 * MIB, in KIB..=BYTES_MAX;
        // The HTTP parser's own buffer is no smaller than 8 KiB.
        /// Largest header block of a client's request, in bytes (431 beyond it).
        header_bytes: 32 * KIB, in 8 * KIB..=16 * MIB;
        /// Most header fields in a client's request.
        header_count: 100, in 16..=10_000;
        // JSON parsers stop at 128 levels by default, so a larger limit would not be kept by all of them.
        /// Deepest nesting of a message.
        depth: 128, in 8..=128;
        /// Largest message from an upstream, in bytes: a line of a child, an SSE event, a JSON body.
        message_bytes: 16 * MIB, in KIB..=BYTES_MAX;
        /// Most entries in a batch (2025-03-26).
        batch: 100, in 1..=1_024;
        /// Most sessions at once, over all upstreams.
        sessions: 1_000, in 1..=1_000_000;
        /// Most requests in flight in one session.
        in_flight: 32, in 1..=10_000;
        /// Most client connections at once.
        connections: 4_096, in 1..=1_000_000;
        /// Most requests waiting for a connection of one upstream.
        queue: 64, in 1..=100_000;
        /// Most connections of one upstream that are being started at once.
        starting: 4, in 1..=1_000;
        /// How many starts or young connections of one upstream may fail within `crash_window` before it rests.
        crashes: 5, in 2..=1_000;
        /// Most attempts to reach a lost stream of an upstream, before it is given up.
        reconnect_attempts: 10, in 1..=1_000;
        /// Most lost streams of one upstream that are being connected again at once.
        reconnecting: 8, in 1..=1_000;
        /// After how many failures in a row an HTTP upstream is sent nothing for a while.
        circuit_failures: 5, in 1..=1_000;
        /// Most events kept per stream for resumption.
        backlog_events: 256, in 1..=1_000_000;
        /// Most bytes kept per stream for resumption.
        backlog_bytes: MIB, in KIB..=BYTES_MAX;
        /// Most GET streams at once in one session.
        get_streams: 2, in 1..=64;
        /// Most calls to one upstream with a handshake that wait for the answers of their clients (2026-07-28).
        parked: 32, in 1..=10_000;
        /// Most of them of one principal, where there is one.
        parked_per_principal: 16, in 1..=10_000;
        /// Most bytes that are kept for the client of such a call: questions, log messages, progress, the answer.
        parked_bytes: 4 * MIB, in KIB..=BYTES_MAX;
        /// Most calls to one upstream with a handshake that are tasks (2026-07-28, extension); each has a connection of its own.
        tasks: 16, in 1..=10_000;
        /// Most of them of one principal, where there is one.
        tasks_per_principal: 8, in 1..=10_000;
        /// How often a client (2026-07-28) is asked something in one call to a server with a handshake.
        rounds: 16, in 1..=1_000;
        /// How large a tape gets before it goes on in another file, in bytes.
        tape_bytes: 64 * MIB, in 64 * KIB..=BYTES_MAX;
        /// Most files of tapes that are open at once, for one upstream; there may be more tapes than that.
        tape_files: 64, in 1..=10_000;
        /// Most bytes of tapes in a folder, those that were there before included: beyond it nothing is recorded.
        tape_folder_bytes: 2048 * MIB, in 64 * KIB..=BYTES_MAX;
        /// Most messages of one upstream that wait to be recorded.
        tape_queue: 4_096, in 16..=1_000_000;
        /// Most bytes of them.
        tape_queue_bytes: 16 * MIB, in 64 * KIB..=BYTES_MAX;
    }
}

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

const fn hours(count: u64) -> Duration {
    Duration::from_secs(count * 3600)
}

const fn days(count: u64) -> Duration {
    Duration::from_secs(count * 24 * 3600)
}

numbers! {
    /// Waits. None is infinite.
    pub struct Timeouts of Duration {
        /// From accepting a connection, or from the answer before, to complete headers: how long a connection may be idle.
        header_read: secs(30), in ms(10)..=hours(1);
        /// From complete headers to a complete body.
        body_total: secs(30), in ms(10)..=hours(1);
        /// Between two pieces of a body.
        body_idle: secs(10), in ms(10)..=hours(1);
        /// How long a client may not read what is written to it.
        write_stall: secs(30), in ms(10)..=hours(1);
        /// Silence on an SSE stream after which a comment is sent.
        sse_keepalive: secs(15), in ms(100)..=hours(1);
        /// From a session's start to `notifications/initialized`.
        session_init: secs(30), in ms(10)..=hours(1);
        /// Life of a session without client activity.
        session_idle: secs(30 * 60), in ms(100)..=days(30);
        /// Life of a session at all (it ends when idle).
        session_max_age: hours(24), in ms(100)..=days(365);
        /// How long events are kept for resumption.
        backlog_retention: secs(5 * 60), in ms(10)..=hours(24);
        /// Waiting for a connection of an upstream.
        acquire: secs(5), in ms(10)..=hours(1);
        /// From starting a child or connection to its answer to the handshake.
        start: secs(60), in ms(10)..=hours(1);
        /// Life of an unused pooled connection.
        connection_idle: secs(5 * 60), in ms(10)..=hours(24);
        /// Life of a pooled connection that is used again, less up to a tenth at random.
        connection_max_age: hours(1), in ms(100)..=days(30);
        /// Within which failures count together as a crash loop, and how long the upstream then rests.
        crash_window: secs(60), in ms(100)..=hours(24);
        /// Longest pause between two attempts to start an upstream that fails.
        restart_max: secs(30), in ms(10)..=hours(1);
        /// Waiting for the answer to `server/discover` when the era is not known.
        probe: secs(5), in ms(10)..=hours(1);
        /// A child not reading its input.
        write_stall_child: secs(10), in ms(10)..=hours(1);
        /// A started line of a child not ending.
        partial_line: secs(30), in ms(10)..=hours(1);
        /// A request without an answer; each progress notification starts it again.
        request: secs(5 * 60), in ms(10)..=hours(24);
        /// A request without an answer, whatever its progress.
        request_max: hours(1), in ms(10)..=days(7);
        /// A question to the client (sampling, elicitation, roots) without an answer.
        question: secs(10 * 60), in ms(10)..=hours(24);
        /// How long a call waits for its client (2026-07-28) to come back with answers to what a server with a handshake asks.
        parked: secs(10 * 60), in ms(10)..=hours(24);
        /// How long a call that became a task is looked after, if its server does not say less.
        task: hours(1), in ms(10)..=hours(24);
        /// How long more questions of a server with a handshake are waited for, so that its client (2026-07-28) is asked all at once.
        coalesce: ms(20), in ms(1)..=hours(1);
        /// How long a client (2026-07-28) that has sent its user to a URL is not sent there again.
        errand: secs(20), in ms(10)..=hours(1);
        /// How long a client (2026-07-28) may keep what it is told of a server with a handshake, and the proxy does.
        discover_ttl: secs(60), in ms(10)..=hours(24);
        /// How long a cancelled request may still be answered before its connection is not used again.
        cancel_grace: secs(5), in ms(10)..=hours(1);
        /// Connecting to an HTTP upstream, TLS included.
        connect: secs(5), in ms(10)..=hours(1);
        /// Between two pieces of an upstream's JSON body.
        upstream_body_idle: secs(30), in ms(10)..=hours(1);
        /// Silence on an upstream's SSE stream after which it counts as lost; `question` and `parked` where it waits for people.
        upstream_sse_idle: secs(5 * 60), in ms(100)..=hours(24);
        /// Longest wait before the first attempt to reach a lost stream of an upstream; it doubles with each attempt.
        reconnect_base: ms(200), in ms(10)..=hours(1);
        /// Longest wait before any such attempt, unless the upstream asks for more.
        reconnect_cap: secs(30), in ms(10)..=hours(1);
        /// How long such attempts are made, before the stream is given up.
        reconnect_outage: secs(5 * 60), in ms(10)..=hours(24);
        /// How long an HTTP upstream that keeps failing is sent nothing; it doubles while that helps nothing.
        circuit_open: secs(5), in ms(10)..=hours(1);
        /// Longest time that it is sent nothing.
        circuit_open_max: secs(60), in ms(10)..=hours(1);
        /// Life of an unused pooled HTTP connection.
        upstream_keepalive: secs(4), in ms(10)..=hours(1);
        /// Stopping a child: from closing its input to SIGTERM.
        stop_eof: secs(2), in ms(10)..=hours(1);
        /// Stopping a child: from SIGTERM to SIGKILL.
        stop_term: secs(3), in ms(10)..=hours(1);
        /// After how long a tape goes on in another file.
        tape_age: hours(1), in secs(1)..=days(30);
        /// Silence of a client without a session after which its tape ends.
        tape_idle: secs(60), in secs(1)..=hours(24);
        /// Shutdown: how long what was recorded may take to be written.
        tape_flush: secs(2), in ms(10)..=hours(1);
        /// Shutdown: how long requests in flight may finish.
        drain: secs(20), in ms(10)..=hours(1);
        /// Shutdown at all.
        shutdown: secs(30), in ms(10)..=hours(1);
    }
}
