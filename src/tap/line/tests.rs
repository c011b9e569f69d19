use std::collections::VecDeque;
use std::time::SystemTime;

use super::*;
use crate::metrics::Metrics;
use crate::rt::Tasks;
use crate::settings::RecordPolicy;
use crate::tap::CURRENT;
use crate::tap::recorder::{Bounds, Entry, Recorder, Sink};
use crate::tape::format::Header;

/// What was written: the number of the tape, the connection's number on it, and what was said.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(u64, u64, String)>>>);

impl Sink for Seen {
    fn write(&mut self, entries: &VecDeque<Entry>, _behind: &AtomicBool) {
        for entry in entries {
            if let Entry::Note(tape, note) = entry {
                let text = String::from_utf8_lossy(note.body.as_deref().unwrap_or_default()).into_owned();
                self.0.lock().unwrap().push((*tape, note.connection.unwrap(), text));
            }
        }
    }

    fn is_fine(&self) -> bool {
        true
    }
}

struct Scene {
    seen: Seen,
    recorder: Recorder,
    line: Arc<Line>,
    tasks: Tasks,
}

impl Scene {
    fn new() -> Scene {
        let (seen, tasks) = (Seen::default(), Tasks::new());
        let metrics = Arc::new(Metrics::new()).server("fake").tapes();
        let bounds = Bounds { notes: 1000, bytes: 1 << 20 };
        let recorder = Recorder::start(RecordPolicy::Block, bounds, seen.clone(), &tasks, metrics.clone(), || {});
        Scene { seen, recorder, line: Line::new(metrics, &Arc::default()), tasks }
    }

    fn tape(&self) -> Tape {
        self.recorder.tape(Header::new(SystemTime::now()))
    }

    /// What was written up to now, by the number of its tape.
    async fn written(self) -> Vec<(u64, u64, String)> {
        let soon = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        assert!(self.recorder.close(soon).await);
        drop(self.tasks);
        let mut written = self.seen.0.lock().unwrap().clone();
        written.sort();
        written
    }
}

fn answer(id: i64) -> Bytes {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#).into()
}

fn hear(line: &Line, text: &Bytes) {
    line.heard(text, Incoming::parse(text.clone(), DEPTH_MAX).ok().as_ref());
}

/// What is for one of those who share a connection is on no other's tape, however late it comes.
#[tokio::test]
async fn an_answer_is_for_its_caller_alone() {
    let scene = Scene::new();
    let (one, other) = (scene.tape(), scene.tape());
    for (tape, id) in [(&one, 1), (&other, 2), (&one, 3)] {
        CURRENT.scope(Some(tape.clone()), async { scene.line.begin(id) }).await;
    }
    for id in [2, 1] {
        hear(&scene.line, &answer(id));
    }
    hear(&scene.line, &Bytes::from_static(br#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#));
    one.end("gone");
    hear(&scene.line, &answer(3));
    let written = scene.written().await;
    let changed = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
    let of = |tape: &Tape| {
        written
            .iter()
            .filter(|(number, ..)| *number == tape.number())
            .map(|(_, _, text)| text.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(of(&other), [String::from_utf8(answer(2).to_vec()).unwrap(), changed.to_owned()]);
    assert_eq!(of(&one)[0], String::from_utf8(answer(1).to_vec()).unwrap());
    assert!(of(&one).contains(&changed.to_owned()));
}

/// What is said before anybody uses a connection is for the first who does.
#[tokio::test]
async fn what_was_said_before_is_kept_for_the_first() {
    let scene = Scene::new();
    let hello = Bytes::from_static(br#"{"jsonrpc":"2.0","id":0,"result":{}}"#);
    hear(&scene.line, &hello);
    let (first, second) = (scene.tape(), scene.tape());
    for tape in [&first, &second, &first] {
        CURRENT.scope(Some(tape.clone()), async { scene.line.attach() }).await;
    }
    let text = String::from_utf8(hello.to_vec()).unwrap();
    assert_eq!(scene.written().await, [(first.number(), 1, text)]);
}

/// Those who have gone do not stay for long in the memory of a connection that goes on.
#[tokio::test]
async fn those_who_have_gone_are_forgotten() {
    let scene = Scene::new();
    for _ in 0..10 * USERS_MIN {
        let tape = scene.tape();
        CURRENT.scope(Some(tape.clone()), async { scene.line.attach() }).await;
        tape.end("gone");
    }
    assert!(scene.line.state().users.len() <= USERS_MIN);
}
