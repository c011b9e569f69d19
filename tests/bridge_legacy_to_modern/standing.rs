//! What the server says by itself.

use serde_json::{Value, json};
use shadowcat::testing::client::Response;
use shadowcat::testing::{At, Do, End, On};

use crate::common::*;
use crate::{Client, Place, Stage};

const HELLO: &str = "shadowcat://demo/hello.txt";

/// What a session hears by itself: on a GET stream, or where everything comes.
enum Ear<'a> {
    Stream(Response),
    Client(&'a mut Client),
}

impl Ear<'_> {
    async fn hear(&mut self) -> Value {
        match self {
            Ear::Stream(response) => next(response).await.unwrap().json(),
            Ear::Client(client) => client.hear().await,
        }
    }
}

/// 2025-11-25, Tools › List Changed Notification; Resources › Subscriptions: what the server tells on a stream of notifications
/// comes where the client listens, without the names of the other era.
#[tokio::test]
async fn changes_come_where_the_client_listens() {
    for place in Place::BOTH {
        let stage = Stage::new(place, modern()).await;
        for (what, mut client) in stage.clients(everything()).await {
            if let Client::Http(session) = &client {
                let stream = session.stream(None).ok().await;
                assert_eq!(
                    session.request("resources/subscribe", json!({ "uri": HELLO })).ok().await.json().ok().await["result"],
                    json!({})
                );
                changes(&stage, &mut Ear::Stream(stream), &what).await;
                assert_eq!(session.delete().ok().await.status, 204);
            } else {
                assert_eq!(
                    client.request("resources/subscribe", json!({ "uri": HELLO })).await["result"],
                    json!({}),
                    "{what}"
                );
                changes(&stage, &mut Ear::Client(&mut client), &what).await;
            }
        }
    }
}

async fn changes(stage: &Stage, ear: &mut Ear<'_>, what: &str) {
    let mut other = Client::Http(stage.session(LEGACY).await);
    other.call("touch", json!({ "uri": HELLO })).await;
    let updated = ear.hear().await;
    assert_eq!(updated["method"], "notifications/resources/updated", "{what}: {updated}");
    assert_eq!(updated["params"], json!({ "uri": HELLO }), "{what}");
    other.call("change", json!({ "kind": "tools" })).await;
    let changed = ear.hear().await;
    assert_eq!(changed["method"], "notifications/tools/list_changed", "{what}");
    let Client::Http(session) = other else { unreachable!() };
    assert_eq!(session.delete().ok().await.status, 204);
}

/// 2025-11-25, Resources › Subscriptions: what is given up is not told any more, and what was not subscribed to never is.
#[tokio::test]
async fn what_is_given_up_is_not_told() {
    for place in Place::BOTH {
        let stage = Stage::new(place, modern()).await;
        let mut client = Client::Http(stage.session(LEGACY).await);
        let Client::Http(session) = &client else { unreachable!() };
        let mut stream = session.stream(None).ok().await;
        let other = "shadowcat://demo/count/x";
        for (method, uri) in [("subscribe", HELLO), ("subscribe", other), ("unsubscribe", HELLO)] {
            let answer = client.request(&format!("resources/{method}"), json!({ "uri": uri })).await;
            assert_eq!(answer["result"], json!({}), "{place:?} {method} {uri}");
        }
        for uri in [HELLO, "shadowcat://demo/dot.png", other] {
            client.call("touch", json!({ "uri": uri })).await;
        }
        assert_eq!(next(&mut stream).await.unwrap().json()["params"]["uri"], other, "{place:?}");
        assert_eq!(code(&client.request("resources/subscribe", json!({})).await), -32602);
    }
}

/// One stream serves a session, however much it wants, and ends with it.
#[tokio::test]
async fn one_stream_serves_a_session_and_ends_with_it() {
    for place in Place::BOTH {
        let stage = Stage::new(place, modern()).await;
        let observer = crate::common::Client::Legacy(stage.session(LEGACY).await);
        let mut client = Client::Http(stage.session(LEGACY).await);
        for n in 0..20 {
            let uri = format!("shadowcat://demo/count/{n}");
            assert_eq!(client.request("resources/subscribe", json!({ "uri": uri })).await["result"], json!({}));
        }
        observer.until_stats("/listeners", 1).await;
        let Client::Http(session) = &client else { unreachable!() };
        assert_eq!(session.delete().ok().await.status, 204);
        observer.until_stats("/listeners", 0).await;
    }
}

/// docs/contracts.md, C-SSE-1: a stream that breaks is opened again, and the client is told what it may have missed.
#[tokio::test]
async fn a_broken_stream_is_opened_again() {
    let cut = || Do::Cut { after: Some(At { events: 1, bytes: 0 }), end: End::Reset };
    let stage = Stage::new(Place::Http, modern().fault(On::method("subscriptions/listen").nth(2), cut())).await;
    let mut client = Client::Http(stage.session(LEGACY).await);
    let Client::Http(session) = &client else { unreachable!() };
    let mut stream = session.stream(None).ok().await;
    let begun = stage.mock().request(DEADLINE, |one| one.body.contains("subscriptions/listen")).await;
    assert!(begun.is_some(), "the session is listened for");
    assert_eq!(client.request("resources/subscribe", json!({ "uri": HELLO })).await["result"], json!({}));
    let mut told = Vec::new();
    while !told.iter().any(|one: &Value| one["params"]["uri"] == HELLO) {
        told.push(next(&mut stream).await.unwrap().json());
    }
    assert!(told.iter().any(|one| one["method"] == "notifications/tools/list_changed"), "{told:?}");
    assert!(told.iter().all(|one| one["params"].get("_meta").is_none()), "{told:?}");
    client.call("touch", json!({ "uri": HELLO })).await;
    assert_eq!(next(&mut stream).await.unwrap().json()["params"]["uri"], HELLO, "it is told of changes again");
}

/// The same for a child that ends: its successor is asked for the same.
#[tokio::test]
async fn the_next_process_is_listened_to() {
    let stage = Stage::new(Place::Child, modern()).await;
    let mut client = Client::Http(stage.session(LEGACY).await);
    let Client::Http(session) = &client else { unreachable!() };
    let mut stream = session.stream(None).ok().await;
    assert_eq!(client.request("resources/subscribe", json!({ "uri": HELLO })).await["result"], json!({}));
    code(&client.call("exit", json!({ "code": 1 })).await);
    while next(&mut stream).await.unwrap().json()["params"]["uri"] != HELLO {}
    client.call("touch", json!({ "uri": HELLO })).await;
    assert_eq!(next(&mut stream).await.unwrap().json()["params"]["uri"], HELLO, "it is told of changes again");
}

/// A server that lets nobody listen says so to whoever subscribes.
#[tokio::test]
async fn a_refusal_to_be_listened_to_reaches_the_client() {
    let body = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32601,"message":"No streams here"}}"#;
    let refuses = Do::Status {
        code: 404,
        headers: [("Content-Type".into(), "application/json".into())].into(),
        body: body.into(),
    };
    let stage = Stage::new(Place::Http, modern().fault(On::method("subscriptions/listen"), refuses)).await;
    let mut client = Client::Http(stage.session(LEGACY).await);
    let answer = client.request("resources/subscribe", json!({ "uri": HELLO })).await;
    assert_eq!(answer["error"]["message"], "No streams here", "{answer}");
    assert_eq!(text(&client.call("echo", json!({ "text": "x" })).await), "x", "all else works");
}

/// 2025-11-25, Streamable HTTP › Resumability and Redelivery: what came while the client was away comes when it is back.
#[tokio::test]
async fn what_came_while_the_client_was_away_comes_later() {
    for place in Place::BOTH {
        let stage = Stage::new(place, modern()).await;
        let mut client = Client::Http(stage.session(LEGACY).await);
        let Client::Http(session) = &client else { unreachable!() };
        let mut stream = session.stream(None).ok().await;
        assert_eq!(client.request("resources/subscribe", json!({ "uri": HELLO })).await["result"], json!({}));
        client.call("touch", json!({ "uri": HELLO })).await;
        let first = next(&mut stream).await.unwrap();
        drop(stream);
        client.call("change", json!({ "kind": "prompts" })).await;
        let Client::Http(session) = &client else { unreachable!() };
        let mut resumed = session.stream(first.id.as_deref()).ok().await;
        let later = next(&mut resumed).await.unwrap().json();
        assert_eq!(later["method"], "notifications/prompts/list_changed", "{place:?}");
    }
}
