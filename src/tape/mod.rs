//! Tapes: recorded MCP traffic as a file, for people, for tests and for the proxy itself.
//!
//! A tape is JSON Lines: a header, then one [`Frame`] for each message, or whatever else was worth noting, in the order in which it
//! passed. Messages are kept byte for byte (but for what was redacted before it was written). It can be read while it is being
//! written, and after a crash: see C-TAPE in docs/contracts.md, and docs/tapes.md for the format in full.

mod align;
pub mod canonical;
pub mod check;
pub mod compare;
pub mod conversation;
pub mod diff;
pub mod export;
pub mod format;
pub mod json;
pub mod matching;
pub mod pointer;
mod reader;
pub mod redact;
pub mod schema;
pub mod series;
pub mod show;
pub mod verify;
mod whole;
mod zst;

pub use conversation::Call;
pub use format::{
    Body, Edge, Ending, Form, Frame, FrameError, Header, HeaderError, Http, Intervention, Kind, Party, Sse, Transport,
};
pub use reader::{Reader, TapeError};
pub(crate) use whole::write_private;
pub use whole::{NoAnswer, Tape};
