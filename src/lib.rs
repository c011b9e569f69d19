//! shadowcat: a reverse proxy for MCP, the Model Context Protocol.
#![warn(clippy::all)]

pub mod cli;
pub mod config;
pub mod protocol;
pub mod settings;
pub mod testing;

pub(crate) mod bridge;
pub(crate) mod rt;
pub(crate) mod session;
pub(crate) mod upstream;
