//! What can be wrong with a configuration, and where.

use std::fmt;
use std::io;
use std::sync::Arc;

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Where it was written.
    pub place: Place,
}

/// Where something was written. Orders by file, then position.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// On the command line (or in the variable that stands for the argument): the argument's name.
    Argument(&'static str),
    /// In a file.
    File {
        /// The file, as it was named.
        file: Arc<str>,
        /// Line and column, both from 1; the column counts characters. `None` means the file as a whole.
        at: Option<(usize, usize)>,
        /// The key, from the root: `servers.fs.args[2]`. Empty at the root.
        key: String,
    },
}

impl Place {
    /// The rest of this place's key, if it lies under the key of `table` in the same file.
    pub(crate) fn key_under(&self, table: &Place) -> Option<&str> {
        match (self, table) {
            (Place::File { file, key, .. }, Place::File { file: other, key: table, .. }) if file == other => {
                key.strip_prefix(table.as_str())?.strip_prefix('.')
            }
            _ => None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Argument(name) => f.write_str(name),
            Place::File { file, at, key } => {
                f.write_str(file)?;
                if let Some((line, column)) = at {
                    write!(f, ":{line}:{column}")?;
                }
                if !key.is_empty() {
                    write!(f, ": {key}")?;
                }
                Ok(())
            }
        }
    }
}

/// One fault of a configuration.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {kind}")]
pub struct Fault {
    /// Where it is.
    pub place: Place,
    /// What it is.
    pub kind: FaultKind,
}

/// What is wrong. No variant carries a value that may be a secret.
#[derive(Debug, thiserror::Error)]
pub enum FaultKind {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[source] io::Error),
    /// The text is not what the format allows, in the words of its parser.
    #[error("{0}")]
    Syntax(String),
    /// No such key.
    #[error("unknown key{}", Suggested(.suggestion))]
    UnknownKey {
        /// The key that was perhaps meant.
        suggestion: Option<String>,
    },
    /// The value has another type.
    #[error("expected {expected}, found {found}")]
    WrongType {
        /// What is accepted.
        expected: &'static str,
        /// What stands there.
        found: &'static str,
    },
    /// The value has the right type and makes no sense. It is not shown: it may be a secret.
    #[error("expected {expected}")]
    Malformed {
        /// What is accepted.
        expected: &'static str,
    },
    /// The value is none of the choices.
    #[error("`{found}` is none of {choices}{}", Suggested(.suggestion))]
    NoChoice {
        /// What stands there.
        found: String,
        /// What is accepted.
        choices: String,
        /// The choice that was perhaps meant.
        suggestion: Option<String>,
    },
    /// A number outside its range.
    #[error("must be from {min} to {max}, is {found}")]
    OutOfRange {
        /// What stands there.
        found: String,
        /// The smallest accepted.
        min: String,
        /// The largest accepted.
        max: String,
    },
    /// Two numbers that contradict each other.
    #[error("is {value}, longer than `{other}`, which is {limit}")]
    LongerThan {
        /// This number.
        value: String,
        /// The key of the other number.
        other: &'static str,
        /// The other number.
        limit: String,
    },
    /// Two counts that contradict each other.
    #[error("is {value}, more than `{other}`, which is {limit}: lower the one or raise the other")]
    MoreThan {
        /// This number.
        value: usize,
        /// The key of the other number.
        other: &'static str,
        /// The other number.
        limit: usize,
    },
    /// A variable that is not set and has no default.
    #[error(
        "variable `{name}` is not set; set it, or give a default: `${{{name}:-default}}` (`$${{` is a plain `${{`)"
    )]
    Unset {
        /// The variable.
        name: String,
    },
    /// A `${` that does not make a reference.
    #[error("expected `${{NAME}}` or `${{NAME:-default}}` (`$${{` is a plain `${{`)")]
    BadReference,
    /// Something that may be there once is there twice.
    #[error("{what} is given twice; first at {first}")]
    Duplicate {
        /// What it is.
        what: String,
        /// The first of them.
        first: Place,
    },
    /// Neither of the keys that would say how to reach the server.
    #[error("needs `command` (a program to start) or `url` (a server to connect to)")]
    NoTarget,
    /// A key that does not go with the kind of server.
    #[error("does not apply: {why}")]
    DoesNotApply {
        /// Why not.
        why: &'static str,
    },
    /// A value that contradicts what another key says.
    #[error("does not go together with {other}: {why}")]
    Contradicts {
        /// The other key, and its value where that matters.
        other: &'static str,
        /// What would go wrong, and what to do.
        why: &'static str,
    },
    /// A header that the proxy itself writes.
    #[error("the header `{name}` is the proxy's own")]
    OwnHeader {
        /// Its name.
        name: String,
    },
    /// No server at all.
    #[error("no server is configured: add [servers.NAME] to the file, or give --upstream URL or -- COMMAND")]
    NoServer,
    /// The address is reachable from other machines and nobody has said that this is meant.
    #[error(
        "{address} can be reached from other machines, and there is no authentication; \
         if that is meant, name the hosts that clients will use (--allow-host NAME, or `allow_hosts`), \
         else listen on 127.0.0.1"
    )]
    Exposed {
        /// The address.
        address: std::net::SocketAddr,
    },
}

/// The end of a message that has a suggestion or not.
struct Suggested<'a>(&'a Option<String>);

impl fmt::Display for Suggested<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(suggestion) => write!(f, "; did you mean `{suggestion}`?"),
            None => Ok(()),
        }
    }
}

/// Every fault of a configuration, in the order of their places. Never empty.
#[derive(Debug)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// The faults, or `None` if there are none.
    pub(crate) fn of(mut faults: Vec<Fault>) -> Option<Self> {
        faults.sort_by(|a, b| a.place.cmp(&b.place));
        (!faults.is_empty()).then_some(Faults(faults))
    }

    /// The faults, in the order of their places.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Something that was read and passed over, and that the user should know of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Where it is.
    pub place: Place,
    /// What was passed over or changed.
    pub kind: NoteKind,
}

/// What a [`Note`] says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteKind {
    /// Keys that other hosts know and that mean nothing here.
    #[error("not used here: {}", .0.join(", "))]
    Unused(Vec<String>),
    /// A server that the file switches off.
    #[error("disabled, skipped")]
    Disabled,
    /// A name that could not be part of a URL.
    #[error("is called `{0}` here: the name becomes part of a URL")]
    Renamed(String),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.kind)
    }
}
