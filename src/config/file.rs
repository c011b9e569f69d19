//! Reading the configuration file: the tree against the table of keys.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::document::{Entry, Node, Source, Value, join};
use super::fault::{Fault, FaultKind, Place, Placed};
use super::keys::{Key, Kind, Optional, SERVER, TOP};
use super::suggest::suggest;
use super::values;
use super::{Config, ServerConfig, Template};
use crate::settings::{
    BridgeReuse, EraChoice, HttpTransport, Isolation, Limits, Number, OnCrash, RecordEdges, RecordPolicy, Reuse,
    Structured, Timeouts,
};

/// Reads a configuration file. What is faulty is left out of the result.
pub(crate) fn read(source: &Source<'_>, faults: &mut Vec<Fault>) -> Config {
    let mut config = Config::default();
    if let Some(root) = source.toml(faults) {
        let mut reader = Reader { source, faults };
        if let Some(entries) = reader.table(&root, "") {
            reader.keys(entries, "", TOP, &mut config);
        }
    }
    config
}

/// Reads values of a tree; what they are not, it reports.
pub(crate) struct Reader<'a> {
    pub(crate) source: &'a Source<'a>,
    pub(crate) faults: &'a mut Vec<Fault>,
}

impl Reader<'_> {
    /// Reads a table whose keys are known.
    fn keys<T>(&mut self, entries: &[Entry], path: &str, keys: &'static [Key<T>], into: &mut T) {
        for entry in entries {
            let path = join(path, &entry.key);
            match keys.iter().find(|key| key.name == entry.key) {
                Some(key) => self.value(&entry.value, &path, &key.kind, into),
                None => self.unknown(entry, &path, keys.iter().map(|key| key.name)),
            }
        }
    }

    fn value<T>(&mut self, node: &Node, path: &str, kind: &Kind<T>, into: &mut T) {
        let place = |reader: &Self| reader.place(node, path);
        match kind {
            Kind::Flag(slot) => {
                if let Value::Flag(value) = node.value {
                    *slot(into) = Some(Placed { value, place: place(self) });
                } else {
                    self.wrong_type::<()>(node, path, "true or false");
                }
            }
            Kind::Count(range, slot) => {
                if let Some(value) = self.count(node, path, range, false) {
                    *slot(into) = Some(Placed { value, place: place(self) });
                }
            }
            Kind::Address(slot) => {
                let parsed = self.parsed(node, path, values::ADDRESS, values::parse_address);
                if let Some(value) = parsed {
                    *slot(into) = Some(Placed { value, place: place(self) });
                }
            }
            Kind::AddressOrOff(slot) => {
                let parsed = self.parsed(node, path, values::ADDRESS, |text| match text {
                    "off" => Ok(None),
                    address => values::parse_address(address).map(Some),
                });
                if let Some(value) = parsed {
                    *slot(into) = Some(Placed { value, place: place(self) });
                }
            }
            Kind::Text(slot) => {
                if let Some(text) = self.text(node, path) {
                    *slot(into) = Some(text);
                }
            }
            Kind::Texts(slot) => *slot(into) = self.texts(node, path),
            Kind::Template(slot) => {
                if let Some(text) = self.text(node, path) {
                    *slot(into) = Some(template(text));
                }
            }
            Kind::Templates(slot) => {
                *slot(into) = self.texts(node, path).into_iter().map(template).collect();
            }
            Kind::Pairs(slot) => *slot(into) = self.pairs(node, path),
            Kind::Transport(slot) => self.choice(node, path, &HttpTransport::NAMED, *slot, into),
            Kind::Era(slot) => self.choice(node, path, &EraChoice::NAMED, *slot, into),
            Kind::Isolation(slot) => self.choice(node, path, &Isolation::NAMED, *slot, into),
            Kind::Reuse(slot) => self.choice(node, path, &Reuse::NAMED, *slot, into),
            Kind::BridgeReuse(slot) => self.choice(node, path, &BridgeReuse::NAMED, *slot, into),
            Kind::Structured(slot) => self.choice(node, path, &Structured::NAMED, *slot, into),
            Kind::OnCrash(slot) => self.choice(node, path, &OnCrash::NAMED, *slot, into),
            Kind::RecordEdges(slot) => self.choice(node, path, &RecordEdges::NAMED, *slot, into),
            Kind::RecordPolicy(slot) => self.choice(node, path, &RecordPolicy::NAMED, *slot, into),
            Kind::Limits(slot) => {
                *slot(into) = self.numbers(node, path, Limits::NUMBERS, |reader, node, path, number| {
                    reader.count(node, path, &number.range, number.is_size())
                });
            }
            Kind::Timeouts(slot) => {
                *slot(into) = self.numbers(node, path, Timeouts::NUMBERS, Self::duration);
            }
            Kind::Servers(slot) => *slot(into) = self.servers(node, path),
        }
    }

    /// `[limits]` or `[timeouts]`.
    fn numbers<Table, V>(
        &mut self,
        node: &Node,
        path: &str,
        numbers: &'static [Number<Table, V>],
        read: impl Fn(&mut Self, &Node, &str, &Number<Table, V>) -> Option<V>,
    ) -> BTreeMap<&'static str, Placed<V>> {
        let mut given = BTreeMap::new();
        for entry in self.table(node, path).unwrap_or_default() {
            let path = join(path, &entry.key);
            let Some(number) = numbers.iter().find(|number| number.name == entry.key) else {
                self.unknown(entry, &path, numbers.iter().map(|number| number.name));
                continue;
            };
            if let Some(value) = read(self, &entry.value, &path, number) {
                given.insert(number.name, Placed { value, place: self.place(&entry.value, &path) });
            }
        }
        given
    }

    fn servers(&mut self, node: &Node, path: &str) -> Vec<ServerConfig> {
        let mut servers = Vec::new();
        for entry in self.table(node, path).unwrap_or_default() {
            let path = join(path, &entry.key);
            let place = self.source.place(entry.at, &path);
            let mut server = ServerConfig::named(Placed { value: entry.key.clone(), place });
            if let Some(entries) = self.table(&entry.value, &path) {
                self.keys(entries, &path, SERVER, &mut server);
                servers.push(server);
            }
        }
        servers
    }

    pub(crate) fn table<'n>(&mut self, node: &'n Node, path: &str) -> Option<&'n [Entry]> {
        match &node.value {
            Value::Table(entries) => Some(entries),
            _ => self.wrong_type(node, path, "a table"),
        }
    }

    pub(crate) fn text(&mut self, node: &Node, path: &str) -> Option<Placed<String>> {
        self.parsed(node, path, "a string", |text| Ok(text.to_owned()))
            .map(|value| Placed { value, place: self.place(node, path) })
    }

    pub(crate) fn texts(&mut self, node: &Node, path: &str) -> Vec<Placed<String>> {
        let Value::List(items) = &node.value else {
            self.wrong_type::<()>(node, path, "a list of strings");
            return Vec::new();
        };
        let items = items.iter().enumerate();
        items.filter_map(|(index, item)| self.text(item, &format!("{path}[{index}]"))).collect()
    }

    fn pairs(&mut self, node: &Node, path: &str) -> Vec<(Placed<String>, Template)> {
        let mut pairs = Vec::new();
        for entry in self.table(node, path).unwrap_or_default() {
            let path = join(path, &entry.key);
            if let Some(text) = self.text(&entry.value, &path) {
                let key = Placed { value: entry.key.clone(), place: text.place };
                pairs.push((key, Template(text.value)));
            }
        }
        pairs
    }

    fn choice<T, V: Copy>(
        &mut self,
        node: &Node,
        path: &str,
        choices: &[(&str, V)],
        slot: Optional<T, V>,
        into: &mut T,
    ) {
        let choice = self.parsed(node, path, "a string", |text| match choices.iter().find(|(name, _)| *name == text) {
            Some((_, value)) => Ok(*value),
            None => Err(no_choice(text, choices.iter().map(|(name, _)| *name))),
        });
        if let Some(value) = choice {
            *slot(into) = Some(Placed { value, place: self.place(node, path) });
        }
    }

    fn count(&mut self, node: &Node, path: &str, range: &RangeInclusive<usize>, size: bool) -> Option<usize> {
        let show = |number: usize| {
            if size { values::show_size(number) } else { number.to_string() }
        };
        let (found, shown) = match &node.value {
            Value::Integer(value) => (usize::try_from(*value).ok(), value.to_string()),
            Value::Text(text) if size => match values::parse_size(text) {
                Ok(bytes) => (usize::try_from(bytes).ok(), text.clone()),
                Err(kind) => return self.refuse(node, path, kind),
            },
            _ if size => return self.wrong_type(node, path, values::SIZE),
            _ => return self.wrong_type(node, path, "a whole number"),
        };
        match found {
            Some(number) if range.contains(&number) => Some(number),
            _ => {
                let (min, max) = (show(*range.start()), show(*range.end()));
                self.refuse(node, path, FaultKind::OutOfRange { found: shown, min, max })
            }
        }
    }

    fn duration(&mut self, node: &Node, path: &str, number: &Number<Timeouts, Duration>) -> Option<Duration> {
        self.parsed(node, path, values::DURATION, |text| {
            values::parse_duration(text).and_then(|value| number.check(value))
        })
    }

    /// Reads a text that means something.
    fn parsed<V>(
        &mut self,
        node: &Node,
        path: &str,
        expected: &'static str,
        parse: impl FnOnce(&str) -> Result<V, FaultKind>,
    ) -> Option<V> {
        let Value::Text(text) = &node.value else {
            return self.wrong_type(node, path, expected);
        };
        match parse(text) {
            Ok(value) => Some(value),
            Err(kind) => self.refuse(node, path, kind),
        }
    }

    fn unknown(&mut self, entry: &Entry, path: &str, known: impl Iterator<Item = &'static str> + Clone) {
        let suggestion = suggest(&entry.key, known)
            .map(str::to_owned)
            .or_else(|| key_elsewhere(&entry.key))
            .filter(|suggestion| suggestion != path);
        let place = self.source.place(entry.at, path);
        self.faults.push(Fault { place, kind: FaultKind::UnknownKey { suggestion } });
    }

    pub(crate) fn wrong_type<V>(&mut self, node: &Node, path: &str, expected: &'static str) -> Option<V> {
        self.refuse(node, path, FaultKind::WrongType { expected, found: node.value.kind() })
    }

    pub(crate) fn refuse<V>(&mut self, node: &Node, path: &str, kind: FaultKind) -> Option<V> {
        let place = self.place(node, path);
        self.faults.push(Fault { place, kind });
        None
    }

    pub(crate) fn place(&self, node: &Node, path: &str) -> Place {
        self.source.place(node.at, path)
    }
}

/// The fault of a text that is none of the choices.
pub(crate) fn no_choice<'a>(found: &str, choices: impl Iterator<Item = &'a str> + Clone) -> FaultKind {
    FaultKind::NoChoice {
        found: found.to_owned(),
        choices: choices.clone().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
        suggestion: suggest(found, choices).map(str::to_owned),
    }
}

/// The place where a key that is unknown here is known.
fn key_elsewhere(key: &str) -> Option<String> {
    let limits = Limits::NUMBERS.iter().map(|number| ("limits", number.name));
    let timeouts = Timeouts::NUMBERS.iter().map(|number| ("timeouts", number.name));
    let server = SERVER.iter().map(|key| ("servers.NAME", key.name));
    let mut all = limits.chain(timeouts).chain(server);
    all.find(|(_, name)| *name == key).map(|(table, name)| format!("{table}.{name}"))
}

fn template(text: Placed<String>) -> Placed<Template> {
    Placed { value: Template(text.value), place: text.place }
}
