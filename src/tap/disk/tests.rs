use bytes::Bytes;

use std::sync::Arc;

use super::*;
use crate::metrics::Metrics;
use crate::settings::Redact;
use crate::tap::note::{FROM_CLIENT, TO_CLIENT};
use crate::tape::{Ending, Reader};

fn disk(folder: &Path, change: impl FnOnce(&mut Keeping)) -> Disk {
    let mut keeping = Keeping {
        folder: folder.to_owned(),
        upstream: "fake".to_owned(),
        file_bytes: 1 << 20,
        file_age: Duration::from_secs(3600),
        compress: false,
        open_max: 8,
        folder_bytes: 1 << 30,
    };
    change(&mut keeping);
    let redaction = Redaction::new(&Redact::default()).unwrap();
    Disk::new(keeping, redaction, Arc::new(Metrics::new()).server("fake").tapes())
}

fn write(disk: &mut Disk, entries: VecDeque<Entry>) {
    disk.write(&entries, &AtomicBool::default());
}

fn begin(number: u64) -> Entry {
    Entry::Begin(number, Box::new(Header::new(SystemTime::now())))
}

fn note(number: u64, text: &str) -> Entry {
    Entry::Note(number, Note::message(FROM_CLIENT, Bytes::from(text.to_owned())))
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What a tape says, in short, and how it ends.
fn told(path: &Path) -> (Vec<String>, Ending) {
    let mut reader = Reader::open(path).unwrap();
    let told = |frame: Frame| match (frame.kind, frame.body) {
        (Kind::Gap { lost, .. }, _) => format!("gap {lost}"),
        (Kind::End { reason, .. }, _) => reason,
        (_, Some(body)) => String::from_utf8(body.bytes().to_vec()).unwrap(),
        (kind, None) => kind.as_str().to_owned(),
    };
    let frames: Vec<Frame> = reader.by_ref().collect::<Result<_, _>>().unwrap();
    assert_eq!(frames.iter().map(|frame| frame.seq).collect::<Vec<_>>(), (1..=frames.len() as u64).collect::<Vec<_>>());
    (frames.into_iter().map(told).collect(), reader.ending())
}

/// Failure model, R5: private, and never over a file that is there.
#[cfg(unix)]
#[test]
fn tapes_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("a/tapes");
    let mut disk = disk(&folder, |_| {});
    write(&mut disk, [begin(1), note(1, "{}"), Entry::End(1, "over")].into());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    let [name] = names(&folder).try_into().unwrap();
    assert_eq!(mode(&folder.join(&name)), 0o600);
    assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c)), "{name}");
    assert!(create(&folder.join(&name)).is_err(), "a name that is taken is left alone");
}

/// C-TAPE-1: what is handed over as a piece of a stream is on the tape as its events; what only moves the cursor has no message, and
/// comments are none.
#[test]
fn a_piece_of_a_stream_is_on_the_tape_event_by_event() {
    let folder = tempfile::tempdir().unwrap();
    let mut disk = disk(folder.path(), |_| {});
    let piece = "id: 1\ndata:\n\n: alive\n\nevent: message\nid: 2\ndata: {\"a\":1}\n\ndata: {\"b\":2}\n\n";
    let piece = Note::piece(TO_CLIENT, Bytes::from(piece)).of(7);
    write(&mut disk, [begin(1), Entry::Note(1, piece)].into());
    let [name] = names(folder.path()).try_into().unwrap();
    let frames: Vec<Frame> = Reader::open(folder.path().join(name)).unwrap().collect::<Result<_, _>>().unwrap();
    let told = |frame: &Frame| {
        let text = frame.body.as_ref().map(|body| String::from_utf8(body.bytes().to_vec()).unwrap());
        (frame.kind.as_str().to_owned(), text, frame.sse.as_ref().and_then(|sse| sse.id.clone()))
    };
    let word = |text: &str| Some(text.to_owned());
    assert_eq!(
        frames.iter().map(told).collect::<Vec<_>>(),
        [
            ("event".to_owned(), None, word("1")),
            ("message".to_owned(), word(r#"{"a":1}"#), word("2")),
            ("message".to_owned(), word(r#"{"b":2}"#), None),
        ]
    );
    assert!(frames.iter().all(|frame| frame.exchange == Some(7) && !frame.is_upward()));
}

/// C-TAPE-1: what was written can be read before the tape ends, and compressed as well.
#[test]
fn a_tape_can_be_read_while_it_is_written() {
    for compress in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = disk(folder.path(), |keeping| keeping.compress = compress);
        write(&mut disk, [begin(1), note(1, r#"{"a":1}"#)].into());
        write(&mut disk, [note(1, "no JSON")].into());
        let [name] = names(folder.path()).try_into().unwrap();
        assert_eq!(name.ends_with(".zst"), compress);
        let path = folder.path().join(name);
        assert_eq!(told(&path), (vec![r#"{"a":1}"#.to_owned(), "no JSON".to_owned()], Ending::CutShort));
        write(&mut disk, [Entry::End(1, "over")].into());
        let (frames, ending) = told(&path);
        assert_eq!(frames, [r#"{"a":1}"#, "no JSON", "over"]);
        assert_eq!(ending, Ending::Proper { reason: "over".to_owned(), next: None });
    }
}

/// A tape on which nothing happened is no file.
#[test]
fn an_empty_tape_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut disk = disk(folder.path(), |_| {});
    write(&mut disk, [begin(1)].into());
    write(&mut disk, [Entry::End(1, "over")].into());
    assert_eq!(names(folder.path()), [""; 0]);
}

/// C-TAPE-1: a tape that is large or old goes on in another file, and both say so.
#[test]
fn tapes_rotate_and_the_parts_name_each_other() {
    for by_age in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = disk(folder.path(), |keeping| match by_age {
            true => keeping.file_age = Duration::ZERO,
            false => keeping.file_bytes = 300,
        });
        write(
            &mut disk,
            [begin(1), note(1, &format!("\"{}\"", "x".repeat(300))), note(1, "2"), Entry::End(1, "over")].into(),
        );
        let parts: Vec<_> = names(folder.path())
            .into_iter()
            .map(|name| (Reader::open(folder.path().join(&name)).unwrap().header().clone(), name))
            .collect();
        assert_eq!(parts.len(), 2, "{parts:?}");
        let first = parts.iter().find(|(header, _)| header.continues.is_none()).unwrap();
        let second = parts.iter().find(|(header, _)| header.continues.as_ref() == Some(&first.1)).unwrap();
        let (_, ending) = told(&folder.path().join(&first.1));
        assert_eq!(ending, Ending::Proper { reason: "rotated".to_owned(), next: Some(second.1.clone()) });
        assert_eq!(told(&folder.path().join(&second.1)).0, ["2", "over"]);
    }
}

/// Most files that are open at once: a tape whose file was closed goes on in the same file.
#[test]
fn few_files_are_open_however_many_tapes_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let mut disk = disk(folder.path(), |keeping| keeping.open_max = 3);
    for round in 0..3 {
        for number in 0..20 {
            let begun = (round == 0).then(|| begin(number));
            write(&mut disk, begun.into_iter().chain([note(number, &format!("[{number},{round}]"))]).collect());
            let open =
                disk.tapes.values().filter(|tape| tape.current.as_ref().is_some_and(|current| current.file.is_some()));
            assert!(open.count() <= 3);
        }
    }
    let mut all: Vec<Vec<String>> = names(folder.path()).iter().map(|name| told(&folder.path().join(name)).0).collect();
    all.sort_by_key(|frames| frames[0].len());
    assert_eq!(all.len(), 20);
    for frames in all {
        let number = frames[0].trim_start_matches('[').split(',').next().unwrap();
        assert_eq!(frames, (0..3).map(|round| format!("[{number},{round}]")).collect::<Vec<_>>());
    }
}

/// Failure model, R1 and R7: a disk that takes nothing more loses what comes, says how much once it works again, and leaves no torn
/// line behind.
#[tokio::test(start_paused = true)]
async fn a_full_disk_is_said_on_the_tape_once_there_is_room_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut disk = disk(folder.path(), |_| {});
    write(&mut disk, [begin(1), note(1, "1")].into());
    disk.keeping.folder_bytes = disk.used + 10;
    write(&mut disk, [note(1, "2"), note(1, "3")].into());
    assert!(!disk.is_fine());
    // It is left alone for a while.
    disk.keeping.folder_bytes = 1 << 30;
    write(&mut disk, [note(1, "4")].into());
    assert!(!disk.is_fine());
    tokio::time::advance(PAUSE).await;
    write(&mut disk, VecDeque::new());
    assert!(disk.is_fine(), "it is tried again though nothing comes");
    write(&mut disk, [note(1, "5"), Entry::End(1, "over")].into());
    let [name] = names(folder.path()).try_into().unwrap();
    assert_eq!(told(&folder.path().join(name)).0, ["1", "gap 3", "5", "over"]);
}

/// A folder that was taken away is made again, and a tape that could not be begun says what is missing.
#[tokio::test(start_paused = true)]
async fn a_full_folder_is_complained_of_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut disk = disk(folder.path(), |_| {});
    write(&mut disk, [begin(1), note(1, "1"), begin(2), note(2, "2")].into());
    let large = format!("\"{}\"", "x".repeat(2000));
    disk.keeping.folder_bytes = disk.used + 1000;
    write(&mut disk, [note(1, &large), Entry::End(1, "over")].into());
    assert!(disk.complained.is_some());
    write(&mut disk, [note(2, "3")].into());
    assert!(disk.is_fine() && disk.complained.is_some(), "what is small still fits, which is no news");
    disk.keeping.folder_bytes = 1 << 30;
    write(&mut disk, [note(2, "4")].into());
    assert!(disk.complained.is_none(), "there is room again: another failure would be news");
}

#[tokio::test(start_paused = true)]
async fn a_tape_that_could_not_be_begun_says_what_is_missing() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("tapes");
    let mut disk = disk(&folder, |_| {});
    fs::remove_dir(&folder).unwrap();
    write(&mut disk, [begin(1), note(1, "1")].into());
    assert!(!disk.is_fine());
    fs::create_dir(&folder).unwrap();
    tokio::time::advance(PAUSE).await;
    write(&mut disk, [note(1, "2")].into());
    assert!(disk.is_fine());
    let [name] = names(&folder).try_into().unwrap();
    assert_eq!(told(&folder.join(name)).0, ["gap 1", "2"]);
}

/// A file that has grown in spite of a failure is taken back to what is good; if that cannot be, the tape goes on in another.
#[tokio::test(start_paused = true)]
async fn a_torn_write_is_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut disk = disk(folder.path(), |_| {});
    write(&mut disk, [begin(1), note(1, "1")].into());
    let [name] = names(folder.path()).try_into().unwrap();
    let path = folder.path().join(&name);
    // As if half of the next line had come to the disk before it was full.
    let current = disk.tapes.get_mut(&1).unwrap().current.as_mut().unwrap();
    current.file.as_mut().unwrap().write_all(b"{\"seq\":2,").unwrap();
    assert!(!disk.tapes.get_mut(&1).unwrap().take_back(folder.path()));
    assert_eq!(told(&path), (vec!["1".to_owned()], Ending::CutShort));
    // And one that cannot be taken back: the file cannot be written at all.
    let current = disk.tapes.get_mut(&1).unwrap().current.as_mut().unwrap();
    current.file = Some(File::open(&path).unwrap());
    write(&mut disk, [note(1, "2")].into());
    assert!(!disk.is_fine());
    tokio::time::advance(PAUSE).await;
    write(&mut disk, [note(1, "3")].into());
    let next = names(folder.path()).into_iter().find(|other| *other != name).unwrap();
    let next = folder.path().join(next);
    assert_eq!(Reader::open(&next).unwrap().header().continues.as_ref(), Some(&name));
    assert_eq!(told(&next).0, ["gap 1", "3"]);
}
