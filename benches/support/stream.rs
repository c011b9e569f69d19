//! The standing stream of a session, read byte for byte.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::process::Server;

const PATIENCE: Duration = Duration::from_secs(10);
const EVENT: &[u8] = b"notifications/message";

pub struct Listener {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Listener {
    /// Opens the stream of a session, up to the head of the response.
    pub async fn open(server: &Server, session: &str) -> Listener {
        let url = server.target.to_string();
        let (authority, path) = url.trim_start_matches("http://").split_once('/').unwrap();
        let mut stream = TcpStream::connect(authority).await.unwrap();
        let request = format!(
            "GET /{path} HTTP/1.1\r\nHost: {authority}\r\nAccept: text/event-stream\r\n\
             Mcp-Session-Id: {session}\r\nMcp-Protocol-Version: 2025-11-25\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut listener = Listener { stream, read: Vec::with_capacity(1024) };
        listener.until(b"\r\n\r\n").await;
        assert!(listener.read.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&listener.read));
        listener
    }

    /// Waits for the next log message.
    pub async fn next(&mut self) {
        let end = self.until(EVENT).await;
        self.read.drain(..end);
    }

    async fn until(&mut self, wanted: &[u8]) -> usize {
        loop {
            if let Some(at) = memchr::memmem::find(&self.read, wanted) {
                return at + wanted.len();
            }
            let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.read)).await;
            assert!(read.expect("something comes").unwrap() > 0, "the stream has ended");
        }
    }
}
