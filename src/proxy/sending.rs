//! How a request of a session gets to its server.

use std::sync::Arc;

use http::HeaderMap;

use super::error::ProxyError;
use crate::backend::{Leased, Way};
use crate::bridge::relay::Relay;
use crate::bridge::sharing;
use crate::protocol::message::Message;
use crate::protocol::method::Known;
use crate::protocol::revision::Era;
use crate::session::route::Notable;
use crate::session::{CallGuard, Session};
use crate::upstream::driver::CallFacts;
use crate::upstream::{Call, Connection, Replies};

/// A request that is on its way.
pub(super) struct Sent {
    pub(super) relay: Relay,
    pub(super) replies: Replies,
    pub(super) connection: Connection,
    /// Where the connection is this request's alone.
    pub(super) lease: Option<Leased>,
    /// What becomes of it, if that has to be known later.
    pub(super) notable: Option<Notable>,
}

/// Sends a request on the way that its session has now. `None` if it was cancelled by then, or the session is over: nothing
/// was sent, or the server is told.
///
/// # Errors
/// Nothing was sent.
///
/// # Cancel safety
/// Dropped before it is done, nothing is sent.
pub(super) async fn send(
    session: &Arc<Session>,
    call: &CallGuard,
    request: &Message,
    headers: &HeaderMap,
) -> Result<Option<Sent>, ProxyError> {
    if call.cancelled().is_raised() {
        return Ok(None);
    }
    let sent = tokio::select! {
        biased;
        // First: most often there is nothing to wait for.
        sent = on_its_way(session, call, request, headers) => sent?,
        () = call.cancelled().raised() => return Ok(None),
    };
    // What the client said of it may have overtaken it: dropping it tells the server.
    Ok((!call.cancelled().is_raised()).then_some(sent))
}

async fn on_its_way(
    session: &Arc<Session>,
    call: &CallGuard,
    request: &Message,
    headers: &HeaderMap,
) -> Result<Sent, ProxyError> {
    let known = request.known();
    let facts = CallFacts { may_ask: known.is_none_or(Known::may_ask), wants_log: true, cancellable: true };
    let mut tries = 0;
    loop {
        let Way { connection, lease } = session.way(Some(headers)).await?;
        let (relay, upstream) = Relay::begin(Era::Legacy, call.id().clone(), request, connection.next_id());
        let id = relay.upstream_id();
        let notable = session.notes(request).await;
        if notable.as_ref().is_some_and(Notable::is_needless) {
            let replies = Replies::Ready(sharing::done(id).map(Box::new));
            return Ok(Sent { relay, replies, connection, lease, notable });
        }
        call.sent(id, &connection);
        match connection.call(Call { id, message: &upstream, facts, headers: headers.clone() }).await {
            Ok(replies) => return Ok(Sent { relay, replies, connection, lease, notable }),
            // It was lost before it could take the request: there may be another.
            Err(_) if connection.gone().is_cancelled() && tries == 0 => tries += 1,
            Err(error) => {
                let repeatable = known.is_some_and(Known::safe_to_repeat);
                return Err(ProxyError::Upstream { error, repeatable });
            }
        }
    }
}
