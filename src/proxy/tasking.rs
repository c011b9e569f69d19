//! Calls of clients of 2026-07-28 that became tasks of a server with a handshake: each keeps its connection for as long as
//! somebody may come for its result, and is found by a name that is the proxy's.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, select_all};
use http::HeaderMap;
use tokio::sync::{Notify, watch};
use tokio::time::{Duration, Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::backend::Leased;
use crate::backend::key::Principal;
use crate::bridge::loss::Loss;
use crate::bridge::modern_to_legacy::declared::Declared;
use crate::bridge::modern_to_legacy::question::{self, Question, Raw};
use crate::bridge::modern_to_legacy::task::{self, Described, Detailed, State, Status};
use crate::bridge::modern_to_legacy::upward::about_task;
use crate::metrics::{GaugeGuard, ServerMetrics};
use crate::protocol::id::RequestId;
use crate::protocol::message::{Kind, Message};
use crate::protocol::meta;
use crate::protocol::method::Known;
use crate::settings::{Limits, Timeouts};
use crate::upstream::driver::CallFacts;
use crate::upstream::error::UpstreamError;
use crate::upstream::{Call, Connection, Replies};

/// Most questions of one task that are open at once, and most messages that its server has yet to be told.
const OPEN_MAX: usize = 64;
const TELLING_MAX: usize = 256;
/// How long a server may take to hear what it is told.
const TELLING: Duration = Duration::from_secs(5);
/// How long a task that wants input is given to say which.
const WINDOW: Duration = Duration::from_millis(500);
/// How long a task is looked after when its client has its result: it may have been lost on the way.
const FETCHED_FOR: Duration = Duration::from_secs(60);

/// The tasks of one upstream.
pub(crate) struct Tasking {
    max: usize,
    max_per_principal: usize,
    life: Duration,
    bytes: usize,
    patience: Duration,
    metrics: ServerMetrics,
    /// By their names. Held for a look or a change.
    taken: Mutex<HashMap<String, Place>>,
}

struct Place {
    principal: Option<Principal>,
    since: Instant,
    /// `None` until it is made.
    task: Option<Arc<Task>>,
    _counted: GaugeGuard,
}

/// Room for one task. Dropping it frees it: its name is of no use any more.
pub(crate) struct Room {
    tasking: Arc<Tasking>,
    name: String,
}

impl Drop for Room {
    fn drop(&mut self) {
        let place = self.tasking.taken().remove(&self.name);
        drop(place);
    }
}

impl Tasking {
    pub(crate) fn new(limits: &Limits, timeouts: &Timeouts, metrics: ServerMetrics) -> Tasking {
        Tasking {
            max: limits.tasks,
            max_per_principal: limits.tasks_per_principal,
            life: timeouts.task,
            bytes: limits.parked_bytes,
            patience: timeouts.request,
            metrics,
            taken: Mutex::default(),
        }
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<String, Place>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for one more. `None` if there is none, and no task whose client has its result could make any.
    pub(crate) fn room(self: &Arc<Self>, principal: Option<Principal>) -> Option<Room> {
        let mut name = [0; 16];
        getrandom::fill(&mut name).ok()?;
        let name = URL_SAFE_NO_PAD.encode(name);
        let mut taken = self.taken();
        let of_principal = principal.is_some()
            && taken.values().filter(|one| one.principal == principal).count() >= self.max_per_principal;
        let mut given_up = None;
        if of_principal || taken.len() >= self.max {
            let may_go = |place: &&Place| {
                (!of_principal || place.principal == principal)
                    && place.task.as_ref().is_some_and(|task| task.state().may_go())
            };
            let oldest = taken.iter().filter(|(_, place)| may_go(place)).min_by_key(|(_, place)| place.since);
            let oldest = oldest.map(|(name, _)| name.clone())?;
            given_up = taken.remove(&oldest);
        }
        let since = Instant::now();
        taken.insert(name.clone(), Place { principal, since, task: None, _counted: self.metrics.task() });
        drop(taken);
        if let Some(task) = given_up.and_then(|place| place.task) {
            task.over.cancel();
        }
        Some(Room { tasking: Arc::clone(self), name })
    }

    /// The task of that name, if it is this client's.
    pub(crate) fn find(&self, name: &str, principal: Option<Principal>) -> Option<Arc<Task>> {
        let taken = self.taken();
        taken.get(name).filter(|place| place.principal == principal)?.task.clone()
    }
}

/// One task.
pub(crate) struct Task {
    /// What its client calls it.
    name: String,
    /// What its server calls it (JSON).
    theirs: String,
    connection: Connection,
    headers: Arc<HeaderMap>,
    declared: Declared,
    can_cancel: bool,
    made: Instant,
    /// Cancelled when it is not looked after any more: its connection may be another's from then on.
    over: CancellationToken,
    /// Told of what there is to do for whoever looks after it.
    wake: Notify,
    /// Changes when there may be something to tell.
    changes: watch::Sender<()>,
    bytes: usize,
    patience: Duration,
    metrics: ServerMetrics,
    /// Held for a look or a change.
    state: Mutex<Doing>,
}

struct Doing {
    until: Instant,
    open: Vec<Question>,
    keys: u32,
    /// What the server has yet to be told.
    telling: VecDeque<Message>,
    /// The server wants input, and a stream to ask for it on.
    wants_stream: bool,
    is_cancelled: bool,
    /// The client has seen how it ended.
    is_fetched: bool,
    told_roots: bool,
}

impl Doing {
    /// Whether its client has what there is to have.
    fn may_go(&self) -> bool {
        self.is_fetched || self.is_cancelled
    }

    /// Its client needs it no more, but may not know.
    fn is_not_needed(&mut self) {
        self.until = self.until.min(Instant::now() + FETCHED_FOR);
    }
}

/// What there is when a call has become a task.
pub(super) struct Made {
    pub(super) room: Room,
    pub(super) theirs: String,
    pub(super) described: Described,
    pub(super) connection: Connection,
    pub(super) lease: Leased,
    pub(super) headers: Arc<HeaderMap>,
    pub(super) declared: Declared,
    pub(super) can_cancel: bool,
    /// What the server has asked already.
    pub(super) open: Vec<Question>,
    pub(super) told_roots: bool,
}

/// Begins to look after a task: the answer to its call, and the work that looks after it.
pub(super) fn begin(
    made: Made,
    id: &RequestId,
    drain: CancellationToken,
) -> (Message, impl Future<Output = ()> + Send + 'static) {
    let Made { room, theirs, described, connection, lease, headers, declared, can_cancel, open, told_roots } = made;
    let tasking = &room.tasking;
    let life = described.ttl_ms().map_or(tasking.life, |ttl| tasking.life.min(Duration::from_millis(ttl)));
    let now = Instant::now();
    let state = Doing {
        until: now + life,
        open: Vec::new(),
        keys: 0,
        telling: VecDeque::new(),
        wants_stream: false,
        is_cancelled: false,
        is_fetched: false,
        told_roots,
    };
    let task = Arc::new(Task {
        name: room.name.clone(),
        theirs,
        connection,
        headers,
        declared,
        can_cancel,
        made: now,
        over: CancellationToken::new(),
        wake: Notify::new(),
        changes: watch::Sender::new(()),
        bytes: tasking.bytes,
        patience: tasking.patience,
        metrics: tasking.metrics.clone(),
        state: Mutex::new(state),
    });
    for question in open {
        task.hear(question.words);
    }
    if let Some(place) = tasking.taken().get_mut(&room.name) {
        place.task = Some(Arc::clone(&task));
    }
    let created = task::created(id, described, &task.name, task.life_ms());
    (created, look_after(task, lease, room, drain))
}

impl Task {
    fn state(&self) -> MutexGuard<'_, Doing> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long it is looked after, from its making.
    fn life_ms(&self) -> u64 {
        u64::try_from(self.state().until.saturating_duration_since(self.made).as_millis()).unwrap_or(u64::MAX)
    }

    /// Its server knows nothing of it any more.
    pub(super) fn give_up(&self) {
        if !self.state().may_go() {
            self.metrics.lost(Loss::TaskLost);
        }
        self.over.cancel();
    }

    /// An error of the server, as the answer to a request of its client.
    pub(super) fn refused(&self, error: &Message, id: &RequestId) -> Message {
        let mut losses = Vec::new();
        let refused = task::refused(error, id, &mut losses);
        losses.into_iter().for_each(|loss| self.metrics.lost(loss));
        refused
    }

    /// Something that the server says about it, or by itself.
    fn hear(&self, message: Message) {
        match (message.kind(), message.known()) {
            (Kind::Request, _) => self.asked(message),
            (Kind::Notification, Some(Known::TaskStatus)) => self.changes.send_replace(()),
            (Kind::Notification, Some(Known::Cancelled)) => {
                let withdrawn = message.param(meta::REQUEST_ID).and_then(RequestId::from_json);
                self.state().open.retain(|question| Some(&question.id) != withdrawn.as_ref());
            }
            (Kind::Notification, Some(Known::Progress | Known::LogMessage)) => self.metrics.lost(Loss::TaskSaid),
            (Kind::Notification, _) => self.metrics.dropped("of_no_request"),
            (Kind::Result | Kind::Error, _) => self.metrics.dropped("unknown_answer"),
        }
    }

    fn asked(&self, words: Message) {
        let Some(id) = words.id() else { return self.metrics.dropped("no_id") };
        let mut state = self.state();
        if state.telling.len() >= TELLING_MAX {
            // A server that asks and does not read hears nothing.
            return self.metrics.dropped("not_told");
        }
        let held: usize = state.open.iter().map(|question| question.words.text().len()).sum();
        if !self.declared.allows(&words) {
            self.metrics.lost(Loss::QuestionUndeclared);
            state.telling.push_back(question::not_asked(&id));
        } else if state.open.len() >= OPEN_MAX || held + words.text().len() > self.bytes {
            self.metrics.lost(Loss::QuestionTooMany);
            state.telling.push_back(question::too_many(&id));
        } else {
            state.keys += 1;
            let key = format!("q{}", state.keys);
            state.open.push(Question { key, id, words: words.alone(), asked: false });
        }
        drop(state);
        self.wake.notify_one();
        self.changes.send_replace(());
    }

    /// Sends a request about it, while it is looked after, and waits for the answer.
    async fn ask(&self, known: Known) -> Result<Message, UpstreamError> {
        let deadline = Instant::now() + self.patience;
        tokio::select! {
            biased;
            () = self.over.cancelled() => Err(UpstreamError::Lost { sent: true }),
            answer = timeout_at(deadline, self.converse(known)) => {
                answer.unwrap_or(Err(UpstreamError::Timeout { sent: true }))
            }
        }
    }

    /// The answer to a request about it; what is said meanwhile is heard.
    async fn converse(&self, known: Known) -> Result<Message, UpstreamError> {
        let mut replies = self.call(known).await?;
        while let Some(reply) = replies.next().await {
            match reply? {
                answer if matches!(answer.kind(), Kind::Result | Kind::Error) => return Ok(answer),
                said => self.hear(said),
            }
        }
        Err(UpstreamError::Lost { sent: true })
    }

    async fn call(&self, known: Known) -> Result<Replies, UpstreamError> {
        let id = self.connection.next_id();
        let facts = CallFacts { may_ask: known == Known::TasksResult, wants_log: false, cancellable: true };
        let message = about_task(known, id, &self.theirs);
        self.connection.call(Call { id, message: &message, facts, headers: (*self.headers).clone() }).await
    }

    /// How it stands, in the client's words, or the server's error. `declared` is what its client can be
    /// asked now.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub(super) async fn look(&self, declared: Declared) -> Result<Result<Detailed, Message>, UpstreamError> {
        let answer = self.ask(Known::TasksGet).await?;
        if answer.kind() == Kind::Error {
            return Ok(Err(answer));
        }
        let described = answer.body().and_then(|body| serde_json::from_str(body).ok()).and_then(Described::of);
        let described = described.ok_or(UpstreamError::Violation("what it says of a task cannot be read"))?;
        if described.status == Status::InputRequired && self.state().open.is_empty() {
            self.wait_for_questions().await;
        }
        let (result, requests);
        let state = match described.status {
            Status::Working | Status::InputRequired => {
                requests = self.requests(declared);
                requests.as_deref().map_or(State::Working, State::Asks)
            }
            Status::Done => {
                result = self.ask(Known::TasksResult).await?;
                State::Done(&result)
            }
            Status::Cancelled => State::Cancelled,
        };
        if !matches!(state, State::Working | State::Asks(_)) {
            self.ended();
        }
        let mut losses = Vec::new();
        let detailed = task::detailed(described, &self.name, self.life_ms(), &state, &mut losses);
        losses.into_iter().for_each(|loss| self.metrics.lost(loss));
        Ok(Ok(detailed))
    }

    /// Its client learns how it ended.
    fn ended(&self) {
        let mut state = self.state();
        state.is_fetched = true;
        state.is_not_needed();
        let abandoned: Vec<_> = state.open.drain(..).map(|question| question.abandoned()).collect();
        state.telling.extend(abandoned);
        drop(state);
        self.wake.notify_one();
    }

    /// A server with a handshake asks on the stream of `tasks/result` (2025-11-25, Tasks › Input Required Status).
    async fn wait_for_questions(&self) {
        let mut changes = self.changes.subscribe();
        self.state().wants_stream = true;
        self.wake.notify_one();
        let asked = async { while self.state().open.is_empty() && changes.changed().await.is_ok() {} };
        // What comes later is told when the client asks again.
        let _ = timeout(WINDOW, asked).await;
    }

    /// What is not answered, as `inputRequests`; `None` if there is nothing that the client can be asked now.
    fn requests(&self, declared: Declared) -> Option<String> {
        let mut state = self.state();
        let mut all = Vec::new();
        for question in state.open.iter_mut().filter(|question| declared.allows(&question.words)) {
            let (entry, wants_progress) = question.entry();
            if wants_progress && !question.asked {
                self.metrics.lost(Loss::QuestionProgress);
            }
            question.asked = true;
            all.push(format!(r#""{}":{entry}"#, question.key));
        }
        (!all.is_empty()).then(|| format!("{{{}}}", all.join(",")))
    }

    /// Takes what its client answers. What answers nothing is ignored.
    pub(super) fn answered(&self, answers: &Raw) {
        let mut state = self.state();
        for question in std::mem::take(&mut state.open) {
            match question.answered(answers).filter(|_| question.asked) {
                Some(answer) => {
                    state.told_roots |= question.words.known() == Some(Known::RootsList);
                    state.telling.push_back(answer);
                }
                None => state.open.push(question),
            }
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Its client does not want it any more. Whether the server minds is the server's business.
    pub(super) async fn cancel(&self) {
        if !self.can_cancel {
            return self.metrics.lost(Loss::TaskCancel);
        }
        if let Err(error) = self.ask(Known::TasksCancel).await {
            tracing::debug!(upstream = self.metrics.name(), %error, "Task is not cancelled");
        }
        let mut state = self.state();
        state.is_cancelled = true;
        state.is_not_needed();
        drop(state);
        self.wake.notify_one();
        self.changes.send_replace(());
    }
}

/// Looks after a task until nobody wants it any more.
async fn look_after(task: Arc<Task>, mut lease: Leased, room: Room, drain: CancellationToken) {
    let mut stream: Option<Replies> = None;
    let mut deaf = false;
    let loss = loop {
        while let Some(message) = { task.state().telling.pop_front() } {
            // A server that does not read does not get it.
            let _ = timeout(TELLING, task.connection.send(&message)).await;
        }
        if stream.is_none() && std::mem::take(&mut task.state().wants_stream) {
            stream = task.call(Known::TasksResult).await.ok();
            if let Some(stream) = &mut stream {
                stream.be_patient();
            }
        }
        let until = task.state().until;
        tokio::select! {
            biased;
            () = task.over.cancelled() => break None,
            () = drain.cancelled() => break Some(Loss::TaskLost),
            () = task.connection.gone().cancelled() => break Some(Loss::TaskLost),
            () = sleep_until(until) => break Some(Loss::TaskExpired),
            () = task.wake.notified() => {}
            reply = next(&mut stream) => match reply {
                // The result is fetched when the client asks for it: it is not kept here.
                Some(Ok(said)) if !matches!(said.kind(), Kind::Result | Kind::Error) => task.hear(said),
                _ => {
                    stream = None;
                    task.changes.send_replace(());
                }
            },
            said = lease.standing.next(), if !deaf => match said {
                Some(said) => task.hear(said),
                None => deaf = true,
            },
        }
    };
    // Nobody finds it any more, and nobody who has found it uses its connection.
    drop(room);
    task.over.cancel();
    task.changes.send_replace(());
    let (ended, may_go, told_roots) = {
        let state = task.state();
        (state.is_fetched, state.may_go(), state.told_roots)
    };
    if let Some(loss) = loss.filter(|_| !may_go) {
        task.metrics.lost(loss);
    }
    if !ended || told_roots {
        lease.reuse(false);
    }
    if !task.connection.gone().is_cancelled() {
        let open = std::mem::take(&mut task.state().open);
        let farewell = async {
            for question in open {
                let _ = task.connection.send(&question.abandoned()).await;
            }
            if !may_go && task.can_cancel {
                let _ = task.converse(Known::TasksCancel).await;
            }
        };
        let _ = timeout(TELLING, farewell).await;
    }
    drop(stream);
    drop(lease);
}

async fn next(stream: &mut Option<Replies>) -> Option<Result<Message, UpstreamError>> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}

/// Tasks that a stream of notifications tells of.
#[derive(Default)]
pub(super) struct Watching {
    declared: Declared,
    tasks: Vec<Watched>,
    looking: Option<Looking>,
}

type Looking = BoxFuture<'static, (usize, Option<Detailed>)>;

struct Watched {
    task: Arc<Task>,
    changes: watch::Receiver<()>,
    /// A digest of what was told last.
    told: Option<u64>,
}

impl Watching {
    pub(super) fn new(tasks: Vec<Arc<Task>>, declared: Declared) -> Watching {
        let watched = |task: Arc<Task>| {
            let mut changes = task.changes.subscribe();
            // What became of it before it was listened for is news, too.
            changes.mark_changed();
            Watched { task, changes, told: None }
        };
        Watching { declared, tasks: tasks.into_iter().map(watched).collect(), looking: None }
    }

    /// The names of those that are watched.
    pub(super) fn names(&self) -> Vec<String> {
        self.tasks.iter().map(|watched| watched.task.name.clone()).collect()
    }

    /// What is new of one of them.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn next(&mut self) -> Detailed {
        loop {
            if let Some(looking) = &mut self.looking {
                let (at, news) = looking.await;
                self.looking = None;
                match news {
                    None => drop(self.tasks.swap_remove(at)),
                    Some(news) => {
                        let digest = Some(BuildHasherDefault::<DefaultHasher>::default().hash_one(&news));
                        if std::mem::replace(&mut self.tasks[at].told, digest) != digest {
                            return news;
                        }
                    }
                }
                continue;
            }
            if self.tasks.is_empty() {
                return std::future::pending().await;
            }
            let (_, at, _) = select_all(self.tasks.iter_mut().map(|one| Box::pin(one.changes.changed()))).await;
            let (task, declared) = (Arc::clone(&self.tasks[at].task), self.declared);
            let looking = async move { (at, task.look(declared).await.ok().and_then(Result::ok)) };
            self.looking = Some(looking.boxed());
        }
    }
}
