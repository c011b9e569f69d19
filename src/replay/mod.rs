//! A tape as a server: what it answers, in which order, and what it was asked that it does not have (C-TAPE-4).
//!
//! A [`Replay`] is an upstream like any other ([`Target::Tape`](crate::settings::Target::Tape)): what stands in front of it are the
//! proxy's own sessions, fronts and bridges, so that a tape of either era serves clients of both.

pub(crate) mod episodes;
mod own;
pub(crate) mod player;
pub(crate) mod stage;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::protocol::message::{Kind, Message};
use crate::protocol::meta;
use crate::protocol::method::Known;
use crate::protocol::revision::Era;
use crate::tape::format::{Frame, Header};
use episodes::Episodes;
use own::Unknown;
use stage::Stage;

/// Most requests that were not on the tape which are told one by one.
const TOLD_MAX: usize = 20;
/// Most differences that are told of one request.
const DIFFERENCES_MAX: usize = 8;

/// Which of its requests a tape answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Any, whenever it comes: equal ones in the order of the tape, and after that with the last answer.
    Any,
    /// The next one.
    Strict,
}

impl Order {
    /// The choices by the names that the command line uses.
    pub const NAMED: [(&'static str, Self); 2] = [("any", Self::Any), ("strict", Self::Strict)];
}

/// When a tape answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// 0 is at once, 1 is as recorded.
    pub factor: f64,
    /// Longest wait for one message.
    pub cap: Duration,
}

impl Timing {
    /// At once.
    pub const NONE: Timing = Timing { factor: 0.0, cap: Duration::ZERO };
}

/// How a tape is replayed.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which requests it answers.
    pub order: Order,
    /// When it answers.
    pub timing: Timing,
    /// JSON pointers into `params`: what they point to may differ.
    pub ignore: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options { order: Order::Any, timing: Timing::NONE, ignore: Vec::new() }
    }
}

/// A tape that is replayed. See the module.
#[derive(Debug)]
pub struct Replay {
    pub(crate) episodes: Episodes,
    pub(crate) options: Options,
    /// What each message is compared by.
    compared: Vec<Value>,
    played: Vec<AtomicBool>,
    unknown: Mutex<(u64, Vec<String>)>,
    /// The session of all who have none of their own with the server of the tape.
    shared: OnceLock<Arc<Stage>>,
}

/// What became of a replay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// How many requests were not on the tape.
    pub unknown: u64,
    /// The first of them, each with what comes nearest.
    pub told: Vec<String>,
    /// Requests on the tape.
    pub requests: usize,
    /// Those of them that nobody made: their frames and methods.
    pub unused: Vec<String>,
}

impl Replay {
    /// Takes the frames of a tape in order: those on the edge of the upstream, if that was recorded, else those on the client's.
    #[must_use]
    pub fn new<'f>(header: &Header, frames: impl IntoIterator<Item = &'f Frame>, options: Options) -> Replay {
        let episodes = Episodes::of(&header.edges, frames);
        let compared = episodes.all.iter().map(|episode| {
            let mut params = params(&episode.message, &options.ignore);
            remove(&mut params, episode.redacted.iter().filter_map(|pointer| pointer.strip_prefix("/params")));
            params
        });
        Replay {
            compared: compared.collect(),
            played: episodes.all.iter().map(|_| AtomicBool::new(false)).collect(),
            unknown: Mutex::default(),
            shared: OnceLock::new(),
            episodes,
            options,
        }
    }

    /// The era in which the tape was made.
    #[must_use]
    pub fn era(&self) -> Era {
        self.episodes.era
    }

    /// How many frames of the tape were lost when it was made.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.episodes.lost
    }

    /// What has become of it so far.
    #[must_use]
    pub fn report(&self) -> Report {
        let (unknown, told) = self.unknown.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let requests =
            || self.episodes.all.iter().zip(&self.played).filter(|(one, _)| one.message.kind() == Kind::Request);
        let unused = requests().filter(|(_, played)| !played.load(Ordering::Relaxed));
        let unused = unused.map(|(one, _)| format!("frame {}: {}", one.seq, words(&one.message)));
        Report { unknown, told, requests: requests().count(), unused: unused.collect() }
    }

    /// A stage for one session, or for all who have none.
    pub(crate) fn stage(&self, transposed: bool) -> Arc<Stage> {
        if transposed || self.era() == Era::Modern {
            Arc::clone(self.shared.get_or_init(|| Arc::new(Stage::new(transposed))))
        } else {
            Arc::default()
        }
    }

    /// Which messages of the tape are equal to this one.
    fn equal(&self, message: &Message) -> Vec<usize> {
        let of_method = || (0..self.compared.len()).filter(|at| self.is_alike(message, *at));
        let wanted = params(message, &self.options.ignore);
        let equal: Vec<usize> = of_method().filter(|at| self.agrees(*at, &wanted)).collect();
        // Who a client is and what it can do is its own affair, and so is whatever it says with a notification.
        let is_free = matches!(message.known(), Some(Known::Initialize | Known::Discover))
            || message.kind() == Kind::Notification;
        if equal.is_empty() && is_free { of_method().collect() } else { equal }
    }

    /// Whether the message at this place of the tape is equal to this one.
    fn is_equal(&self, message: &Message, at: usize) -> bool {
        self.is_alike(message, at) && self.agrees(at, &params(message, &self.options.ignore))
    }

    fn is_alike(&self, message: &Message, at: usize) -> bool {
        let one = &self.episodes.all[at].message;
        one.kind() == message.kind() && one.method() == message.method()
    }

    fn agrees(&self, at: usize, wanted: &Value) -> bool {
        let redacted = &self.episodes.all[at].redacted;
        if redacted.is_empty() {
            return self.compared[at] == *wanted;
        }
        let mut wanted = wanted.clone();
        remove(&mut wanted, redacted.iter().filter_map(|pointer| pointer.strip_prefix("/params")));
        self.compared[at] == wanted
    }

    /// How long is waited where the tape says so many microseconds.
    fn wait(&self, recorded: u64) -> Duration {
        let Timing { factor, cap } = self.options.timing;
        Duration::from_micros(recorded).mul_f64(factor).min(cap)
    }

    fn note_played(&self, at: usize) {
        self.played[at].store(true, Ordering::Relaxed);
    }

    /// Notes a request that is not on the tape, and says so in an answer to it.
    fn refuse(&self, request: &Message) -> Option<Bytes> {
        let why = self.why_unknown(request);
        let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        unknown.0 += 1;
        if unknown.1.len() < TOLD_MAX {
            unknown.1.push(why.text.clone());
        }
        drop(unknown);
        Some(own::unknown(&request.id()?, &why))
    }

    fn why_unknown(&self, request: &Message) -> Unknown {
        let asked = words(request);
        let wanted = params(request, &self.options.ignore);
        let requests = || (0..self.compared.len()).filter(|at| self.episodes.all[*at].message.kind() == Kind::Request);
        let nearest = requests()
            .filter(|at| self.is_alike(request, *at))
            .min_by_key(|at| differences(&self.compared[*at], &wanted).len());
        let Some(at) = nearest else {
            let mut methods: Vec<&str> = requests().filter_map(|at| self.episodes.all[at].message.method()).collect();
            methods.sort_unstable();
            methods.dedup();
            let has = if methods.is_empty() {
                "no requests at all".to_owned()
            } else {
                format!("only {}", methods.join(", "))
            };
            return Unknown { text: format!("{asked}; the tape has {has}"), nearest: None };
        };
        let episode = &self.episodes.all[at];
        let differs = differences(&self.compared[at], &wanted);
        let text = if differs.is_empty() {
            format!("{asked}; the tape has it in frame {}, but not next", episode.seq)
        } else {
            let shown =
                differs.iter().take(DIFFERENCES_MAX).map(|pointer| format!("/params{pointer}")).collect::<Vec<_>>();
            format!(
                "{asked}; nearest is frame {}: {}, which differs at {}",
                episode.seq,
                words(&episode.message),
                shown.join(", ")
            )
        };
        let params = &self.compared[at];
        let nearest = json!({ "frame": episode.seq, "method": episode.message.method(), "params": params, "differs": differs.iter().take(DIFFERENCES_MAX).map(|pointer| format!("/params{pointer}")).collect::<Vec<_>>() });
        Unknown { text, nearest: Some(nearest) }
    }
}

/// A request for people: its method, and what it is about.
fn words(message: &Message) -> String {
    let method = message.method().unwrap_or_default();
    let about = message.known().and_then(Known::name_param).and_then(|(param, _)| message.param_str(param));
    about.map_or_else(|| method.to_owned(), |about| format!("{method} `{about}`"))
}

/// The parameters as they are compared: without metadata, and without what may differ.
fn params(message: &Message, ignore: &[String]) -> Value {
    let mut params: Value = message.body().and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
    if let Value::Object(map) = &mut params {
        map.remove(meta::META);
    }
    remove(&mut params, ignore.iter().map(String::as_str));
    if params.as_object().is_some_and(|map| map.is_empty()) { Value::Null } else { params }
}

/// Takes out what pointers point to.
fn remove<'p>(value: &mut Value, pointers: impl Iterator<Item = &'p str>) {
    for pointer in pointers {
        let Some((parent, name)) = pointer.rsplit_once('/') else { continue };
        let name = name.replace("~1", "/").replace("~0", "~");
        match value.pointer_mut(parent) {
            Some(Value::Object(map)) => drop(map.remove(&name)),
            // What lies behind it keeps its place.
            Some(Value::Array(all)) => {
                if let Some(one) = name.parse::<usize>().ok().and_then(|at| all.get_mut(at)) {
                    *one = Value::Null;
                }
            }
            _ => {}
        }
    }
}

/// Where two values differ: pointers.
fn differences(one: &Value, other: &Value) -> Vec<String> {
    let mut found = Vec::new();
    differ("", one, other, &mut found);
    found
}

fn differ(at: &str, one: &Value, other: &Value, found: &mut Vec<String>) {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            for name in names {
                let at = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
                match (one.get(name), other.get(name)) {
                    (Some(one), Some(other)) => differ(&at, one, other, found),
                    _ => found.push(at),
                }
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (index, (one, other)) in one.iter().zip(other).enumerate() {
                differ(&format!("{at}/{index}"), one, other, found);
            }
        }
        (one, other) if one == other => {}
        _ => found.push(at.to_owned()),
    }
}
