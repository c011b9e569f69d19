//! A response as the bytes that come over the socket.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;

/// The end of a body in chunks. (Without its first line end, a session id that ends in 0 would be taken for it.)
pub(super) const LAST_CHUNK: &str = "\r\n0\r\n\r\n";

/// A connection on which one request was sent.
pub(super) struct Raw {
    stream: TcpStream,
    /// What has come.
    pub(super) came: Vec<u8>,
}

impl Raw {
    /// Sends a request with these headers besides `Host` and `Content-Length`.
    pub(super) async fn send(mock: &MockSse, first: &str, headers: &[(&str, &str)], body: &str) -> Raw {
        let mut stream = TcpStream::connect(mock.address()).await.unwrap();
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = body.len();
        let text = format!("{first} HTTP/1.1\r\nHost: fake\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
        stream.write_all(text.as_bytes()).await.unwrap();
        Raw { stream, came: Vec::new() }
    }

    /// An `initialize`: the one request that needs no session.
    pub(super) async fn initialize(mock: &MockSse) -> Raw {
        let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "t", "version": "0" } });
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params });
        let accept = ("Accept", "application/json, text/event-stream");
        Raw::send(mock, "POST /mcp", &[("Content-Type", "application/json"), accept], &body.to_string()).await
    }

    /// The stream of a 2024-11-05 session.
    pub(super) async fn sse(mock: &MockSse) -> Raw {
        Raw::send(mock, "GET /sse", &[("Accept", "text/event-stream")], "").await
    }

    /// Reads once; how many bytes came, 0 at the end.
    async fn read(&mut self) -> std::io::Result<usize> {
        timeout(PATIENCE, self.stream.read_buf(&mut self.came)).await.expect("something comes, or the end")
    }

    /// Reads until so many bytes have come, or more.
    pub(super) async fn bytes(&mut self, count: usize) {
        while self.came.len() < count {
            assert_ne!(self.read().await.unwrap(), 0, "{}", self.text());
        }
    }

    /// Reads until this has come; everything that has.
    pub(super) async fn until(&mut self, text: &str) -> String {
        while !self.text().contains(text) {
            assert_ne!(self.read().await.unwrap(), 0, "{}", self.text());
        }
        self.text()
    }

    /// Reads to the end of the connection.
    pub(super) async fn end(&mut self) -> std::io::Result<()> {
        while self.read().await? > 0 {}
        Ok(())
    }

    /// Everything to the end of the connection.
    pub(super) async fn all(mut self) -> std::io::Result<String> {
        self.end().await?;
        Ok(self.text())
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.came).into_owned()
    }

    /// Whether nothing more comes for a while.
    pub(super) async fn silent(&mut self) -> bool {
        timeout(Duration::from_millis(200), self.stream.read_buf(&mut self.came)).await.is_err()
    }
}

/// Head and body.
pub(super) fn parts(text: &str) -> (&str, &str) {
    text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text}"))
}
