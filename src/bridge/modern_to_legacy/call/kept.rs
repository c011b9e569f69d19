//! What is kept for a client that is away: bounded, whatever its server says.

use super::{Call, Effect};
use crate::bridge::loss::Loss;
use crate::bridge::modern_to_legacy::answer;
use crate::protocol::message::Message;

/// Most log messages that are kept for a client that is away.
const KEPT_MAX: usize = 64;

impl Call {
    /// What has to be kept for a client that is away, or has yet to be asked, in bytes: log messages need not be.
    pub(super) fn held(&self) -> usize {
        let open = self.open.iter().map(|question| &question.words);
        open.chain(self.progress.as_deref()).chain(self.finished.as_deref()).map(size).sum()
    }

    pub(super) fn has_room(&self, message: &Message) -> bool {
        self.held() + size(message) <= self.rules.bytes
    }

    /// The oldest log messages make room.
    pub(super) fn make_room(&mut self, out: &mut Vec<Effect>) {
        let mut bytes = self.held() + self.kept.iter().map(size).sum::<usize>();
        while self.kept.len() > KEPT_MAX || bytes > self.rules.bytes {
            let Some(oldest) = self.kept.pop_front() else { return };
            bytes -= size(&oldest);
            out.push(Effect::Lost(Loss::ParkedLog));
        }
    }

    /// The answer of a server that did not wait for its client's. One that is too large is told of.
    pub(super) fn keep_answer(&mut self, message: Message, out: &mut Vec<Effect>) {
        let fits = self.has_room(&message);
        out.extend((!fits).then_some(Effect::Lost(Loss::ParkedAnswer)));
        self.finished = Some(Box::new(if fits { message.alone() } else { answer::too_large() }));
        self.make_room(out);
    }
}

fn size(message: &Message) -> usize {
    message.text().len()
}
