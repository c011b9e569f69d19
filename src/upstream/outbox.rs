//! Messages that wait to be written to a child, one per line (2025-11-25, Transports › stdio).

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

use super::driver::Ids;

/// Most messages that are written at once.
const AT_ONCE: usize = 32;

/// See the module.
#[derive(Default)]
pub(super) struct Outbox {
    queue: VecDeque<Outgoing>,
    bytes: usize,
}

struct Outgoing {
    /// Whose call it is.
    id: Option<i64>,
    /// The rest of its line, without the line end, which is written last.
    line: Bytes,
    /// Some of it was written.
    begun: bool,
}

impl Outbox {
    /// Bytes that wait, line ends included.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Puts a message behind the others; `id` is the call it belongs to, if it is one.
    pub(super) fn push(&mut self, id: Option<i64>, line: Bytes) {
        self.bytes += line.len() + 1;
        self.queue.push_back(Outgoing { id, line, begun: false });
    }

    /// Takes a call out again if nothing of it was written.
    pub(super) fn remove(&mut self, id: i64) -> bool {
        let at = self.queue.iter().position(|out| out.id == Some(id) && !out.begun);
        let Some(out) = at.and_then(|at| self.queue.remove(at)) else { return false };
        self.bytes -= out.line.len() + 1;
        true
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        *self = Outbox::default();
    }

    /// What is to be written next, as much as is written at once.
    pub(super) fn slices(&self) -> SmallVec<[IoSlice<'_>; 2 * AT_ONCE]> {
        let lines = self.queue.iter().take(AT_ONCE);
        lines.flat_map(|out| [IoSlice::new(&out.line), IoSlice::new(b"\n")]).collect()
    }

    /// So many bytes of that were written. Returns the calls that were begun with them.
    pub(super) fn written(&mut self, mut count: usize) -> Ids {
        let mut begun = Ids::new();
        self.bytes -= count;
        while count > 0
            && let Some(front) = self.queue.front_mut()
        {
            if !std::mem::replace(&mut front.begun, true) {
                begun.extend(front.id);
            }
            if count <= front.line.len() {
                front.line.advance(count);
                break;
            }
            count -= front.line.len() + 1;
            self.queue.pop_front();
        }
        begun
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However little is taken at a time, what is written are the lines in their order; each call is said to have begun once, with
        /// its first byte, and can be taken out before that, and not later.
        #[test]
        fn what_is_written_is_what_was_put_in(
            lines in prop::collection::vec((prop::option::of(0..5i64), "[a-z]{0,9}"), 0..80),
            steps in prop::collection::vec((1..40usize, 0..8i64), 1..60),
        ) {
            let mut outbox = Outbox::default();
            // Ids are used once each.
            let lines: Vec<_> = lines.iter().enumerate().map(|(at, (id, line))| (id.map(|id| id + 5 * at as i64), line)).collect();
            lines.iter().for_each(|(id, line)| outbox.push(*id, Bytes::copy_from_slice(line.as_bytes())));
            let (mut written, mut begun, mut removed) = (Vec::new(), Vec::new(), Vec::new());
            for (most, other) in steps.iter().copied().cycle().take(1000) {
                if let Some(id) = lines.get(other as usize).and_then(|(id, _)| *id)
                    && outbox.remove(id)
                {
                    prop_assert!(!begun.contains(&id) && !removed.contains(&id));
                    removed.push(id);
                }
                let slices: Vec<u8> = outbox.slices().iter().flat_map(|slice| slice.iter().copied()).collect();
                prop_assert_eq!(outbox.is_empty(), slices.is_empty());
                let count = most.min(slices.len());
                written.extend_from_slice(&slices[..count]);
                begun.extend(outbox.written(count));
            }
            prop_assert_eq!(outbox.bytes(), 0);
            let kept: Vec<_> = lines.iter().filter(|(id, _)| id.is_none_or(|id| !removed.contains(&id))).collect();
            let expected: String = kept.iter().map(|(_, line)| format!("{line}\n")).collect();
            prop_assert_eq!(String::from_utf8(written).unwrap(), expected);
            prop_assert_eq!(begun, kept.iter().filter_map(|(id, _)| *id).collect::<Vec<_>>());
        }
    }
}
