//! The life of a legacy session with an HTTP server: what it says by itself, and what is left to be sent.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Poll, ready};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode};
use tokio::time::{Duration, Instant, sleep_until};

use super::failure::{loss, loss_of};
use super::lifeline::Lifeline;
use super::{BOTH, Core, Told};
use crate::protocol::message::{Kind, Message};
use crate::protocol::method::Known;
use crate::protocol::sse::Item;
use crate::rt::mailbox::PushError;
use crate::upstream::error::UpstreamError;
use crate::upstream::http::{Body, Response, SseBody};
use crate::upstream::reconnect::{self, Heard, Loss, Step};
use crate::upstream::redelivery::Redelivery;
use crate::upstream::{driver, sse_2024, tapped};

/// Most messages without an answer that are on their way at once.
const LEFTOVERS_AT_ONCE: usize = 8;
/// How long the end of a session is announced for: best effort (2025-11-25, Session Management).
pub(super) const DELETE_WAIT: Duration = Duration::from_secs(1);

impl Core {
    /// Connects with the transport of 2024-11-05. From here on that is the connection.
    pub(super) async fn fall_back(self: &Arc<Self>) -> Result<driver::Handle, UpstreamError> {
        let upstream = &self.upstream;
        let forwarded = self.forwarded().clone();
        let pipe = sse_2024::SsePipe::connect(upstream, forwarded).await?;
        upstream.is_2024.store(true, Ordering::Relaxed);
        let limits =
            driver::DriverLimits { depth: upstream.limits.depth, message_bytes: upstream.limits.message_bytes };
        let stop = upstream.tasks.stop().clone();
        let standing = Arc::clone(&self.standing);
        let (handle, task) = tapped::drive(
            pipe,
            self.line.clone(),
            standing,
            driver::Sharing::Exclusive,
            limits,
            upstream.metrics.clone(),
            stop,
        );
        let core = Arc::clone(self);
        // The handle lives in `core`: this ends with the session, or with the connection.
        upstream.tasks.spawn("upstream-sse", async move {
            task.await;
            core.gone.cancel();
        });
        let _ = self.driven.set(handle.clone());
        Ok(handle)
    }

    /// Something the server says by itself.
    pub(super) async fn say(&self, message: Message) {
        // Whoever has the connection when there is room may be somebody else.
        let (time, bytes) = (self.standing.now(), message.text().len());
        let mut message = message;
        loop {
            match self.standing.push(Some(time), message, bytes, Message::alone) {
                Ok(()) => return,
                Err(PushError::Full(back)) => message = back,
                Err(PushError::Forgotten(_)) => return self.upstream.metrics.dropped("no_recipient"),
                Err(PushError::Gone) => return self.upstream.metrics.dropped("client_gone"),
            }
            self.standing.room().await;
        }
    }

    /// The life of a legacy session. Most have nothing to do for most of the time: what it takes to do it is boxed.
    pub(super) async fn look_after(self: Arc<Self>) {
        let stop = self.upstream.tasks.stop().clone();
        let mut listened = false;
        let (mut listening, mut sending): (Option<BoxFuture<'_, ()>>, Option<BoxFuture<'_, ()>>) = (None, None);
        loop {
            let told = self.told();
            if told.has(Told::OVER) {
                break;
            }
            // What the server says by itself, once the handshake is done and somebody hears it.
            if !listened && told.has(Told::INITIALIZED) && told.has(Told::WANTED) {
                listened = true;
                listening = self.driven.get().is_none().then(|| self.stand().boxed());
            }
            if sending.is_none() && !self.leftovers().is_empty() {
                sending = Some(self.send_leftovers().boxed());
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.gone.cancelled() => break,
                () = finished(&mut sending) => {}
                () = finished(&mut listening) => {}
                () = self.wake.notified() => {}
            }
        }
        drop((listening, sending));
        Box::pin(self.say_goodbye()).await;
    }

    /// Sends what was left to be sent, and what is left meanwhile: that is looked at each time it is polled.
    async fn send_leftovers(self: &Arc<Self>) {
        // Several at a time: they do not depend on each other, and a server that does not take one may take the next.
        let mut under_way = FuturesUnordered::new();
        poll_fn(|cx| {
            loop {
                while under_way.len() < LEFTOVERS_AT_ONCE {
                    let Some(message) = self.leftovers().pop_front() else { break };
                    under_way.push(self.deliver(message).boxed());
                }
                match ready!(under_way.poll_next_unpin(cx)) {
                    // Whether it arrived is seen by what the server does next.
                    Some(Ok(())) => {}
                    Some(Err(_)) => self.upstream.metrics.dropped("not_delivered"),
                    None => return Poll::Ready(()),
                }
            }
        })
        .await;
    }

    async fn say_goodbye(self: &Arc<Self>) {
        // What was still to be sent concerns calls of a session that ends now.
        let forgotten = self.gone.is_cancelled();
        self.gone.cancel();
        self.standing.close();
        if let Some(handle) = self.driven.get() {
            handle.close();
        } else if self.session.get().is_some() && !forgotten && self.upstream.failing().is_none() {
            let forwarded = self.forwarded().clone();
            let mut headers = self.headers(&BOTH, forwarded);
            headers.remove(CONTENT_TYPE);
            let deadline = Instant::now() + DELETE_WAIT;
            // 405 means that it has no use for this; silence means nothing.
            drop(self.send(Method::DELETE, headers, Bytes::new(), deadline).await);
        }
    }

    /// Holds the standing stream. Ends where there is none.
    async fn stand(self: &Arc<Self>) {
        let mut lifeline = Lifeline::of_get(self.upstream.policy, &self.upstream.streams);
        let mut step = Step::Connect { last_id: None };
        let mut body: Option<Box<SseBody>> = None;
        let mut redelivery = Redelivery::default();
        let mut opened = false;
        loop {
            let event = match step {
                Step::Connect { last_id } => match self.get(last_id, &lifeline).await {
                    Ok(Response { body: Body::Sse(stream), .. }) => {
                        (body, opened) = (Some(stream), true);
                        reconnect::Event::Opened
                    }
                    response => {
                        let loss = match loss(&response) {
                            // Many servers have nothing under GET, and say so with 404 in place of 405. Should it be the
                            // session that is not there, the next message is told so.
                            Loss::Status { status: StatusCode::NOT_FOUND, retry_after } if !opened => {
                                Loss::Status { status: StatusCode::METHOD_NOT_ALLOWED, retry_after }
                            }
                            loss => loss,
                        };
                        reconnect::Event::Lost { loss, heard: Heard::default() }
                    }
                },
                Step::WaitUntil(until) => {
                    sleep_until(Instant::from_std(until)).await;
                    reconnect::Event::Due
                }
                Step::Read => {
                    let Some(stream) = &mut body else { return };
                    let (heard, loss) = self.read_standing(stream, &mut redelivery).await;
                    body = None;
                    redelivery.resumed();
                    reconnect::Event::Lost { loss, heard }
                }
                Step::GiveUp(reconnect::GiveUp::Refused(StatusCode::NOT_FOUND)) => {
                    // The session is gone, and with it what this connection was.
                    self.gone.cancel();
                    return;
                }
                Step::GiveUp(reconnect::GiveUp::Refused(StatusCode::METHOD_NOT_ALLOWED)) => {
                    tracing::debug!(upstream = self.upstream.metrics.name(), "Server has no standing stream");
                    return;
                }
                // From here on the session goes without what the server says by itself, unless that could not be reached and
                // answers somebody again.
                Step::GiveUp(why) => {
                    tracing::warn!(upstream = self.upstream.metrics.name(), ?why, "Standing stream given up");
                    self.upstream.metrics.error("upstream", "standing_stream");
                    if why != reconnect::GiveUp::Spent {
                        return;
                    }
                    self.answered.notified().await;
                    step = lifeline.revive(&self.upstream.streams);
                    continue;
                }
            };
            step = lifeline.on(event);
        }
    }

    async fn read_standing(&self, stream: &mut SseBody, redelivery: &mut Redelivery) -> (Heard, Loss) {
        let mut message = false;
        let loss = loop {
            match stream.next().await {
                Some(Ok(Item::Event(event))) if redelivery.is_repeated(event.id.as_ref()) => {}
                Some(Ok(Item::Event(event))) => {
                    for parsed in self.parse(&event) {
                        message = true;
                        match parsed.kind() {
                            Kind::Request if parsed.known() == Some(Known::Ping) => self.pong(&parsed),
                            Kind::Request | Kind::Notification => self.say(parsed).await,
                            Kind::Result | Kind::Error => self.upstream.metrics.dropped("unknown_answer"),
                        }
                    }
                }
                Some(Ok(Item::Comment)) => {}
                Some(Err(error)) => break loss_of(&error),
                None => break Loss::Ended,
            }
        };
        (Heard { message, last_id: stream.last_event_id().cloned(), retry: stream.retry() }, loss)
    }
}

/// Waits for the end of something, which is forgotten then; for ever where there is nothing.
async fn finished(under_way: &mut Option<BoxFuture<'_, ()>>) {
    poll_fn(|cx| {
        let Some(future) = under_way else { return Poll::Pending };
        ready!(future.poll_unpin(cx));
        *under_way = None;
        Poll::Ready(())
    })
    .await;
}
