//! What the files say, and how it becomes [`Settings`].
//!
//! A [`Loader`] reads any number of files and takes what the command line adds; [`Loader::finish`] checks everything
//! and makes the settings. No step stops at the first fault: they are collected, and reported together with their
//! places.
//!
//! One table of keys (`keys`, and [`Limits`](crate::settings::Limits) and [`Timeouts`](crate::settings::Timeouts) for
//! the numbers) drives the reader, its suggestions and the [`schema`].

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::settings::{
    BridgeReuse, EraChoice, HttpTransport, Isolation, OnCrash, RecordEdges, RecordPolicy, Reuse, Settings, Structured,
    UpstreamSettings,
};

mod checks;
mod document;
mod expand;
mod fault;
mod file;
mod keys;
mod mcp_json;
mod resolve;
mod schema;
mod suggest;
#[cfg(test)]
mod tests;
mod values;

pub use fault::{Fault, FaultKind, Faults, Note, NoteKind, Place, Placed};
pub(crate) use keys::{MAX_CONNECTIONS, WARM_SPARES};
pub use schema::schema;
pub(crate) use values::{parse_address, parse_duration};

use document::Source;

/// What the files and the command line say, before anything is made of it. What is `None` or empty was not said.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Where MCP clients connect.
    pub listen: Option<Placed<SocketAddr>>,
    /// Path of the endpoint.
    pub path: Option<Placed<String>>,
    /// Listener of health and metrics; the inner `None` is "off".
    pub admin: Option<Placed<Option<SocketAddr>>>,
    /// Further values of `Origin` that are served.
    pub allow_origins: Vec<Placed<String>>,
    /// Further values of `Host` that are served.
    pub allow_hosts: Vec<Placed<String>>,
    /// Whether HTTP+SSE is served.
    pub http_sse: Option<Placed<bool>>,
    /// Fields of [`Limits`](crate::settings::Limits), by name.
    pub limits: BTreeMap<&'static str, Placed<usize>>,
    /// Fields of [`Timeouts`](crate::settings::Timeouts), by name.
    pub timeouts: BTreeMap<&'static str, Placed<Duration>>,
    /// The servers.
    pub servers: Vec<ServerConfig>,
}

/// What is said about one server.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Its name.
    pub name: Placed<String>,
    /// The program to start.
    pub command: Option<Placed<Template>>,
    /// The program's arguments.
    pub args: Vec<Placed<Template>>,
    /// Variables set for the program.
    pub env: Vec<(Placed<String>, Template)>,
    /// Variables that the program inherits.
    pub pass_env: Vec<Placed<String>>,
    /// The program's working directory.
    pub cwd: Option<Placed<Template>>,
    /// The endpoint to connect to.
    pub url: Option<Placed<Template>>,
    /// Headers sent to the endpoint.
    pub headers: Vec<(Placed<String>, Template)>,
    /// The transport of the endpoint.
    pub transport: Option<Placed<HttpTransport>>,
    /// The era that the server speaks.
    pub era: Option<Placed<EraChoice>>,
    /// How many connections to it may exist at once.
    pub max_connections: Option<Placed<usize>>,
    /// Client headers that are passed on to the endpoint.
    pub forward_headers: Vec<Placed<String>>,
    /// Who has a connection in common.
    pub isolation: Option<Placed<Isolation>>,
    /// What becomes of a connection afterwards.
    pub reuse: Option<Placed<Reuse>>,
    /// See [`UpstreamSettings::bridge_reuse`].
    pub bridge_reuse: Option<Placed<BridgeReuse>>,
    /// See [`UpstreamSettings::bridge_structured`].
    pub bridge_structured: Option<Placed<Structured>>,
    /// How many children are kept started ahead.
    pub warm_spares: Option<Placed<usize>>,
    /// The header that says who a client is.
    pub principal_header: Option<Placed<String>>,
    /// What happens to a session whose connection is lost.
    pub on_crash: Option<Placed<OnCrash>>,
    /// The folder for its tapes.
    pub record: Option<Placed<Template>>,
    /// Which sides of the proxy are recorded.
    pub record_edges: Option<Placed<RecordEdges>>,
    /// What happens to what cannot be recorded.
    pub record_policy: Option<Placed<RecordPolicy>>,
    /// Whether its tapes are compressed.
    pub record_compress: Option<Placed<bool>>,
    /// Whether the usual secrets are taken out of what is recorded.
    pub redact_defaults: Option<Placed<bool>>,
    /// Names of further secrets.
    pub redact_keys: Vec<Placed<String>>,
    /// JSON pointers to further secrets.
    pub redact_pointers: Vec<Placed<String>>,
    /// Forms of further secrets.
    pub redact_patterns: Vec<Placed<String>>,
}

impl ServerConfig {
    /// A server of which only the name is known.
    #[must_use]
    pub fn named(name: Placed<String>) -> Self {
        ServerConfig {
            name,
            command: None,
            args: Vec::new(),
            env: Vec::new(),
            pass_env: Vec::new(),
            cwd: None,
            url: None,
            headers: Vec::new(),
            transport: None,
            era: None,
            max_connections: None,
            forward_headers: Vec::new(),
            isolation: None,
            reuse: None,
            bridge_reuse: None,
            bridge_structured: None,
            warm_spares: None,
            principal_header: None,
            on_crash: None,
            record: None,
            record_edges: None,
            record_policy: None,
            record_compress: None,
            redact_defaults: None,
            redact_keys: Vec::new(),
            redact_pointers: Vec::new(),
            redact_patterns: Vec::new(),
        }
    }
}

/// A text in which `${VAR}` is still to be expanded. It may hold a secret, so its `Debug` is redacted.
#[derive(Clone, PartialEq, Eq)]
pub struct Template(pub String);

impl Template {
    /// The template that expands to `text`, whatever is in it.
    #[must_use]
    pub fn literal(text: &str) -> Self {
        Template(expand::escape(text))
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Collects what files and the command line say, with all that is wrong with it.
#[derive(Debug, Default)]
pub struct Loader {
    config: Config,
    faults: Vec<Fault>,
    notes: Vec<Note>,
    /// The first file that was read.
    file: Option<String>,
}

/// Settings, and what the user should know about how they came to be.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// What was passed over.
    pub notes: Vec<Note>,
}

impl Loader {
    /// Reads a configuration file (TOML). Read it first: of what it says about the proxy itself, nothing is merged.
    pub fn toml_file(&mut self, path: &Path) {
        if let Some(text) = self.read(path) {
            self.toml(&path.to_string_lossy(), &text);
        }
    }

    /// Reads the text of a configuration file; `file` is its name for messages.
    pub fn toml(&mut self, file: &str, text: &str) {
        self.file.get_or_insert_with(|| file.to_owned());
        let mut config = file::read(&Source::new(file, text), &mut self.faults);
        let servers = std::mem::take(&mut config.servers);
        let earlier = std::mem::replace(&mut self.config, config);
        for server in earlier.servers.into_iter().chain(servers) {
            self.server(server);
        }
    }

    /// Reads an `mcpServers` file (JSON, comments and trailing commas allowed); its servers come in addition.
    pub fn mcp_json_file(&mut self, path: &Path) {
        if let Some(text) = self.read(path) {
            self.mcp_json(&path.to_string_lossy(), &text);
        }
    }

    /// Reads the text of an `mcpServers` file; `file` is its name for messages.
    pub fn mcp_json(&mut self, file: &str, text: &str) {
        self.file.get_or_insert_with(|| file.to_owned());
        let source = Source::new(file, text);
        for server in mcp_json::read(&source, &mut self.faults, &mut self.notes) {
            self.server(server);
        }
    }

    /// Adds a server; a second one of the same name is a fault.
    pub fn server(&mut self, server: ServerConfig) {
        let first = self.config.servers.iter().find(|other| other.name.value == server.name.value);
        if let Some(first) = first {
            self.faults.push(Fault {
                place: server.name.place,
                kind: FaultKind::Duplicate {
                    what: format!("the server `{}`", server.name.value),
                    first: first.name.place.clone(),
                },
            });
        } else {
            self.config.servers.push(server);
        }
    }

    /// Adds a fault that only the caller can see.
    pub fn fault(&mut self, place: Place, kind: FaultKind) {
        self.faults.push(Fault { place, kind });
    }

    /// What has been said so far, for the command line to override.
    pub fn config_mut(&mut self) -> &mut Config {
        &mut self.config
    }

    /// Checks everything and makes the settings. `variable` looks up the variables that texts refer to.
    ///
    /// # Errors
    ///
    /// All faults of all files and arguments.
    pub fn finish(mut self, variable: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Faults> {
        // With a fault, the server is perhaps there and could not be read.
        if self.config.servers.is_empty() && self.faults.is_empty() {
            let place = match &self.file {
                Some(file) => whole(file),
                None => Place::Argument("serve"),
            };
            self.fault(place, FaultKind::NoServer);
        }
        let settings = resolve::settings(&self.config, variable, &mut self.faults);
        self.notes.sort_by(|a, b| a.place.cmp(&b.place));
        match Faults::of(self.faults) {
            Some(faults) => Err(faults),
            None => Ok(Loaded { settings, notes: self.notes }),
        }
    }

    /// What was wrong so far, for a program that needs nothing else of this.
    ///
    /// # Errors
    ///
    /// All that was.
    pub fn check(self) -> Result<(), Faults> {
        Faults::of(self.faults).map_or(Ok(()), Err)
    }

    /// Checks one server, for a program that needs no more than that.
    ///
    /// # Errors
    ///
    /// All its faults.
    pub fn upstream(
        mut self,
        server: &ServerConfig,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<UpstreamSettings, Faults> {
        let upstream = resolve::upstream(server, variable, &mut self.faults);
        Faults::of(self.faults).map_or(Ok(upstream), Err)
    }

    fn read(&mut self, path: &Path) -> Option<String> {
        match std::fs::read_to_string(path) {
            Ok(text) => Some(text),
            Err(error) => {
                self.fault(whole(&path.to_string_lossy()), FaultKind::Unreadable(error));
                None
            }
        }
    }
}

/// A file as a whole.
fn whole(file: &str) -> Place {
    Place::File { file: file.into(), at: None, key: String::new() }
}
