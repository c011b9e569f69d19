//! The walls of the house: which module may know which, and what may be where. The compiler does not see them in one crate.
//!
//! Each check reads `src` as text and returns its complaints; each is shown a bad snippet, too, so that it can be seen to fail.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;

/// Modules by floor. The longest name that a module's path begins with counts. A module may use its own floor's name and
/// whatever lies on lower floors, nothing else.
const FLOORS: &[(&str, u8)] = &[
    ("protocol", 0),
    ("bridge", 0),
    ("upstream/reconnect", 0),
    ("upstream/circuit", 0),
    ("upstream/probe", 0),
    ("session/backlog", 0),
    ("probing/judge", 0),
    ("tape/align", 0),
    ("tape/canonical", 0),
    ("tape/check", 0),
    ("tape/compare", 0),
    ("tape/conversation", 0),
    ("tape/diff", 0),
    ("tape/format", 0),
    ("tape/json", 0),
    ("tape/matching", 0),
    ("tape/pointer", 0),
    ("tape/redact", 0),
    ("tape/schema", 0),
    ("tape/show", 0),
    ("replay", 0),
    ("upstream", 1),
    ("rt", 1),
    ("metrics", 1),
    ("tap", 1),
    ("telemetry", 1),
    ("pool/ledger", 0),
    ("pool/restarts", 0),
    ("pool", 2),
    ("backend", 2),
    ("session", 2),
    ("probing", 2),
    ("tape", 2),
    ("load", 1),
    ("proxy", 3),
    ("front", 4),
    ("admin", 4),
    ("server", 5),
    ("through", 5),
    ("cli", 5),
    ("main", 5),
    ("lib", 5),
];

/// What a module may use beside lower floors: neighbours on its own floor, and what stands beside the house.
const NEIGHBOURS: &[(&str, &[&str])] = &[
    ("bridge", &["protocol", "settings"]),
    ("upstream/reconnect", &["protocol"]),
    ("upstream/circuit", &["protocol"]),
    ("upstream/probe", &["protocol"]),
    ("session/backlog", &["protocol"]),
    ("tape/canonical", &["protocol", "tape/align", "tape/compare", "tape/format", "tape/json"]),
    ("tape/check", &["protocol", "tape/conversation", "tape/format", "tape/json", "tape/schema", "tape/show"]),
    ("tape/compare", &["tape/json", "tape/pointer"]),
    ("tape/conversation", &["protocol", "tape/format"]),
    ("tape/diff", &["protocol", "tape/compare", "tape/conversation", "tape/json", "tape/show"]),
    ("tape/format", &["protocol"]),
    ("tape/json", &["protocol", "tape/pointer"]),
    ("tape/matching", &["protocol", "tape/compare", "tape/json", "tape/pointer"]),
    ("tape/redact", &["protocol", "tape/format", "tape/pointer"]),
    ("tape/schema", &["protocol", "tape/json", "tape/pointer"]),
    ("tape/show", &["protocol", "tape/compare", "tape/conversation", "tape/format", "tape/json"]),
    ("replay", &["protocol", "tape/canonical", "tape/format", "tape/matching", "tape/pointer"]),
    ("tap", &["rt", "metrics", "faults"]),
    ("upstream", &["rt", "metrics", "tap"]),
    // Bugs of the past can be switched on in its tests.
    ("pool/ledger", &["pool"]),
    ("backend", &["pool"]),
    ("session", &["backend"]),
    ("admin", &["front"]),
    ("through", &["server"]),
    ("cli", &["server", "through", "config", "faults", "testing"]),
    ("main", &["cli"]),
    // Plain data: everybody may read settings, only those who make them know the configuration.
    ("config", &["settings", "protocol", "tape/redact"]),
    // A tape that was read is plain data, too.
    ("settings", &["protocol", "faults", "replay"]),
    ("testing", &["protocol", "rt"]),
];

/// Beside the house: not on any floor.
const BESIDE: &[&str] = &["config", "faults", "settings", "testing"];

/// What a floor without input and output, clock and chance does not know.
const OUTSIDE_WORLD: &[&str] = &[
    "tokio",
    "axum",
    "hyper",
    "hyper_util",
    "tracing",
    "rand",
    "getrandom",
    "rustix",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "std::env",
    "Instant::now",
    "SystemTime::now",
    "println",
    "eprintln",
];

/// What would start something that nobody owns.
const SPAWNS: &[&str] =
    &["tokio::spawn", "task::spawn", "spawn_local", "spawn_blocking", "JoinSet", "thread::spawn", "thread::Builder"];

/// Queues without a bound.
const UNBOUNDED: &[&str] = &["unbounded_channel", "unbounded", "UnboundedSender", "std::sync::mpsc"];

// === The source ===

/// One source file without its tests.
struct File {
    /// Below `src`, without its extension: `upstream/probe`, `upstream/mod`.
    name: String,
    /// Its code: no comments, empty strings.
    code: String,
    /// Its string literals.
    strings: Vec<String>,
}

impl File {
    fn new(name: &str, text: &str) -> File {
        let (code, strings) = lex(text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default());
        File { name: name.to_owned(), code, strings }
    }

    /// The module: `upstream/mod` is `upstream`.
    fn module(&self) -> &str {
        self.name.strip_suffix("/mod").unwrap_or(&self.name)
    }

    fn is_in(&self, module: &str) -> bool {
        within(self.module(), module)
    }
}

/// Whether a path is a module or something in it.
fn within(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// All source files but those that are tests.
fn source() -> Vec<File> {
    fn visit(folder: &Path, root: &Path, files: &mut Vec<File>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                visit(&path, root, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap().with_extension("").display().to_string();
                if !name.split('/').any(|part| part == "tests") {
                    files.push(File::new(&name, &std::fs::read_to_string(&path).unwrap()));
                }
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    visit(&root, &root, &mut files);
    assert!(files.len() > 40, "{}", files.len());
    files
}

/// Takes text apart into code and string literals; comments are neither.
fn lex(text: &str) -> (String, Vec<String>) {
    let (mut code, mut strings) = (String::new(), Vec::new());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word_before = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let raw = rest.strip_prefix('r').filter(|_| !word_before).map(|after| (after, after.trim_start_matches('#')));
        if rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if rest.starts_with("/*") {
            rest = rest.find("*/").map_or("", |end| &rest[end + 2..]);
        } else if let Some((hashes, quoted)) = raw.filter(|(_, quoted)| quoted.starts_with('"')) {
            let end = format!("\"{}", "#".repeat(hashes.len() - quoted.len()));
            let length = quoted[1..].find(&end).unwrap();
            strings.push(quoted[1..1 + length].to_owned());
            code.push_str("\"\"");
            rest = &quoted[1 + length + end.len()..];
        } else if first == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let end = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                end
            });
            let end = end.unwrap();
            strings.push(rest[1..=end].replace("\\\"", "\""));
            code.push_str("\"\"");
            rest = &rest[end + 2..];
        } else if let Some(character) = character_literal(rest) {
            code.push_str("' '");
            rest = &rest[character..];
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    (code, strings)
}

/// The length of the character literal that the text begins with, if it does and not with a lifetime.
fn character_literal(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('\'')?;
    let length = match inner.strip_prefix('\\') {
        Some(escaped) => 1 + escaped.chars().next()?.len_utf8() + escaped[1..].find('\'')?,
        None => inner.chars().next()?.len_utf8(),
    };
    inner[length..].starts_with('\'').then_some(length + 2)
}

/// Whether code has these words, as whole words.
fn has(code: &str, words: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(words).any(|(at, _)| {
        let begins = !words.starts_with(part) || !code[..at].ends_with(part);
        begins && !code[at + words.len()..].starts_with(part)
    })
}

/// The modules that a file names, as paths below `src`: whatever stands behind `crate::` and `super::`, groups taken apart.
fn uses(file: &File) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    let here: Vec<&str> = file.module().split('/').collect();
    let code: String = file
        .code
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace(" ::", "::")
        .replace(":: ", "::")
        .replace("{ ", "{")
        .replace(", ", ",");
    for (at, start) in code.match_indices("crate::").chain(code.match_indices("super::")) {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let mut base: Vec<String> = match start {
            "crate::" => Vec::new(),
            _ => here[..here.len() - 1].iter().map(|part| part.to_string()).collect(),
        };
        let mut rest = &code[at + start.len()..];
        while let Some(after) = rest.strip_prefix("super::") {
            base.pop();
            rest = after;
        }
        paths(rest, &base, &mut used);
    }
    used
}

/// Reads `a::b::{c, d::e}` behind `base`; what stands behind the path.
fn paths<'t>(text: &'t str, base: &[String], used: &mut BTreeSet<String>) -> &'t str {
    let mut path = base.to_vec();
    let mut rest = text;
    loop {
        if let Some(mut group) = rest.strip_prefix('{') {
            loop {
                group = paths(group, &path, used);
                match group.strip_prefix(',') {
                    Some(more) => group = more,
                    None => return group.find('}').map_or("", |end| &group[end + 1..]),
                }
            }
        }
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let word = &rest[..end];
        rest = &rest[end..];
        if !word.is_empty() && word != "self" {
            path.push(word.to_owned());
        }
        match rest.strip_prefix("::") {
            Some(more) if !word.is_empty() => rest = more,
            _ => break,
        }
    }
    if !path.is_empty() {
        used.insert(path.join("/"));
    }
    match rest.strip_prefix(" as ") {
        Some(alias) => &alias[alias.find([',', '}', ';']).unwrap_or(alias.len())..],
        None => rest,
    }
}

/// The entry of a table that a path belongs to: the longest one that it begins with.
fn entry<'t>(path: &str, names: impl Iterator<Item = &'t str>) -> Option<&'t str> {
    names.filter(|name| within(path, name)).max_by_key(|name| name.len())
}

fn unit(path: &str) -> Option<&'static str> {
    entry(path, FLOORS.iter().map(|(name, _)| *name).chain(BESIDE.iter().copied()))
}

fn floor(unit: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == unit).map(|(_, floor)| *floor)
}

// === The checks ===

/// Modules know what lies below them.
fn floors(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files {
        let Some(own) = unit(file.module()) else {
            complaints.push(format!("{} is on no floor: add it to the table", file.name));
            continue;
        };
        let neighbours = NEIGHBOURS.iter().find(|(name, _)| *name == own).map_or(&[][..], |(_, names)| names);
        for path in uses(file) {
            // A type or function of the crate's root, or a module of the file's own.
            let Some(used) = unit(&path) else { continue };
            let below = match (floor(own), floor(used)) {
                (Some(own), Some(used)) => used < own,
                (Some(own), None) => used == "settings" && own > 0,
                (None, _) => false,
            };
            // A part on a lower floor is also part of the module that it lies in, which may always use it.
            let allowed = used == own || below || neighbours.contains(&used);
            if !allowed {
                complaints.push(format!("{} uses {path}, which is no business of {own}", file.name));
            }
        }
    }
    complaints
}

/// Floor 0 does no input or output, reads no clock, logs nothing, throws no dice.
fn pure(files: &[File]) -> Vec<String> {
    let ground = files.iter().filter(|file| unit(file.module()).and_then(floor) == Some(0));
    ground
        .flat_map(|file| {
            OUTSIDE_WORLD.iter().filter(|word| has(&file.code, word)).map(|word| format!("{} uses {word}", file.name))
        })
        .collect()
}

/// Only `rt/tasks` spawns; the one thread is the watchdog's.
fn spawning(files: &[File]) -> Vec<String> {
    let forbidden = |file: &File, word: &str| match (file.name.as_str(), word) {
        ("rt/tasks", "tokio::spawn" | "spawn_blocking") | ("cli/run", "thread::spawn") => false,
        // A thread of another priority than those of the runtime.
        ("rt/background", "thread::Builder") => false,
        // The fake HTTP server owns its connections, and its tests see that it does.
        ("testing/mock_sse", "JoinSet") => false,
        _ => has(&file.code, word),
    };
    let of = |file: &File| {
        SPAWNS
            .iter()
            .filter(|word| forbidden(file, word))
            .map(|word| format!("{} uses {word}", file.name))
            .collect::<Vec<_>>()
    };
    files.iter().flat_map(of).collect()
}

/// Every queue has a bound.
fn bounded(files: &[File]) -> Vec<String> {
    let of = |file: &File| {
        UNBOUNDED
            .iter()
            .filter(|word| has(&file.code, word))
            .map(|word| format!("{} uses {word}", file.name))
            .collect::<Vec<_>>()
    };
    files.iter().flat_map(of).collect()
}

/// Names of the protocol are written where the protocol is: everybody else asks `protocol`. The names are those that
/// `protocol/meta` and `protocol/method` declare.
fn names(files: &[File]) -> Vec<String> {
    let declared = files.iter().filter(|file| ["protocol/meta", "protocol/method"].contains(&file.name.as_str()));
    let names: BTreeSet<&str> = declared
        .flat_map(|file| &file.strings)
        .map(String::as_str)
        // Telling names only: a word like `arguments` says nothing.
        .filter(|name| !name.contains(' ') && (name.contains('/') || name.contains(char::is_uppercase)))
        .collect();
    let knows = ["protocol", "bridge", "testing"];
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| !knows.iter().any(|module| file.is_in(module))) {
        // Words for people may name what they are about.
        let prose = |text: &&String| text.contains(' ') && !text.contains('"');
        for text in file.strings.iter().filter(|text| !prose(text)) {
            complaints.extend(
                names.iter().filter(|name| has(text, name)).map(|name| format!("{} writes {name:?} itself", file.name)),
            );
        }
    }
    complaints
}

/// A field of the settings is a promise: somebody reads it.
fn settings_are_read(files: &[File]) -> Vec<String> {
    let Some(settings) = files.iter().find(|file| file.name == "settings") else { return vec!["no settings".into()] };
    let mut fields = Vec::new();
    let mut public = false;
    for line in settings.code.lines().map(str::trim) {
        if line.starts_with("pub struct") || line.starts_with("pub(crate) struct") {
            public = line.starts_with("pub struct");
        }
        // `pub name: Type,` in a struct, `name: default, in range;` in a table of numbers.
        let declared = line.strip_prefix("pub ").unwrap_or(line);
        if let Some((name, rest)) = declared.split_once(": ")
            && public
            && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
            && (line.starts_with("pub ") || rest.contains(", in "))
        {
            fields.push(name);
        }
    }
    let readers: Vec<&File> = files
        .iter()
        .filter(|file| !["settings", "config", "cli/serve"].iter().any(|module| file.is_in(module)))
        .collect();
    let read = |field: &str| {
        readers.iter().any(|file| has(&file.code, &format!(".{field}")) || file.code.contains(&format!("{field} }} =")))
    };
    let unread = fields.iter().filter(|field| !read(field)).map(|field| format!("nobody reads the setting `{field}`"));
    let unread: Vec<String> = unread.collect();
    if fields.len() < 10 && unread.is_empty() { vec![format!("only {fields:?} found")] } else { unread }
}

/// Whatever is tested by a fake knows nothing of it: `testing` is called by `cli` only. (The floors say so too; this is
/// about paths that no `use` shows.)
fn fakes_stay_outside(files: &[File]) -> Vec<String> {
    let others = files.iter().filter(|file| !["testing", "cli", "lib"].iter().any(|module| file.is_in(module)));
    others.filter(|file| has(&file.code, "testing")).map(|file| format!("{} knows testing", file.name)).collect()
}

type Check = fn(&[File]) -> Vec<String>;

fn holds(check: Check) {
    let complaints = check(&source());
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// Runs a check over files that are wrong and expects it to complain of each, and over the same names without fault.
fn complains(check: Check, wrong: &[(&str, &str)], right: &[(&str, &str)]) {
    for (name, text) in wrong {
        let files: Vec<File> = right
            .iter()
            .filter(|(known, _)| known != name)
            .chain([&(*name, *text)])
            .map(|(name, text)| File::new(name, text))
            .collect();
        let complaints = check(&files);
        assert!(
            complaints.iter().any(|complaint| complaint.contains(name)),
            "{name}: {text:?} was let through: {complaints:?}"
        );
    }
    let files: Vec<File> = right.iter().map(|(name, text)| File::new(name, text)).collect();
    assert_eq!(check(&files), [] as [String; 0]);
}

/// Architecture › Floors.
#[test]
fn modules_know_only_what_lies_below_them() {
    holds(floors);
    let wrong = [
        ("protocol/message", "use crate::upstream::Connection;"),
        ("protocol/message", "use crate::settings::Limits;"),
        ("bridge/relay", "use crate::{protocol::id::RequestId, proxy::Proxy};"),
        ("upstream/probe", "use super::driver::Handle;"),
        ("upstream/driver", "fn f() { crate::session::random_id(); }"),
        ("session/stream", "use super::super::proxy::Proxy;"),
        ("pool/mod", "use crate::{\n    metrics::Metrics,\n    front as other,\n};"),
        ("front/mcp", "use crate::server::Running;"),
        ("front/mcp", "use crate::testing::Script;"),
        ("probing/trial", "use crate::pool::Pool;"),
        ("probing/judge/state", "use super::super::process::Process;"),
        ("settings", "use crate::config::Config;"),
        ("testing/client", "use crate::proxy::Proxy;"),
        ("proxy/mod", "use crate::config::Config;"),
        ("somewhere/else", ""),
    ];
    let right = [
        ("protocol/message", "use super::id::RequestId; // crate::proxy::Proxy"),
        ("bridge/relay", "use crate::protocol::message::{Kind, Message};"),
        (
            "upstream/driver",
            "use crate::metrics::X; use super::error::E; use crate::upstream::child; fn f() { \"crate::proxy::X\"; }",
        ),
        ("session/mod", "use backlog::Bounds; use crate::session::backlog::EventId; use crate::backend::Leased;"),
        (
            "front/mcp",
            "use crate::proxy::error::ProxyError; use crate::session::backlog::EventId; use crate::settings::Limits;",
        ),
        ("cli/run", "use crate::testing::{self, Script}; use crate::server::Running; use crate::config::X;"),
        ("config/mod", "use crate::settings::Settings;"),
        ("probing/trial", "use super::judge::observed::Observed; use crate::upstream::stdio::StdioPipe;"),
    ];
    complains(floors, &wrong, &right);
}

/// Architecture › Floor 0.
#[test]
fn rules_have_no_input_output_clock_or_chance() {
    holds(pure);
    let wrong = [
        ("protocol/sse", "use tokio::io::AsyncRead;"),
        ("bridge/relay", "fn f() { tracing::info!(\"x\"); }"),
        ("session/backlog", "let now = Instant::now();"),
        ("upstream/reconnect", "let x: std::fs::File;"),
        ("upstream/probe", "getrandom::fill(&mut bytes);"),
        ("probing/judge/mod", "use tokio::time::sleep;"),
    ];
    complains(
        pure,
        &wrong,
        &[("protocol/sse", "// tokio\nuse std::time::{Duration, Instant};"), ("upstream/stdio", "use tokio::io;")],
    );
}

/// Architecture › Tasks.
#[test]
fn only_one_place_spawns() {
    holds(spawning);
    let wrong = [
        ("front/mcp", "fn f() { tokio::spawn(async {}); }"),
        ("upstream/child", "let set = JoinSet::new();"),
        ("rt/signal", "tokio::task::spawn(x);"),
        ("proxy/mod", "std::thread::spawn(|| {});"),
        ("testing/server", "tokio::task::spawn_blocking(f)"),
    ];
    complains(
        spawning,
        &wrong,
        &[
            ("rt/tasks", "tokio::spawn(future).abort_handle()"),
            ("server", "tasks.spawn(\"tokio::spawn\", f); self.tasks.spawn(x, y)"),
        ],
    );
}

/// Architecture › Invariants: every queue has a bound.
#[test]
fn every_queue_has_a_bound() {
    holds(bounded);
    let wrong = [
        ("upstream/driver", "let (a, b) = mpsc::unbounded_channel();"),
        ("proxy/mod", "use std::sync::mpsc;"),
        ("front/reply", "futures_channel::mpsc::unbounded()"),
    ];
    complains(bounded, &wrong, &[("upstream/driver", "let (a, b) = mpsc::channel(64); // never unbounded")]);
}

/// Architecture › Invariants: nothing but `protocol` and `bridge` knows a protocol field by name.
#[test]
fn names_of_the_protocol_are_written_in_the_protocol() {
    holds(names);
    let declared = [
        (
            "protocol/meta",
            r#"const A: &str = "progressToken"; const B: &str = "io.modelcontextprotocol/logLevel"; const C: &str = "arguments";"#,
        ),
        ("protocol/method", r#"methods! { Cancelled = "notifications/cancelled", }"#),
        ("front/mcp", r#"let x = "arguments"; let y = "a sentence about progressToken"; // "progressToken""#),
        ("bridge/relay", r#"let x = "progressToken";"#),
    ];
    let wrong = [
        ("front/mcp", r#"params["_meta"]["progressToken"]"#),
        ("proxy/mod", r##"format!(r#"{{"method":"notifications/cancelled"}}"#)"##),
        ("upstream/driver", r#"#[serde(rename = "io.modelcontextprotocol/logLevel")] x: u8"#),
        ("front/reply", "let a = '\"'; let b = \"{\\\"progressToken\\\":1}\";"),
    ];
    complains(names, &wrong, &declared);
}

/// Architecture › Config: every field is read by somebody.
#[test]
fn every_setting_is_read() {
    holds(settings_are_read);
    let fields: Vec<String> = (0..10).map(|n| format!("    pub field_{}: usize,", char::from(b'a' + n))).collect();
    let readers: String = (0..10).map(|n| format!("x.field_{};", char::from(b'a' + n))).collect();
    let settings = |more: &str| {
        File::new("settings", &format!("pub struct Limits of usize {{\n{}\n{more}\n}}", fields.join("\n")))
    };
    let reader = || File::new("proxy/mod", &readers);
    assert_eq!(settings_are_read(&[settings(""), reader()]), [] as [String; 0]);
    for unread in ["    /// A promise.\n    pub wish: bool,", "    wish: 4 * MIB, in KIB..=MAX;"] {
        let config = File::new("config/mod", "settings.wish");
        assert_eq!(settings_are_read(&[settings(unread), reader(), config]), ["nobody reads the setting `wish`"]);
    }
}

/// Architecture › Invariants: `testing` is used by nothing but `cli`.
#[test]
fn fakes_are_known_to_the_command_line_only() {
    holds(fakes_stay_outside);
    complains(
        fakes_stay_outside,
        &[("proxy/mod", "fn f() { crate::testing::serve(); }")],
        &[("cli/run", "testing::run_stdio(script)"), ("lib", "pub mod testing;")],
    );
}

/// What the checks stand on: comments are no code, strings are strings, whatever quotes are about.
#[test]
fn the_source_is_read_properly() {
    let text = r###"let a = "x // y"; // "comment"
        /* "gone" */ let b = r#"raw "quoted" \"#; let c = '"'; let d = '\''; fn f<'a>(x: &'a str) { "it's" } let e = b"bytes"; let g = "\\"; "###;
    let (code, strings) = lex(text);
    assert_eq!(strings, ["x // y", r#"raw "quoted" \"#, "it's", "bytes", r"\\"]);
    assert!(!code.contains("comment") && !code.contains("gone") && code.contains("fn f<'a>"), "{code}");
    let file = File::new(
        "front/mod",
        "use crate::{a::{self, b as c}, d};\nuse super::{e, f::g};\nx(crate::h::i(1)); self::super::j(); mycrate::k;",
    );
    let expected = ["a", "a/b", "d", "e", "f/g", "h/i"].map(str::to_owned);
    assert_eq!(uses(&file), BTreeSet::from(expected));
    assert_eq!(uses(&File::new("a/b/c", "use super::super::x;")), BTreeSet::from(["a/x".to_owned()]));
}
