//! The desk of the pool under every interleaving: see README.md.
#![cfg(test)]
// The files are those of the pool; not all that they can do is used here.
#![allow(dead_code, unreachable_pub)]

#[path = "../../src/pool/desk.rs"]
mod desk;
#[path = "../../src/pool/ledger/mod.rs"]
mod ledger;
#[path = "../../src/pool/mutant.rs"]
mod mutant;

/// The lock, as the model checker has it.
mod sync {
    pub(crate) use loom::sync::{Mutex, MutexGuard};
}

mod broken;
mod models;
mod pool;
