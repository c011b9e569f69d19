//! The arguments as data. What they mean together is decided in `serve`.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{BoolishValueParser, PossibleValuesParser, RangedU64ValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

use super::tape::TapeCommand;
use super::verify::VerifyArgs;
use crate::config::{self, FaultKind};
use crate::probing::ToolCall;
use crate::replay::Order;
use crate::settings::{
    BridgeReuse, EraChoice, HttpTransport, Isolation, OnCrash, RecordEdges, RecordPolicy, Reuse, Structured, Timeouts,
};
use crate::tape::format::Edge;
use crate::tape::pointer::{NotAPointer, Pointers};

/// A reverse proxy for MCP: any server behind one endpoint, any client revision.
#[derive(Debug, Parser)]
#[command(
    name = "shadowcat",
    version,
    arg_required_else_help = true,
    after_help = "`shadowcat -- COMMAND` is short for `shadowcat serve -- COMMAND`."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Put MCP servers behind one HTTP endpoint
    ///
    /// Which ones, COMMAND, --upstream, --config or --mcp-json say; without any of them, it is a built-in demo server.
    Serve(Box<ServeArgs>),
    /// Be a stdio server for a client that can only spawn one, in front of a server that speaks HTTP
    Connect(ConnectArgs),
    /// Find out, with processes of the server, whether clients can safely share one
    ///
    /// Tells what the server speaks, how it starts, what it takes, and what would go wrong or be lost if one process served several
    /// sessions. Exits with 0 if it is safe to share, with 7 if it is not, with 5 if the server does not work.
    Probe(Box<ProbeArgs>),
    /// Measure how fast a server, or a proxy in front of it, answers, and whether it answers rightly
    ///
    /// Exits with 0, with 7 if an answer was wrong or missing or the budget of --compare was not kept, with 5 if the server cannot be
    /// reached or used.
    Bench(Box<BenchArgs>),
    /// Be the server of a tape, over standard input and output or over HTTP, for clients of every revision
    ///
    /// Exits with 0, with 7 if something was asked that is not on the tape, with 6 if the tape cannot be read.
    Replay(Box<ReplayArgs>),
    /// Ask a server what a tape's client asked, and compare the answers
    ///
    /// Exits with 0 if there is no difference, with 7 if there is, with 6 if the tape cannot be read, with 5 if the server cannot be
    /// started or reached.
    Verify(Box<VerifyArgs>),
    /// Look at tapes, compare them, clean them
    #[command(subcommand)]
    Tape(TapeCommand),
    /// Run a fake MCP server whose behaviour is scripted
    #[command(subcommand)]
    Fake(Fake),
    /// Tell about the configuration file
    #[command(subcommand, name = "config")]
    Config(ConfigCommand),
}

/// `serve`: put MCP servers behind one HTTP endpoint.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where MCP clients connect [default: 127.0.0.1:8080]
    #[arg(long, env = "SHADOWCAT_LISTEN", value_name = "ADDR", value_parser = config::parse_address)]
    pub listen: Option<SocketAddr>,

    /// Path of the endpoint [default: /mcp]
    #[arg(long, env = "SHADOWCAT_PATH")]
    pub path: Option<String>,

    /// Where /health, /ready, /status and /metrics are served, or `off` [default: 127.0.0.1:9464]
    #[arg(long, env = "SHADOWCAT_ADMIN", value_name = "ADDR", value_parser = admin)]
    pub admin: Option<Admin>,

    /// Configuration file (TOML; `shadowcat config schema` describes it)
    #[arg(long, env = "SHADOWCAT_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// File with the `mcpServers` of an MCP host
    #[arg(long, env = "SHADOWCAT_MCP_JSON", value_name = "FILE")]
    pub mcp_json: Option<PathBuf>,

    /// The server to put behind the endpoint: one that speaks HTTP
    #[arg(long, env = "SHADOWCAT_UPSTREAM", value_name = "URL", hide_env_values = true, conflicts_with = "command")]
    pub upstream: Option<String>,

    /// How the upstream speaks [default: auto]
    #[arg(long, env = "SHADOWCAT_TRANSPORT", value_parser = transport())]
    pub transport: Option<HttpTransport>,

    /// Headers for it.
    #[command(flatten)]
    pub headers: HeaderArgs,

    /// What COMMAND gets.
    #[command(flatten)]
    pub child: ChildArgs,

    /// How many threads serve, each its own connections, of which the first ones get 16 before the next one gets any; at most that many
    /// processors are used [default: all processors, or half of them if all servers are processes]
    #[arg(long, env = "SHADOWCAT_WORKERS", value_name = "N", value_parser = count(&(1..=1024)))]
    pub workers: Option<usize>,

    /// Name of the server given by COMMAND or --upstream [default: main]
    #[arg(long, env = "SHADOWCAT_NAME")]
    pub name: Option<String>,

    /// Which revisions the server speaks: up to 2025-11-25, or from 2026-07-28 [default: auto]
    #[arg(long, env = "SHADOWCAT_ERA", value_parser = era())]
    pub era: Option<EraChoice>,

    /// How many child processes, or sessions with the upstream, may exist at once [default: 64]
    #[arg(long, env = "SHADOWCAT_MAX_CONNECTIONS", value_name = "N", value_parser = max_connections())]
    pub max_connections: Option<usize>,

    /// Who has a connection in common: nobody but one session, all clients, all clients of one principal, or nobody but
    /// one request at a time [default: session]
    #[arg(long, env = "SHADOWCAT_ISOLATION", value_parser = isolation())]
    pub isolation: Option<Isolation>,

    /// Who may have a connection when its session is over (with `--isolation request`: its request)
    /// [default: never; any with `--isolation request`]
    #[arg(long, env = "SHADOWCAT_REUSE", value_parser = reuse())]
    pub reuse: Option<Reuse>,

    /// Who may have a connection when the request of 2026-07-28 that used it is over, if the server has a handshake
    /// [default: same-principal]
    #[arg(long, env = "SHADOWCAT_BRIDGE_REUSE", value_parser = bridge_reuse())]
    pub bridge_reuse: Option<BridgeReuse>,

    /// What clients up to 2025-11-25 get of structured results of a server of 2026-07-28 that are no objects
    /// [default: omit]
    #[arg(long, env = "SHADOWCAT_BRIDGE_STRUCTURED", value_parser = structured())]
    pub bridge_structured: Option<Structured>,

    /// How many child processes are kept started ahead for sessions to come [default: 0]
    #[arg(long, env = "SHADOWCAT_WARM_SPARES", value_name = "N", value_parser = warm_spares())]
    pub warm_spares: Option<usize>,

    /// Client header whose value says who the client is; it is not verified: any but the default must be set by something
    /// trusted in front, which removes it from what clients send [default: authorization]
    #[arg(long, env = "SHADOWCAT_PRINCIPAL_HEADER", value_name = "NAME")]
    pub principal_header: Option<String>,

    /// What happens to a session whose connection is lost [default: reinitialize]
    #[arg(long, env = "SHADOWCAT_ON_CRASH", value_parser = on_crash())]
    pub on_crash: Option<OnCrash>,

    /// How traffic is recorded.
    #[command(flatten)]
    pub record: RecordArgs,

    /// Let go wrong what this plan says, between clients and the proxy (JSON; see docs/faults.md)
    #[arg(long, env = "SHADOWCAT_FAULTS", value_name = "FILE")]
    pub faults: Option<PathBuf>,

    /// Origin of web pages that may connect, besides loopback ones (repeatable, or separated by commas)
    #[arg(long = "allow-origin", env = "SHADOWCAT_ALLOW_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    pub allow_origins: Vec<String>,

    /// Host by which clients may call the proxy, besides loopback ones (repeatable, or separated by commas)
    #[arg(long = "allow-host", env = "SHADOWCAT_ALLOW_HOST", value_name = "HOST", value_delimiter = ',')]
    pub allow_hosts: Vec<String>,

    /// Client header that is passed on to the upstream (repeatable, or separated by commas)
    #[arg(long = "forward-header", env = "SHADOWCAT_FORWARD_HEADER", value_name = "NAME", value_delimiter = ',')]
    pub forward_headers: Vec<String>,

    /// Do not serve the HTTP+SSE transport (2024-11-05)
    #[arg(long, env = "SHADOWCAT_NO_HTTP_SSE", value_parser = BoolishValueParser::new())]
    pub no_http_sse: bool,

    /// How long a request may go without an answer or progress [default: 5m]
    #[arg(long, env = "SHADOWCAT_REQUEST_TIMEOUT", value_name = "TIME", value_parser = request_timeout)]
    pub request_timeout: Option<Duration>,

    /// What is logged.
    #[command(flatten)]
    pub log: LogArgs,

    /// Check the configuration, print what would be served, and exit
    #[arg(long, env = "SHADOWCAT_CHECK", value_parser = BoolishValueParser::new())]
    pub check: bool,

    /// The server to put behind the endpoint: a program that speaks MCP on standard input and output
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `connect`: be a stdio server in front of one that speaks HTTP.
#[derive(Debug, Args)]
pub struct ConnectArgs {
    /// The server to connect to
    #[arg(value_name = "URL")]
    pub url: String,

    /// How the server speaks [default: auto]
    #[arg(long, env = "SHADOWCAT_TRANSPORT", value_parser = transport())]
    pub transport: Option<HttpTransport>,

    /// Headers for it.
    #[command(flatten)]
    pub headers: HeaderArgs,

    /// Which revisions the server speaks: up to 2025-11-25, or from 2026-07-28 [default: auto]
    #[arg(long, env = "SHADOWCAT_ERA", value_parser = era())]
    pub era: Option<EraChoice>,

    /// Whether traffic is recorded.
    #[command(flatten)]
    pub record: RecordArgs,

    /// What is logged.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `probe`: find out whether a server can be shared.
#[derive(Debug, Args)]
// Its logs would stand between its words.
#[command(mut_arg("log", |arg| arg.default_value("error")))]
pub struct ProbeArgs {
    /// Print one JSON object
    #[arg(long, env = "SHADOWCAT_JSON", value_parser = BoolishValueParser::new())]
    pub json: bool,

    /// Call a tool, with these arguments (repeatable; each call is made some ten times, so it had better do no harm). Without it,
    /// only those tools are called that say they are read-only and need no arguments
    #[arg(long, env = "SHADOWCAT_CALL", value_name = "NAME[={…}]", hide_env_values = true, value_parser = tool_call)]
    pub(crate) call: Vec<ToolCall>,

    /// How long the server may take to start, and to answer a call
    #[arg(long, env = "SHADOWCAT_TIMEOUT", value_name = "TIME", default_value = "60s", value_parser = start_timeout)]
    pub timeout: Duration,

    /// What COMMAND gets.
    #[command(flatten)]
    pub child: ChildArgs,

    /// What is logged.
    #[command(flatten)]
    pub log: LogArgs,

    /// The server: a program that speaks MCP on standard input and output. It is started several times
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// What a program that is started gets.
#[derive(Debug, Args)]
pub struct ChildArgs {
    /// Set a variable for COMMAND (repeatable; `${VAR}` in the value is expanded)
    #[arg(long, env = "SHADOWCAT_ENV", value_name = "K=V", hide_env_values = true)]
    pub env: Vec<String>,

    /// Let COMMAND inherit a variable besides PATH, HOME and the like (repeatable, or separated by commas)
    #[arg(long, env = "SHADOWCAT_PASS_ENV", value_name = "NAME", value_delimiter = ',')]
    pub pass_env: Vec<String>,

    /// Working directory of COMMAND
    #[arg(long, env = "SHADOWCAT_CWD", value_name = "DIR")]
    pub cwd: Option<String>,
}

/// `bench`: how fast does a server answer?
#[derive(Debug, Args)]
// Its logs would stand between its words.
#[command(mut_arg("log", |arg| arg.default_value("error")))]
pub struct BenchArgs {
    /// The endpoint to measure (`http://`)
    #[arg(value_name = "URL", required_unless_present = "command", conflicts_with = "command")]
    pub url: Option<String>,

    /// Which revisions to speak: with sessions (legacy) or without (modern); `auto` takes sessions if there are any
    #[arg(long, env = "SHADOWCAT_ERA", value_parser = era(), default_value = "auto")]
    pub era: EraChoice,

    /// How many clients call at the same time; each has a connection, and a session of its own
    #[arg(long, env = "SHADOWCAT_CLIENTS", value_name = "N", default_value_t = 16, value_parser = RangedU64ValueParser::<usize>::new().range(1..=100_000))]
    pub clients: usize,

    /// Start so many requests a second, whether or not the server keeps up; latencies count from when they were to start.
    /// Without it, each client sends the next request when the last one is answered
    #[arg(long, env = "SHADOWCAT_RATE", value_name = "N", value_parser = RangedU64ValueParser::<u32>::new().range(1..=1_000_000))]
    pub rate: Option<u32>,

    /// For how long
    #[arg(long, env = "SHADOWCAT_DURATION", value_name = "TIME", default_value = "10s", value_parser = config::parse_duration)]
    pub duration: Duration,

    /// Make so many requests instead, however long they take; at least 20
    #[arg(long, env = "SHADOWCAT_REQUESTS", value_name = "N", conflicts_with_all = ["duration", "rate"], value_parser = RangedU64ValueParser::<u64>::new().range(20..))]
    pub requests: Option<u64>,

    /// For how long before that, without measuring
    #[arg(long, env = "SHADOWCAT_WARM_UP", value_name = "TIME", default_value = "1s", value_parser = config::parse_duration)]
    pub warm_up: Duration,

    /// How long an answer may take
    #[arg(long, env = "SHADOWCAT_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = request_timeout)]
    pub timeout: Duration,

    /// How long a text the server is to echo, in bytes
    #[arg(long, env = "SHADOWCAT_PAYLOAD", value_name = "BYTES", default_value_t = 200, value_parser = RangedU64ValueParser::<usize>::new().range(1..=16 * 1024 * 1024))]
    pub payload: usize,

    /// Call this tool (it had better do no harm) [default: `echo`, if there is one; else the tools are listed]
    #[arg(long, env = "SHADOWCAT_TOOL", value_name = "NAME")]
    pub tool: Option<String>,

    /// Its arguments
    #[arg(long, env = "SHADOWCAT_ARGS", value_name = "{…}", default_value = "{}", requires = "tool", value_parser = object)]
    pub args: serde_json::Map<String, serde_json::Value>,

    /// Ask for progress, and expect so many notifications before each answer
    #[arg(long, env = "SHADOWCAT_PROGRESS", value_name = "N", default_value_t = 0)]
    pub progress: usize,

    /// Write what was measured to this file, as JSON
    #[arg(long, env = "SHADOWCAT_BENCH_JSON", value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Compare with what an earlier run wrote
    #[arg(long, env = "SHADOWCAT_COMPARE", value_name = "FILE")]
    pub compare: Option<PathBuf>,

    /// How much worse it may be than that, in rate and in latency (p50 and p95)
    #[arg(long, env = "SHADOWCAT_BUDGET", value_name = "N%", default_value = "5%", value_parser = percent)]
    pub budget: f64,

    /// Who shares a process of COMMAND
    #[arg(long, env = "SHADOWCAT_ISOLATION", value_parser = isolation(), default_value = "shared")]
    pub isolation: Isolation,

    /// What is logged.
    #[command(flatten)]
    pub log: LogArgs,

    /// Or the server to measure: a program that speaks MCP on standard input and output, which is put behind a proxy of ours
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `replay`: be the server of a tape.
#[derive(Debug, Args)]
// Its report would be lost between them.
#[command(mut_arg("log", |arg| arg.default_value("warn")))]
pub struct ReplayArgs {
    /// The tape: a file, several of one recording, or a folder with nothing else; of one with both edges, what the server said to
    /// the proxy
    #[arg(value_name = "TAPE", required = true)]
    pub tapes: Vec<PathBuf>,

    /// Serve HTTP there; without it, one client on standard input and output
    #[arg(long, env = "SHADOWCAT_LISTEN", value_name = "ADDR", value_parser = config::parse_address)]
    pub listen: Option<SocketAddr>,

    /// Path of the endpoint
    #[arg(long, env = "SHADOWCAT_PATH", default_value = "/mcp", requires = "listen")]
    pub path: String,

    /// Which requests are answered: any of the tape's, or only the next one
    #[arg(long, env = "SHADOWCAT_ORDER", value_parser = named(ORDERS), default_value = "any")]
    pub order: Order,

    /// What may differ in a request, as a JSON pointer such as `/params/arguments/at`; `*` stands for any member, `**` for any
    /// number of them (repeatable, or separated by commas; `_meta` always may)
    #[arg(long, env = "SHADOWCAT_IGNORE", value_name = "POINTER", value_delimiter = ',', value_parser = pointer)]
    pub ignore: Vec<Pointers>,

    /// Whose words to replay: what the server said to the proxy, or what the proxy said to the client [default: the server's, if
    /// they were recorded]
    #[arg(long, env = "SHADOWCAT_EDGE", value_parser = named(EDGES))]
    pub edge: Option<Edge>,

    /// When to answer: at once (`none`), as recorded (`recorded`), or so many times slower (`0.5x`, `2x`)
    #[arg(long, env = "SHADOWCAT_TIMING", value_name = "HOW", default_value = "none", value_parser = timing)]
    pub timing: f64,

    /// Longest wait for one message, whatever the tape says
    #[arg(long, env = "SHADOWCAT_TIMING_CAP", value_name = "TIME", default_value = "10s", value_parser = config::parse_duration)]
    pub timing_cap: Duration,

    /// Let go wrong what this plan says, between clients and the tape (JSON; see docs/faults.md)
    #[arg(long, env = "SHADOWCAT_FAULTS", value_name = "FILE")]
    pub faults: Option<PathBuf>,

    /// What becomes of requests that are not on the tape, where a server stands behind it: with `once` they are refused, unless
    /// there is no tape yet, which is then recorded; with `none` they are refused; with `new-episodes` the server is asked, and the
    /// tape gets longer; with `all` the server is asked everything, and the tape is made anew [default: once]
    #[arg(long, env = "SHADOWCAT_MODE", value_parser = named(Mode::NAMED))]
    pub mode: Option<Mode>,

    /// The server behind the tape: one that speaks HTTP
    #[arg(long, env = "SHADOWCAT_UPSTREAM", value_name = "URL", hide_env_values = true, conflicts_with = "command")]
    pub upstream: Option<String>,

    /// How it speaks [default: auto]
    #[arg(long, env = "SHADOWCAT_TRANSPORT", value_parser = transport(), requires = "upstream")]
    pub transport: Option<HttpTransport>,

    /// Headers for it.
    #[command(flatten)]
    pub headers: HeaderArgs,

    /// What COMMAND gets.
    #[command(flatten)]
    pub child: ChildArgs,

    /// Exit with 7 also if there are requests on the tape that nobody made
    #[arg(long, env = "SHADOWCAT_REQUIRE_ALL", value_parser = BoolishValueParser::new())]
    pub require_all: bool,

    /// What is logged.
    #[command(flatten)]
    pub log: LogArgs,

    /// Or a program that speaks MCP on standard input and output
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Whether traffic is recorded, and how.
#[derive(Debug, Args)]
pub struct RecordArgs {
    /// Record traffic into this folder, as tapes: of all servers for which the file does not say otherwise
    #[arg(long, env = "SHADOWCAT_RECORD", value_name = "DIR")]
    pub record: Option<String>,

    /// What is recorded: what passes between clients and the proxy, or also what passes between the proxy and its servers
    /// [default: client]
    #[arg(long, env = "SHADOWCAT_RECORD_EDGES", value_parser = named(RecordEdges::NAMED), requires = "record")]
    pub record_edges: Option<RecordEdges>,

    /// What happens to what cannot be recorded: it waits for a slow disk, it passes and is marked as missing, or it is refused
    /// [default: drop]
    #[arg(long, env = "SHADOWCAT_RECORD_POLICY", value_parser = named(RecordPolicy::NAMED), requires = "record")]
    pub record_policy: Option<RecordPolicy>,

    /// Compress tapes (zstd)
    #[arg(long, env = "SHADOWCAT_RECORD_COMPRESS", value_parser = BoolishValueParser::new(), requires = "record")]
    pub record_compress: bool,

    /// Take values of members with this name out of what is recorded, besides the usual ones; `*` stands for anything (repeatable)
    #[arg(
        long = "redact-key",
        env = "SHADOWCAT_REDACT_KEY",
        value_name = "NAME",
        value_delimiter = ',',
        requires = "record"
    )]
    pub redact_keys: Vec<String>,

    /// Take out what is at this JSON pointer into a message (repeatable)
    #[arg(
        long = "redact-pointer",
        env = "SHADOWCAT_REDACT_POINTER",
        value_name = "POINTER",
        value_delimiter = ',',
        requires = "record"
    )]
    pub redact_pointers: Vec<String>,

    /// Take out what matches this regular expression (repeatable)
    #[arg(long = "redact-pattern", env = "SHADOWCAT_REDACT_PATTERN", value_name = "REGEX", requires = "record")]
    pub redact_patterns: Vec<String>,

    /// Leave the usual names and forms of secrets in what is recorded
    #[arg(long, env = "SHADOWCAT_NO_REDACT_DEFAULTS", value_parser = BoolishValueParser::new(), requires = "record")]
    pub no_redact_defaults: bool,
}

/// Headers for an HTTP upstream.
#[derive(Debug, Args)]
pub struct HeaderArgs {
    /// Send a header to the upstream (repeatable; `${VAR}` in the value is expanded, which keeps secrets out of `ps`)
    // Taken as text: clap would print the value of a malformed one, and the value may be a secret. For the same reason
    // lines of the variable are separated only here, where no header can contain one.
    #[arg(
        long = "header",
        env = "SHADOWCAT_HEADER",
        value_name = "K: V",
        value_delimiter = '\n',
        hide_env_values = true
    )]
    pub headers: Vec<String>,
}

/// What is logged, and how. Logs go to standard error.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// What to log: error, warn, info, debug, trace, off, or a filter such as `shadowcat=debug,hyper=info`
    #[arg(
        long,
        env = "SHADOWCAT_LOG",
        value_name = "LEVEL|FILTER",
        default_value = "info",
        value_parser = log_filter
    )]
    pub log: String,

    /// How to write logs
    #[arg(long, env = "SHADOWCAT_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object per line
    Json,
}

/// `fake`: scripted servers for those who test MCP software.
#[derive(Debug, Subcommand)]
pub enum Fake {
    /// An MCP server on standard input and output
    Stdio {
        /// Script of its behaviour
        #[arg(long, env = "SHADOWCAT_FAKE_SCRIPT", value_name = "FILE")]
        script: Option<PathBuf>,
    },
    /// An HTTP server with SSE streams
    Sse {
        /// Where it listens
        #[arg(
            long,
            env = "SHADOWCAT_FAKE_LISTEN",
            value_name = "ADDR",
            default_value = "127.0.0.1:8000",
            value_parser = config::parse_address
        )]
        listen: SocketAddr,
        /// Plan of its faults
        #[arg(long, env = "SHADOWCAT_FAKE_PLAN", value_name = "FILE")]
        plan: Option<PathBuf>,
        /// Where requests are recorded, a line of JSON for each; the file is written anew
        #[arg(long, env = "SHADOWCAT_FAKE_RECORD", value_name = "FILE")]
        record: Option<PathBuf>,
    },
}

/// `config`: about the configuration file.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the JSON schema of the configuration file
    Schema,
}

/// The value of `--admin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admin {
    /// Served at this address.
    At(SocketAddr),
    /// Not served.
    Off,
}

fn admin(text: &str) -> Result<Admin, FaultKind> {
    match text {
        "off" => Ok(Admin::Off),
        address => config::parse_address(address).map(Admin::At),
    }
}

pub(super) fn transport() -> impl TypedValueParser<Value = HttpTransport> {
    named(HttpTransport::NAMED)
}

fn era() -> impl TypedValueParser<Value = EraChoice> {
    named(EraChoice::NAMED)
}

fn isolation() -> impl TypedValueParser<Value = Isolation> {
    named(Isolation::NAMED)
}

fn reuse() -> impl TypedValueParser<Value = Reuse> {
    named(Reuse::NAMED)
}

fn bridge_reuse() -> impl TypedValueParser<Value = BridgeReuse> {
    named(BridgeReuse::NAMED)
}

fn structured() -> impl TypedValueParser<Value = Structured> {
    named(Structured::NAMED)
}

fn on_crash() -> impl TypedValueParser<Value = OnCrash> {
    named(OnCrash::NAMED)
}

/// Takes the names of the choices, and nothing else.
fn named<V: Copy + Send + Sync + 'static, const N: usize>(
    choices: [(&'static str, V); N],
) -> impl TypedValueParser<Value = V> {
    PossibleValuesParser::new(choices.map(|(name, _)| name)).try_map(move |text| {
        let choice = choices.iter().find(|(name, _)| *name == text);
        choice.map(|(_, value)| *value).ok_or(FaultKind::Malformed { expected: "one of the choices" })
    })
}

fn max_connections() -> RangedU64ValueParser<usize> {
    count(&config::MAX_CONNECTIONS)
}

fn warm_spares() -> RangedU64ValueParser<usize> {
    count(&config::WARM_SPARES)
}

fn count(range: &RangeInclusive<usize>) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(*range.start() as u64..=*range.end() as u64)
}

pub(super) fn request_timeout(text: &str) -> Result<Duration, FaultKind> {
    wait("request", text)
}

fn start_timeout(text: &str) -> Result<Duration, FaultKind> {
    wait("start", text)
}

/// A wait within the bounds that the configuration has for it.
fn wait(name: &str, text: &str) -> Result<Duration, FaultKind> {
    let value = config::parse_duration(text)?;
    match Timeouts::NUMBERS.iter().find(|number| number.name == name) {
        Some(number) => number.check(value),
        None => Ok(value),
    }
}

/// Reads `NAME` or `NAME={…}`.
fn tool_call(text: &str) -> Result<ToolCall, FaultKind> {
    let malformed = FaultKind::Malformed { expected: "`NAME`, or `NAME={…}` with the arguments as a JSON object" };
    let (name, arguments) = text.split_once('=').unwrap_or((text, "{}"));
    let arguments = serde_json::from_str::<serde_json::Map<_, _>>(arguments);
    match (name, arguments) {
        ("", _) | (_, Err(_)) => Err(malformed),
        (name, Ok(arguments)) => Ok(ToolCall { name: name.to_owned(), arguments: arguments.into() }),
    }
}

/// Reads a JSON object.
fn object(text: &str) -> Result<serde_json::Map<String, serde_json::Value>, serde_json::Error> {
    serde_json::from_str(text)
}

/// Reads `5%` as 0.05.
fn percent(text: &str) -> Result<f64, FaultKind> {
    let number = text.strip_suffix('%').and_then(|number| number.parse::<f64>().ok());
    number
        .filter(|number| (0.0..=1000.0).contains(number))
        .map(|number| number / 100.0)
        .ok_or(FaultKind::Malformed { expected: "a percentage such as `5%`" })
}

/// The sides of the proxy by their names.
const EDGES: [(&str, Edge); 2] = [("client", Edge::Client), ("upstream", Edge::Upstream)];

/// What becomes of requests that are not on a tape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Refused, unless there is no tape yet.
    Once,
    /// Refused.
    None,
    /// Answered by the server behind the tape, and added to it.
    NewEpisodes,
    /// As if there were no tape.
    All,
}

impl Mode {
    const NAMED: [(&'static str, Self); 4] =
        [("once", Self::Once), ("none", Self::None), ("new-episodes", Self::NewEpisodes), ("all", Self::All)];
}

/// The choices of an order by their names.
const ORDERS: [(&str, Order); 2] = [("any", Order::Any), ("strict", Order::Strict)];

fn pointer(text: &str) -> Result<Pointers, NotAPointer> {
    Pointers::parse([text])
}

/// Reads `none` as 0, `recorded` as 1, and a factor such as `2x`.
fn timing(text: &str) -> Result<f64, FaultKind> {
    let factor = match text {
        "none" => Some(0.0),
        "recorded" => Some(1.0),
        scaled => scaled.strip_suffix('x').and_then(|factor| factor.parse().ok()),
    };
    let factor = factor.filter(|factor| (0.0..=1000.0).contains(factor));
    factor.ok_or(FaultKind::Malformed { expected: "`none`, `recorded`, or a factor such as `0.5x`" })
}

fn log_filter(text: &str) -> Result<String, tracing_subscriber::filter::ParseError> {
    crate::telemetry::filter(text).map(|_| text.to_owned())
}
