//! SIGINT and SIGTERM: the first one drains, the second one stops.

use std::io;

use tracing::info;

use super::Tasks;

/// What the operating system, or the person at the terminal, sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Ctrl-C; SIGINT.
    Interrupt,
    /// SIGTERM; on Windows the console closing, Ctrl-Break, or a shutdown.
    Terminate,
}

impl Signal {
    /// The exit code by which a shell tells that a program ended because of this signal: 128 and its number.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Signal::Interrupt => 130,
            Signal::Terminate => 143,
        }
    }
}

/// The signals as a stream. One listener for the life of the program: from [`Signals::listen`] on they no longer end
/// the process by themselves, not even when the listener has been dropped.
///
/// This is no task. The program's main future polls it beside serving and beside shutting down, so that a second
/// signal is heard while all tasks are already ending.
#[derive(Debug)]
pub(crate) struct Signals {
    source: Source,
    drained: bool,
}

impl Signals {
    /// Starts listening.
    ///
    /// # Errors
    ///
    /// When the handlers cannot be installed.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with its I/O driver enabled.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Signals { source: Source::listen()?, drained: false })
    }

    /// Waits for a signal and passes it on: the first one cancels `drain`, each further one `stop`.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is done, no signal is lost.
    pub(crate) async fn obey(&mut self, tasks: &Tasks) -> Signal {
        let signal = self.source.recv().await;
        if self.drained {
            info!(?signal, "Stopping");
            tasks.stop().cancel();
        } else {
            info!(?signal, "Draining");
            self.drained = true;
            tasks.drain().cancel();
        }
        signal
    }
}

#[cfg(unix)]
#[derive(Debug)]
struct Source {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Source {
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Source { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn recv(&mut self) -> Signal {
        tokio::select! {
            Some(()) = self.interrupt.recv() => Signal::Interrupt,
            Some(()) = self.terminate.recv() => Signal::Terminate,
            // Both streams have ended: no signal can come any more.
            else => std::future::pending().await,
        }
    }
}

#[cfg(windows)]
#[derive(Debug)]
struct Source {
    ctrl_c: tokio::signal::windows::CtrlC,
    ctrl_break: tokio::signal::windows::CtrlBreak,
    ctrl_close: tokio::signal::windows::CtrlClose,
    ctrl_shutdown: tokio::signal::windows::CtrlShutdown,
}

#[cfg(windows)]
impl Source {
    fn listen() -> io::Result<Self> {
        use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown};
        Ok(Source {
            ctrl_c: ctrl_c()?,
            ctrl_break: ctrl_break()?,
            ctrl_close: ctrl_close()?,
            ctrl_shutdown: ctrl_shutdown()?,
        })
    }

    async fn recv(&mut self) -> Signal {
        tokio::select! {
            Some(()) = self.ctrl_c.recv() => Signal::Interrupt,
            Some(()) = self.ctrl_break.recv() => Signal::Terminate,
            Some(()) = self.ctrl_close.recv() => Signal::Terminate,
            Some(()) = self.ctrl_shutdown.recv() => Signal::Terminate,
            // All streams have ended: no signal can come any more.
            else => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests;
