//! What must not come to the disk is taken out before it is written.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use http::HeaderMap;
use ring::digest::{Context, SHA256};

use super::note::Head;
use crate::settings::Redact;
use crate::tape::format::{Body, Frame, Http};
use crate::tape::redact::{Header, Redactor, RuleError, Rules};

/// The rules of an upstream's tapes, and what makes pseudonyms of session ids: the same for the same id while the proxy runs, and
/// good for nothing else.
pub(super) struct Redaction {
    redactor: Redactor,
    salt: [u8; 16],
    /// What is recorded of heads that were seen before, as it is written, by all of them that may be: most requests have the same ones.
    seen: HashMap<Vec<u8>, Arc<[u8]>, foldhash::fast::RandomState>,
}

/// Most heads that are remembered, and the longest of them, in bytes.
const SEEN_MAX: usize = 1024;
const SEEN_BYTES_MAX: usize = 512;

impl Redaction {
    /// # Errors
    /// A rule makes no sense.
    pub(super) fn new(redact: &Redact) -> Result<Redaction, RuleError> {
        let rules = Rules {
            defaults: redact.defaults,
            keys: redact.keys.clone(),
            pointers: redact.pointers.clone(),
            patterns: redact.patterns.clone(),
            headers: Vec::new(),
        };
        let mut salt = [0; 16];
        // Without randomness a pseudonym can be checked by whoever knows the id already.
        let _ = getrandom::fill(&mut salt);
        Ok(Redaction { redactor: Redactor::new(rules)?, salt, seen: HashMap::default() })
    }

    /// The rules in a few words.
    pub(super) fn summary(&self) -> Vec<String> {
        self.redactor.summary()
    }

    /// Takes secrets out of the message of a frame. For `clean` see [`Redactor::next_message`].
    pub(super) fn apply(&self, frame: &mut Frame, clean: &mut Vec<u8>) {
        let Some(body) = &frame.body else { return };
        let Some(redacted) = self.redactor.next_message(body.bytes(), clean) else { return };
        if !redacted.places.is_empty() {
            frame.body = Some(Body::of(redacted.bytes));
            (frame.redacted, frame.redacted_more) = (redacted.places, redacted.more);
        }
    }

    /// What is recorded of a head: a [`Http`], as it is written.
    pub(super) fn head(&mut self, head: &Head) -> Arc<[u8]> {
        let (method, status, headers) = match head {
            Head::Request(method, headers) => (Some(method.as_str()), None, &**headers),
            Head::Response(status, headers) => (None, Some(status.as_u16()), headers),
        };
        let mut key = Vec::with_capacity(SEEN_BYTES_MAX);
        key.extend_from_slice(method.unwrap_or_default().as_bytes());
        key.extend_from_slice(&status.unwrap_or_default().to_be_bytes());
        for (name, value) in headers.iter().filter(|(name, _)| Redactor::may_record(name.as_str())) {
            for part in [name.as_str().as_bytes(), value.as_bytes()] {
                // No two heads have the same key: what stands in them has no line breaks.
                key.extend_from_slice(part);
                key.push(b'\n');
            }
        }
        if let Some(http) = self.seen.get(&key) {
            return Arc::clone(http);
        }
        let method = method.map(str::to_owned);
        let http = Http { method, status, headers: self.headers(headers), ..Http::default() };
        // Of texts: nothing can fail.
        let http: Arc<[u8]> = serde_json::to_vec(&http).unwrap_or_default().into();
        if key.len() <= SEEN_BYTES_MAX {
            if self.seen.len() >= SEEN_MAX {
                self.seen.clear();
            }
            key.shrink_to_fit();
            self.seen.insert(key, Arc::clone(&http));
        }
        http
    }

    fn headers(&self, headers: &HeaderMap) -> BTreeMap<String, String> {
        let mut kept: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in headers {
            let text = String::from_utf8_lossy(value.as_bytes());
            let shown = match self.redactor.header(name.as_str(), &text) {
                Header::Kept(value) => value,
                Header::Pseudonym => self.pseudonym(value.as_bytes()),
                Header::Dropped => continue,
            };
            match kept.entry(name.as_str().to_owned()) {
                Entry::Vacant(place) => {
                    place.insert(shown);
                }
                // Of a header that occurs twice, both: that is what may have been wrong.
                Entry::Occupied(mut first) => *first.get_mut() += &format!(", {shown}"),
            }
        }
        kept
    }

    fn pseudonym(&self, id: &[u8]) -> String {
        let mut digest = Context::new(&SHA256);
        digest.update(&self.salt);
        digest.update(id);
        let digest = digest.finish();
        let digits = digest.as_ref()[..8].iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let digits = digits.filter_map(|digit| char::from_digit(digit.into(), 16));
        "session-".chars().chain(digits).collect()
    }
}
