//! How calls end when the proxy does, and how much a server is told that asks and does not read.

use rustix::process::Signal;

use super::*;
use common::{Program, next};

fn steps() -> Modern {
    Modern::call("progress", json!({ "steps": 5, "delay_ms": 100 })).progress_token(json!("t"))
}

/// SIGTERM: a call under way comes to its end in order, and nobody waits for a client that may bring answers.
#[tokio::test]
async fn a_signal_lets_calls_end_and_gives_up_parked_ones() {
    let program = Program::start(legacy(), &[]).await;
    let asked = asking(json!({ "message": "?" })).post(&program.url).ok().await.answer().ok().await;
    questions(&asked);
    let mut response = steps().post(&program.url).ok().await;
    assert_eq!(next(&mut response).await.unwrap().json()["method"], "notifications/progress");
    program.signal(Signal::TERM);
    let rest = messages(response).await;
    assert_eq!(text(rest.last().unwrap()), "did 5 steps", "{rest:?}");
    assert_eq!(rest.len(), 5, "and nothing of it is lost: {rest:?}");
    assert_eq!(program.exit_code().await, Some(0));
}

/// The same in front of servers behind HTTP, which are told what becomes of their questions and calls; and what there is no time for is
/// cut with an error that says so.
#[tokio::test]
async fn shutdown_tells_the_server_what_it_gives_up() {
    for (via, drain, ends) in [(Via::Http, 20_000, true), (Via::Sse, 20_000, true), (Via::Http, 50, false)] {
        let world = World::with(via, legacy(), |settings| settings.timeouts.drain = Duration::from_millis(drain)).await;
        let asked = world.answer(&asking(json!({ "message": "?" }))).await;
        questions(&asked);
        let mut response = world.post(&steps()).await;
        assert_eq!(next(&mut response).await.unwrap().json()["method"], "notifications/progress");
        let World { proxy, mock, _script, .. } = world;
        let (report, rest) = tokio::join!(within("shutdown", proxy.shutdown()), messages(response));
        let last = rest.last().unwrap();
        if ends {
            assert!(report.is_clean(), "{report:?}");
            assert_eq!(text(last), "did 5 steps", "{via:?} {rest:?}");
        } else {
            assert_ours(last, -31005);
            assert_eq!(last["error"]["data"]["retryable"], false, "{last}");
        }
        let requests = mock.unwrap().requests();
        let told = |pointer: &str, what: &str| requests.iter().filter(|one| one.json(pointer) == what).count();
        assert_eq!(told("/result/action", "cancel"), 1, "{via:?} {ends}");
        let cancelled = if ends { 1 } else { 2 };
        assert_eq!(told("/method", "notifications/cancelled"), cancelled, "{via:?} {ends}");
    }
}

/// A server that asks again and again and does not read is not heard any more, instead of being told more and more.
#[tokio::test]
async fn a_server_that_asks_and_does_not_read_is_made_to_wait() {
    let undeclared = json!({ "jsonrpc": "2.0", "id": "u", "method": "roots/list" }).to_string();
    let script = legacy()
        .fault(On::tool("echo"), Do::StopReading)
        .fault(On::tool("echo"), Do::Print { text: undeclared, times: 50_000, newline: true });
    let world = World::with(Via::Stdio, script, |settings| {
        // As much waits to be written as one message may have.
        settings.limits.message_bytes = 64 << 10;
        settings.timeouts.request = Duration::from_secs(2);
    })
    .await;
    let echo = Modern::call("echo", json!({ "text": "x" })).capabilities(json!({ "elicitation": {} }));
    assert_ours(&world.answer(&echo).await, -31001);
    let refused = world.lost("question_undeclared").await;
    assert!((256.0..5_000.0).contains(&refused), "{refused} of 50000");
    world.close().await;
}
