//! One task per connection that carries many messages both ways: a child's pipes, or the two endpoints of HTTP+SSE.
//!
//! The task owns the connection and the table of open calls. It rewrites nothing: ids and tokens arrive already
//! translated (`bridge`), so that they are integers of ours and unique on this connection. What it does is *correlate*:
//! an answer goes to the call with its id, progress to the call with its token, and whatever the server says by itself
//! goes to the one place that [`Sharing`] allows, or to nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::metrics::ServerMetrics;
use crate::protocol::id::RequestId;
use crate::protocol::message::{Incoming, Kind, Message, ParseError, cancelled};
use crate::protocol::meta;
use crate::protocol::method::Known;
use crate::rt::flag::Flag;
use crate::rt::mailbox::{Bounds, PushError, Reader, Time, Writer, mailbox};
use crate::rt::watch::Watch;
use crate::tap::Line;
use crate::upstream::error::UpstreamError;

/// Bytes in, bytes out: what a driver drives.
pub(crate) trait Pipe: Send + 'static {
    /// What happened next. With `read` false nothing is read, which is how back-pressure reaches the server. Cancel safe.
    fn next(&mut self, read: bool) -> impl Future<Output = Event> + Send;
    /// What is there to be reported without waiting, if anything. It need not find all that [`next`](Pipe::next) would.
    fn ready(&mut self) -> Option<Event> {
        None
    }
    /// Queues one message for writing; `id` is the call it belongs to, if it is one.
    fn write(&mut self, id: Option<i64>, line: Bytes);
    /// Takes a call out of the queue if nothing of it was written.
    fn unwrite(&mut self, id: i64) -> bool;
    /// Bytes queued for writing.
    fn queued(&self) -> usize;
    /// The server has asked something: from now on it may be waiting for people, and silent for as long as they may take.
    fn be_patient(&mut self) {}
    /// Ends the connection, for the reason given, and waits until nothing is left of it.
    fn close(self, why: UpstreamError) -> impl Future<Output = ()> + Send;
}

/// What a [`Pipe`] has to report.
#[derive(Debug)]
pub(crate) enum Event {
    /// The text of a message, or of something that should have been one.
    Text(Bytes),
    /// The same, where it had to be read already.
    Read(Result<Incoming, ParseError>),
    /// The first byte of each of these calls was written: from now on its outcome is unknown if the connection breaks.
    Sent(Ids),
    /// This call was not accepted.
    Failed(i64, UpstreamError),
    /// The connection is at its end.
    Closed(UpstreamError),
}

/// Calls, by their ids.
pub(crate) type Ids = SmallVec<[i64; 4]>;

/// Who uses a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Sharing {
    /// One legacy session: what the server says by itself is for its client.
    Exclusive,
    /// Many legacy sessions: what the server says by itself goes to whoever keeps them apart, and nobody can be asked.
    Sessions,
    /// Many unrelated modern requests: what cannot be attributed is for nobody.
    Shared,
    /// Nobody until somebody else has it: what the server says by itself is lost, and it is told that nobody can be asked.
    Nobody,
}

/// What the driver has to know about a call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallFacts {
    /// A server may ask its client something while it works on this.
    pub(crate) may_ask: bool,
    /// Log messages were asked for.
    pub(crate) wants_log: bool,
    /// A timeout or a lost client cancels it; `initialize` must never be cancelled.
    pub(crate) cancellable: bool,
}

/// Everything about a connection that is configured.
#[derive(Debug, Clone)]
pub(crate) struct DriverLimits {
    pub(crate) depth: usize,
    pub(crate) message_bytes: usize,
}

/// How much waits for one client before the server is made to wait.
const EXCLUSIVE_QUEUE: Bounds = Bounds { items: 64, bytes: 1 << 20 };
/// How much waits for one of many clients before its call is given up, since the others must not wait for it.
const SHARED_QUEUE: Bounds = Bounds { items: 1024, bytes: 4 << 20 };
/// After how many messages in a row those who read them get their turn.
const TURN: u32 = 32;
/// Most commands that wait for the driver: senders wait, they are not lost.
const COMMANDS: usize = 64;
/// Most cancelled calls whose late answers are told apart from answers to nothing; the oldest are forgotten.
const TOMBSTONES_MAX: usize = 1024;
/// Most lines in a row that are no messages before the connection is given up.
const JUNK_MAX: u32 = 10_000;

/// Cancellations that the driver has not seen yet: the call and the notification to send.
type Cancels = Vec<(i64, Option<Bytes>)>;

/// A connection, seen from outside its task. When the last clone is dropped, the connection is closed.
#[derive(Clone)]
pub(crate) struct Handle {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
}

struct Shared {
    next_id: AtomicI64,
    /// A [`Sharing`].
    sharing: AtomicU8,
    /// Calls that were begun and not answered, the cancelled ones included.
    outstanding: AtomicUsize,
    /// Held for a push or a take. A queue that could be full would be no place for what `Drop` leaves behind;
    /// its length is bounded by the number of open calls.
    cancels: Mutex<Cancels>,
    /// Raised when there are some.
    has_cancels: Flag,
    closing: CancellationToken,
    gone: CancellationToken,
    why: OnceLock<UpstreamError>,
    /// Who records what passes, if anybody does.
    line: OnceLock<Arc<Line>>,
}

enum Command {
    Call { id: i64, line: Bytes, facts: CallFacts, replies: Writer<Reply> },
    Send { line: Bytes },
}

/// One thing that came back for a call.
pub(crate) type Reply = Result<Message, UpstreamError>;

impl Handle {
    /// A new id for a call on this connection, never used before; also its progress token.
    pub(crate) fn next_id(&self) -> i64 {
        self.shared.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends a request, whose id is `id`.
    ///
    /// # Errors
    /// The connection is gone; nothing was sent.
    ///
    /// # Cancel safety
    /// Dropped before it is done, nothing is sent.
    pub(crate) async fn call(&self, id: i64, line: Bytes, facts: CallFacts) -> Result<Replies, UpstreamError> {
        // One message larger than the bound fits into an empty mailbox, so nothing is too large for it.
        let exclusive = self.shared.sharing() == Sharing::Exclusive;
        let (replies, reader) = mailbox(if exclusive { EXCLUSIVE_QUEUE } else { SHARED_QUEUE });
        let command = Command::Call { id, line, facts, replies };
        let permit = self.commands.reserve().await.map_err(|_| self.why_gone().with_sent(false))?;
        if let Some(line) = self.shared.line.get() {
            line.begin(id);
        }
        self.shared.outstanding.fetch_add(1, Ordering::Relaxed);
        permit.send(command);
        Ok(Replies { id, reader, shared: Arc::clone(&self.shared), open: true })
    }

    /// Sends a notification, or the answer to a request of the server.
    ///
    /// # Errors
    /// The connection is gone; nothing was sent.
    pub(crate) async fn send(&self, line: Bytes) -> Result<(), UpstreamError> {
        self.commands.send(Command::Send { line }).await.map_err(|_| self.why_gone().with_sent(false))
    }

    /// Cancels a call: it is taken out of the queue, or the server is told so by `notification`.
    /// It overtakes what waits to be sent.
    pub(crate) fn cancel(&self, id: i64, notification: Option<Bytes>) {
        self.shared.cancel(id, notification);
    }

    /// What passes is recorded.
    pub(crate) fn watched_by(&self, line: Arc<Line>) {
        let _ = self.shared.line.set(line);
    }

    /// See [`Connection::attach`](super::Connection::attach).
    pub(crate) fn attach(&self) {
        if let Some(line) = self.shared.line.get() {
            line.attach();
        }
    }

    /// From now on these use the connection.
    pub(crate) fn share(&self, sharing: Sharing) {
        self.shared.sharing.store(sharing as u8, Ordering::Relaxed);
    }

    /// Whether everything that was asked has been answered, what was cancelled included.
    pub(crate) fn is_quiescent(&self) -> bool {
        self.shared.outstanding.load(Ordering::Relaxed) == 0
    }

    /// Whether both are handles of the same connection.
    pub(crate) fn is(&self, other: &Handle) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Closes the connection, whoever else holds it.
    pub(crate) fn close(&self) {
        self.shared.closing.cancel();
    }

    /// Cancelled when the connection is gone.
    pub(crate) fn gone(&self) -> &CancellationToken {
        &self.shared.gone
    }

    fn why_gone(&self) -> UpstreamError {
        self.shared.why.get().cloned().unwrap_or(UpstreamError::Closed { sent: false })
    }
}

impl Shared {
    fn sharing(&self) -> Sharing {
        match self.sharing.load(Ordering::Relaxed) {
            0 => Sharing::Exclusive,
            1 => Sharing::Sessions,
            2 => Sharing::Shared,
            _ => Sharing::Nobody,
        }
    }

    /// A call has ended, with the server too.
    fn ended(&self) {
        self.outstanding.fetch_sub(1, Ordering::Relaxed);
    }

    fn cancel(&self, id: i64, notification: Option<Bytes>) {
        self.cancels.lock().unwrap_or_else(PoisonError::into_inner).push((id, notification));
        self.has_cancels.raise();
    }
}

/// What comes back for one call. Dropping it before the final answer cancels the call.
pub(crate) struct Replies {
    id: i64,
    reader: Reader<Reply>,
    shared: Arc<Shared>,
    open: bool,
}

impl Replies {
    /// The next message; the last one is the answer, or an error. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Reply> {
        let reply = self.reader.next().await;
        if reply.as_ref().is_none_or(|reply| reply.as_ref().map_or(true, is_response)) {
            self.open = false;
        }
        reply
    }

    /// Nothing is expected for long.
    pub(crate) fn be_patient(&mut self) {
        self.reader.shrink();
    }

    /// Somebody else has told the server that this call is over.
    pub(crate) fn cancelled(&mut self) {
        self.open = false;
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        if self.open {
            self.shared.cancel(self.id, None);
        }
    }
}

fn is_response(message: &Message) -> bool {
    matches!(message.kind(), Kind::Result | Kind::Error)
}

struct OpenCall {
    facts: CallFacts,
    replies: Writer<Reply>,
    sent: bool,
}

struct Driver<P> {
    pipe: P,
    commands: mpsc::Receiver<Command>,
    shared: Arc<Shared>,
    /// By id, which is also by age.
    calls: BTreeMap<i64, OpenCall>,
    /// Cancelled calls that may still be answered.
    tombstones: BTreeSet<i64>,
    standing: Arc<Writer<Message>>,
    limits: DriverLimits,
    metrics: ServerMetrics,
    junk: u32,
    /// A call of a client has been answered.
    worked: bool,
}

/// Where a message is to go, once there is room.
#[derive(Clone, Copy)]
enum Destination {
    Call(i64),
    /// To whoever had the connection at that time.
    Standing(Time),
}

/// Where what a server says by itself goes.
pub(crate) fn standing() -> (Arc<Writer<Message>>, Reader<Message>) {
    let (writer, reader) = mailbox(EXCLUSIVE_QUEUE);
    (Arc::new(writer), reader)
}

/// Makes a connection out of a pipe: a handle, and the task that somebody has to run. It tells at its end whether a client's
/// call was ever answered. What the server says by itself goes to `standing`.
pub(crate) fn drive<P: Pipe>(
    pipe: P,
    standing: Arc<Writer<Message>>,
    sharing: Sharing,
    limits: DriverLimits,
    metrics: ServerMetrics,
    stop: CancellationToken,
) -> (Handle, impl Future<Output = bool> + Send + 'static) {
    let (commands_tx, commands) = mpsc::channel(COMMANDS);
    let shared = Arc::new(Shared {
        next_id: AtomicI64::new(1),
        sharing: AtomicU8::new(sharing as u8),
        outstanding: AtomicUsize::new(0),
        cancels: Mutex::default(),
        has_cancels: Flag::default(),
        closing: stop.child_token(),
        gone: CancellationToken::new(),
        why: OnceLock::new(),
        line: OnceLock::new(),
    });
    let driver = Driver {
        pipe,
        commands,
        shared: Arc::clone(&shared),
        calls: BTreeMap::new(),
        tombstones: BTreeSet::new(),
        standing,
        limits,
        metrics,
        junk: 0,
        worked: false,
    };
    // The gone token fires even if the task is dropped without having been run to its end.
    let guard = shared.gone.clone().drop_guard();
    let task = async move {
        let _guard = guard;
        driver.run().await
    };
    (Handle { commands: commands_tx, shared }, task)
}

impl<P: Pipe> Driver<P> {
    async fn run(mut self) -> bool {
        let why = self.serve().await;
        if !matches!(why, UpstreamError::Closed { .. }) {
            self.metrics.error("upstream", why.kind());
        }
        let _ = self.shared.why.set(why.clone());
        self.shared.gone.cancel();
        // Calls that were accepted but not looked at yet.
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Call { replies, .. } = command {
                replies.finish(Err(why.clone().with_sent(false)), 0);
            }
        }
        for (_, call) in std::mem::take(&mut self.calls) {
            call.replies.finish(Err(why.clone().with_sent(call.sent)), 0);
        }
        drop(self.standing);
        self.pipe.close(why).await;
        self.worked
    }

    async fn serve(&mut self) -> UpstreamError {
        let shared = Arc::clone(&self.shared);
        // A message that its reader has no room for. Until it is delivered nothing is read from the server.
        let mut blocked: Option<(Destination, Message)> = None;
        let mut in_a_row = 0;
        // The tasks that were ready when something was to be written have had their turn.
        let mut gathered = false;
        let mut closing = Watch::of(shared.closing.clone());
        loop {
            if let Some((destination, message)) = blocked.take() {
                blocked = self.deliver(destination, message);
            }
            let writable = self.pipe.queued() < self.limits.message_bytes;
            tokio::select! {
                biased;
                () = &mut closing => return UpstreamError::Closed { sent: false },
                () = shared.has_cancels.raised() => {
                    shared.has_cancels.lower();
                    self.cancel_calls();
                }
                command = self.commands.recv(), if writable => match command {
                    Some(command) => {
                        // Where many share it, others that are ready may have something to say, too: all of it is written at once.
                        let is_busy = !self.calls.is_empty() && self.sharing() != Sharing::Exclusive;
                        self.accept(command);
                        if is_busy && !std::mem::replace(&mut gathered, true) {
                            tokio::task::yield_now().await;
                        }
                        continue;
                    }
                    None => return UpstreamError::Closed { sent: false },
                },
                event = self.pipe.next(blocked.is_none()) => {
                    gathered = false;
                    let mut event = Some(event);
                    while let Some(happened) = event.take() {
                        match self.happened(happened) {
                            Ok(pending) => blocked = pending,
                            Err(error) => return error,
                        }
                        in_a_row += 1;
                        if in_a_row % TURN == 0 {
                            tokio::task::yield_now().await;
                        } else if blocked.is_none() {
                            event = self.pipe.ready();
                        }
                    }
                }
                () = room(&self.calls, &self.standing, blocked.as_ref()), if blocked.is_some() => {}
            }
        }
    }

    fn sharing(&self) -> Sharing {
        self.shared.sharing()
    }

    /// Takes what the pipe reports. `Ok(Some(…))` is a message that has to wait.
    fn happened(&mut self, event: Event) -> Result<Option<(Destination, Message)>, UpstreamError> {
        match event {
            Event::Text(text) => self.take(Incoming::parse(text, self.limits.depth)),
            Event::Read(said) => self.take(said),
            Event::Sent(ids) => {
                for id in ids {
                    if let Some(call) = self.calls.get_mut(&id) {
                        call.sent = true;
                    }
                }
                Ok(None)
            }
            Event::Failed(id, error) => {
                if let Some(call) = self.calls.remove(&id) {
                    self.shared.ended();
                    call.replies.finish(Err(error), 0);
                }
                Ok(None)
            }
            Event::Closed(error) => Err(error),
        }
    }

    fn accept(&mut self, command: Command) {
        match command {
            Command::Call { id, line, facts, replies } => {
                self.calls.insert(id, OpenCall { facts, replies, sent: false });
                self.pipe.write(Some(id), line);
            }
            Command::Send { line } => self.pipe.write(None, line),
        }
    }

    /// Cancels what its callers gave up, before anything else is written.
    fn cancel_calls(&mut self) {
        // A call may be given up before it was looked at. Its command was sent before that.
        while let Ok(command) = self.commands.try_recv() {
            self.accept(command);
        }
        let cancels = std::mem::take(&mut *self.shared.cancels.lock().unwrap_or_else(PoisonError::into_inner));
        for (id, notification) in cancels {
            let Some(call) = self.calls.remove(&id) else { continue };
            if self.pipe.unwrite(id) {
                self.shared.ended();
                continue;
            }
            self.bury(id);
            if call.facts.cancellable {
                let line = notification.unwrap_or_else(|| cancelled(id));
                self.pipe.write(None, line);
            }
        }
    }

    /// A call was given up that the server may still answer.
    fn bury(&mut self, id: i64) {
        self.tombstones.insert(id);
        if self.tombstones.len() > TOMBSTONES_MAX {
            self.tombstones.pop_first();
            // Its answer would be one to nothing. If it were still waited for, the connection would never be quiet again.
            self.shared.ended();
        }
    }

    /// Takes what the server said. `Ok(Some(…))` is a message that has to wait.
    fn take(&mut self, said: Result<Incoming, ParseError>) -> Result<Option<(Destination, Message)>, UpstreamError> {
        match said {
            Ok(Incoming::One(message)) => {
                self.junk = 0;
                Ok(self.route(message))
            }
            // Only 2025-03-26 has batches, and its servers need not be told apart to be understood.
            Ok(Incoming::Batch(messages)) => {
                let mut waiting = None;
                for message in messages.into_iter().flatten() {
                    if let Some((_, dropped)) = waiting.take() {
                        // A batch that overflows its reader's queue: too rare to wait in the middle of it.
                        self.lose(&dropped);
                    }
                    waiting = self.route(message);
                }
                Ok(waiting)
            }
            Err(error) => {
                let call = error.id.as_ref().and_then(RequestId::as_integer).and_then(|id| self.calls.remove(&id));
                if let Some(call) = call {
                    self.metrics.error("upstream", "violation");
                    self.shared.ended();
                    call.replies.finish(Err(UpstreamError::Violation("its answer is not a JSON-RPC message")), 0);
                    return Ok(None);
                }
                self.junk += 1;
                self.metrics.dropped("not_a_message");
                if self.junk.is_power_of_two() {
                    tracing::warn!(upstream = self.metrics.name(), error = %error.reason, "Server wrote something that is no message");
                }
                if self.junk > JUNK_MAX {
                    return Err(UpstreamError::Violation("it writes what are no messages"));
                }
                Ok(None)
            }
        }
    }

    fn route(&mut self, message: Message) -> Option<(Destination, Message)> {
        // Before it is looked who has the connection: if it changes hands in between, this is for nobody.
        let standing = Destination::Standing(self.standing.now());
        match message.kind() {
            Kind::Result | Kind::Error => {
                self.answer(message);
                None
            }
            Kind::Request if message.known() == Some(Known::Ping) => {
                // The proxy is the client here, and it is alive (2025-11-25, Ping).
                if let Some(id) = message.id() {
                    self.pipe.write(
                        None,
                        Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, id.as_json())),
                    );
                }
                None
            }
            Kind::Request => match (self.sharing(), self.newest(|call| call.facts.may_ask)) {
                (Sharing::Shared | Sharing::Sessions | Sharing::Nobody, _) => {
                    // Which of its clients is to be asked, the server does not say. A modern server has no requests to make (2026-07-28, Patterns), and to a modern child never goes an answer.
                    self.lose(&message);
                    None
                }
                (Sharing::Exclusive, asked) => {
                    self.pipe.be_patient();
                    self.deliver(asked.map_or(standing, Destination::Call), message)
                }
            },
            Kind::Notification => match self.owner(&message, standing) {
                Some(destination) => self.deliver(destination, message),
                None => {
                    self.lose(&message);
                    None
                }
            },
        }
    }

    fn answer(&mut self, message: Message) {
        // Only the spelling that we sent is ours: `"1"` or `1.0` answers nothing.
        let Some(id) = message.own_id() else {
            self.metrics.dropped("unknown_answer");
            return;
        };
        if let Some(call) = self.calls.remove(&id) {
            let bytes = message.text().len();
            // The proxy's own questions are those that must not be cancelled.
            self.worked |= call.facts.cancellable;
            // Before whoever waits for the answer can give the connection back.
            self.shared.ended();
            call.replies.finish(Ok(message), bytes);
        } else if self.tombstones.remove(&id) {
            self.shared.ended();
            self.metrics.dropped("late_answer");
        } else {
            self.metrics.dropped("unknown_answer");
        }
    }

    /// Who a notification is for; `standing` is whoever has the connection.
    fn owner(&mut self, message: &Message, standing: Destination) -> Option<Destination> {
        let by_id = |json: Option<&str>| json?.parse::<i64>().ok();
        if message.known() == Some(Known::Progress) {
            // Progress that nobody waits for any more is for nobody: real clients fail on tokens that they do not know.
            let id = by_id(message.param(meta::PROGRESS_TOKEN))?;
            return self.calls.contains_key(&id).then_some(Destination::Call(id));
        }
        if let Some(subscription) = message.meta(meta::SUBSCRIPTION_ID) {
            let id = by_id(Some(subscription))?;
            return self.calls.contains_key(&id).then_some(Destination::Call(id));
        }
        match (self.sharing(), message.known()) {
            (Sharing::Exclusive, Some(Known::LogMessage | Known::Cancelled)) => {
                Some(self.newest(|_| true).map_or(standing, Destination::Call))
            }
            (Sharing::Exclusive | Sharing::Sessions, _) => Some(standing),
            (Sharing::Nobody, _) => None,
            // A log message belongs to a request that asked for some; which one is only certain if there is one.
            (Sharing::Shared, Some(Known::LogMessage)) => self.only(|call| call.facts.wants_log).map(Destination::Call),
            (Sharing::Shared, _) => self.only(|_| true).map(Destination::Call),
        }
    }

    fn newest(&self, wanted: impl Fn(&OpenCall) -> bool) -> Option<i64> {
        let found = self.calls.iter().rev().find(|(_, call)| call.sent && wanted(call));
        found.or_else(|| self.calls.iter().next_back()).map(|(id, _)| *id)
    }

    fn only(&self, wanted: impl Fn(&OpenCall) -> bool) -> Option<i64> {
        let mut found = self.calls.iter().filter(|(_, call)| wanted(call));
        match (found.next(), found.next()) {
            (Some((id, _)), None) => Some(*id),
            _ => None,
        }
    }

    /// Hands a message over; gives it back if its reader has no room and is worth waiting for.
    fn deliver(&mut self, destination: Destination, message: Message) -> Option<(Destination, Message)> {
        let bytes = message.text().len();
        match destination {
            Destination::Call(id) => {
                let Some(call) = self.calls.get(&id) else {
                    self.lose(&message);
                    return None;
                };
                match call.replies.push(None, Ok(message), bytes, |reply| reply.map(Message::alone)) {
                    Ok(()) => {}
                    Err(PushError::Full(Ok(message))) if self.sharing() == Sharing::Exclusive => {
                        return Some((Destination::Call(id), message));
                    }
                    // A call has one reader.
                    Err(PushError::Full(_) | PushError::Forgotten(_)) => {
                        // One slow client must not stop the others.
                        self.metrics.error("client", "slow");
                        if let Some(call) = self.calls.remove(&id) {
                            call.replies.finish(Err(UpstreamError::SlowClient), 0);
                            self.bury(id);
                            self.pipe.write(None, cancelled(id));
                        }
                    }
                    Err(PushError::Gone) => self.metrics.dropped("client_gone"),
                }
            }
            Destination::Standing(time) => match self.standing.push(Some(time), message, bytes, Message::alone) {
                Ok(()) => {}
                Err(PushError::Full(message)) => return Some((destination, message)),
                Err(PushError::Forgotten(message)) => self.lose(&message),
                Err(PushError::Gone) => self.metrics.dropped("client_gone"),
            },
        }
        None
    }

    /// Nobody gets this message. A request is refused, so that the server does not wait.
    fn lose(&mut self, message: &Message) {
        self.metrics.dropped("no_recipient");
        if self.sharing() != Sharing::Shared
            && let (Kind::Request, Some(id)) = (message.kind(), message.id())
        {
            self.pipe.write(None, Bytes::from(refusal(&id)));
        }
    }
}

/// Waits until the reader of a blocked message has room.
async fn room(calls: &BTreeMap<i64, OpenCall>, standing: &Writer<Message>, blocked: Option<&(Destination, Message)>) {
    match blocked {
        Some((Destination::Call(id), _)) => {
            if let Some(call) = calls.get(id) {
                call.replies.room().await;
            }
        }
        Some((Destination::Standing(_), _)) => standing.room().await,
        None => {}
    }
}

fn refusal(id: &RequestId) -> String {
    use crate::protocol::error::{METHOD_NOT_FOUND, RpcError};
    RpcError::new(METHOD_NOT_FOUND, "no_recipient", "There is no client that could answer this").to_json(Some(id))
}

#[cfg(test)]
mod tests;
