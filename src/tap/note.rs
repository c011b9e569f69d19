//! What is noted of one thing that passed: all that becomes a frame, before it is redacted and written.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use tokio::time::Instant;

use super::recorder::Loss;
use crate::protocol::sse::{Decoder, Event, Item};
use crate::tape::format::{Intervention, Kind, Party, Sse};

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Note {
    pub(super) at: Instant,
    /// Who said it and to whom.
    pub(super) way: Option<(Party, Party)>,
    pub(super) kind: Kind,
    pub(super) exchange: Option<u64>,
    pub(super) connection: Option<u64>,
    pub(super) head: Option<Box<Head>>,
    pub(super) sse: Option<Box<Sse>>,
    pub(super) by: Vec<Intervention>,
    /// What crossed the wire as one message, or as one piece.
    pub(super) body: Option<Bytes>,
    /// It is known to be JSON.
    pub(super) is_json: bool,
    /// It is a piece of a stream, with any number of events.
    pub(super) is_piece: bool,
}

/// The head of a request or response, with all that will not be recorded of it.
#[derive(Debug, Clone)]
pub(crate) enum Head {
    Request(Method, Arc<HeaderMap>),
    Response(StatusCode, HeaderMap),
}

/// What a note takes in the queue besides its message, about, in bytes.
const OVERHEAD: usize = 256;

impl Head {
    pub(crate) fn request(method: &Method, headers: &HeaderMap) -> Head {
        Head::Request(method.clone(), Arc::new(headers.clone()))
    }

    pub(crate) fn response(status: StatusCode, headers: &HeaderMap) -> Head {
        Head::Response(status, headers.clone())
    }

    fn headers(&self) -> &HeaderMap {
        match self {
            Head::Request(_, headers) => headers,
            Head::Response(_, headers) => headers,
        }
    }

    /// What it takes, about, in bytes.
    fn size(&self) -> usize {
        self.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
    }
}

/// From the client to the proxy.
pub(crate) const FROM_CLIENT: (Party, Party) = (Party::Client, Party::Proxy);
/// From the proxy to the client.
pub(crate) const TO_CLIENT: (Party, Party) = (Party::Proxy, Party::Client);
/// From the proxy to the upstream.
pub(crate) const TO_UPSTREAM: (Party, Party) = (Party::Proxy, Party::Upstream);
/// From the upstream to the proxy.
pub(crate) const FROM_UPSTREAM: (Party, Party) = (Party::Upstream, Party::Proxy);

impl Note {
    fn new(way: (Party, Party), kind: Kind) -> Note {
        Note {
            at: Instant::now(),
            way: Some(way),
            kind,
            exchange: None,
            connection: None,
            head: None,
            sse: None,
            by: Vec::new(),
            body: None,
            is_json: false,
            is_piece: false,
        }
    }

    /// A message on its way, or what should have been one.
    pub(crate) fn message(way: (Party, Party), text: Bytes) -> Note {
        Note { body: Some(text), ..Note::new(way, Kind::Message) }
    }

    /// A request or response without a message.
    pub(crate) fn http(way: (Party, Party), head: Head) -> Note {
        Note::new(way, Kind::Http).head(head)
    }

    /// The end of a stream, connection or process, of which this side tells the other.
    pub(crate) fn close(way: (Party, Party), reason: impl Into<String>) -> Note {
        Note::new(way, Kind::Close { reason: reason.into() })
    }

    /// An event of a stream: a message, or one that only moves the cursor.
    pub(crate) fn event(way: (Party, Party), event: &Event) -> Note {
        let mut note = match event.message() {
            Some(text) => Note::message(way, text.clone()),
            None => Note::new(way, Kind::Event),
        };
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        let sse = Sse {
            id: event.id.as_ref().map(text),
            event: event.event.as_ref().map(text),
            retry: event.retry.map(|retry| u64::try_from(retry.as_millis()).unwrap_or(u64::MAX)),
            ..Sse::default()
        };
        if sse != Sse::default() {
            note.sse = Some(Box::new(sse));
        }
        note
    }

    /// Whole events that the proxy has written, each of them a message or what only moves the cursor.
    pub(crate) fn piece(way: (Party, Party), text: Bytes) -> Note {
        Note { body: Some(text), is_piece: true, ..Note::new(way, Kind::Event) }
    }

    /// What is noted here one by one: the events of a piece, else itself.
    pub(super) fn each(&self, mut write: impl FnMut(&Note)) {
        let (true, Some(way), Some(mut piece)) = (self.is_piece, self.way, self.body.clone()) else {
            return write(self);
        };
        let mut decoder = Decoder::new(usize::MAX);
        while let Some(item) = decoder.decode(&mut piece) {
            if let Ok(Item::Event(event)) = item {
                write(&Note { at: self.at, exchange: self.exchange, ..Note::event(way, &event).of_json() });
            }
        }
    }

    /// What is lost with it.
    pub(super) fn loss(&self) -> Loss {
        let mut loss = Loss::default();
        self.each(|note| {
            loss.notes += 1;
            loss.bytes += note.body.as_ref().map_or(0, |body| body.len() as u64);
        });
        loss
    }

    /// It came with this head of a request or response.
    pub(crate) fn head(self, head: Head) -> Note {
        Note { head: Some(Box::new(head)), ..self }
    }

    /// It was read as JSON, or made.
    pub(crate) fn of_json(self) -> Note {
        Note { is_json: true, ..self }
    }

    /// It belongs to this exchange.
    pub(crate) fn of(self, exchange: u64) -> Note {
        Note { exchange: Some(exchange), ..self }
    }

    /// It came over this connection to the upstream.
    pub(crate) fn over(self, connection: u64) -> Note {
        Note { connection: Some(connection), ..self }
    }

    /// What interceptors did with it.
    pub(crate) fn touched(self, by: Vec<Intervention>) -> Note {
        Note { by, ..self }
    }

    /// What it takes in the queue, about, in bytes.
    pub(super) fn size(&self) -> usize {
        OVERHEAD + self.body.as_ref().map_or(0, Bytes::len) + self.head.as_ref().map_or(0, |head| head.size())
    }
}
