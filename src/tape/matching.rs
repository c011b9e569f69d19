//! Which recorded request a request is: in strict order, or by method and params (C-TAPE-4). Pure.
//!
//! Ids never count, nor does what a client says of itself. Params are compared as values: the order of members is free, and
//! numbers are what they are however they are spelled.

use std::collections::HashMap;
use std::fmt;

use super::compare::{self, Difference};
use super::json::Json;
use super::pointer::Pointers;
use crate::protocol::message::Message;
use crate::protocol::meta;
use crate::protocol::method::Known;

/// Most recorded requests that are looked at to find the nearest one.
const CANDIDATES_MAX: usize = 1000;
/// Most differences that are shown.
const SHOWN_MAX: usize = 3;

/// How requests are matched.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// The order of the tape.
    pub order: Order,
    /// What of a request does not count, besides `_meta`: pointers into the message, such as `/params/arguments/at`.
    pub ignore: Pointers,
    /// Whether a request can be matched again when all that are equal to it have been.
    pub again: bool,
}

/// In which order recorded requests are to come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// In any. Of those that are equal, in the order of the tape.
    #[default]
    Any,
    /// As on the tape.
    Strict,
}

/// What requests are compared by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The method.
    pub method: String,
    /// What counts of the params; null if there are none.
    pub params: Json,
}

impl Key {
    /// The key of a request; `None` if the message is none (nor a notification).
    #[must_use]
    pub fn of(message: &Message, ignore: &Pointers) -> Option<Key> {
        let method = message.method()?.to_owned();
        // What they say depends on the client alone, and on its revision.
        let of_the_client = matches!(message.known(), Some(Known::Initialize | Known::Discover));
        let params = message.body().filter(|_| !of_the_client).and_then(|text| Json::parse(text.as_bytes()).ok());
        let params = match params.unwrap_or(Json::Null).without(&ignore.root().step("params")) {
            Json::Object(mut members) => {
                members.remove(meta::META);
                // Without params, or with none: there is no difference.
                if members.is_empty() { Json::Null } else { Json::Object(members) }
            }
            other => other,
        };
        Some(Key { method, params })
    }
}

/// The recorded requests of a tape, and which of them have been made.
#[derive(Debug)]
pub struct Matcher {
    rules: Rules,
    keys: Vec<Key>,
    used: Vec<bool>,
    /// Places of equal requests, in the order of the tape; and how many of them are used.
    places: HashMap<Key, (Vec<usize>, usize)>,
    /// The first that has not been made, in strict order.
    next: usize,
}

/// No recorded request matches.
#[derive(Debug, Clone, PartialEq)]
pub struct Miss {
    /// The method that was asked for.
    pub method: String,
    /// Why.
    pub why: Why,
    /// The recorded request that is most like it: its place, and in what the other differs.
    pub nearest: Option<(usize, Vec<Difference>)>,
}

/// Why no recorded request matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// There is none of this method.
    Method,
    /// There is none with these params.
    Params,
    /// Those there are have been used.
    Used,
    /// Another one is next.
    Order,
    /// The tape is at its end.
    End,
}

impl Matcher {
    /// The requests with these keys, in the order of the tape. Their places are 0, 1, …
    #[must_use]
    pub fn new(rules: Rules, requests: impl IntoIterator<Item = Key>) -> Matcher {
        let mut matcher = Matcher { rules, keys: Vec::new(), used: Vec::new(), places: HashMap::new(), next: 0 };
        requests.into_iter().for_each(|key| matcher.push(key));
        matcher
    }

    /// Adds a request behind the others.
    pub fn push(&mut self, key: Key) {
        self.places.entry(key.clone()).or_default().0.push(self.keys.len());
        self.keys.push(key);
        self.used.push(false);
    }

    /// Adds a request behind the others that has been made already.
    pub fn push_used(&mut self, key: Key) {
        let (places, used) = self.places.entry(key.clone()).or_default();
        if *used == places.len() {
            *used += 1;
        }
        places.push(self.keys.len());
        self.keys.push(key);
        self.used.push(true);
    }

    /// The rules.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The place of the recorded request that this one is, which is used with that.
    ///
    /// # Errors
    /// There is none.
    pub fn take(&mut self, request: &Message) -> Result<usize, Miss> {
        let Some(key) = Key::of(request, &self.rules.ignore) else {
            return Err(Miss { method: String::new(), why: Why::Method, nearest: None });
        };
        while self.used.get(self.next) == Some(&true) {
            self.next += 1;
        }
        match self.rules.order {
            Order::Strict => match self.keys.get(self.next) {
                Some(next) if *next == key => {
                    self.used[self.next] = true;
                    self.next += 1;
                    Ok(self.next - 1)
                }
                Some(_) => Err(self.miss(key, Why::Order, Some(self.next))),
                None => Err(self.miss(key, Why::End, None)),
            },
            Order::Any => match self.places.get_mut(&key) {
                Some((places, used)) if *used < places.len() => {
                    let place = places[*used];
                    *used += 1;
                    self.used[place] = true;
                    Ok(place)
                }
                Some((places, _)) if self.rules.again => Ok(places[places.len() - 1]),
                Some(_) => Err(self.miss(key, Why::Used, None)),
                None => {
                    let known = self.keys.iter().any(|other| other.method == key.method);
                    let nearest = self.nearest(&key);
                    Err(self.miss(key, if known { Why::Params } else { Why::Method }, nearest))
                }
            },
        }
    }

    /// The places that have not been used, in order.
    pub fn unused(&self) -> impl Iterator<Item = usize> {
        self.used.iter().enumerate().filter(|(_, used)| !**used).map(|(place, _)| place)
    }

    fn miss(&self, key: Key, why: Why, nearest: Option<usize>) -> Miss {
        let nearest = nearest.map(|place| (place, differences(&self.keys[place], &key)));
        Miss { method: key.method, why, nearest }
    }

    /// Of the requests of the same method, the one that differs least.
    fn nearest(&self, key: &Key) -> Option<usize> {
        let same_method = self.keys.iter().enumerate().filter(|(_, other)| other.method == key.method);
        let distance = |other: &Key| {
            // A call of another tool is further away than one with other arguments.
            let subject = |key: &Key| {
                let name = Known::parse(&key.method)?.name_param()?.0;
                key.params.get(name).cloned()
            };
            (subject(other) != subject(key), differences(other, key).len())
        };
        let nearest = same_method.take(CANDIDATES_MAX).min_by_key(|(_, other)| distance(other));
        nearest.map(|(place, _)| place)
    }
}

/// In what a request differs from a recorded one.
fn differences(recorded: &Key, key: &Key) -> Vec<Difference> {
    if recorded.method != key.method {
        let (expected, actual) = (Json::Text(recorded.method.clone()), Json::Text(key.method.clone()));
        let (expected, actual) = (Some(expected), Some(actual));
        return vec![Difference { path: "/method".into(), expected, actual, kinds_only: false }];
    }
    let mut found = compare::differences(&recorded.params, &key.params, &compare::Rules::default());
    for difference in &mut found {
        difference.path.insert_str(0, "/params");
    }
    found
}

impl Miss {
    /// What is to be told, with names for the places of requests (such as the numbers of their frames).
    pub fn told<N: fmt::Display>(&self, name: impl Fn(usize) -> N) -> String {
        let method = &self.method;
        let mut text = match self.why {
            Why::Method => format!("the tape has no request `{method}`"),
            Why::Params => format!("the tape has no request `{method}` with these params"),
            Why::Used => {
                format!("the tape has this request `{method}`, but it has been answered as often as it was recorded")
            }
            Why::Order => format!("the next request of the tape is not this one (`{method}`)"),
            Why::End => format!("the tape has no request after its last one, and this is `{method}`"),
        };
        if let Some((place, differences)) = &self.nearest {
            let which = if self.why == Why::Order { "it is" } else { "the nearest is" };
            text.push_str(&format!("; {which} {}", name(*place)));
            for (index, difference) in differences.iter().take(SHOWN_MAX).enumerate() {
                text.push_str(&format!("{} {difference}", if index == 0 { ":" } else { ";" }));
            }
            if let Some(more) = differences.len().checked_sub(SHOWN_MAX).filter(|more| *more > 0) {
                text.push_str(&format!("; and {more} more"));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(text: &str) -> Message {
        Message::parse(text.to_owned().into(), 64).unwrap()
    }

    fn call(tool: &str, arguments: &str) -> Message {
        message(&format!(
            r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"name":"{tool}","arguments":{arguments}}}}}"#
        ))
    }

    fn ask(method: &str, params: &str) -> Message {
        message(&format!(r#"{{"jsonrpc":"2.0","id":"x","method":"{method}"{params}}}"#))
    }

    fn matcher(rules: Rules, requests: &[Message]) -> Matcher {
        let keys: Vec<Key> = requests.iter().filter_map(|request| Key::of(request, &rules.ignore)).collect();
        Matcher::new(rules, keys)
    }

    fn tape(rules: Rules) -> Matcher {
        matcher(
            rules,
            &[
                ask("initialize", r#","params":{"protocolVersion":"2025-06-18"}"#),
                call("echo", r#"{"text":"a","n":1}"#),
                call("echo", r#"{"text":"b","n":1}"#),
                call("sum", "{}"),
                call("echo", r#"{"text":"a","n":1}"#),
            ],
        )
    }

    fn told(matcher: &mut Matcher, request: &Message) -> String {
        matcher.take(request).unwrap_err().told(|place| format!("frame {place}"))
    }

    #[test]
    fn requests_are_found_by_what_they_ask() {
        let mut tape = tape(Rules::default());
        assert_eq!(tape.take(&call("echo", r#"{"n":1.0,"text":"\u0062"}"#)), Ok(2));
        let modern = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{"progressToken":5},"name":"sum","arguments":{}}}"#;
        assert_eq!(tape.take(&message(modern)), Ok(3));
        assert_eq!(tape.take(&ask("initialize", r#","params":{"clientInfo":{"name":"other"}}"#)), Ok(0));
        assert_eq!(tape.unused().collect::<Vec<_>>(), [1, 4]);
    }

    #[test]
    fn equal_requests_are_answered_in_their_order() {
        let again = call("echo", r#"{"text":"a","n":1}"#);
        let mut once = tape(Rules::default());
        assert_eq!([once.take(&again), once.take(&again)], [Ok(1), Ok(4)]);
        assert_eq!(
            told(&mut once, &again),
            "the tape has this request `tools/call`, but it has been answered as often as it was recorded"
        );
        let mut often = tape(Rules { again: true, ..Rules::default() });
        assert_eq!([1, 4, 4, 4].map(Ok), [0; 4].map(|_| often.take(&again)));
    }

    #[test]
    fn a_miss_tells_the_nearest() {
        let mut tape = tape(Rules::default());
        assert_eq!(told(&mut tape, &ask("ping", "")), "the tape has no request `ping`");
        assert_eq!(
            told(&mut tape, &call("echo", r#"{"text":"c","n":1}"#)),
            "the tape has no request `tools/call` with these params; the nearest is frame 1: \
             /params/arguments/text: expected \"a\", got \"c\""
        );
        assert_eq!(
            told(&mut tape, &call("sum", r#"{"a":1,"b":2,"c":3,"d":4,"e":5}"#)),
            "the tape has no request `tools/call` with these params; the nearest is frame 3: \
             /params/arguments/a: expected nothing, got 1; /params/arguments/b: expected nothing, got 2; \
             /params/arguments/c: expected nothing, got 3; and 2 more"
        );
    }

    #[test]
    fn strict_order_is_the_tapes() {
        let mut tape = tape(Rules { order: Order::Strict, ..Rules::default() });
        assert_eq!(
            told(&mut tape, &ask("ping", "")),
            "the next request of the tape is not this one (`ping`); it is frame 0: \
             /method: expected \"initialize\", got \"ping\""
        );
        assert_eq!(tape.take(&ask("initialize", "")), Ok(0));
        assert_eq!(tape.take(&call("echo", r#"{"text":"a","n":1}"#)), Ok(1));
        assert_eq!(
            told(&mut tape, &call("echo", r#"{"text":"a","n":1}"#)),
            "the next request of the tape is not this one (`tools/call`); it is frame 2: \
             /params/arguments/text: expected \"b\", got \"a\""
        );
        let mut empty = matcher(Rules { order: Order::Strict, ..Rules::default() }, &[]);
        assert_eq!(
            told(&mut empty, &ask("ping", "")),
            "the tape has no request after its last one, and this is `ping`"
        );
    }

    #[test]
    fn what_is_ignored_does_not_count() {
        let ignore = Pointers::parse(["/params/arguments/n"]).unwrap();
        let mut tape = tape(Rules { ignore, ..Rules::default() });
        assert_eq!(tape.take(&call("echo", r#"{"text":"a","n":99}"#)), Ok(1));
        assert_eq!(tape.take(&call("echo", r#"{"text":"a"}"#)), Ok(4));
    }

    #[test]
    fn no_params_and_empty_ones_are_the_same() {
        let mut tape = matcher(Rules::default(), &[ask("tools/list", ""), ask("tools/list", r#","params":{}"#)]);
        assert_eq!(tape.take(&ask("tools/list", r#","params":{"_meta":{}}"#)), Ok(0));
        assert_eq!(tape.take(&ask("tools/list", "")), Ok(1));
    }

    #[test]
    fn what_has_been_made_already_is_only_repeated() {
        let ask = |tool: &str| call(tool, "{}");
        let mut any = matcher(Rules { again: true, ..Rules::default() }, &[ask("a")]);
        any.push_used(Key::of(&ask("b"), &Pointers::default()).unwrap());
        assert_eq!(any.take(&ask("b")), Ok(1));
        assert_eq!(any.unused().collect::<Vec<_>>(), [0]);
        let mut strict = matcher(Rules { order: Order::Strict, ..Rules::default() }, &[ask("a")]);
        strict.push_used(Key::of(&ask("b"), &Pointers::default()).unwrap());
        strict.push(Key::of(&ask("c"), &Pointers::default()).unwrap());
        assert_eq!([strict.take(&ask("a")), strict.take(&ask("c"))], [Ok(0), Ok(2)]);
    }

    /// Few requests, so that many are equal, spelled in different ways.
    fn any_request() -> impl Strategy<Value = Message> {
        (0..3_u8, 0..3_u8, 0..3_u8).prop_map(|(tool, n, spelling)| {
            let tool = char::from(b'a' + tool);
            call(
                &tool.to_string(),
                &match spelling {
                    0 => format!(r#"{{"n":{n},"t":"x"}}"#),
                    1 => format!(r#"{{ "t": "\\u0078", "n": {n}.0 }}"#),
                    _ => format!(r#"{{"t":"x","n":{n}e0}}"#),
                },
            )
        })
    }

    proptest! {
        /// In any order or the tape's: a request gets no answer but that to its equal, each of those once, in the order of the tape.
        #[test]
        fn no_request_gets_the_answer_to_another(
            recorded in proptest::collection::vec(any_request(), 0..12),
            asked in proptest::collection::vec(any_request(), 0..24),
            strict in any::<bool>(),
            again in any::<bool>(),
        ) {
            let order = if strict { Order::Strict } else { Order::Any };
            let key = |message: &Message| Key::of(message, &Pointers::default()).unwrap();
            let mut tape = matcher(Rules { order, again, ..Rules::default() }, &recorded);
            let mut used: Vec<usize> = Vec::new();
            for request in &asked {
                let equal: Vec<usize> = (0..recorded.len()).filter(|at| key(&recorded[*at]) == key(request)).collect();
                let next = equal.iter().copied().find(|at| !used.contains(at));
                let expected = match order {
                    Order::Strict => Some(used.len()).filter(|at| equal.contains(at)),
                    Order::Any if again => next.or(equal.last().copied()),
                    Order::Any => next,
                };
                let taken = tape.take(request);
                prop_assert_eq!(taken.clone().ok(), expected);
                if let Ok(at) = taken && !used.contains(&at) {
                    used.push(at);
                }
            }
            let unused: Vec<usize> = (0..recorded.len()).filter(|at| !used.contains(at)).collect();
            prop_assert_eq!(tape.unused().collect::<Vec<_>>(), unused);
        }
    }
}
