//! A leased connection: what its server says by itself is heard by its holder, and by nobody while it has none.

use std::ops::{Deref, DerefMut};

use super::key::Key;
use super::start::{Link, Starter};
use crate::metrics::{ServerMetrics, Start};
use crate::pool::Lease;
use crate::upstream::driver::Sharing;

/// A connection that is its holder's alone. Dropping it gives it back.
pub(crate) struct Leased {
    lease: Lease<Starter>,
    metrics: ServerMetrics,
}

impl Leased {
    pub(super) fn new(lease: Lease<Starter>, metrics: ServerMetrics) -> Leased {
        let mut leased = Leased { lease, metrics };
        if leased.start() == Start::Reused {
            leased.forget_said();
        }
        leased.connection.share(Sharing::Exclusive);
        leased
    }

    /// Drops what was said to the holder before: it may be about what only that one may know.
    fn forget_said(&mut self) {
        let link: &mut Link = &mut self.lease;
        let said = link.early.drain(..).count() + link.standing.forget();
        for _ in 0..said {
            self.metrics.dropped("no_recipient");
        }
    }
}

impl Deref for Leased {
    type Target = Lease<Starter>;

    fn deref(&self) -> &Lease<Starter> {
        &self.lease
    }
}

impl DerefMut for Leased {
    fn deref_mut(&mut self) -> &mut Lease<Starter> {
        &mut self.lease
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        // To a modern server never goes an answer, not even a refusal.
        let modern = matches!(self.lease.key(), Key::Modern { .. });
        self.lease.connection.share(if modern { Sharing::Shared } else { Sharing::Nobody });
        // A server that finds nobody who listens would otherwise come to a halt when the queue is full.
        self.forget_said();
    }
}
