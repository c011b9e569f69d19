//! The body of a response: how its end is told, and what is done to all of its bytes.

use std::io;
use std::time::Duration;

use super::Headers;
use super::connection::{After, Connection};
use super::gzip::Gzip;
use crate::testing::faults::{BodyEnd, Do, End};
use crate::testing::http::chunk;
use crate::testing::wire::{BOM, Step};

/// A body that is being written.
#[derive(Debug, Default)]
pub(super) struct Body {
    /// As the faults want it told, before it begins; then as it is.
    told: Option<BodyEnd>,
    /// Whether it is said to be compressed.
    coded: bool,
    /// What compresses that which comes.
    gzip: Option<Gzip>,
    bom: bool,
    linger: Duration,
    /// Whether a chunk has been begun that is longer than what came of it.
    mid_chunk: bool,
}

impl Body {
    /// A body with what the faults say of it.
    pub(super) fn new(faults: &[Do]) -> Body {
        let mut body = Body::default();
        for fault in faults {
            match fault {
                Do::BodyEnd(end) => body.told = Some(*end),
                Do::Gzip => (body.coded, body.gzip) = (true, Some(Gzip::default())),
                Do::Bom => body.bom = true,
                Do::Linger { ms } => body.linger = Duration::from_millis(*ms),
                _ => {}
            }
        }
        body
    }

    /// Decides how the end is told, unless the faults do, and says so in the headers.
    pub(super) fn announce(&mut self, otherwise: BodyEnd, headers: &mut Headers) {
        match self.told.get_or_insert(otherwise) {
            BodyEnd::Chunked => headers.push("Transfer-Encoding", "chunked"),
            BodyEnd::Close => headers.push("Connection", "close"),
            BodyEnd::Length(bytes) => headers.push("Content-Length", bytes.to_string()),
        }
        if self.coded {
            headers.push("Content-Encoding", "gzip");
        }
    }

    /// What becomes of all steps of a body of which nothing more will come, and how many bytes that are. Nothing has to be
    /// encoded when they are performed.
    pub(super) fn encode_all(&mut self, steps: Vec<Step>) -> (Vec<Step>, usize) {
        let is_cut = |step: &Step| matches!(step, Step::Stall | Step::Close(End::Abrupt | End::MidChunk | End::Reset));
        let cut = steps.iter().any(is_cut);
        let encode = |step| match step {
            Step::Write(bytes) => Step::Write(self.encode(&bytes)),
            other => other,
        };
        let mut steps: Vec<Step> = steps.into_iter().map(encode).collect();
        if let (Some(gzip), false) = (self.gzip.take(), cut) {
            let end = steps.iter().position(|step| matches!(step, Step::Close(_))).unwrap_or(steps.len());
            steps.insert(end, Step::Write(gzip.finish()));
        }
        let length = steps.iter().map(|step| if let Step::Write(bytes) = step { bytes.len() } else { 0 }).sum();
        (steps, length)
    }

    fn encode(&mut self, bytes: &[u8]) -> Vec<u8> {
        let marked = if std::mem::take(&mut self.bom) { [BOM, bytes].concat() } else { bytes.to_vec() };
        match &mut self.gzip {
            Some(gzip) => gzip.encode(&marked),
            None => marked,
        }
    }

    /// Does what a wire says; what becomes of the connection, if that is decided.
    pub(super) async fn perform(&mut self, connection: &mut Connection, steps: Vec<Step>) -> io::Result<Option<After>> {
        let mut steps = steps.into_iter().peekable();
        while let Some(step) = steps.next() {
            match step {
                Step::Write(bytes) => {
                    let bytes = self.encode(&bytes);
                    self.mid_chunk = steps.peek() == Some(&Step::Close(End::MidChunk));
                    self.write(connection, &bytes).await?;
                }
                Step::Pause(gap) => tokio::time::sleep(gap).await,
                Step::Stall => {
                    connection.gone().await;
                    return Ok(Some(After::Close));
                }
                Step::Close(end) => return self.end(connection, end).await.map(Some),
            }
        }
        Ok(None)
    }

    async fn write(&mut self, connection: &mut Connection, bytes: &[u8]) -> io::Result<()> {
        match self.told {
            Some(BodyEnd::Chunked) if self.mid_chunk => {
                connection.write(&[format!("{:x}\r\n", bytes.len() + 1).as_bytes(), bytes].concat()).await
            }
            Some(BodyEnd::Chunked) => connection.write(&chunk(bytes)).await,
            _ => connection.write(bytes).await,
        }
    }

    /// Ends the body.
    pub(super) async fn end(&mut self, connection: &mut Connection, end: End) -> io::Result<After> {
        if let (End::Clean, Some(gzip)) = (end, self.gzip.take()) {
            self.write(connection, &gzip.finish()).await?;
        }
        if !self.linger.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(self.linger) => {}
                () = connection.gone() => return Ok(After::Close),
            }
        }
        match (end, self.told) {
            (End::Clean, Some(BodyEnd::Chunked)) => {
                connection.write(b"0\r\n\r\n").await?;
                Ok(After::Next)
            }
            (End::Clean, Some(BodyEnd::Close)) => Ok(After::Close),
            (End::Clean, _) => Ok(After::Next),
            (End::MidChunk, Some(BodyEnd::Chunked)) if !self.mid_chunk => {
                connection.write(b"1\r\n").await?;
                Ok(After::Close)
            }
            (End::Abrupt | End::MidChunk, _) => Ok(After::Close),
            (End::Reset, _) => connection.reset(),
        }
    }
}
