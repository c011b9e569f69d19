//! The Streamable HTTP endpoint: POST, GET and DELETE, for sessions and for stateless requests.

use std::sync::Arc;

use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming as Body;
use tokio::time::timeout;

use super::guard::{Accepts, check_content_type, read_body};
use super::reply::{Running, answer, empty, event_stream, json, message_event, refuse, resumed, unanswered};
use super::tapped;
use crate::protocol::headers;
use crate::protocol::id::RequestId;
use crate::protocol::message::{Incoming, Kind, Message, ParseError};
use crate::protocol::meta::Envelope;
use crate::protocol::method::Known;
use crate::protocol::revision::{Era, Revision};
use crate::protocol::sse::KEEP_ALIVE;
use crate::proxy::error::ProxyError;
use crate::proxy::{Proxy, Server};
use crate::session::backlog::EventId;
use crate::session::{EndReason, Session, SessionError};

/// Answers one HTTP request to the endpoint of `server`.
pub(super) async fn endpoint(proxy: &Arc<Proxy>, server: &Arc<Server>, request: Request<Body>) -> Response {
    if let Some(tap) = &server.tap {
        return Box::pin(tapped::endpoint(tap, proxy, server, request)).await;
    }
    let (parts, body) = request.into_parts();
    let result = match parts.method {
        Method::POST => post(proxy, server, &parts.headers, body).await,
        _ => without_body(proxy, server, &parts.method, &parts.headers).map_err(|error| (error, None)),
    };
    finish(proxy, &parts.headers, result)
}

/// Answers a request that has no body.
pub(super) fn without_body(
    proxy: &Arc<Proxy>,
    server: &Server,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, ProxyError> {
    match *method {
        Method::GET => get(proxy, server, headers),
        Method::DELETE => delete(proxy, server, headers),
        _ => Err(ProxyError::MethodNotAllowed),
    }
}

/// The response, also to what is refused.
pub(super) fn finish(proxy: &Proxy, headers: &HeaderMap, result: Result<Response, Refused>) -> Response {
    result.unwrap_or_else(|(error, id)| refuse(proxy, &error, id.as_ref(), Version::of(headers).era()))
}

/// Why, and the id of the request, where it is known.
pub(super) type Refused = (ProxyError, Option<RequestId>);

/// What the version header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Absent,
    Known(Revision),
    Unknown,
}

impl Version {
    fn of(headers: &HeaderMap) -> Version {
        let mut values = headers.get_all(headers::PROTOCOL_VERSION).iter();
        match (values.next(), values.next()) {
            (None, _) => Version::Absent,
            (Some(value), None) => {
                value.to_str().ok().and_then(Revision::parse).map_or(Version::Unknown, Version::Known)
            }
            _ => Version::Unknown,
        }
    }

    fn era(self) -> Option<Era> {
        match self {
            Version::Known(revision) => Some(revision.era()),
            _ => None,
        }
    }
}

async fn post(proxy: &Arc<Proxy>, server: &Arc<Server>, headers: &HeaderMap, body: Body) -> Result<Response, Refused> {
    let plain = |error| (error, None);
    check_content_type(headers).map_err(plain)?;
    let body = read_body(headers, body, &proxy.settings.limits, &proxy.settings.timeouts).await.map_err(plain)?;
    take(proxy, server, headers, Incoming::parse(body, proxy.settings.limits.depth)).await
}

/// Answers what came as the body of a POST.
pub(super) async fn take(
    proxy: &Arc<Proxy>,
    server: &Arc<Server>,
    headers: &HeaderMap,
    incoming: Result<Incoming, ParseError>,
) -> Result<Response, Refused> {
    let plain = |error| (error, None);
    let (accepts, version) = (Accepts::of(headers), Version::of(headers));
    match incoming {
        Ok(Incoming::One(message)) => {
            let response = match era_of(version, &message) {
                Era::Modern => modern(proxy, server, headers, accepts, &message).await,
                Era::Legacy => legacy(proxy, server, headers, accepts, version, &message).await,
            };
            response.map_err(|error| (error, message.id()))
        }
        Ok(Incoming::Batch(messages)) => {
            Box::pin(batch(proxy, server, headers, accepts, version, messages)).await.map_err(plain)
        }
        Err(error) => Err(plain(ProxyError::Parse(error))),
    }
}

/// The era of one message: decided by the message itself and its version header, never by what came before
/// (2026-07-28, Versioning). A legacy header outranks modern metadata: a large client sends both while it keeps a session.
fn era_of(version: Version, message: &Message) -> Era {
    match version.era() {
        Some(era) => era,
        None if message.kind() == Kind::Request && Envelope::of(message) != Envelope::Absent => Era::Modern,
        None => Era::Legacy,
    }
}

// === 2026-07-28 ===

async fn modern(
    proxy: &Arc<Proxy>,
    server: &Arc<Server>,
    headers: &HeaderMap,
    accepts: Accepts,
    message: &Message,
) -> Result<Response, ProxyError> {
    match message.kind() {
        Kind::Request => {}
        // Over HTTP a modern client has none to send that would mean anything here (2026-07-28, Cancellation).
        Kind::Notification => return Ok(empty(StatusCode::ACCEPTED)),
        Kind::Result | Kind::Error => return Err(ProxyError::Response),
    }
    let envelope = Envelope::of(message);
    if let Envelope::Complete(version) = &envelope {
        // That header and body disagree outranks what they disagree on.
        headers::check(headers, message, version)?;
    }
    let principal = server.principal(headers)?;
    proxy.check_envelope(server, message, envelope, principal).await?;
    let streams_only = message.known() == Some(Known::Listen);
    if !accepts.sse && (streams_only || !accepts.json) {
        return Err(ProxyError::NotAcceptable);
    }
    let shown = || server.shown(headers);
    let work = proxy.begin_modern(server, message, principal, Some(headers), shown).await?;
    Ok(answer(Running::new(proxy, work), accepts, false).await)
}

// === Sessions ===

async fn legacy(
    proxy: &Arc<Proxy>,
    server: &Arc<Server>,
    headers: &HeaderMap,
    accepts: Accepts,
    version: Version,
    message: &Message,
) -> Result<Response, ProxyError> {
    if version == Version::Unknown {
        return Err(ProxyError::UnsupportedHeader);
    }
    if message.kind() == Kind::Request && message.known() == Some(Known::Initialize) {
        return Box::pin(initialize(proxy, server, headers, accepts, message)).await;
    }
    let session = session(proxy, server, headers)?;
    match message.kind() {
        Kind::Request => {
            if !accepts.json && !accepts.sse {
                return Err(ProxyError::NotAcceptable);
            }
            request(proxy, &session, server.forwarded(headers), accepts, message).await
        }
        Kind::Notification | Kind::Result | Kind::Error => {
            deliver(&session, message).await?;
            Ok(empty(StatusCode::ACCEPTED))
        }
    }
}

async fn initialize(
    proxy: &Arc<Proxy>,
    server: &Arc<Server>,
    headers: &HeaderMap,
    accepts: Accepts,
    message: &Message,
) -> Result<Response, ProxyError> {
    if !accepts.json && !accepts.sse {
        return Err(ProxyError::NotAcceptable);
    }
    if proxy.is_draining() {
        return Err(ProxyError::ShuttingDown);
    }
    let (session, result) = proxy.initialize(server, message, server.caller(headers)?).await?;
    let mut response = if accepts.json {
        json(StatusCode::OK, result.text().clone())
    } else {
        event_stream(futures_util::stream::iter([message_event(None, result.line())]))
    };
    if let Some(session) = session
        && let Ok(id) = HeaderValue::from_str(session.id())
    {
        response.headers_mut().insert(headers::SESSION_ID, id);
    }
    Ok(response)
}

async fn request(
    proxy: &Arc<Proxy>,
    session: &Arc<Session>,
    headers: HeaderMap,
    accepts: Accepts,
    message: &Message,
) -> Result<Response, ProxyError> {
    if let Some(pong) = pong(message) {
        return Ok(one(accepts, pong));
    }
    if proxy.is_draining() {
        return Err(ProxyError::ShuttingDown);
    }
    let Some(exchange) = proxy.begin(session, message, headers, accepts.sse).await? else {
        return Ok(unanswered(accepts));
    };
    let prime = session.revision() >= Revision::V2025_11_25;
    Ok(answer(Running::new(proxy, exchange), accepts, prime).await)
}

fn one(accepts: Accepts, text: Bytes) -> Response {
    if accepts.json {
        json(StatusCode::OK, text)
    } else {
        event_stream(futures_util::stream::iter([message_event(None, text)]))
    }
}

/// The proxy answers a ping itself: it says that the proxy is there (2025-11-25, Ping).
pub(super) fn pong(message: &Message) -> Option<Bytes> {
    if message.known() != Some(Known::Ping) {
        return None;
    }
    let id = message.id()?;
    Some(Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, id.as_json())))
}

/// A notification or an answer of the client goes where it belongs, or nowhere.
pub(super) async fn deliver(session: &Session, message: &Message) -> Result<(), ProxyError> {
    // There is no answer to put an error into: what is not taken is refused by a status.
    match (message.kind(), message.known()) {
        (Kind::Notification, Some(Known::Cancelled)) => {
            session.cancel(message);
            Ok(())
        }
        (Kind::Notification, known) => {
            if known == Some(Known::Initialized) {
                session.initialized();
            }
            Ok(session.notify(message).await?)
        }
        _ => Ok(session.answer(message).await?),
    }
}

fn session(proxy: &Proxy, server: &Server, headers: &HeaderMap) -> Result<Arc<Session>, ProxyError> {
    let mut values = headers.get_all(headers::SESSION_ID).iter();
    let id = match (values.next(), values.next()) {
        (Some(id), None) => id.to_str().map_err(|_| SessionError::NotFound)?,
        (None, _) => return Err(ProxyError::SessionMissing),
        _ => return Err(SessionError::NotFound.into()),
    };
    let session = proxy.sessions.find(id, server.metrics.name())?;
    // Whoever has learned another's session id has not become the other.
    if server.backend.knows_principals() && server.principal(headers)? != session.route().owner() {
        return Err(SessionError::NotFound.into());
    }
    Ok(session)
}

/// An array of messages: each is answered for itself, on one stream (2025-03-26, Basic › Batching).
async fn batch(
    proxy: &Arc<Proxy>,
    server: &Arc<Server>,
    headers: &HeaderMap,
    accepts: Accepts,
    version: Version,
    messages: Vec<Result<Message, ParseError>>,
) -> Result<Response, ProxyError> {
    if !matches!(version, Version::Absent | Version::Known(Revision::V2025_03_26)) {
        return Err(ProxyError::Batch);
    }
    if messages.is_empty() || messages.len() > proxy.settings.limits.batch {
        return Err(ProxyError::BatchSize(proxy.settings.limits.batch));
    }
    let session = session(proxy, server, headers)?;
    if session.revision() != Revision::V2025_03_26 {
        return Err(ProxyError::Batch);
    }
    if !accepts.json && !accepts.sse {
        return Err(ProxyError::NotAcceptable);
    }
    let mut answers: Vec<Bytes> = Vec::new();
    let mut running = FuturesUnordered::new();
    let mut refused = None;
    for message in messages {
        let (error, id) = match message {
            Err(error) => (ProxyError::Parse(error), None),
            Ok(message) if message.kind() != Kind::Request => {
                if let Err(error) = deliver(&session, &message).await {
                    session.metrics().dropped("not_taken");
                    refused.get_or_insert(error);
                }
                continue;
            }
            Ok(message) if message.known() == Some(Known::Initialize) => (ProxyError::Initialize, message.id()),
            Ok(message) => {
                if let Some(pong) = pong(&message) {
                    answers.push(pong);
                    continue;
                }
                match proxy.begin(&session, &message, server.forwarded(headers), accepts.sse).await {
                    Ok(exchange) => {
                        running.extend(exchange.map(|exchange| advance(Running::new(proxy, exchange))));
                        continue;
                    }
                    Err(error) => (error, message.id()),
                }
            }
        };
        answers.push(Bytes::from(error.outward().error.to_json(id.as_ref().or(error.id()))));
    }
    if answers.is_empty() && running.is_empty() {
        // Where nobody is answered, the status is for what was not taken.
        return refused.map_or_else(|| Ok(empty(StatusCode::ACCEPTED)), Err);
    }
    if accepts.sse {
        let ready = futures_util::stream::iter(answers).map(|data| message_event(None, data));
        let keepalive = proxy.settings.timeouts.sse_keepalive;
        let later = futures_util::stream::unfold(running, move |mut running| async move {
            loop {
                let Ok(next) = timeout(keepalive, running.next()).await else {
                    return Some((Bytes::from_static(KEEP_ALIVE), running));
                };
                let (one, output) = next?;
                let Some(output) = output else { continue };
                if !output.last {
                    running.push(advance(one));
                }
                return Some((message_event(None, output.message.line()), running));
            }
        });
        return Ok(event_stream(ready.chain(later)));
    }
    while let Some((one, output)) = running.next().await {
        match output {
            Some(output) if output.last => answers.push(output.message.line()),
            Some(output) => {
                session.standing().push(&output.message.line());
                running.push(advance(one));
            }
            None => {}
        }
    }
    Ok(json(StatusCode::OK, Bytes::from([&b"["[..], &answers.join(&b","[..]), b"]"].concat())))
}

async fn advance(mut running: Running) -> (Running, Option<crate::proxy::exchange::Output>) {
    let output = running.next().await;
    (running, output)
}

fn get(proxy: &Arc<Proxy>, server: &Server, headers: &HeaderMap) -> Result<Response, ProxyError> {
    match Version::of(headers) {
        Version::Known(revision) if revision.era() == Era::Modern => return Err(ProxyError::MethodNotAllowed),
        Version::Unknown => return Err(ProxyError::UnsupportedHeader),
        _ => {}
    }
    if !Accepts::of(headers).sse {
        return Err(ProxyError::NotAcceptable);
    }
    let session = session(proxy, server, headers)?;
    if proxy.is_draining() {
        return Err(ProxyError::ShuttingDown);
    }
    let after = match headers.get(headers::LAST_EVENT_ID) {
        Some(id) => Some(EventId::parse(id.as_bytes()).ok_or(ProxyError::EventId)?),
        None => None,
    };
    let stream = session
        .stream(after.map_or(0, |id| id.stream))
        .ok_or(ProxyError::Resume(crate::session::backlog::ResumeError::Gap))?;
    let reader = stream.attach(after, proxy.settings.limits.get_streams).map_err(ProxyError::Resume)?;
    if after.is_none_or(|id| id.stream == 0) {
        proxy.listens(&session);
    }
    let prime = session.revision() >= Revision::V2025_11_25;
    Ok(resumed(proxy, session, reader, prime))
}

fn delete(proxy: &Proxy, server: &Server, headers: &HeaderMap) -> Result<Response, ProxyError> {
    if Version::of(headers).era() == Some(Era::Modern) {
        return Err(ProxyError::MethodNotAllowed);
    }
    let session = session(proxy, server, headers)?;
    proxy.sessions.end(&session, EndReason::Deleted);
    Ok(empty(StatusCode::NO_CONTENT))
}
