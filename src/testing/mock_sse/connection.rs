//! One TCP connection: requests in, responses out.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{Headers, Recorded, Site};
use crate::testing::faults::Do;
use crate::testing::http::{Length, head, read_body, read_head, reason};

/// A connection.
pub(super) struct Connection {
    stream: BufReader<TcpStream>,
    /// Headers that every response has.
    always: Headers,
    /// What is wrong with the head of the response to the request that was read last.
    manners: Manners,
}

/// How the head of a response is written.
#[derive(Debug, Default)]
struct Manners {
    /// The size of a header more, and whether it is one of a row without end.
    padding: Option<(usize, bool)>,
    /// Size of a piece, and wait after it.
    slice: Option<(usize, Duration)>,
}

/// Whether a connection serves another request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    Next,
    Close,
}

/// Serves the requests of a connection until it ends.
pub(super) async fn serve(site: Arc<Site>, socket: TcpStream, number: u64) {
    // Small writes are the point here; waiting to join them would hide what the script says.
    let _ = socket.set_nodelay(true);
    let always = site.server.script.http.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut connection = Connection { stream: BufReader::new(socket), always, manners: Manners::default() };
    while let Ok(Some(request)) = connection.read(number).await {
        if let Err(error) = site.requests.add(&request) {
            return site.end(Err(error));
        }
        match site.respond(&mut connection, &request).await {
            Ok(After::Next) => {}
            Ok(After::Close) | Err(_) => return,
        }
    }
}

impl Connection {
    async fn read(&mut self, number: u64) -> io::Result<Option<Recorded>> {
        let Some(head) = read_head(&mut self.stream).await? else {
            return Ok(None);
        };
        let length = head.length(Length::Bytes(0))?;
        if head.headers.lists("expect", "100-continue") {
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let body = read_body(&mut self.stream, length).await?;
        let mut words = head.first.split(' ');
        Ok(Some(Recorded {
            at: Instant::now(),
            connection: number,
            method: words.next().unwrap_or_default().to_owned(),
            target: words.next().unwrap_or_default().to_owned(),
            headers: head.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        }))
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Lets the head of the next response be as the faults say.
    pub(super) fn prepare(&mut self, faults: &[Do]) {
        self.manners = Manners::default();
        for fault in faults {
            match fault {
                Do::Header { bytes, endless } => self.manners.padding = Some((*bytes, *endless)),
                Do::Slice { bytes, gap_ms, head: true } => {
                    self.manners.slice = Some(((*bytes).max(1), Duration::from_millis(*gap_ms)));
                }
                _ => {}
            }
        }
    }

    /// Writes the head of a response.
    pub(super) async fn head(&mut self, status: u16, headers: &Headers) -> io::Result<()> {
        let first = format!("HTTP/1.1 {status} {}", reason(status));
        let mut all: Headers = headers.iter().chain(self.always.iter()).collect();
        let Some((bytes, endless)) = self.manners.padding else {
            return self.write_sliced(&head(&first, &all)).await;
        };
        let padding = "x".repeat(bytes);
        if !endless {
            all.push("X-Padding", padding);
            return self.write_sliced(&head(&first, &all)).await;
        }
        let begun = head(&first, &all);
        // Without the empty line.
        self.write_sliced(&begun[..begun.len() - 2]).await?;
        let line = format!("X-Padding: {padding}\r\n");
        loop {
            self.write_sliced(line.as_bytes()).await?;
        }
    }

    async fn write_sliced(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some((size, gap)) = self.manners.slice else {
            return self.write(bytes).await;
        };
        for piece in bytes.chunks(size) {
            self.write(piece).await?;
            tokio::time::sleep(gap).await;
        }
        Ok(())
    }

    /// Writes a whole response.
    pub(super) async fn reply(&mut self, status: u16, headers: Headers, body: &str) -> io::Result<After> {
        let mut headers = headers;
        if status != 204 && headers.get("content-length").is_none() {
            headers.push("Content-Length", body.len().to_string());
        }
        self.head(status, &headers).await?;
        self.write(body.as_bytes()).await?;
        Ok(After::Next)
    }

    /// Waits until the client has closed the connection.
    ///
    /// # Cancel safety
    /// Safe: nothing leaves the buffer.
    pub(super) async fn gone(&mut self) {
        match self.stream.fill_buf().await {
            // The next request already: the client is there, and later says so again.
            Ok(buffer) if !buffer.is_empty() => std::future::pending().await,
            _ => {}
        }
    }

    /// Lets the close of the connection be a reset.
    pub(super) fn reset(&self) -> io::Result<After> {
        socket2::SockRef::from(self.stream.get_ref()).set_linger(Some(Duration::ZERO))?;
        Ok(After::Close)
    }
}
