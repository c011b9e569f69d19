//! Many streams over one way to their server: cut together, they come back apart and a few at a time (C-SSE-10); and none of
//! them ever carries what belongs to another (C-SSE-3).

use std::sync::Arc;
use std::time::Duration;

use super::*;
use futures_util::future::join_all;
use shadowcat::testing::{At, End};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What lies between the proxy and its server, and can be cut.
struct Cable {
    url: String,
    cut: Arc<std::sync::Mutex<CancellationToken>>,
    _laid: JoinSet<()>,
}

impl Cable {
    async fn to(mock: &MockSse) -> Cable {
        let listener = TcpListener::bind("127.0.0.1:0").ok().await;
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let cut = Arc::new(std::sync::Mutex::new(CancellationToken::new()));
        let (address, current) = (mock.address(), Arc::clone(&cut));
        let mut laid = JoinSet::new();
        laid.spawn(async move {
            let mut wires = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let cut = current.lock().unwrap().clone();
                wires.spawn(async move {
                    let Ok(mut far) = TcpStream::connect(address).await else { return };
                    tokio::select! {
                        () = cut.cancelled() => {}
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    }
                });
            }
        });
        Cable { url, cut, _laid: laid }
    }

    /// Ends every connection there is; new ones can be made.
    fn cut(&self) {
        std::mem::take(&mut *self.cut.lock().unwrap()).cancel();
    }
}

const SESSIONS: usize = 10;
const CALLS: usize = 20;
/// With the standing stream of each session.
const STREAMS: usize = SESSIONS * (CALLS + 1);

/// Cuts two hundred streams at once, lets all come back, and gives the times at which they asked for that, after the cut.
async fn cut_together(script: Script, change: impl FnOnce(&mut Settings)) -> Vec<Duration> {
    let mock = MockSse::start(answering(AnswerForm::Sse, script)).ok().await;
    let cable = Cable::to(&mock).await;
    let (proxy, url) = front(&cable.url, change).await;
    let stage = Stage { url, proxy, mock, heard: std::sync::Mutex::default() };
    let mut clients = Vec::new();
    for _ in 0..SESSIONS {
        clients.push(stage.listening().await);
    }
    // Nobody is answered before all of this is over.
    let call = async |client: &LegacySession| {
        let _open = client.call("sleep", json!({ "ms": 600_000 })).ok().await;
        std::future::pending::<()>().await;
    };
    let calls = join_all(clients.iter().flat_map(|client| (0..CALLS).map(move |_| call(client))));
    let cutting = async {
        let all_open = async || {
            let open = async || stage.status().await["streams"]["open"].clone();
            until("all are open", open, |open| *open == json!(STREAMS)).await;
        };
        all_open().await;
        assert_eq!(stage.arrived(is_get).len(), SESSIONS);
        cable.cut();
        let cut_at = tokio::time::Instant::now();
        until("all come back", async || stage.arrived(is_get).len(), |gets| *gets == SESSIONS + STREAMS).await;
        all_open().await;
        cut_at
    };
    let cut_at = tokio::select! {
        _ = calls => unreachable!("they have no answer"),
        cut_at = cutting => cut_at,
    };
    let gets = stage.arrived(is_get);
    assert_eq!(gets.len(), SESSIONS + STREAMS, "each comes back once");
    assert_eq!(stage.posts("tools/call").len(), SESSIONS * CALLS, "and no call is sent twice");
    gets[SESSIONS..].iter().map(|get| get.at - cut_at).collect()
}

/// C-SSE-10: nothing holds them back but chance, and that is enough: no tenth of the longest wait sees half of them.
#[tokio::test]
async fn two_hundred_streams_that_are_cut_together_come_back_apart() {
    let base = Duration::from_secs(3);
    let times = cut_together(legacy(), |settings| {
        settings.limits.reconnecting = 1000;
        settings.timeouts.reconnect_base = base;
    })
    .await;
    let mut tenths = std::collections::BTreeMap::<u128, usize>::new();
    for time in &times {
        // A machine that has other things to do notices late that they were cut: then they come later.
        *tenths.entry(time.as_millis() * 10 / base.as_millis()).or_default() += 1;
    }
    assert!(tenths.values().all(|&count| count < STREAMS / 2), "a herd: {tenths:?}");
}

/// C-SSE-10: and where all want to come back at once, their server sees only so many at a time: each takes a while to be answered,
/// and within that while no more than the limit ask.
#[tokio::test]
async fn two_hundred_streams_that_come_back_at_once_are_let_in_a_few_at_a_time() {
    const LIMIT: usize = 8;
    let answered_in = Duration::from_millis(30);
    let script = legacy().fault(On::http("GET"), Do::Delay { ms: 30 });
    let times = cut_together(script, |settings| {
        settings.limits.reconnecting = LIMIT;
        settings.timeouts.reconnect_base = Duration::from_millis(10);
    })
    .await;
    for (first, next) in times.iter().zip(&times[LIMIT..]) {
        assert!(*next - *first >= answered_in, "more than {LIMIT} within {:?}", *next - *first);
    }
}

/// C-SSE-3, invariant of ownership: streams that break all the time, in sessions whose clients use the same ids and the same
/// tokens, before a server that repeats itself: each client hears its own, once and in order.
#[tokio::test]
async fn nothing_crosses_from_one_stream_or_session_to_another() {
    const STREAMS: u64 = 6;
    let cut = |events| Do::Cut { after: Some(At { events, bytes: 21 }), end: End::Reset };
    let mut script = legacy().fault(On::tool("progress"), cut(3));
    for nth in 1..=200 {
        script = script.fault(On::http("GET").nth(nth), if nth % 3 == 0 { Do::ReplayAll } else { cut(4) });
    }
    let mut stage = Stage::with(script, |settings| {
        settings.timeouts.reconnect_base = Duration::from_millis(10);
    })
    .await;
    stage.mock.allow_unused();
    let session = async |who: u64| {
        let client = stage.session().await;
        let mut standing = client.stream(None).ok().await;
        let uri = |n: u64| format!("test://{who}/{n}");
        for n in 0..STREAMS {
            client.request("resources/subscribe", json!({ "uri": uri(n) })).ok().await.answer().ok().await;
        }
        let call = async |n: u64| {
            // Nobody else's call has so many steps.
            let steps = 10 + who * STREAMS + n;
            let params =
                format!(r#"{{"name":"progress","arguments":{{"steps":{steps}}},"_meta":{{"progressToken":"{n}"}}}}"#);
            let call = common::message(&format!("{}", 1000 + n), "tools/call", &params);
            let messages = all(client.send(&call).ok().await).await;
            let (answer, before) = messages.split_last().unwrap();
            for (message, step) in before.iter().zip(1..) {
                let expected = json!({ "progressToken": n.to_string(), "progress": step, "total": steps });
                for (name, value) in expected.as_object().unwrap() {
                    assert_eq!(message["params"][name], *value, "{who}/{n}: {message}");
                }
            }
            assert_eq!(before.len() as u64, steps, "{who}/{n}");
            assert_eq!(answer["id"], 1000 + n);
            assert_eq!(text(answer), format!("did {steps} steps"));
            assert_eq!(stage.mock.touch(&uri(n)), 1);
        };
        join_all((0..STREAMS).map(call)).await;
        let mut heard = Vec::new();
        for _ in 0..STREAMS {
            heard.push(standing.message().ok().await.unwrap()["params"]["uri"].as_str().unwrap().to_owned());
        }
        heard.sort();
        assert_eq!(heard, (0..STREAMS).map(uri).collect::<Vec<_>>());
    };
    join_all((0..6).map(session)).await;
    assert_eq!(stage.posts("tools/call").len(), 36);
}
