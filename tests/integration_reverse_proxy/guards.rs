//! Who may speak to the proxy, and what it lets through of the world around MCP.

use serde_json::json;
use shadowcat::settings::Settings;
use shadowcat::testing::client;

use crate::common::*;

/// Every door there is.
const DOORS: [(&str, &str); 9] = [
    ("POST", "/mcp"),
    ("GET", "/mcp"),
    ("DELETE", "/mcp"),
    ("OPTIONS", "/mcp"),
    ("GET", "/sse"),
    ("POST", "/messages"),
    ("POST", "/servers/fake/mcp"),
    ("GET", "/servers/fake/sse"),
    ("GET", "/nothing/here"),
];

/// 2026-07-28, Streamable HTTP › Security: foreign pages and foreign names are refused at every door, before anything else is
/// looked at: not the body, not the session.
#[tokio::test]
async fn foreign_origins_and_hosts_are_refused_at_every_door() {
    let proxy = Proxy::start(legacy()).await;
    let host = proxy.running.address().to_string();
    let with = async |url: &str, method: &str, host: &str, origins: &[&str]| {
        let mut head = format!("{method} {url} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\nConnection: close\r\n");
        origins.iter().for_each(|origin| head += &format!("Origin: {origin}\r\n"));
        raw(proxy.running.address(), &format!("{head}\r\n{{bad")).await
    };
    let origins = [
        "null",
        "http://evil.example",
        "https://localhost.evil.example",
        "http://127.0.0.1.evil.example",
        "http://localhost@evil.example",
        "localhost",
        "",
    ];
    let hosts = [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example:8080",
        "localhost.",
        "user@localhost",
        "localhost:8080:1",
    ];
    for (method, path) in DOORS {
        for origin in origins {
            let answer = with(path, method, &host, &[origin]).await;
            assert!(answer.starts_with("HTTP/1.1 403"), "{method} {path} {origin:?}: {answer}");
            assert!(answer.contains(r#""reason":"origin""#) && !answer.contains("access-control"), "{answer}");
        }
        assert!(
            with(path, method, &host, &["http://localhost", "http://localhost"]).await.starts_with("HTTP/1.1 403"),
            "twice"
        );
        for host in hosts {
            let answer = with(path, method, host, &[]).await;
            assert!(answer.starts_with("HTTP/1.1 403"), "{method} {path} {host}: {answer}");
        }
    }
    // Past the guard it is another refusal, or an answer.
    for origin in ["http://localhost", "http://localhost:6274", "https://127.0.0.1", "http://[::1]:3000"] {
        let answer = with("/mcp", "POST", "localhost", &[origin]).await;
        assert!(answer.starts_with("HTTP/1.1 415"), "{origin}: {answer}");
    }
    let admin = proxy.running.admin_address().unwrap();
    for (host, status) in [("evil.example", "403"), ("localhost", "200")] {
        let answer = raw(admin, &format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
}

/// Writes a request, reads until the connection ends.
async fn raw(address: std::net::SocketAddr, request: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).ok().await;
    stream.write_all(request.as_bytes()).ok().await;
    let mut answer = Vec::new();
    // A connection that is closed with a body unread may end in a reset; what came before it counts.
    let _ = within("an answer", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// 2026-07-28, Streamable HTTP › Security; Fetch, CORS: what was allowed by name gets in, and may read what it needs.
#[tokio::test]
async fn allowed_origins_and_hosts_get_in() {
    let allow = |settings: &mut Settings| {
        settings.allow_origins = vec!["https://app.example".into()];
        settings.allow_hosts = vec!["mcp.example".into()];
    };
    let proxy = Proxy::with(legacy(), allow).await;
    let address = proxy.running.address();
    let ask = async |method: &str, more: &str| {
        raw(address, &format!("{method} /mcp HTTP/1.1\r\nHost: mcp.example\r\nConnection: close\r\n{more}\r\n"))
            .await
            .to_lowercase()
    };
    let preflight = ask("OPTIONS", "Origin: https://app.example\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: mcp-session-id\r\n").await;
    assert!(
        preflight.starts_with("http/1.1 200") && preflight.contains("access-control-allow-origin: https://app.example"),
        "{preflight}"
    );
    assert!(preflight.contains("mcp-protocol-version") && preflight.contains("last-event-id"), "{preflight}");
    let got = ask("DELETE", "Origin: https://app.example\r\n").await;
    assert!(got.contains("access-control-expose-headers: mcp-session-id") && got.contains("http/1.1 400"), "{got}");
    let local = ask("DELETE", "Origin: http://localhost\r\n").await;
    assert!(
        !local.contains("access-control-allow-origin"),
        "pages of this machine get in, but nothing is said for them: {local}"
    );
    assert!(ask("DELETE", "Origin: https://app.example.evil\r\n").await.starts_with("http/1.1 403"));
}

/// RFC 9110, Content Negotiation: what the client can read is read properly; what it cannot is 406. A page's simple request is
/// no request of ours (415).
#[tokio::test]
async fn media_types_are_negotiated() {
    let proxy = Proxy::start(legacy()).await;
    let post = async |content: &str, accept: Option<&str>| {
        let mut headers = vec![("Content-Type", content)];
        headers.extend(accept.map(|accept| ("Accept", accept)));
        send("POST", &proxy.url, &headers, &initialize(LEGACY)).await
    };
    let json = "application/json";
    for accept in [
        "*/*",
        "application/*;q=0.1",
        "text/event-stream, APPLICATION/JSON;q=1.0",
        "text/html, */*;q=0.1",
        "text/event-stream",
    ] {
        let response = post(json, Some(accept)).await;
        assert_eq!(response.status, 200, "{accept}");
        assert_eq!(response.is_sse(), accept == "text/event-stream", "{accept}");
    }
    assert_eq!(post(json, None).await.status, 200);
    for accept in
        ["text/html", "application/xml, text/plain", "*/*;q=0", "application/json;q=0, text/event-stream;q=0.0", "junk"]
    {
        assert_eq!(post(json, Some(accept)).await.status, 406, "{accept}");
    }
    for content in ["application/json; charset=utf-8", "Application/JSON", "application/json;charset=\"UTF-8\""] {
        assert_eq!(post(content, Some("*/*")).await.status, 200, "{content}");
    }
    for content in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "",
        "text/plain; application/json",
    ] {
        assert_eq!(post(content, Some("*/*")).await.status, 415, "{content}");
    }
    let session = proxy.session().await;
    let mut headers = session.headers();
    headers.push(("Accept", "application/json"));
    assert_eq!(send("GET", &proxy.url, &headers, "").await.status, 406, "a stream of events cannot be JSON");
}

/// 2026-07-28, Security Best Practices › Token Passthrough and stdio: nothing of a request gets into a child's arguments,
/// environment or folder, and of the proxy's own environment only what was allowed.
#[tokio::test]
async fn a_child_knows_what_it_was_given_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let options = ["--env", "GIVEN=${SECRET_A}", "--pass-env", "PASSED", "--cwd", folder.path().to_str().unwrap()];
    let own = [
        ("SECRET_A", "s3cret"),
        ("PASSED", "on"),
        ("SECRET_B", "s3cret"),
        ("AWS_SECRET_ACCESS_KEY", "s3cret"),
        ("LD_LIBRARY_PATH", "/x"),
    ];
    let program = Program::with(legacy(), &options, &own).await;
    let mut headers = json_headers();
    headers.extend([
        ("Authorization", "Bearer t0ken"),
        ("Cookie", "c=00kie"),
        ("X-Env", "PATH=/evil"),
        ("Forwarded", "for=x"),
    ]);
    let first = send("POST", &program.url, &headers, &initialize(LEGACY)).await;
    let id = first.headers.get("mcp-session-id").unwrap().to_owned();
    headers.push(("Mcp-Session-Id", &id));
    let call = async |tool: &str| {
        let params =
            json!({ "name": tool, "arguments": { "cwd": "/evil", "env": { "A": "b" }, "argv": ["evil"] } }).to_string();
        send("POST", &program.url, &headers, &message("1", "tools/call", &params)).await.answer().ok().await
    };
    let report = call("pid").await;
    let process: serde_json::Value = serde_json::from_str(text(&report)).unwrap();
    let names: Vec<&str> = process["env"].as_array().unwrap().iter().filter_map(|name| name.as_str()).collect();
    assert!(["GIVEN", "PASSED", "PATH"].iter().all(|name| names.contains(name)), "{names:?}");
    let leaked = names.iter().filter(|name| ["SECRET", "AWS", "LD_"].iter().any(|secret| name.starts_with(secret)));
    assert_eq!(leaked.count(), 0, "{names:?}");
    assert_eq!(process["cwd"], json!(folder.path().canonicalize().unwrap()));
    assert_eq!(process["argv"].as_array().unwrap().len(), 5, "{process}");
    assert!(!process.to_string().contains("evil"));
    let arrived = call("meta").await;
    assert!(!arrived.to_string().contains("t0ken") && !arrived.to_string().contains("00kie"), "{arrived}");
}

/// Failure of a server is told without telling about this machine: no paths, arguments or environment (honest errors).
#[tokio::test]
async fn errors_tell_nothing_about_this_machine() {
    let secret = "/nonexistent/s3cret/program";
    let change = |settings: &mut Settings| settings.upstreams = vec![command(secret, vec!["--key=s3cret".into()])];
    let proxy = Proxy::with(legacy(), change).await;
    let legacy = send("POST", &proxy.url, &json_headers(), &initialize(LEGACY)).await;
    let modern = client::Modern::call("echo", json!({})).post(&proxy.url).ok().await;
    for response in [legacy, modern] {
        assert_eq!(response.status, 503);
        assert!(response.headers.get("retry-after").is_some());
        let body = response.text().ok().await;
        assert!(
            body.contains(r#""origin":"proxy""#) && !body.contains("s3cret") && !body.contains("nonexistent"),
            "{body}"
        );
    }
}
