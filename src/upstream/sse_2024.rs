//! HTTP+SSE towards a server (2024-11-05, Transports): one stream to read, one address to post to.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use tokio::time::Instant;

use super::driver::{Event, Ids, Pipe};
use super::error::UpstreamError;
use super::http::{Body, SseBody};
use super::reconnect::Loss;
use super::streamable::HttpUpstream;
use super::streamable::failure::{failure, loss_of, refusal, resolve, within};
use super::streamable::lifeline::Watched;
use crate::metrics::StreamAt;
use crate::protocol::sse::Item;

/// The stream, and the address.
pub(super) struct SsePipe {
    upstream: Arc<HttpUpstream>,
    endpoint: Uri,
    /// What the client sent along when the session began, and what is configured.
    headers: HeaderMap,
    body: Box<SseBody>,
    watched: Watched,
    queue: VecDeque<(Option<i64>, Bytes)>,
    queued: usize,
    /// What is being posted: one at a time, so that order is kept.
    posting: Posting,
}

impl SsePipe {
    /// Opens the stream and waits for the address, when it is its turn: as the transport cannot resume, a lost stream comes
    /// back as the stream of another session, and each is taken for one that does (C-SSE-10).
    ///
    /// # Errors
    /// The server does not speak this transport, or names an address of somebody else.
    pub(super) async fn connect(upstream: &Arc<HttpUpstream>, forwarded: HeaderMap) -> Result<SsePipe, UpstreamError> {
        let mut own = forwarded;
        for (name, value) in &upstream.target.headers {
            own.insert(name.clone(), value.clone());
        }
        let mut headers = own.clone();
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        let url = &upstream.target.url;
        let deadline = Instant::now() + upstream.timeouts.start;
        let mut watched = Watched::new(&upstream.streams, "http+sse", StreamAt::Backoff, "refused");
        let _place = within(upstream.timeouts.start, upstream.gate.reconnecting()).await?;
        watched.connecting();
        let pass = upstream.gate.watch();
        let response = upstream.client.send(Method::GET, url, headers, Bytes::new(), deadline).await;
        pass.responded(&response, upstream.limits.depth);
        let response = response.map_err(|error| {
            watched.over(Loss::Unreachable.reason());
            failure(&error)
        })?;
        let Body::Sse(mut body) = response.body else {
            return Err(if response.status == StatusCode::OK {
                UpstreamError::Violation("its answer is no event stream")
            } else {
                refusal(&response)
            });
        };
        watched.over(Loss::Unusable.reason());
        let address = within(upstream.timeouts.start, async {
            loop {
                match body.next().await {
                    Some(Ok(Item::Event(event))) if event.event.as_deref() == Some(b"endpoint") => break Ok(event.data),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => break Err(failure(&error)),
                    None => break Err(UpstreamError::Lost { sent: false }),
                }
            }
        });
        let address = address.await??;
        let endpoint = std::str::from_utf8(&address).ok().and_then(|reference| resolve(url, reference));
        let endpoint =
            endpoint.ok_or(UpstreamError::Violation("it names an address of another origin for messages"))?;
        watched.open();
        watched.over("session_ended");
        Ok(SsePipe {
            upstream: Arc::clone(upstream),
            endpoint,
            headers: own,
            body,
            watched,
            queue: VecDeque::new(),
            queued: 0,
            posting: None,
        })
    }

    /// The stream broke, and all that was to come on it is lost.
    fn lost(&mut self, loss: Loss, error: UpstreamError) -> UpstreamError {
        self.watched.over(loss.reason());
        match loss {
            Loss::Unusable => error,
            Loss::Ended | Loss::Unreachable | Loss::Broken | Loss::Idle | Loss::Status { .. } => {
                UpstreamError::Lost { sent: true }
            }
        }
    }

    fn post(&self, body: Bytes) -> BoxFuture<'static, Result<(), UpstreamError>> {
        let (upstream, endpoint) = (Arc::clone(&self.upstream), self.endpoint.clone());
        let mut headers = self.headers.clone();
        async move {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            let deadline = Instant::now() + upstream.timeouts.start;
            let pass = upstream.gate.watch();
            let sent = upstream.client.send(Method::POST, &endpoint, headers, body, deadline).await;
            pass.responded(&sent, upstream.limits.depth);
            match sent {
                Ok(response) if response.status.is_success() => Ok(()),
                Ok(response) => Err(refusal(&response)),
                Err(error) => Err(failure(&error)),
            }
        }
        .boxed()
    }
}

impl Pipe for SsePipe {
    async fn next(&mut self, read: bool) -> Event {
        loop {
            if self.posting.is_none()
                && let Some((id, line)) = self.queue.pop_front()
            {
                let bytes = line.len();
                self.posting = Some((id, bytes, self.post(line)));
                if let Some(id) = id {
                    return Event::Sent(Ids::from_elem(id, 1));
                }
            }
            tokio::select! {
                biased;
                (id, result) = posted(&mut self.posting), if self.posting.is_some() => {
                    if let Some((_, bytes, _)) = self.posting.take() {
                        self.queued -= bytes;
                    }
                    match (id, result) {
                        (_, Ok(())) => {}
                        (Some(id), Err(error)) => return Event::Failed(id, error),
                        (None, Err(error)) => tracing::debug!(%error, "Message not accepted"),
                    }
                }
                item = self.body.next(), if read => match item {
                    Some(Ok(Item::Event(event))) => {
                        if let Some(text) = event.message() {
                            return Event::Text(text.clone());
                        }
                    }
                    Some(Ok(Item::Comment)) => {}
                    Some(Err(error)) => return Event::Closed(self.lost(loss_of(&error), failure(&error))),
                    None => return Event::Closed(self.lost(Loss::Ended, UpstreamError::Lost { sent: true })),
                }
            }
        }
    }

    fn write(&mut self, id: Option<i64>, line: Bytes) {
        self.queued += line.len();
        self.queue.push_back((id, line));
    }

    fn unwrite(&mut self, id: i64) -> bool {
        let Some(at) = self.queue.iter().position(|(queued, _)| *queued == Some(id)) else { return false };
        if let Some((_, line)) = self.queue.remove(at) {
            self.queued -= line.len();
        }
        true
    }

    fn queued(&self) -> usize {
        self.queued
    }

    /// All comes on this stream, and nothing while the server waits. Whether it waits still is not known here.
    fn be_patient(&mut self) {
        self.body.be_patient(self.upstream.people());
    }

    async fn close(self, _why: UpstreamError) {}
}

type Posting = Option<(Option<i64>, usize, BoxFuture<'static, Result<(), UpstreamError>>)>;

async fn posted(posting: &mut Posting) -> (Option<i64>, Result<(), UpstreamError>) {
    match posting {
        Some((id, _, post)) => (*id, post.await),
        None => std::future::pending().await,
    }
}
