//! The two endpoints of HTTP+SSE (2024-11-05, Transports): a stream to read, an address to post to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, Request, StatusCode};
use tokio::time::{Duration, Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::duplex::Duplex;
use super::guard::{Accepts, check_content_type, read_body};
use super::reply::{empty, encode, event_stream, message_event};
use super::tapped::{self, Answers, Visit};
use crate::metrics::GaugeGuard;
use crate::protocol::message::Incoming;
use crate::protocol::sse::{Event, KEEP_ALIVE};
use crate::proxy::error::ProxyError;
use crate::proxy::{Proxy, Server};
use crate::rt::mailbox::Reader;
use crate::session::{SessionError, random_id};

/// The clients that are connected, by the name in the address they post to.
#[derive(Default)]
pub(super) struct Clients(Mutex<HashMap<String, Entry>>);

struct Entry {
    duplex: Arc<Duplex>,
    /// Where its traffic is seen, what is to become of answers to it.
    answers: Option<Answers>,
}

/// The parameter in that address.
const PARAMETER: &str = "sessionId=";

/// Opens the stream; its first event says where to post. `messages` is the path of that address.
pub(super) fn open(
    proxy: &Arc<Proxy>,
    server: &Arc<Server>,
    clients: &Arc<Clients>,
    headers: &HeaderMap,
    messages: &str,
) -> Result<(Response, Option<Visit>), ProxyError> {
    if !Accepts::of(headers).sse {
        return Err(ProxyError::NotAcceptable);
    }
    if proxy.is_draining() {
        return Err(ProxyError::ShuttingDown);
    }
    let id = random_id()?;
    let (duplex, outbox) = Duplex::open(proxy, server, server.caller(headers)?, server.shown(headers));
    let visit = match &server.tap {
        Some(tap) => Some(Visit::of_stream(tap, proxy, &id, headers, duplex.closed())?),
        None => None,
    };
    {
        let mut table = clients.0.lock().unwrap_or_else(PoisonError::into_inner);
        if table.len() >= proxy.settings.limits.sessions {
            return Err(SessionError::TooMany.into());
        }
        let answers = visit.as_ref().map(Visit::answers);
        table.insert(id.clone(), Entry { duplex: Arc::clone(&duplex), answers });
    }
    let mut endpoint = BytesMut::new();
    let address = format!("{messages}?{PARAMETER}{id}");
    let event = Event { event: Some(Bytes::from_static(b"endpoint")), ..Event::new(Bytes::from(address)) };
    encode(&event, &mut endpoint);
    let timeouts = &proxy.settings.timeouts;
    let streaming = Streaming {
        init_until: Instant::now() + timeouts.session_init,
        keepalive: timeouts.sse_keepalive,
        first: Some(endpoint.freeze()),
        client: Client { id, duplex, clients: Arc::clone(clients) },
        drain: proxy.tasks.drain().clone(),
        outbox,
        _counted: proxy.metrics.stream(),
    };
    let response = event_stream(stream::unfold(streaming, |mut streaming| async move {
        let frame = streaming.frame().await?;
        Some((frame, streaming))
    }));
    Ok((response, visit))
}

struct Streaming {
    outbox: Reader<Bytes>,
    client: Client,
    first: Option<Bytes>,
    init_until: Instant,
    keepalive: Duration,
    drain: CancellationToken,
    _counted: GaugeGuard,
}

impl Streaming {
    async fn frame(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        let duplex = &self.client.duplex;
        loop {
            let keepalive = Instant::now() + self.keepalive;
            tokio::select! {
                biased;
                line = self.outbox.next() => return Some(message_event(None, line?)),
                () = duplex.closed().cancelled() => return None,
                // What is under way is still answered.
                () = self.drain.cancelled(), if !duplex.is_busy() => return None,
                () = sleep_until(self.init_until), if !duplex.has_session() => {
                    if !duplex.has_session() {
                        return None;
                    }
                }
                () = sleep_until(keepalive) => return Some(Bytes::from_static(KEEP_ALIVE)),
            }
        }
    }
}

/// The stream is the session: when it is dropped, both are over.
struct Client {
    id: String,
    duplex: Arc<Duplex>,
    clients: Arc<Clients>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.clients.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        self.duplex.close();
    }
}

/// Takes a message; what answers it comes on the stream.
pub(super) async fn post(
    proxy: &Arc<Proxy>,
    clients: &Clients,
    request: Request<hyper::body::Incoming>,
) -> Result<Response, ProxyError> {
    let (parts, body) = request.into_parts();
    check_content_type(&parts.headers)?;
    let query = parts.uri.query().unwrap_or_default();
    let id = query.split('&').find_map(|pair| pair.strip_prefix(PARAMETER)).ok_or(ProxyError::SessionMissing)?;
    let (duplex, answers) = {
        let table = clients.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = table.get(id).ok_or(SessionError::NotFound)?;
        (Arc::clone(&entry.duplex), entry.answers.clone())
    };
    duplex.check_caller(&parts.headers)?;
    let body = read_body(&parts.headers, body, &proxy.settings.limits, &proxy.settings.timeouts).await?;
    if let (Some(tap), Some(answers)) = (duplex.tap(), answers) {
        let visit = Visit::of_post(tap, proxy, id, answers);
        return Box::pin(tapped::accept(tap, proxy, &duplex, &parts.headers, visit, body)).await;
    }
    let incoming = Incoming::parse(body, proxy.settings.limits.depth);
    if let Err(error) = incoming {
        return Err(ProxyError::Parse(error));
    }
    duplex.accept(incoming).await;
    Ok(empty(StatusCode::ACCEPTED))
}
