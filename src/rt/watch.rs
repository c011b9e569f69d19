//! A cancellation token that one task looks at again and again.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Ends when the token is cancelled. To begin to wait takes longer than to look: as long as the same task polls it and nothing has
/// happened, that it waits is known already.
pub(crate) struct Watch {
    token: CancellationToken,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
    waits: Option<Waker>,
}

impl Watch {
    pub(crate) fn of(token: CancellationToken) -> Watch {
        Watch { cancelled: Box::pin(token.clone().cancelled_owned()), token, waits: None }
    }

    pub(crate) fn token(&self) -> &CancellationToken {
        &self.token
    }
}

impl Future for Watch {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let waits = self.waits.as_ref().is_some_and(|waker| waker.will_wake(context.waker()));
        if waits && !self.token.is_cancelled() {
            return Poll::Pending;
        }
        self.waits = Some(context.waker().clone());
        self.cancelled.as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use super::super::Woken;
    use super::*;

    #[test]
    fn whoever_looked_last_is_woken() {
        let token = CancellationToken::new();
        let mut watch = Watch::of(token.clone());
        let (first, second) = (Arc::<Woken>::default(), Arc::<Woken>::default());
        for woken in [&first, &first, &second, &second] {
            let waker = Waker::from(Arc::clone(woken));
            assert!(Pin::new(&mut watch).poll(&mut Context::from_waker(&waker)).is_pending());
        }
        token.cancel();
        assert_eq!((first.0.load(Ordering::Relaxed), second.0.load(Ordering::Relaxed)), (0, 1));
        assert!(Pin::new(&mut watch).poll(&mut Context::from_waker(Waker::noop())).is_ready());
    }
}
