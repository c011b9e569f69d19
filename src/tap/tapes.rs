//! Which tape is whose: a session has one, and so has a client without a session, for as long as it is busy.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use super::recorder::Tape;

/// Most clients without a session that have a tape at once: the tape of the one that was silent for longest ends.
const CLIENTS_MAX: usize = 1000;
/// For how long after the end of a session its last words are waited for.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Who a client without a session is: as much as it shows, so that two of whom nothing is known are one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct ClientKey {
    pub(crate) principal: Option<[u8; 32]>,
    /// What it says of itself.
    pub(crate) info: Option<String>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Tapes(Mutex<Table>);

#[derive(Default)]
struct Table {
    sessions: HashMap<String, OfSession, foldhash::fast::RandomState>,
    clients: HashMap<ClientKey, OfClient>,
}

struct OfSession {
    tape: Tape,
    ended: CancellationToken,
    /// When it was seen to have ended.
    since: Option<Instant>,
}

struct OfClient {
    tape: Tape,
    used: Instant,
    busy: Arc<AtomicUsize>,
}

/// A tape in use: it does not end for want of traffic.
pub(crate) struct InUse {
    pub(crate) tape: Tape,
    busy: Option<Arc<AtomicUsize>>,
}

impl InUse {
    /// A tape that ends when something else does.
    pub(crate) fn bound(tape: Tape) -> InUse {
        InUse { tape, busy: None }
    }

    fn busy(tape: Tape, busy: &Arc<AtomicUsize>) -> InUse {
        busy.fetch_add(1, Ordering::Relaxed);
        InUse { tape, busy: Some(Arc::clone(busy)) }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        if let Some(busy) = &self.busy {
            busy.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Tapes {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tape of a session.
    pub(super) fn of_session(&self, id: &str) -> Option<InUse> {
        self.lock().sessions.get(id).map(|session| InUse::bound(session.tape.clone()))
    }

    /// This is the tape of that session, until it has `ended`.
    pub(super) fn bind(&self, id: &str, tape: &Tape, ended: CancellationToken) {
        let of_session = OfSession { tape: tape.clone(), ended, since: None };
        self.lock().sessions.insert(id.to_owned(), of_session);
    }

    /// The tape of a client without a session.
    pub(super) fn of_client(&self, key: ClientKey, begin: impl FnOnce() -> Tape) -> InUse {
        let now = Instant::now();
        let mut table = self.lock();
        if let Some(client) = table.clients.get_mut(&key) {
            client.used = now;
            return InUse::busy(client.tape.clone(), &client.busy);
        }
        if table.clients.len() >= CLIENTS_MAX {
            let oldest = table.clients.iter().min_by_key(|(_, client)| client.used).map(|(key, _)| key.clone());
            if let Some(client) = oldest.and_then(|key| table.clients.remove(&key)) {
                client.tape.end("other clients came");
            }
        }
        let client = OfClient { tape: begin(), used: now, busy: Arc::default() };
        let in_use = InUse::busy(client.tape.clone(), &client.busy);
        table.clients.insert(key, client);
        in_use
    }

    /// Ends the tapes of sessions that are over, and of clients that have been silent for so long.
    pub(super) fn sweep(&self, idle: Duration) {
        let now = Instant::now();
        let mut table = self.lock();
        table.sessions.retain(|_, session| {
            if !session.ended.is_cancelled() {
                return true;
            }
            let stays = now.saturating_duration_since(*session.since.get_or_insert(now)) < LAST_WORDS;
            if !stays {
                session.tape.end("session ended");
            }
            stays
        });
        table.clients.retain(|_, client| {
            if client.busy.load(Ordering::Relaxed) > 0 {
                client.used = now;
            }
            let stays = now.saturating_duration_since(client.used) < idle;
            if !stays {
                client.tape.end("the client was silent");
            }
            stays
        });
    }

    /// Ends all of them.
    pub(super) fn end(&self, reason: &'static str) {
        let table = std::mem::take(&mut *self.lock());
        for tape in table.sessions.into_values().map(|session| session.tape) {
            tape.end(reason);
        }
        for tape in table.clients.into_values().map(|client| client.tape) {
            tape.end(reason);
        }
    }
}
