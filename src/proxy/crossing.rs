//! A request of 2026-07-28 at a server with a handshake: what its client sees of it. What the server sees is in [`half`](super::half).

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderMap, StatusCode};
use tokio::time::{Duration, Instant, Sleep, sleep_until};

use super::Server;
use super::error::ProxyError;
use super::exchange::{Next, Output, Stop, error_code, modern_status, own};
use super::half::{Half, Heard, Opening, keep, open};
use super::hearing::{Hearing, Told};
use super::tasking::{self, Watching};
use crate::backend::bridged::Guest;
use crate::backend::key::Principal;
use crate::bridge::modern_to_legacy::answer::makes_tasks;
use crate::bridge::modern_to_legacy::call::{Effect, Input, Leg, Rules};
use crate::bridge::modern_to_legacy::task;
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
use crate::upstream::error::UpstreamError;

/// How long, and how often, things may take.
pub(super) struct Patience {
    request: Duration,
    request_max: Duration,
    parked: Duration,
    coalesce: Duration,
    errand: Duration,
    discover_ttl: Duration,
    /// How long the server may take to tell its tools.
    pub(super) tools: Duration,
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

/// Begins a request of this client (who it shows to be, whether or not the isolation wants to know). `headers` are those
/// that it came with; `None` if it did not come over HTTP.
///
/// # Errors
/// Nothing was sent.
pub(super) async fn begin(
    server: &Arc<Server>,
    request: &Message,
    principal: Option<Principal>,
    headers: Option<&HeaderMap>,
) -> Result<Box<Crossing>, ProxyError> {
    let id = request.id().ok_or(ProxyError::Initialize)?;
    let leg = Leg::of(request, id.clone());
    let forwarded = headers.filter(|_| !server.is_child).map(|headers| server.forwarded(headers));
    let guest = Guest { declared: leg.declared(), principal, headers: Arc::new(forwarded.unwrap_or_default()) };
    let now = Instant::now();
    let idle_until = now + server.patience.request;
    let mut crossing = Box::new(Crossing {
        server: Arc::clone(server),
        id,
        guest,
        request: request.clone(),
        stage: Stage::Over,
        outbox: VecDeque::new(),
        fresh: true,
        idle_until,
        stop: Stop::of(None, server.tasks.cut().clone()),
        alarm: Box::pin(sleep_until(idle_until)),
        started: now,
        outcome: "abandoned",
        _in_flight: server.metrics.exchange_started(),
    });
    // What is rare is boxed, so that the future of each request stays small.
    if request.known().is_some_and(is_of_tasks) {
        Box::pin(crossing.ask_about_task()).await?;
    } else if request.known() == Some(Known::Discover) {
        Box::pin(crossing.describe()).await?;
    } else if request.known() == Some(Known::Listen) {
        Box::pin(crossing.listen()).await?;
    } else if request.param(meta::REQUEST_STATE).is_some() {
        Box::pin(crossing.resume(leg, headers)).await?;
    } else {
        let half = crossing.open(leg, headers, now + server.patience.request_max);
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
        let patience = &self.server.patience;
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
    fn open<'a>(
        &self,
        leg: Leg,
        headers: Option<&'a HeaderMap>,
        until: Instant,
    ) -> impl Future<Output = Result<Box<Half>, ProxyError>> + Send + use<'a> {
        let mirrored = headers.filter(|_| !self.server.stands_in);
        let opening = Opening { leg, mirrored, rules: self.rules(until), until };
        open(Arc::clone(&self.server), self.guest.clone(), self.request.clone(), opening)
    }

    /// The answer to `server/discover`, which the handshake has given already.
    async fn describe(&mut self) -> Result<(), ProxyError> {
        let backend = &self.server.backend;
        let greeting = backend.greeting(&self.guest).await?;
        // Whose log messages they are cannot be told where others use the connection, too.
        let without: &[&str] = if backend.asks_guests() { &[] } else { &["logging"] };
        let (ttl, tasks) = (self.server.patience.discover_ttl.as_millis(), has_tasks(&self.server, &greeting));
        self.say_last(own(describe::discovered(&greeting, &self.id, ttl, without, tasks)), "ok");
        Ok(())
    }

    async fn listen(&mut self) -> Result<(), ProxyError> {
        let names = task::wanted(&self.request);
        if !names.is_empty() && !task::takes(&self.request) {
            self.say(task::undeclared(&self.id));
            return Ok(());
        }
        let (tasking, principal) = (&self.server.tasking, self.guest.principal);
        let tasks = names.iter().filter_map(|name| tasking.find(name, principal)).collect();
        let watching = Watching::new(tasks, self.guest.declared);
        let hearing = tokio::select! {
            biased;
            () = self.server.tasks.drain().cancelled() => return Err(ProxyError::ShuttingDown),
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
        let task = self.server.tasking.find(&name, self.guest.principal).ok_or(ProxyError::Task)?;
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
    async fn resume(&mut self, leg: Leg, headers: Option<&HeaderMap>) -> Result<(), ProxyError> {
        let refused = ProxyError::RequestState;
        let token =
            self.request.param_str(meta::REQUEST_STATE).filter(|_| self.request.known().is_some_and(Known::may_ask));
        let token = token.ok_or(refused.clone())?;
        if let Some(headers) = headers {
            self.server.tools.check_again(&self.guest, &self.request, headers)?;
        }
        let given = self.server.parking.take(&token, &self.binding()).ok_or(refused.clone())?;
        let mut half = given.await.map_err(|_| refused)?;
        if let Some(error) = half.failed.take() {
            let repeatable = self.request.known().is_some_and(Known::safe_to_repeat);
            return Err(ProxyError::Upstream { error, repeatable });
        }
        // The same but for its metadata: it is what the token is bound to.
        half.request = Some(self.request.clone());
        let effects = half.feed(Input::Back(leg, question::answers(&self.request)));
        self.stage = Stage::Open(half);
        self.fresh = false;
        self.apply(effects);
        Ok(())
    }

    fn binding(&self) -> Binding {
        let principal = self.guest.principal.as_ref().map(Principal::as_bytes);
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
                        () = self.server.tasks.cut().cancelled() => {
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
                        () = self.server.tasks.drain().cancelled() => Told::End(hearing.end()),
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
                    self.idle_until = Instant::now() + self.server.patience.request;
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
                let half = self.open(Leg::of(&self.request, self.id.clone()), None, until);
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
                            let (created, work) = tasking::begin(made, &id, self.server.tasks.drain().clone());
                            self.server.backend.adopter().adopt(work);
                            self.say(created);
                        }
                        None => self.refuse(&ProxyError::Task, "no_such_task"),
                    }
                }
                Effect::Ask(id, requests) => {
                    let due = half.call.deadline().map_or(half.until, Instant::from_std);
                    let binding = self.binding();
                    match self.server.parking.park(self.guest.principal, &binding, due) {
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
            let drain = self.server.tasks.drain().clone();
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

/// Waits until then, if there is such a time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
