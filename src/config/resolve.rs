//! From what was said to what the program runs on. This conversion is the only validation: whoever holds
//! [`Settings`] need not check them again.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use http::{HeaderName, HeaderValue, Uri};

use super::checks::{
    self, HEADER_VALUE, HOST, NAME, NO_NUL, NOT_EMPTY, ORIGIN, PATH, URL, VARIABLE, is_endpoint, is_host, is_origin,
    is_path, is_server_name, is_variable,
};
use super::expand::expand;
use super::fault::{Fault, FaultKind, Place, Placed};
use super::{Config, ServerConfig, Template, values};
use crate::settings::{
    HttpTarget, HttpTransport, Isolation, Limits, Record, Redact, Reuse, Secret, Settings, StdioTarget, Target,
    Timeouts, UpstreamSettings,
};
use crate::tape::redact::{Redactor, Rules};

/// Where the proxy listens if nothing is said.
const LISTEN: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 8080);

/// Waits that end inside others: the first, if given, must not be longer than the second, which would cut it short.
/// Nothing is wrong with a first that is only a default.
const NESTED: [(&str, &str); 8] = [
    ("body_idle", "body_total"),
    ("session_idle", "session_max_age"),
    ("probe", "start"),
    ("request", "request_max"),
    ("parked", "request_max"),
    ("drain", "shutdown"),
    ("reconnect_base", "reconnect_cap"),
    ("circuit_open", "circuit_open_max"),
];

/// Makes the settings. They are only good if no fault was added.
pub(crate) fn settings(
    config: &Config,
    variable: &dyn Fn(&str) -> Option<String>,
    faults: &mut Vec<Fault>,
) -> Settings {
    let mut resolver = Resolver { variable, faults };
    let listen = config.listen.as_ref().map_or(LISTEN.into(), |listen| listen.value);
    let settings = Settings {
        listen,
        path: resolver.path(config),
        admin: resolver.admin(config, listen),
        admin_required: config.admin.as_ref().is_some_and(|admin| admin.value.is_some()),
        allow_origins: resolver.checked(&config.allow_origins, ORIGIN, is_origin),
        allow_hosts: resolver.checked(&config.allow_hosts, HOST, is_host),
        http_sse: config.http_sse.as_ref().is_none_or(|flag| flag.value),
        upstreams: config.servers.iter().map(|server| resolver.upstream(server)).collect(),
        limits: limits(config),
        timeouts: resolver.timeouts(config),
        faults: None,
    };
    resolver.exposure(config, &settings);
    settings
}

/// Makes the settings of one server. They are only good if no fault was added.
pub(crate) fn upstream(
    server: &ServerConfig,
    variable: &dyn Fn(&str) -> Option<String>,
    faults: &mut Vec<Fault>,
) -> UpstreamSettings {
    Resolver { variable, faults }.upstream(server)
}

struct Resolver<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
    faults: &'a mut Vec<Fault>,
}

impl Resolver<'_> {
    fn fault(&mut self, place: &Place, kind: FaultKind) {
        self.faults.push(Fault { place: place.clone(), kind });
    }

    fn path(&mut self, config: &Config) -> String {
        let Some(given) = &config.path else {
            return "/mcp".to_owned();
        };
        let http_sse = config.http_sse.as_ref().is_none_or(|flag| flag.value);
        if !is_path(&given.value) {
            self.fault(&given.place, FaultKind::Malformed { expected: PATH });
        } else if http_sse && matches!(given.value.as_str(), "/sse" | "/messages") {
            let why = "HTTP+SSE is served there, unless it is switched off";
            self.fault(&given.place, FaultKind::DoesNotApply { why });
        }
        given.value.clone()
    }

    fn admin(&mut self, config: &Config, listen: SocketAddr) -> Option<SocketAddr> {
        let admin = config.admin.as_ref()?;
        if admin.value == Some(listen) && listen.port() != 0 {
            let expected = "another address than the one that clients connect to";
            self.fault(&admin.place, FaultKind::Malformed { expected });
        }
        admin.value
    }

    /// The texts, each of which must be what is expected.
    fn checked(&mut self, texts: &[Placed<String>], expected: &'static str, is: fn(&str) -> bool) -> Vec<String> {
        for text in texts.iter().filter(|text| !is(&text.value)) {
            self.fault(&text.place, FaultKind::Malformed { expected });
        }
        texts.iter().map(|text| text.value.clone()).collect()
    }

    fn timeouts(&mut self, config: &Config) -> Timeouts {
        let mut timeouts = Timeouts::default();
        for number in Timeouts::NUMBERS {
            if let Some(given) = config.timeouts.get(number.name) {
                *(number.slot)(&mut timeouts) = given.value;
            }
        }
        let value = |timeouts: &mut Timeouts, name| {
            let number = Timeouts::NUMBERS.iter().find(|number| number.name == name);
            number.map(|number| *(number.slot)(timeouts))
        };
        for (inner, outer) in NESTED {
            let (given, limit) = (config.timeouts.get(inner), value(&mut timeouts, outer));
            if let (Some(given), Some(limit)) = (given, limit)
                && given.value > limit
            {
                let kind = FaultKind::LongerThan {
                    value: values::show_duration(given.value),
                    other: outer,
                    limit: values::show_duration(limit),
                };
                self.fault(&given.place, kind);
            }
        }
        timeouts
    }

    /// Listening where others can connect must be meant, and is only safe with the `Host` values known: a web page
    /// can make its visitor's browser call any address under a name of its own.
    fn exposure(&mut self, config: &Config, settings: &Settings) {
        if let Some(listen) = &config.listen
            && !listen.value.ip().to_canonical().is_loopback()
            && settings.allow_hosts.is_empty()
        {
            self.fault(&listen.place, FaultKind::Exposed { address: listen.value });
        }
    }

    fn upstream(&mut self, server: &ServerConfig) -> UpstreamSettings {
        if !is_server_name(&server.name.value) {
            self.fault(&server.name.place, FaultKind::Malformed { expected: NAME });
        }
        self.misplaced(server);
        let target = match &server.url {
            Some(url) => Target::Http(HttpTarget {
                url: self.url(url),
                headers: self.headers(&server.headers),
                transport: server.transport.as_ref().map_or(HttpTransport::Auto, |it| it.value),
            }),
            None => Target::Stdio(self.stdio(server)),
        };
        let defaults = UpstreamSettings::new(&server.name.value, target);
        let isolation = server.isolation.as_ref().map_or(defaults.isolation, |it| it.value);
        let principal_header = server.principal_header.as_ref().and_then(|name| self.header_name(name));
        let upstream = UpstreamSettings {
            era: server.era.as_ref().map_or(defaults.era, |era| era.value),
            connections_max: server.max_connections.as_ref().map_or(defaults.connections_max, |n| n.value),
            forward_headers: self.forward_headers(server),
            isolation,
            reuse: server.reuse.as_ref().map_or(Reuse::usual(isolation), |it| it.value),
            bridge_reuse: server.bridge_reuse.as_ref().map_or(defaults.bridge_reuse, |it| it.value),
            bridge_structured: server.bridge_structured.as_ref().map_or(defaults.bridge_structured, |it| it.value),
            warm_spares: server.warm_spares.as_ref().map_or(defaults.warm_spares, |n| n.value),
            principal_header: principal_header.unwrap_or(defaults.principal_header),
            on_crash: server.on_crash.as_ref().map_or(defaults.on_crash, |it| it.value),
            record: self.record(server),
            name: defaults.name,
            target: defaults.target,
        };
        self.sharing(server, &upstream);
        upstream
    }

    /// How traffic is recorded, if it is.
    fn record(&mut self, server: &ServerConfig) -> Option<Record> {
        let texts = |texts: &[Placed<String>]| texts.iter().map(|text| text.value.clone()).collect();
        let redact = Redact {
            defaults: server.redact_defaults.as_ref().is_none_or(|flag| flag.value),
            keys: texts(&server.redact_keys),
            pointers: texts(&server.redact_pointers),
            patterns: texts(&server.redact_patterns),
        };
        for pattern in &server.redact_patterns {
            let rules = Rules { defaults: false, patterns: vec![pattern.value.clone()], ..Rules::default() };
            if Redactor::new(rules).is_err() {
                self.fault(&pattern.place, FaultKind::Malformed { expected: "a regular expression" });
            }
        }
        for pointer in &server.redact_pointers {
            let rules = Rules { defaults: false, pointers: vec![pointer.value.clone()], ..Rules::default() };
            if Redactor::new(rules).is_err() {
                self.fault(
                    &pointer.place,
                    FaultKind::Malformed { expected: "a JSON pointer such as /params/arguments/pin" },
                );
            }
        }
        let Some(folder) = &server.record else {
            let given = server.record_edges.as_ref().map(|it| &it.place);
            let given = given.or(server.record_policy.as_ref().map(|it| &it.place));
            let given = given.or(server.record_compress.as_ref().map(|it| &it.place));
            let given = given.or(server.redact_defaults.as_ref().map(|it| &it.place));
            let texts = [&server.redact_keys, &server.redact_pointers, &server.redact_patterns];
            let given = given.or(texts.into_iter().flatten().next().map(|it| &it.place));
            if let Some(place) = given {
                self.fault(place, FaultKind::DoesNotApply { why: "nothing is recorded: name a folder with `record`" });
            }
            return None;
        };
        let folder = self.filled(folder);
        let usual = Record::to(folder);
        Some(Record {
            edges: server.record_edges.as_ref().map_or(usual.edges, |it| it.value),
            policy: server.record_policy.as_ref().map_or(usual.policy, |it| it.value),
            compress: server.record_compress.as_ref().map_or(usual.compress, |it| it.value),
            redact,
            folder: usual.folder,
        })
    }

    /// What is said about connections that several use, at once or one after the other, must make sense together.
    fn sharing(&mut self, server: &ServerConfig, upstream: &UpstreamSettings) {
        // Where they do not apply at all, they have had their fault.
        let forwards = server.url.is_some() && !server.forward_headers.is_empty();
        if let Some(isolation) = &server.isolation
            && isolation.value != Isolation::Session
            && forwards
        {
            let why = "what the headers of one client say must not depend on who else uses the connection; use \
                       isolation \"session\", or forward no headers";
            self.fault(&isolation.place, FaultKind::Contradicts { other: "`forward_headers`", why });
        }
        if let Some(reuse) = &server.reuse {
            let shared = match upstream.isolation {
                Isolation::Shared => Some("isolation \"shared\""),
                Isolation::Principal => Some("isolation \"principal\""),
                Isolation::Session | Isolation::Request => None,
            };
            if let Some(other) = shared {
                let why = "no session gives its connection back, since others use it as well; leave `reuse` out, or \
                           use isolation \"session\" or \"request\"";
                self.fault(&reuse.place, FaultKind::Contradicts { other, why });
            }
            if reuse.value != Reuse::Never && forwards {
                let why = "a connection that was opened with the headers of one session must not serve the next, \
                           which may have others; leave `reuse` out, or forward no headers";
                self.fault(&reuse.place, FaultKind::Contradicts { other: "`forward_headers`", why });
            }
        }
        match &server.warm_spares {
            Some(spares) if spares.value > 0 && server.url.is_some() => {
                let why = "sessions with a server that has a `url` need no process to be started; leave it out";
                self.fault(&spares.place, FaultKind::DoesNotApply { why });
            }
            Some(spares)
                if spares.value > upstream.connections_max
                    && !self.has_faulty(&server.name.place, &["max_connections"]) =>
            {
                let (value, limit) = (spares.value, upstream.connections_max);
                self.fault(&spares.place, FaultKind::MoreThan { value, other: "max_connections", limit });
            }
            _ => {}
        }
    }

    /// What is said about the kind of server that this one is not.
    fn misplaced(&mut self, server: &ServerConfig) {
        let command = server.command.iter().map(|it| &it.place);
        let args = server.args.first().map(|it| &it.place);
        let env = server.env.first().map(|(key, _)| &key.place);
        let pass_env = server.pass_env.first().map(|it| &it.place);
        let cwd = server.cwd.as_ref().map(|it| &it.place);
        let headers = server.headers.first().map(|(key, _)| &key.place);
        let transport = server.transport.as_ref().map(|it| &it.place);
        let forward = server.forward_headers.first().map(|it| &it.place);
        let (places, why): (Vec<&Place>, _) = match (&server.command, &server.url) {
            (None, None) => {
                if !self.has_faulty(&server.name.place, &["command", "url"]) {
                    self.fault(&server.name.place, FaultKind::NoTarget);
                }
                return;
            }
            (Some(_), None) => (
                headers.into_iter().chain(transport).chain(forward).collect(),
                "it is for a server with a `url`, and this one has a `command`",
            ),
            (_, Some(_)) => (
                command.chain(args).chain(env).chain(pass_env).chain(cwd).collect(),
                "it is for a server with a `command`, and this one has a `url`",
            ),
        };
        for place in places {
            self.fault(place, FaultKind::DoesNotApply { why });
        }
    }

    /// Whether the server at `place` has one of the keys, and it could not be read, or was misspelt. It is not missing,
    /// then.
    fn has_faulty(&self, place: &Place, keys: &[&str]) -> bool {
        let is_meant = |key: &str| keys.contains(&key);
        self.faults.iter().any(|fault| {
            fault.place.key_under(place).is_some_and(|key| match &fault.kind {
                FaultKind::UnknownKey { suggestion } => suggestion.as_deref().is_some_and(is_meant),
                _ => is_meant(key),
            })
        })
    }

    fn stdio(&mut self, server: &ServerConfig) -> StdioTarget {
        let command = server.command.as_ref();
        StdioTarget {
            program: command.map(|it| self.filled(it)).unwrap_or_default(),
            args: server.args.iter().map(|arg| self.text(&arg.value, &arg.place)).collect(),
            env: self.env(&server.env),
            pass_env: self.checked(&server.pass_env, VARIABLE, is_variable),
            cwd: server.cwd.as_ref().map(|cwd| PathBuf::from(self.filled(cwd))),
        }
    }

    fn env(&mut self, given: &[(Placed<String>, Template)]) -> Vec<(String, Secret)> {
        let mut env: Vec<(String, Secret)> = Vec::new();
        for (index, (name, value)) in given.iter().enumerate() {
            if !is_variable(&name.value) {
                self.fault(&name.place, FaultKind::Malformed { expected: VARIABLE });
            }
            self.once("the variable", name, &given[..index], |a, b| a == b);
            env.push((name.value.clone(), Secret(self.text(value, &name.place))));
        }
        env
    }

    fn headers(&mut self, given: &[(Placed<String>, Template)]) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = Vec::new();
        for (index, (name, value)) in given.iter().enumerate() {
            self.once("the header", name, &given[..index], str::eq_ignore_ascii_case);
            let header = self.header_name(name);
            let text = self.text(value, &name.place);
            match HeaderValue::from_str(&text) {
                Ok(mut value) => {
                    value.set_sensitive(true);
                    headers.extend(header.map(|header| (header, value)));
                }
                Err(_) => self.fault(&name.place, FaultKind::Malformed { expected: HEADER_VALUE }),
            }
        }
        headers
    }

    fn once(
        &mut self,
        what: &str,
        name: &Placed<String>,
        before: &[(Placed<String>, Template)],
        same: fn(&str, &str) -> bool,
    ) {
        if let Some((first, _)) = before.iter().find(|(first, _)| same(&first.value, &name.value)) {
            let what = format!("{what} `{}`", name.value);
            self.fault(&name.place, FaultKind::Duplicate { what, first: first.place.clone() });
        }
    }

    fn forward_headers(&mut self, server: &ServerConfig) -> Vec<HeaderName> {
        let mut forward = Vec::new();
        for name in &server.forward_headers {
            // Otherwise clients could replace what the configuration has fixed.
            if server.headers.iter().any(|(set, _)| set.value.eq_ignore_ascii_case(&name.value)) {
                let why = "`headers` sets this header, so clients cannot";
                self.fault(&name.place, FaultKind::DoesNotApply { why });
            }
            forward.extend(self.header_name(name));
        }
        forward
    }

    fn header_name(&mut self, name: &Placed<String>) -> Option<HeaderName> {
        match checks::header_name(&name.value) {
            Ok(name) => Some(name),
            Err(kind) => {
                self.fault(&name.place, kind);
                None
            }
        }
    }

    fn url(&mut self, url: &Placed<Template>) -> Uri {
        let faults = self.faults.len();
        let text = self.text(&url.value, &url.place);
        match text.parse::<Uri>() {
            Ok(uri) if is_endpoint(&uri) => uri,
            _ => {
                // What could not be expanded has had its fault.
                if self.faults.len() == faults {
                    self.fault(&url.place, FaultKind::Malformed { expected: URL });
                }
                Uri::default()
            }
        }
    }

    /// The text with its variables filled in, which may not be empty.
    fn filled(&mut self, template: &Placed<Template>) -> String {
        let faults = self.faults.len();
        let text = self.text(&template.value, &template.place);
        if text.is_empty() && self.faults.len() == faults {
            self.fault(&template.place, FaultKind::Malformed { expected: NOT_EMPTY });
        }
        text
    }

    /// The text with its variables filled in. No text of ours may have a NUL: the operating system would end it there.
    fn text(&mut self, template: &Template, place: &Place) -> String {
        match expand(&template.0, self.variable) {
            Ok(text) => {
                if text.contains('\0') {
                    self.fault(place, FaultKind::Malformed { expected: NO_NUL });
                }
                text
            }
            Err(faults) => {
                for kind in faults {
                    self.fault(place, kind);
                }
                String::new()
            }
        }
    }
}

fn limits(config: &Config) -> Limits {
    let mut limits = Limits::default();
    for number in Limits::NUMBERS {
        if let Some(given) = config.limits.get(number.name) {
            *(number.slot)(&mut limits) = given.value;
        }
    }
    limits
}
