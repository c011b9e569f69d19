//! What the benches measure and measure with: servers, proxies, processes.
#![allow(dead_code, reason = "each bench uses its part")]

pub mod bridge;
pub mod echo;
pub mod placing;
pub mod process;
pub mod stream;
