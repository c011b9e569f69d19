//! Processes and sockets towards MCP servers.

pub(crate) mod child;
pub(crate) mod driver;
pub(crate) mod error;
pub(crate) mod stdio;
