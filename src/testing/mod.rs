//! Fakes: a scripted MCP server over byte streams, the same server over HTTP, and a small client.
pub mod fake_server;
pub mod faults;
pub mod script;

mod catalog;
mod incoming;
mod methods;
mod peer;
mod process;
mod questions;
mod raw;
mod server;
mod state;
mod tools;
mod wire;

pub use fake_server::{Ending, run_stdio, serve};
pub use faults::{At, Do, Fault, On, OnCancel, When, WrongId};
pub use script::{AnswerForm, Discover, HttpScript, Script, ScriptError, Served};
