//! The words of the ledger: what it is asked, what it answers, what it counts.

use std::task::Waker;
use std::time::{Duration, Instant};

/// What a connection is good for. One that is filed under a key serves whoever asks for a key that it fits.
pub(crate) trait Key: Clone + PartialEq {
    /// Whether a connection filed under `held` can serve one who asks for `self`. True where they are equal.
    fn fits(&self, held: &Self) -> bool;
    /// Whether it is kept ahead of need: idleness does not end it.
    fn is_spare(&self) -> bool;
    /// Whether there is at most one that is of use: while somebody has it, others wait for it.
    fn is_single(&self) -> bool {
        false
    }
}

/// What a connection can say of itself at any moment, by looking at flags.
pub(crate) trait Pooled {
    /// It lives, as far as its reader knows (C-POOL-10).
    fn is_usable(&self) -> bool;
    /// Nothing is under way on it: no answer is outstanding.
    fn is_quiescent(&self) -> bool;
}

/// How many, and for how long.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    /// Places.
    pub(crate) max: usize,
    /// Connections that are being created at once.
    pub(crate) creating: usize,
    /// Those who wait for a leased connection to come back: whoever waits, less the places that are not leased.
    pub(crate) queue: usize,
    /// Life of an unused connection, from its last return.
    pub(crate) idle: Duration,
    /// Spares. More than that, which are there when used ones come back as spares, are as any other connection.
    pub(crate) spares: usize,
}

/// The number of a place; never used again.
pub(crate) type Place = u64;
/// The number of one who waits; never used again.
pub(crate) type Ticket = u64;

/// Why a connection is closed by the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// It was unused for too long.
    Idle,
    /// It was old.
    Age,
    /// It was found to be broken.
    Broken,
    /// Something on it was given up and did not end in time.
    Dirty,
    /// Its holder wanted it closed.
    Discarded,
    /// Another kind of connection was needed more.
    Evicted,
    /// The pool was closed.
    Closed,
}

impl Reason {
    /// A word for metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Reason::Idle => "idle",
            Reason::Age => "age",
            Reason::Broken => "broken",
            Reason::Dirty => "dirty",
            Reason::Discarded => "discarded",
            Reason::Evicted => "evicted",
            Reason::Closed => "closed",
        }
    }
}

/// What has to be done outside the lock.
#[must_use]
pub(crate) struct Orders<T> {
    /// To be dropped, which closes them. Without a reason, the end of the connection is known already.
    pub(crate) close: Vec<(T, Option<Reason>)>,
    pub(crate) wake: Vec<Waker>,
    /// To be dropped: a waker may be all that is left of a task, and of what that has.
    pub(crate) spent: Vec<Waker>,
    /// [`Ledger::plan`](super::Ledger::plan) would find something to do.
    pub(crate) plan: bool,
}

impl<T> Orders<T> {
    pub(crate) fn new() -> Orders<T> {
        Orders { close: Vec::new(), wake: Vec::new(), spent: Vec::new(), plan: false }
    }
}

/// The end of a connection that the pool did not want to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) born: Instant,
    /// It ended before anybody noticed that it was broken, so that it was not closed for a [`Reason`].
    pub(crate) unnoticed: bool,
    /// It was counted as a failed start before.
    pub(crate) blamed: bool,
}

/// A connection that changes hands.
#[derive(Debug)]
pub(crate) struct Held<K, T> {
    pub(crate) place: Place,
    pub(crate) key: K,
    pub(crate) conn: T,
    /// Nobody had it before.
    pub(crate) fresh: bool,
}

/// The answer to [`Ledger::ask`](super::Ledger::ask).
pub(crate) enum Ask<K, T> {
    Given(Held<K, T>),
    Wait(Ticket),
    Refused(Refusal),
}

/// Why one who asked gets nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Closed,
    /// Too many wait.
    Queue,
    /// A connection would have to be created, and creation rests after failures.
    Resting,
}

/// How waiting ended.
#[derive(Debug)]
pub(crate) enum Outcome<K, T, E> {
    Given(Held<K, T>),
    Refused(Refusal),
    /// The creation failed; without a reason, it panicked.
    Failed(Option<E>),
}

/// How many are where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) idle: usize,
    pub(crate) leased: usize,
    pub(crate) creating: usize,
    pub(crate) closing: usize,
    pub(crate) waiting: usize,
}

impl Counts {
    /// Places in use.
    pub(crate) fn live(&self) -> usize {
        self.idle + self.leased + self.creating + self.closing
    }
}
