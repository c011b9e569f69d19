//! What answers a request, as HTTP: one JSON body, or a stream of server-sent events. The first message decides.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, stream};
use http::{HeaderValue, StatusCode, header};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::time::{Duration, Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::metrics::GaugeGuard;
use crate::protocol::id::RequestId;
use crate::protocol::message::Message;
use crate::protocol::revision::Era;
use crate::protocol::sse::{self, Event, KEEP_ALIVE};
use crate::proxy::error::ProxyError;
use crate::proxy::exchange::{Next, Output};
use crate::proxy::{Proxy, Work};
use crate::session::Session;
use crate::session::backlog::EventId;
use crate::session::stream::{Stream, StreamReader};

use super::guard::Accepts;

/// The time that a client should wait before it comes back to a stream that we ended.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// What an event takes besides its data, about.
const EVENT_OVERHEAD: usize = 64;
/// What a few short events take: they often come together.
const FEW_EVENTS: usize = 1024;

/// Events that are there at the same time are put together up to this many bytes.
const FRAME_BYTES: usize = 16 << 10;

/// An error as the answer to a request. Where its id is not known, it is null for a legacy client whose message could
/// not be read, as JSON-RPC has it, and left out otherwise.
pub(super) fn refuse(proxy: &Proxy, error: &ProxyError, id: Option<&RequestId>, era: Option<Era>) -> Response {
    let (side, kind) = error.blame();
    proxy.metrics.refused(side, kind);
    let outward = error.outward();
    let text = match (id.or(error.id()), error) {
        (None, ProxyError::Parse(_)) if era != Some(Era::Modern) => outward.error.to_json(None),
        (None, _) => outward.error.to_json_without_id(),
        (id, _) => outward.error.to_json(id),
    };
    let mut response = json(outward.status, Bytes::from(text));
    if let Some(seconds) = outward.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if outward.status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, POST, DELETE"));
    }
    if matches!(
        error,
        ProxyError::TooLarge(_) | ProxyError::BodyTimeout | ProxyError::BodyBroken | ProxyError::ShuttingDown
    ) {
        // What is left of the body, or what would come next, is not worth reading.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// One JSON body.
pub(super) fn json(status: StatusCode, text: Bytes) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Nothing but a status.
pub(super) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// A request was cancelled by its client: there is no answer, and HTTP wants one.
pub(super) fn unanswered(accepts: Accepts) -> Response {
    if accepts.sse { event_stream(stream::empty()) } else { empty(StatusCode::ACCEPTED) }
}

/// A request under way, owned by the connection that asked. If that goes away, a legacy request is handed over and a
/// modern one is cancelled: this is what its `Drop` does.
pub(super) struct Running {
    proxy: Arc<Proxy>,
    work: Option<Work>,
    stream: Option<Arc<Stream>>,
}

impl Running {
    pub(super) fn new(proxy: &Arc<Proxy>, work: impl Into<Work>) -> Running {
        Running { proxy: Arc::clone(proxy), work: Some(work.into()), stream: None }
    }

    /// The next message. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Output> {
        loop {
            match self.next_until(None).await {
                Next::Output(output) => return Some(output),
                Next::End => return None,
                Next::Quiet => {}
            }
        }
    }

    /// The same, but waits no longer than until then. Cancel safe.
    async fn next_until(&mut self, quiet: Option<Instant>) -> Next {
        let Some(work) = &mut self.work else { return Next::End };
        let next = work.next_until(quiet).await;
        if matches!(next, Next::End | Next::Output(Output { last: true, .. })) {
            self.work = None;
        }
        next
    }

    /// Puts a message where the client may find it although it is not the answer to this request.
    fn put_aside(&self, output: &Output) {
        match self.work.as_ref().and_then(Work::session) {
            Some(session) => {
                session.standing().push(&output.message.line());
            }
            None => tracing::debug!("Message dropped: the client accepts no stream"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        match self.work.take() {
            Some(work) if work.session().is_some() => self.proxy.adopt(work, self.stream.take()),
            _ => {
                if let Some(stream) = &self.stream {
                    stream.finish();
                }
            }
        }
    }
}

/// Answers a request: waits for the first message, and lets it decide.
pub(super) async fn answer(mut running: Running, accepts: Accepts, prime: bool) -> Response {
    let patience = running.proxy.settings.timeouts.sse_keepalive;
    let first = loop {
        // A client that can read a stream is not left in silence: what lies between would take the connection for dead.
        match running.next_until(accepts.sse.then(|| Instant::now() + patience)).await {
            Next::Quiet => break None,
            Next::End => return unanswered(accepts),
            Next::Output(output) if output.last && (accepts.json || output.status != StatusCode::OK) => {
                return json(output.status, output.message.text().clone());
            }
            Next::Output(output) if accepts.sse => break Some(output),
            Next::Output(output) => running.put_aside(&output),
        }
    };
    let session = running.work.as_ref().and_then(Work::session);
    running.stream = session.map(|session| session.open_stream());
    let proxy = Arc::clone(&running.proxy);
    events(Sending {
        keepalive: proxy.settings.timeouts.sse_keepalive,
        primed: !prime,
        first,
        ended: false,
        _counted: proxy.metrics.stream(),
        running,
    })
}

/// The stream of one request.
struct Sending {
    running: Running,
    primed: bool,
    first: Option<Output>,
    ended: bool,
    keepalive: Duration,
    _counted: GaugeGuard,
}

fn events(sending: Sending) -> Response {
    event_stream(stream::unfold(sending, |mut sending| async move {
        let frame = sending.frame().await?;
        Some((frame, sending))
    }))
}

impl Sending {
    /// The next piece of the body. Dropped in between, the exchange goes where `Running` sends it.
    async fn frame(&mut self) -> Option<Bytes> {
        if !std::mem::replace(&mut self.primed, true)
            && let Some(stream) = &self.running.stream
        {
            // An id to come back with before there is anything to lose (2025-11-25, Streamable HTTP › Sending Messages).
            let mut out = BytesMut::new();
            let event = Event { retry: Some(RETRY), ..Event::priming(stream.start().to_bytes()) };
            encode(&event, &mut out);
            return Some(out.freeze());
        }
        let output = match self.first.take() {
            Some(first) => first,
            None if self.ended => return None,
            None => {
                let stream = self.running.stream.clone();
                let quiet = Some(Instant::now() + self.keepalive);
                let next = tokio::select! {
                    biased;
                    // The client has come back for this stream on another connection.
                    () = taken_over(stream.as_ref()) => return None,
                    next = self.running.next_until(quiet) => next,
                };
                match next {
                    Next::Output(output) => output,
                    Next::Quiet => return Some(Bytes::from_static(KEEP_ALIVE)),
                    Next::End => return None,
                }
            }
        };
        let mut out = BytesMut::with_capacity((output.message.text().len() + EVENT_OVERHEAD).max(FEW_EVENTS));
        self.encode(&output, &mut out);
        // What has arrived by now goes with it, so that many small events are not as many writes.
        while !self.ended
            && out.len() < FRAME_BYTES
            && let Some(Some(output)) = self.running.next().now_or_never()
        {
            self.encode(&output, &mut out);
        }
        Some(out.freeze())
    }

    fn encode(&mut self, output: &Output, out: &mut BytesMut) {
        self.ended |= output.last;
        let data = output.message.line();
        let id = self.running.stream.as_ref().map(|stream| stream.push(&data));
        encode_message(id, data, out);
    }
}

async fn taken_over(stream: Option<&Arc<Stream>>) {
    match stream {
        Some(stream) => stream.taken_over().await,
        None => std::future::pending().await,
    }
}

/// One message as an event. Every client knows the type, and those of 2024-11-05 ask for it.
pub(super) fn message_event(id: Option<EventId>, data: Bytes) -> Bytes {
    let mut out = BytesMut::with_capacity(data.len() + EVENT_OVERHEAD);
    encode_message(id, data, &mut out);
    out.freeze()
}

fn encode_message(id: Option<EventId>, data: Bytes, out: &mut BytesMut) {
    let event = Event { id: id.map(EventId::to_bytes), event: Some(Bytes::from_static(b"message")), data, retry: None };
    encode(&event, out);
}

pub(super) fn encode(event: &Event, out: &mut BytesMut) {
    if let Err(error) = sse::encode(event, out) {
        unreachable!("BUG: the proxy's own event ids and types have no line breaks: {error}");
    }
}

/// The stream of what belongs to no request, or of one that is resumed.
pub(super) fn resumed(proxy: &Arc<Proxy>, session: Arc<Session>, reader: StreamReader, prime: bool) -> Response {
    struct Reading {
        session: Arc<Session>,
        reader: StreamReader,
        /// Said instead of what was lost, without ids: a client that resumes goes on behind what it has read.
        instead: VecDeque<Message>,
        primed: bool,
        drain: CancellationToken,
        over: bool,
        keepalive: Duration,
        _counted: GaugeGuard,
    }
    // The rest of an answer is waited for like the answer itself, until there is no more time for it.
    let drain = if reader.is_standing() { proxy.tasks.drain().clone() } else { CancellationToken::new() };
    let reading = Reading {
        session,
        reader,
        instead: VecDeque::new(),
        primed: !prime,
        drain,
        over: false,
        keepalive: proxy.settings.timeouts.sse_keepalive,
        _counted: proxy.metrics.stream(),
    };
    event_stream(stream::unfold(reading, |mut reading| async move {
        if reading.over {
            return None;
        }
        let frame = if let Some(message) = reading.instead.pop_front() {
            message_event(None, message.line())
        } else if std::mem::replace(&mut reading.primed, true) {
            tokio::select! {
                biased;
                next = reading.reader.next() => {
                    let missed = reading.reader.take_missed();
                    if missed > 0 {
                        reading.instead.extend(reading.session.missed(missed));
                    }
                    let (id, data) = next?;
                    message_event(Some(id), data)
                }
                () = reading.session.ended().cancelled() => return None,
                () = reading.drain.cancelled() => {
                    // Said before the end, so that the client does not come back at once (2025-11-25, Sending Messages).
                    reading.over = true;
                    let mut out = BytesMut::new();
                    sse::encode_retry(RETRY, &mut out);
                    out.freeze()
                }
                () = sleep_until(Instant::now() + reading.keepalive) => Bytes::from_static(KEEP_ALIVE),
            }
        } else {
            let mut out = BytesMut::new();
            let event = Event { retry: Some(RETRY), ..Event::priming(reading.reader.position().to_bytes()) };
            encode(&event, &mut out);
            out.freeze()
        };
        Some((frame, reading))
    }))
}

/// A body of events, with what keeps middle-boxes from holding it back.
pub(super) fn event_stream(frames: impl futures_util::Stream<Item = Bytes> + Send + 'static) -> Response {
    use futures_util::StreamExt;
    let frames = frames.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
