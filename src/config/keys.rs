//! The keys of the configuration file, apart from the numbers: those are declared with
//! [`Limits`](crate::settings::Limits) and [`Timeouts`](crate::settings::Timeouts).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::{Config, Placed, ServerConfig, Template};
use crate::settings::{
    BridgeReuse, EraChoice, HttpTransport, Isolation, OnCrash, RecordEdges, RecordPolicy, Reuse, Structured,
};

/// A key of the table `T`.
pub(crate) struct Key<T: 'static> {
    pub(crate) name: &'static str,
    /// What it does, for the schema.
    pub(crate) about: &'static str,
    pub(crate) kind: Kind<T>,
}

/// What a key takes, and where it is kept.
pub(crate) enum Kind<T: 'static> {
    Flag(Optional<T, bool>),
    Count(RangeInclusive<usize>, Optional<T, usize>),
    Address(Optional<T, SocketAddr>),
    AddressOrOff(Optional<T, Option<SocketAddr>>),
    Text(Optional<T, String>),
    Texts(fn(&mut T) -> &mut Vec<Placed<String>>),
    Template(Optional<T, Template>),
    Templates(fn(&mut T) -> &mut Vec<Placed<Template>>),
    /// A table of texts.
    Pairs(fn(&mut T) -> &mut Pairs),
    Transport(Optional<T, HttpTransport>),
    Era(Optional<T, EraChoice>),
    Isolation(Optional<T, Isolation>),
    Reuse(Optional<T, Reuse>),
    BridgeReuse(Optional<T, BridgeReuse>),
    Structured(Optional<T, Structured>),
    OnCrash(Optional<T, OnCrash>),
    RecordEdges(Optional<T, RecordEdges>),
    RecordPolicy(Optional<T, RecordPolicy>),
    Limits(fn(&mut T) -> &mut BTreeMap<&'static str, Placed<usize>>),
    Timeouts(fn(&mut T) -> &mut BTreeMap<&'static str, Placed<Duration>>),
    Servers(fn(&mut T) -> &mut Vec<ServerConfig>),
}

type Pairs = Vec<(Placed<String>, Template)>;
pub(crate) type Optional<T, V> = fn(&mut T) -> &mut Option<Placed<V>>;

/// How many connections to one server may be allowed.
pub(crate) const MAX_CONNECTIONS: RangeInclusive<usize> = 1..=10_000;
/// How many children of one server may be kept started ahead.
pub(crate) const WARM_SPARES: RangeInclusive<usize> = 0..=1_000;

/// The keys at the top of the file.
pub(crate) const TOP: &[Key<Config>] = &[
    Key {
        name: "listen",
        about: "Address and port where MCP clients connect. Default: 127.0.0.1:8080.",
        kind: Kind::Address(|config| &mut config.listen),
    },
    Key { name: "path", about: "Path of the endpoint. Default: /mcp.", kind: Kind::Text(|config| &mut config.path) },
    Key {
        name: "admin",
        about: "Address and port of /health, /ready, /status and /metrics, or \"off\". Default: 127.0.0.1:9464.",
        kind: Kind::AddressOrOff(|config| &mut config.admin),
    },
    Key {
        name: "allow_origins",
        about: "Origins of web pages that may connect, besides loopback ones: \"https://app.example\".",
        kind: Kind::Texts(|config| &mut config.allow_origins),
    },
    Key {
        name: "allow_hosts",
        about: "Hosts by which clients may call the proxy, besides loopback ones: \"mcp.example\" or \
                \"mcp.example:8080\". Needed to listen on an address that other machines can reach.",
        kind: Kind::Texts(|config| &mut config.allow_hosts),
    },
    Key {
        name: "http_sse",
        about: "Whether the HTTP+SSE transport (MCP 2024-11-05) is served as well. Default: true.",
        kind: Kind::Flag(|config| &mut config.http_sse),
    },
    Key {
        name: "limits",
        about: "Sizes and counts. None is unlimited.",
        kind: Kind::Limits(|config| &mut config.limits),
    },
    Key { name: "timeouts", about: "Waits. None is infinite.", kind: Kind::Timeouts(|config| &mut config.timeouts) },
    Key {
        name: "servers",
        about: "The MCP servers behind the proxy, by name.",
        kind: Kind::Servers(|config| &mut config.servers),
    },
];

/// The keys of `[servers.NAME]`.
pub(crate) const SERVER: &[Key<ServerConfig>] = &[
    Key {
        name: "command",
        about: "Program to start, looked up in PATH when it has no slash. No shell is involved.",
        kind: Kind::Template(|server| &mut server.command),
    },
    Key { name: "args", about: "Arguments of the program.", kind: Kind::Templates(|server| &mut server.args) },
    Key { name: "env", about: "Variables set for the program.", kind: Kind::Pairs(|server| &mut server.env) },
    Key {
        name: "pass_env",
        about: "Variables that the program inherits from the proxy, besides PATH, HOME and the like.",
        kind: Kind::Texts(|server| &mut server.pass_env),
    },
    Key {
        name: "cwd",
        about: "Working directory of the program. Default: the proxy's own.",
        kind: Kind::Template(|server| &mut server.cwd),
    },
    Key {
        name: "url",
        about: "Endpoint of a server that speaks HTTP.",
        kind: Kind::Template(|server| &mut server.url),
    },
    Key {
        name: "headers",
        about: "Headers sent with every request to `url`.",
        kind: Kind::Pairs(|server| &mut server.headers),
    },
    Key {
        name: "transport",
        about: "What `url` speaks. \"auto\", the default, tries Streamable HTTP, then HTTP+SSE.",
        kind: Kind::Transport(|server| &mut server.transport),
    },
    Key {
        name: "era",
        about: "Which revisions the server speaks: \"legacy\" up to 2025-11-25 (with sessions), \"modern\" from \
                2026-07-28 (without). \"auto\", the default, asks it.",
        kind: Kind::Era(|server| &mut server.era),
    },
    Key {
        name: "max_connections",
        about: "How many child processes, or sessions at `url`, may exist at once. Default: 64.",
        kind: Kind::Count(MAX_CONNECTIONS, |server| &mut server.max_connections),
    },
    Key {
        name: "forward_headers",
        about: "Headers of client requests that are passed on to `url`. Default: none, credentials stay here.",
        kind: Kind::Texts(|server| &mut server.forward_headers),
    },
    Key {
        name: "isolation",
        about: "Who has a connection to the server in common. \"session\", the default: each session has one of its \
                own. \"shared\": all clients use one. \"principal\": all clients of one principal use one. \
                \"request\": each request has one for itself, from those that are used again.",
        kind: Kind::Isolation(|server| &mut server.isolation),
    },
    Key {
        name: "reuse",
        about: "What becomes of a connection when its session (with isolation = \"request\", its request) is over. \
                \"never\": it is closed. \"same-principal\": it is kept for the same principal. \"any\": it is kept \
                for anybody. Default: \"never\"; \"any\" with isolation = \"request\".",
        kind: Kind::Reuse(|server| &mut server.reuse),
    },
    Key {
        name: "bridge_reuse",
        about: "What becomes of a connection to a server with a handshake when the request of 2026-07-28 that used it is \
                over. \"never\": it is closed. \"same-principal\", the default: it is kept for the same principal, or \
                for others of whom nothing is known. \"pinned\": the same, and a principal that is known has only one, which \
                its requests use in turn. \"any\": it is kept for anybody.",
        kind: Kind::BridgeReuse(|server| &mut server.bridge_reuse),
    },
    Key {
        name: "bridge_structured",
        about: "What clients up to 2025-11-25 get of structured results of a server of 2026-07-28 that are no objects. \"omit\", \
                the default: the text of them, and the tool without its schema. \"wrap\": `{\"result\": …}`, and the \
                schema of that.",
        kind: Kind::Structured(|server| &mut server.bridge_structured),
    },
    Key {
        name: "warm_spares",
        about: "How many child processes are kept started ahead for sessions to come; they count in \
                `max_connections`. Default: 0.",
        kind: Kind::Count(WARM_SPARES, |server| &mut server.warm_spares),
    },
    Key {
        name: "principal_header",
        about: "Header of client requests whose value says who the client is, for isolation = \"principal\" and reuse \
                = \"same-principal\". The proxy does not verify it: any other than the default must be set by \
                something trusted in front of the proxy, which removes it from what clients send. Default: \
                \"authorization\".",
        kind: Kind::Text(|server| &mut server.principal_header),
    },
    Key {
        name: "on_crash",
        about: "What happens to a session whose connection is lost. \"reinitialize\", the default: its next request \
                makes a new one, and repeats the handshake, the log level and the subscriptions. \"end-session\": it \
                ends, for servers that keep state which must not be lost without the client knowing.",
        kind: Kind::OnCrash(|server| &mut server.on_crash),
    },
    Key {
        name: "record",
        about: "Folder into which traffic with the server is recorded, as tapes. Default: nothing is recorded.",
        kind: Kind::Template(|server| &mut server.record),
    },
    Key {
        name: "record_edges",
        about: "What is recorded. \"client\", the default: what passes between clients and the proxy. \"both\": also what \
                passes between the proxy and the server.",
        kind: Kind::RecordEdges(|server| &mut server.record_edges),
    },
    Key {
        name: "record_policy",
        about: "What happens to what cannot be recorded. \"drop\", the default: it passes, and what is missing is counted and \
                marked on the tape. \"block\": it waits for a slow disk; where the disk fails it passes. \"required\": it waits \
                for a slow disk, and is refused while the disk fails.",
        kind: Kind::RecordPolicy(|server| &mut server.record_policy),
    },
    Key {
        name: "record_compress",
        about: "Whether tapes are compressed (zstd). Default: false.",
        kind: Kind::Flag(|server| &mut server.record_compress),
    },
    Key {
        name: "redact_defaults",
        about: "Whether the usual names and forms of secrets are taken out before anything is recorded. Default: true.",
        kind: Kind::Flag(|server| &mut server.redact_defaults),
    },
    Key {
        name: "redact_keys",
        about: "Names of further members whose values are taken out; `*` stands for anything: \"*pin*\".",
        kind: Kind::Texts(|server| &mut server.redact_keys),
    },
    Key {
        name: "redact_pointers",
        about: "JSON pointers to further values that are taken out: \"/params/arguments/pin\"; `*` stands for any one part.",
        kind: Kind::Texts(|server| &mut server.redact_pointers),
    },
    Key {
        name: "redact_patterns",
        about: "Regular expressions: what they match within texts is taken out, too.",
        kind: Kind::Texts(|server| &mut server.redact_patterns),
    },
];
