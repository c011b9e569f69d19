//! Processes and sockets towards MCP servers.

pub(crate) mod child;
pub(crate) mod http;
pub(crate) mod reconnect;
