//! Which events of a stream have been heard before: a server may deliver again what came after the event that it was asked
//! to go on from, and some begin all over (2025-11-25, Streamable HTTP › Resumability and Redelivery).

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

use bytes::Bytes;

/// How many events are remembered: more than any server that we know keeps.
const HEARD_MAX: usize = 1024;

/// The ids of the latest events of a stream, over all of its connections. What is kept is a hash: ids are of any length.
#[derive(Debug, Default)]
pub(super) struct Redelivery {
    heard: VecDeque<u64>,
    hasher: RandomState,
    /// This is not the stream's first connection. On the first one nothing can be a repetition, whatever its ids are.
    resumed: bool,
}

impl Redelivery {
    /// Another connection continues the stream.
    pub(super) fn resumed(&mut self) {
        self.resumed = true;
    }

    /// Takes note of an event; whether it is a repetition.
    pub(super) fn is_repeated(&mut self, id: Option<&Bytes>) -> bool {
        let Some(id) = id.filter(|id| !id.is_empty()) else { return false };
        let hash = self.hasher.hash_one(id);
        if self.heard.contains(&hash) {
            return self.resumed;
        }
        if self.heard.len() == HEARD_MAX {
            self.heard.pop_front();
        }
        self.heard.push_back(hash);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_connection_can_repeat() {
        let mut stream = Redelivery::default();
        let hear =
            |stream: &mut Redelivery, id: &'static str| stream.is_repeated(Some(&Bytes::from_static(id.as_bytes())));
        assert!(!hear(&mut stream, "a") && !hear(&mut stream, "a") && !hear(&mut stream, "b"));
        stream.resumed();
        assert!(hear(&mut stream, "a") && hear(&mut stream, "b") && !hear(&mut stream, "c") && hear(&mut stream, "c"));
        assert!(!hear(&mut stream, "") && !hear(&mut stream, "") && !stream.is_repeated(None));
    }

    #[test]
    fn memory_is_bounded() {
        let mut stream = Redelivery::default();
        for n in 0..3 * HEARD_MAX {
            stream.is_repeated(Some(&Bytes::from(n.to_string())));
        }
        assert_eq!(stream.heard.len(), HEARD_MAX);
    }
}
