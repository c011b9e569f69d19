//! Things that several clients have in common, each made by the first who needs it while the others wait.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::lock;

/// What is shared, by who shares it. Bounded: clients choose the keys.
pub(super) struct Cells<K, V> {
    open: Mutex<Vec<Entry<K, V>>>,
    max: usize,
}

struct Entry<K, V> {
    key: K,
    cell: Cell<V>,
    since: Instant,
}

/// One of them.
pub(super) type Cell<V> = Arc<OnceCell<V>>;

impl<K: PartialEq, V> Cells<K, V> {
    pub(super) fn new(max: usize) -> Cells<K, V> {
        Cells { open: Mutex::default(), max }
    }

    /// The one for this key, which may have to be filled. `None` if there are too many.
    pub(super) fn get(&self, key: K) -> Option<Cell<V>> {
        let mut open = lock(&self.open);
        if let Some(entry) = open.iter().find(|entry| entry.key == key) {
            return Some(Arc::clone(&entry.cell));
        }
        if open.len() >= self.max {
            return None;
        }
        let cell = Cell::default();
        open.push(Entry { key, cell: Arc::clone(&cell), since: Instant::now() });
        Some(cell)
    }

    /// Forgets one that could not be filled, or is of no use any more, unless somebody else has.
    pub(super) fn forget(&self, cell: &Cell<V>) {
        let forgotten: Vec<_> = lock(&self.open).extract_if(.., |entry| Arc::ptr_eq(&entry.cell, cell)).collect();
        // Outside the lock: it may close a connection.
        drop(forgotten);
    }

    /// Takes out those that are unused, and those that nobody has filled within `patience`: whoever began has gone.
    pub(super) fn sweep(&self, patience: Duration, unused: impl Fn(&K, &V) -> bool) -> Vec<Cell<V>> {
        let is_over = |entry: &mut Entry<K, V>| match entry.cell.get() {
            Some(value) => unused(&entry.key, value),
            None => entry.since.elapsed() > patience,
        };
        lock(&self.open).extract_if(.., is_over).map(|entry| entry.cell).collect()
    }

    /// Takes out all.
    pub(super) fn take(&self) -> Vec<Cell<V>> {
        lock(&self.open).drain(..).map(|entry| entry.cell).collect()
    }
}
