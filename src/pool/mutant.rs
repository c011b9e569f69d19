//! Bugs that a pool like this has had, or might have; the tests must notice each: `SHADOWCAT_MUTANT=NAME cargo test --lib
//! pool` must fail. In any build but that of the unit tests none of them exists (`scripts/mutants` switches them on).

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mutant {
    /// The drop of any clone of the handle closes the pool (C-POOL-5).
    DropCloses,
    /// The place of a connection that fails on its return is never free again (C-POOL-2).
    PermitLost,
    /// A returned connection is filed as idle while others wait for it (C-POOL-3).
    ReturnStarves,
    /// A connection whose peer is gone is handed out (C-POOL-10).
    DeadReused,
    /// The background task keeps the pool alive (C-POOL-6).
    WeakForever,
    /// A lock is held while a connection is created (C-POOL-8).
    #[cfg(test)]
    LockOverAwait,
    /// What was given to one who goes away without looking is lost (C-POOL-2).
    CancelLoses,
    /// A creation that panics takes its place with it (C-POOL-2).
    PanicForgotten,
    /// The idle connection that was used least recently is given out (C-POOL-4).
    IdleOldest,
    /// Those whom nothing fits are passed over for ever (C-POOL-4).
    PassesForgotten,
    /// Whoever waits learns nothing of the end of the pool (C-POOL-7).
    CloseForgets,
    /// A connection that is created while the pool closes is made all the same (C-POOL-7).
    CreatesAfterClose,
    /// The first sweep comes before a full period is over (C-POOL-9).
    SweepsEarly,
    /// A connection on which something is under way is used again (C-POOL-10).
    QuarantineIgnored,
    /// Age and idleness are looked at by the sweep only (C-POOL-11).
    AgeForgotten,
    /// All connections live equally long (C-POOL-11).
    AgeWithoutJitter,
    /// What fails is tried again at once.
    NoRest,
    /// A spare that cannot be made is tried again for ever, without a pause.
    SparesHammer,
    /// One who waits has to wait for a spare that is not ready, though no other place is free.
    SparesFirst,
    /// Nobody looks at those who wait when a rest is over.
    RestUnnoticed,
    /// Those whom the limit of creations held back are forgotten when one ends.
    NextForgotten,
}

/// Whether it is switched on.
#[cfg(test)]
pub(super) fn is_on(mutant: Mutant) -> bool {
    static ON: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let on = ON.get_or_init(|| std::env::var("SHADOWCAT_MUTANT").ok());
    on.as_deref().is_some_and(|name| name == format!("{mutant:?}"))
}

/// Whether it is switched on: never, here.
#[cfg(not(test))]
pub(super) const fn is_on(_: Mutant) -> bool {
    false
}
