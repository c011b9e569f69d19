//! Whatever a server says, each call gets what is its own, and one end.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;
use crate::metrics::Metrics;

/// A server that says what was written down for it, once it has been sent all it waits for; then it is gone.
struct Scripted {
    awaited: usize,
    queue: VecDeque<(Option<i64>, Bytes)>,
    says: VecDeque<Bytes>,
    heard: Arc<Mutex<Vec<Bytes>>>,
}

impl Pipe for Scripted {
    async fn next(&mut self, read: bool) -> Event {
        while let Some((id, line)) = self.queue.pop_front() {
            self.heard.lock().unwrap().push(line);
            if let Some(id) = id {
                self.awaited -= 1;
                return Event::Sent(Ids::from_elem(id, 1));
            }
        }
        if !read || self.awaited > 0 {
            return std::future::pending().await;
        }
        match self.says.pop_front() {
            Some(text) => Event::Text(text),
            None => Event::Closed(UpstreamError::Exited { status: "over".into(), sent: true }),
        }
    }

    fn write(&mut self, id: Option<i64>, line: Bytes) {
        self.queue.push_back((id, line));
    }

    fn unwrite(&mut self, id: i64) -> bool {
        let found = self.queue.iter().position(|(queued, _)| *queued == Some(id));
        found.map(|at| self.queue.remove(at)).is_some()
    }

    fn queued(&self) -> usize {
        0
    }

    async fn close(self, _why: UpstreamError) {}
}

/// What came back for each call, what the server said by itself, and what it heard.
struct Outcome {
    replies: Vec<Vec<Reply>>,
    standing: Vec<Message>,
    heard: Vec<Bytes>,
}

/// `calls` requests under way at once on a connection over which the server says `says`.
fn converse(sharing: Sharing, calls: i64, says: Vec<String>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let heard = Arc::<Mutex<Vec<Bytes>>>::default();
    let pipe = Scripted {
        awaited: calls as usize,
        queue: VecDeque::new(),
        says: says.into_iter().map(Bytes::from).collect(),
        heard: Arc::clone(&heard),
    };
    let limits = DriverLimits { depth: 64, message_bytes: 1 << 20 };
    let metrics = Arc::new(Metrics::new()).server("test");
    let (writer, mut said) = standing();
    let (handle, task) = drive(pipe, writer, sharing, limits, metrics, CancellationToken::new());
    let (replies, standing) = runtime.block_on(async {
        let conversation = async {
            let mut under_way = Vec::new();
            for _ in 0..calls {
                let id = handle.next_id();
                let line = Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call"}}"#));
                let facts = CallFacts { may_ask: true, wants_log: true, cancellable: true };
                under_way.push(handle.call(id, line, facts).await.unwrap());
            }
            let each = under_way.into_iter().map(|mut call| async move {
                let mut all = Vec::new();
                while let Some(reply) = call.next().await {
                    all.push(reply);
                }
                all
            });
            futures_util::future::join_all(each).await
        };
        let listening = async {
            let mut all = Vec::new();
            while let Some(message) = said.next().await {
                all.push(message);
            }
            all
        };
        let (replies, standing, _) = tokio::join!(conversation, listening, task);
        (replies, standing)
    });
    let heard = std::mem::take(&mut *heard.lock().unwrap());
    Outcome { replies, standing, heard }
}

/// Anything a server may say about a call with this id, rightly or not. Answers and progress say in `of` whose they are.
fn anything() -> impl Strategy<Value = String> {
    let id = -1i64..10;
    let spelled = |id: i64| prop_oneof![Just(id.to_string()), Just(format!("\"{id}\"")), Just(format!("{id}.0"))];
    prop_oneof![
        6 => id.clone().prop_map(|id| format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"of":{id}}}}}"#)),
        2 => id.clone().prop_flat_map(spelled).prop_map(|id| format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"of":null}}}}"#)),
        2 => id.clone().prop_map(|id| format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":1,"message":"","data":{{"of":{id}}}}}}}"#)),
        1 => id.clone().prop_map(|id| format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}},"error":{{}}}}"#)),
        4 => id.clone().prop_map(|id| format!(r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{id},"progress":1}}}}"#)),
        2 => id.clone().prop_map(|id| format!(r#"{{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{{"_meta":{{"io.modelcontextprotocol/subscriptionId":{id}}}}}}}"#)),
        2 => id.clone().prop_map(|id| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"elicitation/create","params":{{}}}}"#)),
        1 => Just(r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"x"}}"#.to_owned()),
        1 => id.prop_map(|id| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#)),
        1 => Just(r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":""}}"#.to_owned()),
        1 => "[ -~]{0,12}",
    ]
}

proptest! {
    /// Right owner, one answer: a call gets one end and nothing after it; its answer is the first one that was given to its very
    /// id; progress and notifications that name somebody are that one's; and nothing that a server of many clients says by
    /// itself reaches any of them by guess (2025-11-25 and 2026-07-28, Basic › Responses; Progress).
    #[test]
    fn each_call_gets_its_own_and_one_end(shared in any::<bool>(), calls in 1i64..6, says in proptest::collection::vec(anything(), 0..60)) {
        let sharing = if shared { Sharing::Shared } else { Sharing::Exclusive };
        let first_answers: Vec<Option<&String>> = (1..=calls)
            .map(|id| says.iter().find(|text| {
                let end = [format!("\"id\":{id},\"result\""), format!("\"id\":{id},\"error\"")];
                end.iter().any(|end| text.contains(end.as_str()))
            }))
            .collect();
        let outcome = converse(sharing, calls, says.clone());
        for (at, replies) in outcome.replies.iter().enumerate() {
            let id = at as i64 + 1;
            let (last, before) = replies.split_last().expect("an end");
            match (last, first_answers[at]) {
                // Both result and error: an answer, and none that could be passed on.
                (Err(error), Some(text)) => prop_assert!(text.contains("\"result\"") && text.contains("\"error\""), "{error}: {text}"),
                (Err(error), None) => prop_assert_eq!(error.kind(), "exited"),
                (Ok(answer), first) => {
                    prop_assert_eq!(Some(std::str::from_utf8(answer.text()).unwrap()), first.map(String::as_str));
                    let named = answer.id().unwrap();
                    prop_assert_eq!(named.as_json(), id.to_string());
                }
            }
            for reply in before {
                let message = reply.as_ref().expect("only the last one may be an error");
                prop_assert!(!is_response(message), "nothing comes after an answer");
                let named = message.param("progressToken").or(message.meta("io.modelcontextprotocol/subscriptionId"));
                prop_assert!(named.is_none_or(|named| named == id.to_string()), "{:?}", message);
                prop_assert!(!shared || message.kind() == Kind::Notification, "a modern client is never asked");
            }
        }
        prop_assert!(!shared || outcome.standing.is_empty());
        for message in &outcome.standing {
            prop_assert!(!is_response(message) && message.known() != Some(Known::Progress));
        }
        // A ping is answered, and to a server of many clients goes nothing else but requests.
        let pings = says.iter().filter(|text| text.contains("\"ping\"")).count();
        let pongs = outcome.heard.iter().filter(|line| line.ends_with(b"\"result\":{}}")).count();
        prop_assert_eq!(pings, pongs);
    }
}

/// Enough turns for whoever else is ready.
async fn turns() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

/// What is cancelled before it was written is never written, and what was written is cancelled in so many words; neither
/// hears of its answer (2025-11-25, Cancellation).
#[test]
fn a_cancelled_call_is_taken_back_or_told() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let heard = Arc::<Mutex<Vec<Bytes>>>::default();
        let pipe =
            Scripted { awaited: usize::MAX, queue: VecDeque::new(), says: VecDeque::new(), heard: Arc::clone(&heard) };
        let limits = DriverLimits { depth: 64, message_bytes: 1 << 20 };
        let metrics = Arc::new(Metrics::new()).server("test");
        let (writer, _said) = standing();
        let (handle, task) = drive(pipe, writer, Sharing::Exclusive, limits, metrics, CancellationToken::new());
        let facts = CallFacts { may_ask: true, wants_log: true, cancellable: true };
        let talk = async {
            let id = handle.next_id();
            let call = handle.call(id, Bytes::from_static(b"{}"), facts).await.unwrap();
            turns().await;
            drop(call);
            turns().await;
            // This one is taken back before the driver has had a turn.
            let call = handle.call(handle.next_id(), Bytes::from_static(b"never"), facts).await.unwrap();
            drop(call);
            turns().await;
            handle.close();
        };
        tokio::join!(talk, task);
        let heard: Vec<String> =
            heard.lock().unwrap().iter().map(|line| String::from_utf8(line.to_vec()).unwrap()).collect();
        assert!(heard[1].contains("notifications/cancelled") && heard[1].contains("\"requestId\":1"), "{heard:?}");
        assert!(!heard.iter().any(|line| line.contains("never")), "{heard:?}");
        assert!(heard[2..].iter().all(|line| !line.contains("\"requestId\":1")), "told once: {heard:?}");
    });
}

/// C-POOL-10: however many calls were cancelled, the connection is quiet again when the server has answered them all.
#[test]
fn a_connection_is_quiet_after_any_number_of_cancelled_calls() {
    const CALLS: usize = TOMBSTONES_MAX + 10;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let answers = (1..=CALLS + 1).map(|id| Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#)));
    // The last call is not cancelled: only when it has arrived is anything answered.
    let pipe = Scripted { awaited: CALLS + 1, queue: VecDeque::new(), says: answers.collect(), heard: Arc::default() };
    let limits = DriverLimits { depth: 64, message_bytes: 1 << 20 };
    let metrics = Arc::new(Metrics::new()).server("test");
    let (writer, _said) = standing();
    let (handle, task) = drive(pipe, writer, Sharing::Exclusive, limits, metrics, CancellationToken::new());
    let facts = CallFacts { may_ask: false, wants_log: false, cancellable: true };
    let talk = async {
        let mut calls = Vec::new();
        for _ in 0..CALLS {
            calls.push(handle.call(handle.next_id(), Bytes::from_static(b"{}"), facts).await.unwrap());
        }
        turns().await;
        drop(calls);
        turns().await;
        let mut last = handle.call(handle.next_id(), Bytes::from_static(b"{}"), facts).await.unwrap();
        assert!(last.next().await.unwrap().is_ok());
        assert!(handle.is_quiescent());
    };
    runtime.block_on(async { tokio::join!(talk, task) });
}

/// C-POOL-10: what was said to one holder, and found no room with it, does not reach the next one; a question among it is refused.
#[test]
fn what_was_held_back_for_one_holder_does_not_reach_the_next() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let heard = Arc::<Mutex<Vec<Bytes>>>::default();
    let said = (0..EXCLUSIVE_QUEUE.items)
        .map(|n| format!(r#"{{"jsonrpc":"2.0","method":"vendor/said","params":{{"n":{n}}}}}"#));
    let question = r#"{"jsonrpc":"2.0","id":"q","method":"roots/list"}"#.to_owned();
    let says = said.chain([question]).map(Bytes::from).collect();
    let pipe = Scripted { awaited: 0, queue: VecDeque::new(), says, heard: Arc::clone(&heard) };
    let limits = DriverLimits { depth: 64, message_bytes: 1 << 20 };
    let metrics = Arc::new(Metrics::new()).server("test");
    let (writer, mut reader) = standing();
    let (handle, task) = drive(pipe, writer, Sharing::Exclusive, limits, metrics, CancellationToken::new());
    let talk = async {
        turns().await;
        // As a lease does it that goes from one to the next.
        handle.share(Sharing::Nobody);
        assert_eq!(reader.forget(), EXCLUSIVE_QUEUE.items);
        handle.share(Sharing::Exclusive);
        assert!(reader.next().await.is_none(), "it was not said to this one");
    };
    runtime.block_on(async { tokio::join!(talk, task) });
    let heard = heard.lock().unwrap();
    assert!(heard.iter().any(|line| line.starts_with(br#"{"jsonrpc":"2.0","id":"q","error""#)), "{heard:?}");
}
