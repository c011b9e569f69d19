//! The handshake of a client whose server has none: answered from what the server says of itself (2026-07-28, Discovery).

use std::sync::{Mutex, PoisonError};

use http::{HeaderMap, HeaderValue};
use tokio::time::{Duration, Instant};

use super::{Caller, Server};
use crate::backend::start::ask;
use crate::backend::{Modern, OpenError, Way};
use crate::bridge::legacy_to_modern::client::Client;
use crate::bridge::legacy_to_modern::welcome;
use crate::bridge::sharing;
use crate::protocol::headers;
use crate::protocol::message::{Kind, Message};
use crate::protocol::method::Known;
use crate::session::route::{Opened, Route};
use crate::settings::{Isolation, Timeouts};
use crate::upstream::error::UpstreamError;

/// Longest that an answer is relied on, whatever the server says.
const KEEP_MAX: Duration = Duration::from_secs(3600);

/// What became of a handshake.
pub(super) enum Welcome {
    Opened(Box<Opened>),
    /// The server's answer, in words of its own.
    Refused(Box<Message>),
    /// The server has a handshake.
    NotStateless,
}

/// What a server said of itself, for as long as it said that this holds.
#[derive(Default)]
pub(super) struct Described(Mutex<Option<Description>>);

struct Description {
    answer: Message,
    until: Instant,
    is_public: bool,
}

impl Described {
    /// The answer, if it holds for a client who may, or may not, be told apart from others.
    fn get(&self, is_anybody: bool) -> Option<Message> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |one: &&Description| Instant::now() < one.until && (one.is_public || is_anybody);
        kept.as_ref().filter(holds).map(|one| one.answer.clone())
    }

    fn keep(&self, answer: &Message, is_anybody: bool) {
        let (ms, is_public) = welcome::keeps(answer);
        if ms > 0 && (is_public || is_anybody) {
            let until = Instant::now() + Duration::from_millis(ms).min(KEEP_MAX);
            let description = Description { answer: answer.clone(), until, is_public };
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(description);
        }
    }
}

/// Answers a client's handshake.
///
/// # Errors
/// The server cannot be asked who it is.
///
/// # Cancel safety
/// Dropped before it is done, nothing is left.
pub(super) async fn welcome(
    server: &Server,
    request: &Message,
    caller: &Caller,
    timeouts: &Timeouts,
) -> Result<Welcome, OpenError> {
    let modern = server.backend.modern(caller.principal).await?;
    if !modern.is_stateless() {
        return Ok(Welcome::NotStateless);
    }
    let client = Client::of(request);
    // What is said to one whom the server can tell from others may be for that one alone (2026-07-28, Caching).
    let is_anybody = caller.headers.is_empty() && server.backend.isolation() != Isolation::Principal;
    let answer = match server.described.get(is_anybody) {
        Some(answer) => answer,
        None => {
            let Some(way) = server.backend.way(&modern, caller.principal).await? else {
                return Ok(Welcome::NotStateless);
            };
            let answer = question(server, &client, way, &caller.headers, Instant::now() + timeouts.start).await?;
            if answer.kind() == Kind::Error {
                return Ok(Welcome::Refused(Box::new(answer)));
            }
            server.described.keep(&answer, is_anybody);
            answer
        }
    };
    let result = welcome::result(&client, &answer, server.metrics.name());
    let result = result.ok_or(OpenError::Unanswered(UpstreamError::Violation("it does not say what it can do")))?;
    // To listen would take a process that others wait for.
    let result = if matches!(modern, Modern::Each(_)) { sharing::offer_without_changes(&result) } else { result };
    let (backend, headers) = (&server.backend, caller.headers.clone());
    Ok(Welcome::Opened(Box::new(Route::stateless(backend, request, caller.principal, headers, client, result))))
}

async fn question(
    server: &Server,
    client: &Client,
    way: Way,
    forwarded: &HeaderMap,
    deadline: Instant,
) -> Result<Message, OpenError> {
    let mut request_headers = HeaderMap::new();
    if !server.is_child {
        request_headers.insert(headers::METHOD, HeaderValue::from_static(Known::Discover.as_str()));
        request_headers.extend(forwarded.clone());
    }
    let id = way.connection.next_id();
    let answer = ask(&way.connection, &welcome::question(client, id), id, &request_headers, deadline).await;
    answer.map_err(OpenError::Unanswered)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(ttl: u64, scope: &str) -> Message {
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":1,"result":{{"capabilities":{{}},"ttlMs":{ttl},"cacheScope":"{scope}"}}}}"#
        );
        Message::parse(text.into(), 64).unwrap()
    }

    /// 2026-07-28, Caching: what a server says of itself holds for as long as it says, and for whom it says.
    #[tokio::test(start_paused = true)]
    async fn an_answer_is_kept_for_as_long_and_for_whom_it_holds() {
        for (ttl, scope, told_anybody, kept) in [
            (0, "public", true, [false, false]),
            (1000, "public", false, [true, true]),
            (1000, "private", true, [true, false]),
            (1000, "private", false, [false, false]),
        ] {
            let described = Described::default();
            described.keep(&answer(ttl, scope), told_anybody);
            assert_eq!([true, false].map(|anybody| described.get(anybody).is_some()), kept, "{ttl} {scope}");
            tokio::time::advance(Duration::from_millis(ttl)).await;
            assert_eq!([true, false].map(|anybody| described.get(anybody).is_some()), [false, false]);
        }
    }
}
