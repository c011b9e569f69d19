//! What a server asks in the middle of a call, as an entry of `inputRequests` (2026-07-28, Multi Round-Trip Requests), and
//! what becomes of its answer.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::answer::{INTERNAL_ERROR, own};
use crate::protocol::error as code;
use crate::protocol::id::RequestId;
use crate::protocol::message::Message;
use crate::protocol::meta;
use crate::protocol::method::Known;

/// Members of an object, their values as they were written.
pub(crate) type Raw = BTreeMap<String, Box<RawValue>>;

/// One question that has not been answered.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    /// The name that the client has for it.
    pub(crate) key: String,
    /// The name that the server has for it.
    pub(crate) id: RequestId,
    /// The server's words.
    pub(crate) words: Message,
    /// The client has been asked.
    pub(crate) asked: bool,
}

impl Question {
    /// As the client gets it. The second is whether the server wants progress on it: there is nobody to report any.
    pub(crate) fn entry(&self) -> (String, bool) {
        let method = self.words.method().unwrap_or_default();
        let Some(mut params) = self.words.body().and_then(|body| serde_json::from_str::<Raw>(body).ok()) else {
            return (format!(r#"{{"method":"{method}"}}"#), false);
        };
        // No task was offered to the server; the id is between it and us.
        params.remove(meta::TASK);
        params.remove("elicitationId");
        let mut wants_progress = false;
        if let Some(about) = params.remove(meta::META)
            && let Ok(mut about) = serde_json::from_str::<Raw>(about.get())
        {
            wants_progress = about.remove(meta::PROGRESS_TOKEN).is_some();
            if let (false, Ok(about)) = (about.is_empty(), serde_json::value::to_raw_value(&about)) {
                params.insert(meta::META.to_owned(), about);
            }
        }
        let params = serde_json::to_string(&params).unwrap_or_default();
        (format!(r#"{{"method":"{method}","params":{params}}}"#), wants_progress)
    }

    /// The client's answer as the server gets it; `None` if it is none.
    pub(crate) fn answered(&self, answers: &Raw) -> Option<Message> {
        let answer = answers.get(&self.key)?.get();
        let members: Raw = serde_json::from_str(answer).ok()?;
        // A bare result is what the specification has; another shape was in its drafts.
        if members.contains_key("method") && members.contains_key("result") {
            return None;
        }
        Message::parse(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{answer}}}"#, self.id.as_json()).into(), 128).ok()
    }

    /// What the server gets when nobody answers any more.
    pub(crate) fn abandoned(&self) -> Message {
        let id = self.id.as_json();
        if self.words.known() == Some(Known::Elicit) {
            return own(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"action":"cancel"}}}}"#));
        }
        refused(&self.id, INTERNAL_ERROR, "The client did not answer")
    }
}

/// The result that asks (JSON), and what the client has to bring back with its answers.
pub(crate) fn asked(id: &RequestId, requests: &str, token: &str) -> Message {
    let (kind, asked, state) = (meta::RESULT_TYPE, meta::INPUT_REQUESTS, meta::REQUEST_STATE);
    let result = format!(r#"{{"{kind}":"input_required","{asked}":{requests},"{state}":"{token}"}}"#);
    own(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, id.as_json()))
}

/// What the server gets for a question that nobody is asked.
pub(crate) fn not_asked(id: &RequestId) -> Message {
    refused(id, i64::from(code::METHOD_NOT_FOUND), "There is no client that can be asked this now")
}

/// What the server gets for a question too many.
pub(crate) fn too_many(id: &RequestId) -> Message {
    refused(id, INTERNAL_ERROR, "The client has been asked too much in one call")
}

fn refused(id: &RequestId, code: i64, message: &str) -> Message {
    let data = r#"{"origin":"proxy"}"#;
    let id = id.as_json();
    own(format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"{message}","data":{data}}}}}"#))
}

/// The members of `inputResponses`; none if there are none to be read.
pub(crate) fn answers(retry: &Message) -> Raw {
    retry.param(meta::INPUT_RESPONSES).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(words: &str) -> Question {
        let words = Message::parse(words.to_owned().into(), 64).unwrap();
        Question { key: "q1".into(), id: words.id().unwrap(), words, asked: true }
    }

    /// What concerns the server and us only is left out; all else is as it was written.
    #[test]
    fn a_question_goes_down_in_the_servers_words() {
        let asked = question(
            r#"{"jsonrpc":"2.0","id":"s\u0031","method":"elicitation/create","params":{"message":"m","requestedSchema":{"n":1.50,"enumNames":["a"]},"task":{},"elicitationId":"e","_meta":{"progressToken":3,"x":1E5}}}"#,
        );
        let (entry, progress) = asked.entry();
        assert_eq!(
            entry,
            r#"{"method":"elicitation/create","params":{"_meta":{"x":1E5},"message":"m","requestedSchema":{"n":1.50,"enumNames":["a"]}}}"#
        );
        assert!(progress);
        assert_eq!(
            question(r#"{"jsonrpc":"2.0","id":1,"method":"roots/list"}"#).entry().0,
            r#"{"method":"roots/list"}"#
        );
    }

    /// 2026-07-28, Multi Round-Trip Requests: a bare result, under the server's own name for its question.
    #[test]
    fn an_answer_goes_up_as_it_is() {
        let asked = question(r#"{"jsonrpc":"2.0","id":"s\u0031","method":"elicitation/create","params":{}}"#);
        let answered = |json: &str| {
            let answers: Raw = serde_json::from_str(json).unwrap();
            asked.answered(&answers).map(|answer| String::from_utf8(answer.text().to_vec()).unwrap())
        };
        assert_eq!(
            answered(r#"{"q1":{"action":"accept","content":{"n":1.50}}}"#).as_deref(),
            Some(r#"{"jsonrpc":"2.0","id":"s\u0031","result":{"action":"accept","content":{"n":1.50}}}"#)
        );
        for none in ["{}", r#"{"q2":{}}"#, r#"{"q1":7}"#, r#"{"q1":null}"#, r#"{"q1":{"method":"m","result":{}}}"#] {
            assert_eq!(answered(none), None, "{none}");
        }
    }
}
