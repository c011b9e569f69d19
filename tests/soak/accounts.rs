//! What was heard, against what was said: every event once and in order, by the client it is for, or that client was told that it
//! cannot have it; and every call at its server once.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::common::text;
use crate::leak::Leak;

/// Which event is spoilt on purpose.
const SPOILT: u64 = 200;
/// Errors of the proxy that a client is told when its server fails: too late, unavailable, outcome unknown.
const TYPED: [i64; 3] = [-31001, -31002, -31003];

/// The books of all clients.
pub(crate) struct Accounts {
    leak: Option<Leak>,
    /// Events that were heard.
    events: Cell<u64>,
    /// An event that somebody else will hear, and whose it is.
    astray: RefCell<Option<(String, Value)>>,
    /// Calls by their marks, and whether they were answered rightly.
    calls: RefCell<BTreeMap<String, bool>>,
    /// Calls that ended in an error, by the server.
    told: RefCell<BTreeMap<&'static str, u64>>,
    counts: RefCell<BTreeMap<String, u64>>,
}

impl Accounts {
    pub(crate) fn new(leak: Option<Leak>) -> Accounts {
        Accounts {
            leak,
            events: Cell::new(0),
            astray: RefCell::default(),
            calls: RefCell::default(),
            told: RefCell::default(),
            counts: RefCell::default(),
        }
    }

    /// What goes wrong on purpose.
    pub(crate) fn leak(&self) -> Option<Leak> {
        self.leak
    }

    /// How many events were heard.
    pub(crate) fn events(&self) -> u64 {
        self.events.get()
    }

    /// One more of these.
    pub(crate) fn count(&self, what: &str) {
        *self.counts.borrow_mut().entry(what.to_owned()).or_default() += 1;
    }

    /// How many there were of these.
    pub(crate) fn counted(&self, what: &str) -> u64 {
        self.counts.borrow().get(what).copied().unwrap_or_default()
    }

    /// All of it, a line for each.
    pub(crate) fn lines(&self) -> String {
        self.counts.borrow().iter().map(|(what, count)| format!("  {count:>8}  {what}\n")).collect()
    }

    /// What a client hears of a message that came: that message, if nothing is spoilt on purpose.
    pub(crate) fn hear(&self, who: &str, message: Value) -> Vec<Value> {
        if message["method"] != "notifications/progress" {
            return vec![message];
        }
        self.events.set(self.events.get() + 1);
        let spoilt = self.events.get() == SPOILT;
        match self.leak {
            Some(Leak::Duplicated) if spoilt => vec![message.clone(), message],
            Some(Leak::Lost) if spoilt => vec![],
            Some(Leak::Misrouted) if spoilt => {
                *self.astray.borrow_mut() = Some((who.to_owned(), message.clone()));
                vec![message]
            }
            Some(Leak::Misrouted) => {
                let astray = self.astray.borrow_mut().take_if(|(whose, _)| whose != who);
                astray.map(|(_, message)| message).into_iter().chain([message]).collect()
            }
            _ => vec![message],
        }
    }

    /// Opens the account of a call.
    pub(crate) fn call(&self, server: &'static str, id: u64, mark: String, steps: u64) -> CallAccount<'_> {
        let new = self.calls.borrow_mut().insert(mark.clone(), false).is_none();
        assert!(new, "{mark} calls again");
        if let Some(leak) = self.leak {
            leak.drip();
        }
        CallAccount { accounts: self, server, id, mark, steps, heard: 0, answer: None, taken_back: false }
    }

    /// How many calls of a server ended in an error.
    pub(crate) fn told(&self, server: &str) -> u64 {
        self.told.borrow().get(server).copied().unwrap_or_default()
    }

    /// Compares with the marks of the calls that arrived at servers.
    pub(crate) fn settle(&self, arrived: impl Iterator<Item = String>) {
        let calls = self.calls.borrow();
        let mut seen = BTreeSet::new();
        for mark in arrived {
            assert!(calls.contains_key(&mark), "{mark} was never called");
            assert!(seen.insert(mark.clone()), "{mark} was called once and arrived twice");
        }
        for (mark, _) in calls.iter().filter(|(_, right)| **right) {
            assert!(seen.contains(mark), "{mark} was answered and never arrived");
        }
    }

    /// Whether a message is an error, which has to be the proxy's and one that is to be expected here.
    pub(crate) fn is_error(&self, what: &str, message: &Value) -> bool {
        let Some(error) = message.get("error") else { return false };
        let code = error["code"].as_i64().unwrap_or_default();
        assert!(error["data"]["origin"] == "proxy" && TYPED.contains(&code), "{what}: {message}");
        self.count(&format!("told   {what}: {code} {}", error["data"]["reason"].as_str().unwrap_or_default()));
        true
    }
}

/// A call that reports its progress.
pub(crate) struct CallAccount<'a> {
    accounts: &'a Accounts,
    server: &'static str,
    id: u64,
    mark: String,
    steps: u64,
    heard: u64,
    answer: Option<Value>,
    taken_back: bool,
}

impl CallAccount<'_> {
    pub(crate) fn is_answered(&self) -> bool {
        self.answer.is_some()
    }

    /// How many events have come.
    pub(crate) fn heard(&self) -> u64 {
        self.heard
    }

    /// The client no longer wants it: there need not be an answer.
    pub(crate) fn take_back(&mut self) {
        self.taken_back = true;
    }

    /// Enters a message that came.
    pub(crate) fn enter(&mut self, message: Value) {
        let mark = &self.mark;
        assert!(self.answer.is_none(), "{mark}: after its answer it was told {message}");
        if message.get("method").is_none() {
            assert_eq!(message["id"], self.id, "{mark}: {message}");
            self.answer = Some(message);
            return;
        }
        self.heard += 1;
        let params = &message["params"];
        let expected = (json!(mark), json!(self.heard), json!(self.steps));
        let found = (&params["progressToken"], &params["progress"], &params["total"]);
        assert_eq!((&expected.0, &expected.1, &expected.2), found, "{mark}: token, step and steps");
    }

    /// It is over: there was an answer, after all events; or an error.
    pub(crate) fn close(self) {
        let CallAccount { accounts, server, mark, steps, heard, answer, taken_back, .. } = self;
        if taken_back && answer.is_none() {
            return accounts.count(&format!("taken  a call of {server}"));
        }
        let answer = answer.unwrap_or_else(|| panic!("{mark} was not answered"));
        if accounts.is_error(&format!("a call of {server}"), &answer) {
            *accounts.told.borrow_mut().entry(server).or_default() += 1;
            return;
        }
        assert_eq!(heard, steps, "{mark}: heard of so many steps, and {answer}");
        assert_eq!(text(&answer), format!("did {steps} steps"), "{mark}");
        accounts.calls.borrow_mut().insert(mark, true);
        accounts.count(&format!("right  a call of {server}"));
    }
}

/// How many names an event can have. No more than half as many are said at once, so that each that is outstanding has a name of its
/// own, also when as many before them were lost.
pub(crate) const NAMES: u64 = 16;

/// The lists that a client hears of only when it is told that it may have missed something.
const LISTS: [&str; 3] = ["tools", "prompts", "resources"];

/// Events that were said to one client, of which each has the next of a few names.
pub(crate) struct Sequence {
    who: String,
    said: u64,
    heard: u64,
    /// Of what was said before this, some may be missing: the client was told.
    excused: u64,
    /// What it is being told: every name and every list, once.
    told: BTreeSet<String>,
}

impl Sequence {
    pub(crate) fn new(who: &str) -> Sequence {
        Sequence { who: who.to_owned(), said: 0, heard: 0, excused: 0, told: BTreeSet::new() }
    }

    /// The names of a client.
    pub(crate) fn names(&self) -> Vec<String> {
        (0..NAMES).map(|n| self.name(n)).collect()
    }

    fn name(&self, number: u64) -> String {
        format!("soak://{}/{}", self.who, number % NAMES)
    }

    /// The name of what is to be said next.
    pub(crate) fn next(&self) -> String {
        self.name(self.said)
    }

    /// It was said.
    pub(crate) fn said(&mut self) {
        self.said += 1;
    }

    /// Whether nothing is outstanding.
    pub(crate) fn is_whole(&self) -> bool {
        self.told.is_empty() && self.heard.max(self.excused) == self.said
    }

    /// Another subscription begins: what was said before is over.
    pub(crate) fn begins_again(&mut self) {
        (self.heard, self.excused) = (self.said, self.said);
        self.told.clear();
    }

    /// The client is told that a list may have changed, and thereby that it may have missed what was said until now.
    pub(crate) fn told(&mut self, list: &str) {
        if self.told.is_empty() {
            self.heard = self.heard.max(self.excused);
            self.excused = self.said;
            self.told = self.names().into_iter().chain(LISTS.map(str::to_owned)).collect();
        }
        assert!(self.told.remove(list), "{}: told twice of {list}", self.who);
    }

    /// Enters an event that came.
    pub(crate) fn enter(&mut self, name: &str) {
        let Sequence { who, said, heard, excused, .. } = self;
        let place = format!("{who}: {name} came after {heard} of {said}, of which {excused} may be missing");
        if !self.told.is_empty() {
            assert!(self.told.remove(name), "{place}, and while it was told of {:?}", self.told);
            return;
        }
        let number = (self.heard..self.said).find(|number| self.name(*number) == name);
        let number = number.unwrap_or_else(|| panic!("{place}"));
        assert!(number <= self.heard.max(self.excused), "{place}");
        self.heard = number + 1;
    }
}
