//! Waiting to within some ten microseconds. The runtime's own timers tick once in a millisecond, which is longer than most of
//! the latencies that are measured, and would have requests start in bursts.

use tokio::time::Instant;

/// A timer of the operating system where there is one that a runtime can wait for, else the runtime's.
pub(super) struct Alarm {
    #[cfg(target_os = "linux")]
    timer: Option<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>>,
}

impl Alarm {
    pub(super) fn new() -> Alarm {
        Alarm {
            #[cfg(target_os = "linux")]
            timer: linux::timer(),
        }
    }

    /// One that a test can pause.
    #[cfg(test)]
    pub(super) fn of_the_runtime() -> Alarm {
        Alarm {
            #[cfg(target_os = "linux")]
            timer: None,
        }
    }

    /// Returns at `due`, or at once if that is over. Cancel safe.
    pub(super) async fn wait_until(&mut self, due: Instant) {
        #[cfg(target_os = "linux")]
        if let Some(timer) = &self.timer {
            let set = linux::set(timer, due.saturating_duration_since(Instant::now()));
            if set && linux::rung(timer).await {
                return;
            }
        }
        tokio::time::sleep_until(due).await;
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    #[expect(
        deprecated,
        reason = "an `OwnedFd` stays what it is, which is what the new, unsafe function has one promise"
    )]
    pub(super) fn timer() -> Option<AsyncFd<OwnedFd>> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags).ok()?;
        AsyncFd::with_interest(timer, Interest::READABLE).ok()
    }

    /// Sets the timer; `false` where there is nothing to wait for: zero would switch it off.
    pub(super) fn set(timer: &AsyncFd<OwnedFd>, wait: Duration) -> bool {
        let Ok(it_value) = Timespec::try_from(wait) else { return false };
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let time = Itimerspec { it_interval: never, it_value };
        !wait.is_zero() && rustix::time::timerfd_settime(timer, TimerfdTimerFlags::empty(), &time).is_ok()
    }

    /// Waits for the timer; `false` if it cannot be waited for.
    pub(super) async fn rung(timer: &AsyncFd<OwnedFd>) -> bool {
        loop {
            let Ok(mut ready) = timer.readable().await else { return false };
            if ready.try_io(|timer| Ok(rustix::io::read(timer, &mut [0u8; 8])?)).is_ok_and(|read| read.is_ok()) {
                return true;
            }
        }
    }
}
