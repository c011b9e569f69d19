//! What is recorded is what crossed the wire: `serve --record` with real clients, servers, processes and disks (C-TAPE).
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/mod.rs"]
mod common;

#[path = "recording/disk.rs"]
mod disk;
#[path = "recording/faults.rs"]
mod faults;
#[path = "recording/wire.rs"]
mod wire;

use std::path::Path;

use serde_json::Value;
use shadowcat::settings::{Record, RecordEdges, Settings};
use shadowcat::tape::{Edge, Ending, Frame, Header, Kind, Party, Reader};

/// A tape as it lies on the disk.
#[derive(Debug)]
pub(crate) struct OnDisk {
    pub(crate) name: String,
    pub(crate) header: Header,
    pub(crate) frames: Vec<Frame>,
    pub(crate) ending: Ending,
}

/// All tapes in a folder, by name.
pub(crate) fn tapes(folder: &Path) -> Vec<OnDisk> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .map(|entries| entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
        .unwrap_or_default();
    names.retain(|name| name.contains(".tape.jsonl"));
    names.sort();
    names.into_iter().map(|name| read(folder, name)).collect()
}

fn read(folder: &Path, name: String) -> OnDisk {
    let mut reader = Reader::open(folder.join(&name)).unwrap();
    let frames: Vec<Frame> = reader.by_ref().collect::<Result<_, _>>().unwrap();
    for (index, pair) in frames.windows(2).enumerate() {
        assert!(pair[1].at >= pair[0].at, "{name}: frame {index} is later than the next one");
    }
    let numbers: Vec<u64> = frames.iter().map(|frame| frame.seq).collect();
    assert_eq!(numbers, (1..=frames.len() as u64).collect::<Vec<_>>(), "{name}");
    OnDisk { name, header: reader.header().clone(), frames, ending: reader.ending() }
}

impl OnDisk {
    /// The messages that went this way, as text.
    pub(crate) fn said(&self, from: Party, to: Party) -> Vec<String> {
        let way = self.frames.iter().filter(|frame| (frame.from, frame.to) == (Some(from), Some(to)));
        way.filter_map(text).collect()
    }

    pub(crate) fn edge(&self, edge: Edge) -> impl Iterator<Item = &Frame> {
        self.frames.iter().filter(move |frame| frame.edge() == Some(edge))
    }

    pub(crate) fn has_message_with(&self, part: &str) -> bool {
        self.frames.iter().filter_map(text).any(|text| text.contains(part))
    }

    /// Every gap: how much is missing.
    pub(crate) fn lost(&self) -> u64 {
        let lost = |frame: &Frame| match &frame.kind {
            Kind::Gap { lost, .. } => *lost,
            _ => 0,
        };
        self.frames.iter().map(lost).sum()
    }
}

pub(crate) fn text(frame: &Frame) -> Option<String> {
    frame.body.as_ref().map(|body| String::from_utf8(body.bytes().to_vec()).unwrap())
}

/// Records into this folder.
pub(crate) fn recorded(folder: &Path, edges: RecordEdges) -> impl FnOnce(&mut Settings) {
    let record = Record { edges, ..Record::to(folder) };
    move |settings| settings.upstreams[0].record = Some(record)
}

pub(crate) fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}
