//! What comes back for one call: a response, a stream, and the stream again after it broke.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderValue, StatusCode};
use tokio::time::{Instant, sleep_until};

use super::failure::{failure, loss, loss_of};
use super::gate::Pass;
use super::lifeline::Lifeline;
use super::{Core, Sending};
use crate::protocol::error::INVALID_REQUEST;
use crate::protocol::headers;
use crate::protocol::message::{Incoming, Kind, Message, cancelled, json_str};
use crate::protocol::meta;
use crate::protocol::method::Known;
use crate::protocol::revision::Era;
use crate::protocol::sse::Item;
use crate::settings::HttpTransport;
use crate::upstream::driver::{self, CallFacts, Reply};
use crate::upstream::error::UpstreamError;
use crate::upstream::http::{Body, HttpError, Response, SseBody};
use crate::upstream::reconnect::{self, Heard, Loss, Step};
use crate::upstream::redelivery::Redelivery;

/// What comes back for one call. Dropping it before the final answer cancels the call.
pub(crate) struct HttpReplies {
    core: Arc<Core>,
    id: i64,
    facts: CallFacts,
    /// The body of an `initialize`, which may have to be sent over another transport.
    handshake: Option<Bytes>,
    /// Parsed and not yet asked for.
    ready: VecDeque<Message>,
    redelivery: Redelivery,
    state: State,
    /// Until the response is there.
    pass: Option<Pass>,
    open: bool,
    /// The server waits for people, who take longer than it may be silent otherwise.
    patient: bool,
    /// It said something that is no message, which may have been the answer.
    garbled: bool,
}

enum State {
    Posting(Sending),
    /// Trying the transport of 2024-11-05; what the server said first holds if it does not speak that either.
    Falling(BoxFuture<'static, Result<driver::Replies, UpstreamError>>, Box<Reply>),
    Reading {
        body: Box<SseBody>,
        lifeline: Lifeline,
        heard: bool,
    },
    Waiting {
        until: std::time::Instant,
        lifeline: Lifeline,
    },
    Resuming {
        get: Sending,
        lifeline: Lifeline,
    },
    Driven(driver::Replies),
    Over,
}

impl HttpReplies {
    /// A request that is about to be sent. `handshake` is its body if it is an `initialize`.
    pub(super) fn posting(
        core: &Arc<Core>,
        id: i64,
        facts: CallFacts,
        handshake: Option<Bytes>,
        post: Sending,
        pass: Pass,
    ) -> HttpReplies {
        core.unanswered.fetch_add(1, Ordering::Relaxed);
        HttpReplies {
            core: Arc::clone(core),
            id,
            facts,
            handshake,
            ready: VecDeque::new(),
            redelivery: Redelivery::default(),
            state: State::Posting(post),
            pass: Some(pass),
            open: true,
            patient: false,
            garbled: false,
        }
    }

    /// A request that goes over a connection of its own kind.
    pub(super) fn driven(core: &Arc<Core>, id: i64, replies: driver::Replies) -> HttpReplies {
        HttpReplies {
            core: Arc::clone(core),
            id,
            facts: CallFacts { may_ask: false, wants_log: false, cancellable: false },
            handshake: None,
            ready: VecDeque::new(),
            redelivery: Redelivery::default(),
            state: State::Driven(replies),
            pass: None,
            open: false,
            patient: false,
            garbled: false,
        }
    }

    /// The server has been told already that this call is over.
    pub(crate) fn cancelled(&mut self) {
        self.open = false;
        if let State::Driven(replies) = &mut self.state {
            replies.cancelled();
        }
    }

    /// The server waits for people: until the answer it may be silent for as long as they may take.
    pub(crate) fn be_patient(&mut self) {
        self.patient = true;
        if let State::Driven(replies) = &mut self.state {
            replies.be_patient();
        }
        if let State::Reading { body, .. } = &mut self.state {
            body.be_patient(self.core.upstream.people());
        }
    }

    /// The next message; the last one is the answer, or an error. Cancel safe: what is under way is kept in `self`.
    pub(crate) async fn next(&mut self) -> Option<Reply> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                match self.sort(message) {
                    Sorted::Deliver(message) => {
                        if message.kind() == Kind::Request {
                            self.be_patient();
                        }
                        return Some(Ok(message));
                    }
                    Sorted::Answer(message) => return Some(Ok(self.over(message))),
                    Sorted::Nothing => continue,
                }
            }
            match &mut self.state {
                State::Over => return None,
                State::Driven(replies) => return replies.next().await,
                State::Posting(post) => {
                    let response = post.await;
                    if let Err(error) = self.responded(response) {
                        return Some(Err(self.failed(error)));
                    }
                }
                State::Falling(connecting, _) => match connecting.await {
                    Ok(replies) => {
                        self.open = false;
                        self.state = State::Driven(replies);
                    }
                    Err(error) => {
                        tracing::debug!(%error, "No HTTP+SSE there either");
                        let State::Falling(_, first) = std::mem::replace(&mut self.state, State::Over) else {
                            return None;
                        };
                        match *first {
                            Ok(answer) => self.ready.push_back(answer),
                            Err(first) => return Some(Err(self.failed(first))),
                        }
                    }
                },
                State::Reading { body, heard, lifeline } => match body.next().await {
                    Some(Ok(Item::Event(event))) => {
                        let repeated = self.redelivery.is_repeated(event.id.as_ref());
                        let mut messages = self.core.parse(&event);
                        self.garbled |= messages.is_empty() && event.message().is_some();
                        if repeated {
                            // An answer that had been heard would have been the end, so this is none of those.
                            messages.retain(|message| matches!(message.kind(), Kind::Result | Kind::Error));
                        }
                        *heard |= !messages.is_empty();
                        self.ready.extend(messages);
                    }
                    Some(Ok(Item::Comment)) => {}
                    Some(Err(error)) => {
                        let broke = match loss_of(&error) {
                            // It would be the same next time.
                            Loss::Unusable => {
                                lifeline.over(Loss::Unusable.reason());
                                Err(failure(&error))
                            }
                            loss => self.broke(loss),
                        };
                        if let Err(error) = broke {
                            return Some(Err(self.failed(error)));
                        }
                    }
                    // It has said all that there is, and nothing better would come of asking again.
                    None if self.garbled => {
                        lifeline.over(Loss::Unusable.reason());
                        return Some(
                            Err(self.failed(UpstreamError::Violation("its answer is not a JSON-RPC message"))),
                        );
                    }
                    None => {
                        if let Err(error) = self.broke(Loss::Ended) {
                            return Some(Err(self.failed(error)));
                        }
                    }
                },
                State::Waiting { until, .. } => {
                    sleep_until(Instant::from_std(*until)).await;
                    let State::Waiting { mut lifeline, .. } = std::mem::replace(&mut self.state, State::Over) else {
                        return None;
                    };
                    let step = lifeline.on(reconnect::Event::Due);
                    if let Err(error) = self.step(step, lifeline) {
                        return Some(Err(self.failed(error)));
                    }
                }
                State::Resuming { get, .. } => {
                    let response = get.await;
                    let State::Resuming { mut lifeline, .. } = std::mem::replace(&mut self.state, State::Over) else {
                        return None;
                    };
                    match response {
                        Ok(Response { body: Body::Sse(body), .. }) => {
                            lifeline.on(reconnect::Event::Opened);
                            self.redelivery.resumed();
                            self.state = State::Reading { body, lifeline, heard: false };
                            if self.patient {
                                self.be_patient();
                            }
                        }
                        response => {
                            let event = reconnect::Event::Lost { loss: loss(&response), heard: Heard::default() };
                            let step = lifeline.on(event);
                            if let Err(error) = self.step(step, lifeline) {
                                return Some(Err(self.failed(error)));
                            }
                        }
                    }
                }
            }
        }
    }

    /// Whether an answer is the answer to this call: in the very spelling that was sent.
    fn is_ours(&self, answer: &Message) -> bool {
        answer.own_id() == Some(self.id)
    }

    /// What a message on this call's stream is.
    fn sort(&mut self, message: Message) -> Sorted {
        match message.kind() {
            Kind::Result | Kind::Error if self.is_ours(&message) => Sorted::Answer(message),
            Kind::Result | Kind::Error => {
                self.core.upstream.metrics.dropped("unknown_answer");
                Sorted::Nothing
            }
            Kind::Request if message.known() == Some(Known::Ping) && self.core.era == Era::Legacy => {
                self.core.pong(&message);
                Sorted::Nothing
            }
            // Progress for somebody else has no place on this stream, and would get this client's token.
            Kind::Notification
                if message.known() == Some(Known::Progress)
                    && message.param(meta::PROGRESS_TOKEN) != Some(&self.id.to_string()) =>
            {
                self.core.upstream.metrics.dropped("unknown_progress");
                Sorted::Nothing
            }
            Kind::Request | Kind::Notification => Sorted::Deliver(message),
        }
    }

    fn responded(&mut self, response: Result<Response, HttpError>) -> Result<(), UpstreamError> {
        self.state = State::Over;
        if let Some(pass) = self.pass.take() {
            pass.responded(&response, self.core.upstream.limits.depth);
        }
        let response = response.map_err(|error| {
            if matches!(error, HttpError::Unsent(_) | HttpError::Lost(_)) {
                self.core.doubt();
            }
            failure(&error)
        })?;
        self.core.answered.notify_waiters();
        if self.handshake.is_some()
            && response.status.is_success()
            && let Some(session) = response.headers.get(headers::SESSION_ID)
        {
            let _ = self.core.session.set(headers::detached_value(session));
        }
        match response {
            Response { status: StatusCode::OK, body: Body::Json(text), .. } => {
                let incoming = Incoming::parse(text, self.core.upstream.limits.depth)
                    .map_err(|_| UpstreamError::Violation("its answer is not a JSON-RPC message"))?;
                match incoming {
                    Incoming::One(message) => self.ready.push_back(message),
                    Incoming::Batch(messages) => self.ready.extend(messages.into_iter().flatten()),
                }
                if self.ready.iter().any(|message| matches!(message.kind(), Kind::Result | Kind::Error)) {
                    // If it is not the answer to this, there will be none.
                    return Ok(());
                }
                Err(UpstreamError::Violation("it accepted a request and did not answer it"))
            }
            Response { status: StatusCode::OK, body: Body::Sse(body), .. } => {
                let lifeline = Lifeline::of_post(self.core.upstream.policy, &self.core.upstream.streams);
                self.state = State::Reading { body, lifeline, heard: false };
                if self.patient {
                    self.be_patient();
                }
                Ok(())
            }
            response if response.status.is_success() => {
                Err(UpstreamError::Violation("it accepted a request and did not answer it"))
            }
            response => self.not_ok(response),
        }
    }

    /// A status other than success: an error of the server in JSON-RPC, or one of HTTP.
    fn not_ok(&mut self, response: Response) -> Result<(), UpstreamError> {
        let error = self.core.refused(&response);
        let answer = match &response.body {
            Body::Json(text) => Message::parse(text.clone(), self.core.upstream.limits.depth).ok(),
            _ => None,
        };
        let answer = answer.filter(|answer| answer.kind() == Kind::Error);
        let telling = matches!(error, UpstreamError::Status(_));
        let answered = answer.as_ref().is_some_and(|answer| self.is_ours(answer));
        // Errors that refuse a request before it was read carry no id, or null, or (in a widespread SDK) a word; this is
        // the only request they can mean.
        let answer = answer.filter(|_| telling).and_then(|answer| {
            if answered {
                return Some(answer);
            }
            let text = format!(r#"{{"jsonrpc":"2.0","id":{},"error":{}}}"#, self.id, answer.body()?);
            Message::parse(Bytes::from(text), self.core.upstream.limits.depth).ok()
        });
        let verdict = answer.ok_or(error);
        if is_of_an_older_server(response.status, &verdict) {
            self.core.doubt();
        }
        // What an old server says to a POST (2025-11-25, Transports › Backwards Compatibility).
        let old = match response.status {
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => true,
            StatusCode::BAD_REQUEST => !answered,
            _ => false,
        };
        if let (Some(body), true, HttpTransport::Auto) =
            (self.handshake.take(), old, self.core.upstream.target.transport)
        {
            let (core, id, facts) = (Arc::clone(&self.core), self.id, self.facts);
            let connecting = async move { core.fall_back().await?.call(id, body, facts).await };
            self.state = State::Falling(connecting.boxed(), Box::new(verdict));
            return Ok(());
        }
        self.ready.push_back(verdict?);
        Ok(())
    }

    /// The stream ended before the answer. It is resumed where the server has said how (2025-11-25, Resumability and
    /// Redelivery); the request itself is never sent again.
    fn broke(&mut self, loss: Loss) -> Result<(), UpstreamError> {
        let State::Reading { body, mut lifeline, heard } = std::mem::replace(&mut self.state, State::Over) else {
            return Ok(());
        };
        if self.core.era == Era::Modern {
            lifeline.over(reconnect::GiveUp::NotResumable.reason());
            return Err(UpstreamError::Lost { sent: true });
        }
        let heard = Heard { message: heard, last_id: body.last_event_id().cloned(), retry: body.retry() };
        let step = lifeline.on(reconnect::Event::Lost { loss, heard });
        self.step(step, lifeline)
    }

    fn step(&mut self, step: Step, lifeline: Lifeline) -> Result<(), UpstreamError> {
        self.state = match step {
            Step::WaitUntil(until) => State::Waiting { until, lifeline },
            Step::Connect { last_id } => State::Resuming { get: self.core.get(last_id, &lifeline), lifeline },
            Step::Read => return Err(UpstreamError::Lost { sent: true }),
            Step::GiveUp(reconnect::GiveUp::Refused(StatusCode::NOT_FOUND)) => {
                self.core.gone.cancel();
                return Err(UpstreamError::Lost { sent: true });
            }
            Step::GiveUp(reconnect::GiveUp::Unusable) => {
                return Err(UpstreamError::Violation("its stream cannot be read"));
            }
            Step::GiveUp(_) => return Err(UpstreamError::Lost { sent: true }),
        };
        Ok(())
    }

    fn over(&mut self, answer: Message) -> Message {
        if let State::Reading { body, mut lifeline, .. } = std::mem::replace(&mut self.state, State::Over) {
            lifeline.over("answered");
            body.finish();
        }
        self.open = false;
        self.core.unanswered.fetch_sub(1, Ordering::Relaxed);
        if self.handshake.take().is_some()
            && let Some(version) = negotiated(&answer)
        {
            let _ = self.core.version.set(version);
        }
        answer
    }

    fn failed(&mut self, error: UpstreamError) -> UpstreamError {
        self.open = false;
        if !error.sent() {
            self.core.unanswered.fetch_sub(1, Ordering::Relaxed);
        }
        self.state = State::Over;
        error
    }
}

enum Sorted {
    Deliver(Message),
    Answer(Message),
    Nothing,
}

impl Drop for HttpReplies {
    fn drop(&mut self) {
        // A modern call ends with its response, which is dropped with this. A legacy server has to be told.
        if self.open && self.core.era == Era::Legacy && self.facts.cancellable {
            self.core.leave(cancelled(self.id));
        }
    }
}

/// Whether a refusal is none that a server of 2026-07-28 gives: a status without an error, or an error that misses a session
/// (2026-07-28, Streamable HTTP › Backward Compatibility).
fn is_of_an_older_server(status: StatusCode, refusal: &Reply) -> bool {
    let refused = matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED);
    let is_modern = |answer: &Message| {
        let code = answer.body().and_then(|body| serde_json::from_str::<Code>(body).ok());
        code.is_some_and(|Code { code }| !(-32019..=-32000).contains(&code) && code != i64::from(INVALID_REQUEST))
    };
    refused && !refusal.as_ref().is_ok_and(is_modern)
}

#[derive(serde::Deserialize)]
struct Code {
    code: i64,
}

/// The version in the result of a handshake, as a header.
fn negotiated(result: &Message) -> Option<HeaderValue> {
    let (members, _) = result.result_members()?;
    let member = members.find(result.text(), meta::PROTOCOL_VERSION_PARAM)?;
    let json = std::str::from_utf8(member.value.of(result.text())).ok()?;
    HeaderValue::from_str(&json_str(json)?).ok()
}
