//! shadowcat: a reverse proxy for MCP, the Model Context Protocol.
#![warn(clippy::all)]

pub mod cli;
pub mod config;
pub mod faults;
pub mod load;
pub mod protocol;
pub mod replay;
pub mod server;
pub mod settings;
pub mod tape;
pub(crate) mod telemetry;
pub mod testing;
pub mod through;

pub(crate) mod admin;
pub(crate) mod backend;
pub(crate) mod bridge;
pub(crate) mod front;
pub(crate) mod metrics;
pub(crate) mod pool;
pub(crate) mod probing;
pub(crate) mod proxy;
pub(crate) mod rt;
pub(crate) mod session;
pub(crate) mod tap;
pub(crate) mod upstream;
