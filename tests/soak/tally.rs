//! What was asked and what came of it: every request has exactly one answer, the right one or an error that says what it is.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use serde_json::Value;

use crate::common::InTime as _;
use crate::leak::Leak;
use shadowcat::testing::client::Response;

/// Errors of the proxy that a client has to live with when servers are killed and places are few: unavailable, outcome
/// unknown, overloaded.
const TYPED: [i64; 3] = [-31002, -31003, -31004];

/// Counts by what happened.
pub(crate) struct Tally {
    counts: RefCell<BTreeMap<String, u64>>,
    asked: Cell<u64>,
    leak: Option<Leak>,
}

impl Tally {
    pub(crate) fn new(leak: Option<Leak>) -> Tally {
        Tally { counts: RefCell::default(), asked: Cell::new(0), leak }
    }

    /// How many requests there were.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.get()
    }

    /// What is lost on purpose.
    pub(crate) fn leak(&self) -> Option<Leak> {
        self.leak
    }

    /// One more of these.
    pub(crate) fn count(&self, what: &str) {
        *self.counts.borrow_mut().entry(what.to_owned()).or_default() += 1;
    }

    /// How many there were whose name begins so.
    pub(crate) fn seen(&self, start: &str) -> u64 {
        self.counts.borrow().iter().filter(|(what, _)| what.starts_with(start)).map(|(_, count)| count).sum()
    }

    /// All of it, a line for each.
    pub(crate) fn lines(&self) -> String {
        self.counts.borrow().iter().map(|(what, count)| format!("  {count:>8}  {what}\n")).collect()
    }

    /// A request is about to be sent.
    pub(crate) fn asks(&self) {
        self.asked.set(self.asked.get() + 1);
        if let Some(leak) = self.leak {
            leak.drip();
        }
    }

    /// Reads an answer to its end: it has to be exactly one, under this id, and `right`, or an error of ours. Whether it
    /// was right.
    pub(crate) async fn one_answer(
        &self,
        what: &str,
        response: Response,
        id: &Value,
        right: impl Fn(&[Value], &Value) -> bool,
    ) -> bool {
        let status = response.status;
        let (before, finals) = self.read(response).await;
        let [answer] = finals.as_slice() else {
            panic!("{what} {id}: not one answer but {finals:?}, after {before:?}")
        };
        assert_eq!(answer["id"], *id, "{what}: {answer}");
        if self.is_error(what, status, answer) {
            return false;
        }
        let spoilt = self.leak == Some(Leak::Answers) && self.asked() > 300;
        assert!(right(&before, answer) && !spoilt, "{what} {id}: not what was asked for: {before:?} {answer}");
        self.count(&format!("ok     {what}"));
        true
    }

    /// Reads an answer that need not come, since the request was taken back: if one does, it has to be its own.
    pub(crate) async fn at_most_one_answer(&self, what: &str, response: Response, id: &Value) {
        let status = response.status;
        let (_, finals) = self.read(response).await;
        match finals.as_slice() {
            [] => self.count(&format!("none   {what}")),
            [answer] => {
                assert_eq!(answer["id"], *id, "{what}: {answer}");
                if !self.is_error(what, status, answer) {
                    self.count(&format!("late   {what}"));
                }
            }
            more => panic!("{what} {id}: {more:?}"),
        }
    }

    /// Whether it is an error, which has to be one that is to be expected here.
    pub(crate) fn is_error(&self, what: &str, status: u16, answer: &Value) -> bool {
        let Some(error) = answer.get("error") else {
            assert_eq!(status, 200, "{what}: {answer}");
            return false;
        };
        let (code, data) = (error["code"].as_i64().unwrap_or_default(), &error["data"]);
        assert!(data["origin"] == "proxy" && TYPED.contains(&code), "{what}: {status} {answer}");
        assert!([200, 503].contains(&status), "{what}: {status} {answer}");
        self.count(&format!("error  {code} {} ({status})", data["reason"].as_str().unwrap_or_default()));
        true
    }

    /// What came before, and the answers.
    async fn read(&self, mut response: Response) -> (Vec<Value>, Vec<Value>) {
        if !response.is_sse() {
            let text = response.text().ok().await;
            let finals = if text.is_empty() { vec![] } else { vec![serde_json::from_str(&text).unwrap()] };
            return (vec![], finals);
        }
        let mut all = Vec::new();
        while let Some(message) = response.message().ok().await {
            all.push(message);
        }
        all.into_iter().partition(|message| message.get("method").is_some())
    }
}
