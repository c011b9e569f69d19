//! Input that is no message, and what it must not do to anybody.

use serde_json::{Value, json};
use shadowcat::settings::Settings;
use shadowcat::testing::client::Modern;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::*;

/// Bodies that are not JSON (`-32700`), and JSON that is no message (`-32600`).
fn bodies() -> Vec<(&'static str, Vec<u8>, i64)> {
    let text = |what, text: &str, code| (what, text.as_bytes().to_vec(), code);
    let deep = |open: &str, close: &str, n: usize| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{"x":{}1{}}}}}"#,
            open.repeat(n),
            close.repeat(n)
        )
    };
    let call = |params: &str| message("1", "tools/list", params);
    vec![
        text("nothing", "", -32700),
        text("white space", " \n ", -32700),
        text("half a message", r#"{"jsonrpc":"2.0","id":1,"method":"tools/list""#, -32700),
        text("two messages", &format!("{0}{0}", call("{}")), -32700),
        text("trailing garbage", &format!("{}x", call("{}")), -32700),
        text("trailing comma", r#"{"jsonrpc":"2.0","id":1,"method":"tools/list",}"#, -32700),
        text("single quotes", "{'jsonrpc':'2.0'}", -32700),
        text("NaN", &call(r#"{"x":NaN}"#), -32700),
        text("a number with a leading zero", &call(r#"{"x":01}"#), -32700),
        text("a bare control character", &call("{\"x\":\"\u{1}\"}"), -32700),
        text("NUL behind it", &format!("{}\0", call("{}")), -32700),
        text("a byte order mark", &format!("\u{feff}{}", call("{}")), -32700),
        text("a bad escape", &call(r#"{"x":"\q"}"#), -32700),
        (
            "invalid UTF-8",
            [&b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\",\"params\":{\"x\":\"\xff\"}}"[..]].concat(),
            -32700,
        ),
        ("UTF-16", call("{}").encode_utf16().flat_map(u16::to_le_bytes).collect(), -32700),
        text("deep arrays", &deep("[", "]", 100_000), -32700),
        text("deep objects", &deep("{\"a\":", "}", 100_000), -32700),
        text("deep and never closed", &"[".repeat(100_000), -32700),
        text("a string", r#""tools/list""#, -32600),
        text("a number", "1", -32600),
        text("null", "null", -32600),
        text("an empty object", "{}", -32600),
        text("no version", r#"{"id":1,"method":"tools/list"}"#, -32600),
        text("another version", r#"{"jsonrpc":"1.0","id":1,"method":"tools/list"}"#, -32600),
        text("no method", r#"{"jsonrpc":"2.0","id":1}"#, -32600),
        text("a method that is no text", r#"{"jsonrpc":"2.0","id":1,"method":7}"#, -32600),
        text("id null", r#"{"jsonrpc":"2.0","id":null,"method":"tools/list"}"#, -32600),
        text("id true", r#"{"jsonrpc":"2.0","id":true,"method":"tools/list"}"#, -32600),
        text("id an object", r#"{"jsonrpc":"2.0","id":{},"method":"tools/list"}"#, -32600),
        text("id an array", r#"{"jsonrpc":"2.0","id":[1],"method":"tools/list"}"#, -32600),
        text("params a text", &call("\"x\""), -32600),
        text("a result without an id", r#"{"jsonrpc":"2.0","result":{}}"#, -32600),
        text(
            "a result and an error",
            r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":""}}"#,
            -32600,
        ),
        text("a request that is an answer", r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","result":{}}"#, -32600),
        text("a name twice", r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"tools/call"}"#, -32600),
        text("the id twice", r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"tools/list"}"#, -32600),
        text("a param twice", &call(r#"{"name":"a","name":"b"}"#), -32600),
        text("a param twice, once with escapes", &call(r#"{"name":"a","n\u0061me":"b"}"#), -32600),
        text("metadata twice", &call(r#"{"_meta":{},"_meta":{}}"#), -32600),
        text("a token twice", &call(r#"{"_meta":{"progressToken":1,"progressToken":2}}"#), -32600),
    ]
}

/// JSON-RPC 2.0; 2026-07-28, Streamable HTTP › Server Validation: whatever cannot be read in one way only is refused with 400,
/// reaches no server, and leaves the session, the connection's owner and everybody else as they were.
#[tokio::test]
async fn what_is_no_message_is_refused_and_harms_nobody() {
    let proxy = Proxy::start(shadowcat::testing::Script::default()).await;
    let (client, other) = (proxy.client(Era::Legacy).await, proxy.client(Era::Modern).await);
    let Client::Legacy(session) = &client else { unreachable!() };
    let before = (client.stats().await, other.stats().await);
    for (what, body, expected) in bodies() {
        for era in Era::BOTH {
            let mut headers = json_headers();
            match era {
                Era::Legacy => headers.extend(session.headers()),
                Era::Modern => headers.extend([("MCP-Protocol-Version", MODERN), ("Mcp-Method", "tools/list")]),
            }
            let (status, answer) = raw_post(&proxy, &headers, &body).await;
            assert_eq!(status, 400, "{era:?} {what}: {answer}");
            let answer: Value = serde_json::from_str(&answer).unwrap();
            assert_ours(&answer, expected);
            assert!(answer["id"].is_null() || answer["id"].is_u64(), "{what}: {answer}");
        }
    }
    let after = (client.stats().await, other.stats().await);
    for (before, after) in [(before.0, after.0), (before.1, after.1)] {
        assert_eq!(after["junk"], 0);
        assert_eq!(before["requests"].get("tools/list"), after["requests"].get("tools/list"));
    }
    assert_eq!(text(&client.call("echo", json!({ "text": "x" })).await), "x");
}

/// POSTs bytes, on a connection of their own.
async fn raw_post(proxy: &Proxy, headers: &[(&str, &str)], body: &[u8]) -> (u16, String) {
    let mut head =
        format!("POST /mcp HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    let answer = exchange(proxy, &[head.as_bytes(), b"\r\n", body].concat()).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Writes bytes to the proxy, and reads until it closes the connection.
async fn exchange(proxy: &Proxy, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(proxy.running.address()).ok().await;
    // The proxy may have heard enough before everything is written.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = within("the end of the connection", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// RFC 9112: requests that two readers could read in two ways are refused, and nothing more is read from that connection.
#[tokio::test]
async fn requests_with_two_readings_are_refused_with_their_connection() {
    let proxy = Proxy::start(legacy()).await;
    let smuggled =
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    let heads = [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Content-Length: 4\r\nContent-Length: 5",
        "Content-Length: -4",
        "Content-Length: +4",
        "Content-Length: 4, 5",
        "Transfer-Encoding: xchunked",
        "Content-Length : 4",
        "X: a\r\n Content-Length: 4",
    ];
    for head in heads {
        let request = format!(
            "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{head}\r\n\r\n0\r\n\r\n{smuggled}"
        );
        let answer = exchange(&proxy, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{head}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{head}: {answer}");
    }
}

/// A body that breaks off half-way is never acted on.
#[tokio::test]
async fn a_body_that_breaks_off_is_not_acted_on() {
    let proxy = Proxy::start(legacy()).await;
    let client = proxy.client(Era::Legacy).await;
    let Client::Legacy(session) = &client else { unreachable!() };
    let body = message("1", "tools/call", r#"{"name":"count","arguments":{"key":"k"}}"#);
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nMcp-Session-Id: {}\r\nContent-Length: {}\r\n\r\n",
        session.id.as_deref().unwrap(),
        body.len() + 1,
    );
    for cut in [0, 10, body.len()] {
        let mut stream = TcpStream::connect(proxy.running.address()).ok().await;
        stream.write_all(&[head.as_bytes(), &body.as_bytes()[..cut]].concat()).ok().await;
        drop(stream);
    }
    // None is left but the one on which this is asked: all of ours have been seen to end.
    proxy.until_metric("shadowcat_connections", &[], 1.0).await;
    assert_eq!(text(&client.call("count", json!({ "key": "k" })).await), "1", "it was never counted before");
}

/// JSON, RFC 8259: numbers beyond any machine's, and text with half a surrogate pair, pass as they are or are refused; they
/// are never changed.
#[tokio::test]
async fn odd_values_pass_or_are_refused_but_are_never_changed() {
    let proxy = Proxy::start(legacy()).await;
    let session = proxy.session().await;
    let values = [
        "1.0",
        "-0.0",
        "1E+2",
        "123456789012345678901234567890.10",
        "0.1e-7",
        r#""\ud83d\ude00""#,
        r#""\u0000""#,
        r#""ሴ\u1234""#,
        "\"\u{7f}\u{2028}\"",
    ];
    for value in values {
        let params = format!(r#"{{"name":"meta","arguments":{{"v":{value}}}}}"#);
        let answer = session.send(&message("1", "tools/call", &params)).ok().await.answer().ok().await;
        assert_eq!(text(&answer), params);
    }
}

/// 2026-07-28, Streamable HTTP › Server Validation: a key is the key, in this case only: what a lenient reader behind the proxy
/// might take for `method` is nothing here, and passes as the unknown field that it is.
#[tokio::test]
async fn keys_in_another_case_mean_nothing() {
    let proxy = Proxy::start(modern()).await;
    let call = Modern::call("meta", json!({})).param("Name", "exit".into()).param("NAME", "exit".into());
    let answer = call.post(&proxy.url).ok().await.answer().ok().await;
    assert!(text(&answer).contains(r#""NAME":"exit""#), "{answer}");
    let shouting = r#"{"jsonrpc":"2.0","ID":1,"Method":"tools/list","id":1}"#;
    let refused = send("POST", &proxy.url, &json_headers(), shouting).await;
    assert_eq!((refused.status, code(&refused.json().ok().await)), (400, -32600));
}

/// Failure of one connection is its own: headers that never come, bodies that never end and clients that stall do not hold
/// up anybody else (C-LIFE), and are given up in time.
#[tokio::test]
async fn slow_clients_are_given_up_and_delay_nobody() {
    let quick = |settings: &mut Settings| {
        settings.timeouts.header_read = std::time::Duration::from_millis(300);
        settings.timeouts.body_idle = std::time::Duration::from_millis(300);
    };
    let proxy = Proxy::with(legacy(), quick).await;
    let silent = TcpStream::connect(proxy.running.address()).ok().await;
    let (begun, dripping, answer) = tokio::join!(
        exchange(&proxy, b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nX-Slow"),
        exchange(
            &proxy,
            b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        ),
        async { proxy.session().await.call("echo", json!({ "text": "x" })).ok().await.answer().ok().await }
    );
    assert_eq!(text(&answer), "x");
    assert!(begun.is_empty() || begun.starts_with("HTTP/1.1 408"), "{begun}");
    assert!(dripping.starts_with("HTTP/1.1 408"), "{dripping}");
    let mut silent = silent;
    let mut nothing = Vec::new();
    let _ = within("a connection that says nothing ends too", silent.read_to_end(&mut nothing)).await;
}

/// RFC 9112: the ways of writing a request that clients use are all understood: absolute form, 1.0, chunks, `Expect`, and several
/// on one connection, answered in order.
#[tokio::test]
async fn http_is_understood_in_all_its_forms() {
    let proxy = Proxy::start(legacy()).await;
    let body = initialize(LEGACY);
    let head = |first: &str, more: &str| {
        format!(
            "{first}\r\nHost: localhost\r\nContent-Type: application/json\r\nAccept: application/json\r\n{more}\r\n\r\n"
        )
    };
    let length = format!("Content-Length: {}", body.len());
    let close = format!("Connection: close\r\n{length}");
    let (one, two) = body.split_at(7);
    let chunks = format!("{:x}\r\n{one}\r\n{:x};ext=1\r\n{two}\r\n0\r\n\r\n", one.len(), two.len());
    let forms = [
        ("plain", format!("{}{body}", head("POST /mcp HTTP/1.1", &close)), 1),
        ("1.0", format!("{}{body}", head("POST /mcp HTTP/1.0", &length)), 1),
        ("absolute", format!("{}{body}", head("POST http://localhost/mcp HTTP/1.1", &close)), 1),
        (
            "chunks",
            format!("{}{chunks}", head("POST /mcp HTTP/1.1", "Connection: close\r\nTransfer-Encoding: chunked")),
            1,
        ),
        ("expecting", format!("{}{body}", head("POST /mcp HTTP/1.1", &format!("{close}\r\nExpect: 100-continue"))), 1),
        (
            "two",
            format!("{}{body}{}{body}", head("POST /mcp HTTP/1.1", &length), head("POST /mcp HTTP/1.1", &close)),
            2,
        ),
    ];
    for (what, request, answers) in forms {
        let answer = exchange(&proxy, request.as_bytes()).await;
        assert_eq!(answer.matches(" 200 OK").count(), answers, "{what}: {answer}");
        assert_eq!(answer.matches(r#""protocolVersion":"2025-11-25""#).count(), answers, "{what}: {answer}");
    }
    let elsewhere = format!("{}{body}", head("POST http://evil.example/mcp HTTP/1.1", &close));
    assert!(exchange(&proxy, elsewhere.as_bytes()).await.starts_with("HTTP/1.1 403"), "two hosts are one too many");
}
