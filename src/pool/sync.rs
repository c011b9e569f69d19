//! The lock of the desk. A model checker puts its own in this place.

pub(super) use std::sync::{Mutex, MutexGuard};
