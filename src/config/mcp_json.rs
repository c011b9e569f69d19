//! The `mcpServers` files of MCP hosts, in the spellings that hosts use.
//!
//! Here, unlike in our own file, unknown keys only make a note: the files are shared with programs that know more
//! keys. A key that is known and has a senseless value is a fault all the same.

use super::document::{Entry, Node, Source, Value, join};
use super::fault::{Fault, FaultKind, Note, NoteKind, Placed};
use super::file::{Reader, no_choice};
use super::{ServerConfig, Template};
use crate::settings::HttpTransport;

/// The keys under which hosts keep their servers.
const ROOTS: [&str; 2] = ["mcpServers", "servers"];

/// What a host may say that a server speaks; compared without case, `-` and `_`.
///
/// Hosts mean any remote server by `http`, and the ones that know better fall back to HTTP+SSE, so we do, too.
const KINDS: [(&str, Spoken); 6] = [
    ("stdio", Spoken::Stdio),
    ("local", Spoken::Stdio),
    ("http", Spoken::Http(HttpTransport::Auto)),
    ("remote", Spoken::Http(HttpTransport::Auto)),
    ("streamable-http", Spoken::Http(HttpTransport::Streamable)),
    ("sse", Spoken::Http(HttpTransport::Sse)),
];

#[derive(Clone, Copy)]
enum Spoken {
    Stdio,
    Http(HttpTransport),
}

/// Reads the servers of an `mcpServers` file. Disabled ones are left out, with a note.
pub(crate) fn read(source: &Source<'_>, faults: &mut Vec<Fault>, notes: &mut Vec<Note>) -> Vec<ServerConfig> {
    let mut servers = Vec::new();
    let Some(root) = source.json(faults) else {
        return servers;
    };
    let mut host = Host { reader: Reader { source, faults }, notes };
    let Some(entries) = host.reader.table(&root, "") else {
        return servers;
    };
    let mut seen = false;
    for entry in entries.iter().filter(|entry| ROOTS.contains(&entry.key.as_str())) {
        seen = true;
        host.servers(&entry.value, &entry.key, &mut servers);
    }
    if !seen {
        let expected = "a key `mcpServers` or `servers`";
        host.reader.refuse::<()>(&root, "", FaultKind::Malformed { expected });
    }
    host.unused(&root, "", entries.iter().map(|entry| entry.key.as_str()), &ROOTS);
    servers
}

struct Host<'a> {
    reader: Reader<'a>,
    notes: &'a mut Vec<Note>,
}

impl Host<'_> {
    /// A table by name, or a list in which each server has a `name`.
    fn servers(&mut self, node: &Node, path: &str, servers: &mut Vec<ServerConfig>) {
        if let Value::List(items) = &node.value {
            for (index, item) in items.iter().enumerate() {
                let path = format!("{path}[{index}]");
                let Some(entries) = self.reader.table(item, &path) else {
                    continue;
                };
                match entries.iter().find(|entry| entry.key == "name") {
                    Some(name) => {
                        if let Some(name) = self.reader.text(&name.value, &join(&path, "name")) {
                            servers.extend(self.server(name, item, entries, &path));
                        }
                    }
                    None => {
                        let expected = "a key `name`";
                        self.reader.refuse::<()>(item, &path, FaultKind::Malformed { expected });
                    }
                }
            }
            return;
        }
        for entry in self.reader.table(node, path).unwrap_or_default() {
            let path = join(path, &entry.key);
            let place = self.reader.source.place(entry.at, &path);
            let name = Placed { value: entry.key.clone(), place };
            if let Some(entries) = self.reader.table(&entry.value, &path) {
                servers.extend(self.server(name, &entry.value, entries, &path));
            }
        }
    }

    fn server(&mut self, name: Placed<String>, node: &Node, entries: &[Entry], path: &str) -> Option<ServerConfig> {
        // Asked first: what is switched off may well be half-finished.
        if self.is_disabled(entries, path) {
            self.notes.push(Note { place: name.place, kind: NoteKind::Disabled });
            return None;
        }
        let mut server = ServerConfig::named(self.renamed(name));
        let mut spoken = None;
        let mut unused = Vec::new();
        let mut seen: Vec<&Entry> = Vec::new();
        for entry in entries {
            let path = join(path, &entry.key);
            if let Some(first) = seen.iter().find(|first| first.key == entry.key) {
                let what = format!("`{}`", entry.key);
                let first = self.reader.source.place(first.at, "");
                let kind = FaultKind::Duplicate { what, first };
                let place = self.reader.source.place(entry.at, &path);
                self.reader.faults.push(Fault { place, kind });
                continue;
            }
            seen.push(entry);
            let value = &entry.value;
            match entry.key.as_str() {
                _ if matches!(value.value, Value::Null) => {}
                "name" | "disabled" | "enabled" => {}
                "command" => server.command = self.template(value, &path),
                "args" => server.args = self.templates(value, &path),
                "env" => server.env = self.pairs(value, &path),
                "cwd" => server.cwd = self.template(value, &path),
                "url" | "serverUrl" | "httpUrl" => server.url = self.template(value, &path),
                "headers" => server.headers = self.pairs(value, &path),
                "type" | "transport" | "transportType" | "protocol" => {
                    spoken = self.spoken(value, &path).or(spoken);
                }
                other => unused.push(other),
            }
        }
        self.unused(node, path, unused.into_iter(), &[]);
        self.agree(&mut server, spoken);
        Some(server)
    }

    /// Applies what the server is said to speak. The rest follows from `command` and `url`.
    fn agree(&mut self, server: &mut ServerConfig, spoken: Option<Placed<Spoken>>) {
        let Some(Placed { value, place }) = spoken else {
            return;
        };
        let why = match value {
            Spoken::Http(transport) if server.command.is_none() => {
                server.transport = Some(Placed { value: transport, place });
                return;
            }
            Spoken::Stdio if server.url.is_none() => return,
            Spoken::Http(_) => "the server has a `command`",
            Spoken::Stdio => "the server has a `url`",
        };
        self.reader.faults.push(Fault { place, kind: FaultKind::DoesNotApply { why } });
    }

    fn is_disabled(&mut self, entries: &[Entry], path: &str) -> bool {
        let mut disabled = false;
        for entry in entries {
            let means_disabled = match entry.key.as_str() {
                "disabled" => true,
                "enabled" => false,
                _ => continue,
            };
            match entry.value.value {
                Value::Flag(flag) => disabled |= flag == means_disabled,
                Value::Null => {}
                _ => {
                    let path = join(path, &entry.key);
                    self.reader.wrong_type::<()>(&entry.value, &path, "true or false");
                }
            }
        }
        disabled
    }

    /// Hosts show names to people; here they are part of URLs, so `My Server` becomes `My-Server`.
    fn renamed(&mut self, name: Placed<String>) -> Placed<String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let renamed: String = name.value.chars().map(|c| if allowed(c) { c } else { '-' }).take(64).collect();
        if renamed == name.value || !renamed.contains(|c: char| c.is_ascii_alphanumeric()) {
            return name;
        }
        let kind = NoteKind::Renamed(renamed.clone());
        self.notes.push(Note { place: name.place.clone(), kind });
        Placed { value: renamed, place: name.place }
    }

    fn spoken(&mut self, node: &Node, path: &str) -> Option<Placed<Spoken>> {
        let text = self.reader.text(node, path)?;
        let plain = |name: &str| name.to_ascii_lowercase().replace(['-', '_'], "");
        match KINDS.iter().find(|(name, _)| plain(name) == plain(&text.value)) {
            Some((_, spoken)) => Some(Placed { value: *spoken, place: text.place }),
            None => {
                let kind = no_choice(&text.value, KINDS.iter().map(|(name, _)| *name));
                self.reader.refuse(node, path, kind)
            }
        }
    }

    fn template(&mut self, node: &Node, path: &str) -> Option<Placed<Template>> {
        let text = self.reader.text(node, path)?;
        Some(Placed { value: Template(text.value), place: text.place })
    }

    fn templates(&mut self, node: &Node, path: &str) -> Vec<Placed<Template>> {
        let texts = self.reader.texts(node, path).into_iter();
        texts.map(|text| Placed { value: Template(text.value), place: text.place }).collect()
    }

    /// A table of strings; numbers and booleans are taken as they are written, since hosts take them.
    fn pairs(&mut self, node: &Node, path: &str) -> Vec<(Placed<String>, Template)> {
        let mut pairs = Vec::new();
        for entry in self.reader.table(node, path).unwrap_or_default() {
            let path = join(path, &entry.key);
            let value = match &entry.value.value {
                Value::Text(text) => text.clone(),
                Value::Integer(number) => number.to_string(),
                Value::Number(number) => number.clone(),
                Value::Flag(flag) => flag.to_string(),
                Value::Null => continue,
                _ => {
                    self.reader.wrong_type::<()>(&entry.value, &path, "a string");
                    continue;
                }
            };
            let place = self.reader.place(&entry.value, &path);
            pairs.push((Placed { value: entry.key.clone(), place }, Template(value)));
        }
        pairs
    }

    /// One note for all keys of a table that mean nothing here.
    fn unused<'k>(&mut self, node: &Node, path: &str, keys: impl Iterator<Item = &'k str>, used: &[&str]) {
        let unused: Vec<String> = keys.filter(|key| !used.contains(key)).map(str::to_owned).collect();
        if !unused.is_empty() {
            let place = self.reader.place(node, path);
            self.notes.push(Note { place, kind: NoteKind::Unused(unused) });
        }
    }
}
