//! What a server without sessions says by itself, for the sessions in front of it: the proxy listens for each as a modern client
//! would (2026-07-28, Subscriptions), with all that [`listening`](super::listening) does when a stream breaks.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http::HeaderValue;
use tokio::time::sleep;

use super::exchange::{Output, own};
use super::{Proxy, Server, Work};
use crate::bridge::legacy_to_modern::standing;
use crate::bridge::promise::Promise;
use crate::protocol::error::{INTERNAL_ERROR, RpcError};
use crate::protocol::headers;
use crate::protocol::message::{Kind, Message};
use crate::protocol::method::Known;
use crate::session::Session;

/// How long a server that does not let us listen is left alone, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

impl Proxy {
    /// The client of a session hears what its server says by itself. In front of a server that knows of no sessions, the proxy
    /// has to ask for it.
    pub(crate) fn listens(self: &Arc<Self>, session: &Arc<Session>) {
        let Some(stateless) = session.route().as_stateless() else { return session.listens() };
        let Some(server) = self.server(Some(session.metrics().name())) else { return };
        if stateless.subscriptions.begin() {
            let listener =
                Listener { proxy: Arc::clone(self), server: Arc::clone(server), session: Arc::clone(session) };
            self.adopter.adopt(async move {
                let ended = listener.session.ended().clone();
                tokio::select! {
                    biased;
                    () = ended.cancelled() => {}
                    () = listener.proxy.tasks.drain().cancelled() => {}
                    () = listener.run() => {}
                }
            });
        }
    }
}

struct Listener {
    proxy: Arc<Proxy>,
    server: Arc<Server>,
    session: Arc<Session>,
}

/// Why a stream is not read any more.
enum Over {
    /// Something else is wanted.
    Changed,
    /// It ended.
    Ended,
}

impl Listener {
    async fn run(&self) {
        let Some(stateless) = self.session.route().as_stateless() else { return };
        let subscriptions = &stateless.subscriptions;
        // The stream that is read until its successor is there, so that nothing is missed in between.
        let mut current: Option<Work> = None;
        let mut promised: Option<Promise> = None;
        let (mut was_lost, mut pause) = (false, PAUSES.0);
        loop {
            let wanted = subscriptions.wanted();
            let request =
                standing::request(&stateless.client, self.session.route().answer(), &wanted.uris, wanted.version);
            let Some(request) = request else {
                (current, promised) = (None, None);
                subscriptions.tell(wanted.version, None);
                subscriptions.newer_than(wanted.version).await;
                continue;
            };
            match self.open(&request).await {
                Ok((work, promise)) => {
                    if let Some(mut old) = current.take() {
                        while let Some(Some(output)) = old.next().now_or_never() {
                            self.deliver(&output.message);
                        }
                    }
                    if std::mem::take(&mut was_lost)
                        && let Some(promised) = &promised
                    {
                        for message in standing::missed(promised, &wanted.uris) {
                            self.session.standing().push(&message.line());
                        }
                    }
                    pause = PAUSES.0;
                    subscriptions.tell(wanted.version, Some(Ok(promise.clone())));
                    promised = Some(promise);
                    current = Some(work);
                }
                Err(refusal) => {
                    let is_servers = !is_ours(&refusal);
                    subscriptions.tell(wanted.version, Some(Err(refusal)));
                    if is_servers {
                        // It would be the same again.
                        self.until_changed(current.as_mut(), wanted.version).await;
                    } else {
                        was_lost |= current.is_none();
                        sleep(pause).await;
                        pause = (pause * 2).min(PAUSES.1);
                    }
                    continue;
                }
            }
            if let Over::Ended = self.until_changed(current.as_mut(), wanted.version).await {
                (current, was_lost) = (None, true);
                sleep(pause).await;
            }
        }
    }

    /// Passes on what the server says, until something else is wanted or it says no more.
    async fn until_changed(&self, work: Option<&mut Work>, version: u64) -> Over {
        let Some(stateless) = self.session.route().as_stateless() else { return Over::Ended };
        let changed = stateless.subscriptions.newer_than(version);
        tokio::pin!(changed);
        let Some(work) = work else {
            changed.await;
            return Over::Changed;
        };
        loop {
            tokio::select! {
                output = work.next() => match output {
                    Some(Output { last: false, message, .. }) => self.deliver(&message),
                    Some(_) | None => return Over::Ended,
                },
                () = &mut changed => return Over::Changed,
            }
        }
    }

    fn deliver(&self, message: &Message) {
        let Some(stateless) = self.session.route().as_stateless() else { return };
        match stateless.subscriptions.with(|uris| standing::down(message, uris)) {
            Some(message) => {
                self.session.standing().push(&message.line());
            }
            None => self.session.metrics().dropped("no_recipient"),
        }
    }

    /// Opens a stream, and waits for what the server promises; what it says instead is a refusal.
    async fn open(&self, request: &Message) -> Result<(Work, Promise), Message> {
        let route = self.session.route();
        let mut headers = (*route.headers()).clone();
        headers.insert(headers::METHOD, HeaderValue::from_static(Known::Listen.as_str()));
        let begun =
            self.proxy.begin_modern(&self.server, request, route.owner(), Some(&headers), || route.owner()).await;
        let mut work = begun.map_err(|error| own(error.outward().error.to_json(request.id().as_ref())))?;
        let broken = || {
            own(RpcError::new(INTERNAL_ERROR, "not_listening", "The server does not let the proxy listen")
                .to_json(request.id().as_ref()))
        };
        // Nothing precedes the acknowledgement (2026-07-28, Subscriptions).
        match tokio::time::timeout(self.proxy.settings.timeouts.start, work.next()).await {
            Ok(Some(Output { message, .. })) => match Promise::of(&message) {
                Some(promise) => Ok((work, promise)),
                None if message.kind() == Kind::Error => Err(message),
                None => Err(broken()),
            },
            Ok(None) | Err(_) => Err(broken()),
        }
    }
}

/// Whether an error is one of the proxy's: there may be another time.
fn is_ours(error: &Message) -> bool {
    let said: serde_json::Value = error.body().and_then(|body| serde_json::from_str(body).ok()).unwrap_or_default();
    said["data"]["origin"] == "proxy"
}
