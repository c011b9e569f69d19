//! What a client declares on one request, as far as a server with a handshake can be told: what it may be asked.

use serde_json::{Map, Value};

use crate::bridge::handshake::Handshake;
use crate::protocol::message::Message;
use crate::protocol::meta;
use crate::protocol::method::Known;

/// Connections are not used by clients that declare something else: a server learns it once, in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Declared(u8);

const SAMPLING: u8 = 1;
const SAMPLING_TOOLS: u8 = 2;
const SAMPLING_CONTEXT: u8 = 4;
const FORM: u8 = 8;
const URL: u8 = 16;
const ROOTS: u8 = 32;

impl Declared {
    /// How many there are.
    pub(crate) const COUNT: usize = 64;

    /// What the request says in its metadata.
    pub(crate) fn of(request: &Message) -> Declared {
        let json = request.meta(meta::CLIENT_CAPABILITIES).unwrap_or_default();
        // Most clients of plain calls: nothing to be parsed.
        if json == "{}" {
            return Declared::default();
        }
        let all: Map<String, Value> = serde_json::from_str(json).unwrap_or_default();
        let part = |name: &str| all.get(name).and_then(Value::as_object);
        let flag = |map: &Map<String, Value>, name: &str, bit: u8| if map.contains_key(name) { bit } else { 0 };
        let mut bits = 0;
        if let Some(sampling) = part("sampling") {
            bits |= SAMPLING | flag(sampling, "tools", SAMPLING_TOOLS) | flag(sampling, "context", SAMPLING_CONTEXT);
        }
        if let Some(elicitation) = part("elicitation") {
            let modes = flag(elicitation, "form", FORM) | flag(elicitation, "url", URL);
            // Without a word on modes there is one (2025-11-25, Elicitation › Capabilities).
            bits |= if modes == 0 { FORM } else { modes };
        }
        if part("roots").is_some() {
            bits |= ROOTS;
        }
        Declared(bits)
    }

    /// Below [`Declared::COUNT`].
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }

    fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }

    /// Whether the client can be sent to a URL.
    pub(crate) fn has_url(self) -> bool {
        self.has(URL)
    }

    /// That the client can be sent to a URL.
    pub(crate) fn url() -> Declared {
        Declared(URL)
    }

    /// What either of them declares.
    #[must_use]
    pub(crate) fn and(self, other: Declared) -> Declared {
        Declared(self.0 | other.0)
    }

    /// What a client has to declare to be asked that.
    pub(crate) fn needed_for(question: &Message) -> Declared {
        Declared(match question.known() {
            Some(Known::Elicit) if question.param_str("mode").as_deref() == Some("url") => URL,
            Some(Known::Elicit) => FORM,
            Some(Known::CreateMessage) => {
                let tools = question.param("tools").is_some() || question.param("toolChoice").is_some();
                if tools { SAMPLING | SAMPLING_TOOLS } else { SAMPLING }
            }
            Some(Known::RootsList) => ROOTS,
            _ => 0,
        })
    }

    /// The same in the words of 2026-07-28.
    pub(crate) fn capabilities(self) -> Value {
        let object = |parts: &[(u8, &str)]| -> Value {
            let present = parts.iter().filter(|(bit, _)| self.has(*bit));
            Value::Object(present.map(|(_, name)| ((*name).to_owned(), Value::Object(Map::new()))).collect())
        };
        let mut all = Map::new();
        if self.has(SAMPLING) {
            all.insert("sampling".into(), object(&[(SAMPLING_TOOLS, "tools"), (SAMPLING_CONTEXT, "context")]));
        }
        if self.has(FORM | URL) {
            // Without a word on modes there is one.
            all.insert(
                "elicitation".into(),
                if self.has(URL) { object(&[(FORM, "form"), (URL, "url")]) } else { object(&[]) },
            );
        }
        if self.has(ROOTS) {
            all.insert("roots".into(), object(&[]));
        }
        Value::Object(all)
    }

    /// The handshake that tells a server of such a client. Changes of roots are not declared: there is nobody who would tell.
    pub(crate) fn handshake(self) -> Handshake {
        let mut all = Vec::new();
        if self.has(SAMPLING) {
            let parts = [(SAMPLING_TOOLS, r#""tools":{}"#), (SAMPLING_CONTEXT, r#""context":{}"#)];
            all.push(format!(r#""sampling":{}"#, self.object(&parts)));
        }
        if self.has(FORM | URL) {
            // Servers up to 2025-06-18 know no modes, and an object without any.
            let parts: &[_] = if self.has(URL) { &[(FORM, r#""form":{}"#), (URL, r#""url":{}"#)] } else { &[] };
            all.push(format!(r#""elicitation":{}"#, self.object(parts)));
        }
        if self.has(ROOTS) {
            all.push(r#""roots":{}"#.to_owned());
        }
        Handshake::of_bridge(&format!("{{{}}}", all.join(",")))
    }

    fn object(self, parts: &[(u8, &str)]) -> String {
        let present: Vec<&str> = parts.iter().filter(|(bit, _)| self.has(*bit)).map(|(_, text)| *text).collect();
        format!("{{{}}}", present.join(","))
    }

    /// Whether a client that declares this may be asked that.
    pub(crate) fn allows(self, question: &Message) -> bool {
        match question.known() {
            Some(Known::Elicit) => match question.param_str("mode").as_deref() {
                None | Some("form") => self.has(FORM),
                Some("url") => self.has(URL),
                Some(_) => false,
            },
            Some(Known::CreateMessage) => {
                let tools = question.param("tools").is_some() || question.param("toolChoice").is_some();
                self.has(SAMPLING) && (!tools || self.has(SAMPLING_TOOLS))
            }
            Some(Known::RootsList) => self.has(ROOTS),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(capabilities: &str) -> Declared {
        let meta = format!(r#"{{"io.modelcontextprotocol/clientCapabilities":{capabilities}}}"#);
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"_meta":{meta}}}}}"#);
        Declared::of(&Message::parse(text.into(), 64).unwrap())
    }

    /// What the server is told is what the client said, and no more; what means the same is the same.
    #[test]
    fn a_server_is_told_what_its_client_declares() {
        for (said, told) in [
            ("{}", "{}"),
            (r#"{"vendor":{"x":1},"tasks":{}}"#, "{}"),
            (r#"{"elicitation":{}}"#, r#"{"elicitation":{}}"#),
            (r#"{"elicitation":{"form":{}}}"#, r#"{"elicitation":{}}"#),
            (r#"{"elicitation":{"url":{}}}"#, r#"{"elicitation":{"url":{}}}"#),
            (r#"{"elicitation":{"url":{},"form":{}}}"#, r#"{"elicitation":{"form":{},"url":{}}}"#),
            (r#"{"roots":{"listChanged":true},"sampling":{}}"#, r#"{"sampling":{},"roots":{}}"#),
            (r#"{"sampling":{"context":{},"tools":{}}}"#, r#"{"sampling":{"tools":{},"context":{}}}"#),
        ] {
            let request = declared(said).handshake().request(1);
            assert_eq!(request.param("capabilities"), Some(told), "{said}");
            assert_eq!(request.param("protocolVersion"), Some(r#""2025-11-25""#));
        }
    }

    /// 2025-11-25, Elicitation, Sampling, Roots: what was not declared is not asked for.
    #[test]
    fn a_client_is_asked_what_it_declared() {
        let question = |method: &str, params: &str| {
            let text = format!(r#"{{"jsonrpc":"2.0","id":"s1","method":"{method}","params":{params}}}"#);
            Message::parse(text.into(), 64).unwrap()
        };
        for (said, method, params, allowed) in [
            ("{}", "elicitation/create", "{}", false),
            (r#"{"elicitation":{}}"#, "elicitation/create", "{}", true),
            (r#"{"elicitation":{}}"#, "elicitation/create", r#"{"mode":"form"}"#, true),
            (r#"{"elicitation":{}}"#, "elicitation/create", r#"{"mode":"url"}"#, false),
            (r#"{"elicitation":{"url":{}}}"#, "elicitation/create", r#"{"mode":"url"}"#, true),
            (r#"{"elicitation":{"url":{}}}"#, "elicitation/create", "{}", false),
            (r#"{"elicitation":{"url":{}}}"#, "elicitation/create", r#"{"mode":"odd"}"#, false),
            (r#"{"sampling":{}}"#, "sampling/createMessage", "{}", true),
            (r#"{"sampling":{}}"#, "sampling/createMessage", r#"{"tools":[]}"#, false),
            (r#"{"sampling":{"tools":{}}}"#, "sampling/createMessage", r#"{"tools":[]}"#, true),
            (r#"{"roots":{}}"#, "roots/list", "{}", true),
            (r#"{"sampling":{}}"#, "roots/list", "{}", false),
            (r#"{"sampling":{}}"#, "vendor/ask", "{}", false),
        ] {
            assert_eq!(declared(said).allows(&question(method, params)), allowed, "{said} {method} {params}");
        }
    }
}
