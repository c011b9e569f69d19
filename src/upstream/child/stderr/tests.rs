use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::AsyncWriteExt;

use super::*;

fn lines_of(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
    let (mut lines, mut out) = (Lines::default(), vec![]);
    for piece in pieces {
        lines.feed(piece, |line| out.push(line.to_vec()));
        assert!(lines.partial.len() < LINE_BYTES);
    }
    lines.finish(|line| out.push(line.to_vec()));
    out
}

#[test]
fn lines_do_not_depend_on_how_they_arrive() {
    let text = b"one\r\n\ntwo\nthree";
    let whole = lines_of(&[text]);
    assert_eq!(whole, [&b"one"[..], b"", b"two", b"three"]);
    for at in 0..=text.len() {
        let (left, right) = text.split_at(at);
        assert_eq!(lines_of(&[left, right]), whole, "split at {at}");
    }
    assert_eq!(lines_of(&text.chunks(1).collect::<Vec<_>>()), whole);
}

#[test]
fn an_overlong_line_is_cut_and_the_next_one_is_whole() {
    let mut text = vec![b'x'; 3 * LINE_BYTES + 7];
    text.extend(b"\nnext\n");
    for size in [1000, READ_BYTES, text.len()] {
        let lines = lines_of(&text.chunks(size).collect::<Vec<_>>());
        assert_eq!(lines.iter().map(Vec::len).collect::<Vec<_>>(), [LINE_BYTES, 4], "in pieces of {size}");
    }
}

#[test]
fn the_tail_keeps_the_last_bytes() {
    let tail = Tail::default();
    tail.push(&vec![b'a'; TAIL_BYTES]);
    tail.push(b"bc\r\nd\n");
    let text = tail.text();
    assert!(text.starts_with("aaa") && text.ends_with("abc\nd\n"));
    assert_eq!(text.len(), TAIL_BYTES - 1, "the carriage return is not shown");
    tail.push(&vec![b'z'; 3 * TAIL_BYTES]);
    assert_eq!(tail.text(), "z".repeat(TAIL_BYTES));
}

#[test]
fn nothing_reaches_a_terminal_that_could_change_it() {
    let shown = |bytes: &[u8]| Printable(bytes).to_string();
    assert_eq!(shown("Grüße, 世界 \"quoted\" \\".as_bytes()), "Grüße, 世界 \"quoted\" \\");
    assert_eq!(shown(b"\x1b[31mred\x07\0\ttab"), r"\u{1b}[31mred\u{7}\u{0}\ttab");
    assert_eq!(shown("a\u{202e}b\u{9b}c".as_bytes()), r"a\u{202e}b\u{9b}c");
    assert_eq!(shown(b"ok\xff\xc3"), r"ok\xff\xc3");
}

#[derive(Debug, Default)]
struct Counts {
    lines: AtomicU64,
    suppressed: AtomicU64,
}

impl ChildEvents for Counts {
    fn stderr(&self, lines: u64, suppressed: u64) {
        self.lines.fetch_add(lines, Ordering::Relaxed);
        self.suppressed.fetch_add(suppressed, Ordering::Relaxed);
    }
}

impl Counts {
    fn get(&self) -> (u64, u64) {
        (self.lines.load(Ordering::Relaxed), self.suppressed.load(Ordering::Relaxed))
    }
}

#[tokio::test(start_paused = true)]
async fn ten_lines_per_second_are_logged_and_the_rest_is_counted() {
    let (mut pen, pipe) = tokio::io::duplex(1 << 16);
    let (_publish, exited) = watch::channel(None);
    let (tail, counts) = (Arc::new(Tail::default()), Arc::new(Counts::default()));
    let write = async {
        pen.write_all("line\n".repeat(25).as_bytes()).await.unwrap();
        tokio::time::sleep(WINDOW).await;
        assert_eq!(counts.get(), (25, 15));
        pen.write_all("line\n".repeat(10).as_bytes()).await.unwrap();
        pen.write_all(b"no end").await.unwrap();
        drop(pen);
    };
    tokio::join!(pump(pipe, Arc::clone(&tail), Arc::clone(&counts) as _, exited), write);
    assert_eq!(counts.get(), (36, 16));
    assert!(tail.text().ends_with("line\nno end"));
}

#[tokio::test(start_paused = true)]
async fn a_pipe_without_end_is_left_shortly_after_the_exit() {
    let (mut pen, pipe) = tokio::io::duplex(1 << 16);
    let (publish, exited) = watch::channel(None);
    let tail = Arc::new(Tail::default());
    pen.write_all(b"last words").await.unwrap();
    publish.send(Some(Exit::Unknown)).unwrap();
    let start = Instant::now();
    pump(pipe, Arc::clone(&tail), Arc::new(()), exited).await;
    assert_eq!(start.elapsed(), DRAIN);
    tail.complete().await;
    assert_eq!(tail.text(), "last words");
}

#[tokio::test]
async fn a_pump_that_never_ran_leaves_nobody_waiting() {
    let (_publish, exited) = watch::channel(None);
    let tail = Arc::new(Tail::default());
    drop(pump(tokio::io::empty(), Arc::clone(&tail), Arc::new(()), exited));
    tail.complete().await;
}
