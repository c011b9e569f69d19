//! A request of 2026-07-28 at a server with a handshake: what [`Call`] decides, over a connection out of the pool.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::StatusCode;
use tokio::time::{Duration, Instant, Sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Server;
use super::error::ProxyError;
use super::exchange::{Next, Output, Stop, error_code, modern_status, own};
use super::hearing::{Hearing, Told};
use super::parking::Spot;
use super::tasking::{self, Made, Room, Watching};
use super::tools::Source;
use crate::backend::bridged::{Bridged, Guest};
use crate::backend::key::Principal;
use crate::backend::start::ask;
use crate::backend::{Leased, Way};
use crate::bridge::handshake;
use crate::bridge::loss::Loss;
use crate::bridge::modern_to_legacy::answer::makes_tasks;
use crate::bridge::modern_to_legacy::call::{self, Effect, Input, Leg, Rules};
use crate::bridge::modern_to_legacy::declared::Declared;
use crate::bridge::modern_to_legacy::task::{self, Described};
use crate::bridge::modern_to_legacy::{describe, question};
use crate::bridge::seal::Binding;
use crate::metrics::GaugeGuard;
use crate::protocol::error::INVALID_PARAMS;
use crate::protocol::id::RequestId;
use crate::protocol::message::{Kind, Message};
use crate::protocol::meta;
use crate::protocol::method::Known;
use crate::protocol::revision::Era;
use crate::settings::{Limits, Timeouts};
use crate::upstream::driver::CallFacts;
use crate::upstream::error::UpstreamError;
use crate::upstream::{Call, Connection, Replies};

/// How long a server that is left may take to hear what it has to be told.
const FAREWELL: Duration = Duration::from_secs(5);

/// Most messages that a server has yet to be told.
const TELLING_MAX: usize = 256;

/// Who sends a request, and what it may go with.
pub(super) struct Visitor {
    /// Who it shows to be, whether or not the isolation wants to know.
    pub(super) principal: Option<Principal>,
    pub(super) headers: http::HeaderMap,
    /// What repeats the body, in headers that a server with a handshake does not know; `None` if it did not come over HTTP.
    pub(super) mirrored: Option<http::HeaderMap>,
    /// Cancelled when nothing new begins.
    pub(super) drain: CancellationToken,
    /// Cancelled when there is no more time.
    pub(super) cut: CancellationToken,
    pub(super) patience: Patience,
}

/// How long, and how often, things may take.
pub(super) struct Patience {
    request: Duration,
    request_max: Duration,
    parked: Duration,
    coalesce: Duration,
    errand: Duration,
    discover_ttl: Duration,
    /// How long the server may take to tell its tools.
    tools: Duration,
    rounds: usize,
    bytes: usize,
}

impl Patience {
    pub(super) fn new(timeouts: &Timeouts, limits: &Limits) -> Patience {
        Patience {
            request: timeouts.request,
            request_max: timeouts.request_max,
            parked: timeouts.parked,
            coalesce: timeouts.coalesce,
            errand: timeouts.errand,
            discover_ttl: timeouts.discover_ttl,
            // Such a server may be slow to begin: the client waits for it as long for anything.
            tools: timeouts.request,
            rounds: limits.rounds,
            bytes: limits.parked_bytes,
        }
    }
}

/// A request under way. Dropping it cancels the call at the server, unless that is parked.
pub(crate) struct Crossing {
    server: Arc<Server>,
    visitor: Visitor,
    guest: Guest,
    request: Message,
    id: RequestId,
    stage: Stage,
    outbox: VecDeque<Output>,
    /// Nothing has come of it yet, so that it can be sent elsewhere if it was not taken up: once.
    fresh: bool,
    idle_until: Instant,
    /// What may stop a call, kept from one message to the next.
    stop: Stop,
    /// Ends when there may be something to see on the clock: not later, but it may be earlier.
    alarm: Pin<Box<Sleep>>,
    started: Instant,
    outcome: &'static str,
    _in_flight: GaugeGuard,
}

enum Stage {
    Opening(BoxFuture<'static, Result<Box<Half>, ProxyError>>),
    Open(Box<Half>),
    Listening(Box<Hearing>),
    /// A request about a task.
    Asking(BoxFuture<'static, Result<Message, ProxyError>>),
    Over,
}

/// The server's half of a call: what stays when the client goes to fetch answers. Dropping it ends the call.
pub(crate) struct Half {
    call: call::Call,
    server: Arc<Server>,
    /// The client's words, which may have to be sent once more. While it is away, nobody's.
    request: Option<Message>,
    headers: http::HeaderMap,
    connection: Connection,
    lease: Option<Leased>,
    replies: Option<Replies>,
    /// Room for the task that it may become.
    room: Option<Room>,
    /// What the server has to be told.
    telling: VecDeque<Message>,
    told: Option<BoxFuture<'static, Result<(), UpstreamError>>>,
    again: Option<BoxFuture<'static, Result<Replies, UpstreamError>>>,
    /// Nothing more is said on the connection but answers.
    deaf: bool,
    /// The server went away while nobody was there to be told.
    failed: Option<UpstreamError>,
    until: Instant,
}

/// Begins a request.
///
/// # Errors
/// Nothing was sent.
pub(super) async fn begin(
    server: &Arc<Server>,
    request: &Message,
    visitor: Visitor,
) -> Result<Box<Crossing>, ProxyError> {
    let (declared, headers) = (Declared::of(request), Arc::new(visitor.headers.clone()));
    let guest = Guest { declared, principal: visitor.principal, headers };
    let now = Instant::now();
    let idle_until = now + visitor.patience.request;
    let mut crossing = Box::new(Crossing {
        server: Arc::clone(server),
        id: request.id().ok_or(ProxyError::Initialize)?,
        guest,
        request: request.clone(),
        stage: Stage::Over,
        outbox: VecDeque::new(),
        fresh: true,
        idle_until,
        stop: Stop::of(None, visitor.cut.clone()),
        alarm: Box::pin(sleep_until(idle_until)),
        started: now,
        outcome: "abandoned",
        _in_flight: server.metrics.exchange_started(),
        visitor,
    });
    if request.known().is_some_and(is_of_tasks) {
        crossing.ask_about_task().await?;
    } else if request.known() == Some(Known::Discover) {
        crossing.describe().await?;
    } else if request.known() == Some(Known::Listen) {
        crossing.listen().await?;
    } else if request.param(meta::REQUEST_STATE).is_some() {
        crossing.resume().await?;
    } else {
        let until = Instant::now() + crossing.visitor.patience.request_max;
        let mirrored = crossing.visitor.mirrored.take();
        let half = crossing.open(request.clone(), mirrored, until);
        crossing.stage = Stage::Open(half.await?);
    }
    Ok(crossing)
}

/// Whether calls can become tasks: each needs a connection that is its alone.
fn has_tasks(server: &Server, greeting: &Message) -> bool {
    server.backend.asks_guests() && makes_tasks(greeting)
}

fn is_of_tasks(known: Known) -> bool {
    matches!(known, Known::TasksGet | Known::TasksUpdate | Known::TasksCancel | Known::TasksResult | Known::TasksList)
}

impl Crossing {
    fn rules(&self, until: Instant) -> Rules {
        let patience = &self.visitor.patience;
        Rules {
            window: patience.coalesce,
            parked: patience.parked,
            errand: patience.errand,
            rounds: patience.rounds,
            bytes: patience.bytes,
            until: until.into_std(),
            // What a server with a handshake lists may be another list for the next client.
            ttl_ms: 0,
        }
    }

    /// Gets a connection, and sends the request on it: see [`open`].
    fn open(
        &self,
        request: Message,
        mirrored: Option<http::HeaderMap>,
        until: Instant,
    ) -> impl Future<Output = Result<Box<Half>, ProxyError>> + Send + use<> {
        let mirrored = mirrored.filter(|_| !self.server.stands_in);
        let opening = Opening { mirrored, patience: self.visitor.patience.tools, rules: self.rules(until), until };
        open(Arc::clone(&self.server), self.guest.clone(), request, opening)
    }

    /// The answer to `server/discover`, which the handshake has given already.
    async fn describe(&mut self) -> Result<(), ProxyError> {
        let backend = &self.server.backend;
        let greeting = backend.greeting(&self.guest).await?;
        // Whose log messages they are cannot be told where others use the connection, too.
        let without: &[&str] = if backend.asks_guests() { &[] } else { &["logging"] };
        let (ttl, tasks) = (self.visitor.patience.discover_ttl.as_millis(), has_tasks(&self.server, &greeting));
        self.say_last(own(describe::discovered(&greeting, &self.id, ttl, without, tasks)), "ok");
        Ok(())
    }

    async fn listen(&mut self) -> Result<(), ProxyError> {
        let names = task::wanted(&self.request);
        if !names.is_empty() && !task::takes(&self.request) {
            self.say(task::undeclared(&self.id));
            return Ok(());
        }
        let (tasking, principal) = (&self.server.tasking, self.visitor.principal);
        let tasks = names.iter().filter_map(|name| tasking.find(name, principal)).collect();
        let watching = Watching::new(tasks, self.guest.declared);
        let drain = self.visitor.drain.clone();
        let hearing = tokio::select! {
            biased;
            () = drain.cancelled() => return Err(ProxyError::ShuttingDown),
            hearing = Hearing::begin(&self.server, &self.guest, &self.request, &self.id, watching) => hearing?,
        };
        self.stage = Stage::Listening(Box::new(hearing));
        Ok(())
    }

    /// `tasks/get`, `tasks/update`, `tasks/cancel`.
    async fn ask_about_task(&mut self) -> Result<(), ProxyError> {
        let known = self.request.known();
        // What else a server with a handshake has under such names is another design.
        let is_there = matches!(known, Some(Known::TasksGet | Known::TasksUpdate | Known::TasksCancel));
        let greeting = self.server.backend.greeting(&self.guest).await?;
        if !is_there || !has_tasks(&self.server, &greeting) {
            return Err(ProxyError::RemovedMethod);
        }
        if !task::takes(&self.request) {
            self.say(task::undeclared(&self.id));
            return Ok(());
        }
        let name = self.request.param_str(meta::TASK_ID).ok_or(ProxyError::Task)?;
        let task = self.server.tasking.find(&name, self.visitor.principal).ok_or(ProxyError::Task)?;
        let (id, declared, answers) = (self.id.clone(), self.guest.declared, question::answers(&self.request));
        let asking = async move {
            match known {
                Some(Known::TasksGet) => match task.look(declared).await {
                    Ok(Ok(detailed)) => Ok(task::got(&id, &detailed)),
                    // It has forgotten the task.
                    Ok(Err(error)) if error_code(&error) == Some(INVALID_PARAMS) => {
                        task.give_up();
                        Err(ProxyError::Task)
                    }
                    Ok(Err(error)) => Ok(task.refused(&error, &id)),
                    Err(error) => Err(ProxyError::Upstream { error, repeatable: true }),
                },
                Some(Known::TasksUpdate) => {
                    task.answered(&answers);
                    Ok(task::taken(&id))
                }
                _ => {
                    task.cancel().await;
                    Ok(task::taken(&id))
                }
            }
        };
        self.stage = Stage::Asking(asking.boxed());
        Ok(())
    }

    /// Goes on with a parked call. Every token that is of no use is refused alike.
    async fn resume(&mut self) -> Result<(), ProxyError> {
        let refused = ProxyError::RequestState;
        let token =
            self.request.param_str(meta::REQUEST_STATE).filter(|_| self.request.known().is_some_and(Known::may_ask));
        let token = token.ok_or(refused.clone())?;
        if let Some(mirrored) = &self.visitor.mirrored {
            self.server.tools.check_again(&self.guest, &self.request, mirrored)?;
        }
        let given = self.server.parking.take(&token, &self.binding()).ok_or(refused.clone())?;
        let mut half = given.await.map_err(|_| refused.clone())?;
        if let Some(error) = half.failed.take() {
            let repeatable = self.request.known().is_some_and(Known::safe_to_repeat);
            return Err(ProxyError::Upstream { error, repeatable });
        }
        let leg = Leg::of(&self.request).ok_or(refused)?;
        // The same but for its metadata: it is what the token is bound to.
        half.request = Some(self.request.clone());
        let effects = half.feed(Input::Back(leg, question::answers(&self.request)));
        self.stage = Stage::Open(half);
        self.fresh = false;
        self.apply(effects);
        Ok(())
    }

    fn binding(&self) -> Binding {
        let principal = self.visitor.principal.as_ref().map(Principal::as_bytes);
        Binding::of(principal, self.server.metrics.name(), &self.request)
    }

    /// The next message for the client. Waits no longer than until `quiet`.
    ///
    /// # Cancel safety
    /// Dropped before it is done, nothing is lost.
    pub(crate) async fn next_until(&mut self, quiet: Option<Instant>) -> Next {
        loop {
            if let Some(output) = self.outbox.pop_front() {
                if output.last {
                    self.stage = Stage::Over;
                }
                return Next::Output(output);
            }
            match &mut self.stage {
                Stage::Over => return Next::End,
                Stage::Opening(opening) => {
                    let opened = tokio::select! {
                        biased;
                        opened = opening => opened,
                        () = at(quiet) => return Next::Quiet,
                    };
                    match opened {
                        Ok(half) => self.stage = Stage::Open(half),
                        Err(error) => {
                            let (side, kind) = error.blame();
                            self.server.metrics.error(side, kind);
                            self.refuse(&error, kind);
                        }
                    }
                }
                Stage::Asking(asking) => {
                    let answer = tokio::select! {
                        biased;
                        () = self.visitor.cut.cancelled() => {
                            let error = UpstreamError::Closed { sent: true };
                            Err(ProxyError::Upstream { error, repeatable: true })
                        }
                        answer = asking => answer,
                        () = at(quiet) => return Next::Quiet,
                    };
                    match answer {
                        Ok(answer) => self.say(answer),
                        Err(error) => {
                            let (side, kind) = error.blame();
                            self.server.metrics.error(side, kind);
                            self.refuse(&error, kind);
                        }
                    }
                }
                Stage::Listening(hearing) => {
                    let told = tokio::select! {
                        biased;
                        () = self.visitor.drain.cancelled() => Told::End(hearing.end()),
                        told = hearing.next() => told,
                        () = at(quiet) => return Next::Quiet,
                    };
                    match told {
                        Told::Message(message) => {
                            return Next::Output(Output { message, last: false, status: StatusCode::OK });
                        }
                        Told::End(message) => self.say_last(message, "ended"),
                        Told::Failed(error) => self.fail(error),
                    }
                }
                Stage::Open(half) => {
                    let due = half.call.deadline().map(Instant::from_std);
                    let end = self.idle_until.min(half.until);
                    let until = [due, quiet].into_iter().flatten().fold(end, Instant::min);
                    if until < self.alarm.deadline() {
                        self.alarm.as_mut().reset(until);
                    }
                    // A look before each wait, so that a server that never pauses does not keep us from it.
                    let is_stopped = self.stop.is_due();
                    tokio::select! {
                        biased;
                        heard = half.next(), if !is_stopped => self.hear(heard),
                        _ = &mut self.stop => self.fail(UpstreamError::Closed { sent: true }),
                        () = self.alarm.as_mut() => {
                            let now = Instant::now();
                            self.alarm.as_mut().reset(end.max(now));
                            if due.is_some_and(|due| due <= now) {
                                let effects = half.feed(Input::Timer);
                                self.apply(effects);
                            } else if end <= now {
                                self.fail(UpstreamError::Timeout { sent: true });
                            } else if quiet.is_some_and(|quiet| quiet <= now) {
                                return Next::Quiet;
                            }
                        }
                    }
                }
            }
        }
    }

    fn hear(&mut self, heard: Heard) {
        let Stage::Open(half) = &mut self.stage else { return };
        match heard {
            Heard::Said(message) => {
                self.fresh = false;
                if message.known() == Some(Known::Progress) {
                    self.idle_until = Instant::now() + self.visitor.patience.request;
                }
                let effects = half.feed(Input::Server(message));
                self.apply(effects);
            }
            Heard::Failed(error) if self.fresh && !error.sent() && half.connection.gone().is_cancelled() => {
                tracing::debug!(upstream = self.server.metrics.name(), %error, "Request goes to another connection");
                self.server.metrics.repeated(error.kind());
                self.fresh = false;
                let until = half.until;
                half.feed(Input::Lost);
                let half = self.open(self.request.clone(), None, until);
                self.stage = Stage::Opening(half.boxed());
            }
            Heard::Failed(error) => self.fail(error),
        }
    }

    fn apply(&mut self, effects: Vec<Effect>) {
        let mut spot = None;
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            let Stage::Open(half) = &mut self.stage else { return };
            match effect {
                Effect::Client(message) => {
                    self.outbox.push_back(Output { message, last: false, status: StatusCode::OK });
                }
                Effect::Answer(message) => self.say(message),
                Effect::Made(id, theirs, described) => {
                    let made = half.becomes(theirs, described, self.guest.declared);
                    match made {
                        Some(made) => {
                            let (created, work) = tasking::begin(made, &id, self.visitor.drain.clone());
                            self.server.backend.adopter().adopt(work);
                            self.say(created);
                        }
                        None => self.refuse(&ProxyError::Task, "no_such_task"),
                    }
                }
                Effect::Ask(id, requests) => {
                    let due = half.call.deadline().map_or(half.until, Instant::from_std);
                    let binding = self.binding();
                    match self.server.parking.park(self.visitor.principal, &binding, due) {
                        Some((token, place)) => {
                            if let Stage::Open(half) = &mut self.stage {
                                half.parked();
                            }
                            self.say_last(question::asked(&id, &requests, &token), "asked");
                            spot = Some((place, due));
                        }
                        None => {
                            if let Stage::Open(half) = &mut self.stage {
                                effects.extend(half.feed(Input::NoRoom));
                            }
                            self.refuse(&ProxyError::TooManyParked, "too_many_parked");
                        }
                    }
                }
                other => half.apply(other),
            }
        }
        if let Some((spot, due)) = spot
            && let Stage::Open(half) = std::mem::replace(&mut self.stage, Stage::Over)
        {
            let drain = self.visitor.drain.clone();
            self.server.backend.adopter().adopt(keep(half, spot, due, drain));
        }
    }

    /// The answer, with the status that its error has.
    fn say(&mut self, message: Message) {
        let error = (message.kind() == Kind::Error).then(|| error_code(&message)).flatten();
        let status = error.map_or(StatusCode::OK, modern_status);
        self.outcome = if error.is_some() { "error" } else { "ok" };
        self.outbox.push_back(Output { message, last: true, status });
    }

    fn say_last(&mut self, message: Message, outcome: &'static str) {
        self.outcome = outcome;
        self.outbox.push_back(Output { message, last: true, status: StatusCode::OK });
    }

    /// The request was dispatched: from then on trouble is no HTTP status.
    fn refuse(&mut self, error: &ProxyError, outcome: &'static str) {
        let text = error.outward().error.to_json(Some(&self.id));
        self.say_last(own(text), outcome);
    }

    fn fail(&mut self, error: UpstreamError) {
        tracing::debug!(upstream = self.server.metrics.name(), %error, "Request failed");
        self.server.metrics.error("upstream", error.kind());
        if let Stage::Open(half) = &mut self.stage
            && half.connection.gone().is_cancelled()
        {
            half.feed(Input::Lost);
        }
        let (kind, repeatable) = (error.kind(), self.request.known().is_some_and(Known::safe_to_repeat));
        self.refuse(&ProxyError::Upstream { error, repeatable }, kind);
    }
}

impl Drop for Crossing {
    fn drop(&mut self) {
        let method = self.request.known().map_or("other", Known::as_str);
        let took = self.started.elapsed();
        let (upstream, outcome) = (self.server.metrics.name(), self.outcome);
        tracing::debug!(upstream, method, outcome, took_ms = took.as_millis(), "Crossing ended");
        self.server.metrics.exchange_ended(Era::Modern.as_str(), method, outcome, took);
    }
}

/// How a request is begun.
struct Opening {
    /// Headers that have to repeat the body, where there are any.
    mirrored: Option<http::HeaderMap>,
    /// How long the server may take to tell its tools.
    patience: Duration,
    rules: Rules,
    until: Instant,
}

/// Gets a connection, and sends the request on it.
async fn open(server: Arc<Server>, guest: Guest, request: Message, opening: Opening) -> Result<Box<Half>, ProxyError> {
    let Opening { mut mirrored, patience, rules, until } = opening;
    let mut tries = 0;
    loop {
        let Bridged { way: Way { connection, mut lease }, greeting } = server.backend.bridged(&guest).await?;
        let source = Source::with_handshake(&connection, &guest);
        if let Some(given) = &mirrored {
            match server.tools.check(source, &request, given, patience).await {
                Err(_) if connection.gone().is_cancelled() && tries == 0 => {
                    tries += 1;
                    continue;
                }
                checked => checked?,
            }
            mirrored = None;
        }
        if let Some(level) = request.meta(meta::LOG_LEVEL) {
            set_level(&server, &connection, lease.as_mut(), &greeting, level, &guest).await;
        }
        let offers = lease.is_some()
            && request.known() == Some(Known::ToolsCall)
            && task::takes(&request)
            && makes_tasks(&greeting)
            && server.tools.makes_task(source, &request, patience).await;
        // Without room it is called like any other.
        let room = if offers { server.tasking.room(guest.principal) } else { None };
        let mut call = call::Call::begin(&request, rules, greeting).ok_or(ProxyError::Initialize)?;
        let id = connection.next_id();
        let mut upward = call::upward(&request, id);
        if room.is_some()
            && let Some(as_task) = call::upward_as_task(&request, id)
        {
            (call, upward) = (call.offered(), as_task);
        }
        match send(connection.clone(), id, upward, request.known(), (*guest.headers).clone()).await {
            Ok(replies) => {
                return Ok(Box::new(Half {
                    call,
                    headers: (*guest.headers).clone(),
                    server,
                    request: Some(request),
                    connection,
                    deaf: lease.is_none(),
                    lease,
                    replies: Some(replies),
                    room,
                    telling: VecDeque::new(),
                    told: None,
                    again: None,
                    failed: None,
                    until,
                }));
            }
            // It was lost before it could take the request: there may be another.
            Err(_) if connection.gone().is_cancelled() && tries == 0 => tries += 1,
            Err(error) => {
                let repeatable = request.known().is_some_and(Known::safe_to_repeat);
                return Err(ProxyError::Upstream { error, repeatable });
            }
        }
    }
}

async fn send(
    connection: Connection,
    id: i64,
    upward: Message,
    known: Option<Known>,
    headers: http::HeaderMap,
) -> Result<Replies, UpstreamError> {
    let may_ask = known.is_some_and(Known::may_ask);
    let facts = CallFacts { may_ask, wants_log: true, cancellable: true };
    connection.call(Call { id, message: &upward, facts, headers }).await
}

/// Has the server log from this level on (JSON), if it does not already: a level is a session's.
async fn set_level(
    server: &Server,
    connection: &Connection,
    lease: Option<&mut Leased>,
    greeting: &Message,
    level: &str,
    guest: &Guest,
) {
    if lease.as_ref().is_some_and(|lease| lease.level.as_deref() == Some(level)) {
        return;
    }
    let logs = || handshake::capabilities(greeting).contains_key("logging");
    let Some(lease) = lease.filter(|_| logs()) else { return server.metrics.lost(Loss::LogLevel) };
    let id = connection.next_id();
    let request = handshake::set_level(id, level);
    match ask(connection, &request, id, &guest.headers, server.backend.restore_deadline()).await {
        Ok(answer) if answer.kind() == Kind::Result => lease.level = Some(level.into()),
        // The call is worth more than its log messages.
        _ => server.metrics.lost(Loss::LogLevel),
    }
}

enum Heard {
    Said(Message),
    Failed(UpstreamError),
}

impl Half {
    fn feed(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.call.handle(input, Instant::now().into_std(), &mut effects);
        effects
    }

    /// Does what concerns the server, or nobody.
    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Server(message) => self.telling.push_back(message),
            Effect::Again => self.send_again(|request, id| Some(call::upward(request, id))),
            Effect::AsTask => self.send_again(call::upward_as_task),
            Effect::Fetch(task) => self.send_again(|_, id| Some(call::about_task(Known::TasksResult, id, &task))),
            Effect::CancelTask(task) => {
                self.telling.push_back(call::about_task(Known::TasksCancel, self.connection.next_id(), &task));
            }
            // It is over, and told so by its drop: after what it waits for.
            Effect::Cancel => {}
            Effect::Lost(loss) => self.server.metrics.lost(loss),
            Effect::Drop(reason) => self.server.metrics.dropped(reason),
            Effect::Client(_) | Effect::Answer(_) | Effect::Ask(..) | Effect::Made(..) => {
                self.server.metrics.dropped("client_gone");
            }
        }
    }

    /// The client goes to fetch answers, and brings its words when it comes back.
    fn parked(&mut self) {
        self.request = None;
        self.call.shrink();
        self.telling.shrink_to_fit();
        if let Some(replies) = &mut self.replies {
            replies.be_patient();
        }
    }

    /// What there is of a task that the call has become.
    fn becomes(&mut self, theirs: String, described: Described, declared: Declared) -> Option<Made> {
        let (room, lease) = (self.room.take()?, self.lease.take()?);
        let cancels = handshake::capabilities(lease.answer.as_ref()?).get("tasks").cloned().unwrap_or_default();
        self.replies = None;
        Some(Made {
            room,
            theirs,
            described,
            connection: self.connection.clone(),
            lease,
            headers: self.headers.clone(),
            declared,
            can_cancel: cancels.get("cancel").is_some(),
            open: self.call.left(),
            told_roots: self.call.has_told_roots(),
        })
    }

    fn send_again(&mut self, upward: impl FnOnce(&Message, i64) -> Option<Message>) {
        let id = self.connection.next_id();
        let Some(request) = &self.request else { return };
        let Some(upward) = upward(request, id) else { return };
        let (connection, headers) = (self.connection.clone(), self.headers.clone());
        self.again = Some(send(connection, id, upward, request.known(), headers).boxed());
    }

    /// What happens next at the server. Meanwhile it is told what it has to be told.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    async fn next(&mut self) -> Heard {
        loop {
            if self.told.is_none()
                && let Some(message) = self.telling.pop_front()
            {
                let connection = self.connection.clone();
                self.told = Some(async move { connection.send(&message).await }.boxed());
            }
            // A server that asks and does not read is not listened to either.
            let listens = self.telling.len() < TELLING_MAX;
            let replies = self.replies.as_mut().filter(|_| listens);
            let lease = self.lease.as_mut().filter(|_| listens && !self.deaf);
            tokio::select! {
                biased;
                told = one(&mut self.told) => {
                    self.told = None;
                    if let Err(error) = told {
                        return Heard::Failed(error.with_sent(true));
                    }
                    self.release();
                }
                again = one(&mut self.again) => {
                    self.again = None;
                    match again {
                        Ok(replies) => self.replies = Some(replies),
                        Err(error) => return Heard::Failed(error),
                    }
                }
                reply = async { match replies { Some(replies) => replies.next().await, None => std::future::pending().await } } => {
                    match reply {
                        Some(Ok(message)) => {
                            if matches!(message.kind(), Kind::Result | Kind::Error) {
                                self.replies = None;
                            }
                            return Heard::Said(message);
                        }
                        Some(Err(error)) => {
                            self.replies = None;
                            return Heard::Failed(error);
                        }
                        None => {
                            self.replies = None;
                            return Heard::Failed(UpstreamError::Lost { sent: true });
                        }
                    }
                }
                said = async { match lease { Some(lease) => lease.standing.next().await, None => std::future::pending().await } } => {
                    match said {
                        Some(message) => return Heard::Said(message),
                        // The call says what that means for it; without one, this does.
                        None if self.replies.is_some() || self.again.is_some() => self.deaf = true,
                        None => {
                            self.deaf = true;
                            return Heard::Failed(UpstreamError::Lost { sent: true });
                        }
                    }
                }
            }
        }
    }

    /// Gives the connection to others, if the call does not need it any more.
    fn release(&mut self) {
        if self.call.is_done_with() && self.is_quiet() {
            drop(self.take_lease());
        }
    }

    /// What the server does next may depend on the roots that it was told.
    fn take_lease(&mut self) -> Option<Leased> {
        let mut lease = self.lease.take();
        if self.call.has_told_roots()
            && let Some(lease) = &mut lease
        {
            lease.reuse(false);
        }
        lease
    }

    /// The connection is for others when nothing is left to be told.
    fn is_quiet(&self) -> bool {
        self.telling.is_empty() && self.told.is_none()
    }
}

/// Waits until then, if there is such a time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Something that may be under way.
async fn one<T>(pending: &mut Option<BoxFuture<'static, T>>) -> T {
    match pending {
        Some(pending) => pending.await,
        None => std::future::pending().await,
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        for effect in self.feed(Input::Gone) {
            self.apply(effect);
        }
        let lease = self.take_lease();
        let replies = self.replies.take();
        if self.is_quiet() || self.connection.gone().is_cancelled() {
            return;
        }
        // First what it waits for, then that nobody waits for it.
        let (told, telling, connection) =
            (self.told.take(), std::mem::take(&mut self.telling), self.connection.clone());
        self.server.backend.adopter().adopt(async move {
            let farewell = async {
                if let Some(told) = told {
                    let _ = told.await;
                }
                for message in telling {
                    let _ = connection.send(&message).await;
                }
            };
            let _ = timeout(FAREWELL, farewell).await;
            drop(replies);
            drop(lease);
        });
    }
}

/// Looks after a parked call until its client comes back, or nobody will.
async fn keep(mut half: Box<Half>, mut spot: Spot<Box<Half>>, until: Instant, drain: CancellationToken) {
    loop {
        half.release();
        let listens = half.failed.is_none() && (!half.call.is_done_with() || !half.is_quiet());
        let input = tokio::select! {
            biased;
            wanted = spot.wanted() => {
                // A client that has gone again has cancelled: the drop of what comes back says so.
                if let Some(client) = wanted {
                    drop(client.send(half));
                }
                return;
            }
            () = drain.cancelled() => {
                half.server.metrics.lost(Loss::ParkedLost);
                return;
            }
            heard = half.next(), if listens => match heard {
                Heard::Said(message) => Input::Server(message),
                // What it still had to be told does not matter: its answer is there.
                Heard::Failed(_) if half.call.is_done_with() => {
                    half.telling.clear();
                    continue;
                }
                Heard::Failed(error) => {
                    tracing::debug!(upstream = half.server.metrics.name(), %error, "Parked call is lost");
                    half.failed = Some(error);
                    Input::Lost
                }
            },
            () = sleep_until(until) => Input::Timer,
        };
        let over = matches!(input, Input::Timer);
        for effect in half.feed(input) {
            half.apply(effect);
        }
        if over {
            return;
        }
    }
}
