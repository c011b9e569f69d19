//! HTTP towards one upstream: a request, and the body that comes back as JSON or as an event stream.
//!
//! No task and no channel of ours is between a caller and its body: dropping either closes the connection's half of the
//! exchange, which is how a request is cancelled.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::poll_immediate;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE};
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, timeout, timeout_at};
use tower::Service;

use crate::protocol::sse::{self, DecodeError, Decoder};
use crate::settings::{Limits, Timeouts};
use crate::tap::Exchange;
use pool::{Pool, SendError};

mod pool;

/// Speaks HTTP with one origin. Clones share their connections.
///
/// It follows no redirects, asks for no compression, obeys no proxy variables, and sends a request once: the only thing
/// it does again is to take another connection if the one from the pool turns out to be closed before a byte of the
/// request was written.
#[derive(Clone)]
pub(crate) struct HttpClient {
    pool: Arc<Pool>,
    /// One of the origin.
    url: Uri,
    origin: Origin,
    waits: Waits,
    message_bytes: usize,
}

/// What came back: a status, whatever it is, and a body of which the kind is known.
#[derive(Debug)]
pub(crate) struct Response {
    /// The status. Redirections are among them.
    pub(crate) status: StatusCode,
    /// All header fields.
    pub(crate) headers: HeaderMap,
    /// The body.
    pub(crate) body: Body,
}

/// The body of a response.
#[derive(Debug)]
pub(crate) enum Body {
    /// There is none, or it has no meaning (202, 204, 205).
    Empty,
    /// JSON of any status, complete. That it parses is not checked.
    Json(Bytes),
    /// An event stream; the status is 200.
    Sse(Box<SseBody>),
    /// The body of a failure or redirection that is not JSON: its first 2 KiB, as far as they could be read.
    Other(Bytes),
}

/// An event stream that is being received. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct SseBody {
    body: pool::Body,
    decoder: Decoder,
    /// What has been received and not been decoded.
    chunk: Bytes,
    idle: Duration,
    /// When the stream counts as lost. `None` if nobody waits: while an item is being dealt with elsewhere the server
    /// is not to blame for silence.
    silent_until: Option<Instant>,
    /// Ends when there may be something to see on the clock: not later, but it may be earlier.
    alarm: Pin<Box<Sleep>>,
    over: bool,
    /// Who records what comes, if anybody does.
    tap: Option<Box<Exchange>>,
}

/// Why there is no response, or no more of it. Nothing that it displays was sent by us or is secret.
#[derive(Debug, Error)]
pub(crate) enum HttpError {
    /// Not a byte of the request was sent: resolving, connecting or the TLS handshake failed or took too long.
    #[error("could not connect")]
    Unsent(#[source] BoxError),
    /// The connection was lost after the request was sent: the upstream may have acted on it.
    #[error("the connection was lost")]
    Lost(#[source] BoxError),
    /// The deadline passed, or the upstream was silent for too long.
    #[error("timed out")]
    Timeout {
        /// Whether the request may have been sent.
        sent: bool,
    },
    /// The upstream breaks the rules. Asking again would not help.
    #[error("the upstream broke the protocol")]
    Protocol(#[from] Violation),
    /// The URL is not of the origin that this client was made for; nothing was sent.
    #[error("the URL is of another origin")]
    OtherOrigin,
}

/// How an upstream breaks the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum Violation {
    /// A success whose body is neither JSON nor an event stream.
    #[error("the response is neither JSON nor an event stream")]
    ContentType {
        /// Its status.
        status: StatusCode,
    },
    /// The body is compressed although that was not asked for.
    #[error("the response has a content encoding")]
    ContentEncoding,
    /// The body is larger than a message may be.
    #[error("the response is larger than {bytes_max} bytes")]
    TooLarge {
        /// The limit.
        bytes_max: usize,
    },
    /// The event stream exceeds a limit.
    #[error(transparent)]
    Sse(#[from] DecodeError),
}

impl HttpClient {
    /// A client for the origin of `url`. `executor` runs the connections: a future each, which ends with it.
    ///
    /// # Errors
    ///
    /// `url` has no host, or a scheme other than `http` and `https`; or it has `https`, and the system's certificates
    /// cannot be read.
    pub(crate) fn new<E>(url: &Uri, limits: &Limits, timeouts: &Timeouts, executor: E) -> io::Result<HttpClient>
    where
        E: hyper::rt::Executor<Pin<Box<dyn Future<Output = ()> + Send>>> + Clone + Send + Sync + 'static,
    {
        let origin = Origin::of(url).ok_or(io::ErrorKind::InvalidInput)?;
        let connector = Connector::new(tls(origin.https)?, timeouts.connect);
        Ok(HttpClient::build(url.clone(), origin, connector, limits, timeouts, executor))
    }

    fn build<E>(
        url: Uri,
        origin: Origin,
        connector: Connector,
        limits: &Limits,
        timeouts: &Timeouts,
        executor: E,
    ) -> HttpClient
    where
        E: hyper::rt::Executor<Pin<Box<dyn Future<Output = ()> + Send>>> + Clone + Send + Sync + 'static,
    {
        let run = Arc::new(move |connection| executor.execute(connection));
        let pool = Pool::new(connector, origin.host_header(), timeouts.upstream_keepalive, run);
        let waits = Waits { body_idle: timeouts.upstream_body_idle, sse_idle: timeouts.upstream_sse_idle };
        HttpClient { pool, url, origin, waits, message_bytes: limits.message_bytes }
    }

    /// Sends one request, and returns once the body's kind is known; a JSON body is then complete.
    ///
    /// `deadline` is for all of that. An event stream has no deadline, but must not fall silent.
    ///
    /// # Errors
    ///
    /// Each [`HttpError`] says whether the upstream may have received the request. A status is no error.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection the request was sent on (HTTP/2: its stream). Whether the upstream has
    /// received the request is then unknown.
    pub(crate) async fn send(
        &self,
        method: Method,
        url: &Uri,
        headers: HeaderMap,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Response, HttpError> {
        let is_known = url.authority() == self.url.authority() && url.scheme() == self.url.scheme();
        if !is_known && Origin::of(url).as_ref() != Some(&self.origin) {
            return Err(HttpError::OtherOrigin);
        }
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.headers_mut() = headers;
        request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));

        let mut sending = false;
        let sent = timeout_at(deadline, self.pool.send(url, request, &mut sending)).await;
        let response = match sent {
            Ok(Ok(sent)) => sent,
            Ok(Err(SendError::Unsent(error))) => return Err(HttpError::Unsent(error)),
            Ok(Err(SendError::Lost(error))) => return Err(HttpError::Lost(error)),
            Err(_) => return Err(HttpError::Timeout { sent: sending }),
        };
        let (head, body) = response.into_parts();
        let body = self.read_body(head.status, &head.headers, body, deadline).await?;
        Ok(Response { status: head.status, headers: head.headers, body })
    }

    async fn read_body(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        mut body: pool::Body,
        deadline: Instant,
    ) -> Result<Body, HttpError> {
        use StatusCode as S;
        let content_type = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        // A stream without a byte is one that has ended, which is something else than none.
        let is_stream = status == S::OK && sse::is_event_stream(content_type);
        let is_empty = body.is_end_stream() && !is_stream;
        if matches!(status, S::ACCEPTED | S::NO_CONTENT | S::RESET_CONTENT) || is_empty {
            return Ok(Body::Empty);
        }
        let plain = is_unencoded(headers);
        if status.is_success() && !plain {
            return Err(Violation::ContentEncoding.into());
        }
        if is_stream {
            let body = SseBody::new(body, self.message_bytes, self.waits.sse_idle);
            return Ok(Body::Sse(Box::new(body)));
        }
        let patience = Patience { idle: self.waits.body_idle, deadline };
        if plain && is_json(content_type) {
            return Ok(Body::Json(collect(&mut body, self.message_bytes, patience).await?));
        }
        if status.is_success() {
            // Some answer a notification with 200 and a body that only turns out to be empty.
            return match next_piece(&mut body, patience).await? {
                Some(_) => Err(Violation::ContentType { status }.into()),
                None => Ok(Body::Empty),
            };
        }
        Ok(Body::Other(if plain { snippet(&mut body, patience).await } else { Bytes::new() }))
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl SseBody {
    fn new(body: pool::Body, event_bytes_max: usize, idle: Duration) -> SseBody {
        SseBody {
            body,
            decoder: Decoder::new(event_bytes_max),
            chunk: Bytes::new(),
            idle,
            silent_until: None,
            alarm: Box::pin(sleep(idle)),
            over: false,
            tap: None,
        }
    }

    /// The next event or comment; `None` after the server has ended the stream, or after an error.
    ///
    /// An event that was not complete when the stream ended is not delivered.
    ///
    /// # Errors
    ///
    /// [`HttpError::Lost`]: cut off; [`HttpError::Timeout`]: not a byte for too long, comments included;
    /// [`HttpError::Protocol`]: a limit is exceeded. Each is the end.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost by dropping the future, and the time it has waited counts.
    pub(crate) async fn next(&mut self) -> Option<Result<sse::Item, HttpError>> {
        if let Some(tap) = self.tap.as_ref().filter(|tap| !tap.has_room()) {
            // Before anything is taken, which would be lost if this were dropped while it waits.
            Box::pin(tap.room()).await;
        }
        let outcome = self.try_next().await.transpose();
        if let Some(tap) = &self.tap {
            match &outcome {
                Some(Ok(sse::Item::Event(event))) => tap.event(event),
                Some(Ok(sse::Item::Comment)) => {}
                Some(Err(error)) => tap.closed(&error.to_string()),
                None if !self.over => tap.closed("end of stream"),
                None => {}
            }
        }
        self.over |= !matches!(outcome, Some(Ok(_)));
        outcome
    }

    /// The server may be silent for this long, if that is longer than it may be anyway.
    pub(crate) fn be_patient(&mut self, silence: Duration) {
        self.idle = self.idle.max(silence);
        self.silent_until = None;
    }

    /// What comes is recorded.
    pub(super) fn watched_by(&mut self, tap: Exchange) {
        self.tap = Some(Box::new(tap));
    }

    /// Nothing that is still to come matters: if it is only the end, the connection can be used again.
    pub(crate) fn finish(self) {
        if let Some(tap) = &self.tap {
            tap.finish();
        }
        self.body.finish();
    }

    /// The id to resume from, as of the last item.
    pub(crate) fn last_event_id(&self) -> Option<&Bytes> {
        self.decoder.last_event_id()
    }

    /// The reconnection time that the server last gave on this connection.
    pub(crate) fn retry(&self) -> Option<Duration> {
        self.decoder.retry()
    }

    async fn try_next(&mut self) -> Result<Option<sse::Item>, HttpError> {
        while !self.over {
            if let Some(item) = self.decoder.decode(&mut self.chunk) {
                self.silent_until = None;
                return Ok(Some(item.map_err(Violation::from)?));
            }
            let silent_until = *self.silent_until.get_or_insert_with(|| Instant::now() + self.idle);
            let frame = tokio::select! {
                biased;
                frame = self.body.frame() => frame,
                () = self.alarm.as_mut() => {
                    if silent_until <= Instant::now() {
                        return Err(HttpError::Timeout { sent: true });
                    }
                    self.alarm.as_mut().reset(silent_until);
                    continue;
                }
            };
            match frame {
                Some(Ok(frame)) => {
                    self.silent_until = None;
                    self.chunk = frame.into_data().unwrap_or_default();
                }
                Some(Err(error)) => return Err(HttpError::Lost(error.into())),
                None => break,
            }
        }
        Ok(None)
    }
}

impl HttpError {
    /// Whether it is certain that the upstream has seen nothing of the request.
    #[cfg(test)]
    pub(crate) fn is_unsent(&self) -> bool {
        match self {
            HttpError::Unsent(_) | HttpError::OtherOrigin => true,
            HttpError::Timeout { sent } => !sent,
            HttpError::Lost(_) | HttpError::Protocol(_) => false,
        }
    }
}

type BoxError = Box<dyn StdError + Send + Sync>;

/// Largest header block of a response, and largest piece of a body, in bytes.
const HEADER_BYTES_MAX: usize = 64 << 10;

/// How much of a failure's body is kept, in bytes.
const SNIPPET_BYTES_MAX: usize = 2 << 10;

#[derive(Debug, Clone, Copy)]
struct Waits {
    body_idle: Duration,
    sse_idle: Duration,
}

/// What credentials are for: they go nowhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    https: bool,
    host: String,
    port: u16,
}

impl Origin {
    fn of(url: &Uri) -> Option<Origin> {
        let https = match url.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return None,
        };
        let host = url.host().filter(|host| !host.is_empty())?.to_ascii_lowercase();
        let port = url.port_u16().unwrap_or(if https { 443 } else { 80 });
        Some(Origin { https, host, port })
    }

    /// The port is left out where everybody knows it.
    fn host_header(&self) -> HeaderValue {
        let usual = if self.https { 443 } else { 80 };
        let host = if self.port == usual { self.host.clone() } else { format!("{}:{}", self.host, self.port) };
        HeaderValue::try_from(host).unwrap_or(HeaderValue::from_static(""))
    }
}

/// Connects within a time that covers resolving the name, TCP and TLS.
#[derive(Clone)]
struct Connector {
    inner: HttpsConnector<HttpConnector>,
    limit: Duration,
}

impl Connector {
    fn new(tls: ClientConfig, limit: Duration) -> Connector {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_keepalive(Some(Duration::from_secs(60)));
        let inner = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(http);
        Connector { inner, limit }
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let connecting = timeout(self.limit, self.inner.call(url));
        Box::pin(async move { connecting.await? })
    }
}

/// How long a body is waited for.
#[derive(Clone, Copy)]
struct Patience {
    /// For each piece.
    idle: Duration,
    /// For all of it.
    deadline: Instant,
}

/// All of the body, or an error.
async fn collect(body: &mut pool::Body, bytes_max: usize, patience: Patience) -> Result<Bytes, HttpError> {
    let too_large = HttpError::Protocol(Violation::TooLarge { bytes_max });
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(too_large);
    }
    let mut whole = Collected::default();
    while let Some(piece) = next_piece(body, patience).await? {
        if whole.len() + piece.len() > bytes_max {
            return Err(too_large);
        }
        whole.append(piece);
    }
    Ok(whole.finish())
}

/// The beginning of the body, as far as it comes.
async fn snippet(body: &mut pool::Body, patience: Patience) -> Bytes {
    let mut start = BytesMut::new();
    while start.len() < SNIPPET_BYTES_MAX
        && let Ok(Some(piece)) = next_piece(body, patience).await
    {
        let room = SNIPPET_BYTES_MAX - start.len();
        start.extend_from_slice(&piece[..piece.len().min(room)]);
    }
    start.freeze()
}

async fn next_piece(body: &mut pool::Body, patience: Patience) -> Result<Option<Bytes>, HttpError> {
    // Most often it is there, and nothing has to be waited for.
    let next = match poll_immediate(body.frame()).await {
        Some(frame) => Ok(frame),
        None => timeout_at(patience.deadline.min(Instant::now() + patience.idle), body.frame()).await,
    };
    match next {
        Ok(Some(Ok(frame))) => Ok(Some(frame.into_data().unwrap_or_default())),
        Ok(Some(Err(error))) => Err(HttpError::Lost(error.into())),
        Ok(None) => Ok(None),
        Err(_) => Err(HttpError::Timeout { sent: true }),
    }
}

/// A body in pieces. If there is only one it stays what it is.
#[derive(Default)]
struct Collected {
    first: Bytes,
    joined: BytesMut,
}

impl Collected {
    fn len(&self) -> usize {
        self.first.len() + self.joined.len()
    }

    fn append(&mut self, piece: Bytes) {
        if self.len() == 0 {
            self.first = piece;
            return;
        }
        self.joined.extend_from_slice(&std::mem::take(&mut self.first));
        self.joined.extend_from_slice(&piece);
    }

    fn finish(self) -> Bytes {
        if self.joined.is_empty() { self.first } else { self.joined.freeze() }
    }
}

fn is_json(content_type: &[u8]) -> bool {
    let essence = content_type.split(|&byte| byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

fn is_unencoded(headers: &HeaderMap) -> bool {
    let identity = |value: &HeaderValue| {
        let value = value.as_bytes().trim_ascii();
        value.is_empty() || value.eq_ignore_ascii_case(b"identity")
    };
    headers.get_all(CONTENT_ENCODING).iter().all(identity)
}

/// TLS as a client, with servers verified against the certificates of the system.
fn tls(needed: bool) -> io::Result<ClientConfig> {
    let tls = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let tls = if needed {
        tls.with_native_roots()?
    } else {
        // This client does not leave its origin, so it will not be used: a machine without certificates will do.
        tls.with_root_certificates(RootCertStore::empty())
    };
    Ok(tls.with_no_client_auth())
}

#[cfg(test)]
mod tests;
