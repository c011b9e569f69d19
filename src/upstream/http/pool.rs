//! Connections to one origin, kept between requests.
//!
//! hyper speaks the protocol; what is here is only which of its connections takes a request. One of HTTP/1.1 is one
//! request's until the body of its response has been read to the end; one of HTTP/2 is everybody's.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, Response, Uri, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::client::legacy::connect::Connection as _;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, sleep};
use tower::ServiceExt as _;

use super::{BoxError, Connector, HEADER_BYTES_MAX};

/// Runs what it is given until it ends.
pub(super) type Run = Arc<dyn Fn(Pin<Box<dyn Future<Output = ()> + Send>>) + Send + Sync>;

/// Most connections that are kept while nothing is asked over them.
const IDLE_MAX: usize = 1024;

pub(super) struct Pool {
    connector: Connector,
    host: HeaderValue,
    /// How long a connection is kept that nobody uses.
    keep: Duration,
    run: Run,
    /// Held for a look or a replacement.
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// The one used last is at the end.
    idle: Vec<(http1::SendRequest<Full<Bytes>>, Instant)>,
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

/// The connection that a response comes over. Dropping it closes it, unless it is shared.
pub(super) struct Lease {
    own: Option<(http1::SendRequest<Full<Bytes>>, Arc<Pool>)>,
}

impl Lease {
    /// The body has been read to its end: others may use the connection.
    pub(super) fn done(self) {
        if let Some((sender, pool)) = self.own {
            pool.keep(sender);
        }
    }
}

impl Pool {
    /// `host` is what servers of HTTP/1.1 are told that they are.
    pub(super) fn new(connector: Connector, host: HeaderValue, keep: Duration, run: Run) -> Arc<Pool> {
        Arc::new(Pool { connector, host, keep, run, kept: Mutex::default() })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request to `url`, which is of the pool's origin. It goes to another connection if the one that was kept turns
    /// out to be closed before a byte of the request was written. `sending` says whether a connection has it.
    pub(super) async fn send(
        self: &Arc<Self>,
        url: &Uri,
        mut request: Request<Full<Bytes>>,
        sending: &mut bool,
    ) -> Result<(Response<Incoming>, Lease), SendError> {
        loop {
            *sending = false;
            let (mut sender, is_new) = match self.take() {
                Some(kept) => (kept, false),
                None => (Box::pin(self.connect(url)).await.map_err(SendError::Unsent)?, true),
            };
            if let Err(error) = sender.ready().await {
                if is_new {
                    return Err(SendError::Unsent(error.into()));
                }
                continue;
            }
            *sending = true;
            let sent = match &mut sender {
                Sender::Own(own) => {
                    // A server is asked for a path; which server it is, is in a header.
                    *request.uri_mut() = url.path_and_query().cloned().map(Uri::from).unwrap_or_default();
                    request.headers_mut().entry(HOST).or_insert_with(|| self.host.clone());
                    own.try_send_request(request).await
                }
                Sender::Shared(shared) => {
                    *request.uri_mut() = url.clone();
                    *request.version_mut() = Version::HTTP_2;
                    shared.try_send_request(request).await
                }
            };
            match sent {
                Ok(response) => {
                    let own = match sender {
                        Sender::Own(own) => Some((own, Arc::clone(self))),
                        Sender::Shared(_) => None,
                    };
                    return Ok((response, Lease { own }));
                }
                Err(mut error) => match (error.take_message(), is_new) {
                    (Some(back), false) => request = back,
                    (Some(_), true) => return Err(SendError::Unsent(error.into_error().into())),
                    (None, _) => return Err(SendError::Lost(error.into_error().into())),
                },
            }
        }
    }

    fn take(&self) -> Option<Sender> {
        let mut kept = self.kept();
        if let Some(shared) = &kept.shared {
            if !shared.is_closed() {
                return Some(Sender::Shared(shared.clone()));
            }
            kept.shared = None;
        }
        while let Some((sender, since)) = kept.idle.pop() {
            if !sender.is_closed() && since.elapsed() < self.keep {
                return Some(Sender::Own(sender));
            }
        }
        None
    }

    async fn connect(&self, url: &Uri) -> Result<Sender, BoxError> {
        let stream = self.connector.clone().oneshot(url.clone()).await?;
        if stream.connected().is_negotiated_h2() {
            let mut http = http2::Builder::new(TokioExecutor::new());
            http.timer(TokioTimer::new()).max_header_list_size(HEADER_BYTES_MAX as u32);
            let (sender, connection) = http.handshake(stream).await?;
            self.run("HTTP/2", connection);
            self.kept().shared = Some(sender.clone());
            return Ok(Sender::Shared(sender));
        }
        let mut http = http1::Builder::new();
        // Bounds the header block, and how much memory a small slice of a body can keep.
        http.max_buf_size(HEADER_BYTES_MAX);
        let (sender, connection) = http.handshake(stream).await?;
        self.run("HTTP/1.1", connection);
        Ok(Sender::Own(sender))
    }

    fn run(&self, protocol: &'static str, connection: impl Future<Output = hyper::Result<()>> + Send + 'static) {
        (self.run)(Box::pin(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, protocol, "Connection to the server ended");
            }
        }));
    }

    fn keep(self: Arc<Self>, sender: http1::SendRequest<Full<Bytes>>) {
        if sender.is_closed() {
            return;
        }
        let mut kept = self.kept();
        if kept.idle.len() >= IDLE_MAX {
            return;
        }
        kept.idle.push((sender, Instant::now()));
        if !std::mem::replace(&mut kept.is_watched, true) {
            drop(kept);
            let (pool, keep) = (Arc::downgrade(&self), self.keep);
            (self.run)(Box::pin(async move {
                let mut wait = keep;
                loop {
                    sleep(wait).await;
                    let Some(pool) = pool.upgrade() else { return };
                    let Some(next) = pool.drop_old() else { return };
                    wait = next;
                }
            }));
        }
    }

    /// Closes what nobody has used for long enough; how long to wait before the next look, if there is need of one.
    fn drop_old(&self) -> Option<Duration> {
        let mut kept = self.kept();
        let young = kept.idle.iter().position(|(_, since)| since.elapsed() < self.keep).unwrap_or(kept.idle.len());
        kept.idle.drain(..young);
        let Some((_, oldest)) = kept.idle.first() else {
            kept.is_watched = false;
            return None;
        };
        Some(self.keep.saturating_sub(oldest.elapsed()))
    }
}

enum Sender {
    Own(http1::SendRequest<Full<Bytes>>),
    Shared(http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    async fn ready(&mut self) -> hyper::Result<()> {
        match self {
            Sender::Own(own) => own.ready().await,
            Sender::Shared(shared) => shared.ready().await,
        }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lease")
    }
}
