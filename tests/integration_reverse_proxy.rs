//! The proxy from outside: real sockets in front of real processes.
//!
//! Legacy clients with servers that have a handshake, modern clients with stateless servers. Everything is about what a
//! user of either side relies on; each test names the page of the specification, or the contract, that it holds us to.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/mod.rs"]
mod common;

#[path = "integration_reverse_proxy/batches.rs"]
mod batches;
#[path = "integration_reverse_proxy/cancellation.rs"]
mod cancellation;
#[path = "integration_reverse_proxy/children.rs"]
mod children;
#[path = "integration_reverse_proxy/classification.rs"]
mod classification;
#[path = "integration_reverse_proxy/guards.rs"]
mod guards;
#[path = "integration_reverse_proxy/http_sse.rs"]
mod http_sse;
#[path = "integration_reverse_proxy/lifetime.rs"]
mod lifetime;
#[path = "integration_reverse_proxy/limits.rs"]
mod limits;
#[path = "integration_reverse_proxy/malformed.rs"]
mod malformed;
#[path = "integration_reverse_proxy/modern.rs"]
mod modern;
#[path = "integration_reverse_proxy/ownership.rs"]
mod ownership;
#[path = "integration_reverse_proxy/probing.rs"]
mod probing;
#[path = "integration_reverse_proxy/questions.rs"]
mod questions;
#[path = "integration_reverse_proxy/relay.rs"]
mod relay;
#[path = "integration_reverse_proxy/sessions.rs"]
mod sessions;
#[path = "integration_reverse_proxy/slow_readers.rs"]
mod slow_readers;
#[path = "integration_reverse_proxy/streams.rs"]
mod streams;
