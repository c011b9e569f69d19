//! Processes and sockets towards MCP servers.

pub(crate) mod child;
pub(crate) mod reconnect;
