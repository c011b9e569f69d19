//! The fake server on a pair of byte streams: one JSON message per line.

use std::io;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::mpsc;

use super::faults::{Do, Transport};
use super::incoming::{Incoming, NotAMessage};
use super::peer::{OUTBOX, Outlet, Peer, Said, Say};
use super::plan::Occasion;
use super::process;
use super::raw;
use super::script::{Script, ScriptError};
use super::server::{Exchange, Server};
use super::wire::{Frame, Framing, Step, Wire};

/// How long what is in flight may go on when the input has ended.
const GRACE: Duration = Duration::from_millis(500);

/// The longest line that is read whole.
const LINE_MAX: usize = 64 << 20;

/// How a fake server ended.
#[derive(Debug)]
pub enum Ending {
    /// The input ended.
    Eof,
    /// The script, or a call of the `exit` tool, had the process end with this code.
    Exit(u8),
    /// Reading or writing failed: the client is gone.
    Gone(io::Error),
    /// The script cannot be played here.
    Script(ScriptError),
}

/// Serves one client over any pair of byte streams until it goes away or the script ends it.
///
/// Each request runs on its own; dropping the future ends everything. Faults of the process itself (`ignore_term`,
/// `grandchild`, `stderr`, and `cut` as far as it must close file descriptor 1) need [`run_stdio`] to be real; here `stderr` and
/// `grandchild` act on the calling process, and `cut` shuts the writer down and drops it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// use shadowcat::testing::{Script, fake_server};
/// use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
///
/// let (client, server) = tokio::io::duplex(4096);
/// let (input, output) = tokio::io::split(server);
/// let serving = fake_server::serve(input, output, Script::default());
/// let (reader, mut writer) = tokio::io::split(client);
/// let talking = async {
///     writer.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1.0,\"method\":\"ping\"}\n").await?;
///     BufReader::new(reader).lines().next_line().await
/// };
/// let answer = tokio::select! { answer = talking => answer?, _ = serving => None };
/// assert_eq!(answer.as_deref(), Some(r#"{"jsonrpc":"2.0","id":1.0,"result":{}}"#));
/// # Ok(()) }
/// ```
pub async fn serve(reader: impl AsyncRead, writer: impl AsyncWrite, script: Script) -> Ending {
    if let Err(error) = script.check(Some(Transport::Stdio)) {
        return Ending::Script(error);
    }
    let output = Output::new(Box::pin(writer), false);
    play(&Server::new(script), reader, output).await.unwrap_or_else(Ending::Gone)
}

/// Serves the client at this process's stdin and stdout: `shadowcat fake stdio`. The code is the one the process should exit with.
///
/// Does not return when the script has the process end: then it ends here, since stdin may be blocked in a read.
pub async fn run_stdio(script: Script) -> ExitCode {
    if let Err(error) = script.check(Some(Transport::Stdio)) {
        eprintln!("shadowcat fake stdio: {error}");
        return ExitCode::from(3);
    }
    let output = Output::new(tokio::io::stdout(), true);
    match play(&Server::new(script), tokio::io::stdin(), output).await {
        Ok(Ending::Exit(code)) => std::process::exit(code.into()),
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => std::process::exit(1),
    }
}

async fn play(
    server: &Arc<Server>,
    reader: impl AsyncRead,
    mut output: Output<impl AsyncWrite + Unpin>,
) -> io::Result<Ending> {
    let start = server.plan.on(Occasion { start: true, ..Occasion::default() });
    let mut living = Living { reading: true, ignore_eof: start.contains(&Do::IgnoreEof), everywhere: Vec::new() };
    let mut exit = None;
    for fault in &start {
        match fault {
            Do::Delay { ms } => tokio::time::sleep(Duration::from_millis(*ms)).await,
            Do::Stderr { bytes, newlines } => stderr(*bytes, *newlines).await?,
            Do::IgnoreTerm => ignore_term()?,
            Do::Grandchild { seconds } => process::grandchild(*seconds)?,
            Do::StopReading => living.reading = false,
            Do::Exit { code, .. } => exit = Some(*code),
            Do::LineEnd(_) | Do::Slice { .. } => living.everywhere.push(fault.clone()),
            _ => {}
        }
    }
    output.perform(Wire::new(&start).opening(Framing::Lines)).await?;
    if let Some(code) = exit {
        return Ok(Ending::Exit(code));
    }
    let (sender, said) = mpsc::channel(OUTBOX);
    let mut writing = std::pin::pin!(output.write_all_said(said));
    let ending = tokio::select! {
        ending = &mut writing => return ending,
        ending = living.read_all(server, reader, sender) => ending?,
    };
    // What has been said already is still written; but not to a client that reads no more.
    match tokio::time::timeout(GRACE, writing).await {
        Ok(Ok(Ending::Exit(code))) => Ok(Ending::Exit(code)),
        _ => Ok(ending),
    }
}

/// The reading half of a fake server.
struct Living {
    reading: bool,
    ignore_eof: bool,
    /// Faults of bytes that hold for everything said.
    everywhere: Vec<Do>,
}

impl Living {
    /// Reads messages and runs exchanges until the input has ended and nothing is left to do.
    async fn read_all(
        mut self,
        server: &Arc<Server>,
        reader: impl AsyncRead,
        sender: mpsc::Sender<Said>,
    ) -> io::Result<Ending> {
        let mut reader = std::pin::pin!(BufReader::new(reader));
        let outlet = Outlet::new(sender, Wire::new(&self.everywhere));
        let peer = Peer::new(outlet.clone());
        let mut lines = Lines::default();
        let mut exchanges = FuturesUnordered::new();
        let mut grace = std::pin::pin!(tokio::time::sleep(GRACE));
        let mut ended = false;
        loop {
            tokio::select! {
                line = lines.next(reader.as_mut()), if self.reading => match line? {
                    Some(line) => exchanges.extend(self.take(server, &peer, &outlet, &line)?.into_iter().map(Exchange::run)),
                    None => {
                        self.reading = false;
                        ended = !self.ignore_eof;
                        if ended {
                            server.closing.cancel();
                            grace.as_mut().reset(tokio::time::Instant::now() + GRACE);
                        }
                    }
                },
                Some(()) = exchanges.next(), if !exchanges.is_empty() => {}
                () = &mut grace, if ended => return Ok(Ending::Eof),
                () = std::future::pending() => {}
            }
            if ended && exchanges.is_empty() {
                return Ok(Ending::Eof);
            }
        }
    }

    /// Takes a line from the client. What is no message is counted and not answered.
    fn take(
        &mut self,
        server: &Arc<Server>,
        peer: &Arc<Peer>,
        outlet: &Outlet,
        line: &[u8],
    ) -> io::Result<Vec<Exchange>> {
        let mut exchanges = Vec::new();
        let text = std::str::from_utf8(line).map_err(|_| NotAMessage::Json);
        let batch =
            text.is_ok_and(|text| text.trim_start().starts_with('[')) && peer.state().revision == Some("2025-03-26");
        let texts = match text {
            Ok(text) if batch && serde_json::from_str::<serde_json::Value>(text).is_ok() => raw::elements(text),
            Ok(text) if text.trim().is_empty() => Vec::new(),
            Ok(text) => vec![text],
            Err(_) => vec![""],
        };
        for text in texts {
            let Ok(message) = Incoming::parse(text) else {
                server.state().stats.junk += 1;
                continue;
            };
            let mut faults = server.faults(&message);
            for fault in &faults {
                match fault {
                    Do::StopReading => self.reading = false,
                    Do::Grandchild { seconds } => process::grandchild(*seconds)?,
                    _ => {}
                }
            }
            faults.extend(self.everywhere.iter().cloned());
            let outlet = outlet.with_wire(Wire::new(&faults));
            exchanges.push(server.receive(peer, message, faults, outlet));
        }
        Ok(exchanges)
    }
}

/// The writing half of a fake server.
struct Output<W> {
    /// `None` once it has been closed.
    writer: Option<W>,
    is_stdout: bool,
    /// Whether nothing more is written.
    silent: bool,
}

impl<W: AsyncWrite + Unpin> Output<W> {
    fn new(writer: W, is_stdout: bool) -> Output<W> {
        Output { writer: Some(writer), is_stdout, silent: false }
    }

    /// Writes what is said until nobody can say anything any more, or the process is to end.
    async fn write_all_said(&mut self, mut said: mpsc::Receiver<Said>) -> io::Result<Ending> {
        while let Some(Said { say, wire }) = said.recv().await {
            let (text, answer) = match say {
                Say::Message(text) => (text, false),
                Say::Answer(text) => (text, true),
                Say::Stderr { bytes, newlines } => {
                    stderr(bytes, newlines).await?;
                    continue;
                }
                Say::Exit(code) => return Ok(Ending::Exit(code)),
            };
            let steps = {
                let mut wire = wire.lock().unwrap_or_else(PoisonError::into_inner);
                wire.say(Framing::Lines, Frame::new(&text, answer))
            };
            self.perform(steps).await?;
        }
        Ok(Ending::Eof)
    }

    async fn perform(&mut self, steps: Vec<Step>) -> io::Result<()> {
        for step in steps {
            let Some(writer) = self.writer.as_mut().filter(|_| !self.silent) else {
                return Ok(());
            };
            match step {
                Step::Write(bytes) => {
                    writer.write_all(&bytes).await?;
                    writer.flush().await?;
                }
                Step::Pause(gap) => tokio::time::sleep(gap).await,
                Step::Stall => self.silent = true,
                Step::Close(_) => {
                    writer.shutdown().await?;
                    self.writer = None;
                    if self.is_stdout {
                        return Err(process::close_stdout());
                    }
                }
            }
        }
        Ok(())
    }
}

/// The lines of a stream; what was read of a line survives a dropped read.
#[derive(Default)]
struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// The next line without its end, or `None` at the end of the stream. What exceeds [`LINE_MAX`] is cut off.
    ///
    /// # Cancel safety
    /// Safe: bytes leave the reader only when they have been kept here.
    async fn next(&mut self, mut reader: Pin<&mut impl AsyncBufRead>) -> io::Result<Option<Vec<u8>>> {
        loop {
            let buffer = reader.fill_buf().await?;
            if buffer.is_empty() {
                let rest = std::mem::take(&mut self.partial);
                return Ok((!rest.is_empty()).then_some(rest));
            }
            let newline = buffer.iter().position(|byte| *byte == b'\n');
            let take = newline.unwrap_or(buffer.len());
            let room = LINE_MAX.saturating_sub(self.partial.len());
            self.partial.extend_from_slice(&buffer[..take.min(room)]);
            reader.as_mut().consume(take + usize::from(newline.is_some()));
            if newline.is_some() {
                return Ok(Some(std::mem::take(&mut self.partial)));
            }
        }
    }
}

/// Writes noise to stderr, and waits for whoever reads it.
async fn stderr(bytes: u64, newlines: bool) -> io::Result<()> {
    let mut line = [b'e'; 80];
    if newlines {
        line[79] = b'\n';
    }
    let mut stderr = tokio::io::stderr();
    let mut left = bytes;
    while left > 0 {
        let piece = usize::try_from(left.min(80)).unwrap_or(80);
        stderr.write_all(&line[..piece]).await?;
        left -= piece as u64;
    }
    stderr.flush().await
}

/// From now on SIGTERM does nothing to this process.
#[cfg(unix)]
fn ignore_term() -> io::Result<()> {
    // Once installed, tokio's handler stays, listener or not.
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map(drop)
}

/// There is no SIGTERM here to ignore.
#[cfg(not(unix))]
fn ignore_term() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests;
