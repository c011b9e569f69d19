//! One long-lived task that runs work whose connection has gone, so that dropping a connection spawns nothing.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use futures_util::{FutureExt, future};
use tokio::sync::Notify;

use super::Tasks;

/// Takes over work. Clones share it.
///
/// What it holds is bounded by those who hand over: sessions are limited in number, and so are requests in a session.
#[derive(Clone, Default)]
pub(crate) struct Adopter {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Held for a push or a take.
    arrivals: Mutex<Vec<BoxFuture<'static, ()>>>,
    arrived: Notify,
}

impl Adopter {
    /// Hands work over: never waits, never fails, may be called from `Drop`.
    pub(crate) fn adopt(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.shared.arrivals.lock().unwrap_or_else(PoisonError::into_inner).push(work.boxed());
        self.shared.arrived.notify_one();
    }

    /// Starts the task. It ends, and drops what it still holds, when `tasks` stop.
    pub(crate) fn start(&self, tasks: &Tasks) {
        let shared = Arc::clone(&self.shared);
        let stop = tasks.stop().clone();
        tasks.spawn("adopter", async move {
            let mut held = FuturesUnordered::new();
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = shared.arrived.notified() => {
                        let arrivals = std::mem::take(&mut *shared.arrivals.lock().unwrap_or_else(PoisonError::into_inner));
                        held.extend(arrivals.into_iter().map(|work| AssertUnwindSafe(work).catch_unwind()));
                    }
                    ended = next(&mut held) => {
                        if ended.is_err() {
                            tracing::error!("Adopted work panicked");
                        }
                    }
                }
            }
        });
    }
}

async fn next<F: Future>(held: &mut FuturesUnordered<F>) -> F::Output {
    match held.next().await {
        Some(output) => output,
        None => future::pending().await,
    }
}
