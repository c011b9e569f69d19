//! What a configuration means, and what is said about a faulty one.

use proptest::prelude::*;

use super::*;
use crate::settings::{HttpTarget, Limits, StdioTarget, Target, Timeouts};

mod mcp_json;
mod schema;

/// The environment of these tests.
fn variable(name: &str) -> Option<String> {
    let value = match name {
        "TOKEN" => "hunter2",
        "EMPTY" => "",
        "NASTY" => "${TOKEN}",
        _ => return None,
    };
    Some(value.to_owned())
}

/// Reads the text of a configuration file.
fn load(text: &str) -> Result<Settings, Faults> {
    let mut loader = Loader::default();
    loader.toml("shadowcat.toml", text);
    loader.finish(&variable).map(|loaded| loaded.settings)
}

/// The faults of a text, one per line.
fn faults(text: &str) -> String {
    match load(text) {
        Ok(settings) => panic!("no fault in {text}: {settings:?}"),
        Err(faults) => faults.to_string(),
    }
}

/// A text with one good server and a line at its top.
fn with_server(line: &str) -> String {
    format!("{line}\n[servers.fs]\ncommand = \"fs\"")
}

fn stdio(settings: &Settings) -> &StdioTarget {
    match &settings.upstreams[0].target {
        Target::Stdio(target) => target,
        other => panic!("expected a program, got {other:?}"),
    }
}

fn http(settings: &Settings) -> &HttpTarget {
    match &settings.upstreams[0].target {
        Target::Http(target) => target,
        other => panic!("expected a URL, got {other:?}"),
    }
}

const EVERYTHING: &str = r#"
    listen = "0.0.0.0:9000"
    path = "/my/mcp"
    admin = "localhost:9001"
    allow_origins = ["https://app.example"]
    allow_hosts = ["mcp.example", "mcp.example:9000"]
    http_sse = false

    [limits]
    body_bytes = "8 MiB"
    message_bytes = 65536
    sessions = 10
    crashes = 3

    [timeouts]
    request = "90s"
    drain = "1m 30s"
    shutdown = "2m"
    crash_window = "10m"

    [servers.web]
    url = "https://example.com/mcp?key=${TOKEN}"
    headers = { Authorization = "Bearer ${TOKEN}" }
    transport = "streamable-http"
    era = "modern"
    max_connections = 3
    forward_headers = ["X-Request-Id"]
    on_crash = "end-session"

    [servers.fs]
    command = "npx"
    args = ["-y", "--token=${TOKEN}", "${UNSET:-/tmp}", "$${HOME}"]
    env = { KEY = "${TOKEN}" }
    pass_env = ["SSH_AUTH_SOCK"]
    cwd = "/srv"
    era = "legacy"
    max_connections = 9
    isolation = "session"
    reuse = "same-principal"
    warm_spares = 9
    principal_header = "X-User"
    record = "/var/${UNSET:-tapes}"
    record_edges = "both"
    record_policy = "required"
    record_compress = true
    redact_defaults = false
    redact_keys = ["*pin*"]
    redact_pointers = ["/params/arguments/pin"]
    redact_patterns = ["[0-9]{16}"]
"#;

#[test]
fn everything_that_can_be_said_arrives() {
    let settings = load(EVERYTHING).unwrap();
    assert_eq!(settings.listen, "0.0.0.0:9000".parse().unwrap());
    assert_eq!(settings.path, "/my/mcp");
    assert_eq!(settings.admin, Some("127.0.0.1:9001".parse().unwrap()));
    assert!(settings.admin_required);
    assert_eq!(settings.allow_origins, ["https://app.example"]);
    assert_eq!(settings.allow_hosts, ["mcp.example", "mcp.example:9000"]);
    assert!(!settings.http_sse);
    assert_eq!(settings.limits.body_bytes, 8 << 20);
    assert_eq!(settings.limits.message_bytes, 65_536);
    assert_eq!(settings.limits.sessions, 10);
    assert_eq!(settings.limits.queue, Limits::default().queue);
    assert_eq!(settings.timeouts.request, Duration::from_secs(90));
    assert_eq!(settings.timeouts.drain, Duration::from_secs(90));
    assert_eq!((settings.limits.crashes, settings.timeouts.crash_window.as_secs()), (3, 600));

    // The order is the file's, not the alphabet's.
    let names: Vec<&str> = settings.upstreams.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["web", "fs"]);
    let web = &settings.upstreams[0];
    assert_eq!(http(&settings).url, "https://example.com/mcp?key=hunter2");
    assert_eq!(http(&settings).headers[0].0, "authorization");
    assert_eq!(http(&settings).headers[0].1, "Bearer hunter2");
    assert!(http(&settings).headers[0].1.is_sensitive());
    assert_eq!(http(&settings).transport, HttpTransport::Streamable);
    assert_eq!(web.era, EraChoice::Modern);
    assert_eq!(web.connections_max, 3);
    assert_eq!(web.forward_headers, ["x-request-id"]);
    assert_eq!((web.isolation, web.reuse, web.warm_spares), (Isolation::Session, Reuse::Never, 0));
    assert_eq!((&web.principal_header, web.on_crash), (&http::header::AUTHORIZATION, OnCrash::EndSession));

    let Target::Stdio(fs) = &settings.upstreams[1].target else { panic!("not a program") };
    assert_eq!(fs.program, "npx");
    assert_eq!(fs.args, ["-y", "--token=hunter2", "/tmp", "${HOME}"]);
    assert_eq!(fs.env[0].0, "KEY");
    assert_eq!(fs.env[0].1.0, "hunter2");
    assert_eq!(fs.pass_env, ["SSH_AUTH_SOCK"]);
    assert_eq!(fs.cwd.as_deref(), Some(Path::new("/srv")));
    let fs = &settings.upstreams[1];
    assert_eq!((fs.isolation, fs.reuse), (Isolation::Session, Reuse::SamePrincipal));
    assert_eq!((fs.connections_max, fs.warm_spares), (9, 9));
    assert_eq!((fs.principal_header.as_str(), fs.on_crash), ("x-user", OnCrash::Reinitialize));
    assert!(web.record.is_none());
    let record = fs.record.as_ref().unwrap();
    assert_eq!(record.folder, Path::new("/var/tapes"));
    assert_eq!((record.edges, record.policy, record.compress), (RecordEdges::Both, RecordPolicy::Required, true));
    let redact = &record.redact;
    assert!(!redact.defaults);
    assert_eq!((&redact.keys[..], &redact.patterns[..]), (&["*pin*".to_owned()][..], &["[0-9]{16}".to_owned()][..]));
    assert_eq!(redact.pointers, ["/params/arguments/pin"]);
}

#[test]
fn rules_of_recording_must_make_sense() {
    let server = |keys: &str| load(&format!("[servers.s]\ncommand = \"x\"\n{keys}"));
    let fault = |keys: &str| server(keys).unwrap_err().to_string();
    let refused = fault("record = \"t\"\nredact_patterns = [\"(\"]\nredact_pointers = [\"nowhere\"]");
    assert!(refused.contains("servers.s.redact_patterns[0]: expected a regular expression"), "{refused}");
    assert!(refused.contains("servers.s.redact_pointers[0]: expected a JSON pointer"), "{refused}");
    for keys in
        ["record_edges = \"both\"", "record_policy = \"drop\"", "record_compress = true", "redact_keys = [\"x\"]"]
    {
        assert!(fault(keys).contains("nothing is recorded: name a folder with `record`"), "{keys}");
    }
    assert!(fault("record = \"\"").contains("servers.s.record"));
}

#[test]
fn what_is_not_said_has_its_default() {
    let settings = load(&with_server("")).unwrap();
    assert_eq!(settings.listen, "127.0.0.1:8080".parse().unwrap());
    assert_eq!(settings.path, "/mcp");
    assert_eq!(settings.admin, None);
    assert!(settings.http_sse);
    assert_eq!(stdio(&settings).program, "fs");
    let fs = &settings.upstreams[0];
    assert_eq!((fs.era, fs.connections_max), (EraChoice::Auto, 64));
    assert_eq!((fs.isolation, fs.reuse, fs.warm_spares), (Isolation::Session, Reuse::Never, 0));
    assert_eq!((&fs.principal_header, fs.on_crash), (&http::header::AUTHORIZATION, OnCrash::Reinitialize));
    let settings = load("servers.web.url = 'http://h'").unwrap();
    assert_eq!(settings.upstreams[0].connections_max, 1_000);
}

/// To use connections again is what isolation by request is about.
#[test]
fn only_isolation_by_request_uses_connections_again_by_itself() {
    for (keys, isolation, reuse) in [
        ("", Isolation::Session, Reuse::Never),
        ("reuse = 'any'", Isolation::Session, Reuse::Any),
        ("isolation = 'shared'", Isolation::Shared, Reuse::Never),
        ("isolation = 'principal'", Isolation::Principal, Reuse::Never),
        ("isolation = 'request'", Isolation::Request, Reuse::Any),
        ("isolation = 'request'\nreuse = 'same-principal'", Isolation::Request, Reuse::SamePrincipal),
        ("isolation = 'request'\nreuse = 'never'", Isolation::Request, Reuse::Never),
    ] {
        let settings = load(&format!("{}\n{keys}", with_server(""))).unwrap();
        assert_eq!((settings.upstreams[0].isolation, settings.upstreams[0].reuse), (isolation, reuse), "{keys}");
    }
}

/// Each says what to do instead, and no fault hides another.
#[test]
fn sharing_that_makes_no_sense_is_refused() {
    let text = r#"
[servers.a]
url = "http://h"
forward_headers = ["authorization"]
isolation = "shared"
reuse = "any"
warm_spares = 1

[servers.b]
url = "http://h"
forward_headers = ["authorization"]
reuse = "same-principal"

[servers.c]
url = "http://h"
forward_headers = ["authorization"]
isolation = "request"

[servers.d]
command = "x"
isolation = "principal"
reuse = "never"
max_connections = 3
warm_spares = 4
principal_header = "Mcp-Session-Id"

[servers.e]
command = "x"
forward_headers = ["authorization"]
isolation = "share"
reuse = "same-prinzipal"
warm_spares = 1001
principal_header = "a b"
on_crash = "endsession"

[servers.f]
command = "x"
warm_spares = 65
"#;
    insta::assert_snapshot!(faults(text), @r#"
        shadowcat.toml:5:13: servers.a.isolation: does not go together with `forward_headers`: what the headers of one client say must not depend on who else uses the connection; use isolation "session", or forward no headers
        shadowcat.toml:6:9: servers.a.reuse: does not go together with isolation "shared": no session gives its connection back, since others use it as well; leave `reuse` out, or use isolation "session" or "request"
        shadowcat.toml:6:9: servers.a.reuse: does not go together with `forward_headers`: a connection that was opened with the headers of one session must not serve the next, which may have others; leave `reuse` out, or forward no headers
        shadowcat.toml:7:15: servers.a.warm_spares: does not apply: sessions with a server that has a `url` need no process to be started; leave it out
        shadowcat.toml:12:9: servers.b.reuse: does not go together with `forward_headers`: a connection that was opened with the headers of one session must not serve the next, which may have others; leave `reuse` out, or forward no headers
        shadowcat.toml:17:13: servers.c.isolation: does not go together with `forward_headers`: what the headers of one client say must not depend on who else uses the connection; use isolation "session", or forward no headers
        shadowcat.toml:22:9: servers.d.reuse: does not go together with isolation "principal": no session gives its connection back, since others use it as well; leave `reuse` out, or use isolation "session" or "request"
        shadowcat.toml:24:15: servers.d.warm_spares: is 4, more than `max_connections`, which is 3: lower the one or raise the other
        shadowcat.toml:25:20: servers.d.principal_header: the header `mcp-session-id` is the proxy's own
        shadowcat.toml:29:20: servers.e.forward_headers[0]: does not apply: it is for a server with a `url`, and this one has a `command`
        shadowcat.toml:30:13: servers.e.isolation: `share` is none of `session`, `shared`, `principal`, `request`; did you mean `shared`?
        shadowcat.toml:31:9: servers.e.reuse: `same-prinzipal` is none of `never`, `same-principal`, `any`; did you mean `same-principal`?
        shadowcat.toml:32:15: servers.e.warm_spares: must be from 0 to 1000, is 1001
        shadowcat.toml:33:20: servers.e.principal_header: expected the name of a header
        shadowcat.toml:34:12: servers.e.on_crash: `endsession` is none of `reinitialize`, `end-session`; did you mean `end-session`?
        shadowcat.toml:38:15: servers.f.warm_spares: is 65, more than `max_connections`, which is 64: lower the one or raise the other
        "#);
}

#[test]
fn sharing_that_makes_sense_is_taken() {
    for keys in [
        "url = 'http://h', forward_headers = ['a'], isolation = 'session', reuse = 'never', warm_spares = 0",
        "url = 'http://h', isolation = 'request', reuse = 'any'",
        "url = 'http://h', isolation = 'shared'",
        "url = 'http://h', isolation = 'principal', principal_header = 'x-user'",
        "command = 'x', isolation = 'shared', warm_spares = 1",
        "command = 'x', isolation = 'principal', warm_spares = 1",
        "command = 'x', warm_spares = 64",
        "command = 'x', warm_spares = 1000, max_connections = 1000",
        "command = 'x', reuse = 'same-principal'",
        "command = 'x', isolation = 'session', on_crash = 'reinitialize'",
    ] {
        let loaded = load(&format!("servers.x = {{ {keys} }}"));
        assert!(loaded.is_ok(), "{keys}: {loaded:?}");
    }
}

#[test]
fn all_faults_are_reported_with_their_places() {
    let text = r#"
listen = "0.0.0.0:8080"
pathh = "/mcp"
admin = 9464
allow_hosts = "mcp.example"
http_sse = "yes"
body_bytes = 1

[limits]
body_bytes = "4 GiB"
depth = 0
queue = "64"
header_bites = 5

[timeouts]
request = 30
drain = "0s"
probe = "5"
body_idle = "1h"

[servers."my server"]
command = ""
args = ["fine", 3, "${NOPE} and ${ALSO_NOPE}"]
headers = { A = "b" }
transport = "streamable"

[servers.web]
url = "ftp://example.com"
headers = { Host = "x", "a b" = "c", D = "line\nbreak" }
forward_headers = ["Mcp-Session-Id", "d"]
args = ["x"]
max_connections = -1

[servers.none]
"#;
    insta::assert_snapshot!(faults(text), @r#"
        shadowcat.toml:2:10: listen: 0.0.0.0:8080 can be reached from other machines, and there is no authentication; if that is meant, name the hosts that clients will use (--allow-host NAME, or `allow_hosts`), else listen on 127.0.0.1
        shadowcat.toml:3:1: pathh: unknown key; did you mean `path`?
        shadowcat.toml:4:9: admin: expected an IP address and a port, such as "127.0.0.1:8080", found an integer
        shadowcat.toml:5:15: allow_hosts: expected a list of strings, found a string
        shadowcat.toml:6:12: http_sse: expected true or false, found a string
        shadowcat.toml:7:1: body_bytes: unknown key; did you mean `limits.body_bytes`?
        shadowcat.toml:10:14: limits.body_bytes: must be from 1 KiB to 4294967295 bytes, is 4 GiB
        shadowcat.toml:11:9: limits.depth: must be from 8 to 128, is 0
        shadowcat.toml:12:9: limits.queue: expected a whole number, found a string
        shadowcat.toml:13:1: limits.header_bites: unknown key; did you mean `header_bytes`?
        shadowcat.toml:16:11: timeouts.request: expected a time with its unit, such as "30s", "500ms" or "1h 30m", found an integer
        shadowcat.toml:17:9: timeouts.drain: must be from 10ms to 1h, is 0s
        shadowcat.toml:18:9: timeouts.probe: expected a time with its unit, such as "30s", "500ms" or "1h 30m"
        shadowcat.toml:19:13: timeouts.body_idle: is 1h, longer than `body_total`, which is 30s
        shadowcat.toml:21:10: servers."my server": expected a name of 1 to 64 characters A-Z a-z 0-9 _ . -, of which one is no dot
        shadowcat.toml:22:11: servers."my server".command: expected a string that is not empty
        shadowcat.toml:23:17: servers."my server".args[1]: expected a string, found an integer
        shadowcat.toml:23:20: servers."my server".args[2]: variable `NOPE` is not set; set it, or give a default: `${NOPE:-default}` (`$${` is a plain `${`)
        shadowcat.toml:23:20: servers."my server".args[2]: variable `ALSO_NOPE` is not set; set it, or give a default: `${ALSO_NOPE:-default}` (`$${` is a plain `${`)
        shadowcat.toml:24:17: servers."my server".headers.A: does not apply: it is for a server with a `url`, and this one has a `command`
        shadowcat.toml:25:13: servers."my server".transport: `streamable` is none of `auto`, `streamable-http`, `sse`; did you mean `streamable-http`?
        shadowcat.toml:28:7: servers.web.url: expected a URL that starts with http:// or https:// and names a host (credentials belong into `headers`)
        shadowcat.toml:29:20: servers.web.headers.Host: the header `host` is the proxy's own
        shadowcat.toml:29:33: servers.web.headers."a b": expected the name of a header
        shadowcat.toml:29:42: servers.web.headers.D: expected a header value: visible ASCII characters, spaces, tabs
        shadowcat.toml:30:20: servers.web.forward_headers[0]: the header `mcp-session-id` is the proxy's own
        shadowcat.toml:30:38: servers.web.forward_headers[1]: does not apply: `headers` sets this header, so clients cannot
        shadowcat.toml:31:9: servers.web.args[0]: does not apply: it is for a server with a `command`, and this one has a `url`
        shadowcat.toml:32:19: servers.web.max_connections: must be from 1 to 10000, is -1
        shadowcat.toml:34:10: servers.none: needs `command` (a program to start) or `url` (a server to connect to)
        "#);
}

#[test]
fn syntax_faults_are_reported_together_and_alone() {
    let text = "listen = \npath = /mcp\n[servers.fs]\nunknown = 1\n[servers.fs]\n";
    insta::assert_snapshot!(faults(text), @r#"
        shadowcat.toml:1:10: string values must be quoted, expected literal string
        shadowcat.toml:2:8: string values must be quoted, expected literal string
        shadowcat.toml:5:10: duplicate key
        "#);
}

#[test]
fn a_missing_file_is_a_fault_of_that_file() {
    let mut loader = Loader::default();
    loader.toml_file(Path::new("no/such.toml"));
    let faults = loader.finish(&variable).unwrap_err().to_string();
    assert!(faults.starts_with("no/such.toml: cannot be read: "), "{faults}");
    assert_eq!(faults.lines().count(), 1, "{faults}");
}

/// A fault is not reported twice, once as itself and once as what follows from it.
#[test]
fn a_misspelt_or_misread_command_is_not_missing_too() {
    for text in ["servers.x.comand = 'x'", "servers.x.command = 1", "servers.x.url = 1"] {
        assert_eq!(load(text).unwrap_err().iter().count(), 1, "{text}");
    }
    assert_eq!(load("servers.x.args = 1").unwrap_err().iter().count(), 2);
}

#[test]
fn spares_are_not_measured_against_a_count_that_was_misread() {
    for count in ["max_connections = '100'", "max_connections = 0", "max_conections = 100"] {
        let text = format!("servers.x = {{ command = 'x', warm_spares = 100, {count} }}");
        assert_eq!(load(&text).unwrap_err().iter().count(), 1, "{text}");
    }
}

#[test]
fn no_server_is_a_fault() {
    let expected = "shadowcat.toml: no server is configured: add [servers.NAME] to the file, \
                    or give --upstream URL or -- COMMAND";
    assert_eq!(faults("listen = \"127.0.0.1:1\""), expected);
}

#[test]
fn unknown_keys_have_suggestions() {
    for (text, place, suggestion) in [
        ("Listen = 1", "1:1: Listen", Some("listen")),
        ("allowOrigins = 1", "1:1: allowOrigins", Some("allow_origins")),
        ("limit = 1", "1:1: limit", Some("limits")),
        ("limits.body-bytes = 1", "1:8: limits.body-bytes", Some("body_bytes")),
        ("sessions = 1", "1:1: sessions", Some("limits.sessions")),
        ("drain = 1", "1:1: drain", Some("timeouts.drain")),
        ("comand = 1", "1:1: comand", None),
        ("servers.fs.comand = 1", "1:12: servers.fs.comand", Some("command")),
        ("servers.fs.evn = {}", "1:12: servers.fs.evn", Some("env")),
        ("retries = 1", "1:1: retries", None),
        ("\"\" = 1", "1:1: \"\"", None),
        // Columns count characters.
        ("'é'.x = 1", "1:1: \"é\"", None),
        ("servers.'é'.comand = 1", "1:13: servers.\"é\".comand", Some("command")),
    ] {
        let said = suggestion.map_or(String::new(), |it| format!("; did you mean `{it}`?"));
        let expected = format!("shadowcat.toml:{place}: unknown key{said}");
        let faults = faults(text);
        assert!(faults.lines().any(|line| line == expected), "{faults}\nlacks\n{expected}");
    }
}

#[test]
fn variables_expand() {
    let all = |text: &str| expand::expand(text, &variable).map_err(|faults| faults.len());
    for (text, expected) in [
        ("", Ok("")),
        ("plain $ $$ $TOKEN {x} é", Ok("plain $ $$ $TOKEN {x} é")),
        ("${TOKEN}", Ok("hunter2")),
        ("a${TOKEN}b${TOKEN}c", Ok("ahunter2bhunter2c")),
        ("${env:TOKEN}", Ok("hunter2")),
        ("${TOKEN:-other}", Ok("hunter2")),
        ("${UNSET:-other}", Ok("other")),
        ("${UNSET:-}", Ok("")),
        ("${UNSET:-a:-b $c}", Ok("a:-b $c")),
        // As in a shell: set, if to nothing; and `:-` fills what is empty.
        ("${EMPTY}", Ok("")),
        ("${EMPTY:-other}", Ok("other")),
        // A value is not looked into.
        ("${NASTY}", Ok("${TOKEN}")),
        ("$${TOKEN}", Ok("${TOKEN}")),
        ("$$${TOKEN}", Ok("$${TOKEN}")),
        ("${UNSET}", Err(1)),
        ("${UNSET}${ALSO}", Err(2)),
        ("${}", Err(1)),
        ("${1X}", Err(1)),
        ("${A B}", Err(1)),
        ("${TOKEN-x}", Err(1)),
        ("${input:key}", Err(1)),
        ("${TOKEN", Err(1)),
        ("${UNSET} ${", Err(2)),
    ] {
        assert_eq!(all(text), expected.map(str::to_owned), "{text}");
    }
}

#[test]
fn sizes_are_read_as_their_units_say() {
    for (text, bytes) in [
        ("1024", Some(1024)),
        ("4 MiB", Some(4 << 20)),
        ("4MiB", Some(4 << 20)),
        ("4 mib", Some(4 << 20)),
        ("4Mi", Some(4 << 20)),
        (" 4 MB ", Some(4_000_000)),
        ("16k", Some(16_000)),
        ("2 GiB", Some(2 << 30)),
        ("7 bytes", None),
        ("7 B", Some(7)),
        ("", None),
        ("MiB", None),
        ("1.5 MiB", None),
        ("-1", None),
        ("18446744073709551616", None),
        ("18446744073709551615 GiB", None),
        ("infinite", None),
    ] {
        assert_eq!(values::parse_size(text).ok(), bytes, "{text}");
    }
}

/// Every number takes the ends of its range and its default, and neither zero nor what is beyond.
#[test]
fn every_number_has_a_range() {
    let is_fine = |line: String| load(&with_server(&line)).is_ok();
    for number in Limits::NUMBERS {
        let (name, min, max) = (number.name, *number.range.start(), *number.range.end());
        assert!(number.range.contains((number.slot)(&mut Limits::default())), "{name}");
        assert!(max <= u32::MAX as usize, "{name}");
        for (value, fine) in [(min, true), (max, true), (min - 1, false), (max + 1, false)] {
            assert_eq!(is_fine(format!("limits.{name} = {value}")), fine, "{name} = {value}");
        }
        for value in ["0", "-1", "1.5", "\"\"", "true", "9223372036854775808", "inf"] {
            assert!(!is_fine(format!("limits.{name} = {value}")), "{name} = {value}");
        }
    }
    // What a wait may not be longer than is set as well, to its largest.
    let outer = |name: &str| match name {
        "body_idle" => "timeouts.body_total = '1h'",
        "probe" => "timeouts.start = '1h'",
        "request" | "parked" => "timeouts.request_max = '7d'",
        "drain" => "timeouts.shutdown = '1h'",
        "reconnect_base" => "timeouts.reconnect_cap = '1h'",
        "circuit_open" => "timeouts.circuit_open_max = '1h'",
        "session_idle" => "timeouts.session_max_age = '365d'",
        _ => "",
    };
    for number in Timeouts::NUMBERS {
        let (name, min, max) = (number.name, *number.range.start(), *number.range.end());
        assert!(number.range.contains((number.slot)(&mut Timeouts::default())), "{name}");
        assert!(!min.is_zero(), "{name}");
        let millisecond = Duration::from_millis(1);
        for (value, fine) in [(min, true), (max, true), (min - millisecond, false), (max + millisecond, false)] {
            let value = humantime::format_duration(value);
            let line = format!("timeouts.{name} = '{value}'\n{}", outer(name));
            assert_eq!(is_fine(line), fine, "{name} = {value}");
        }
        for value in ["0", "5", "'0s'", "'5'", "'-5s'", "'infinite'", "'584942417356y'", "1.5"] {
            assert!(!is_fine(format!("timeouts.{name} = {value}")), "{name} = {value}");
        }
    }
}

#[test]
fn a_wait_that_another_would_cut_short_is_a_fault() {
    let nested = |line: &str| load(&with_server(line)).err().map(|faults| faults.to_string());
    let expected = "shadowcat.toml:1:20: timeouts.request: is 2h, longer than `request_max`, which is 1h";
    assert_eq!(nested("timeouts.request = \"2h\"").as_deref(), Some(expected));
    assert_eq!(nested("timeouts = { request = \"2h\", request_max = \"2h\" }"), None);
    // To lower only the outer one is no contradiction: it ends the inner one.
    assert_eq!(nested("timeouts.request_max = \"1m\""), None);
}

#[test]
fn only_an_exposed_address_needs_hosts() {
    for (line, fine) in [
        ("listen = '127.0.0.1:0'", true),
        ("listen = '127.9.9.9:80'", true),
        ("listen = '[::1]:80'", true),
        ("listen = '[::ffff:127.0.0.1]:80'", true),
        ("listen = 'localhost:80'", true),
        ("listen = '0.0.0.0:80'", false),
        ("listen = '[::]:80'", false),
        ("listen = '192.168.1.5:80'", false),
        ("listen = '0.0.0.0:80'\nallow_hosts = []", false),
        ("listen = '0.0.0.0:80'\nallow_hosts = ['mcp.example']", true),
        // What is no host is none that could be named.
        ("listen = '0.0.0.0:80'\nallow_hosts = ['*']", false),
    ] {
        assert_eq!(load(&with_server(line)).is_ok(), fine, "{line}");
    }
}

#[test]
fn values_must_look_like_what_they_are() {
    for (line, fine) in [
        ("listen = ':80'", false),
        ("listen = 'example.com:80'", false),
        ("listen = '127.0.0.1'", false),
        ("listen = 'localhost:70000'", false),
        ("admin = 'off'", true),
        ("admin = 'on'", false),
        ("admin = '127.0.0.1:8080'", false),
        ("path = '/'", false),
        ("path = 'mcp'", false),
        ("path = '/mcp/'", false),
        ("path = '/a//b'", false),
        ("path = '/a/../b'", false),
        ("path = '/{id}'", false),
        ("path = '/a?b'", false),
        ("path = '/a/b.c~d_e-f'", true),
        ("path = '/sse'", false),
        ("path = '/sse'\nhttp_sse = false", true),
        ("allow_hosts = ['a.example', '10.0.0.1:80', '[::1]:80', '[::1]']", true),
        ("allow_hosts = ['*.example']", false),
        ("allow_hosts = ['http://a.example']", false),
        ("allow_hosts = ['me@a.example']", false),
        ("allow_hosts = ['a.example:']", false),
        ("allow_hosts = ['a.example:x']", false),
        ("allow_hosts = ['']", false),
        ("allow_origins = ['https://a.example:1', 'vscode-webview://abc']", true),
        ("allow_origins = ['https://a.example/']", false),
        ("allow_origins = ['a.example']", false),
        ("allow_origins = ['null']", false),
        ("allow_origins = ['*']", false),
        ("servers.'a.B_9-'.command = 'x'", true),
        ("servers.'..'.command = 'x'", false),
        ("servers.'a/b'.command = 'x'", false),
        ("servers.''.command = 'x'", false),
        ("servers.x = { command = 'x', url = 'http://h' }", false),
        ("servers.x = { command = 'x', env = { 'A=B' = '' } }", false),
        ("servers.x = { command = 'x', env = { A = \"\\u0000\" } }", false),
        ("servers.x = { command = 'x', args = ['', ''] }", true),
        ("servers.x = { command = 'x', pass_env = [''] }", false),
        ("servers.x = { command = 'x', cwd = '' }", false),
        ("servers.x = { command = 'x', era = 'Modern' }", false),
        ("servers.x = { command = 'x', max_connections = 10000 }", true),
        ("servers.x = { command = 'x', max_connections = 0 }", false),
        ("servers.x = { command = 'x', max_connections = 10001 }", false),
        ("servers.x = { command = 'x', max_connections = '3' }", false),
        ("servers.x = { url = 'http://h:1/p?q', transport = 'sse' }", true),
        ("servers.x = { url = '/p' }", false),
        ("servers.x = { url = 'http://' }", false),
        ("servers.x = { url = 'http://u:p@h/' }", false),
        ("servers.x = { url = 'http://h:99999/' }", false),
        ("servers.x = { url = 'http://h', headers = { Accept = 'x' } }", false),
        ("servers.x = { url = 'http://h', headers = { a = '1', A = '2' } }", false),
        ("servers.x = { url = 'http://h', forward_headers = ['authorization'] }", true),
        ("servers.x = { url = 'http://h', forward_headers = ['cookie:'] }", false),
        ("servers.x = { url = 'http://h', headers = { a = '1' }, forward_headers = ['A'] }", false),
    ] {
        assert_eq!(load(&with_server(line)).is_ok(), fine, "{line}");
    }
}

/// Secrets are values of variables and headers, arguments, and parts of URLs; and whatever was expanded.
#[test]
fn nothing_that_is_printed_shows_a_secret() {
    let settings = load(EVERYTHING).unwrap();
    assert!(!format!("{settings:?} {settings:#?}").contains("hunter2"), "{settings:?}");

    let mut loader = Loader::default();
    loader.toml("a.toml", &EVERYTHING.replace("${TOKEN}", "hunter2"));
    let config = loader.config_mut();
    assert!(!format!("{config:?} {config:#?}").contains("hunter2"), "{config:?}");

    let faulty = r#"
        [servers.a]
        url = "htp://user:hunter2@example.com/${TOKEN}"
        headers = { A = "hunter2\n", B = "${TOKEN}\n", C = "${hunter2 x}" }
        [servers.b]
        command = "${TOKEN}\u0000"
        args = ["hunter2\u0000"]
        env = { A = "hunter2\u0000" }
    "#;
    let faults = load(faulty).unwrap_err();
    assert_eq!(faults.iter().count(), 7, "{faults}");
    assert!(!format!("{faults} {faults:?}").contains("hunter2"), "{faults}");
}

#[test]
fn urls_are_shown_without_keys() {
    for (url, shown) in [
        ("http://h", "http://h/"),
        ("https://h:8443/mcp", "https://h:8443/mcp"),
        ("https://h/sse?key=hunter2", "https://h/sse?[redacted]"),
        ("https://h/s/hunter2/mcp", "https://h/[redacted]"),
    ] {
        let settings = load(&format!("servers.x.url = '{url}'")).unwrap();
        assert_eq!(http(&settings).shown_url(), shown);
    }
}

proptest! {
    /// Whatever a file holds, reading it ends in settings or faults.
    #[test]
    fn no_text_is_too_strange(text in r#"([\[\]{}=.,:"'#/$*\n a-z0-9é\u{feff}]|servers|command|limits){0,40}"#) {
        let mut loader = Loader::default();
        loader.toml("a.toml", &text);
        loader.mcp_json("b.json", &text);
        let _ = loader.finish(&variable);
    }

    /// What is escaped comes back as it was.
    #[test]
    fn escaped_text_expands_to_itself(text in r"[$\{\}a-z:]{0,20}") {
        let expanded = expand::expand(&expand::escape(&text), &variable);
        prop_assert_eq!(expanded.ok(), Some(text));
    }
}
