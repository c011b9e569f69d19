//! Processes and sockets towards MCP servers: moves messages, knows nothing of clients.

pub(crate) mod child;
pub(crate) mod circuit;
pub(crate) mod driver;
pub(crate) mod error;
pub(crate) mod http;
mod outbox;
pub(crate) mod probe;
pub(crate) mod reconnect;
mod redelivery;
mod sse_2024;
pub(crate) mod stdio;
pub(crate) mod streamable;
pub(crate) mod tape;
pub(crate) mod tapped;

use ::http::HeaderMap;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::protocol::message::Message;
use crate::settings::{Limits, Timeouts};
use driver::{CallFacts, Handle, Reply};
use error::UpstreamError;

/// How patiently what was lost is connected again.
pub(crate) fn patience(limits: &Limits, timeouts: &Timeouts) -> reconnect::Policy {
    reconnect::Policy {
        base: timeouts.reconnect_base,
        cap: timeouts.reconnect_cap,
        attempts_max: u32::try_from(limits.reconnect_attempts).unwrap_or(u32::MAX),
        outage_max: timeouts.reconnect_outage,
        ..reconnect::Policy::default()
    }
}

/// An established way to one server. Clones share it; when the last one is dropped, it is closed.
#[derive(Clone)]
pub(crate) enum Connection {
    /// Many messages over one pair of pipes, or over HTTP+SSE.
    Driven(Handle),
    /// A request and a response for each message.
    Http(streamable::HttpConnection),
}

/// One request on its way upstream, its names already those of the connection.
pub(crate) struct Call<'a> {
    /// The request's id and progress token.
    pub(crate) id: i64,
    pub(crate) message: &'a Message,
    pub(crate) facts: CallFacts,
    /// What an HTTP upstream gets besides the message.
    pub(crate) headers: HeaderMap,
}

impl Connection {
    /// A new id for a call, never used before on this connection.
    pub(crate) fn next_id(&self) -> i64 {
        match self {
            Connection::Driven(handle) => handle.next_id(),
            Connection::Http(http) => http.next_id(),
        }
    }

    /// Sends a request.
    ///
    /// # Errors
    /// Nothing was sent.
    pub(crate) async fn call(&self, call: Call<'_>) -> Result<Replies, UpstreamError> {
        match self {
            Connection::Driven(handle) => {
                handle.call(call.id, call.message.line(), call.facts).await.map(Replies::Driven)
            }
            Connection::Http(http) => http.call(call).await.map(|replies| Replies::Http(Box::new(replies))),
        }
    }

    /// Sends a notification, or the answer to a request of the server.
    ///
    /// # Errors
    /// It was not sent, or it is not known to have arrived.
    pub(crate) async fn send(&self, message: &Message) -> Result<(), UpstreamError> {
        match self {
            Connection::Driven(handle) => handle.send(message.line()).await,
            Connection::Http(http) => http.send(message).await,
        }
    }

    /// Sends something for which nobody waits: over HTTP no response is awaited, and what finds too many before it is dropped
    /// and counted.
    pub(crate) async fn leave(&self, message: &Message) {
        match self {
            // If the connection is gone, so is who would read it.
            Connection::Driven(handle) => drop(handle.send(message.line()).await),
            Connection::Http(http) => http.leave(message).await,
        }
    }

    /// Whose work is being done uses the connection: from now on, and for what was done to make it (see [`crate::tap`]).
    pub(crate) fn attach(&self) {
        match self {
            Connection::Driven(handle) => handle.attach(),
            Connection::Http(http) => http.attach(),
        }
    }

    /// Cancels a call with the client's own notification.
    pub(crate) fn cancel(&self, id: i64, notification: Bytes) {
        match self {
            Connection::Driven(handle) => handle.cancel(id, Some(notification)),
            Connection::Http(http) => http.cancel(id, notification),
        }
    }

    /// From now on these use the connection. Streamable HTTP tells by itself which call a message belongs to.
    pub(crate) fn share(&self, sharing: driver::Sharing) {
        match self {
            Connection::Driven(handle) => handle.share(sharing),
            Connection::Http(http) => http.share(sharing),
        }
    }

    /// From now on somebody hears what the server says by itself. A legacy server behind Streamable HTTP is not asked for
    /// that stream before: one for nobody would cost both sides a connection for each session.
    pub(crate) fn listen(&self) {
        match self {
            Connection::Driven(_) => {}
            Connection::Http(http) => http.listen(),
        }
    }

    /// Whether both are the same connection.
    pub(crate) fn is(&self, other: &Connection) -> bool {
        match (self, other) {
            (Connection::Driven(one), Connection::Driven(other)) => one.is(other),
            (Connection::Http(one), Connection::Http(other)) => one.is(other),
            _ => false,
        }
    }

    /// Whether everything that was asked has been answered, what was cancelled included.
    pub(crate) fn is_quiescent(&self) -> bool {
        match self {
            Connection::Driven(handle) => handle.is_quiescent(),
            Connection::Http(http) => http.is_quiescent(),
        }
    }

    /// Closes the connection, whoever else holds it.
    pub(crate) fn close(&self) {
        match self {
            Connection::Driven(handle) => handle.close(),
            Connection::Http(http) => http.close(),
        }
    }

    /// Cancelled when the connection is gone.
    pub(crate) fn gone(&self) -> &CancellationToken {
        match self {
            Connection::Driven(handle) => handle.gone(),
            Connection::Http(http) => http.gone(),
        }
    }
}

/// What comes back for one call. Dropping it before the final answer cancels the call.
pub(crate) enum Replies {
    Driven(driver::Replies),
    Http(Box<streamable::HttpReplies>),
    /// The proxy knows the answer.
    Ready(Option<Box<Message>>),
}

impl Replies {
    /// The next message; the last one is the answer, or an error. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Reply> {
        match self {
            Replies::Driven(replies) => replies.next().await,
            Replies::Http(replies) => replies.next().await,
            Replies::Ready(answer) => answer.take().map(|answer| Ok(*answer)),
        }
    }

    /// The server waits for people: silence is no sign that its stream is lost, until they have had their time.
    pub(crate) fn be_patient(&mut self) {
        match self {
            Replies::Driven(replies) => replies.be_patient(),
            Replies::Http(replies) => replies.be_patient(),
            Replies::Ready(_) => {}
        }
    }

    /// The server has been told already that this call is over.
    pub(crate) fn cancelled(&mut self) {
        match self {
            Replies::Driven(replies) => replies.cancelled(),
            Replies::Http(replies) => replies.cancelled(),
            Replies::Ready(_) => {}
        }
    }
}
