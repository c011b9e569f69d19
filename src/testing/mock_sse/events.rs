//! Streams of events that outlive the connections they are sent on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::testing::peer::{Said, Say};
use crate::testing::wire::Wire;

/// A message of a stream.
#[derive(Debug, Clone)]
pub(super) struct Event {
    /// Its number in the stream, from 1. A repeated answer has the number of the first.
    pub(super) number: u64,
    pub(super) text: String,
    pub(super) answer: bool,
    pub(super) wire: Arc<Mutex<Wire>>,
}

/// What the server says on one stream: in answer to one request, or of its own accord.
#[derive(Debug)]
pub(super) struct Events {
    /// Its number in the session; the stream of what nobody asked for is number 0.
    pub(super) stream: u64,
    state: Mutex<State>,
    news: watch::Sender<()>,
    /// Cancelled once a connection has written what it will of this stream.
    pub(super) delivered: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    events: Vec<Event>,
    finished: bool,
    /// How many events have been handed to a connection.
    taken: usize,
    /// Who may take events: the last one who asked to.
    reader: u64,
}

impl Events {
    pub(super) fn new(stream: u64) -> Arc<Events> {
        Arc::new(Events {
            stream,
            state: Mutex::default(),
            news: watch::Sender::new(()),
            delivered: CancellationToken::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, text: String, answer: bool, wire: Arc<Mutex<Wire>>) {
        let mut state = self.state();
        let number = match state.events.last() {
            Some(last) if answer && last.answer && last.text == text => last.number,
            Some(last) => last.number + 1,
            None => 1,
        };
        state.events.push(Event { number, text, answer, wire });
        drop(state);
        self.news.send_replace(());
    }

    /// Whether the answer is there.
    pub(super) fn answered(&self) -> bool {
        self.state().events.iter().any(|event| event.answer)
    }

    /// Nothing more will be said.
    pub(super) fn finish(&self) {
        self.state().finished = true;
        self.news.send_replace(());
    }

    /// Takes in what is said until nobody can say anything any more; the exit code if the process is to end.
    pub(super) async fn fill(&self, mut said: mpsc::Receiver<Said>) -> Option<u8> {
        let mut exit = None;
        while let Some(Said { say, wire }) = said.recv().await {
            match say {
                Say::Message(text) => self.push(text, false, wire),
                Say::Answer(text) => self.push(text, true, wire),
                Say::Exit(code) => {
                    exit = Some(code);
                    break;
                }
                Say::Stderr { .. } => {}
            }
        }
        self.finish();
        exit
    }

    /// Becomes the one reader of the stream, from where the last one stopped, or from after an event.
    pub(super) fn read(self: &Arc<Self>, after: Option<u64>) -> Reader {
        let mut state = self.state();
        state.reader += 1;
        let reader = state.reader;
        let at = match after {
            Some(after) => state.events.iter().position(|event| event.number > after).unwrap_or(state.events.len()),
            None => state.taken,
        };
        drop(state);
        self.news.send_replace(());
        Reader { events: Arc::clone(self), reader, at, news: self.news.subscribe() }
    }
}

/// A place in a stream.
#[derive(Debug)]
pub(super) struct Reader {
    events: Arc<Events>,
    reader: u64,
    at: usize,
    news: watch::Receiver<()>,
}

impl Reader {
    /// The next event; `None` when there will be none for this reader.
    ///
    /// # Cancel safety
    /// Safe: an event is taken only when it is returned.
    pub(super) async fn next(&mut self) -> Option<Event> {
        loop {
            self.news.mark_unchanged();
            {
                let mut state = self.events.state();
                if state.reader != self.reader {
                    return None;
                }
                if let Some(event) = state.events.get(self.at).cloned() {
                    self.at += 1;
                    state.taken = state.taken.max(self.at);
                    return Some(event);
                }
                if state.finished {
                    return None;
                }
            }
            if self.news.changed().await.is_err() {
                return None;
            }
        }
    }

    /// The id of an event on the wire.
    pub(super) fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.events.stream)
    }
}
