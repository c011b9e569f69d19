//! One connection to an upstream, as tapes see it.
//!
//! Connections are made before it is known for whom, change hands, and are shared. So a connection keeps what it has to note until
//! somebody uses it, and then knows for whom each call is. What belongs to no call is for all who use it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

use super::current;
use super::note::{FROM_UPSTREAM, Head, Note, TO_UPSTREAM};
use super::recorder::Tape;
use crate::metrics::TapeMetrics;
use crate::protocol::id::RequestId;
use crate::protocol::message::{Incoming, Kind, Message};
use crate::protocol::meta;
use crate::protocol::method::Known;
use crate::protocol::sse::Event;

/// Most that is kept of a connection which nobody uses yet: a handshake, and what a server says around it.
const HELD_MAX: usize = 256;
/// Most bytes of that.
const HELD_BYTES_MAX: usize = 1 << 20;
/// Most calls of which it is remembered for whom they are.
const CALLS_MAX: usize = 4096;
/// How many may use a connection before it is looked whose tapes have ended.
const USERS_MIN: usize = 16;
/// Deepest nesting of what is looked at to find out for whom it is. What is deeper is for all.
const DEPTH_MAX: usize = 128;

/// See the module.
pub(crate) struct Line {
    metrics: TapeMetrics,
    exchanges: Arc<AtomicU64>,
    /// Held for a look or a note, never over an await.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Those who use it, by the numbers of their tapes.
    users: BTreeMap<u64, User>,
    /// When there are so many of them, those whose tapes have ended are looked for.
    users_looked_at: usize,
    /// Calls without an answer, and for whom they are.
    calls: BTreeMap<i64, User>,
    held: Vec<Note>,
    held_bytes: usize,
}

/// Somebody who uses the connection.
#[derive(Clone)]
struct User {
    tape: Tape,
    /// The number that the connection has on that tape.
    connection: u64,
}

impl User {
    fn note(&self, note: Note) {
        self.tape.note_now(note.over(self.connection));
    }
}

impl Line {
    pub(super) fn new(metrics: TapeMetrics, exchanges: &Arc<AtomicU64>) -> Arc<Line> {
        Arc::new(Line { metrics, exchanges: Arc::clone(exchanges), state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever does this uses the connection.
    pub(crate) fn attach(&self) {
        if let Some(tape) = current() {
            let _ = self.state().attach(&tape);
        }
    }

    /// Whoever does this makes that call.
    pub(crate) fn begin(&self, id: i64) {
        let Some(tape) = current() else { return };
        let mut state = self.state();
        let user = state.attach(&tape);
        state.calls.insert(id, user);
        if state.calls.len() > CALLS_MAX {
            state.calls.pop_first();
        }
    }

    /// A message is sent, over what carries many of them: this call, if it is one.
    pub(crate) fn sent(&self, call: Option<i64>, text: &Bytes) {
        let owner = |state: &mut State| match call {
            Some(id) => state.calls.get(&id).cloned(),
            None if state.users.len() > 1 => state.owner(&Message::parse(text.clone(), DEPTH_MAX).ok()?, false),
            None => None,
        };
        self.note(Note::message(TO_UPSTREAM, text.clone()).of_json(), owner);
    }

    /// A message has come, over what carries many of them; what was read of it, if it could be.
    pub(crate) fn heard(&self, text: &Bytes, said: Option<&Incoming>) {
        let note = Note::message(FROM_UPSTREAM, text.clone());
        match said {
            Some(Incoming::One(message)) => self.note(note.of_json(), |state| state.owner(message, true)),
            Some(Incoming::Batch(_)) => self.note(note.of_json(), |_| None),
            None => self.note(note, |_| None),
        }
    }

    /// The connection was lost, or the server has ended it.
    pub(crate) fn closed(&self, reason: &str) {
        self.note(Note::close(FROM_UPSTREAM, reason), |_| None);
    }

    /// The connection is not used any more.
    pub(crate) fn hung_up(&self, reason: &str) {
        self.note(Note::close(TO_UPSTREAM, reason), |_| None);
    }

    /// Whether there is room for more, or the policy is not to wait for it.
    pub(crate) fn has_room(&self) -> bool {
        // All of them write to the same disk.
        self.state().users.first_key_value().is_none_or(|(_, user)| user.tape.has_room())
    }

    /// Waits until there is room for more, where the policy is to wait.
    ///
    /// # Cancel safety
    /// Nothing is held while it waits.
    pub(crate) async fn room(&self) {
        let user =
            self.state().users.first_key_value().map(|(_, user)| &user.tape).filter(|tape| !tape.has_room()).cloned();
        if let Some(tape) = user {
            tape.room().await;
        }
    }

    /// An HTTP request is sent, for whoever does this.
    pub(crate) fn request(self: &Arc<Self>, method: &Method, headers: &HeaderMap, body: &Bytes) -> Exchange {
        let user = current().map(|tape| self.state().attach(&tape));
        let number = self.exchanges.fetch_add(1, Ordering::Relaxed) + 1;
        let exchange = Exchange { line: Arc::clone(self), number, user, over: AtomicBool::new(false) };
        let head = Head::request(method, headers);
        exchange.note(if body.is_empty() {
            Note::http(TO_UPSTREAM, head)
        } else {
            Note::message(TO_UPSTREAM, body.clone()).of_json().head(head)
        });
        exchange
    }

    /// Notes something for the one whom it concerns; what concerns nobody, or it is not known whom, for all who use the connection.
    fn note(&self, note: Note, owner: impl FnOnce(&mut State) -> Option<User>) {
        let mut state = self.state();
        if let Some(owner) = owner(&mut state) {
            return owner.note(note);
        }
        state.forget_ended();
        let Some((_, last)) = state.users.last_key_value() else {
            if state.held.len() >= HELD_MAX || state.held_bytes + note.size() > HELD_BYTES_MAX {
                self.metrics.lost("nobody", note.loss().notes);
            } else {
                state.held_bytes += note.size();
                state.held.push(note);
            }
            return;
        };
        for user in state.users.values().take(state.users.len() - 1) {
            user.note(note.clone());
        }
        last.note(note);
    }
}

impl State {
    fn attach(&mut self, tape: &Tape) -> User {
        if let Some(known) = self.users.get(&tape.number()) {
            return known.clone();
        }
        if self.users.len() >= self.users_looked_at {
            self.forget_ended();
            self.users_looked_at = (2 * self.users.len()).max(USERS_MIN);
        }
        let user = User { tape: tape.clone(), connection: tape.connection() };
        self.users.insert(tape.number(), user.clone());
        self.held_bytes = 0;
        for note in std::mem::take(&mut self.held) {
            user.note(note);
        }
        user
    }

    fn forget_ended(&mut self) {
        self.users.retain(|_, user| !user.tape.is_ended());
    }

    /// For whom a message is.
    fn owner(&mut self, message: &Message, from_upstream: bool) -> Option<User> {
        let by_id = |json: Option<&str>| json?.parse::<i64>().ok();
        match (message.kind(), message.known()) {
            (Kind::Result | Kind::Error, _) if from_upstream => self.calls.remove(&message.own_id()?),
            (Kind::Request, _) if !from_upstream => self.calls.get(&message.own_id()?).cloned(),
            (Kind::Notification, Some(Known::Progress)) => {
                self.calls.get(&by_id(message.param(meta::PROGRESS_TOKEN))?).cloned()
            }
            (Kind::Notification, Some(Known::Cancelled)) => {
                let id = message.param(meta::REQUEST_ID).and_then(RequestId::from_json)?;
                self.calls.get(&id.as_integer()?).cloned()
            }
            _ => self.calls.get(&by_id(message.meta(meta::SUBSCRIPTION_ID))?).cloned(),
        }
    }
}

/// One HTTP request to an upstream, and what answers it. Dropped before it is over, it was taken back.
pub(crate) struct Exchange {
    line: Arc<Line>,
    number: u64,
    user: Option<User>,
    /// Nothing more comes of it that matters.
    over: AtomicBool,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Exchange {
    fn note(&self, note: Note) {
        self.line.note(note.of(self.number), |_| self.user.clone());
    }

    /// The head of the response, if its body is a stream or empty.
    pub(crate) fn answered(&self, status: StatusCode, headers: &HeaderMap) {
        self.note(Note::http(FROM_UPSTREAM, Head::response(status, headers)));
    }

    /// The whole response.
    pub(crate) fn answered_with(&self, status: StatusCode, headers: &HeaderMap, text: &Bytes) {
        let head = Head::response(status, headers);
        self.note(Note::message(FROM_UPSTREAM, text.clone()).head(head));
        self.finish();
    }

    /// What is still to come does not matter.
    pub(crate) fn finish(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// An event of the response.
    pub(crate) fn event(&self, event: &Event) {
        self.note(Note::event(FROM_UPSTREAM, event));
    }

    /// There is no response, or no more of it.
    pub(crate) fn closed(&self, reason: &str) {
        self.note(Note::close(FROM_UPSTREAM, reason));
        self.finish();
    }

    /// See [`Line::has_room`].
    pub(crate) fn has_room(&self) -> bool {
        self.line.has_room()
    }

    /// Waits until there is room for more, where the policy is to wait.
    ///
    /// # Cancel safety
    /// Nothing is held while it waits.
    pub(crate) async fn room(&self) {
        self.line.room().await;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.over.load(Ordering::Relaxed) {
            self.note(Note::close(TO_UPSTREAM, "not waited for any longer"));
        }
    }
}

#[cfg(test)]
mod tests;
