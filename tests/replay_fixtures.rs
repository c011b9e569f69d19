//! Tapes of real clients and servers, made with the official SDKs: each is played through the proxy (C-TAPE-4, C-TAPE-6).
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::PathBuf;

use shadowcat::tape::{Edge, Tape};
use shadowcat::through::{Options, through};

use common::{PROGRAM, within};

/// No fixture is larger than this.
const BYTES_MAX: u64 = 100_000;

fn fixtures() -> Vec<PathBuf> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/tapes");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut tapes: Vec<PathBuf> = entries.filter(|path| path.to_string_lossy().ends_with(".tape.jsonl")).collect();
    tapes.sort();
    tapes
}

/// The proxy says to each client and each server of a tape what it said when that was made.
#[tokio::test]
async fn what_real_clients_and_servers_said_comes_to_the_same() {
    let mut played = 0;
    for path in fixtures() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(std::fs::metadata(&path).unwrap().len() < BYTES_MAX, "{name} is too large");
        let tape = Tape::open(&path).unwrap();
        assert!(tape.faults.is_empty(), "{name}: {:?}", tape.faults);
        if !tape.header.edges.contains(&Edge::Upstream) {
            continue;
        }
        let outcome = within(&name, through(&tape, &Options::default(), |_| {})).await.unwrap();
        assert_eq!(outcome.findings, [] as [String; 0], "{name}");
        played += 1;
    }
    assert!(played >= 8, "there are tapes of every cell");
}

/// What replays a tape answers as the tape says, and tells what it says before that.
#[tokio::test]
async fn a_tape_that_is_replayed_is_as_it_was() {
    let verify = |path: PathBuf| {
        let tape = path.display().to_string();
        let run = move || {
            let args = ["verify", &tape, "--", PROGRAM, "replay", "--edge", "client", &tape];
            let output = assert_cmd::Command::new(PROGRAM).env_clear().args(args).output().unwrap();
            (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
        };
        async move { (path, tokio::task::spawn_blocking(run).await.unwrap()) }
    };
    let verified = futures_util::future::join_all(fixtures().into_iter().map(verify)).await;
    assert!(verified.len() > 10);
    for (path, (code, said)) in verified {
        assert_eq!(code, Some(0), "{}: {said}", path.display());
    }
}
