//! Credentials and other headers: what goes upstream is what was configured, what comes back stays here
//! (Security Best Practices › Token Passthrough).

use super::*;
use http::{HeaderName, HeaderValue};
use shadowcat::testing::client::{SseSession, post};

const SECRETS: [(&str, &str); 5] = [
    ("Authorization", "Bearer client-secret"),
    ("Cookie", "client=secret"),
    ("Proxy-Authorization", "Basic client-secret"),
    ("X-Api-Key", "client-secret"),
    ("X-Forwarded-For", "client-secret"),
];

/// A server whose every response has headers that are nobody's business.
fn chatty(script: Script) -> Script {
    let headers = [
        ("Set-Cookie", "server=secret"),
        ("WWW-Authenticate", "Bearer secret"),
        ("X-Internal", "secret"),
        ("Server", "secret"),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Script { http: HttpScript { headers: headers.into(), ..script.http }, ..script }
}

fn is_clean(response: &Response) {
    let told: Vec<_> = response.headers.iter().filter(|(_, value)| value.contains("secret")).collect();
    assert!(told.is_empty(), "{told:?}");
}

/// What a client says to the proxy is not for the server, and the other way round.
#[tokio::test]
async fn credentials_stay_on_their_side() {
    let stage = Stage::new(chatty(Script::default())).await;
    for message in
        [Modern::new("tools/list"), Modern::new("server/discover"), Modern::call("echo", json!({ "text": "x" }))]
    {
        let message = SECRETS.iter().fold(message, |message, (name, value)| message.header(name, Some(value)));
        let response = stage.post(&message).await;
        assert_eq!(response.status, 200);
        is_clean(&response);
    }
    let headers: Vec<_> = common::json_headers().into_iter().chain(SECRETS).collect();
    let shaken = common::send("POST", &stage.url, &headers, &common::initialize(LEGACY)).await;
    is_clean(&shaken);
    let id = shaken.headers.get("mcp-session-id").unwrap().to_owned();
    let headers: Vec<_> = SECRETS.into_iter().chain([("Mcp-Session-Id", id.as_str())]).collect();
    let initialized = common::notification("notifications/initialized", json!({}));
    is_clean(&post(&stage.url, &initialized, &headers).ok().await);
    is_clean(&post(&stage.url, &common::message("1", "tools/list", "{}"), &headers).ok().await);
    is_clean(
        &common::send("GET", &stage.url, &[headers.clone(), vec![("Accept", "text/event-stream")]].concat(), "").await,
    );
    stage.arrival(is_get).await;
    is_clean(&common::send("DELETE", &stage.url, &headers, "").await);
    stage.arrival(|request| request.method == "DELETE").await;

    for request in stage.mock.requests() {
        let told: Vec<_> = request.headers.iter().filter(|(_, value)| value.contains("secret")).collect();
        assert!(told.is_empty(), "{told:?}");
        assert_eq!(request.headers.get("cookie"), None, "cookies of the server are not kept either");
    }
    let theirs = stage
        .posts("tools/list")
        .into_iter()
        .filter_map(|request| request.headers.get("mcp-session-id").map(str::to_owned));
    assert!(theirs.into_iter().all(|theirs| theirs != id));
}

/// An error of HTTP tells the client no more than a success.
#[tokio::test]
async fn a_challenge_is_not_passed_on() {
    for script in [legacy(), modern()] {
        let stage =
            Stage::new(chatty(script.fault(On::method("tools/list"), respond(401, "text/plain", "secret")))).await;
        let is_modern = stage.call("echo", json!({ "text": "x" })).await["result"].is_object();
        let response = match is_modern {
            true => stage.post(&Modern::new("tools/list")).await,
            false => stage.session().await.request("tools/list", json!({})).ok().await,
        };
        is_clean(&response);
        assert!(!response.answer().ok().await.to_string().contains("secret"));
    }
}

/// Configured headers are on everything that goes upstream, whatever the client says under the same name.
#[tokio::test]
async fn configured_headers_are_sent() {
    for era in [EraChoice::Legacy, EraChoice::Auto] {
        let stage = Stage::with(Script::default(), |settings| {
            settings.upstreams[0].era = era;
            target(settings).headers =
                vec![(HeaderName::from_static("authorization"), HeaderValue::from_static("Bearer configured"))];
        })
        .await;
        if era == EraChoice::Auto {
            let list = Modern::new("tools/list").header("Authorization", Some("Bearer client-secret"));
            assert_eq!(stage.post(&list).await.status, 200);
        }
        let client = stage.listening().await;
        client.call("ask", json!({ "message": "?" })).ok().await.message().ok().await;
        stage.arrival(is_get).await;
        client.delete().ok().await;
        stage.arrival(|request| request.method == "DELETE").await;
        for request in stage.mock.requests() {
            assert_eq!(request.headers.all("authorization").collect::<Vec<_>>(), ["Bearer configured"], "{request:?}");
        }
    }
    let stage = Stage::with(legacy(), |settings| {
        target(settings).headers =
            vec![(HeaderName::from_static("authorization"), HeaderValue::from_static("Bearer configured"))];
        target(settings).transport = HttpTransport::Sse;
        let sse = target(settings).url.to_string().replace("/mcp", "/sse");
        target(settings).url = sse.parse().unwrap();
    })
    .await;
    stage.session().await.call("echo", json!({ "text": "x" })).ok().await.answer().ok().await;
    assert_eq!(stage.mock.requests().len(), 4);
    for request in stage.mock.requests() {
        assert_eq!(request.headers.get("authorization"), Some("Bearer configured"), "{request:?}");
    }
}

fn forwarding(settings: &mut Settings) {
    settings.upstreams[0].forward_headers = ["authorization", "x-tenant"].map(HeaderName::from_static).to_vec();
}

/// What is allowed by name is passed on with the request it came with, and nothing else is.
#[tokio::test]
async fn allowed_headers_are_forwarded_with_their_request() {
    let stage = Stage::with(modern(), forwarding).await;
    for tenant in ["a", "b"] {
        let list = Modern::new("tools/list")
            .header("X-Tenant", Some(tenant))
            .header("X-Tenant", Some("too"))
            .header("X-Other", Some("c"));
        assert_eq!(stage.post(&list).await.status, 200);
    }
    let lists = stage.posts("tools/list");
    let tenants: Vec<Vec<_>> = lists.iter().map(|list| list.headers.all("x-tenant").collect()).collect();
    assert_eq!(tenants, [["a", "too"], ["b", "too"]]);
    assert!(
        lists.iter().all(|list| list.headers.get("x-other").is_none() && list.headers.get("authorization").is_none())
    );
    assert_eq!(stage.posts("server/discover")[0].headers.get("x-tenant"), None, "the question is the proxy's own");
}

/// In a session the client's latest word goes for what the proxy sends on its behalf: the standing stream, the end.
#[tokio::test]
async fn allowed_headers_are_forwarded_for_a_session() {
    let stage = Stage::with(legacy(), forwarding).await;
    let with = |token: &'static str| vec![("Authorization", token), ("Cookie", "no")];
    let headers = [common::json_headers(), with("first")].concat();
    let shaken = common::send("POST", &stage.url, &headers, &common::initialize(LEGACY)).await;
    let id = shaken.headers.get("mcp-session-id").unwrap().to_owned();
    let session = |token| [with(token), vec![("Mcp-Session-Id", id.as_str())]].concat();
    let initialized = common::notification("notifications/initialized", json!({}));
    post(&stage.url, &initialized, &session("first")).ok().await;
    let listen = [session("first"), vec![("Accept", "text/event-stream")]].concat();
    let _stream = common::send("GET", &stage.url, &listen, "").await;
    stage.arrival(is_get).await;
    post(&stage.url, &common::message("1", "tools/list", "{}"), &session("second")).ok().await;
    common::send("DELETE", &stage.url, &session("second"), "").await;
    stage.arrival(|request| request.method == "DELETE").await;
    for request in stage.mock.requests() {
        let token =
            if request.json("/method") == "tools/list" || request.method == "DELETE" { "second" } else { "first" };
        assert_eq!(request.headers.get("authorization"), Some(token), "{request:?}");
        assert_eq!(request.headers.get("cookie"), None);
    }
}

/// A page that may use the proxy may send them.
#[tokio::test]
async fn a_page_may_send_what_is_forwarded() {
    let stage = Stage::with(modern(), |settings| {
        forwarding(settings);
        settings.allow_origins = vec!["https://app.example".into()];
    })
    .await;
    let preflight = [
        ("Origin", "https://app.example"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "x-tenant"),
    ];
    let allowed = common::send("OPTIONS", &stage.url, &preflight, "").await;
    let headers = allowed.headers.get("access-control-allow-headers").unwrap();
    assert!(headers.split(',').any(|name| name.trim() == "x-tenant"), "{headers}");
}

/// A client of HTTP+SSE has the headers of its stream.
#[tokio::test]
async fn allowed_headers_are_forwarded_for_a_client_of_http_sse() {
    let stage = Stage::with(legacy(), forwarding).await;
    let url = stage.url.replace("/mcp", "/sse");
    let headers = [("Accept", "text/event-stream"), ("X-Tenant", "a")];
    let mut stream = common::send("GET", &url, &headers, "").await;
    let endpoint = stream.event().ok().await.unwrap().data.unwrap();
    let endpoint = url.replace("/sse", &endpoint);
    let mut client = SseSession { endpoint, stream, initialized: Value::Null };
    client.send(&common::initialize("2024-11-05")).ok().await;
    assert!(client.next().ok().await["result"].is_object());
    client.send(&common::message("1", "tools/list", "{}")).ok().await;
    assert!(client.next().ok().await["result"].is_object());
    assert_eq!(stage.posts("initialize")[0].headers.get("x-tenant"), Some("a"));
    assert_eq!(stage.posts("tools/list")[0].headers.get("x-tenant"), Some("a"));
}

/// 2026-07-28, Streamable HTTP › Request Metadata: the headers that repeat the body reach the server, which checks them itself.
#[tokio::test]
async fn the_headers_of_a_modern_request_reach_the_server() {
    let stage = Stage::new(modern()).await;
    let region = Modern::call("region", json!({ "region": "eu" })).header("Mcp-Param-Region", Some("eu"));
    let answer = stage.post(&region).await.answer().ok().await;
    assert_eq!(text(&answer), "eu");
    let call = &stage.posts("tools/call")[0];
    for (name, value) in [
        ("mcp-method", "tools/call"),
        ("mcp-name", "region"),
        ("mcp-param-region", "eu"),
        ("mcp-protocol-version", "2026-07-28"),
    ] {
        assert_eq!(call.headers.all(name).collect::<Vec<_>>(), [value], "{name}");
    }
    assert_eq!(call.headers.get("mcp-session-id"), None);
    let wrong = Modern::call("region", json!({ "region": "eu" })).header("Mcp-Param-Region", Some("us"));
    let response = stage.post(&wrong).await;
    assert_eq!(response.status, 400);
    assert_eq!(code(&response.answer().ok().await), -32020);
    let encoded = Modern::call("region", json!({ "region": "ü" })).header("Mcp-Param-Region", Some("=?base64?w7w=?="));
    assert_eq!(text(&stage.post(&encoded).await.answer().ok().await), "ü");
    assert_eq!(stage.posts("tools/call").last().unwrap().headers.get("mcp-param-region"), Some("=?base64?w7w=?="));
}
