//! `bridge_reuse = "pinned"`: a principal has one connection, and what it keeps is there for the next request.

use shadowcat::settings::BridgeReuse;

use super::*;

fn pinned(settings: &mut Settings) {
    settings.upstreams[0].bridge_reuse = BridgeReuse::Pinned;
}

fn by(who: &str, request: Modern) -> Modern {
    request.header("Authorization", Some(who))
}

fn call(tool: &str) -> Modern {
    Modern::call(tool, json!({ "text": "x" }))
}

async fn process(world: &World, request: Modern) -> Value {
    let answer = world.answer(&request).await;
    serde_json::from_str::<Value>(text(&answer)).unwrap()["pid"].clone()
}

async fn tools(world: &World, who: &str) -> Vec<String> {
    let listed = world.answer(&by(who, Modern::new("tools/list"))).await;
    let tools = listed["result"]["tools"].as_array().unwrap_or_else(|| panic!("no tools: {listed}"));
    tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

/// 2026-07-28, Tools › Listing: a list may depend on who asks, and on nothing else. However many requests of one come at once, and
/// whatever they declare, one process serves them in turn; what it was told is there for the next, and for nobody else.
#[tokio::test]
async fn a_principal_has_one_connection() {
    let script = Script { hidden_tools: vec!["payload".into()], ..legacy() };
    let world = World::with(Via::Stdio, script, pinned).await;
    let ada = (0..8).map(|number| {
        let request = by("Bearer ada", call("pid"));
        process(&world, if number % 2 == 0 { request.capabilities(everything()) } else { request })
    });
    let ada = futures_util::future::join_all(ada).await;
    assert!(ada.iter().all(|pid| *pid == ada[0]), "{ada:?}");
    assert_ne!(process(&world, by("Bearer bob", call("pid"))).await, ada[0]);
    assert_eq!(world.metric("shadowcat_child_starts_total", &[]).await, 3.0, "and one that was asked for its era");

    assert!(!tools(&world, "Bearer ada").await.contains(&"payload".to_owned()));
    world.answer(&by("Bearer ada", Modern::call("change", json!({ "kind": "tools" })))).await;
    assert!(tools(&world, "Bearer ada").await.contains(&"payload".to_owned()));
    assert!(!tools(&world, "Bearer bob").await.contains(&"payload".to_owned()));
    world.close().await;
}

/// docs/bridge.md: a parked call has the connection until it is over; meanwhile others of its principal wait, as for any connection. Where
/// nobody says who they are, nobody is pinned.
#[tokio::test]
async fn a_parked_call_keeps_its_connection_from_others() {
    for via in Via::ALL {
        let world = World::with(via, legacy(), |settings| {
            pinned(settings);
            settings.timeouts.acquire = Duration::from_millis(300);
        })
        .await;
        let ask = || by("Bearer ada", asking(json!({ "message": "?" })));
        let asked = world.answer(&ask()).await;
        let refused = world.post(&by("Bearer ada", call("echo"))).await;
        assert_eq!(refused.status, 503);
        let refused = refused.json().ok().await;
        assert_ours(&refused, -31004);
        assert_eq!(refused["error"]["data"]["reason"], "no_connection_free", "{via:?} {refused}");
        assert_eq!(text(&world.answer(&by("Bearer bob", call("echo"))).await), "x", "{via:?}");
        let done = world.answer(&again(ask(), &asked, accepting(&asked))).await;
        assert!(text(&done).starts_with("answer: accept"), "{via:?} {done}");
        assert_eq!(text(&world.answer(&by("Bearer ada", call("echo"))).await), "x", "{via:?}");

        let nobody = || asking(json!({ "message": "?" }));
        let asked = world.answer(&nobody()).await;
        assert_eq!(text(&world.answer(&call("echo").capabilities(everything())).await), "x", "{via:?}");
        let done = world.answer(&again(nobody(), &asked, accepting(&asked))).await;
        assert!(text(&done).starts_with("answer: accept"), "{via:?} {done}");
        world.close().await;
    }
}

/// A connection that ends is replaced, and the next request begins anew.
#[tokio::test]
async fn a_connection_that_is_lost_is_replaced() {
    let world = World::with(Via::Stdio, legacy(), pinned).await;
    let first = process(&world, by("Bearer ada", call("pid"))).await;
    assert_ours(&world.answer(&by("Bearer ada", Modern::call("exit", json!({})))).await, -31003);
    assert_ne!(process(&world, by("Bearer ada", call("pid"))).await, first);
    world.close().await;
}
