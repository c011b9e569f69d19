//! A client with a handshake (2024-11-05 to 2025-11-25) in front of a server without one (2026-07-28).
//!
//! The client has a session with us, and the server knows of none: what it has to know of its client goes along with each
//! request ([`client`]). The client's handshake is answered from what the server says of itself ([`welcome`]); what the server says by itself comes over one stream for each session ([`standing`]). A request is a
//! [`call`]: what the server asks in a result becomes questions to the client ([`question`]), whose answers go up with the
//! request, repeated; what it only carries out as a [`task`] is driven to its end. What answers it at last is put into the words
//! of the client's revision ([`answer`]); what it has none for is left out or put into an object ([`wrap`]).

pub(crate) mod answer;
pub(crate) mod call;
pub(crate) mod client;
mod question;
pub(crate) mod standing;
mod task;
pub(crate) mod welcome;
pub(crate) mod wrap;

use std::borrow::Cow;

use crate::protocol::message::Message;
use crate::protocol::scan::Members;

/// The JSON text of a member.
fn member<'m>(members: &Members, text: &'m [u8], name: &str) -> Option<&'m str> {
    std::str::from_utf8(members.find(text, name)?.value.of(text)).ok()
}

/// A message that the bridge wrote itself.
fn own(text: String) -> Message {
    match Message::parse(text.into(), crate::protocol::scan::DEPTH_MAX) {
        Ok(message) => message,
        Err(error) => unreachable!("BUG: the bridge wrote what is no message: {error:?}"),
    }
}

/// A text as JSON.
fn quoted<'a>(text: impl Into<Cow<'a, str>>) -> String {
    serde_json::Value::String(text.into().into_owned()).to_string()
}

#[cfg(test)]
mod tests;
