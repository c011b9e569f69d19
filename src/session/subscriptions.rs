//! What a session wants to hear of a server that knows of no sessions, and what the server has promised to tell.

use std::collections::BTreeSet;
use std::sync::Mutex;

use tokio::sync::{Notify, watch};

use super::lock;
use crate::bridge::promise::Promise;
use crate::protocol::message::Message;

/// Most subscriptions of one session.
const SUBSCRIPTIONS_MAX: usize = 1024;

/// See the module.
pub(crate) struct Subscriptions {
    /// Held for a look or a change.
    wanted: Mutex<Wanted>,
    changed: Notify,
    outcome: watch::Sender<Outcome>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// The resources that are subscribed to.
    pub(crate) uris: BTreeSet<String>,
    /// Counts the changes.
    pub(crate) version: u64,
    /// Somebody listens for the session, or is about to.
    is_heard: bool,
}

/// What became of the wishes up to a version.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    version: u64,
    /// What the server promised, or its refusal. Neither where there is nothing to listen to.
    pub(crate) said: Option<Result<Promise, Message>>,
}

impl Default for Subscriptions {
    fn default() -> Self {
        Subscriptions { wanted: Mutex::default(), changed: Notify::new(), outcome: watch::Sender::default() }
    }
}

impl Subscriptions {
    /// What is wanted now.
    pub(crate) fn wanted(&self) -> Wanted {
        lock(&self.wanted).clone()
    }

    /// Looks at the resources that are subscribed to.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&BTreeSet<String>) -> T) -> T {
        look(&lock(&self.wanted).uris)
    }

    /// Somebody has to listen: whether that is the caller.
    pub(crate) fn begin(&self) -> bool {
        !std::mem::replace(&mut lock(&self.wanted).is_heard, true)
    }

    /// One more resource: the version that has it. `None` if there are too many.
    pub(crate) fn add(&self, uri: String) -> Option<u64> {
        let mut wanted = lock(&self.wanted);
        if wanted.uris.len() >= SUBSCRIPTIONS_MAX && !wanted.uris.contains(&uri) {
            return None;
        }
        wanted.uris.insert(uri);
        wanted.version += 1;
        let version = wanted.version;
        drop(wanted);
        self.changed.notify_one();
        Some(version)
    }

    /// One less.
    pub(crate) fn remove(&self, uri: &str) {
        let mut wanted = lock(&self.wanted);
        if wanted.uris.remove(uri) {
            wanted.version += 1;
            drop(wanted);
            self.changed.notify_one();
        }
    }

    /// Waits until something is wanted that was not at this version. For the one who listens.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn newer_than(&self, version: u64) {
        while lock(&self.wanted).version <= version {
            self.changed.notified().await;
        }
    }

    /// This is what became of what was wanted.
    pub(crate) fn tell(&self, version: u64, said: Option<Result<Promise, Message>>) {
        self.outcome.send_replace(Outcome { version, said });
    }

    /// Waits until it is known what became of what was wanted at this version.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn outcome(&self, version: u64) -> Outcome {
        let mut outcomes = self.outcome.subscribe();
        let outcome = outcomes.wait_for(|outcome| outcome.version >= version).await.map(|outcome| outcome.clone());
        match outcome {
            Ok(outcome) => outcome,
            Err(_) => std::future::pending().await,
        }
    }
}
