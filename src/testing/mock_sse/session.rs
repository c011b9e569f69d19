//! Legacy sessions: what lives longer than a connection.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;

use super::events::Events;
use super::{Site, lock};
use crate::testing::faults::Do;
use crate::testing::incoming::Incoming;
use crate::testing::peer::{OUTBOX, Outlet, Peer};
use crate::testing::wire::Wire;

/// How many streams of a session are kept for resumption.
const STREAMS_MAX: usize = 256;

/// A legacy client: a Streamable HTTP session, or a connection to `/sse`.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: String,
    pub(super) peer: Arc<Peer>,
    /// What nobody asked for; on HTTP+SSE everything.
    pub(super) unasked: Arc<Events>,
    streams: Mutex<HashMap<u64, Arc<Events>>>,
    last_stream: AtomicU64,
}

impl Session {
    /// The stream of a new request.
    pub(super) fn stream(&self) -> Arc<Events> {
        let number = self.last_stream.fetch_add(1, Ordering::Relaxed) + 1;
        let events = Events::new(number);
        let mut streams = lock(&self.streams);
        streams.insert(number, Arc::clone(&events));
        if let Some(old) = number.checked_sub(STREAMS_MAX as u64) {
            streams.remove(&old);
        }
        events
    }

    /// A stream and an event of it, by an event id.
    pub(super) fn place(&self, event_id: &str) -> Option<(Arc<Events>, u64)> {
        let (stream, number) = event_id.split_once('-')?;
        let (stream, number) = (stream.parse().ok()?, number.parse().ok()?);
        let events = if stream == 0 { Arc::clone(&self.unasked) } else { lock(&self.streams).get(&stream).cloned()? };
        Some((events, number))
    }

    fn end(&self) {
        self.peer.state().cancel_all();
        self.unasked.finish();
    }
}

/// The sessions there are.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<String, Arc<Session>>>);

impl Sessions {
    pub(super) fn get(&self, id: &str) -> Option<Arc<Session>> {
        lock(&self.0).get(id).cloned()
    }

    /// Ends a session; whether there was one.
    pub(super) fn forget(&self, id: &str) -> bool {
        lock(&self.0).remove(id).map(|session| session.end()).is_some()
    }

    pub(super) fn forget_all(&self) {
        lock(&self.0).drain().for_each(|(_, session)| session.end());
    }
}

impl Site {
    /// Opens a session.
    pub(super) fn open_session(self: &Arc<Self>) -> Arc<Session> {
        let (sender, said) = mpsc::channel(OUTBOX);
        let unasked = Events::new(0);
        let (site, filling) = (Arc::clone(self), Arc::clone(&unasked));
        self.spawn(async move {
            if let Some(code) = filling.fill(said).await {
                site.exit(code);
            }
        });
        let session = Arc::new(Session {
            id: fresh_id(),
            peer: Peer::new(Outlet::new(sender, Wire::default())),
            unasked,
            streams: Mutex::default(),
            last_stream: AtomicU64::new(0),
        });
        lock(&self.sessions.0).insert(session.id.clone(), Arc::clone(&session));
        session
    }

    /// Runs the exchange of a message into a stream, whoever listens to that. Cancelling the token cancels the exchange.
    pub(super) fn run(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        message: Incoming,
        faults: Vec<Do>,
        events: &Arc<Events>,
    ) -> tokio_util::sync::CancellationToken {
        let (sender, said) = mpsc::channel(OUTBOX);
        let outlet = Outlet::new(sender, Wire::new(&faults));
        let exchange = self.server.receive(peer, message, faults, outlet);
        let canceller = exchange.canceller();
        let (site, events) = (Arc::clone(self), Arc::clone(events));
        self.spawn(async move {
            if let ((), Some(code)) = tokio::join!(exchange.run(), events.fill(said)) {
                if events.answered() {
                    // The process ends after its answer: not before a connection has written that, if there is one.
                    let _ = tokio::time::timeout(Duration::from_secs(1), events.delivered.cancelled()).await;
                }
                site.exit(code);
            }
        });
        canceller
    }
}

/// 128 bits from the system's generator, in hexadecimal.
fn fresh_id() -> String {
    let mut bytes = [0; 16];
    if getrandom::fill(&mut bytes).is_err() {
        // Without randomness ids are still unique, which is all a fake needs.
        static LAST: AtomicU64 = AtomicU64::new(0);
        bytes[..8].copy_from_slice(&LAST.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
