//! What a client is given to bring back (2026-07-28, Multi Round-Trip Requests › `requestState`): it shows where its call is
//! parked, to us and to nobody else, and only together with what it was given for.
//!
//! `key id ‖ nonce ‖ AEAD(what is inside, what it is bound to)`, as URL-safe base64. What it is bound to is not in it: a token
//! that turns up elsewhere (with another principal, server, method or params) cannot be opened, which is all that anybody
//! learns. It says nothing of why.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{Context, SHA256};

use crate::protocol::message::Message;
use crate::protocol::meta;

/// The version of what is inside.
const FORMAT: u8 = 1;
const KEY_ID: usize = 4;
const INSIDE: usize = 1 + 8 + 16 + 8;
const TAG: usize = 16;
/// The length of a token, in bytes of base64 without padding.
pub(crate) const TOKEN_LEN: usize = ((KEY_ID + NONCE_LEN + INSIDE + TAG) * 4).div_ceil(3);

/// Random bytes for one key, its id first.
pub(crate) type Entropy = [u8; KEY_ID + 32];

/// What a token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// The proxy that made it.
    pub(crate) node: u64,
    /// Where the call is parked; never used twice.
    pub(crate) place: [u8; 16],
    /// When it is of no use any more: milliseconds, by a clock of the proxy's.
    pub(crate) expires: u64,
}

/// What a token is bound to: a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Binding([u8; 32]);

impl Binding {
    /// Of this request, by this principal (a digest) if there is one, to this server. Its metadata, and what makes a second
    /// request of it, do not count; neither does the order of members.
    pub(crate) fn of(principal: Option<&[u8; 32]>, server: &str, request: &Message) -> Binding {
        let mut params: serde_json::Map<String, serde_json::Value> =
            request.body().and_then(|body| serde_json::from_str(body).ok()).unwrap_or_default();
        for name in [meta::META, meta::INPUT_RESPONSES, meta::REQUEST_STATE] {
            params.remove(name);
        }
        // Objects of `serde_json` are sorted.
        let params = serde_json::Value::Object(params).to_string();
        let mut digest = Context::new(&SHA256);
        let method = request.method().unwrap_or_default();
        for part in
            [principal.map_or(&[][..], |principal| principal), server.as_bytes(), method.as_bytes(), params.as_bytes()]
        {
            digest.update(&(part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.finish().as_ref());
        Binding(bytes)
    }
}

struct Key {
    id: [u8; KEY_ID],
    key: LessSafeKey,
}

impl Key {
    fn new(entropy: &Entropy) -> Key {
        let (id, key) = entropy.split_at(KEY_ID);
        let mut own = [0; KEY_ID];
        own.copy_from_slice(id);
        match UnboundKey::new(&CHACHA20_POLY1305, key) {
            Ok(key) => Key { id: own, key: LessSafeKey::new(key) },
            Err(_) => unreachable!("BUG: a key has the length that its algorithm wants"),
        }
    }
}

/// Seals with the newest key; opens with that one and the one before.
pub(crate) struct Sealer {
    current: Key,
    previous: Option<Key>,
}

impl Sealer {
    pub(crate) fn new(entropy: &Entropy) -> Sealer {
        Sealer { current: Key::new(entropy), previous: None }
    }

    /// From now on another key is used. Tokens of the one before can still be opened, those of older ones cannot.
    pub(crate) fn rotate(&mut self, entropy: &Entropy) {
        self.previous = Some(std::mem::replace(&mut self.current, Key::new(entropy)));
    }

    /// A token. The nonce is random, and never used again.
    pub(crate) fn seal(&self, ticket: &Ticket, binding: &Binding, nonce: [u8; NONCE_LEN]) -> String {
        let mut inside = Vec::with_capacity(INSIDE + TAG);
        inside.push(FORMAT);
        inside.extend_from_slice(&ticket.node.to_be_bytes());
        inside.extend_from_slice(&ticket.place);
        inside.extend_from_slice(&ticket.expires.to_be_bytes());
        let Key { id, key } = &self.current;
        let aad = Aad::from(&binding.0);
        if key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut inside).is_err() {
            unreachable!("BUG: what is sealed is short");
        }
        URL_SAFE_NO_PAD.encode([&id[..], &nonce, &inside].concat())
    }

    /// What a token says, if it is genuine, for this, and not expired.
    pub(crate) fn open(&self, token: &str, binding: &Binding, now: u64) -> Option<Ticket> {
        // Before anything is decoded.
        if token.len() != TOKEN_LEN {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (id, rest) = bytes.split_at_checked(KEY_ID)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let key = [Some(&self.current), self.previous.as_ref()].into_iter().flatten().find(|key| key.id == id)?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let inside = key.key.open_in_place(nonce, Aad::from(&binding.0), &mut sealed).ok()?;
        let (format, rest) = inside.split_first()?;
        let (node, rest) = rest.split_first_chunk::<8>()?;
        let (place, rest) = rest.split_first_chunk::<16>()?;
        let expires = u64::from_be_bytes(rest.try_into().ok()?);
        let ticket = Ticket { node: u64::from_be_bytes(*node), place: *place, expires };
        (*format == FORMAT && now < expires).then_some(ticket)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TICKET: Ticket = Ticket { node: 7, place: [9; 16], expires: 1_000 };

    fn request(method: &str, params: &str) -> Message {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        Message::parse(text.into(), 64).unwrap()
    }

    fn binding(principal: u8, server: &str, method: &str, params: &str) -> Binding {
        Binding::of(Some(&[principal; 32]), server, &request(method, params))
    }

    fn usual() -> Binding {
        binding(1, "s", "tools/call", r#"{"name":"x","arguments":{"a":1,"b":2}}"#)
    }

    /// It is of use where it was given, until it expires; what of a request may change does not matter.
    #[test]
    fn a_token_opens_where_it_was_given() {
        let sealer = Sealer::new(&[3; 36]);
        let token = sealer.seal(&TICKET, &usual(), [5; 12]);
        assert_eq!(token.len(), TOKEN_LEN);
        assert_eq!(sealer.open(&token, &usual(), 999), Some(TICKET));
        assert_eq!(sealer.open(&token, &usual(), 1_000), None, "expired");
        let again =
            r#"{"arguments":{"b":2,"a":1},"name":"x","_meta":{"z":1},"inputResponses":{"q":{}},"requestState":"t"}"#;
        assert_eq!(sealer.open(&token, &binding(1, "s", "tools/call", again), 0), Some(TICKET));
    }

    /// With anything else it does not open.
    #[test]
    fn a_token_opens_nowhere_else() {
        let sealer = Sealer::new(&[3; 36]);
        let token = sealer.seal(&TICKET, &usual(), [5; 12]);
        let params = r#"{"name":"x","arguments":{"a":1,"b":2}}"#;
        for other in [
            binding(2, "s", "tools/call", params),
            Binding::of(None, "s", &request("tools/call", params)),
            binding(1, "t", "tools/call", params),
            binding(1, "s", "prompts/get", params),
            binding(1, "s", "tools/call", r#"{"name":"y","arguments":{"a":1,"b":2}}"#),
            binding(1, "s", "tools/call", r#"{"name":"x","arguments":{"a":1,"b":3}}"#),
            binding(1, "s", "tools/call", r#"{"name":"x"}"#),
        ] {
            assert_eq!(sealer.open(&token, &other, 0), None);
        }
        assert_eq!(Sealer::new(&[4; 36]).open(&token, &usual(), 0), None, "of another proxy");
    }

    /// Keys are replaced: what was sealed with the one before still opens, older tokens do not.
    #[test]
    fn keys_are_rotated() {
        let mut sealer = Sealer::new(&[3; 36]);
        let token = sealer.seal(&TICKET, &usual(), [5; 12]);
        sealer.rotate(&[4; 36]);
        assert_eq!(sealer.open(&token, &usual(), 0), Some(TICKET));
        assert_ne!(sealer.seal(&TICKET, &usual(), [5; 12]), token);
        sealer.rotate(&[6; 36]);
        assert_eq!(sealer.open(&token, &usual(), 0), None);
    }

    proptest! {
        /// Whatever is changed in a token, it does not open.
        #[test]
        fn a_token_that_was_changed_does_not_open(at in 0..TOKEN_LEN, to in "[ -~]", cut in 0..TOKEN_LEN, more in "[A-Za-z0-9_-]{1,9}") {
            let sealer = Sealer::new(&[3; 36]);
            let token = sealer.seal(&TICKET, &usual(), [5; 12]);
            let mut changed = token.clone();
            changed.replace_range(at..=at, &to);
            prop_assert!(changed == token || sealer.open(&changed, &usual(), 0).is_none());
            prop_assert_eq!(sealer.open(&token[..cut], &usual(), 0), None);
            prop_assert_eq!(sealer.open(&format!("{token}{more}"), &usual(), 0), None);
        }

        /// What nobody made does not open.
        #[test]
        fn anything_else_does_not_open(text in ".{0,200}") {
            prop_assert_eq!(Sealer::new(&[3; 36]).open(&text, &usual(), 0), None);
        }
    }
}
