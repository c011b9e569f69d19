//! What the players of one session have in common: how far the tape has been played, and what is told to all of them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;

use super::{Order, Replay, own};
use crate::protocol::message::{Kind, Message};
use crate::protocol::method::Known;

/// Most messages that wait for one player; it is there to take them.
const INBOX_MAX: usize = 1024;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    /// Which episodes have been played here.
    played: Mutex<Vec<bool>>,
    /// Those who ask are not those for whom the tape was made: they ask for less, and for more, in between.
    transposed: bool,
    inboxes: Mutex<Vec<Weak<Inbox>>>,
}

/// What a request is answered with.
pub(crate) enum Part {
    /// The tape.
    Episode(usize),
    /// It listens to all that is told on the tape: this is its acknowledgement.
    Listen(Bytes),
    /// An answer that is on no tape and needs none.
    Own(Bytes),
    /// Nothing.
    Unknown,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stage {
    pub(crate) fn new(transposed: bool) -> Stage {
        Stage { transposed, ..Stage::default() }
    }

    /// A new player's inbox.
    pub(super) fn join(&self) -> Arc<Inbox> {
        let inbox = Arc::new(Inbox::default());
        let mut inboxes = lock(&self.inboxes);
        inboxes.retain(|inbox| inbox.strong_count() > 0);
        inboxes.push(Arc::downgrade(&inbox));
        inbox
    }

    /// Tells all players but one.
    pub(super) fn tell(&self, message: &Bytes, but: &Arc<Inbox>) {
        let inboxes: Vec<_> = lock(&self.inboxes).iter().filter_map(Weak::upgrade).collect();
        inboxes.iter().filter(|inbox| !Arc::ptr_eq(inbox, but)).for_each(|inbox| inbox.put(message.clone()));
    }

    /// Finds what a request is answered with, and notes that it has been: equal ones are answered in the order of the tape, and
    /// after that with the last answer.
    pub(super) fn take(&self, replay: &Replay, request: &Message) -> Part {
        if let Some(episode) = self.find(replay, request) {
            return Part::Episode(episode);
        }
        let Some(id) = request.id() else { return Part::Unknown };
        match request.known() {
            Some(Known::Listen) => Part::Listen(own::acknowledgement(request, &id)),
            Some(Known::Ping) => Part::Own(own::empty(&id)),
            // The bridge asks these on behalf of clients that have other words for them.
            Some(Known::SetLevel | Known::ResourcesSubscribe | Known::ResourcesUnsubscribe) if self.transposed => {
                Part::Own(own::empty(&id))
            }
            Some(Known::Initialize | Known::Discover) => {
                own::greeting(request, &id, &replay.episodes).map_or(Part::Unknown, Part::Own)
            }
            _ => Part::Unknown,
        }
    }

    /// The episode that this message begins.
    pub(super) fn find(&self, replay: &Replay, message: &Message) -> Option<usize> {
        let all = &replay.episodes.all;
        let mut played = lock(&self.played);
        played.resize(all.len(), false);
        let found = if replay.options.order == Order::Strict && !is_aside(message) {
            let next = (0..all.len()).find(|at| !played[*at] && !is_aside(&all[*at].message))?;
            replay.is_equal(message, next).then_some(next)
        } else {
            let equal = replay.equal(message);
            let fresh = equal.iter().copied().find(|at| !played[*at]);
            fresh.or_else(|| equal.last().copied())
        }?;
        played[found] = true;
        drop(played);
        replay.note_played(found);
        Some(found)
    }
}

/// Whether it has no place in the order of requests.
fn is_aside(message: &Message) -> bool {
    message.kind() != Kind::Request
        || matches!(message.known(), Some(Known::Ping | Known::Initialize | Known::Discover | Known::Listen))
}

/// What others have for a player.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    messages: Mutex<VecDeque<Bytes>>,
    waker: AtomicWaker,
}

impl Inbox {
    fn put(&self, message: Bytes) {
        let mut messages = lock(&self.messages);
        if messages.len() < INBOX_MAX {
            messages.push_back(message);
        }
        drop(messages);
        self.waker.wake();
    }

    pub(super) fn take(&self) -> Option<Bytes> {
        lock(&self.messages).pop_front()
    }

    /// Whether there is something.
    pub(crate) fn poll(&self, context: &Context<'_>) -> Poll<()> {
        self.waker.register(context.waker());
        if lock(&self.messages).is_empty() { Poll::Pending } else { Poll::Ready(()) }
    }
}
