//! Fakes for whoever tests MCP software: a server whose failures are scripted, over stdio and over HTTP, and a client.
//!
//! The same things are in the program: `shadowcat fake stdio` and `shadowcat fake sse`; what `shadowcat serve` fronts when it is
//! given nothing else is this server with the default script.
//!
//! | | |
//! |---|---|
//! | [`Script`] | what the server is, and its [faults](Fault): when ([`On`]) and what ([`Do`]) |
//! | [`serve`], [`run_stdio`] | the server on any pair of byte streams, and on stdin and stdout |
//! | [`MockSse`] | the server on a TCP port: Streamable HTTP of both eras, HTTP+SSE |
//! | [`client`] | a client over HTTP that says exactly what it is told to |
//!
//! # The server
//!
//! It speaks every revision from 2024-11-05 to 2026-07-28, decided per request, and gives ids and progress tokens back digit
//! by digit. Its tools:
//!
//! | tool | arguments | does |
//! |---|---|---|
//! | `echo` | `text` | answers with the text |
//! | `payload` | `bytes` | answers with so many bytes |
//! | `progress` | `steps`, `delay_ms` | reports progress, if the call has a token |
//! | `log` | `level`, `text` | sends a log message, if the client wants one of that level |
//! | `fail` | `message` | a result with `isError` |
//! | `error` | `code`, `message` | a JSON-RPC error |
//! | `sleep` | `ms` | answers later, unless it is cancelled |
//! | `ask` | `message`, `rounds`, `parallel` | asks the user; answers `answer: {action} {content}` in a line for each |
//! | `sample` | `prompt` | asks the client's model; answers `sampled: {text}` |
//! | `roots` | | asks for the roots; answers `roots: {uri} {uri}` |
//! | `count` | `key` | adds one to a counter of the process, answers with it |
//! | `pid` | | JSON: pid, ppid, pgid, argv, cwd, names of variables, open files (Linux) |
//! | `stats` | | JSON: requests and calls seen, cancellations, notifications, last ids; what this client set … |
//! | `notify` | `method`, `params` | sends that notification within the call |
//! | `touch` | `uri` | tells the resource's subscribers that it changed |
//! | `change` | `kind` | tells clients that the list of `tools`, `prompts` or `resources` changed |
//! | `exit` | `code`, `when` | ends the process, `before` or `after` the answer |
//! | `meta` | | answers with the call's own params, as they arrived |
//! | `region` | `region` | answers with the region, which HTTP clients mirror into a header |
//!
//! Resources: `shadowcat://demo/hello.txt` (text), `shadowcat://demo/dot.png` (binary), `shadowcat://demo/count/{key}` (template).
//! Prompts: `greet` (`name`, `style`; both can be completed), `tour`.

pub mod client;
pub mod fake_server;
pub mod faults;
pub mod mock_sse;
pub mod script;

mod catalog;
mod http;
mod incoming;
mod methods;
mod modern_tasks;
mod peer;
mod plan;
mod process;
mod questions;
mod raw;
mod server;
mod state;
mod tasks;
mod tools;
mod wire;

pub use fake_server::{Ending, run_stdio, serve};
pub(crate) use faults::Transport;
pub use faults::{At, BodyEnd, Do, End, EventId, Fault, LineEnd, On, OnCancel, When, WrongId};
pub(crate) use mock_sse::Record;
pub use mock_sse::{MockSse, Recorded};
pub use script::{AnswerForm, Discover, HttpScript, Script, ScriptError, Served};
