//! Things that several clients have in common, each made by the first who needs it while the others wait.

use std::ops::Deref;
use std::sync::{Arc, Mutex};

use tokio::sync::OnceCell;

use super::lock;

/// What is shared, by who shares it. Bounded: clients choose the keys.
pub(super) struct Cells<K: PartialEq, V> {
    open: Mutex<Vec<Entry<K, V>>>,
    max: usize,
}

struct Entry<K, V> {
    key: K,
    cell: Arc<OnceCell<V>>,
    /// Who looks at it, and may be filling it.
    users: usize,
}

/// One of them, for as long as somebody looks at it. One that was not filled by then is forgotten; while somebody may be
/// filling it, it is not, or what came of that would belong to nobody.
pub(super) struct Cell<'a, K: PartialEq, V> {
    cells: &'a Cells<K, V>,
    cell: Arc<OnceCell<V>>,
}

impl<K: PartialEq, V> Deref for Cell<'_, K, V> {
    type Target = OnceCell<V>;

    fn deref(&self) -> &OnceCell<V> {
        &self.cell
    }
}

impl<K: PartialEq, V> Drop for Cell<'_, K, V> {
    fn drop(&mut self) {
        let mut open = lock(&self.cells.open);
        let Some(at) = open.iter().position(|entry| Arc::ptr_eq(&entry.cell, &self.cell)) else { return };
        open[at].users -= 1;
        if open[at].users == 0 && !open[at].cell.initialized() {
            open.swap_remove(at);
        }
    }
}

impl<K: PartialEq, V> Cells<K, V> {
    pub(super) fn new(max: usize) -> Cells<K, V> {
        Cells { open: Mutex::default(), max }
    }

    /// What `look` makes of what there is for this key already. It is called under the lock, so it must be quick.
    pub(super) fn find<R>(&self, key: &K, look: impl FnOnce(&V) -> Option<R>) -> Option<R> {
        let open = lock(&self.open);
        look(open.iter().find(|entry| entry.key == *key)?.cell.get()?)
    }

    /// The one for this key, which may have to be filled. `None` if there are too many.
    pub(super) fn get(&self, key: K) -> Option<Cell<'_, K, V>> {
        let mut open = lock(&self.open);
        if let Some(entry) = open.iter_mut().find(|entry| entry.key == key) {
            entry.users += 1;
            return Some(Cell { cells: self, cell: Arc::clone(&entry.cell) });
        }
        if open.len() >= self.max {
            return None;
        }
        let cell = Arc::default();
        open.push(Entry { key, cell: Arc::clone(&cell), users: 1 });
        Some(Cell { cells: self, cell })
    }

    /// Forgets one that is of no use any more, unless somebody else has.
    pub(super) fn forget(&self, cell: &Cell<'_, K, V>) {
        let forgotten: Vec<_> = lock(&self.open).extract_if(.., |entry| Arc::ptr_eq(&entry.cell, &cell.cell)).collect();
        // Outside the lock: it may close a connection.
        drop(forgotten);
    }

    /// Takes out those that are unused.
    pub(super) fn sweep(&self, unused: impl Fn(&K, &V) -> bool) -> Vec<Arc<OnceCell<V>>> {
        let is_unused = |entry: &mut Entry<K, V>| {
            entry.users == 0 && entry.cell.get().is_some_and(|value| unused(&entry.key, value))
        };
        lock(&self.open).extract_if(.., is_unused).map(|entry| entry.cell).collect()
    }

    /// Takes out all.
    pub(super) fn take(&self) -> Vec<Arc<OnceCell<V>>> {
        lock(&self.open).drain(..).map(|entry| entry.cell).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One who fails does not take from the others what they are about to make.
    #[tokio::test]
    async fn what_is_being_made_is_not_forgotten() {
        let cells: Cells<u8, u8> = Cells::new(1);
        let (first, second) = (cells.get(1).unwrap(), cells.get(1).unwrap());
        assert!(cells.get(2).is_none(), "there is room for one");
        assert_eq!(first.get_or_try_init(async || Err::<u8, _>("no")).await, Err("no"));
        drop(first);
        assert_eq!(second.get_or_try_init(async || Ok::<_, ()>(7)).await, Ok(&7));
        drop(second);
        assert_eq!(cells.get(1).unwrap().get(), Some(&7), "the one that was made is the one that is found");
        assert_eq!(cells.sweep(|_, _| true).len(), 1);
        drop(cells.get(2).unwrap());
        assert!(cells.get(1).is_some(), "what nobody filled is forgotten");
        let used = cells.get(1).unwrap();
        cells.forget(&used);
        assert!(cells.take().is_empty());
    }
}
