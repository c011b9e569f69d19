//! Streams of notifications (2026-07-28, Subscriptions), out of what a server with a handshake says by itself.

use shadowcat::settings::{Isolation, Reuse};

use super::*;

const TAG: &str = "io.modelcontextprotocol/subscriptionId";
const URI: &str = "fake://resource/1";

fn listen(filter: Value) -> Modern {
    Modern::new("subscriptions/listen").id("\"L\"").param("notifications", filter)
}

async fn next(stream: &mut Response) -> Value {
    let message = stream.message().ok().await.expect("the stream goes on");
    if message.get("method").is_some() {
        assert_eq!(message["params"]["_meta"][TAG], "L", "everything says which stream it is of: {message}");
    }
    message
}

/// A client that is promised all that it asks for.
async fn listening(world: &World) -> Response {
    let filter = json!({ "toolsListChanged": true, "resourceSubscriptions": [URI] });
    let mut stream = world.post(&listen(filter.clone())).await;
    let acknowledged = next(&mut stream).await;
    assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(acknowledged["params"]["notifications"], filter);
    stream
}

/// Everything that a server tells by itself reaches those who listen for it, and nothing else does.
#[tokio::test]
async fn what_a_server_tells_by_itself_reaches_those_who_listen() {
    for via in Via::ALL {
        // A child tells its own clients only, so that calls have to be made on the connection that is listened on.
        let world = World::with(via, legacy(), |settings| {
            if via == Via::Stdio {
                (settings.upstreams[0].isolation, settings.upstreams[0].reuse) = (Isolation::Shared, Reuse::Never);
            }
        })
        .await;
        let mut stream = listening(&world).await;
        if via == Via::Http {
            let mock = world.mock.as_ref().unwrap();
            assert!(mock.request(DEADLINE, |request| request.method == "GET").await.is_some());
            until("it is heard", async || mock.stats()["peers"].as_u64(), |peers| *peers >= Some(1)).await;
        }
        let call = async |tool: &str, arguments: Value| world.answer(&Modern::call(tool, arguments)).await;
        // Until the standing stream is open, what is said on it is for nobody.
        let told = until(
            "it is told of the resource",
            async || {
                call("change", json!({ "kind": "prompts" })).await;
                call("touch", json!({ "uri": "fake://resource/2" })).await;
                call("touch", json!({ "uri": URI })).await;
                tokio::time::timeout(Duration::from_millis(200), next(&mut stream)).await.ok()
            },
            Option::is_some,
        )
        .await
        .unwrap();
        assert_eq!((&told["method"], &told["params"]["uri"]), (&json!("notifications/resources/updated"), &json!(URI)));
        call("change", json!({ "kind": "tools" })).await;
        loop {
            let told = next(&mut stream).await;
            if told["method"] == "notifications/tools/list_changed" {
                break;
            }
            assert_eq!(told["params"]["uri"], URI, "{via:?} {told}");
        }
        drop(stream);
        world.close().await;
    }
}

/// What a server does not tell is not promised; the stream is there all the same, until the proxy stops.
#[tokio::test]
async fn what_a_server_does_not_tell_is_not_promised() {
    for via in Via::ALL {
        let capabilities = json!({ "tools": {}, "resources": { "subscribe": true } });
        let script = Script { capabilities: capabilities.as_object().cloned(), ..legacy() };
        let world = World::with(via, script, |_| {}).await;
        let mut stream = world.post(&listen(json!({ "toolsListChanged": true, "resourceSubscriptions": [URI] }))).await;
        let acknowledged = next(&mut stream).await;
        assert_eq!(acknowledged["params"]["notifications"], json!({ "resourceSubscriptions": [URI] }), "{via:?}");
        let mut nothing = world.post(&listen(json!({ "promptsListChanged": true }))).await;
        assert_eq!(next(&mut nothing).await["params"]["notifications"], json!({}));
        let (_, first, second) = tokio::join!(world.close(), next(&mut stream), next(&mut nothing));
        for end in [first, second] {
            assert_eq!((&end["id"], &end["result"]["resultType"]), (&json!("L"), &json!("complete")), "{via:?} {end}");
            assert_eq!(end["result"]["_meta"][TAG], "L");
        }
    }
}

/// One connection serves all who listen and may have one in common; it is told when nobody wants to hear of something any more.
#[tokio::test]
async fn listeners_have_one_connection_in_common() {
    for via in [Via::Http, Via::Sse] {
        let world = World::new(via).await;
        let first = listening(&world).await;
        // Over HTTP+SSE the other transport is tried before.
        let greeted = world.arrived("initialize").len();
        let others = [listening(&world).await, listening(&world).await];
        assert_eq!(world.arrived("initialize").len(), greeted, "{via:?}");
        drop((first, others));
        world.arrival("resources/unsubscribe").await;
        let other = listen(json!({ "toolsListChanged": true })).header("Authorization", Some("somebody"));
        let mut stream = world.post(&other).await;
        next(&mut stream).await;
        assert_eq!(world.arrived("initialize").len(), greeted + 1, "{via:?}: somebody else has another");
        assert_eq!(world.arrived("resources/unsubscribe").len(), 1, "{via:?}: once, at the end");
    }
}

/// C-SSE-1: a server that goes away and comes back: the client keeps its stream, and is told once what it may have missed.
#[tokio::test]
async fn a_lost_connection_is_made_again() {
    let world = World::with(Via::Stdio, legacy(), |settings| {
        settings.timeouts.reconnect_base = Duration::from_millis(1);
    })
    .await;
    let mut stream = listening(&world).await;
    let script = world._script.path().display().to_string();
    for child in common::children(std::process::id().try_into().unwrap()) {
        let line = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(&script) {
            let pid = rustix::process::Pid::from_raw(child).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
    }
    for (method, uri) in [("tools/list_changed", Value::Null), ("resources/updated", json!(URI))] {
        let told = next(&mut stream).await;
        assert_eq!((&told["method"], &told["params"]["uri"]), (&json!(format!("notifications/{method}")), &uri));
    }
    world.until_metric("shadowcat_listen_reopenings_total", &["reason=\"ok\""], 1.0).await;
    drop(stream);
    world.close().await;
}

/// 2026-07-28, Subscriptions: the acknowledgement is what comes first. Resources whose subscription the server leaves without an
/// answer are left out of it: all of them have one time, not each its own.
#[tokio::test]
async fn subscriptions_without_an_answer_do_not_hold_up_the_acknowledgement() {
    // So many that the time of one and that of all are not taken for each other on a slow machine.
    let hang = |nth: usize| json!({ "on": { "method": "resources/subscribe", "nth": nth }, "do": "hang" });
    let faults = serde_json::from_value((2..=30).map(hang).collect()).unwrap();
    let world = World::with(Via::Stdio, Script { faults, ..legacy() }, |settings| {
        settings.timeouts.start = Duration::from_secs(2);
    })
    .await;
    let uris: Vec<String> = (1..=30).map(|number| format!("fake://resource/{number}")).collect();
    let mut stream = world.post(&listen(json!({ "resourceSubscriptions": uris }))).await;
    let acknowledged = within("the time of one", next(&mut stream)).await;
    assert_eq!(acknowledged["params"]["notifications"], json!({ "resourceSubscriptions": uris[..1] }));
    drop(stream);
    world.close().await;
}
