//! C-TAPE-1: a tape can be read while it is written, and after a crash.

use std::cell::RefCell;
use std::io::{Read, Write as _};
use std::rc::Rc;

use super::super::format::Party;
use super::*;

fn tape(frames: u64) -> Vec<u8> {
    let mut text = Vec::new();
    Header::new(std::time::UNIX_EPOCH).write(&mut text);
    for seq in 1..=frames {
        let message = format!(r#"{{"jsonrpc":"2.0","id":{seq},"method":"ping"}}"#);
        Frame::message(seq, seq * 10, Party::Client, Party::Proxy, message).write(&mut text);
    }
    text
}

fn end(text: &mut Vec<u8>) {
    Frame::new(99, 999, Kind::End { reason: "done".into(), next: None }).write(text);
}

fn read(text: &[u8]) -> Result<(Vec<u64>, Ending), TapeError> {
    let mut reader = Reader::new(text)?;
    let frames: Result<Vec<_>, _> = reader.by_ref().map(|frame| frame.map(|frame| frame.seq)).collect();
    frames.map(|frames| (frames, reader.ending()))
}

#[test]
fn a_tape_that_is_torn_anywhere_is_read_up_to_there() {
    let whole = tape(3);
    let ends: Vec<usize> = memchr::memchr_iter(b'\n', &whole).collect();
    for cut in ends[0]..=whole.len() {
        let (frames, ending) = read(&whole[..cut]).unwrap();
        // A line is whole with its last byte, even without its end.
        let complete = ends[1..].iter().filter(|end| **end <= cut).count() as u64;
        assert_eq!(frames, (1..=complete).collect::<Vec<_>>(), "cut at {cut}");
        let begun = ends.iter().rev().find(|end| **end <= cut).map_or(0, |end| cut.saturating_sub(end + 1));
        let expected = if begun == 0 { Ending::CutShort } else { Ending::Torn { bytes: begun as u64 } };
        assert_eq!(ending, expected, "cut at {cut}");
    }
    for cut in 1..ends[0] {
        let error = read(&whole[..cut]).unwrap_err();
        assert!(matches!(error, TapeError::Header(HeaderError::NotATape)), "cut at {cut}: {error}");
    }
}

#[test]
fn a_tape_that_was_ended_says_so() {
    let mut text = tape(1);
    assert_eq!(read(&text).unwrap().1, Ending::CutShort);
    end(&mut text);
    assert_eq!(read(&text).unwrap(), (vec![1, 99], Ending::Proper { reason: "done".into(), next: None }));
}

#[test]
fn a_broken_line_costs_only_itself() {
    let mut text = tape(1);
    text.extend_from_slice(b"nonsense\r\n\n");
    end(&mut text);
    let mut reader = Reader::new(&text[..]).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().seq, 1);
    let error = reader.next().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "line 3 of the tape is broken: not valid JSON at byte 0");
    assert!(error.is_of_one_line());
    assert_eq!(reader.next().unwrap().unwrap().seq, 99);
    assert!(reader.next().is_none());
    assert!(matches!(reader.ending(), Ending::Proper { .. }));
}

#[test]
fn a_line_without_end_takes_no_memory() {
    struct Endless(u64);
    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = buffer.len().min(usize::try_from(self.0).unwrap());
            buffer[..length].fill(b'x');
            self.0 -= length as u64;
            Ok(length)
        }
    }
    let start = tape(0);
    let source = BufReader::new(start.as_slice().chain(Endless(1 << 24)).chain(&b"\n"[..]));
    let mut reader = Reader::with_limit(source, 1000).unwrap();
    let error = reader.next().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "line 2 of the tape is longer than 1000 bytes");
    assert!(error.is_of_one_line() && reader.line.capacity() < 1 << 18);
    assert!(reader.next().is_none());
}

#[test]
fn a_tape_can_be_followed_while_it_is_written() {
    #[derive(Clone, Default)]
    struct Growing(Rc<RefCell<(Vec<u8>, usize)>>);
    impl Read for Growing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let (text, read) = &mut *self.0.borrow_mut();
            let length = (&text[*read..]).read(buffer)?;
            *read += length;
            Ok(length)
        }
    }
    let source = Growing::default();
    let whole = tape(2);
    let (before, after) = whole.split_at(whole.len() - 20);
    source.0.borrow_mut().0.extend_from_slice(before);
    let mut reader = Reader::new(BufReader::new(source.clone())).unwrap();
    assert_eq!(reader.next_written().unwrap().unwrap().seq, 1);
    assert!(reader.next_written().unwrap().is_none());
    source.0.borrow_mut().0.extend_from_slice(after);
    assert_eq!(reader.next_written().unwrap().unwrap().seq, 2);
    assert!(reader.next_written().unwrap().is_none());
}

#[test]
fn compressed_tapes_are_read_likewise_and_up_to_where_they_break_off() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("any-name");
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.write_all(&tape(2)).unwrap();
    encoder.flush().unwrap();
    let so_far = encoder.get_ref().len();
    let mut more = Vec::new();
    end(&mut more);
    encoder.write_all(&more).unwrap();
    let whole = encoder.finish().unwrap();

    let read = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let mut reader = Reader::open(&path).unwrap();
        let frames: Vec<u64> = reader.by_ref().map(|frame| frame.unwrap().seq).collect();
        (frames, reader.ending())
    };
    assert_eq!(read(&whole), (vec![1, 2, 99], Ending::Proper { reason: "done".into(), next: None }));
    // What was flushed before a crash is there.
    assert_eq!(read(&whole[..so_far + 2]), (vec![1, 2], Ending::Torn { bytes: 0 }));
}

#[test]
fn what_is_no_tape_is_told() {
    let told = |text: &[u8]| Reader::new(text).err().map(|error| error.to_string()).unwrap();
    assert_eq!(told(b""), "the tape is empty");
    assert_eq!(told(b"\x7fELF"), "not a tape: the first line is no header");
    assert_eq!(
        told(b"{\"shadowcat_tape\":7}\n"),
        "the tape has version 7 and was made by a newer shadowcat: this one reads up to version 1"
    );
    let missing = Reader::open("/nowhere/at/all").err().unwrap().to_string();
    assert!(missing.starts_with("the tape cannot be read: No such file"), "{missing}");
}
