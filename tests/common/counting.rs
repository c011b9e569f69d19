//! An allocator that counts, for tests of how much is held: each is a program of its own, which does nothing else.
#![allow(dead_code, reason = "each test file uses its part")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::DEADLINE;

/// The system's allocator, and how many bytes it has given out that have not come back.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "an allocator is unsafe to implement; this one leaves the work to the system's")]
// SAFETY: what is asked for is passed on as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are those that are asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many bytes are held.
pub(crate) fn live() -> usize {
    LIVE.load(Ordering::Relaxed)
}

/// How many are held when nothing happens any more.
pub(crate) async fn settled() -> usize {
    let looks = DEADLINE.as_millis() / 5;
    let (mut last, mut same) = (0, 0);
    for _ in 0..looks {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let now = live();
        same = if now == last { same + 1 } else { 0 };
        last = now;
        if same == 40 {
            return now;
        }
    }
    panic!("it never comes to rest");
}
