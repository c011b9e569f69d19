//! Connections to upstreams whose traffic is recorded: the same, with somebody who watches.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::Either;
use http::{HeaderMap, Method, Uri};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::driver::{self, DriverLimits, Event, Handle, Pipe, Sharing};
use super::error::UpstreamError;
use super::http::{Body, HttpClient, HttpError, Response};
use crate::metrics::ServerMetrics;
use crate::protocol::message::{Incoming, Message};
use crate::rt::mailbox::Writer;
use crate::tap::Line;

/// What [`driver::drive`] does, watched by `line` if there is one.
pub(crate) fn drive<P: Pipe>(
    pipe: P,
    line: Option<Arc<Line>>,
    standing: Arc<Writer<Message>>,
    sharing: Sharing,
    limits: DriverLimits,
    metrics: ServerMetrics,
    stop: CancellationToken,
) -> (Handle, impl Future<Output = bool> + Send + 'static) {
    let Some(line) = line else {
        let (handle, task) = driver::drive(pipe, standing, sharing, limits, metrics, stop);
        return (handle, Either::Left(task));
    };
    let tapped = Tapped { pipe, line: Arc::clone(&line), depth: limits.depth, unsent: VecDeque::new() };
    let (handle, task) = driver::drive(tapped, standing, sharing, limits, metrics, stop);
    handle.watched_by(line);
    (handle, Either::Right(task))
}

/// A pipe whose messages are noted: those that come when they have come, those that go when their first byte has gone, or all
/// before them has.
struct Tapped<P> {
    pipe: P,
    line: Arc<Line>,
    /// Deepest nesting of a message.
    depth: usize,
    /// What was queued for writing and not been noted: a call, and what stands behind it.
    unsent: VecDeque<(Option<i64>, Bytes)>,
}

impl<P> Tapped<P> {
    /// Notes all up to this call.
    fn note_sent_to(&mut self, id: i64) {
        if let Some(at) = self.unsent.iter().position(|(unsent, _)| *unsent == Some(id)) {
            for (id, text) in self.unsent.drain(..=at) {
                self.line.sent(id, &text);
            }
            self.note_sent();
        }
    }

    /// Notes what stands in front and is not waited for.
    fn note_sent(&mut self) {
        while let Some((None, text)) = self.unsent.front() {
            self.line.sent(None, text);
            self.unsent.pop_front();
        }
    }
}

impl<P: Pipe> Pipe for Tapped<P> {
    async fn next(&mut self, read: bool) -> Event {
        // Before anything is taken from the pipe, which would be lost if this were dropped while it waits.
        self.line.room().await;
        let event = self.pipe.next(read).await;
        match &event {
            Event::Text(text) => {
                let said = Incoming::parse(text.clone(), self.depth);
                self.line.heard(text, said.as_ref().ok());
                return Event::Read(said);
            }
            Event::Read(_) => {}
            Event::Sent(ids) => ids.iter().for_each(|id| self.note_sent_to(*id)),
            Event::Failed(id, _) => self.note_sent_to(*id),
            Event::Closed(_) => {}
        }
        event
    }

    fn write(&mut self, id: Option<i64>, line: Bytes) {
        self.unsent.push_back((id, line.clone()));
        self.pipe.write(id, line);
        self.note_sent();
    }

    fn unwrite(&mut self, id: i64) -> bool {
        let taken = self.pipe.unwrite(id);
        if taken {
            self.unsent.retain(|(unsent, _)| *unsent != Some(id));
            self.note_sent();
        }
        taken
    }

    fn queued(&self) -> usize {
        self.pipe.queued()
    }

    fn be_patient(&mut self) {
        self.pipe.be_patient();
    }

    async fn close(self, why: UpstreamError) {
        match &why {
            UpstreamError::Closed { .. } => self.line.hung_up("closed by the proxy"),
            why => self.line.closed(&why.to_string()),
        }
        self.pipe.close(why).await;
    }
}

/// What [`HttpClient::send`] does, watched by `line`.
///
/// # Errors
/// The same.
pub(super) async fn send(
    line: &Arc<Line>,
    client: &HttpClient,
    method: Method,
    url: &Uri,
    headers: HeaderMap,
    body: Bytes,
    deadline: Instant,
) -> Result<Response, HttpError> {
    line.room().await;
    let exchange = line.request(&method, &headers, &body);
    let mut result = client.send(method, url, headers, body, deadline).await;
    match &mut result {
        Ok(Response { status, headers, body: Body::Json(text) | Body::Other(text) }) => {
            exchange.answered_with(*status, headers, text);
        }
        Ok(Response { status, headers, body: Body::Empty }) => {
            exchange.answered(*status, headers);
            exchange.finish();
        }
        Ok(Response { status, headers, body: Body::Sse(stream) }) => {
            exchange.answered(*status, headers);
            stream.watched_by(exchange);
        }
        Err(error) => exchange.closed(&error.to_string()),
    }
    result
}
