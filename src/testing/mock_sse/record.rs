//! What was asked: kept for a test, written to a file, or neither.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write as _};
use std::sync::Mutex;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Headers, lock};

/// The longest body that is written to a file, in bytes.
const BODY_MAX: usize = 64 << 10;

/// Most requests that are kept in memory, and most bytes of bodies: the oldest go first.
const KEPT_MAX: usize = 100_000;
const KEPT_BYTES_MAX: usize = 256 << 20;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// When its last byte arrived.
    pub at: Instant,
    /// Number of the connection it arrived on, from 1.
    pub connection: u64,
    /// `GET`, `POST` …
    pub method: String,
    /// The path, with the query.
    pub target: String,
    /// The headers as they were written.
    pub headers: Headers,
    /// The body. What was not UTF-8 in it is replaced.
    pub body: String,
}

impl Recorded {
    /// A member of the JSON object in the body, at a [JSON pointer](serde_json::Value::pointer); `Null` if there is none.
    #[must_use]
    pub fn json(&self, pointer: &str) -> serde_json::Value {
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        body.pointer(pointer).cloned().unwrap_or_default()
    }

    /// It as a line of JSON: see `docs/faults.md`.
    fn line(&self, start: Instant) -> String {
        let headers: Vec<_> = self.headers.iter().collect();
        let line = json!({
            "ms": u64::try_from(self.at.saturating_duration_since(start).as_millis()).unwrap_or(u64::MAX),
            "connection": self.connection,
            "method": self.method,
            "path": self.target,
            "headers": headers,
            "body": beginning(&self.body),
            "body_bytes": self.body.len(),
        });
        format!("{line}\n")
    }
}

/// As much of a text as is written.
fn beginning(text: &str) -> &str {
    let end = (0..=BODY_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

/// Where requests are recorded.
#[derive(Debug)]
pub(crate) enum Record {
    /// In memory, the latest of them.
    Memory,
    /// In a file, a line of JSON for each.
    File(File),
    /// Nowhere.
    Nothing,
}

/// The requests there have been.
#[derive(Debug)]
pub(super) struct Requests {
    start: Instant,
    kept: Mutex<Kept>,
    /// Told of each.
    news: watch::Sender<()>,
    record: Record,
}

#[derive(Debug, Default)]
struct Kept {
    requests: VecDeque<Recorded>,
    bytes: usize,
}

impl Kept {
    fn add(&mut self, request: Recorded) {
        self.bytes += request.body.len();
        self.requests.push_back(request);
        while self.requests.len() > KEPT_MAX || self.bytes > KEPT_BYTES_MAX {
            let Some(oldest) = self.requests.pop_front() else { return };
            self.bytes -= oldest.body.len();
        }
    }
}

impl Requests {
    pub(super) fn new(record: Record) -> Requests {
        Requests { start: Instant::now(), kept: Mutex::default(), news: watch::Sender::new(()), record }
    }

    /// Takes note of a request.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn add(&self, request: &Recorded) -> io::Result<()> {
        match &self.record {
            Record::Memory => {
                lock(&self.kept).add(request.clone());
                self.news.send_replace(());
                Ok(())
            }
            // One write each, so that lines of two connections do not mix, and nothing is lost if this process is killed.
            Record::File(file) => {
                let mut file = file;
                file.write_all(request.line(self.start).as_bytes())
            }
            Record::Nothing => Ok(()),
        }
    }

    pub(super) fn all(&self) -> Vec<Recorded> {
        lock(&self.kept).requests.iter().cloned().collect()
    }

    pub(super) async fn first(&self, patience: Duration, fits: impl Fn(&Recorded) -> bool) -> Option<Recorded> {
        let mut news = self.news.subscribe();
        let deadline = Instant::now() + patience;
        loop {
            if let Some(request) = lock(&self.kept).requests.iter().find(|request| fits(request)) {
                return Some(request.clone());
            }
            tokio::time::timeout_at(deadline, news.changed()).await.ok()?.ok()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_latest_requests_are_kept() {
        let mut kept = Kept::default();
        let request = |connection, body: String| Recorded {
            at: Instant::now(),
            connection,
            method: "POST".into(),
            target: "/mcp".into(),
            headers: Headers::default(),
            body,
        };
        for connection in 0..KEPT_MAX as u64 + 3 {
            kept.add(request(connection, "{}".into()));
        }
        assert_eq!((kept.requests.len(), kept.requests[0].connection), (KEPT_MAX, 3));
        kept.add(request(7, "x".repeat(KEPT_BYTES_MAX - 10)));
        assert!(kept.bytes <= KEPT_BYTES_MAX);
        assert_eq!((kept.requests.len(), kept.requests.back().unwrap().connection), (6, 7));
    }
}
