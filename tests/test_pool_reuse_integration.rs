//! The pool with real processes: who gets which child, when one is used again, and that nothing is left behind.
//!
//! Both ends are looked at: what clients are answered and which process answered it, and what the metrics and `/proc` say.
//! Each test names the contract (docs/contracts.md) or the page of the specification that it holds us to.
#![cfg(unix)]
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/mod.rs"]
mod common;

#[path = "test_pool_reuse_integration/crash_loop.rs"]
mod crash_loop;
#[path = "test_pool_reuse_integration/ends.rs"]
mod ends;
#[path = "test_pool_reuse_integration/limits.rs"]
mod limits;
#[path = "test_pool_reuse_integration/principal.rs"]
mod principal;
#[path = "test_pool_reuse_integration/questions.rs"]
mod questions;
#[path = "test_pool_reuse_integration/request.rs"]
mod request;
#[path = "test_pool_reuse_integration/restore.rs"]
mod restore;
#[path = "test_pool_reuse_integration/session.rs"]
mod session;
#[path = "test_pool_reuse_integration/shared.rs"]
mod shared;
#[path = "test_pool_reuse_integration/spares.rs"]
mod spares;
#[path = "test_pool_reuse_integration/support.rs"]
mod support;
