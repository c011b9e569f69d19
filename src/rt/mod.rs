//! Tasks and signals: the one place that spawns.

pub(crate) mod tasks;
