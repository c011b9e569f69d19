//! Getting through to the server: not while its circuit is open, and not with all lost streams at once.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use tokio::time::{Instant, timeout_at};

use super::gate::{Entered, Pass};
use super::lifeline::Lifeline;
use super::{BOTH, Core, EVENTS, Sending};
use crate::bridge::handshake;
use crate::metrics::StreamAt;
use crate::protocol::headers;
use crate::protocol::method::Known;
use crate::protocol::revision::Era;
use crate::upstream::error::UpstreamError;
use crate::upstream::http::HttpError;
use crate::upstream::probe;

impl Core {
    /// Asks to send something. If nobody knows whether the server is there again, it is asked first.
    ///
    /// # Errors
    /// [`UpstreamError::CircuitOpen`]: it does not answer, and nothing is to be sent to it now.
    ///
    /// # Cancel safety
    /// Whoever comes next may ask.
    pub(super) async fn admit(&self) -> Result<Pass, UpstreamError> {
        let turn = match self.upstream.gate.enter()? {
            Entered::Pass(pass) => return Ok(pass),
            Entered::Turn(turn) => turn,
        };
        Box::pin(self.inquire(turn)).await;
        match self.upstream.gate.enter()? {
            Entered::Pass(pass) => Ok(pass),
            // It has failed again, and a pause has passed already.
            Entered::Turn(_) => Err(UpstreamError::CircuitOpen { seconds: 1 }),
        }
    }

    /// Waits until something may be sent.
    async fn await_admission(&self) -> Pass {
        loop {
            match self.upstream.gate.wait().await {
                Entered::Pass(pass) => return pass,
                Entered::Turn(turn) => Box::pin(self.inquire(turn)).await,
            }
        }
    }

    /// Finds out whether the server is there again, by a request of our own that changes nothing: whatever it answers, it is
    /// there. A call of a client must not be what finds out, since it may have been executed when it fails.
    async fn inquire(&self, turn: Pass) {
        let upstream = &self.upstream;
        let id = self.next_id.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut own = HeaderMap::new();
        let question = match self.era {
            Era::Modern => {
                own.insert(headers::METHOD, HeaderValue::from_static(Known::Discover.as_str()));
                Bytes::from(probe::question(id))
            }
            Era::Legacy => handshake::ping(id).text().clone(),
        };
        let deadline = Instant::now() + upstream.timeouts.probe;
        let headers = self.headers(&BOTH, own);
        let response = self.send(Method::POST, headers, question, deadline).await;
        turn.responded(&response, upstream.limits.depth);
    }

    /// Asks for a stream: at once where that is possible, and a lost one only when it is its turn (C-SSE-10). Neither is
    /// waited for longer than the stream has patience.
    pub(super) fn get(self: &Arc<Self>, last_id: Option<Bytes>, lifeline: &Lifeline) -> Sending {
        let core = Arc::clone(self);
        let (again, patience, state) = (lifeline.is_lost(), lifeline.patience(), lifeline.state());
        async move {
            let upstream = &core.upstream;
            let admitted = timeout_at(patience, async {
                let place = if again { upstream.gate.reconnecting().await } else { None };
                (place, core.await_admission().await)
            });
            let Ok((_place, pass)) = admitted.await else { return Err(HttpError::Timeout { sent: false }) };
            if let Some(state) = state {
                state.to(StreamAt::Connecting);
            }
            let forwarded = core.forwarded().clone();
            let mut sent = core.headers(&EVENTS, forwarded);
            sent.remove(CONTENT_TYPE);
            if let Some(id) = last_id.and_then(|id| HeaderValue::from_maybe_shared(id).ok()) {
                sent.insert(headers::LAST_EVENT_ID, id);
            }
            let deadline = Instant::now() + upstream.timeouts.start;
            let response = core.send(Method::GET, sent, Bytes::new(), deadline).await;
            match &response {
                // Some servers send headers with the first event, which may never come.
                Err(HttpError::Timeout { sent: true }) => drop(pass),
                response => pass.responded(response, upstream.limits.depth),
            }
            response
        }
        .boxed()
    }
}
