//! Who has which name: every request of a session is found by it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is looked up for each request is hashed quickly. How much there can be is bounded.
type Rows<T> = HashMap<String, Arc<T>, foldhash::fast::RandomState>;

/// A bounded table.
pub(crate) struct Table<T> {
    /// Held for a look-up, an insertion or a removal; never over an await.
    rows: Mutex<Rows<T>>,
    max: usize,
}

impl<T> Table<T> {
    pub(crate) fn new(max: usize) -> Table<T> {
        Table { rows: Mutex::default(), max }
    }

    fn rows(&self) -> MutexGuard<'_, Rows<T>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.rows().len() >= self.max
    }

    /// Makes and adds one; `None` where there is no room for it: then nothing is made.
    pub(crate) fn add(&self, name: String, make: impl FnOnce() -> T) -> Option<Arc<T>> {
        let mut rows = self.rows();
        if rows.len() >= self.max {
            return None;
        }
        let row = Arc::new(make());
        rows.insert(name, Arc::clone(&row));
        Some(row)
    }

    pub(crate) fn find(&self, name: &str) -> Option<Arc<T>> {
        self.rows().get(name).cloned()
    }

    /// Whether it was there.
    pub(crate) fn remove(&self, name: &str) -> bool {
        let removed = self.rows().remove(name);
        removed.is_some()
    }

    pub(crate) fn all(&self) -> Vec<Arc<T>> {
        self.rows().values().cloned().collect()
    }
}
