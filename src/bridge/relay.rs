//! The relay cells: legacy client with legacy server, modern client with modern server.
//!
//! Owned fields, all of which are names that clients choose without knowing of each other: the request's id, its
//! progress token, and the subscription id that is the id of a listen request. Everything else passes byte for byte.

use crate::protocol::id::RequestId;
use crate::protocol::message::{Kind, Message, json_str};
use crate::protocol::meta;
use crate::protocol::method::Known;
use crate::protocol::revision::Era;

/// One request under way: what its names are on either side.
#[derive(Debug)]
pub(crate) struct Relay {
    era: Era,
    client_id: RequestId,
    /// The client's progress token: JSON text.
    client_token: Option<Box<str>>,
    upstream_id: i64,
    listen: bool,
}

/// What is to be done with a message of the upstream.
#[derive(Debug)]
pub(crate) enum Down {
    /// The last one: it goes to the client and ends the exchange.
    Final(Message),
    /// It goes to the client.
    Pass(Message),
    /// A request of the server: it goes to the client under a name of ours; this is the server's.
    Ask(Message, RequestId),
    /// The server takes back the request that it called so.
    Withdraw(Message, RequestId),
    /// It goes nowhere.
    Drop(&'static str),
    /// The server's answer is not acceptable.
    Violation(&'static str),
}

impl Relay {
    /// Begins: what goes upstream in place of `request`, whose id is `client_id`, when the upstream is to know it as `upstream_id`.
    pub(crate) fn begin(era: Era, client_id: RequestId, request: &Message, upstream_id: i64) -> (Relay, Message) {
        let client_token = request.meta(meta::PROGRESS_TOKEN).map(Box::from);
        let name = upstream_id.to_string();
        let upstream = request.edit().id(&name).meta(meta::PROGRESS_TOKEN, &name).finish_to_send();
        let listen = request.known() == Some(Known::Listen);
        (Relay { era, client_id, client_token, upstream_id, listen }, upstream)
    }

    /// The client's name for the request.
    pub(crate) fn client_id(&self) -> &RequestId {
        &self.client_id
    }

    /// The upstream's name for the request.
    pub(crate) fn upstream_id(&self) -> i64 {
        self.upstream_id
    }

    /// The result that ends a listen stream which the proxy closes.
    pub(crate) fn graceful_end(&self) -> String {
        let id = self.client_id.as_json();
        let (kind, subscription) = (meta::RESULT_TYPE, meta::SUBSCRIPTION_ID);
        format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"{kind}":"complete","_meta":{{"{subscription}":{id}}}}}}}"#)
    }

    /// What the upstream's message becomes.
    pub(crate) fn down(&self, message: Message) -> Down {
        match message.kind() {
            Kind::Error => Down::Final(message.edit().id(self.client_id.as_json()).finish()),
            Kind::Result => {
                if self.era == Era::Modern
                    && let Err(why) = check_result_type(&message)
                {
                    return Down::Violation(why);
                }
                let mut edit = message.edit().id(self.client_id.as_json());
                if self.listen
                    && let Some((_, Some(members))) = message.result_members()
                    && let Some(member) = members.find(message.text(), meta::SUBSCRIPTION_ID)
                {
                    edit = edit.span(member.value, self.client_id.as_json());
                }
                Down::Final(edit.finish())
            }
            // A modern server has no requests to make (2026-07-28, Patterns): none reaches a modern client on any stream.
            Kind::Request if self.era == Era::Modern => Down::Drop("request_of_modern_server"),
            Kind::Request => match message.id() {
                Some(id) => Down::Ask(message, id),
                None => Down::Drop("no_id"),
            },
            Kind::Notification => self.notification(message),
        }
    }

    fn notification(&self, message: Message) -> Down {
        match message.known() {
            Some(Known::Progress) => match &self.client_token {
                // It came for our token, so it is this request's.
                Some(token) => Down::Pass(message.edit().param(meta::PROGRESS_TOKEN, token).finish()),
                None => Down::Drop("unasked_progress"),
            },
            Some(Known::Cancelled) => {
                let request = message.param(meta::REQUEST_ID).and_then(RequestId::from_json);
                match (request, self.era) {
                    (Some(id), Era::Legacy) => Down::Withdraw(message, id),
                    // The other way to end a listen stream (2026-07-28, Cancellation): under the client's name.
                    (Some(id), Era::Modern) if id.as_integer() == Some(self.upstream_id) => {
                        Down::Pass(message.edit().param(meta::REQUEST_ID, self.client_id.as_json()).finish())
                    }
                    _ => Down::Drop("unknown_cancel"),
                }
            }
            _ if self.listen => {
                Down::Pass(message.edit().meta(meta::SUBSCRIPTION_ID, self.client_id.as_json()).finish())
            }
            _ => Down::Pass(message),
        }
    }
}

/// A modern result is of a kind that is known here; without a word it is complete (2026-07-28, Basic › Results).
fn check_result_type(message: &Message) -> Result<(), &'static str> {
    // Results are large and the field is short: it is searched for before the result is taken apart. A quote inside a
    // string is escaped, so that the name with its quotes can only be a key or a whole string.
    if memchr::memmem::find(message.text(), b"\"resultType\"").is_none() {
        return Ok(());
    }
    let Some((members, _)) = message.result_members() else { return Ok(()) };
    let Some(member) = members.find(message.text(), meta::RESULT_TYPE) else { return Ok(()) };
    let json = std::str::from_utf8(member.value.of(message.text())).unwrap_or_default();
    match json_str(json).as_deref() {
        Some("complete" | "input_required" | "task") => Ok(()),
        _ => Err("its result is of an unknown resultType"),
    }
}

#[cfg(test)]
mod tests;
