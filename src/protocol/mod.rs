//! MCP and JSON-RPC as bytes and rules: no I/O, no clock, no log.

pub mod error;
pub mod headers;
pub mod id;
pub mod lines;
pub mod message;
pub mod meta;
pub mod method;
pub mod revision;
pub mod scan;
pub mod sse;
