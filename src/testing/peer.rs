//! What the fake server knows about one client connection, and how it speaks to it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::wire::Wire;

/// How many things may wait to be written; a flood waits for the reader beyond that.
pub(crate) const OUTBOX: usize = 256;

/// Something the server wants to happen on its output.
#[derive(Debug, Clone)]
pub(crate) enum Say {
    /// A message that is not the answer.
    Message(String),
    /// The answer: the last message of an exchange, but for faults.
    Answer(String),
    /// Noise on stderr.
    Stderr { bytes: u64, newlines: bool },
    /// The end of the process.
    Exit(u8),
}

/// Something said, with the wire of the exchange it belongs to.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    pub(crate) say: Say,
    pub(crate) wire: Arc<Mutex<Wire>>,
}

/// Where an exchange, or a connection, speaks.
#[derive(Debug, Clone)]
pub(crate) struct Outlet {
    sender: mpsc::Sender<Said>,
    wire: Arc<Mutex<Wire>>,
}

impl Outlet {
    pub(crate) fn new(sender: mpsc::Sender<Said>, wire: Wire) -> Outlet {
        Outlet { sender, wire: Arc::new(Mutex::new(wire)) }
    }

    /// The same way out for another exchange.
    pub(crate) fn with_wire(&self, wire: Wire) -> Outlet {
        Outlet::new(self.sender.clone(), wire)
    }

    /// Says something, waiting while the output is full. Nobody may be there any more; that is no error here.
    pub(crate) async fn say(&self, say: Say) {
        let said = Said { say, wire: Arc::clone(&self.wire) };
        let _ = self.sender.send(said).await;
    }

    /// Says something now or not at all; whether it was said.
    pub(crate) fn try_say(&self, say: Say) -> bool {
        self.sender.try_send(Said { say, wire: Arc::clone(&self.wire) }).is_ok()
    }
}

/// One client connection: a process's stdio, a legacy HTTP session, or (modern HTTP) a single request.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Where messages that belong to no exchange go.
    pub(crate) unasked: Outlet,
    state: Mutex<PeerState>,
}

#[derive(Debug, Default)]
pub(crate) struct PeerState {
    /// The negotiated legacy revision.
    pub(crate) revision: Option<&'static str>,
    /// The client capabilities of `initialize`.
    pub(crate) capabilities: Value,
    /// The least severe level of `logging/setLevel`, as its rank.
    pub(crate) log_level: usize,
    /// What `resources/subscribe` named.
    pub(crate) subscriptions: BTreeSet<String>,
    questions: HashMap<String, oneshot::Sender<Result<Value, Value>>>,
    last_question: u64,
    open: HashMap<String, CancellationToken>,
}

impl Peer {
    pub(crate) fn new(unasked: Outlet) -> Arc<Peer> {
        Arc::new(Peer { unasked, state: Mutex::default() })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, PeerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PeerState {
    /// A fresh id for a question to the client. They are small integers, as clients' own ids often are.
    pub(crate) fn question(&mut self) -> (String, oneshot::Receiver<Result<Value, Value>>) {
        self.last_question += 1;
        let id = self.last_question.to_string();
        let (sender, receiver) = oneshot::channel();
        self.questions.insert(id.clone(), sender);
        (id, receiver)
    }

    /// Hands an answer to the question it names, by the exact text of the id; whether there is one.
    pub(crate) fn answered(&mut self, id: &str, answer: Result<Value, Value>) -> bool {
        self.questions.remove(id).is_some_and(|question| question.send(answer).is_ok())
    }

    /// Forgets a question.
    pub(crate) fn withdraw(&mut self, id: &str) {
        self.questions.remove(id);
    }

    /// Notes a request as open, so that it can be cancelled.
    pub(crate) fn opened(&mut self, id: &str, cancelled: CancellationToken) {
        self.open.insert(id.to_owned(), cancelled);
    }

    pub(crate) fn closed(&mut self, id: &str) {
        self.open.remove(id);
    }

    /// Cancels an open request; whether there is one of that id.
    pub(crate) fn cancel(&mut self, id: &str) -> bool {
        self.open.get(id).map(CancellationToken::cancel).is_some()
    }

    /// Cancels everything that is open.
    pub(crate) fn cancel_all(&mut self) {
        self.open.values().for_each(CancellationToken::cancel);
    }
}
