use super::*;

fn call(arguments: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{{"name":"t","arguments":{arguments}}}}}"#)
}

/// Discovery: the handshake.
#[test]
fn a_handshake_is_answered_from_what_the_server_says_of_itself() {
    let discovered = message(
        r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{"listChanged":true},"extensions":{"io.modelcontextprotocol/tasks":{},"vendor/ui":{}}},"instructions":"Ask.","ttlMs":5,"cacheScope":"public","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s","version":"2"}}}}"#,
    );
    let welcome = |revision: &str, discovered: &Message| {
        let result = welcome::result(&client(revision, "{}"), discovered, "route").unwrap();
        String::from_utf8(result.text().to_vec()).unwrap()
    };
    insta::assert_snapshot!(welcome("2025-11-25", &discovered), @r#"
    {"jsonrpc":"2.0","id":0,"result":{"capabilities":{"extensions":{"vendor/ui":{}},"tools":{"listChanged":true}},"instructions":"Ask.","protocolVersion":"2025-11-25","serverInfo":{"name":"s","version":"2"}}}
    "#);
    insta::assert_snapshot!(welcome("2024-11-05", &discovered), @r#"
    {"jsonrpc":"2.0","id":0,"result":{"capabilities":{"tools":{"listChanged":true}},"instructions":"Ask.","protocolVersion":"2024-11-05","serverInfo":{"name":"s","version":"2"}}}
    "#);
    let nameless = message(
        r#"{"jsonrpc":"2.0","id":1,"result":{"capabilities":{},"_meta":{"io.modelcontextprotocol/serverInfo":7}}}"#,
    );
    insta::assert_snapshot!(welcome("2031-01-01", &nameless), @r#"
    {"jsonrpc":"2.0","id":0,"result":{"capabilities":{},"protocolVersion":"2025-11-25","serverInfo":{"name":"route","version":"0"}}}
    "#);
    assert!(
        welcome::result(&client("2025-11-25", "{}"), &message(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#), "x")
            .is_none()
    );
    assert_eq!(welcome::keeps(&discovered), (5, true));
}

/// Versioning: no common version.
#[test]
fn a_refusal_names_the_versions() {
    let refused = message(
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"message":"x","data":{"supported":["2031-01-01"],"requested":"2026-07-28"}}}"#,
    );
    let refusal = welcome::refusal(&refused, &RequestId::from_json("\"i\"").unwrap());
    insta::assert_snapshot!(String::from_utf8_lossy(refusal.text()), @r#"
    {"jsonrpc":"2.0","id":"i","error":{"code":-32602,"message":"Unsupported protocol version: the server speaks 2031-01-01","data":{"requested":"2026-07-28","supported":["2031-01-01"]}}}
    "#);
}

/// `tools/list`, `prompts/list`, `resources/list`, `resources/templates/list`: the hints of caches go, and schemas that no older
/// revision can have.
#[test]
fn lists_lose_what_is_not_of_their_era() {
    let mut list = Dialogue::begin(&client("2025-11-25", "{}"), r#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#);
    list.result(r#"{"tools":[{"name":"a","outputSchema":{"type":"array"},"n":1.50},{"name":"b","outputSchema":{"type":"object"}}],"nextCursor":"c","resultType":"complete","ttlMs":1,"cacheScope":"private"}"#);
    insta::assert_snapshot!(list.read(), @r#"
    > client  {"jsonrpc":"2.0","id":7,"method":"tools/list"}
    > upstream{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{…}}}
    < upstream{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a","outputSchema":{"type":"array"},"n":1.50},{"name":"b","outputSchema":{"type":"object"}}],"nextCursor":"c","resultType":"complete","ttlMs":1,"cacheScope":"private"}}
    - lost: output_schema
    < client  {"jsonrpc":"2.0","id":7,"result":{"tools":[{"name":"a","n":1.50},{"name":"b","outputSchema":{"type":"object"}}],"nextCursor":"c"}}
    "#);
}

/// The other lists, and `resources/read`: likewise.
#[test]
fn what_is_read_says_nothing_of_caches() {
    let client = client("2025-11-25", "{}");
    let mut said = String::new();
    for (method, params, result) in [
        (
            "prompts/list",
            r#","params":{"cursor":"c"}"#,
            r#"{"prompts":[],"ttlMs":1,"cacheScope":"private","resultType":"complete"}"#,
        ),
        ("resources/list", "", r#"{"resultType":"complete","resources":[],"ttlMs":1,"cacheScope":"public"}"#),
        ("resources/templates/list", "", r#"{"ttlMs":1,"cacheScope":"public","resourceTemplates":[]}"#),
        (
            "resources/read",
            r#","params":{"uri":"a://b"}"#,
            r#"{"resultType":"complete","contents":[],"n":1.50,"ttlMs":1}"#,
        ),
        // Only what is read says how long it keeps: elsewhere such a member is the server's own.
        ("vendor/x", "", r#"{"resultType":"complete","ttlMs":1}"#),
    ] {
        let request = format!(r#"{{"jsonrpc":"2.0","id":7,"method":"{method}"{params}}}"#);
        let mut one = Dialogue::begin(&client, &request);
        one.result(result);
        said += &format!("{}\n", one.read().lines().skip(1).collect::<Vec<_>>().join("\n"));
    }
    insta::assert_snapshot!(said, @r#"
    > upstream{"jsonrpc":"2.0","id":1,"method":"prompts/list","params":{"_meta":{…},"cursor":"c"}}
    < upstream{"jsonrpc":"2.0","id":1,"result":{"prompts":[],"ttlMs":1,"cacheScope":"private","resultType":"complete"}}
    < client  {"jsonrpc":"2.0","id":7,"result":{"prompts":[]}}
    > upstream{"jsonrpc":"2.0","id":1,"method":"resources/list","params":{"_meta":{…}}}
    < upstream{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","resources":[],"ttlMs":1,"cacheScope":"public"}}
    < client  {"jsonrpc":"2.0","id":7,"result":{"resources":[]}}
    > upstream{"jsonrpc":"2.0","id":1,"method":"resources/templates/list","params":{"_meta":{…}}}
    < upstream{"jsonrpc":"2.0","id":1,"result":{"ttlMs":1,"cacheScope":"public","resourceTemplates":[]}}
    < client  {"jsonrpc":"2.0","id":7,"result":{"resourceTemplates":[]}}
    > upstream{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"_meta":{…},"uri":"a://b"}}
    < upstream{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","contents":[],"n":1.50,"ttlMs":1}}
    < client  {"jsonrpc":"2.0","id":7,"result":{"contents":[],"n":1.50}}
    > upstream{"jsonrpc":"2.0","id":1,"method":"vendor/x","params":{"_meta":{…}}}
    < upstream{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","ttlMs":1}}
    < client  {"jsonrpc":"2.0","id":7,"result":{"ttlMs":1}}
    "#);
}

/// What a server of 2026-07-28 does not say (`ping` and other requests, the end of an errand), and what nobody knows.
#[test]
fn what_a_server_does_not_ask() {
    let mut one = Dialogue::begin(&client("2025-11-25", EVERYTHING), &call("{}"));
    one.upstream(r#"{"jsonrpc":"2.0","id":"s","method":"ping"}"#)
        .upstream(r#"{"jsonrpc":"2.0","id":"s","method":"roots/list"}"#)
        .upstream(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"s"}}"#)
        .upstream(r#"{"jsonrpc":"2.0","method":"vendor/note","params":{"n":1.50}}"#);
    insta::assert_snapshot!(one.read().lines().skip(2).collect::<Vec<_>>().join("\n"), @r#"
    < upstream{"jsonrpc":"2.0","id":"s","method":"ping"}
    - dropped: request_of_modern_server
    < upstream{"jsonrpc":"2.0","id":"s","method":"roots/list"}
    - dropped: request_of_modern_server
    < upstream{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"s"}}
    - dropped: unknown_cancel
    < upstream{"jsonrpc":"2.0","method":"vendor/note","params":{"n":1.50}}
    < client  {"jsonrpc":"2.0","method":"vendor/note","params":{"n":1.50}}
    "#);
}

/// `tools/call`: metadata goes up, what belongs to modern results only does not come down.
#[test]
fn a_call_goes_up_with_what_is_known_of_the_client() {
    let mut plain = Dialogue::begin(
        &client("2025-06-18", r#"{"roots":{}}"#),
        r#"{"jsonrpc":"2.0","id":1.0,"method":"tools/call","params":{"_meta":{"io.modelcontextprotocol/clientInfo":{"name":"x"},"progressToken":"p","v":1},"name":"t","task":{"ttl":1},"arguments":{"n":1E5}}}"#,
    );
    plain
        .upstream(r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":ID,"progress":1}}"#)
        .result(r#"{"resultType":"complete","content":[],"structuredContent":{"a":1}}"#);
    insta::assert_snapshot!(plain.read(), @r#"
    > client  {"jsonrpc":"2.0","id":1.0,"method":"tools/call","params":{"_meta":{"io.modelcontextprotocol/clientInfo":{"name":"x"},"progressToken":"p","v":1},"name":"t","task":{"ttl":1},"arguments":{"n":1E5}}}
    > upstream{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{…,"progressToken":1,"v":1},"name":"t","arguments":{"n":1E5}}}
    < upstream{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}
    < client  {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p","progress":1}}
    < upstream{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","content":[],"structuredContent":{"a":1}}}
    < client  {"jsonrpc":"2.0","id":1.0,"result":{"content":[],"structuredContent":{"a":1}}}
    "#);
}

/// Structured results: what is no object is told as text.
#[test]
fn structured_results_that_cannot_be_told_become_text() {
    let (newest, oldest) = (client("2025-11-25", "{}"), client("2024-11-05", "{}"));
    let mut said = String::new();
    for (client, result) in [
        (&newest, r#"{"content":[],"structuredContent":[1.50,2],"resultType":"complete"}"#),
        (
            &newest,
            r#"{"content":[{"type":"text","text":"[1.5,2]"}],"structuredContent":[1.50,2],"resultType":"complete"}"#,
        ),
        (&newest, r#"{"resultType":"complete","structuredContent":null}"#),
        (&oldest, r#"{"resultType":"complete","structuredContent":{"a":1},"content":[{"type":"image","data":""}]}"#),
    ] {
        let mut one = Dialogue::begin(client, &call("{}"));
        one.result(result);
        let told = one.read().lines().skip(2).collect::<Vec<_>>().join("\n");
        said += &format!("{told}\n\n");
    }
    insta::assert_snapshot!(said, @r#"
    < upstream{"jsonrpc":"2.0","id":1,"result":{"content":[],"structuredContent":[1.50,2],"resultType":"complete"}}
    - lost: structured_content
    < client  {"jsonrpc":"2.0","id":"a","result":{"content":[{"text":"[1.50,2]","type":"text"}]}}

    < upstream{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"[1.5,2]"}],"structuredContent":[1.50,2],"resultType":"complete"}}
    - lost: structured_content
    < client  {"jsonrpc":"2.0","id":"a","result":{"content":[{"type":"text","text":"[1.5,2]"}]}}

    < upstream{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","structuredContent":null}}
    - lost: structured_content
    < client  {"jsonrpc":"2.0","id":"a","result":{"content":[{"text":"null","type":"text"}]}}

    < upstream{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","structuredContent":{"a":1},"content":[{"type":"image","data":""}]}}
    < client  {"jsonrpc":"2.0","id":"a","result":{"structuredContent":{"a":1},"content":[{"type":"image","data":""},{"text":"{\"a\":1}","type":"text"}]}}
    "#);
}

/// Structured results, wrapped: results where the list was, for as many tools as there is room.
#[test]
fn structured_results_can_be_wrapped() {
    let client = client("2025-11-25", "{}");
    let list = r#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#;
    let mut listed = Dialogue::shaped(&client, list, Shape::Wrap { room: 3 });
    listed.result(
        r##"{"tools":[{"name":"a","outputSchema":{"$schema":"s","type":"array","items":{"$ref":"#/$defs/x"},"$defs":{"x":{"const":1.50}}},"n":1.50},{"name":"b","outputSchema":{"type":"object"}},{"name":"c","outputSchema":{"$recursiveRef":"#"}},{"name":"long","outputSchema":true}],"resultType":"complete"}"##,
    );
    let mut called = Dialogue::shaped(&client, &call("{}"), Shape::Wrapped);
    called.result(r#"{"content":[],"structuredContent":[1.50],"resultType":"complete"}"#);
    let mut failed = Dialogue::shaped(&client, &call("{}"), Shape::Wrapped);
    failed.result(r#"{"content":[],"isError":true,"resultType":"complete"}"#);
    let said =
        [listed.read(), called.read(), failed.read()].map(|said| said.lines().skip(2).collect::<Vec<_>>().join("\n"));
    insta::assert_snapshot!(said.join("\n\n"), @r##"
    < upstream{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a","outputSchema":{"$schema":"s","type":"array","items":{"$ref":"#/$defs/x"},"$defs":{"x":{"const":1.50}}},"n":1.50},{"name":"b","outputSchema":{"type":"object"}},{"name":"c","outputSchema":{"$recursiveRef":"#"}},{"name":"long","outputSchema":true}],"resultType":"complete"}}
    - lost: output_schema
    - lost: output_schema
    - told of: [("a", true), ("b", false), ("c", false), ("long", false)]
    < client  {"jsonrpc":"2.0","id":7,"result":{"tools":[{"name":"a","outputSchema":{"$schema":"s","type":"object","properties":{"result":{"type":"array","items":{"$ref":"#/properties/result/$defs/x"},"$defs":{"x":{"const":1.50}}}},"required":["result"]},"n":1.50},{"name":"b","outputSchema":{"type":"object"}},{"name":"c"},{"name":"long"}]}}

    < upstream{"jsonrpc":"2.0","id":1,"result":{"content":[],"structuredContent":[1.50],"resultType":"complete"}}
    < client  {"jsonrpc":"2.0","id":"a","result":{"content":[],"structuredContent":{"result":[1.50]}}}

    < upstream{"jsonrpc":"2.0","id":1,"result":{"content":[],"isError":true,"resultType":"complete"}}
    < client  {"jsonrpc":"2.0","id":"a","result":{"content":[],"isError":true}}
    "##);
}

/// `elicitation/create`, `sampling/createMessage`, `roots/list`: all at once; the answers go up under the server's names, and what
/// the server wants back goes back as it was.
#[test]
fn questions_are_asked_at_once_and_the_request_is_repeated() {
    let mut asked = Dialogue::begin(&client("2025-11-25", EVERYTHING), &call(r#"{"x":1.0}"#));
    asked
        .result(r#"{"resultType":"input_required","inputRequests":{"k\"1":{"method":"elicitation/create","params":{"message":"Who?","requestedSchema":{"type":"object","properties":{}}}},"k2":{"method":"roots/list"}},"requestState":"\u00fc\\☃"}"#)
        .answer(102, r#""result":{"roots":[]}"#)
        .answer(101, r#""result":{"action":"accept","content":{"n":1.50}}"#)
        .result(r#"{"resultType":"input_required","inputRequests":{"k3":{"method":"sampling/createMessage","params":{"messages":[],"maxTokens":1}}}}"#)
        .answer(103, r#""result":{"role":"assistant","content":{"type":"text","text":"Hi"}}"#)
        .result(r#"{"resultType":"complete","content":[]}"#);
    insta::assert_snapshot!(asked.read(), @r#"
    > client  {"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"t","arguments":{"x":1.0}}}
    > upstream{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{…},"name":"t","arguments":{"x":1.0}}}
    < upstream{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{"k\"1":{"method":"elicitation/create","params":{"message":"Who?","requestedSchema":{"type":"object","properties":{}}}},"k2":{"method":"roots/list"}},"requestState":"\u00fc\\☃"}}
    < client  {"jsonrpc":"2.0","id":101,"method":"elicitation/create","params":{"message":"Who?","requestedSchema":{"type":"object","properties":{}}}}
    < client  {"jsonrpc":"2.0","id":102,"method":"roots/list","params":{}}
    > client  {"jsonrpc":"2.0","id":102,"result":{"roots":[]}}
    > client  {"jsonrpc":"2.0","id":101,"result":{"action":"accept","content":{"n":1.50}}}
    > upstream{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"inputResponses":{"k\"1":{"action":"accept","content":{"n":1.50}},"k2":{"roots":[]}},"requestState":"\u00fc\\☃","_meta":{…},"name":"t","arguments":{"x":1.0}}}
    < upstream{"jsonrpc":"2.0","id":2,"result":{"resultType":"input_required","inputRequests":{"k3":{"method":"sampling/createMessage","params":{"messages":[],"maxTokens":1}}}}}
    < client  {"jsonrpc":"2.0","id":103,"method":"sampling/createMessage","params":{"messages":[],"maxTokens":1}}
    > client  {"jsonrpc":"2.0","id":103,"result":{"role":"assistant","content":{"type":"text","text":"Hi"}}}
    > upstream{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"inputResponses":{"k3":{"role":"assistant","content":{"type":"text","text":"Hi"}}},"_meta":{…},"name":"t","arguments":{"x":1.0}}}
    < upstream{"jsonrpc":"2.0","id":3,"result":{"resultType":"complete","content":[]}}
    < client  {"jsonrpc":"2.0","id":"a","result":{"content":[]}}
    "#);
}

/// URL mode: an errand has a name in 2025-11-25.
#[test]
fn an_errand_gets_a_name() {
    let mut errand = Dialogue::begin(&client("2025-11-25", EVERYTHING), &call("{}"));
    errand
        .result(r#"{"resultType":"input_required","inputRequests":{"u":{"method":"elicitation/create","params":{"mode":"url","message":"Go","url":"https://x/"}}},"requestState":"s"}"#)
        .answer(101, r#""result":{"action":"accept"}"#)
        .result(r#"{"resultType":"complete","content":[]}"#);
    insta::assert_snapshot!(errand.read(), @r#"
    > client  {"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"t","arguments":{}}}
    > upstream{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{…},"name":"t","arguments":{}}}
    < upstream{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{"u":{"method":"elicitation/create","params":{"mode":"url","message":"Go","url":"https://x/"}}},"requestState":"s"}}
    < client  {"jsonrpc":"2.0","id":101,"method":"elicitation/create","params":{"elicitationId":"errand-101","message":"Go","mode":"url","url":"https://x/"}}
    > client  {"jsonrpc":"2.0","id":101,"result":{"action":"accept"}}
    > upstream{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"inputResponses":{"u":{"action":"accept"}},"requestState":"s","_meta":{…},"name":"t","arguments":{}}}
    < upstream{"jsonrpc":"2.0","id":2,"result":{"resultType":"complete","content":[]}}
    < client  {"jsonrpc":"2.0","id":"a","result":{"content":[]}}
    "#);
}

/// Forms in 2025-06-18: one of several is said with other words, several of many cannot be.
#[test]
fn forms_are_put_into_older_words() {
    let form = |property: &str| {
        format!(
            r#"{{"resultType":"input_required","inputRequests":{{"f":{{"method":"elicitation/create","params":{{"mode":"form","message":"?","requestedSchema":{{"type":"object","properties":{{"c":{property}}}}}}}}}}}}}"#
        )
    };
    let old = client("2025-06-18", r#"{"elicitation":{}}"#);
    let mut one = Dialogue::begin(&old, &call("{}"));
    one.result(&form(r#"{"type":"string","oneOf":[{"const":"r","title":"Red"},{"const":"b","title":"Blue"}]}"#));
    let mut many = Dialogue::begin(&old, &call("{}"));
    many.result(&form(r#"{"type":"array","items":{"type":"string","enum":["r","b"]}}"#));
    insta::assert_snapshot!([one.read(), many.read()].join("\n"), @r#"
    > client  {"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"t","arguments":{}}}
    > upstream{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{…},"name":"t","arguments":{}}}
    < upstream{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{"f":{"method":"elicitation/create","params":{"mode":"form","message":"?","requestedSchema":{"type":"object","properties":{"c":{"type":"string","oneOf":[{"const":"r","title":"Red"},{"const":"b","title":"Blue"}]}}}}}}}}
    < client  {"jsonrpc":"2.0","id":101,"method":"elicitation/create","params":{"message":"?","requestedSchema":{"properties":{"c":{"enum":["r","b"],"enumNames":["Red","Blue"],"type":"string"}},"type":"object"}}}

    > client  {"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"t","arguments":{}}}
    > upstream{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{…},"name":"t","arguments":{}}}
    < upstream{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{"f":{"method":"elicitation/create","params":{"mode":"form","message":"?","requestedSchema":{"type":"object","properties":{"c":{"type":"array","items":{"type":"string","enum":["r","b"]}}}}}}}}}
    - lost: question_unspeakable
    < client  {"jsonrpc":"2.0","id":"a","result":{"content":[{"type":"text","text":"The client's revision has no words for what the server asks"}],"isError":true}}
    "#);
}

/// A refusal: of an elicitation it is an answer; else the server cannot be told, and the request ends.
#[test]
fn refusals() {
    let mut elicited = Dialogue::begin(&client("2025-11-25", EVERYTHING), &call("{}"));
    elicited
        .result(r#"{"resultType":"input_required","inputRequests":{"e":{"method":"elicitation/create","params":{"message":"?","requestedSchema":{}}}}}"#)
        .answer(101, r#""error":{"code":-1,"message":"No"}"#);
    let questions = r#"{"resultType":"input_required","inputRequests":{"r":{"method":"roots/list"},"s":{"method":"sampling/createMessage","params":{"messages":[]}}}}"#;
    let mut sampled = Dialogue::begin(&client("2025-11-25", EVERYTHING), &call("{}"));
    sampled.result(questions).answer(102, r#""error":{"code":-1,"message":"User rejected"}"#);
    let read = r#"{"jsonrpc":"2.0","id":3,"method":"resources/read","params":{"uri":"x:y"}}"#;
    let mut resource = Dialogue::begin(&client("2025-11-25", EVERYTHING), read);
    resource.result(questions).answer(101, r#""error":{"code":-1,"message":"No"}"#);
    insta::assert_snapshot!([elicited.read(), sampled.read(), resource.read()].join("\n"), @r#"
    > client  {"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"t","arguments":{}}}
    > upstream{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{…},"name":"t","arguments":{}}}
    < upstream{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{"e":{"method":"elicitation/create","params":{"message":"?","requestedSchema":{}}}}}}
    < client  {"jsonrpc":"2.0","id":101,"method":"elicitation/create","params":{"message":"?","requestedSchema":{}}}
    > client  {"jsonrpc":"2.0","id":101,"error":{"code":-1,"message":"No"}}
    > upstream{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"inputResponses":{"e":{"action":"cancel"}},"_meta":{…},"name":"t","arguments":{}}}

    > client  {"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"t","arguments":{}}}
    > upstream{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{…},"name":"t","arguments":{}}}
    < upstream{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{"r":{"method":"roots/list"},"s":{"method":"sampling/createMessage","params":{"messages":[]}}}}}
    < client  {"jsonrpc":"2.0","id":101,"method":"roots/list","params":{}}
    < client  {"jsonrpc":"2.0","id":102,"method":"sampling/createMessage","params":{"messages":[]}}
    > client  {"jsonrpc":"2.0","id":102,"error":{"code":-1,"message":"User rejected"}}
    - lost: question_refused
    < client  {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":101,"reason":"The request that it belongs to is over"}}
    < client  {"jsonrpc":"2.0","id":"a","result":{"content":[{"type":"text","text":"The client refused what the server asked: User rejected"}],"isError":true}}

    > client  {"jsonrpc":"2.0","id":3,"method":"resources/read","params":{"uri":"x:y"}}
    > upstream{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"_meta":{…},"uri":"x:y"}}
    < upstream{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{"r":{"method":"roots/list"},"s":{"method":"sampling/createMessage","params":{"messages":[]}}}}}
    < client  {"jsonrpc":"2.0","id":101,"method":"roots/list","params":{}}
    < client  {"jsonrpc":"2.0","id":102,"method":"sampling/createMessage","params":{"messages":[]}}
    > client  {"jsonrpc":"2.0","id":101,"error":{"code":-1,"message":"No"}}
    - lost: question_refused
    < client  {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":102,"reason":"The request that it belongs to is over"}}
    < client  {"jsonrpc":"2.0","id":3,"error":{"code":-32603,"message":"The client refused what the server asked","data":{"origin":"proxy","reason":"not_answered","error":{"code":-1,"message":"No"}}}}
    "#);
}

/// Nobody answers: what was asked is taken back.
#[test]
fn silence() {
    let mut silent = Dialogue::begin(&client("2025-11-25", EVERYTHING), &call("{}"));
    silent
        .result(r#"{"resultType":"input_required","inputRequests":{"r":{"method":"roots/list"}},"requestState":"s"}"#)
        .wait(PATIENCE / 2)
        .wait(PATIENCE / 2)
        .answer(101, r#""result":{"roots":[]}"#);
    insta::assert_snapshot!(silent.read(), @r#"
    > client  {"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"t","arguments":{}}}
    > upstream{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{…},"name":"t","arguments":{}}}
    < upstream{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{"r":{"method":"roots/list"}},"requestState":"s"}}
    < client  {"jsonrpc":"2.0","id":101,"method":"roots/list","params":{}}
    … 300s
    … 300s
    - lost: question_unanswered
    < client  {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":101,"reason":"The request that it belongs to is over"}}
    < client  {"jsonrpc":"2.0","id":"a","result":{"content":[{"type":"text","text":"The client did not answer in time what the server asked"}],"isError":true}}
    > client  {"jsonrpc":"2.0","id":101,"result":{"roots":[]}}
    - dropped: answer_to_nothing
    "#);
}

/// Load shedding: a server that only gives something to remember is asked again, later and later, and not for ever.
#[test]
fn a_busy_server_is_asked_again_later() {
    let mut busy = Dialogue::begin(&client("2025-11-25", "{}"), &call("{}"));
    for pause in [250, 500, 1000] {
        busy.result(r#"{"resultType":"input_required","requestState":"later"}"#).wait(Duration::from_millis(pause));
    }
    insta::assert_snapshot!(busy.read(), @r#"
    > client  {"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"t","arguments":{}}}
    > upstream{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{…},"name":"t","arguments":{}}}
    < upstream{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","requestState":"later"}}
    … 250ms
    > upstream{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"requestState":"later","_meta":{…},"name":"t","arguments":{}}}
    < upstream{"jsonrpc":"2.0","id":2,"result":{"resultType":"input_required","requestState":"later"}}
    … 500ms
    > upstream{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"requestState":"later","_meta":{…},"name":"t","arguments":{}}}
    < upstream{"jsonrpc":"2.0","id":3,"result":{"resultType":"input_required","requestState":"later"}}
    … 1s
    > upstream{"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"requestState":"later","_meta":{…},"name":"t","arguments":{}}}
    "#);
    let mut endless = Dialogue::begin(&client("2025-11-25", "{}"), &call("{}"));
    for _ in 0..9 {
        endless.result(r#"{"resultType":"input_required","requestState":"later"}"#).wait(PATIENCE);
    }
    assert!(endless.read().contains("! it wants input again and again"), "{}", endless.read());
}

/// Progress over several legs: one row that never goes back.
#[test]
fn progress_never_goes_back() {
    let request =
        r#"{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"p","_meta":{"progressToken":5}}}"#;
    let progress = |n: u8| {
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":ID,"progress":{n}}}}}"#
        )
    };
    let mut legs = Dialogue::begin(&client("2025-11-25", EVERYTHING), request);
    legs.upstream(&progress(2))
        .result(r#"{"resultType":"input_required","inputRequests":{"r":{"method":"roots/list"}}}"#)
        .answer(101, r#""result":{"roots":[]}"#)
        .upstream(&progress(1))
        .upstream(&progress(3))
        .result(r#"{"resultType":"complete","messages":[]}"#);
    insta::assert_snapshot!(legs.read(), @r#"
    > client  {"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"p","_meta":{"progressToken":5}}}
    > upstream{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"p","_meta":{…,"progressToken":1}}}
    < upstream{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":2}}
    < client  {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":5,"progress":2}}
    < upstream{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{"r":{"method":"roots/list"}}}}
    < client  {"jsonrpc":"2.0","id":101,"method":"roots/list","params":{}}
    > client  {"jsonrpc":"2.0","id":101,"result":{"roots":[]}}
    > upstream{"jsonrpc":"2.0","id":2,"method":"prompts/get","params":{"inputResponses":{"r":{"roots":[]}},"name":"p","_meta":{…,"progressToken":2}}}
    < upstream{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":2,"progress":1}}
    - dropped: progress_again
    < upstream{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":2,"progress":3}}
    < client  {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":5,"progress":3}}
    < upstream{"jsonrpc":"2.0","id":2,"result":{"resultType":"complete","messages":[]}}
    < client  {"jsonrpc":"2.0","id":1,"result":{"messages":[]}}
    "#);
}

/// Errors: the codes of the other era, and what is about our metadata.
#[test]
fn errors() {
    let read = r#"{"jsonrpc":"2.0","id":3,"method":"resources/read","params":{"uri":"x:y"}}"#;
    let mut said = String::new();
    for (request, error) in [
        (read.to_owned(), r#"{"code":-32602,"message":"Not there","data":{"uri":"x:y","n":1.50}}"#),
        (read.to_owned(), r#"{"code":-32602,"message":"Not that","data":{"uri":"x:z"}}"#),
        (call("{}"), r#"{"code":-32021,"message":"Needs","data":{"requiredCapabilities":{"sampling":{}}}}"#),
        (call("{}"), r#"{"code":-32020,"message":"HeaderMismatch"}"#),
        (call("{}"), r#"{"code":-32601,"message":"Method not found"}"#),
        (call("{}"), r#"{"code":-32002,"message":"Its own"}"#),
    ] {
        let mut one = Dialogue::begin(&client("2025-11-25", "{}"), &request);
        one.upstream(&format!(r#"{{"jsonrpc":"2.0","id":ID,"error":{error}}}"#));
        said += &one.read().lines().skip(3).collect::<Vec<_>>().join("\n");
        said += "\n";
    }
    insta::assert_snapshot!(said, @r#"
    < client  {"jsonrpc":"2.0","id":3,"error":{"code":-32002,"message":"Not there","data":{"uri":"x:y","n":1.50}}}
    < client  {"jsonrpc":"2.0","id":3,"error":{"code":-32602,"message":"Not that","data":{"uri":"x:z"}}}
    - lost: missing_capability
    < client  {"jsonrpc":"2.0","id":"a","error":{"code":-32603,"message":"The server needs a client that it can ask for: sampling","data":{"requiredCapabilities":{"sampling":{}}}}}
    - lost: error_code
    < client  {"jsonrpc":"2.0","id":"a","error":{"code":-32603,"message":"The server refuses the proxy's metadata: HeaderMismatch"}}
    < client  {"jsonrpc":"2.0","id":"a","error":{"code":-32601,"message":"Method not found"}}
    < client  {"jsonrpc":"2.0","id":"a","error":{"code":-32002,"message":"Its own"}}
    "#);
}

/// What a modern server must not do.
#[test]
fn violations() {
    let asks = |what: &str| format!(r#"{{"resultType":"input_required","inputRequests":{{"k":{what}}}}}"#);
    let sampling = r#"{"method":"sampling/createMessage","params":{"messages":[{"role":"user","content":[]}]}}"#;
    let list = r#"{"jsonrpc":"2.0","id":3,"method":"tools/list"}"#;
    let mut said = String::new();
    for (request, capabilities, result) in [
        (call("{}"), "{}", asks(r#"{"method":"roots/list"}"#)),
        (call("{}"), r#"{"elicitation":{}}"#, asks(r#"{"method":"elicitation/create","params":{"mode":"url"}}"#)),
        (call("{}"), r#"{"sampling":{}}"#, asks(sampling)),
        (call("{}"), r#"{"sampling":{}}"#, asks(&sampling.replace("\"messages\"", r#""tools":[],"messages""#))),
        (call("{}"), EVERYTHING, asks(r#"{"method":"vendor/ask"}"#)),
        (call("{}"), EVERYTHING, r#"{"resultType":"input_required"}"#.into()),
        (call("{}"), EVERYTHING, r#"{"resultType":"input_required","requestState":7}"#.into()),
        (call("{}"), EVERYTHING, r#"{"resultType":"task","taskId":"t"}"#.into()),
        (call("{}"), EVERYTHING, "[]".into()),
        (list.into(), EVERYTHING, asks(r#"{"method":"roots/list"}"#)),
    ] {
        let mut one = Dialogue::begin(&client("2025-11-25", capabilities), &request);
        one.result(&result);
        said += &one.read().lines().skip(2).collect::<Vec<_>>().join("\n");
        said += "\n";
    }
    insta::assert_snapshot!(said, @r#"
    < upstream{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{"k":{"method":"roots/list"}}}}
    ! it asks for what the client cannot do
    < upstream{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{"k":{"method":"elicitation/create","params":{"mode":"url"}}}}}
    ! it asks for what the client cannot do
    < upstream{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{"k":{"method":"sampling/createMessage","params":{"messages":[{"role":"user","content":[]}]}}}}}
    - lost: question_unspeakable
    < client  {"jsonrpc":"2.0","id":"a","result":{"content":[{"type":"text","text":"The client's revision has no words for what the server asks"}],"isError":true}}
    < upstream{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{"k":{"method":"sampling/createMessage","params":{"tools":[],"messages":[{"role":"user","content":[]}]}}}}}
    ! it asks for what the client cannot do
    < upstream{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{"k":{"method":"vendor/ask"}}}}
    ! what input it wants cannot be read
    < upstream{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required"}}
    ! it wants input and does not say which
    < upstream{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","requestState":7}}
    ! its requestState is no text
    < upstream{"jsonrpc":"2.0","id":1,"result":{"resultType":"task","taskId":"t"}}
    ! its result is of an unknown resultType
    < upstream{"jsonrpc":"2.0","id":1,"result":[]}
    ! its result is no object
    < upstream{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{"k":{"method":"roots/list"}}}}
    ! it asks for input where it cannot
    "#);
}

/// Tasks: a server that carries a call out as a task only gets a client that takes one, and is asked until it is done.
#[test]
fn a_call_that_has_to_be_a_task() {
    let client = client("2025-11-25", EVERYTHING);
    let begin = || {
        let mut dialogue = Dialogue::begin(&client, &call("{}"));
        dialogue.upstream(
            r#"{"jsonrpc":"2.0","id":ID,"error":{"code":-32021,"message":"Tasks only","data":{"requiredCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}}}}"#,
        );
        dialogue.result(r#"{"resultType":"task","taskId":"t1","status":"working","pollIntervalMs":100}"#);
        dialogue.wait(Duration::from_millis(100));
        dialogue
    };
    let mut done = begin();
    let asks = r#"{"resultType":"complete","taskId":"t1","status":"input_required","inputRequests":{"n":{"method":"roots/list"}}}"#;
    done.result(asks);
    done.answer(101, r#""result":{"roots":[]}"#);
    done.result(r#"{"resultType":"complete"}"#);
    done.wait(Duration::from_millis(100));
    // It has not noticed yet.
    done.result(asks);
    done.wait(Duration::from_millis(100));
    done.result(r#"{"resultType":"complete","taskId":"t1","status":"completed","result":{"content":[],"n":1.50}}"#);
    insta::assert_snapshot!(done.read(), @r#"
    > client  {"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"t","arguments":{}}}
    > upstream{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{…},"name":"t","arguments":{}}}
    < upstream{"jsonrpc":"2.0","id":1,"error":{"code":-32021,"message":"Tasks only","data":{"requiredCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}}}}
    > upstream{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"_meta":{"io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"extensions":{"io.modelcontextprotocol/tasks":{}},"roots":{},"sampling":{}},"io.modelcontextprotocol/protocolVersion":"2026-07-28"},"name":"t","arguments":{}}}
    < upstream{"jsonrpc":"2.0","id":2,"result":{"resultType":"task","taskId":"t1","status":"working","pollIntervalMs":100}}
    … 100ms
    > upstream{"jsonrpc":"2.0","id":3,"method":"tasks/get","params":{"_meta":{"io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"extensions":{"io.modelcontextprotocol/tasks":{}},"roots":{},"sampling":{}},"io.modelcontextprotocol/protocolVersion":"2026-07-28"},"taskId":"t1"}}
    < upstream{"jsonrpc":"2.0","id":3,"result":{"resultType":"complete","taskId":"t1","status":"input_required","inputRequests":{"n":{"method":"roots/list"}}}}
    < client  {"jsonrpc":"2.0","id":101,"method":"roots/list","params":{}}
    > client  {"jsonrpc":"2.0","id":101,"result":{"roots":[]}}
    > upstream{"jsonrpc":"2.0","id":4,"method":"tasks/update","params":{"inputResponses":{"n":{"roots":[]}},"_meta":{"io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"extensions":{"io.modelcontextprotocol/tasks":{}},"roots":{},"sampling":{}},"io.modelcontextprotocol/protocolVersion":"2026-07-28"},"taskId":"t1"}}
    < upstream{"jsonrpc":"2.0","id":4,"result":{"resultType":"complete"}}
    … 100ms
    > upstream{"jsonrpc":"2.0","id":5,"method":"tasks/get","params":{"_meta":{"io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"extensions":{"io.modelcontextprotocol/tasks":{}},"roots":{},"sampling":{}},"io.modelcontextprotocol/protocolVersion":"2026-07-28"},"taskId":"t1"}}
    < upstream{"jsonrpc":"2.0","id":5,"result":{"resultType":"complete","taskId":"t1","status":"input_required","inputRequests":{"n":{"method":"roots/list"}}}}
    … 100ms
    > upstream{"jsonrpc":"2.0","id":6,"method":"tasks/get","params":{"_meta":{"io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"extensions":{"io.modelcontextprotocol/tasks":{}},"roots":{},"sampling":{}},"io.modelcontextprotocol/protocolVersion":"2026-07-28"},"taskId":"t1"}}
    < upstream{"jsonrpc":"2.0","id":6,"result":{"resultType":"complete","taskId":"t1","status":"completed","result":{"content":[],"n":1.50}}}
    < client  {"jsonrpc":"2.0","id":"a","result":{"content":[],"n":1.50}}
    "#);
    for (ends, said) in
        [("failed", r#""status":"failed","error":{"code":7,"message":"no"}"#), ("cancelled", r#""status":"cancelled""#)]
    {
        let mut dialogue = begin();
        dialogue.result(&format!(r#"{{"taskId":"t1",{said}}}"#));
        assert!(dialogue.call.leave_task().is_none(), "{ends}: there is nothing to be cancelled");
    }
    // Nobody waits for it any more.
    let left = begin().call.leave_task().unwrap().message(9);
    assert_eq!((left.method(), left.param("taskId")), (Some("tasks/cancel"), Some("\"t1\"")));
}

/// Completion, and what neither of us knows: as they are, with the envelope.
#[test]
fn what_is_not_known_goes_on() {
    let client = client("2025-11-25", "{}");
    let complete =
        r#"{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"p"}}}"#;
    let mut completion = Dialogue::begin(&client, complete);
    completion.result(r#"{"resultType":"complete","completion":{"values":["a"]}}"#);
    let mut unknown = Dialogue::begin(&client, r#"{"jsonrpc":"2.0","id":2,"method":"vendor/x","params":{"n":1.50}}"#);
    unknown.upstream(r#"{"jsonrpc":"2.0","id":ID,"error":{"code":-32601,"message":"Method not found","data":1.50}}"#);
    insta::assert_snapshot!([completion.read(), unknown.read()].join("\n"), @r#"
    > client  {"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"p"}}}
    > upstream{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"_meta":{…},"ref":{"type":"ref/prompt","name":"p"}}}
    < upstream{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","completion":{"values":["a"]}}}
    < client  {"jsonrpc":"2.0","id":1,"result":{"completion":{"values":["a"]}}}

    > client  {"jsonrpc":"2.0","id":2,"method":"vendor/x","params":{"n":1.50}}
    > upstream{"jsonrpc":"2.0","id":1,"method":"vendor/x","params":{"_meta":{…},"n":1.50}}
    < upstream{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"Method not found","data":1.50}}
    < client  {"jsonrpc":"2.0","id":2,"error":{"code":-32601,"message":"Method not found","data":1.50}}
    "#);
}

/// `logging/setLevel`: the level goes along with each request, and log messages come on it.
#[test]
fn a_log_level_goes_along() {
    let client = client("2025-11-25", "{}");
    let call = Call::begin(&client, &message(&call("{}")), true, Some("warning"), PATIENCE).unwrap();
    let leg = message(std::str::from_utf8(call.leg().message(1).text()).unwrap());
    let mut dialogue = Dialogue { call, now: now(), id: 1, said: String::new() };
    assert_eq!(leg.meta("io.modelcontextprotocol/logLevel"), Some("\"warning\""));
    dialogue.upstream(r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","data":1.50}}"#);
    insta::assert_snapshot!(dialogue.read(), @r#"
    < upstream{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","data":1.50}}
    < client  {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","data":1.50}}
    "#);
}

/// `resources/subscribe`, and what the server says by itself: one stream for the session, of which its client knows nothing.
#[test]
fn a_subscription_is_a_stream() {
    use std::collections::BTreeSet;

    use super::super::standing;

    let client = client("2025-11-25", "{}");
    let welcome = message(r#"{"jsonrpc":"2.0","id":0,"result":{"capabilities":{"tools":{"listChanged":true}}}}"#);
    let uris = BTreeSet::from(["a://b".to_owned()]);
    let request = standing::request(&client, &welcome, &uris, 7).unwrap();
    let mut lines = vec![
        r#"> client  {"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":"a://b"}}"#.to_owned(),
        format!("> upstream{} {}", request.method().unwrap(), request.param("notifications").unwrap()),
    ];
    let tag = r#""_meta":{"io.modelcontextprotocol/subscriptionId":7}"#;
    for said in [
        format!(r#"{{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{{{tag}}}}}"#),
        format!(r#"{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{{"uri":"a://b",{tag}}}}}"#),
        format!(r#"{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{{"uri":"a://c",{tag}}}}}"#),
    ] {
        lines.push(format!("< upstream{said}"));
        let told = standing::down(&message(&said), &uris);
        let told = told.map(|told| String::from_utf8(told.text().to_vec()).unwrap());
        lines.push(told.map_or_else(|| "- not for this client".into(), |told| format!("< client  {told}")));
    }
    insta::assert_snapshot!(lines.join("\n"), @r#"
    > client  {"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":"a://b"}}
    > upstreamsubscriptions/listen {"resourceSubscriptions":["a://b"],"toolsListChanged":true}
    < upstream{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":7}}}
    < client  {"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{}}
    < upstream{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a://b","_meta":{"io.modelcontextprotocol/subscriptionId":7}}}
    < client  {"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a://b"}}
    < upstream{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a://c","_meta":{"io.modelcontextprotocol/subscriptionId":7}}}
    - not for this client
    "#);
}
