//! What happens to a pool while nobody uses it: old connections go, spares are made.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::mutant::{Mutant, is_on};
use super::{Connect, Shared};

/// How often what is in quarantine is looked at.
const QUARANTINE_LOOK: Duration = Duration::from_millis(20);

/// Starts the task of a pool, which holds nothing of it between two looks (C-POOL-6).
pub(super) fn start<C: Connect>(shared: &Arc<Shared<C>>) {
    let weak = Arc::downgrade(shared);
    let (kick, over, crew) = (Arc::clone(&shared.kick), shared.over.clone(), shared.crew.token());
    let (idle, age) = (shared.config.bounds.idle, shared.config.max_age);
    let period = (idle.min(age) / 4).clamp(Duration::from_millis(10), Duration::from_secs(5));
    let strong = is_on(Mutant::WeakForever).then(|| Arc::clone(shared));
    shared.tasks.spawn("pool-keeper", async move {
        let _held = (strong, crew);
        // The first look comes after a full period; a look that was missed is not made up for (C-POOL-9).
        let first = if is_on(Mutant::SweepsEarly) { period / 2 } else { period };
        let mut ticks = interval_at(Instant::now() + first, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut soon = None;
        loop {
            tokio::select! {
                () = over.cancelled() => break,
                _ = ticks.tick() => {}
                () = kick.notified() => {}
                () = at(soon) => {}
            }
            let Some(shared) = weak.upgrade() else { return };
            soon = shared.keep();
        }
        // The program stops, if nobody closed the pool: whoever waits is told.
        if let Some(shared) = weak.upgrade() {
            shared.after(shared.desk.visit(|ledger, orders| ledger.close(orders)).1);
        }
    });
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

impl<C: Connect> Shared<C> {
    /// One look at everything. Returns when the next one is due if that is before the period is over.
    fn keep(self: &Arc<Self>) -> Option<Instant> {
        let now = Instant::now();
        let (quarantine, after) = self.desk.visit(|ledger, orders| {
            ledger.sweep(now.into_std(), orders);
            ledger.has_quarantine()
        });
        self.after(super::After { plan: false, ..after });
        self.plan();
        let rested = self.restarts().rest(now.into_std()).map(|rest| Instant::from_std(rest.until));
        let look = quarantine.then(|| now + QUARANTINE_LOOK);
        look.into_iter().chain(rested).min()
    }
}
