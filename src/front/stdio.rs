//! The proxy as a stdio server: for clients that can only start a program.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Duration, Instant, timeout, timeout_at};

use super::duplex::Duplex;
use super::tapped::{self, Visit};
use crate::backend::key::Principal;
use crate::protocol::lines::Lines;
use crate::protocol::message::Incoming;
use crate::proxy::{Caller, Proxy, Server};

/// Serves one client over a pair of pipes until its end closes, or the session is over.
///
/// # Errors
/// A pipe breaks, or a line is longer than a client's message may be.
pub(crate) async fn serve(
    proxy: &Arc<Proxy>,
    server: &Arc<Server>,
    mut input: impl AsyncRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    let local = Some(Principal::local());
    let (duplex, mut outbox) = Duplex::open(proxy, server, Caller { principal: local, ..Caller::default() }, local);
    let _close = CloseOnDrop(Arc::clone(&duplex));
    let visit = duplex.tap().map(|tap| Visit::of_pipe(tap, proxy, duplex.closed()));
    let mut lines = Lines::new(proxy.settings.limits.message_bytes);
    let read = async {
        loop {
            while let Some(line) = lines.next_line() {
                let line = line.map_err(io::Error::other)?;
                match &visit {
                    None => duplex.accept(Incoming::parse(line, proxy.settings.limits.depth)).await,
                    Some(visit) => Box::pin(tapped::line(visit, &duplex, line)).await,
                }
            }
            if input.read_buf(lines.buffer()).await? == 0 {
                // Whoever closes the input may still wait for answers.
                let _ = timeout(proxy.settings.timeouts.drain, duplex.idle()).await;
                duplex.finish();
                return std::future::pending::<io::Result<()>>().await;
            }
        }
    };
    let stall = proxy.settings.timeouts.write_stall;
    let write_all = async {
        while let Some(line) = outbox.next().await {
            let Some(visit) = &visit else {
                write(&mut output, &line, stall).await?;
                continue;
            };
            for line in Box::pin(visit.saying(line)).await? {
                write(&mut output, &line, stall).await?;
            }
        }
        Ok::<_, io::Error>(())
    };
    tokio::select! {
        ended = read => ended,
        ended = write_all => ended,
        () = duplex.closed().cancelled() => Ok(()),
    }
}

/// Writes a line, and waits no longer than so long for whoever reads it.
async fn write(output: &mut (impl AsyncWrite + Unpin), line: &[u8], stall: Duration) -> io::Result<()> {
    let written = timeout_at(Instant::now() + stall, async {
        output.write_all(line).await?;
        output.write_all(b"\n").await?;
        output.flush().await
    });
    written.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

struct CloseOnDrop(Arc<Duplex>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}
