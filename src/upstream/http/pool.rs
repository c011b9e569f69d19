//! Connections to one origin, kept between requests.
//!
//! hyper speaks the protocol; what is here is only which of its connections takes a request. One of HTTP/1.1 is one
//! request's until the body of its response has been read to the end, and it is driven by whoever waits for that: on its way
//! an answer is not handed from task to task, and what came together is there together. One of HTTP/2 is everybody's, and
//! has a task to itself.

use std::future::poll_fn;
use std::num::NonZero;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::thread::available_parallelism;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, Response, Uri, Version};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_rustls::MaybeHttpsStream;
use hyper_util::client::legacy::connect::Connection as _;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt as _;

use super::{BoxError, Connector, HEADER_BYTES_MAX};
use crate::rt::wakes::{Bell, hushed};
use crate::rt::workers::here;

/// Runs what it is given until it ends.
pub(super) type Run = Arc<dyn Fn(Pin<Box<dyn Future<Output = ()> + Send>>) + Send + Sync>;

/// How often it is looked whether servers have closed connections that nobody uses.
const LOOK: Duration = Duration::from_millis(500);
/// How long a server may take to see the end of a connection that nobody uses.
const FAREWELL: Duration = Duration::from_secs(5);
/// Most connections that are kept by each worker while nothing is asked over them.
const IDLE_MAX: usize = 1024;

pub(super) struct Pool {
    connector: Connector,
    host: HeaderValue,
    /// How long a connection is kept that nobody uses.
    keep: Duration,
    run: Run,
    /// One for each worker, so that a connection is used where it was made; held for a look or a replacement.
    kept: Box<[Mutex<Kept>]>,
}

#[derive(Default)]
struct Kept {
    /// The one used last is at the end.
    idle: Vec<Idle>,
    shared: Option<http2::SendRequest<Full<Bytes>>>,
    /// Somebody ends those that are idle for too long.
    is_watched: bool,
}

/// Why there is no response.
pub(super) enum SendError {
    /// The server has seen nothing of the request.
    Unsent(BoxError),
    /// It may have.
    Lost(BoxError),
}

/// A connection of HTTP/1.1. It moves only while somebody drives it.
struct Wire {
    sender: http1::SendRequest<Full<Bytes>>,
    connection: Connection,
    bell: Bell,
    is_over: bool,
    /// The worker that made it.
    home: usize,
}

/// A connection that nobody uses, and nobody drives.
struct Idle {
    wire: Box<Wire>,
    /// The last body, if its end has not been seen.
    rest: Option<Incoming>,
    since: Instant,
}

/// The body of a response. When it has been read to its end, others may use the connection. Dropping it before closes the
/// connection, unless that is shared.
pub(super) struct Body {
    incoming: Incoming,
    own: Option<(Box<Wire>, Arc<Pool>)>,
}

type Connection = http1::Connection<MaybeHttpsStream<TokioIo<TcpStream>>, Full<Bytes>>;

type Sent = Result<Response<Incoming>, TrySendError<Request<Full<Bytes>>>>;

/// What hyper hands from a connection to its user comes while the connection is driven, and is looked for then: nobody need be
/// woken for it.
fn unwoken() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

impl Wire {
    fn new(sender: http1::SendRequest<Full<Bytes>>, connection: Connection) -> Box<Wire> {
        Box::new(Wire { sender, connection, bell: Bell::new(), is_over: false, home: here() })
    }

    /// Reads and writes what can be read and written. Who polls is woken when there may be more. Whether there was anything to see.
    fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        if self.is_over {
            return false;
        }
        let Some(polled) = self.bell.poll_if_rung(cx, |cx| Pin::new(&mut self.connection).poll(cx)) else {
            return false;
        };
        if let Poll::Ready(end) = polled {
            self.is_over = true;
            ended("HTTP/1.1", end);
        }
        true
    }

    async fn ready(&mut self) -> hyper::Result<()> {
        poll_fn(|cx| {
            self.drive(cx);
            self.sender.poll_ready(cx)
        })
        .await
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Sent {
        let (response, _) = hushed(|| self.sender.try_send_request(request));
        // Without a budget: it would ask to be woken when there is none left, and nobody is.
        let mut response = pin!(unconstrained(response));
        poll_fn(|cx| {
            self.drive(cx);
            response.as_mut().poll(&mut unwoken())
        })
        .await
    }

    /// The next piece of the body that comes over it.
    fn poll_frame(&mut self, body: &mut Incoming, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        loop {
            if let (Poll::Ready(frame), _) = hushed(|| Pin::new(&mut *body).poll_frame(&mut unwoken())) {
                return Poll::Ready(frame);
            }
            if !self.drive(cx) {
                return Poll::Pending;
            }
        }
    }

    /// Ends it in good order, if the server does not take too long for that.
    async fn close(self: Box<Self>) {
        drop(self.sender);
        if !self.is_over
            && let Ok(end) = timeout(FAREWELL, self.connection).await
        {
            ended("HTTP/1.1", end);
        }
    }
}

impl Idle {
    /// Whether it is still a connection, and nothing but the end of the last response came over it.
    fn is_fine(&mut self) -> bool {
        let cx = &mut unwoken();
        match &mut self.rest {
            None => {
                self.wire.drive(cx);
            }
            Some(rest) => match self.wire.poll_frame(rest, cx) {
                Poll::Ready(None) => self.rest = None,
                Poll::Ready(Some(_)) => return false,
                Poll::Pending => {}
            },
        }
        !self.wire.is_over
    }

    /// The connection, if it takes a request.
    fn wake(mut self) -> Option<Box<Wire>> {
        let is_ready = self.is_fine()
            && self.rest.is_none()
            && matches!(self.wire.sender.poll_ready(&mut unwoken()), Poll::Ready(Ok(())));
        is_ready.then_some(self.wire)
    }
}

impl Body {
    fn new(incoming: Incoming, own: Option<(Box<Wire>, Arc<Pool>)>) -> Body {
        let mut body = Body { incoming, own };
        if body.is_end_stream() {
            body.done();
        }
        body
    }

    fn done(&mut self) {
        if let Some((wire, pool)) = self.own.take() {
            pool.keep(wire, None);
        }
    }

    /// Nothing that is still to come matters: if it is only the end, the connection can be used again.
    pub(super) fn finish(mut self) {
        if let Some((mut wire, pool)) = self.own.take() {
            let is_over = matches!(wire.poll_frame(&mut self.incoming, &mut unwoken()), Poll::Ready(None));
            pool.keep(wire, (!is_over).then_some(self.incoming));
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let body = self.get_mut();
        let Some((wire, _)) = &mut body.own else { return Pin::new(&mut body.incoming).poll_frame(cx) };
        let frame = ready!(wire.poll_frame(&mut body.incoming, cx));
        if frame.is_none() || body.is_end_stream() {
            body.done();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Pool {
    /// `host` is what servers of HTTP/1.1 are told that they are.
    pub(super) fn new(connector: Connector, host: HeaderValue, keep: Duration, run: Run) -> Arc<Pool> {
        let workers = available_parallelism().map_or(1, NonZero::get);
        Arc::new(Pool { connector, host, keep, run, kept: (0..workers).map(|_| Mutex::default()).collect() })
    }

    /// What a worker keeps. Where there are more of them than processors, some share it.
    #[expect(clippy::indexing_slicing, reason = "a remainder, of a number that is not 0")]
    fn kept(&self, worker: usize) -> MutexGuard<'_, Kept> {
        self.kept[worker % self.kept.len()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request to `url`, which is of the pool's origin. It goes to another connection if the one that was kept turns
    /// out to be closed before a byte of the request was written. `sending` says whether a connection has it.
    pub(super) async fn send(
        self: &Arc<Self>,
        url: &Uri,
        mut request: Request<Full<Bytes>>,
        sending: &mut bool,
    ) -> Result<Response<Body>, SendError> {
        loop {
            *sending = false;
            let (mut way, is_new) = match self.take() {
                Some(kept) => (kept, false),
                None => (Box::pin(self.connect(url)).await.map_err(SendError::Unsent)?, true),
            };
            if let Err(error) = way.ready().await {
                if is_new {
                    return Err(SendError::Unsent(error.into()));
                }
                continue;
            }
            *sending = true;
            let sent = match &mut way {
                Way::Own(wire) => {
                    // A server is asked for a path; which server it is, is in a header.
                    *request.uri_mut() = url.path_and_query().cloned().map(Uri::from).unwrap_or_default();
                    request.headers_mut().entry(HOST).or_insert_with(|| self.host.clone());
                    wire.send(request).await
                }
                Way::Shared(shared) => {
                    *request.uri_mut() = url.clone();
                    *request.version_mut() = Version::HTTP_2;
                    shared.try_send_request(request).await
                }
            };
            match sent {
                Ok(response) => {
                    let own = match way {
                        Way::Own(wire) => Some((wire, Arc::clone(self))),
                        Way::Shared(_) => None,
                    };
                    return Ok(response.map(|incoming| Body::new(incoming, own)));
                }
                Err(mut error) => match (error.take_message(), is_new) {
                    (Some(back), false) => request = back,
                    (Some(_), true) => return Err(SendError::Unsent(error.into_error().into())),
                    (None, _) => return Err(SendError::Lost(error.into_error().into())),
                },
            }
        }
    }

    fn take(&self) -> Option<Way> {
        let mut kept = self.kept(here());
        if let Some(shared) = &kept.shared {
            if !shared.is_closed() {
                return Some(Way::Shared(shared.clone()));
            }
            kept.shared = None;
        }
        while let Some(idle) = kept.idle.pop() {
            if idle.since.elapsed() < self.keep
                && let Some(wire) = idle.wake()
            {
                return Some(Way::Own(wire));
            }
        }
        None
    }

    async fn connect(&self, url: &Uri) -> Result<Way, BoxError> {
        let stream = self.connector.clone().oneshot(url.clone()).await?;
        if stream.connected().is_negotiated_h2() {
            let mut http = http2::Builder::new(TokioExecutor::new());
            http.timer(TokioTimer::new()).max_header_list_size(HEADER_BYTES_MAX as u32);
            let (sender, connection) = http.handshake(stream).await?;
            (self.run)(Box::pin(async move { ended("HTTP/2", connection.await) }));
            self.kept(here()).shared = Some(sender.clone());
            return Ok(Way::Shared(sender));
        }
        let mut http = http1::Builder::new();
        // Bounds the header block, and how much memory a small slice of a body can keep.
        http.max_buf_size(HEADER_BYTES_MAX);
        let (sender, connection) = http.handshake(stream).await?;
        Ok(Way::Own(Wire::new(sender, connection)))
    }

    fn keep(self: Arc<Self>, wire: Box<Wire>, rest: Option<Incoming>) {
        if wire.is_over {
            return;
        }
        let home = wire.home;
        let mut kept = self.kept(home);
        if kept.idle.len() >= IDLE_MAX {
            return;
        }
        wire.bell.forget();
        kept.idle.push(Idle { wire, rest, since: Instant::now() });
        if !std::mem::replace(&mut kept.is_watched, true) {
            drop(kept);
            let (pool, wait) = (Arc::downgrade(&self), self.keep.min(LOOK));
            (self.run)(Box::pin(unconstrained(async move {
                loop {
                    sleep(wait).await;
                    match pool.upgrade() {
                        Some(pool) if pool.look(home) => {}
                        _ => return,
                    }
                }
            })));
        }
    }

    /// Closes what its server has closed, and what nobody has used for long enough; whether anything is left.
    fn look(&self, worker: usize) -> bool {
        let mut kept = self.kept(worker);
        let closed = kept.idle.extract_if(.., |idle| idle.since.elapsed() >= self.keep || !idle.is_fine());
        for idle in closed {
            // In good order: over TLS, the server is told so.
            (self.run)(Box::pin(idle.wire.close()));
        }
        kept.is_watched = !kept.idle.is_empty();
        kept.is_watched
    }
}

enum Way {
    Own(Box<Wire>),
    Shared(http2::SendRequest<Full<Bytes>>),
}

impl Way {
    async fn ready(&mut self) -> hyper::Result<()> {
        match self {
            Way::Own(wire) => wire.ready().await,
            Way::Shared(shared) => shared.ready().await,
        }
    }
}

fn ended(protocol: &'static str, end: hyper::Result<()>) {
    if let Err(error) = end {
        tracing::debug!(%error, protocol, "Connection to the server ended");
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Body")
    }
}
