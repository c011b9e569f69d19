//! A tape as a server: what it answers, in which order, and what it was asked that it does not have (C-TAPE-4).
//!
//! A [`Replay`] is an upstream like any other ([`Target::Tape`](crate::settings::Target::Tape)): what stands in front of it are the
//! proxy's own sessions, fronts and bridges, so that a tape of either era serves clients of both.
//!
//! ```
//! use std::sync::Arc;
//! use shadowcat::replay::{Options, Replay};
//! use shadowcat::server::Running;
//! use shadowcat::settings::{Settings, TapeTarget, Target, UpstreamSettings};
//! use shadowcat::tape::Tape;
//!
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! let tape = Tape::open("fixtures/tapes/echo.tape.jsonl")?;
//! let replay = Arc::new(Replay::new(&tape.header, &tape.frames, Options::default()));
//! let target = Target::Tape(TapeTarget::new(Arc::clone(&replay)));
//! let server = Running::start(Settings::for_upstream(UpstreamSettings::new("tape", target))).await?;
//! println!("clients connect to http://{}/mcp", server.address());
//! server.shutdown().await;
//! assert_eq!(replay.report().unknown, 0);
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

pub(crate) mod added;
pub(crate) mod episodes;
mod own;
pub(crate) mod player;
pub(crate) mod stage;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::protocol::message::{Kind, Message};
use crate::protocol::method::Known;
use crate::protocol::revision::Era;
use crate::tape::format::{Edge, Frame, Header};
pub use crate::tape::matching::Order;
use crate::tape::pointer::Pointers;
use added::Added;
use episodes::{Episode, Episodes, Learner, Step};
use stage::{Inbox, Missed, Stage, is_aside};

/// Longest wait for one message, whatever the cap.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);
/// Most requests that were not on the tape which are told one by one.
const TOLD_MAX: usize = 20;

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

/// What becomes of a request that is not on the tape.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Unknown {
    /// It is refused.
    #[default]
    Refuse,
    /// Whoever stands behind the tape is asked, each time, and what comes of that is added to the tape.
    Record,
    /// Whoever stands behind the tape is asked, once: when it has answered, that is on the tape. But for what is asked for its effect,
    /// and for tasks, whose state changes: those are asked each time.
    Learn,
}

/// How a tape is replayed.
#[derive(Debug, Clone)]
pub struct Options {
    /// In which order it is asked.
    pub order: Order,
    /// When it answers.
    pub timing: Timing,
    /// What of a request may differ, besides `_meta`: pointers into the message.
    pub ignore: Pointers,
    /// Whose words are replayed; without it, the server's, if they were recorded.
    pub edge: Option<Edge>,
    /// What becomes of what is not on the tape.
    pub unknown: Unknown,
    /// Nothing is said before all has been that stands before it on the tape, for up to this time.
    pub in_step: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            order: Order::Any,
            timing: Timing::NONE,
            ignore: Pointers::default(),
            edge: None,
            unknown: Unknown::Refuse,
            in_step: None,
        }
    }
}

/// A tape that is replayed. See the module.
#[derive(Debug)]
pub struct Replay {
    pub(crate) episodes: Episodes,
    pub(crate) options: Options,
    played: Vec<AtomicBool>,
    unknown: Mutex<(u64, Vec<String>)>,
    /// How much of the tape has been heard and said, by all players.
    heard: AtomicUsize,
    said: AtomicUsize,
    players: Mutex<Vec<Weak<Inbox>>>,
    /// The session of all who have none of their own with the server of the tape.
    shared: OnceLock<Arc<Stage>>,
    /// What is to be added to the tape.
    added: Added,
    /// What of that is replayed already.
    learned: RwLock<Learned>,
}

#[derive(Debug, Default)]
struct Learned {
    learner: Learner,
    episodes: Vec<Arc<Episode>>,
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
    /// Takes the frames of a tape in order, those on the edge that is asked for: if none is, on that of the upstream, if that was
    /// recorded, else on the client's.
    #[must_use]
    pub fn new<'f>(header: &Header, frames: impl IntoIterator<Item = &'f Frame>, mut options: Options) -> Replay {
        let recorded = if header.edges.contains(&Edge::Upstream) { Edge::Upstream } else { Edge::Client };
        let (edge, all) = (options.edge.unwrap_or(recorded), frames.into_iter().collect::<Vec<_>>());
        let added = Added::after(edge, &all);
        let episodes = Episodes::of(edge, all);
        let redacted = episodes.all.iter().flat_map(|episode| &episode.redacted).map(String::as_str);
        // What was taken out is not there to be compared.
        options.ignore = options.ignore.and(Pointers::parse(redacted).unwrap_or_default());
        let played = episodes.all.iter().map(|_| AtomicBool::new(false)).collect();
        Replay {
            played,
            unknown: Mutex::default(),
            heard: AtomicUsize::new(0),
            said: AtomicUsize::new(0),
            players: Mutex::default(),
            shared: OnceLock::new(),
            added,
            learned: RwLock::default(),
            episodes,
            options,
        }
    }

    /// An episode: of the tape, or behind those one that was learned.
    fn episode(&self, at: usize) -> Arc<Episode> {
        let of_tape = &self.episodes.all;
        match of_tape.get(at) {
            Some(episode) => Arc::clone(episode),
            None => {
                Arc::clone(&self.learned.read().unwrap_or_else(PoisonError::into_inner).episodes[at - of_tape.len()])
            }
        }
    }

    /// What was learned after so much of it, with the places of episodes.
    fn learned_since(&self, known: usize) -> Vec<(usize, Arc<Episode>)> {
        let learned = self.learned.read().unwrap_or_else(PoisonError::into_inner);
        let places = self.episodes.all.len()..;
        places.zip(&learned.episodes).skip(known).map(|(at, episode)| (at, Arc::clone(episode))).collect()
    }

    /// Something passed between the client and whoever stands behind the tape, over this connection to it.
    pub(crate) fn add(&self, upward: bool, connection: u64, text: Bytes, now: Instant) {
        let Some(mut frame) = self.added.push(upward, connection, text, now) else { return };
        if self.options.unknown != Unknown::Learn {
            return;
        }
        // Requests of several connections may have the same ids.
        frame.connection = Some(connection);
        let mut learned = self.learned.write().unwrap_or_else(PoisonError::into_inner);
        let Learned { learner, episodes } = &mut *learned;
        episodes.extend(learner.see(&frame).filter(|episode| is_learned(&episode.message)).map(Arc::new));
    }

    /// What is to be added to the tape.
    pub(crate) fn added(&self) -> &Added {
        &self.added
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

    /// A stage for one session, or for all who have none. Where the proxy is played through, its connections are those of the tape.
    pub(crate) fn stage(&self, transposed: bool) -> Arc<Stage> {
        let stage = || Arc::new(Stage::new(self, transposed));
        let is_shared = transposed || self.era() == Era::Modern || self.options.in_step.is_some();
        if is_shared { Arc::clone(self.shared.get_or_init(stage)) } else { stage() }
    }

    /// How long is waited where the tape says so many microseconds.
    fn wait(&self, recorded: u64) -> Duration {
        let Timing { factor, cap } = self.options.timing;
        // A tape may say anything.
        let longest = cap.min(WAIT_MAX).as_micros() as f64;
        Duration::from_micros((recorded as f64 * factor).min(longest) as u64)
    }

    /// Whether all that stands before this step on the tape has happened, if that matters.
    fn is_time_for(&self, step: &Step) -> bool {
        let happened = |count: &AtomicUsize, needed: usize| count.load(Ordering::Relaxed) >= needed;
        self.options.in_step.is_none() || (happened(&self.heard, step.heard) && happened(&self.said, step.said))
    }

    /// Whether all has been said to the server that was before this frame.
    pub(crate) fn is_abreast(&self, seq: u64) -> bool {
        let before = self.episodes.heard.partition_point(|heard| *heard < seq);
        self.heard.load(Ordering::Relaxed) >= before
    }

    /// Wakes whoever holds this whenever something of the tape has happened.
    pub(crate) fn join(&self, player: &Arc<Inbox>) {
        let mut players = self.players.lock().unwrap_or_else(PoisonError::into_inner);
        players.retain(|player| player.strong_count() > 0);
        players.push(Arc::downgrade(player));
    }

    /// Something of the tape happened: others may have waited for it.
    fn happened(&self, heard: usize, said: usize) {
        self.heard.fetch_add(heard, Ordering::Relaxed);
        self.said.fetch_add(said, Ordering::Relaxed);
        if self.options.in_step.is_some() {
            let players = self.players.lock().unwrap_or_else(PoisonError::into_inner);
            players.iter().filter_map(Weak::upgrade).for_each(|player| player.wake());
        }
    }

    fn note_played(&self, at: usize) {
        if let Some(played) = self.played.get(at) {
            played.store(true, Ordering::Relaxed);
        }
    }

    /// Notes a request that is not on the tape, and says so in an answer to it.
    fn refuse(&self, request: &Message, missed: &Missed) -> Option<Bytes> {
        let why = missed.told(self);
        let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        unknown.0 += 1;
        if unknown.1.len() < TOLD_MAX {
            unknown.1.push(format!("{}: {why}", words(request)));
        }
        drop(unknown);
        Some(own::unknown(&request.id()?, &why, missed.nearest(self)))
    }
}

/// Whether an answer holds for the next such request, too.
fn is_learned(request: &Message) -> bool {
    let state = [
        Known::SetLevel,
        Known::ResourcesSubscribe,
        Known::ResourcesUnsubscribe,
        Known::TasksGet,
        Known::TasksResult,
        Known::TasksList,
        Known::TasksCancel,
        Known::TasksUpdate,
    ];
    !is_aside(request) && request.known().is_none_or(|known| !state.contains(&known))
}

/// A request for people: its method, and what it is about.
fn words(message: &Message) -> String {
    let method = message.method().unwrap_or_default();
    let about = message.known().and_then(Known::name_param).and_then(|(param, _)| message.param_str(param));
    about.map_or_else(|| method.to_owned(), |about| format!("{method} `{about}`"))
}
