//! The server's half of a request of 2026-07-28 at a server with a handshake: the connection, and what [`Call`] has it do.
//! It stays when the client goes to fetch answers.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::HeaderMap;
use tokio::time::{Duration, Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Server;
use super::error::ProxyError;
use super::parking::Spot;
use super::tasking::{Made, Room};
use super::tools::Source;
use crate::backend::bridged::{Bridged, Guest};
use crate::backend::start::ask;
use crate::backend::{Leased, Way};
use crate::bridge::handshake;
use crate::bridge::loss::Loss;
use crate::bridge::modern_to_legacy::answer::makes_tasks;
use crate::bridge::modern_to_legacy::call::{Call, Effect, Input, Leg, Rules};
use crate::bridge::modern_to_legacy::declared::Declared;
use crate::bridge::modern_to_legacy::task::Described;
use crate::bridge::modern_to_legacy::upward;
use crate::protocol::message::{Kind, Message};
use crate::protocol::meta;
use crate::protocol::method::Known;
use crate::upstream::driver::CallFacts;
use crate::upstream::error::UpstreamError;
use crate::upstream::{self, Connection, Replies};

/// How long a server that is left may take to hear what it has to be told.
const FAREWELL: Duration = Duration::from_secs(5);

/// Most messages that a server has yet to be told.
const TELLING_MAX: usize = 256;

/// The server's half of a call: what stays when the client goes to fetch answers. Dropping it ends the call.
pub(crate) struct Half {
    pub(super) call: Call,
    server: Arc<Server>,
    /// The client's words, which may have to be sent once more. While it is away, nobody's.
    pub(super) request: Option<Message>,
    headers: Arc<HeaderMap>,
    pub(super) connection: Connection,
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
    pub(super) failed: Option<UpstreamError>,
    pub(super) until: Instant,
}

/// How a request is begun.
pub(super) struct Opening<'a> {
    pub(super) leg: Leg,
    /// Headers that have to repeat the body, where there are any.
    pub(super) mirrored: Option<&'a HeaderMap>,
    pub(super) rules: Rules,
    pub(super) until: Instant,
}

/// Gets a connection, and sends the request on it.
pub(super) async fn open(
    server: Arc<Server>,
    guest: Guest,
    request: Message,
    opening: Opening<'_>,
) -> Result<Box<Half>, ProxyError> {
    let Opening { leg, mut mirrored, rules, until } = opening;
    let patience = server.patience.tools;
    let mut tries = 0;
    loop {
        let Bridged { way: Way { connection, mut lease }, greeting } = server.backend.bridged(&guest).await?;
        let source = Source::with_handshake(&connection, &guest);
        if let Some(given) = mirrored {
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
            Box::pin(set_level(&server, &connection, lease.as_mut(), &greeting, level, &guest)).await;
        }
        let offers = lease.is_some()
            && request.known() == Some(Known::ToolsCall)
            && leg.takes_tasks()
            && makes_tasks(&greeting)
            && Box::pin(server.tools.makes_task(source, &request, patience)).await;
        // Without room it is called like any other.
        let room = if offers { server.tasking.room(guest.principal) } else { None };
        let id = connection.next_id();
        let as_task = room.as_ref().and_then(|_| upward::upward_as_task(&request, id));
        let is_offered = as_task.is_some();
        let upward = as_task.unwrap_or_else(|| upward::upward(&request, id));
        match send(&connection, id, upward, request.known(), &guest.headers).await {
            Ok(replies) => {
                let call = Call::begin(&request, leg, rules, &greeting);
                return Ok(Box::new(Half {
                    call: if is_offered { call.offered() } else { call },
                    headers: guest.headers,
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
    connection: &Connection,
    id: i64,
    upward: Message,
    known: Option<Known>,
    headers: &HeaderMap,
) -> Result<Replies, UpstreamError> {
    let may_ask = known.is_some_and(Known::may_ask);
    let facts = CallFacts { may_ask, wants_log: true, cancellable: true };
    connection.call(upstream::Call { id, message: &upward, facts, headers: headers.clone() }).await
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

pub(super) enum Heard {
    Said(Message),
    Failed(UpstreamError),
}

impl Half {
    pub(super) fn feed(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.call.handle(input, Instant::now().into_std(), &mut effects);
        effects
    }

    /// Does what concerns the server, or nobody.
    pub(super) fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Server(message) => self.telling.push_back(message),
            Effect::Again => self.send_again(|request, id| Some(upward::upward(request, id))),
            Effect::AsTask => self.send_again(upward::upward_as_task),
            Effect::Fetch(task) => self.send_again(|_, id| Some(upward::about_task(Known::TasksResult, id, &task))),
            Effect::CancelTask(task) => {
                self.telling.push_back(upward::about_task(Known::TasksCancel, self.connection.next_id(), &task));
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
    pub(super) fn parked(&mut self) {
        self.request = None;
        self.call.shrink();
        self.telling.shrink_to_fit();
        if let Some(replies) = &mut self.replies {
            replies.be_patient();
        }
    }

    /// What there is of a task that the call has become.
    pub(super) fn becomes(&mut self, theirs: String, described: Described, declared: Declared) -> Option<Made> {
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
        let (connection, headers, known) = (self.connection.clone(), Arc::clone(&self.headers), request.known());
        self.again = Some(async move { send(&connection, id, upward, known, &headers).await }.boxed());
    }

    /// What happens next at the server. Meanwhile it is told what it has to be told.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn next(&mut self) -> Heard {
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
pub(super) async fn keep(mut half: Box<Half>, mut spot: Spot<Box<Half>>, until: Instant, drain: CancellationToken) {
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
