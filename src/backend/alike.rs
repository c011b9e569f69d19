//! What many connections have alike is kept once: clients of a kind introduce themselves in the same words, and a server answers them in
//! the same words.

use std::collections::VecDeque;
use std::sync::Mutex;

use super::lock;

/// So many of the latest are remembered.
const LATEST: usize = 8;

/// In bytes: no usual handshake is that long, and what is remembered may be needed by nobody any more.
const LARGE: usize = 16 << 10;

/// What is remembered, which has to be cheap to clone.
pub(super) struct Alike<T> {
    /// The newest last. Held for a look or a replacement.
    latest: Mutex<VecDeque<T>>,
}

impl<T> Default for Alike<T> {
    fn default() -> Self {
        Alike { latest: Mutex::default() }
    }
}

impl<T: Clone> Alike<T> {
    /// The one of the latest that is the `same` as this one, which takes so many bytes; or this one.
    pub(super) fn one(&self, this: T, bytes: usize, same: impl Fn(&T, &T) -> bool) -> T {
        if bytes > LARGE {
            return this;
        }
        let mut latest = lock(&self.latest);
        if let Some(known) = latest.iter().find(|known| same(known, &this)) {
            return known.clone();
        }
        if latest.len() == LATEST {
            latest.pop_front();
        }
        latest.push_back(this.clone());
        this
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_is_alike_is_one_and_few_are_remembered() {
        let alike = Alike::default();
        let one = |number: usize, bytes| alike.one(Arc::new(number), bytes, |known, this| known == this);
        let first = one(0, 10);
        assert!(Arc::ptr_eq(&first, &one(0, 10)));
        let large = one(77, LARGE + 1);
        assert!(!Arc::ptr_eq(&large, &one(77, LARGE + 1)), "what is large is not remembered");
        (1..=LATEST).for_each(|number| drop(one(number, 10)));
        assert!(!Arc::ptr_eq(&first, &one(0, 10)), "the oldest is forgotten");
        assert_eq!(lock(&alike.latest).len(), LATEST);
    }
}
