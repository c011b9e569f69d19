//! Wakes that a task gives itself, and need not.
//!
//! hyper hands a body over from the connection to whoever reads it, and each side wakes the other. Where both are one task, it
//! would be polled once more for what it has done itself.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

thread_local! {
    /// Whether bells that are rung on this thread wake nobody now, and one was.
    static HUSHED: Cell<(bool, bool)> = const { Cell::new((false, false)) };
}

/// Does something that cannot wait; bells that it rings wake nobody. Whether it has rung one. Those that other threads ring
/// meanwhile are heard as ever.
pub(crate) fn hushed<T>(act: impl FnOnce() -> T) -> (T, bool) {
    struct Restore((bool, bool));
    impl Drop for Restore {
        fn drop(&mut self) {
            HUSHED.set(self.0);
        }
    }
    let restore = Restore(HUSHED.replace((true, false)));
    let done = act();
    let rang = HUSHED.get().1;
    drop(restore);
    (done, rang)
}

/// Stands between something that is polled and the task that polls it.
pub(crate) struct Bell {
    /// As what is polled sees it.
    waker: Waker,
    inner: Arc<Inner>,
}

struct Inner {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Inner {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        match HUSHED.get() {
            (true, _) => HUSHED.set((true, true)),
            (false, _) => self.task.wake(),
        }
    }
}

impl Bell {
    /// One that has been rung: there is something to see.
    pub(crate) fn new() -> Bell {
        let inner = Arc::new(Inner { rung: AtomicBool::new(true), task: AtomicWaker::new() });
        Bell { waker: Waker::from(Arc::clone(&inner)), inner }
    }

    /// Polls something, for this task.
    pub(crate) fn poll<T>(&self, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> T) -> T {
        self.inner.task.register(cx.waker());
        self.inner.rung.store(false, Ordering::Relaxed);
        poll(&mut Context::from_waker(&self.waker))
    }

    /// The same, if it has been rung since the last time.
    pub(crate) fn poll_if_rung<T>(&self, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> T) -> Option<T> {
        // First: who rings it from now on wakes the task.
        self.inner.task.register(cx.waker());
        let rung = self.inner.rung.swap(false, Ordering::Acquire);
        rung.then(|| poll(&mut Context::from_waker(&self.waker)))
    }

    /// It wakes nobody any more, until somebody polls again.
    pub(crate) fn forget(&self) {
        self.inner.task.take();
    }
}

/// A future that is polled behind a bell.
pub(crate) struct Belled<F> {
    pub(crate) future: F,
    bell: Bell,
}

impl<F> Belled<F> {
    pub(crate) fn new(future: F) -> Belled<F> {
        Belled { future, bell: Bell::new() }
    }
}

impl<F: Future + Unpin> Future for Belled<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Belled { future, bell } = &mut *self;
        bell.poll(cx, |cx| Pin::new(future).poll(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Woken;
    use super::*;

    #[test]
    fn a_bell_wakes_its_task_unless_it_is_hushed() {
        let woken = Arc::new(Woken::default());
        let task = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&task);
        let bell = Bell::new();
        let listen = |cx: &mut Context<'_>| bell.poll_if_rung(cx, |cx| cx.waker().clone());

        let rope = listen(&mut cx).expect("it is rung at first");
        assert!(listen(&mut cx).is_none());
        rope.wake_by_ref();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(listen(&mut cx).is_some());

        let ((), rang) = hushed(|| rope.wake_by_ref());
        assert!(rang && !hushed(|| ()).1);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1, "hushed");
        assert!(listen(&mut cx).is_some(), "and not forgotten");

        hushed(|| std::thread::scope(|scope| scope.spawn(|| rope.wake_by_ref()).join())).0.expect("no panic");
        assert_eq!(woken.0.load(Ordering::Relaxed), 2, "others are heard");

        assert!(listen(&mut cx).is_some());
        bell.forget();
        rope.wake_by_ref();
        assert_eq!(woken.0.load(Ordering::Relaxed), 2);
        assert!(listen(&mut cx).is_some());
    }
}
