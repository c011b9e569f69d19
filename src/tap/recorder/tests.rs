use std::sync::Condvar;

use bytes::Bytes;

use super::*;
use crate::metrics::Metrics;
use crate::tap::note::{FROM_CLIENT, TO_CLIENT};

/// A disk that writes when it is told to, and fails when it is told to.
#[derive(Clone, Default)]
struct Slow(Arc<(Mutex<Inner>, Condvar)>);

#[derive(Default)]
struct Inner {
    open: bool,
    broken: bool,
    written: Vec<String>,
}

impl Slow {
    fn set(&self, open: bool) {
        lock(&self.0.0).open = open;
        self.0.1.notify_all();
    }

    fn written(&self) -> Vec<String> {
        lock(&self.0.0).written.clone()
    }
}

impl Sink for Slow {
    fn write(&mut self, entries: &VecDeque<Entry>, _behind: &AtomicBool) {
        let inner = lock(&self.0.0);
        let mut inner = self.0.1.wait_while(inner, |inner| !inner.open && !entries.is_empty()).unwrap();
        for entry in entries {
            inner.written.push(match entry {
                Entry::Begin(..) => "begin".to_owned(),
                Entry::Note(_, note) => String::from_utf8(note.body.as_ref().unwrap().to_vec()).unwrap(),
                Entry::Lost(_, loss) => format!("lost {} ({} bytes)", loss.notes, loss.bytes),
                Entry::End(_, reason) => (*reason).to_owned(),
            });
        }
    }

    fn is_fine(&self) -> bool {
        !lock(&self.0.0).broken
    }
}

fn note(text: &str) -> Note {
    Note::message(FROM_CLIENT, Bytes::from(text.to_owned()))
}

fn start(policy: RecordPolicy, slow: &Slow) -> (Recorder, Tape, Tasks) {
    let tasks = Tasks::new();
    let metrics = Arc::new(Metrics::new()).server("fake").tapes();
    let bounds = Bounds { notes: 4, bytes: 1 << 20 };
    let recorder = Recorder::start(policy, bounds, slow.clone(), &tasks, metrics, || {});
    let tape = recorder.tape(Header::new(std::time::SystemTime::now()));
    (recorder, tape, tasks)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Waits until the task has taken what there is, and is held up by the disk with it.
async fn taken(recorder: &Recorder) {
    while !lock(&recorder.0.queue).entries.is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// C-TAPE-3: with `drop`, nobody waits for a disk that does not keep up; what is missing is counted, and said where it is missing.
#[tokio::test]
async fn what_a_slow_disk_cannot_take_is_dropped_and_said_so_where_it_is_missing() {
    let slow = Slow::default();
    let (recorder, tape, _tasks) = start(RecordPolicy::Drop, &slow);
    taken(&recorder).await;
    for text in ["1", "2", "3", "4", "five", "six"] {
        tape.note(note(text)).await.unwrap();
    }
    tape.note_now(note("7"));
    // Of a piece of a stream, each event counts.
    tape.note_now(Note::piece(TO_CLIENT, Bytes::from("data: {}\n\ndata: []\n\n")));
    slow.set(true);
    taken(&recorder).await;
    tape.note(note("8")).await.unwrap();
    tape.end("over");
    assert!(recorder.close(soon()).await);
    assert_eq!(slow.written(), ["begin", "1", "2", "3", "4", "lost 5 (12 bytes)", "8", "over"]);
}

/// C-TAPE-3: what is lost behind the last note is said, too.
#[tokio::test]
async fn a_tape_whose_last_notes_were_lost_says_so_at_its_end() {
    let slow = Slow::default();
    let (recorder, tape, _tasks) = start(RecordPolicy::Drop, &slow);
    taken(&recorder).await;
    for text in ["1", "2", "3", "4", "five"] {
        tape.note(note(text)).await.unwrap();
    }
    drop(tape);
    slow.set(true);
    assert!(recorder.close(soon()).await);
    assert_eq!(slow.written(), ["begin", "1", "2", "3", "4", "lost 1 (4 bytes)", "nobody uses it any more"]);
}

/// C-TAPE-3: with `block`, traffic waits for the disk, and nothing is lost.
#[tokio::test]
async fn traffic_waits_for_a_slow_disk_and_nothing_is_lost() {
    for policy in [RecordPolicy::Block, RecordPolicy::Required] {
        let slow = Slow::default();
        let (recorder, tape, _tasks) = start(policy, &slow);
        taken(&recorder).await;
        for text in ["1", "2", "3", "4"] {
            tape.note(note(text)).await.unwrap();
        }
        let waiting = tape.note(note("5"));
        tokio::pin!(waiting);
        assert!(futures_util::poll!(waiting.as_mut()).is_pending(), "there is no room");
        assert!(futures_util::poll!(std::pin::pin!(tape.room())).is_pending(), "there is no room");
        // What cannot wait has some.
        tape.note_now(note("now"));
        slow.set(true);
        waiting.await.unwrap();
        tape.room().await;
        tape.end("over");
        assert!(recorder.close(soon()).await);
        assert_eq!(slow.written(), ["begin", "1", "2", "3", "4", "now", "5", "over"], "{policy:?}");
    }
}

/// C-TAPE-3: with `required`, nothing passes while the disk fails; otherwise everything does.
#[tokio::test]
async fn nothing_passes_while_a_disk_fails_that_is_required() {
    for policy in [RecordPolicy::Required, RecordPolicy::Block, RecordPolicy::Drop] {
        let slow = Slow::default();
        slow.set(true);
        lock(&slow.0.0).broken = true;
        let (recorder, tape, _tasks) = start(policy, &slow);
        let required = policy == RecordPolicy::Required;
        assert_eq!(recorder.refuses(), required);
        assert_eq!(tape.note(note("1")).await.is_err(), required, "{policy:?}");
        lock(&slow.0.0).broken = false;
        while recorder.refuses() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tape.note(note("2")).await.unwrap();
        assert!(recorder.close(soon()).await);
        assert_eq!(slow.written().contains(&"1".to_owned()), !required);
        assert!(slow.written().contains(&"2".to_owned()));
    }
}

/// A disk that hangs holds up neither a shutdown nor those who wait for room.
#[tokio::test]
async fn a_disk_that_hangs_does_not_hold_up_a_shutdown() {
    let slow = Slow::default();
    let (recorder, tape, tasks) = start(RecordPolicy::Block, &slow);
    taken(&recorder).await;
    tape.note(note("1")).await.unwrap();
    assert!(!recorder.close(Instant::now() + Duration::from_millis(20)).await);
    let survivors = tasks.close(Instant::now() + Duration::from_millis(20)).await;
    assert_eq!(survivors.len(), 1, "{survivors:?}");
    slow.set(true);
}
