//! What the arguments of `serve` and `connect` mean: they are laid over the files, and both are checked together.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use super::args::{Admin, ChildArgs, ConnectArgs, HeaderArgs, RecordArgs, ServeArgs};
use crate::config::{Config, FaultKind, Faults, Loaded, Loader, Place, Placed, ServerConfig, Template};
use crate::faults::Plan;
use crate::settings::{
    BridgeReuse, EraChoice, HttpTransport, Isolation, RecordEdges, RecordPolicy, Reuse, Settings, Structured, Target,
    UpstreamSettings,
};

/// Where health and metrics are served if nothing is said: the port that Prometheus exporters of this kind use.
const ADMIN: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9464);

impl ServeArgs {
    /// The settings that the files and arguments make. `own_program` is what to start for the demo server, `variable`
    /// looks up environment variables.
    ///
    /// # Errors
    ///
    /// All faults of all files and arguments.
    pub fn load(&self, own_program: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Faults> {
        let mut loader = Loader::default();
        if let Some(path) = &self.config {
            loader.toml_file(path);
        }
        if let Some(path) = &self.mcp_json {
            loader.mcp_json_file(path);
        }
        if self.names_server() {
            let server = self.server(own_program, &mut loader);
            loader.server(server);
        } else {
            self.refuse_server_options(&mut loader);
        }
        self.overlay(loader.config_mut());
        let faults = self.faults.as_deref().and_then(|path| faults(path, &mut loader));
        let admin_said = loader.config_mut().admin.is_some();
        let mut loaded = loader.finish(variable)?;
        let settings = &mut loaded.settings;
        settings.faults = faults;
        let admin = SocketAddr::from(ADMIN);
        // A default yields to what was asked for.
        if !admin_said && settings.listen.port() != admin.port() {
            settings.admin = Some(admin);
        }
        Ok(loaded)
    }

    /// Whether the arguments (or their silence) name a server themselves.
    fn names_server(&self) -> bool {
        let no_file = self.config.is_none() && self.mcp_json.is_none();
        !self.command.is_empty() || self.upstream.is_some() || no_file
    }

    /// The server that the arguments name.
    fn server(&self, own_program: &str, loader: &mut Loader) -> ServerConfig {
        let name = self.name.as_deref();
        let mut server;
        if let Some(url) = &self.upstream {
            server = named(name.unwrap_or("main"));
            server.url = Some(placed("--upstream", Template(url.clone())));
        } else if let [program, args @ ..] = self.command.as_slice() {
            // A command comes from a shell, which has expanded what was to be expanded: `sh -c 'echo ${HOME}'` is
            // meant as it stands.
            server = named(name.unwrap_or("main"));
            runs(&mut server, program, args);
        } else {
            server = named(name.unwrap_or("demo"));
            runs(&mut server, own_program, &["fake", "stdio"]);
        }
        self.child.overlay(&mut server, loader);
        server.headers = headers(&self.headers.headers, loader);
        server.transport = self.transport.map(|value| placed("--transport", value));
        server.era = self.era.map(|value| placed("--era", value));
        server.max_connections = self.max_connections.map(|n| placed("--max-connections", n));
        server.forward_headers = all("--forward-header", &self.forward_headers);
        server.isolation = self.isolation.map(|value| placed("--isolation", value));
        server.reuse = self.reuse.map(|value| placed("--reuse", value));
        server.bridge_reuse = self.bridge_reuse.map(|value| placed("--bridge-reuse", value));
        server.bridge_structured = self.bridge_structured.map(|value| placed("--bridge-structured", value));
        server.warm_spares = self.warm_spares.map(|n| placed("--warm-spares", n));
        server.principal_header = self.principal_header.as_ref().map(|it| placed("--principal-header", it.clone()));
        server.on_crash = self.on_crash.map(|value| placed("--on-crash", value));
        server
    }

    /// What is said about a server, where all servers come from files, is said about none of them.
    fn refuse_server_options(&self, loader: &mut Loader) {
        let given = [
            ("--name", self.name.is_some()),
            ("--transport", self.transport.is_some()),
            ("--header", !self.headers.headers.is_empty()),
            ("--env", !self.child.env.is_empty()),
            ("--pass-env", !self.child.pass_env.is_empty()),
            ("--cwd", self.child.cwd.is_some()),
            ("--era", self.era.is_some()),
            ("--max-connections", self.max_connections.is_some()),
            ("--forward-header", !self.forward_headers.is_empty()),
            ("--isolation", self.isolation.is_some()),
            ("--reuse", self.reuse.is_some()),
            ("--bridge-reuse", self.bridge_reuse.is_some()),
            ("--bridge-structured", self.bridge_structured.is_some()),
            ("--warm-spares", self.warm_spares.is_some()),
            ("--principal-header", self.principal_header.is_some()),
            ("--on-crash", self.on_crash.is_some()),
        ];
        for (argument, _) in given.into_iter().filter(|(_, given)| *given) {
            let why = "it is about the server that COMMAND or --upstream gives; for others, set it in the file";
            loader.fault(Place::Argument(argument), FaultKind::DoesNotApply { why });
        }
    }

    /// Lays what is said about the proxy itself over what the file says; lists are added to.
    fn overlay(&self, config: &mut Config) {
        if let Some(listen) = self.listen {
            config.listen = Some(placed("--listen", listen));
        }
        if let Some(path) = &self.path {
            config.path = Some(placed("--path", path.clone()));
        }
        if let Some(admin) = self.admin {
            let address = match admin {
                Admin::At(address) => Some(address),
                Admin::Off => None,
            };
            config.admin = Some(placed("--admin", address));
        }
        if self.no_http_sse {
            config.http_sse = Some(placed("--no-http-sse", false));
        }
        for server in config.servers.iter_mut().filter(|server| server.record.is_none()) {
            self.record.overlay(server);
        }
        config.allow_origins.extend(all("--allow-origin", &self.allow_origins));
        config.allow_hosts.extend(all("--allow-host", &self.allow_hosts));
        if let Some(request) = self.request_timeout {
            let given = placed("--request-timeout", request);
            // The default of the outer limit is not meant against someone who asks for more.
            let outer_default = crate::settings::Timeouts::default().request_max;
            if request > outer_default {
                config.timeouts.entry("request_max").or_insert_with(|| given.clone());
            }
            config.timeouts.insert("request", given);
        }
    }
}

/// The server is this program.
fn runs(server: &mut ServerConfig, program: &str, args: &[impl AsRef<str>]) {
    server.command = Some(placed("COMMAND", Template::literal(program)));
    server.args = args.iter().map(|arg| placed("COMMAND", Template::literal(arg.as_ref()))).collect();
}

impl ChildArgs {
    fn overlay(&self, server: &mut ServerConfig, loader: &mut Loader) {
        server.env = pairs("--env", &self.env, '=', "`NAME=VALUE`", loader);
        server.pass_env = all("--pass-env", &self.pass_env);
        server.cwd = self.cwd.as_deref().map(|cwd| placed("--cwd", Template::literal(cwd)));
    }

    /// A server that is this program, if there is a command; what else it may be is for the caller to say.
    pub(super) fn server(&self, name: &str, command: &[String], loader: &mut Loader) -> ServerConfig {
        let mut server = named(name);
        if let [program, args @ ..] = command {
            runs(&mut server, program, args);
        }
        self.overlay(&mut server, loader);
        server
    }
}

impl HeaderArgs {
    /// The server is the one at this URL, which `argument` gave.
    pub(super) fn overlay(
        &self,
        server: &mut ServerConfig,
        argument: &'static str,
        url: &str,
        transport: Option<HttpTransport>,
        loader: &mut Loader,
    ) {
        server.url = Some(placed(argument, Template(url.to_owned())));
        server.headers = headers(&self.headers, loader);
        server.transport = transport.map(|value| placed("--transport", value));
    }
}

/// The plan in a file.
pub(super) fn faults(path: &Path, loader: &mut Loader) -> Option<Plan> {
    let place = Place::Argument("--faults");
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            loader.fault(place, FaultKind::Unreadable(error));
            return None;
        }
    };
    Plan::from_json(&text).map_err(|error| loader.fault(place, FaultKind::Syntax(error.to_string()))).ok()
}

impl RecordArgs {
    /// Lays what is said about recording over what is known of a server.
    fn overlay(&self, server: &mut ServerConfig) {
        let Some(folder) = &self.record else { return };
        server.record = Some(placed("--record", Template::literal(folder)));
        server.record_edges =
            self.record_edges.map(|value| placed("--record-edges", value)).or(server.record_edges.take());
        server.record_policy =
            self.record_policy.map(|value| placed("--record-policy", value)).or(server.record_policy.take());
        if self.record_compress {
            server.record_compress = Some(placed("--record-compress", true));
        }
        if self.no_redact_defaults {
            server.redact_defaults = Some(placed("--no-redact-defaults", false));
        }
        server.redact_keys.extend(all("--redact-key", &self.redact_keys));
        server.redact_pointers.extend(all("--redact-pointer", &self.redact_pointers));
        server.redact_patterns.extend(all("--redact-pattern", &self.redact_patterns));
    }
}

impl ConnectArgs {
    /// The server to connect to. `variable` looks up environment variables.
    ///
    /// # Errors
    ///
    /// All faults of the arguments.
    pub fn load(&self, variable: &dyn Fn(&str) -> Option<String>) -> Result<UpstreamSettings, Faults> {
        let mut loader = Loader::default();
        let mut server = named("main");
        server.url = Some(placed("URL", Template(self.url.clone())));
        server.headers = headers(&self.headers.headers, &mut loader);
        server.transport = self.transport.map(|value| placed("--transport", value));
        server.era = self.era.map(|value| placed("--era", value));
        self.record.overlay(&mut server);
        loader.upstream(&server, variable)
    }
}

pub(super) fn placed<T>(argument: &'static str, value: T) -> Placed<T> {
    Placed { value, place: Place::Argument(argument) }
}

pub(super) fn named(name: &str) -> ServerConfig {
    ServerConfig::named(placed("--name", name.to_owned()))
}

pub(super) fn all(argument: &'static str, values: &[String]) -> Vec<Placed<String>> {
    values.iter().map(|value| placed(argument, value.clone())).collect()
}

pub(super) fn headers(given: &[String], loader: &mut Loader) -> Vec<(Placed<String>, Template)> {
    let mut headers = pairs("--header", given, ':', "`NAME: VALUE`", loader);
    for (name, value) in &mut headers {
        name.value = name.value.trim_end().to_owned();
        value.0 = value.0.trim().to_owned();
    }
    headers
}

/// Splits what is written as `NAME=VALUE` or the like.
pub(super) fn pairs(
    argument: &'static str,
    given: &[String],
    separator: char,
    expected: &'static str,
    loader: &mut Loader,
) -> Vec<(Placed<String>, Template)> {
    let mut pairs = Vec::new();
    for text in given {
        match text.split_once(separator) {
            Some((name, value)) => {
                pairs.push((placed(argument, name.to_owned()), Template(value.to_owned())));
            }
            None => loader.fault(Place::Argument(argument), FaultKind::Malformed { expected }),
        }
    }
    pairs
}

/// What would be served, for people. It shows no secret: of variables and headers the names, of arguments the number.
pub(crate) struct Summary<'a>(pub(crate) &'a Settings);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = self.0;
        let http_sse = if settings.http_sse { ", HTTP+SSE too" } else { "" };
        writeln!(f, "listen  {}, path {}{http_sse}", settings.listen, settings.path)?;
        match settings.admin {
            Some(admin) => writeln!(f, "admin   {admin}")?,
            None => writeln!(f, "admin   off")?,
        }
        if let Some(plan) = &settings.faults {
            writeln!(f, "faults  {}", plan.faults.len())?;
        }
        for (what, values) in [("hosts", &settings.allow_hosts), ("origins", &settings.allow_origins)] {
            if !values.is_empty() {
                writeln!(f, "{what:7} {}", values.join(", "))?;
            }
        }
        settings.upstreams.iter().try_for_each(|upstream| server(f, upstream))
    }
}

fn server(f: &mut fmt::Formatter<'_>, upstream: &UpstreamSettings) -> fmt::Result {
    write!(f, "server  {}: ", upstream.name)?;
    match &upstream.target {
        Target::Stdio(target) => {
            write!(f, "starts {}", target.program)?;
            match target.args.len() {
                0 => {}
                1 => f.write_str(" with 1 argument")?,
                n => write!(f, " with {n} arguments")?,
            }
            if let Some(cwd) = &target.cwd {
                write!(f, " in {}", cwd.display())?;
            }
            list(f, "env", target.env.iter().map(|(name, _)| name.as_str()))?;
            list(f, "inherits", target.pass_env.iter().map(String::as_str))?;
        }
        Target::Http(target) => {
            let transport = name_of(&HttpTransport::NAMED, target.transport);
            write!(f, "connects to {}, transport {transport}", target.shown_url())?;
            list(f, "headers", target.headers.iter().map(|(name, _)| name.as_str()))?;
        }
        Target::Tape(_) => f.write_str("replays a tape")?,
    }
    if let Some(record) = &upstream.record {
        let (edges, policy) =
            (name_of(&RecordEdges::NAMED, record.edges), name_of(&RecordPolicy::NAMED, record.policy));
        write!(f, ", records {edges} to {} (policy {policy})", record.folder.display())?;
    }
    list(f, "forwards", upstream.forward_headers.iter().map(|name| name.as_str()))?;
    let era = name_of(&EraChoice::NAMED, upstream.era);
    let isolation = name_of(&Isolation::NAMED, upstream.isolation);
    write!(f, ", era {era}, at most {} at once, isolation {isolation}", upstream.connections_max)?;
    if upstream.reuse != Reuse::usual(upstream.isolation) {
        write!(f, ", reuse {}", name_of(&Reuse::NAMED, upstream.reuse))?;
    }
    if upstream.bridge_reuse != BridgeReuse::SamePrincipal {
        write!(f, ", bridge reuse {}", name_of(&BridgeReuse::NAMED, upstream.bridge_reuse))?;
    }
    if upstream.bridge_structured != Structured::Omit {
        write!(f, ", bridge structured {}", name_of(&Structured::NAMED, upstream.bridge_structured))?;
    }
    match upstream.warm_spares {
        0 => writeln!(f),
        1 => writeln!(f, ", 1 warm spare"),
        n => writeln!(f, ", {n} warm spares"),
    }
}

/// What a choice is called.
fn name_of<V: PartialEq>(choices: &[(&'static str, V)], value: V) -> &'static str {
    choices.iter().find(|(_, choice)| *choice == value).map_or("", |(name, _)| name)
}

fn list<'a>(f: &mut fmt::Formatter<'_>, what: &str, names: impl Iterator<Item = &'a str>) -> fmt::Result {
    let names: Vec<&str> = names.collect();
    if names.is_empty() { Ok(()) } else { write!(f, ", {what} {}", names.join(" ")) }
}
