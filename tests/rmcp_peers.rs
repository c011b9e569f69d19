//! The official Rust SDK on both sides of the proxy: its client against its server, directly and through shadowcat, over every
//! combination of transports. Nobody of us has written either, so what they say to each other is the judge.
//!
//! Each test plays the same scene twice and compares what the client has seen, value by value.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]
#![allow(deprecated, reason = "the SDK deprecates what 2026-07-28 deprecates, and clients use")]
#![allow(clippy::disallowed_methods, reason = "tests start the programs that users start")]

#[path = "common/mod.rs"]
mod common;

#[path = "rmcp_peers/client.rs"]
mod client;
#[path = "rmcp_peers/scene.rs"]
mod scene;
#[path = "rmcp_peers/server.rs"]
mod server;

use rmcp::ClientLifecycleMode;
use rmcp::model::ProtocolVersion;
use shadowcat::server::Running;
use shadowcat::settings::{HttpTarget, HttpTransport, Secret, Settings, StdioTarget, Target, UpstreamSettings};

use client::{Transport, User};
use common::{PROGRAM, within};
use server::Served;

/// Where the SDK's server is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    /// A process on a pair of pipes.
    Child,
    /// HTTP, with sessions for clients that have a handshake.
    Sessions,
    /// HTTP without sessions: nothing can be asked or said outside of an answer.
    Stateless,
}

/// How the client gets to the server.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    /// Without us.
    Direct,
    /// Through a proxy, over HTTP.
    Http,
    /// Through `shadowcat connect`, which the client starts as its server.
    Connect,
}

fn legacy() -> ClientLifecycleMode {
    ClientLifecycleMode::Initialize
}

fn modern() -> ClientLifecycleMode {
    ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] }
}

fn auto() -> ClientLifecycleMode {
    ClientLifecycleMode::Auto {
        preferred_versions: vec![ProtocolVersion::V_2026_07_28],
        legacy_version: Some(ProtocolVersion::V_2025_11_25),
    }
}

/// A server somewhere, and a way to it.
struct Scene {
    transport: Transport,
    proxy: Option<Running>,
    _server: Option<Served>,
}

impl Scene {
    async fn set(place: Place, way: Way, only: Option<&'static str>) -> Scene {
        let served = match place {
            Place::Child => None,
            Place::Sessions => Some(Served::start(true, only).await),
            Place::Stateless => Some(Served::start(false, only).await),
        };
        let (mut proxy, mut transport) = (
            None,
            match &served {
                None => Transport::Command(server::command(), server::environment(only)),
                Some(served) => Transport::Http(served.url()),
            },
        );
        // In front of an HTTP server `connect` is a proxy by itself.
        if way == Way::Http || (way == Way::Connect && place == Place::Child) {
            let running = within("start", Running::start(Settings::for_upstream(upstream(&transport)))).await.unwrap();
            transport = Transport::Http(format!("http://{}/mcp", running.address()));
            proxy = Some(running);
        }
        if let (Way::Connect, Transport::Http(url)) = (way, &transport) {
            transport = Transport::Command(vec![PROGRAM.into(), "connect".into(), url.clone()], vec![]);
        }
        Scene { transport, proxy, _server: served }
    }

    async fn enter(&self, lifecycle: ClientLifecycleMode) -> User {
        within("connect", User::connect(&self.transport, lifecycle)).await
    }

    /// Ends it: nothing of the proxy has to be forced.
    async fn close(self) {
        if let Some(proxy) = &self.proxy {
            let report = within("shutdown", proxy.shutdown()).await;
            assert!(report.is_clean(), "{report:?}");
        }
    }
}

fn upstream(transport: &Transport) -> UpstreamSettings {
    let target = match transport {
        Transport::Http(url) => {
            Target::Http(HttpTarget { url: url.parse().unwrap(), headers: vec![], transport: HttpTransport::Auto })
        }
        Transport::Command(command, environment) => {
            let (program, args) = command.split_first().unwrap();
            let env = environment.iter().map(|(name, value)| (name.clone(), Secret(value.clone()))).collect();
            Target::Stdio(StdioTarget {
                program: program.clone(),
                args: args.to_vec(),
                env,
                pass_env: vec![],
                cwd: None,
            })
        }
    };
    UpstreamSettings { connections_max: 16, ..UpstreamSettings::new("rmcp", target) }
}

/// Plays the scene directly and in `ways`, and compares.
async fn compare(place: Place, ways: &[Way], lifecycle: ClientLifecycleMode) {
    let mut direct = None;
    for way in [Way::Direct].iter().chain(ways) {
        let scene = Scene::set(place, *way, None).await;
        let mut user = scene.enter(lifecycle.clone()).await;
        let seen = user.try_everything(place != Place::Stateless || lifecycle != legacy()).await;
        user.leave().await;
        scene.close().await;
        let refused: Vec<_> =
            seen.iter().filter(|(_, seen)| seen["error"].is_object()).map(|(what, _)| *what).collect();
        assert_eq!(refused, ["no such tool", "no resource"], "{place:?} {way:?}");
        let expected = direct.get_or_insert_with(|| seen.clone());
        assert_eq!(seen.len(), expected.len());
        for (seen, expected) in seen.iter().zip(expected.iter()) {
            assert_eq!(seen, expected, "{place:?} {way:?}");
        }
    }
}

const THROUGH: [Way; 2] = [Way::Http, Way::Connect];

/// Plays the scene with a legacy client, directly in front of a server that speaks everything, and through shadowcat in front of one
/// that has no handshake: the client must not see a difference.
async fn compare_across_the_eras(place: Place) {
    let play = async |scene: Scene| {
        let mut user = scene.enter(legacy()).await;
        let seen = user.try_everything(true).await;
        user.leave().await;
        scene.close().await;
        seen
    };
    let expected = play(Scene::set(Place::Child, Way::Direct, None).await).await;
    for way in THROUGH {
        let seen = play(Scene::set(place, way, Some("2026-07-28")).await).await;
        assert_eq!(seen.len(), expected.len());
        for (seen, expected) in seen.iter().zip(expected.iter()) {
            assert_eq!(seen, expected, "{place:?} {way:?}");
        }
    }
}

#[tokio::test]
async fn a_legacy_client_finds_a_child_without_handshake_unchanged() {
    compare_across_the_eras(Place::Child).await;
}

#[tokio::test]
async fn a_legacy_client_finds_an_http_server_without_handshake_unchanged() {
    compare_across_the_eras(Place::Stateless).await;
}

#[tokio::test]
async fn a_legacy_client_finds_a_child_unchanged() {
    compare(Place::Child, &THROUGH, legacy()).await;
}

#[tokio::test]
async fn a_legacy_client_finds_a_server_with_sessions_unchanged() {
    compare(Place::Sessions, &THROUGH, legacy()).await;
}

#[tokio::test]
async fn a_legacy_client_finds_a_server_without_sessions_unchanged() {
    compare(Place::Stateless, &THROUGH, legacy()).await;
}

#[tokio::test]
async fn a_modern_client_finds_a_child_unchanged() {
    compare(Place::Child, &THROUGH, modern()).await;
}

#[tokio::test]
async fn a_modern_client_finds_an_http_server_unchanged() {
    compare(Place::Stateless, &THROUGH, modern()).await;
}

/// 2026-07-28, Versioning: a client that tries the newer era first finds it, whatever the server behind the proxy speaks.
#[tokio::test]
async fn a_client_of_both_eras_gets_the_newer_one() {
    for place in [Place::Child, Place::Sessions] {
        for way in THROUGH {
            for only in [None, Some("2025-11-25")] {
                let scene = Scene::set(place, way, only).await;
                let mut user = scene.enter(auto()).await;
                assert_eq!(user.version(), ProtocolVersion::V_2026_07_28, "{place:?} {way:?} {only:?}");
                assert_eq!(user.call("echo", serde_json::json!({ "text": "hi" })).await["content"][0]["text"], "hi");
                user.leave().await;
                scene.close().await;
            }
        }
    }
}

/// Two users of one proxy do not meet, although the SDK gives all of them the same ids and tokens.
#[tokio::test]
async fn users_of_one_proxy_do_not_meet() {
    for (place, lifecycle) in
        [(Place::Child, legacy()), (Place::Sessions, legacy()), (Place::Child, modern()), (Place::Stateless, modern())]
    {
        let scene = Scene::set(place, Way::Http, None).await;
        let talk = |name: &'static str| {
            let (scene, lifecycle) = (&scene, lifecycle.clone());
            async move {
                let mut user = scene.enter(lifecycle).await;
                user.is_called(name);
                for round in 0..5 {
                    let text = format!("{name} {round}");
                    assert_eq!(
                        user.call("echo", serde_json::json!({ "text": text })).await["content"][0]["text"],
                        text
                    );
                    let asked = user.call("ask", serde_json::json!({ "message": "Who is it?" })).await;
                    assert_eq!(asked["content"][0]["text"], format!("accept {name}"), "{place:?}");
                    let reported = user.call("progress", serde_json::json!({ "steps": 3, "text": name })).await;
                    assert_eq!(reported["content"][0]["text"], "3 steps");
                    for heard in user.hear(3).await {
                        assert_eq!(heard["progress"]["message"], name, "{place:?}");
                    }
                }
                user.leave().await;
            }
        };
        tokio::join!(talk("a"), talk("b"), talk("c"));
        scene.close().await;
    }
}
