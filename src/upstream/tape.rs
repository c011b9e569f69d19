//! A tape as a [`Pipe`]: what would be said to a server is said to a player; what that does not know, to whoever stands behind it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep_until};

use super::driver::{Event, Ids, Pipe};
use super::error::UpstreamError;
use crate::protocol::lines::Lines;
use crate::protocol::message::{Kind, Message};
use crate::protocol::method::Known;
use crate::protocol::scan::DEPTH_MAX;
use crate::replay::player::{Next, Player};
use crate::settings::TapeTarget;

/// What a handshake is called that is made on behalf of a client whose own the tape has answered.
const HANDSHAKE: &str = "\"tape-handshake\"";

/// A player, and what it has not heard yet.
pub(crate) struct TapePipe {
    target: TapeTarget,
    player: Player,
    queue: VecDeque<(Option<i64>, Bytes)>,
    queued: usize,
    /// What the client said to begin with: its handshake, and the end of that.
    introduction: Vec<Message>,
    way: Option<Way>,
    message_bytes: usize,
}

impl TapePipe {
    /// A connection to the server of a tape. With `transposed` it is one of several for clients who have no session with it.
    pub(crate) fn new(target: &TapeTarget, transposed: bool, message_bytes: usize) -> TapePipe {
        let player = Player::new(Arc::clone(&target.replay), target.replay.stage(transposed));
        let (target, queue) = (target.clone(), VecDeque::new());
        TapePipe { target, player, queue, queued: 0, introduction: Vec::new(), way: None, message_bytes }
    }

    fn hear(&mut self, line: Bytes) {
        let Ok(message) = Message::parse(line, DEPTH_MAX) else { return };
        let introduces = matches!(message.known(), Some(Known::Initialize | Known::Initialized));
        let for_others = self.player.hear(message.clone(), Instant::now().into_std());
        if let Some(message) = for_others {
            // Notifications and answers are for a server that has been asked something.
            if self.way.is_none() && message.kind() == Kind::Request {
                self.way = self.open(!introduces);
            }
            if let Some(way) = &mut self.way {
                self.target.replay.add(true, way.number, message.line(), Instant::now().into_std());
                way.say(message.line());
            }
        }
        if introduces {
            self.introduction.push(message);
        }
    }

    /// The way to whoever stands behind the tape. One with a handshake wants to see that first.
    fn open(&self, introduce: bool) -> Option<Way> {
        let behind = self.target.behind.as_ref()?;
        let mut way = Way::new(behind.open(), self.target.replay.added().connection(), self.message_bytes);
        for message in self.introduction.iter().filter(|_| introduce) {
            way.say(message.edit().id(HANDSHAKE).finish().line());
            way.greeting |= message.kind() == Kind::Request;
        }
        Some(way)
    }
}

impl Pipe for TapePipe {
    async fn next(&mut self, read: bool) -> Event {
        loop {
            if let Some((id, line)) = self.queue.pop_front() {
                self.queued -= line.len();
                self.hear(line);
                if let Some(id) = id {
                    return Event::Sent(Ids::from_elem(id, 1));
                }
                continue;
            }
            let wake = match read {
                false => None,
                true => match self.player.next(Instant::now().into_std()) {
                    Next::Say(text) => return Event::Text(text),
                    Next::Break => return Event::Closed(UpstreamError::Lost { sent: true }),
                    Next::Wait(wake) => wake,
                },
            };
            tokio::select! {
                () = until(wake) => {}
                () = poll_fn(|context| self.player.poll_told(context)), if read => {}
                line = heard(&mut self.way), if read && self.way.is_some() => match line {
                    Some(line) => {
                        let number = self.way.as_ref().map_or(0, |way| way.number);
                        self.target.replay.add(false, number, line.clone(), Instant::now().into_std());
                        return Event::Text(line);
                    }
                    None => return Event::Closed(UpstreamError::Lost { sent: true }),
                },
            }
        }
    }

    fn write(&mut self, id: Option<i64>, line: Bytes) {
        self.queued += line.len();
        self.queue.push_back((id, line));
    }

    fn unwrite(&mut self, id: i64) -> bool {
        let Some(at) = self.queue.iter().position(|(queued, _)| *queued == Some(id)) else { return false };
        if let Some((_, line)) = self.queue.remove(at) {
            self.queued -= line.len();
        }
        true
    }

    fn queued(&self) -> usize {
        self.queued + self.way.as_ref().map_or(0, Way::queued)
    }

    async fn close(self, _why: UpstreamError) {}
}

async fn until(time: Option<std::time::Instant>) {
    match time {
        Some(time) => sleep_until(Instant::from_std(time)).await,
        None => std::future::pending().await,
    }
}

async fn heard(way: &mut Option<Way>) -> Option<Bytes> {
    match way {
        Some(way) => way.next().await,
        None => std::future::pending().await,
    }
}

/// The way to whoever stands behind a tape.
struct Way {
    number: u64,
    input: ReadHalf<DuplexStream>,
    output: WriteHalf<DuplexStream>,
    lines: Lines,
    unsent: BytesMut,
    /// The answer to a handshake is waited for, and this until then.
    greeting: bool,
    held: BytesMut,
}

impl Way {
    fn new(io: DuplexStream, number: u64, message_bytes: usize) -> Way {
        let (input, output) = tokio::io::split(io);
        let (lines, unsent, held) = (Lines::new(message_bytes), BytesMut::new(), BytesMut::new());
        Way { number, input, output, lines, unsent, greeting: false, held }
    }

    fn say(&mut self, line: Bytes) {
        let queue = if self.greeting { &mut self.held } else { &mut self.unsent };
        queue.extend_from_slice(&line);
        queue.extend_from_slice(b"\n");
    }

    fn queued(&self) -> usize {
        self.unsent.len() + self.held.len()
    }

    /// What it says next; `None` at its end. Cancel safe.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.lines.next_line() {
                let line = line.ok()?;
                if self.greeting && is_greeting(&line) {
                    self.greeting = false;
                    let held = std::mem::take(&mut self.held);
                    self.unsent.extend_from_slice(&held);
                    continue;
                }
                return Some(line);
            }
            tokio::select! {
                biased;
                written = self.output.write(&self.unsent), if !self.unsent.is_empty() => {
                    self.unsent.advance(written.ok().filter(|written| *written > 0)?);
                }
                read = self.input.read_buf(self.lines.buffer()) => {
                    read.ok().filter(|read| *read > 0)?;
                }
            }
        }
    }
}

fn is_greeting(line: &Bytes) -> bool {
    let message = Message::parse(line.clone(), DEPTH_MAX);
    message.is_ok_and(|message| message.id().is_some_and(|id| id.as_json() == HANDSHAKE))
}
