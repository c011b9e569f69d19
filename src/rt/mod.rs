//! Tasks and signals: the one place that spawns, and the one that listens to the operating system.

pub(crate) mod adopter;
pub(crate) mod background;
pub(crate) mod flag;
pub(crate) mod gather;
pub(crate) mod mailbox;
pub(crate) mod signal;
pub(crate) mod stall;
pub(crate) mod tasks;
pub(crate) mod wakes;
pub(crate) mod watch;
pub(crate) mod workers;

pub(crate) use signal::{Signal, Signals};
pub(crate) use tasks::{Spawner, Tasks};
pub(crate) use workers::{Crew, Workers};

/// A random number in 0..1.
pub(crate) fn chance() -> f64 {
    let mut bytes = [0u8; 4];
    // Without randomness every proxy waits as long as the others: worse, and no reason to fail.
    let _ = getrandom::fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}

/// Counts how often a task would have been woken.
#[cfg(test)]
#[derive(Default)]
struct Woken(std::sync::atomic::AtomicUsize);

#[cfg(test)]
impl std::task::Wake for Woken {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}
