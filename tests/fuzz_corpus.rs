//! The inputs of the fuzz targets, without the fuzzer: what was found once stays found.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../fuzz/checks.rs"]
mod checks;

use std::fs;
use std::path::Path;

/// The name of a folder and what its files are given to.
type Target = (&'static str, fn(&[u8]));

#[test]
fn every_target_accepts_its_corpus() {
    const TARGETS: &[Target] = &[
        ("lines", checks::lines),
        ("message_edit", checks::message_edit),
        ("message_parse", checks::message_parse),
        ("sse_decode", checks::sse_decode),
        ("tape_read", checks::tape_read),
    ];
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut folders = names(&corpus);
    folders.sort();
    assert_eq!(folders, TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>(), "every folder has a target");
    for (name, check) in TARGETS {
        let folder = corpus.join(name);
        let files = names(&folder);
        assert!(!files.is_empty(), "{name} has no inputs");
        for file in files {
            // Shown only if the check fails: which input it was.
            println!("{name}/{file}");
            check(&fs::read(folder.join(file)).expect("readable"));
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a text")).collect()
}
