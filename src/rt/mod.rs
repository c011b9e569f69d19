//! Tasks and signals: the one place that spawns, and the one that listens to the operating system.

pub(crate) mod adopter;
pub(crate) mod mailbox;
pub(crate) mod signal;
pub(crate) mod tasks;

pub(crate) use signal::{Signal, Signals};
pub(crate) use tasks::{Spawner, Tasks};
