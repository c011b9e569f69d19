//! A server that keeps failing is left alone for a while: its clients hear so at once, and what they ask for is not sent.

use std::time::Duration;

use super::*;
use shadowcat::testing::{At, End, Served};

/// Long enough not to be over within a test.
const LONG: Duration = Duration::from_secs(3600);
/// Over soon.
const SHORT: Duration = Duration::from_millis(50);

/// The circuit opens after so many failures, for so long.
fn opens(failures: usize, pause: Duration) -> impl Fn(&mut Settings) {
    move |settings| {
        settings.limits.circuit_failures = failures;
        (settings.timeouts.circuit_open, settings.timeouts.circuit_open_max) = (pause, pause);
    }
}

fn unavailable() -> Do {
    respond(503, "text/plain", "")
}

/// Expects a refusal by the proxy, with nothing sent; how long to wait.
async fn refused(response: Response) -> u64 {
    assert_eq!(response.status, 503);
    let seconds = response.headers.get("retry-after").unwrap().parse().unwrap();
    let answer = response.json().ok().await;
    assert_ours(&answer, -31002);
    let data = &answer["error"]["data"];
    assert_eq!((&data["reason"], &data["retryable"]), (&json!("circuit_open"), &json!(true)), "{answer}");
    seconds
}

/// Opened by failures in a row, for everything that would be sent, in both eras.
#[tokio::test]
async fn a_server_that_keeps_failing_is_left_alone() {
    for script in [legacy(), modern()] {
        let script = script.fault(On::tool("count"), unavailable());
        let era = script.era;
        let stage = Stage::with(script, opens(3, LONG)).await;
        let client = match era {
            Served::Legacy => Some(stage.session().await),
            _ => None,
        };
        let call = async |tool: &str| match &client {
            Some(client) => client.call(tool, json!({ "text": "hi" })).ok().await,
            None => stage.post(&Modern::call(tool, json!({ "text": "hi" }))).await,
        };
        for _ in 0..3 {
            for _ in 0..2 {
                assert_ours(&call("count").await.answer().ok().await, -31003);
            }
            assert_eq!(text(&call("echo").await.answer().ok().await), "hi", "two in a row are not enough");
        }
        assert_eq!(stage.status().await["circuit"], "closed");
        for _ in 0..3 {
            assert_ours(&call("count").await.answer().ok().await, -31003);
        }
        let before = stage.mock.requests().len();
        let seconds = refused(call("echo").await).await;
        assert!((2_880..=3_600).contains(&seconds), "{seconds}");
        if let Some(client) = &client {
            let changed = common::notification("notifications/roots/list_changed", json!({}));
            refused(client.send(&changed).ok().await).await;
            let handshake = common::initialize(LEGACY);
            refused(common::send("POST", &stage.url, &common::json_headers(), &handshake).await).await;
        }
        assert_eq!(stage.mock.requests().len(), before, "nothing is sent");
        assert_eq!(stage.status().await["circuit"], "open");
        stage.until_metric("shadowcat_circuit", &["state=\"open\""], 1.0).await;
        stage.until_metric("shadowcat_circuit_openings_total", &[], 1.0).await;
        let times = if client.is_some() { 3.0 } else { 1.0 };
        stage.until_metric("shadowcat_refused_total", &["kind=\"circuit_open\"", "side=\"upstream\""], times).await;
    }
}

/// A server that is not there at all, and one that hangs up.
#[tokio::test]
async fn a_server_that_cannot_be_reached_is_left_alone() {
    let gone = MockSse::start(Script::default()).ok().await.url();
    let (_proxy, url) = front(&gone, opens(2, LONG)).await;
    let handshake = async || common::send("POST", &url, &common::json_headers(), &common::initialize(LEGACY)).await;
    for _ in 0..2 {
        assert_ours(&handshake().await.answer().ok().await, -31002);
    }
    refused(handshake().await).await;

    let hangs_up = legacy().fault(On::tool("count"), Do::Cut { after: None, end: End::Reset });
    let stage = Stage::with(hangs_up, opens(2, LONG)).await;
    let client = stage.session().await;
    for _ in 0..2 {
        assert_ours(&client.call("count", json!({})).ok().await.answer().ok().await, -31003);
    }
    refused(client.call("count", json!({})).ok().await).await;
}

/// Silence until the deadline is a failure of the server; a client that goes away sooner says nothing about it.
#[tokio::test]
async fn silence_counts_and_impatience_does_not() {
    let script = modern().fault(On::tool("count"), Do::Hang);
    let stage = Stage::with(script, |settings| {
        opens(1, LONG)(settings);
        settings.upstreams[0].era = EraChoice::Modern;
        settings.timeouts.request = Duration::from_secs(1);
    })
    .await;
    let leave = async {
        stage.arrival(|request| request.json("/params/name") == "count").await;
    };
    let count = Modern::call("count", json!({}));
    tokio::select! {
        response = stage.post(&count) => panic!("{response:?}"),
        () = leave => {}
    }
    stage.until_metric("shadowcat_exchanges_in_flight", &[], 0.0).await;
    assert_eq!(text(&stage.call("echo", json!({ "text": "hi" })).await), "hi");
    assert_ours(&stage.post(&count).await.answer().ok().await, -31001);
    refused(stage.post(&count).await).await;
}

/// A server that says how long it wants to be left alone is heard.
#[tokio::test]
async fn a_server_that_asks_for_a_pause_gets_it() {
    let headers = [("Retry-After".into(), "600".into())].into();
    let busy = Do::Status { code: 503, headers, body: String::new() };
    let stage = Stage::with(legacy().fault(On::tool("count"), busy), |settings| {
        settings.limits.circuit_failures = 1;
        (settings.timeouts.circuit_open, settings.timeouts.circuit_open_max) = (SHORT, LONG);
    })
    .await;
    let client = stage.session().await;
    assert_ours(&client.call("count", json!({})).ok().await.answer().ok().await, -31002);
    assert!(refused(client.call("count", json!({})).ok().await).await > 500);
}

/// Whatever the server itself says is an answer.
#[tokio::test]
async fn errors_of_the_server_are_no_failures() {
    for fault in [
        respond(400, "text/plain", ""),
        respond(401, "text/plain", ""),
        respond(429, "text/plain", ""),
        respond(500, "text/plain", ""),
        respond(503, "application/json", &error_body(-32000, &Value::Null)),
        respond(200, "text/plain", "hello"),
    ] {
        let stage = Stage::with(legacy().fault(On::tool("count"), fault), opens(1, LONG)).await;
        let client = stage.session().await;
        for tool in ["count", "error", "fail", "count"] {
            let arguments = json!({ "code": -32000, "message": "no" });
            assert_eq!(client.call(tool, arguments).ok().await.status, 200);
        }
        assert_eq!(stage.status().await["circuit"], "closed");
    }
}

/// The same over HTTP+SSE, whose messages are answered elsewhere: what counts is whether they are taken.
#[tokio::test]
async fn a_server_that_takes_no_messages_is_left_alone() {
    let script = legacy().fault(On::tool("count"), unavailable());
    let stage = http_sse::old(script, |settings| {
        opens(2, LONG)(settings);
        target(settings).transport = HttpTransport::Sse;
    })
    .await;
    let client = stage.session().await;
    for _ in 0..2 {
        assert_ours(&client.call("count", json!({})).ok().await.answer().ok().await, -31003);
    }
    let before = stage.mock.requests().len();
    refused(client.call("echo", json!({ "text": "hi" })).ok().await).await;
    let handshake = common::initialize("2024-11-05");
    refused(common::send("POST", &stage.url, &common::json_headers(), &handshake).await).await;
    assert_eq!(stage.mock.requests().len(), before, "nothing is sent");
}

/// When the pause is over the proxy asks by itself whether the server is there again. No call is sent to find out.
#[tokio::test]
async fn a_server_that_is_there_again_is_found_by_asking() {
    for (script, question) in [(legacy(), "ping"), (modern(), "server/discover")] {
        let era = script.era;
        let down = |script: Script, nth| script.fault(On::method(question).nth(nth), unavailable());
        let script = down(down(script, 1), 2).fault(On::method("tools/list"), unavailable());
        let stage = Stage::with(script, |settings| {
            opens(2, SHORT)(settings);
            settings.upstreams[0].era = if era == Served::Legacy { EraChoice::Legacy } else { EraChoice::Modern };
        })
        .await;
        let client = if era == Served::Legacy { Some(stage.session().await) } else { None };
        for _ in 0..2 {
            let list = match &client {
                Some(client) => client.request("tools/list", json!({})).ok().await,
                None => stage.post(&Modern::new("tools/list")).await,
            };
            assert_ours(&list.answer().ok().await, -31002);
        }
        let call = async || {
            let response = match &client {
                Some(client) => client.call("count", json!({})).ok().await,
                None => stage.post(&Modern::call("count", json!({}))).await,
            };
            if response.status == 503 { Err(refused(response).await) } else { Ok(response.answer().ok().await) }
        };
        let answer = until("it answers", call, Result::is_ok).await.unwrap();
        assert_eq!(text(&answer), "1", "{era:?}");
        assert_eq!(stage.posts("tools/call").len(), 1, "{era:?}");
        assert_eq!(stage.posts(question).len(), 3, "{era:?}");
        assert_eq!(stage.status().await["circuit"], "closed");
        stage.until_metric("shadowcat_circuit_openings_total", &[], 3.0).await;
    }
}

/// While one finds out, the others are refused; if its client goes away, the next one finds out.
#[tokio::test]
async fn one_finds_out_at_a_time() {
    let script = modern()
        .fault(On::method("tools/list").nth(1), unavailable())
        .fault(On::method("server/discover").nth(1), Do::Hang);
    let stage = Stage::with(script, |settings| {
        opens(1, SHORT)(settings);
        settings.upstreams[0].era = EraChoice::Modern;
        settings.timeouts.probe = DEADLINE * 2;
    })
    .await;
    let list = Modern::new("tools/list");
    assert_ours(&stage.post(&list).await.answer().ok().await, -31002);
    let finds_out = async {
        loop {
            refused(stage.post(&list).await).await;
        }
    };
    let others = async {
        stage.arrival(|request| request.json("/method") == "server/discover").await;
        assert_eq!(refused(stage.post(&list).await).await, 1);
        assert_eq!(stage.status().await["circuit"], "half_open");
    };
    tokio::select! {
        () = finds_out => {}
        () = others => {}
    }
    until("somebody else's turn", async || stage.post(&list).await.status, |status| *status == 200).await;
    assert_eq!(stage.posts("server/discover").len(), 2);
}

/// A lost stream waits for the server to be there again, and is then resumed.
#[tokio::test]
async fn a_lost_stream_waits_until_the_server_is_there() {
    let script = legacy()
        .fault(On::tool("progress"), Do::Cut { after: Some(At { events: 2, bytes: 0 }), end: End::Abrupt })
        .fault(On::http("GET").nth(2), unavailable());
    let stage = Stage::with(script, opens(1, Duration::from_millis(500))).await;
    let client = stage.listening().await;
    stage.arrival(is_get).await;
    let messages = all(streams::steps(&client, 4).await).await;
    assert_eq!(progress(&messages), [1, 2, 3, 4]);
    assert_eq!(text(&messages[4]), "did 4 steps");
    assert_eq!((stage.posts("tools/call").len(), stage.posts("ping").len(), stage.arrived(is_get).len()), (1, 1, 3));
    for reason in ["broken", "status"] {
        stage.until_metric("shadowcat_upstream_reconnects_total", &[&format!("reason=\"{reason}\"")], 1.0).await;
    }
    stage.until_metric("shadowcat_upstream_streams_ended_total", &["reason=\"answered\""], 1.0).await;
}

/// It does not wait for ever.
#[tokio::test]
async fn a_lost_stream_is_given_up_when_its_time_is_over() {
    let script = legacy()
        .fault(On::tool("progress"), Do::Cut { after: Some(At { events: 2, bytes: 0 }), end: End::Abrupt })
        .fault(On::http("GET").nth(2), unavailable());
    let stage = Stage::with(script, |settings| {
        opens(1, LONG)(settings);
        settings.timeouts.reconnect_base = Duration::from_millis(10);
        settings.timeouts.reconnect_outage = Duration::from_secs(1);
    })
    .await;
    let client = stage.listening().await;
    stage.arrival(is_get).await;
    let messages = all(streams::steps(&client, 4).await).await;
    assert_ours(messages.last().unwrap(), -31003);
    assert_eq!(stage.arrived(is_get).len(), 2);
    stage.until_metric("shadowcat_upstream_streams_ended_total", &["reason=\"given_up\""], 1.0).await;
}
