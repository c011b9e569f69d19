//! What ends by itself: the idle that are too old, unused for too long or broken, and quarantine.

use std::time::Instant;

use super::super::mutant::{Mutant, is_on};
use super::{Idle, Key, Ledger, Orders, Pooled, Reason};

impl<K: Key, T: Pooled, E> Ledger<K, T, E> {
    /// Closes what is too old, unused for too long or broken; looks at what is in quarantine.
    pub(crate) fn sweep(&mut self, now: Instant, orders: &mut Orders<T>) {
        let mut spares = self.bounds.spares;
        for at in (0..self.idle.len()).rev() {
            let kept = self.idle[at].held.key.is_spare() && spares > 0;
            match self.why_not(&self.idle[at], now, kept) {
                Some(reason) => {
                    let idle = self.idle.remove(at);
                    self.let_go(idle.held, reason, orders);
                }
                None => spares -= usize::from(kept),
            }
        }
        let mut at = 0;
        while at < self.quarantine.len() {
            let kept = &self.quarantine[at];
            let reason = match (kept.held.conn.is_usable(), kept.held.conn.is_quiescent()) {
                (false, _) => Some(Reason::Broken),
                (true, true) => None,
                (true, false) if is_on(Mutant::QuarantineIgnored) => None,
                (true, false) if now >= kept.until => Some(Reason::Dirty),
                (true, false) => {
                    at += 1;
                    continue;
                }
            };
            let held = self.quarantine.remove(at).held;
            match reason {
                Some(reason) => self.let_go(held, reason, orders),
                None => self.hand(held, now, orders),
            }
        }
        orders.plan |= self.wants_plan();
    }

    /// Whether anything waits for its quarantine to end.
    pub(crate) fn has_quarantine(&self) -> bool {
        !self.quarantine.is_empty()
    }

    /// Why an idle connection may not be used; it is off the list or about to be. One that is `kept` is not unused.
    pub(super) fn why_not(&self, idle: &Idle<K, T>, now: Instant, kept: bool) -> Option<Reason> {
        let expires = self.rows.get(&idle.held.place).and_then(|row| row.expires);
        if !idle.held.conn.is_usable() && !is_on(Mutant::DeadReused) {
            Some(Reason::Broken)
        } else if expires.is_some_and(|at| now >= at) {
            Some(Reason::Age)
        } else if !kept && now.saturating_duration_since(idle.since) >= self.bounds.idle {
            Some(Reason::Idle)
        } else {
            None
        }
    }
}
