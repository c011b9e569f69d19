//! A stream of notifications for a client of 2026-07-28, out of what a server with a handshake says by itself: on a connection
//! that listeners have in common, and that is made again when it is lost.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Server;
use super::tasking::Watching;
use crate::backend::OpenError;
use crate::backend::bridged::Guest;
use crate::backend::hub::{Hub, Membership, Said};
use crate::backend::start::ask;
use crate::bridge::modern_to_legacy::listen::{Wishes, ended};
use crate::bridge::modern_to_legacy::task;
use crate::bridge::promise::Promise;
use crate::bridge::sharing;
use crate::protocol::id::RequestId;
use crate::protocol::message::{Kind, Message};
use crate::protocol::method::Known;
use crate::rt::chance;
use crate::rt::mailbox::{Bounds, Reader, Writer, mailbox};
use crate::upstream::error::UpstreamError;
use crate::upstream::reconnect::{Event, Heard, Loss, Reconnect, Step};

/// How much waits for a client that does not read, before it is told that everything may have changed.
const WAITING: Bounds = Bounds { items: 64, bytes: 1 << 20 };

/// See the module. Dropping it gives up what was subscribed to.
pub(super) struct Hearing {
    server: Arc<Server>,
    guest: Guest,
    id: RequestId,
    /// What was promised.
    wishes: Wishes,
    attached: Attached,
    reconnect: Reconnect,
    again: Option<BoxFuture<'static, Result<Opened, OpenError>>>,
    lost: Option<Step>,
    /// What has to be told before anything else.
    first: VecDeque<Message>,
    watching: Watching,
}

/// A place where the server is heard.
struct Attached {
    _membership: Membership,
    said: Reader<Message>,
    missed: Arc<AtomicBool>,
}

struct Opened {
    attached: Attached,
    granted: Wishes,
}

/// What comes next on the stream.
pub(super) enum Told {
    Message(Message),
    /// The end, in good order.
    End(Message),
    /// The end.
    Failed(UpstreamError),
}

impl Hearing {
    /// Begins to listen; to the news of these tasks, too.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(super) async fn begin(
        server: &Arc<Server>,
        guest: &Guest,
        request: &Message,
        id: &RequestId,
        watching: Watching,
    ) -> Result<Hearing, OpenError> {
        let wishes = Wishes::of(request).with_tasks(watching.names());
        let Opened { attached, granted } = open(Arc::clone(server), guest.clone(), wishes).await?;
        let (server, guest, id) = (Arc::clone(server), guest.clone(), id.clone());
        let reconnect = server.backend.reconnect();
        let first = VecDeque::from([granted.acknowledged(&id)]);
        Ok(Hearing {
            server,
            guest,
            id,
            wishes: granted,
            attached,
            reconnect,
            again: None,
            lost: None,
            first,
            watching,
        })
    }

    /// The result that ends it because the proxy has to.
    pub(super) fn end(&self) -> Message {
        ended(&self.id)
    }

    /// What the client is told next.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn next(&mut self) -> Told {
        loop {
            if let Some(message) = self.first.pop_front() {
                return Told::Message(message);
            }
            if self.lost.is_some() {
                match self.reopen().await {
                    Some(told) => return told,
                    None => continue,
                }
            }
            let said = tokio::select! {
                said = self.attached.said.next() => said,
                news = self.watching.next() => return Told::Message(task::news(&self.id, &news)),
            };
            match said {
                Some(said) => {
                    if self.attached.missed.swap(false, Ordering::Relaxed) {
                        self.tell_missed();
                    }
                    if let Some(message) = self.wishes.told(&said, &self.id) {
                        self.first.push_back(message);
                    }
                }
                None => self.lost = Some(self.step(lost())),
            }
        }
    }

    fn step(&mut self, event: Event) -> Step {
        self.reconnect.on(event, Instant::now().into_std(), chance())
    }

    /// Everything that was promised may have changed.
    fn tell_missed(&mut self) {
        let promise = Promise::of(&self.wishes.acknowledged(&self.id));
        self.first.extend(promise.iter().flat_map(|promise| promise.missed(self.id.as_json())));
    }

    /// Makes the connection again, as patiently as any stream is connected again; what is returned is the end.
    async fn reopen(&mut self) -> Option<Told> {
        let event = match self.lost.as_ref()? {
            Step::WaitUntil(until) => {
                sleep_until(Instant::from_std(*until)).await;
                Event::Due
            }
            Step::Connect { .. } | Step::Read => {
                let (server, guest, wishes) = (&self.server, &self.guest, &self.wishes);
                let again =
                    self.again.get_or_insert_with(|| open(Arc::clone(server), guest.clone(), wishes.clone()).boxed());
                let opened = again.await;
                self.again = None;
                match opened {
                    // The client was promised more than that: it has to ask anew.
                    Ok(opened) if opened.granted != self.wishes => return Some(self.over("changed")),
                    Ok(opened) => {
                        self.attached = opened.attached;
                        self.step(Event::Opened);
                        self.lost = None;
                        self.tell_missed();
                        self.server.metrics.listen_reopened("ok");
                        return None;
                    }
                    Err(OpenError::Closed | OpenError::Refused(_)) => return Some(self.over("changed")),
                    Err(_) => lost(),
                }
            }
            Step::GiveUp(why) => {
                tracing::warn!(
                    upstream = self.server.metrics.name(),
                    why = why.reason(),
                    "Stream of notifications given up"
                );
                self.server.metrics.listen_reopened("failed");
                return Some(Told::Failed(UpstreamError::Lost { sent: true }));
            }
        };
        self.lost = Some(self.step(event));
        None
    }

    fn over(&self, result: &'static str) -> Told {
        self.server.metrics.listen_reopened(result);
        Told::End(self.end())
    }
}

fn lost() -> Event {
    Event::Lost { loss: Loss::Broken, heard: Heard::default() }
}

/// Joins those who listen, and subscribes to what has to be subscribed to. What the server does not accept is left out.
async fn open(server: Arc<Server>, guest: Guest, wishes: Wishes) -> Result<Opened, OpenError> {
    let hub = server.backend.listeners(&guest).await?;
    let granted = wishes.granted(hub.answer());
    let (writer, said): (Writer<Message>, _) = mailbox(WAITING);
    let missed = Arc::new(AtomicBool::new(false));
    let overflow = Arc::clone(&missed);
    let metrics = server.metrics.clone();
    let membership = hub.join(move |said| match said {
        Said::Message(message) => {
            if writer.push(None, message.clone(), message.text().len(), Message::alone).is_err() {
                overflow.store(true, Ordering::Relaxed);
                metrics.dropped("listener_slow");
            }
        }
        Said::Lost => writer.close(),
    });
    let mut uris = Vec::new();
    // One for all of them: the client waits for the acknowledgement. What has no answer by then is left out of it.
    let deadline = server.backend.restore_deadline();
    for uri in granted.uris() {
        if subscribe(&guest, &hub, &membership, uri, deadline).await {
            uris.push(uri.clone());
        }
    }
    if hub.connection().gone().is_cancelled() {
        return Err(OpenError::Unanswered(UpstreamError::Lost { sent: true }));
    }
    Ok(Opened { attached: Attached { _membership: membership, said, missed }, granted: granted.with_uris(uris) })
}

async fn subscribe(guest: &Guest, hub: &Hub, membership: &Membership, uri: &str, deadline: Instant) -> bool {
    if !membership.may_subscribe() {
        return false;
    }
    let _awaited = loop {
        match membership.awaits(uri) {
            Ok(awaited) => break awaited,
            Err(over) => {
                if timeout_at(deadline, over.cancelled()).await.is_err() {
                    return false;
                }
            }
        }
    };
    let id = hub.connection().next_id();
    let Some(request) = sharing::subscription(Known::ResourcesSubscribe, id, uri) else { return false };
    let answer = ask(hub.connection(), &request, id, &guest.headers, deadline).await;
    let accepted = answer.is_ok_and(|answer| answer.kind() == Kind::Result);
    if accepted {
        membership.subscribed(uri.to_owned());
    }
    accepted
}
