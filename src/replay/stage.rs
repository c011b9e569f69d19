//! What the players of one session have in common: how far the tape has been played, and what is told to all of them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use serde_json::{Value, json};

use super::{Order, Replay, Unknown, own, words};
use crate::protocol::message::{Kind, Message};
use crate::protocol::method::Known;
use crate::tape::matching::{Key, Matcher, Miss, Rules};

/// Most messages that wait for one player; it is there to take them.
const INBOX_MAX: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(crate) struct Stage {
    inner: Mutex<Inner>,
    /// Those who ask are not those for whom the tape was made: they ask for less, and for more, in between.
    transposed: bool,
    inboxes: Mutex<Vec<Weak<Inbox>>>,
}

#[derive(Debug)]
struct Inner {
    /// What has a place in the order of requests, and what has not.
    parts: [Part; 2],
    /// How much of what was learned is in them.
    learned: usize,
}

#[derive(Debug)]
struct Part {
    matcher: Matcher,
    /// Episodes by their places.
    episodes: Vec<usize>,
}

/// What a request is answered with.
pub(super) enum Found {
    /// The tape.
    Episode(usize),
    /// It listens to all that is told on the tape: this is its acknowledgement.
    Listen(Bytes),
    /// An answer that is on no tape and needs none.
    Own(Bytes),
    /// Nothing.
    Missed(Missed),
}

/// Why the tape has no answer to a request, and the episode that comes nearest.
#[derive(Debug)]
pub(super) struct Missed {
    miss: Miss,
    nearest: Option<usize>,
}

impl Missed {
    pub(super) fn told(&self, replay: &Replay) -> String {
        self.miss.told(|_| {
            let nearest = self.nearest.map(|nearest| replay.episode(nearest));
            nearest.map_or_else(String::new, |one| format!("frame {}, {}", one.seq, words(&one.message)))
        })
    }

    /// For a program.
    pub(super) fn nearest(&self, replay: &Replay) -> Option<Value> {
        let nearest = replay.episode(self.nearest?);
        let differs: Vec<&str> =
            self.miss.nearest.iter().flat_map(|(_, all)| all).map(|one| one.path.as_str()).collect();
        Some(json!({ "frame": nearest.seq, "method": nearest.message.method(), "differs": differs }))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stage {
    pub(super) fn new(replay: &Replay, transposed: bool) -> Stage {
        let part = |order: Order| {
            let rules = Rules { order, ignore: replay.options.ignore.clone(), again: true };
            Part { matcher: Matcher::new(rules, []), episodes: Vec::new() }
        };
        let mut inner = Inner { parts: [part(replay.options.order), part(Order::Any)], learned: 0 };
        for (at, episode) in replay.episodes.all.iter().enumerate() {
            inner.put(at, &episode.message, Matcher::push);
        }
        // For whoever comes later, the tape has what was learned.
        for (at, episode) in replay.learned_since(0) {
            inner.put(at, &episode.message, Matcher::push);
            inner.learned += 1;
        }
        Stage { inner: Mutex::new(inner), transposed, inboxes: Mutex::default() }
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
    pub(super) fn take(&self, replay: &Replay, request: &Message) -> Found {
        let missed = match self.find(replay, request) {
            Ok(episode) => return Found::Episode(episode),
            Err(missed) => Found::Missed(missed),
        };
        let Some(id) = request.id() else { return missed };
        match request.known() {
            Some(Known::Ping) => Found::Own(own::empty(&id)),
            _ if replay.options.unknown != Unknown::Refuse => missed,
            Some(Known::Listen) => Found::Listen(own::acknowledgement(request, &id)),
            // The bridge asks these on behalf of clients that have other words for them.
            Some(Known::SetLevel | Known::ResourcesSubscribe | Known::ResourcesUnsubscribe) if self.transposed => {
                Found::Own(own::empty(&id))
            }
            Some(Known::Initialize | Known::Discover) => Found::Own(own::greeting(request, &id, &replay.episodes)),
            _ => missed,
        }
    }

    /// The episode that this message begins.
    pub(super) fn find(&self, replay: &Replay, message: &Message) -> Result<usize, Missed> {
        let mut inner = lock(&self.inner);
        for (at, episode) in replay.learned_since(inner.learned) {
            inner.put(at, &episode.message, Matcher::push_used);
            inner.learned += 1;
        }
        let part = &mut inner.parts[usize::from(is_aside(message))];
        let place = part.matcher.take(message).map_err(|miss| {
            let nearest = miss.nearest.as_ref().map(|(place, _)| part.episodes[*place]);
            Missed { miss, nearest }
        })?;
        let episode = part.episodes[place];
        drop(inner);
        replay.note_played(episode);
        replay.happened(usize::from(replay.episode(episode).counts), 0);
        Ok(episode)
    }
}

impl Inner {
    fn put(&mut self, at: usize, message: &Message, push: impl FnOnce(&mut Matcher, Key)) {
        let part = &mut self.parts[usize::from(is_aside(message))];
        if let Some(key) = Key::of(message, &part.matcher.rules().ignore) {
            push(&mut part.matcher, key);
            part.episodes.push(at);
        }
    }
}

/// Whether it has no place in the order of requests.
pub(super) fn is_aside(message: &Message) -> bool {
    message.kind() != Kind::Request
        || matches!(message.known(), Some(Known::Ping | Known::Initialize | Known::Discover | Known::Listen))
}

/// What others have for a player.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    messages: Mutex<VecDeque<Bytes>>,
    woken: AtomicBool,
    waker: AtomicWaker,
}

impl Inbox {
    fn put(&self, message: Bytes) {
        let mut messages = lock(&self.messages);
        if messages.len() < INBOX_MAX {
            messages.push_back(message);
        }
        drop(messages);
        self.wake();
    }

    /// There is something to look at.
    pub(super) fn wake(&self) {
        self.woken.store(true, Ordering::Release);
        self.waker.wake();
    }

    pub(super) fn take(&self) -> Option<Bytes> {
        lock(&self.messages).pop_front()
    }

    /// Whether there is something.
    pub(crate) fn poll(&self, context: &Context<'_>) -> Poll<()> {
        self.waker.register(context.waker());
        if self.woken.swap(false, Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}
