//! A tape as a [`Pipe`]: what would be said to a server is said to a player.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use super::driver::{Event, Pipe};
use super::error::UpstreamError;
use crate::protocol::message::Message;
use crate::protocol::scan::DEPTH_MAX;
use crate::replay::Replay;
use crate::replay::player::{Next, Player};

/// A player, and what it has not heard yet.
pub(crate) struct TapePipe {
    player: Player,
    queue: VecDeque<(Option<i64>, Bytes)>,
    queued: usize,
}

impl TapePipe {
    /// A connection to the server of a tape. With `transposed` it is one of several for clients who have no session with it.
    pub(crate) fn new(replay: &Arc<Replay>, transposed: bool) -> TapePipe {
        let player = Player::new(Arc::clone(replay), replay.stage(transposed));
        TapePipe { player, queue: VecDeque::new(), queued: 0 }
    }
}

impl Pipe for TapePipe {
    async fn next(&mut self, read: bool) -> Event {
        loop {
            if let Some((id, line)) = self.queue.pop_front() {
                self.queued -= line.len();
                if let Ok(message) = Message::parse(line, DEPTH_MAX) {
                    self.player.hear(message, Instant::now().into_std());
                }
                if let Some(id) = id {
                    return Event::Sent(id);
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
        self.queued
    }

    async fn close(self, _why: UpstreamError) {}
}

async fn until(time: Option<std::time::Instant>) {
    match time {
        Some(time) => sleep_until(Instant::from_std(time)).await,
        None => std::future::pending().await,
    }
}
