use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::protocol::scan::MEMBERS_MAX;

fn parse(text: &str) -> Result<Message, ParseError> {
    Message::parse(Bytes::copy_from_slice(text.as_bytes()), 128)
}

fn reason(text: &str) -> Invalid {
    parse(text).expect_err(text).reason
}

#[test]
fn tells_kinds_apart() {
    for (text, kind) in [
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, Kind::Request),
        (r#"{"jsonrpc":"2.0","method":"notifications/x","params":{}}"#, Kind::Notification),
        (r#"{"jsonrpc":"2.0","id":"a","result":{}}"#, Kind::Result),
        (r#"{"jsonrpc":"2.0","id":"a","result":null}"#, Kind::Result),
        (r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":""}}"#, Kind::Error),
        (r#"{"jsonrpc":"2.0","error":{"code":1,"message":""}}"#, Kind::Error),
    ] {
        assert_eq!(parse(text).unwrap().kind(), kind, "{text}");
    }
}

/// JSON that is no message is refused as such, with the id where it can be read (Basic › Messages).
#[test]
fn refuses_what_is_no_message() {
    for text in [
        r#"{"id":1,"method":"ping"}"#,
        r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":true,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":[],"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":7}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"x","params":3}"#,
        r#"{"jsonrpc":"2.0","result":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#,
        r#"{"jsonrpc":"2.0","id":1}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":"x"}"#,
        r#""text""#,
        "17",
    ] {
        assert!(matches!(reason(text), Invalid::NotAMessage(_)), "{text}: {:?}", reason(text));
    }
    let error = parse(r#"{"jsonrpc":"2.0","id":"7","method":7}"#).unwrap_err();
    assert_eq!(error.id.unwrap().as_json(), "\"7\"");
}

/// The same key twice is refused where we read keys, also in an escaped spelling: parsers disagree on which one wins
/// (2026-07-28, Streamable HTTP › Server Validation).
#[test]
fn refuses_duplicate_keys() {
    for text in [
        r#"{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"a","\u006dethod":"b"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"name":"x","name":"y"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"name":"x","n\u0061me":"y"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"_meta":{"a":1,"a":2}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"a","x":1,"x":2}"#,
    ] {
        assert!(matches!(reason(text), Invalid::Scan(ScanError::DuplicateKey(_))), "{text}");
        assert!(!reason(text).is_syntax());
    }
    assert!(
        parse(r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"arguments":{"a":1,"a":2}}}"#).is_ok(),
        "below what we read"
    );
    assert!(parse(r#"{"jsonrpc":"2.0","id":1,"method":"a","Method":"b"}"#).unwrap().method() == Some("a"));
}

/// However many members there are, and up to a number that no message has.
#[test]
fn refuses_duplicates_among_many_members() {
    let params = |keys: &[String]| {
        let members: Vec<String> = keys.iter().map(|key| format!("\"{key}\":0")).collect();
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"a","params":{{{}}}}}"#, members.join(","))
    };
    let mut keys: Vec<String> = (0..MEMBERS_MAX).map(|n| format!("k{n}")).collect();
    assert!(parse(&params(&keys)).is_ok());
    for (at, again) in [(3, "k2"), (20, "k3"), (20, "\\u006b3"), (900, "k20")] {
        let mut keys = keys.clone();
        keys[at] = again.into();
        assert!(matches!(reason(&params(&keys)), Invalid::Scan(ScanError::DuplicateKey(_))), "{at} {again}");
    }
    keys.push("one more".into());
    assert!(matches!(reason(&params(&keys)), Invalid::Scan(ScanError::TooManyMembers(_))));
}

#[test]
fn refuses_deep_nesting_without_recursing_into_it() {
    for open in ["[", "{\"a\":"] {
        let deep =
            format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\",\"params\":{{\"x\":{}", open.repeat(100_000));
        assert!(matches!(reason(&deep), Invalid::Scan(ScanError::TooDeep(_))));
    }
}

#[test]
fn refuses_what_is_no_json() {
    for text in [
        "",
        "{",
        "{\"jsonrpc\":\"2.0\",}",
        "nul",
        "{\"a\":01}",
        "{\"a\":\"\u{1}\"}",
        "{\"a\":\"\\x\"}",
        "{} x",
        "\u{feff}{}",
        "{\"a\":1.}",
        "{'a':1}",
    ] {
        assert!(reason(text).is_syntax(), "{text}: {:?}", reason(text));
    }
    let bad = Message::parse(Bytes::from_static(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}"), 128);
    assert!(matches!(bad.unwrap_err().reason, Invalid::Utf8(_)));
}

#[test]
fn reads_params_and_meta_whatever_their_spelling() {
    let message = parse(r#"{"jsonrpc":"2.0","id":1,"method":"tools\/call","params":{"n\u0061me":"a\nb","_meta":{"progressToken":1.0}}}"#).unwrap();
    assert_eq!(message.method(), Some("tools/call"));
    assert_eq!(message.known(), Some(Known::ToolsCall));
    assert_eq!(message.param_str("name").as_deref(), Some("a\nb"));
    assert_eq!(message.meta("progressToken"), Some("1.0"));
    assert_eq!(message.meta("x"), None);
}

#[test]
fn a_batch_is_read_element_by_element() {
    let text = r#" [{"jsonrpc":"2.0","id":1,"method":"ping"}, 3, {"jsonrpc":"2.0","method":"x"}]"#;
    let Ok(Incoming::Batch(elements)) = Incoming::parse(Bytes::from_static(text.as_bytes()), 128) else { panic!() };
    assert_eq!(elements.len(), 3);
    assert!(elements[0].is_ok() && elements[1].is_err() && elements[2].is_ok());
    assert_eq!(Incoming::parse(Bytes::from_static(b"[]"), 128), Ok(Incoming::Batch(vec![])));
    assert!(Incoming::parse(Bytes::from_static(b"[{]"), 128).is_err());
}

#[test]
fn an_edit_touches_only_what_it_names() {
    let text = r#"{ "jsonrpc":"2.0", "params":{"z":1.10,"_meta":{"progressToken":"t","v":1E5}, "a":18446744073709551616},"id" : 7 ,"method":"x","extra":[1, 2]}"#;
    let edited = parse(text).unwrap().edit().id("\"long-id\"").meta("progressToken", "42").finish();
    assert_eq!(
        &edited.text()[..],
        br#"{ "jsonrpc":"2.0", "params":{"z":1.10,"_meta":{"progressToken":42,"v":1E5}, "a":18446744073709551616},"id" : "long-id" ,"method":"x","extra":[1, 2]}"#
    );
    assert_eq!(edited.id().unwrap().as_json(), "\"long-id\"");
    assert_eq!(edited.meta("v"), Some("1E5"));
}

fn any_json(depth: u32) -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i16>().prop_map(|n| Value::from(f64::from(n) / 4.0)),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(depth, 32, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(".{0,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_request() -> impl Strategy<Value = Value> {
    let id = prop_oneof![any::<i64>().prop_map(Value::from), ".{0,9}".prop_map(Value::from)];
    (
        id,
        ".{0,12}",
        proptest::collection::btree_map(".{0,6}", any_json(3), 0..5),
        proptest::option::of(any_json(2)),
        proptest::option::of("[a-z]{1,5}"),
    )
        .prop_map(|(id, method, params, token, extra)| {
            let mut params: serde_json::Map<String, Value> = params.into_iter().collect();
            if let Some(token) = token {
                params.insert("_meta".into(), json!({ "progressToken": token, "vendor/x": 1 }));
            }
            let mut message = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
            if let Some(extra) = extra {
                message[format!("x-{extra}")] = json!([extra]);
            }
            message
        })
}

proptest! {
    /// parse(t).text == t, and what it says of the message is what a full parser says.
    #[test]
    fn reads_what_a_full_parser_reads(value in any_request(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        let message = parse(&text).unwrap();
        prop_assert_eq!(message.text(), text.as_bytes());
        prop_assert_eq!(message.method(), value["method"].as_str());
        prop_assert_eq!(serde_json::from_str::<Value>(message.id().unwrap().as_json()).unwrap(), value["id"].clone());
        for (name, param) in value["params"].as_object().unwrap() {
            prop_assert_eq!(&serde_json::from_str::<Value>(message.param(name).unwrap()).unwrap(), param);
        }
        let line = message.line();
        prop_assert!(!line.contains(&b'\n'));
        prop_assert_eq!(serde_json::from_slice::<Value>(&line).unwrap(), value);
    }

    /// An edited message is the one that parsing its text would give, and the JSON is the model's edit of the same value.
    #[test]
    fn an_edit_is_what_parsing_its_text_gives(value in any_request(), id in any::<i64>(), token in "[a-z]{0,30}", pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        let token = format!("{token:?}");
        let edited = parse(&text).unwrap().edit().meta("progressToken", &token).id(&id.to_string()).finish();
        prop_assert_eq!(&edited, &Message::parse(edited.text().clone(), 128).unwrap());
        let mut model = value;
        model["id"] = id.into();
        if model["params"].get("_meta").is_some_and(|meta| meta.get("progressToken").is_some()) {
            model["params"]["_meta"]["progressToken"] = serde_json::from_str(&token).unwrap();
        }
        prop_assert_eq!(serde_json::from_slice::<Value>(edited.text()).unwrap(), model);
    }

    /// The scanner accepts exactly the JSON that serde_json accepts (but for depth, and lone surrogates, which pass as text).
    #[test]
    fn accepts_the_same_json_as_serde(bytes in proptest::collection::vec(prop_oneof![Just(b'"'), Just(b'\\'), Just(b'{'), Just(b'}'), Just(b'['), Just(b']'), Just(b':'), Just(b','), Just(b'1'), Just(b'0'), Just(b'-'), Just(b'.'), Just(b'e'), Just(b'u'), Just(b' '), Just(b'n'), Just(b'a'), any::<u8>()], 0..24)) {
        let ours = std::str::from_utf8(&bytes).is_ok() && {
            let mut scanner = Scanner::new(&bytes, 128);
            scanner.white();
            scanner.value(0).and_then(|_| scanner.end()).is_ok()
        };
        let theirs = serde_json::from_slice::<&serde_json::value::RawValue>(&bytes).is_ok();
        prop_assert_eq!(ours, theirs, "{:?}", String::from_utf8_lossy(&bytes));
    }

    /// Nothing that a peer sends makes the parser fail other than by an error.
    /// The same for strings of any length, which are skipped in larger steps.
    #[test]
    fn accepts_the_same_strings_as_serde(
        pieces in proptest::collection::vec(prop_oneof![
            4 => "[ -~]{0,40}", 2 => Just("plain text, and more of it".to_owned()), 1 => Just("\\\\".to_owned()),
            1 => Just("\\\"".to_owned()), 1 => Just("é—".to_owned()), 1 => "[\u{0}-\u{20}]",
        ], 0..12),
        behind in "[\n\t ]{0,2}",
    ) {
        let text = format!("{{\"text\":\"{}\"}}{behind}", pieces.concat());
        let ours = Scanner::new(text.as_bytes(), 8).value(0).map(|(span, _)| span.end as usize).ok();
        let mut theirs = serde_json::Deserializer::from_str(&text).into_iter::<&serde_json::value::RawValue>();
        let theirs = theirs.next().unwrap().ok().map(|value| value.get().len());
        prop_assert_eq!(ours, theirs);
    }

    #[test]
    fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Incoming::parse(Bytes::from(bytes), 16);
    }
}

/// What the text of `recast` says is what was asked for: members out, others in, the rest as it was; whatever there is before.
#[test]
fn members_are_taken_out_and_put_in() {
    let members = ["\"a\":1.50", "\"\\u0062\":[{}]", "\"c\":{\"a\":1}"];
    let some = |mask: u8| {
        let chosen = members.iter().enumerate().filter(|(n, _)| mask & (1 << n) != 0);
        chosen.map(|(_, member)| *member).collect::<Vec<_>>()
    };
    let object =
        |text: &str| -> serde_json::Map<String, Value> { serde_json::from_str(&format!("{{{text}}}")).unwrap() };
    let cases = (0..8u8).flat_map(|params| (0..10u8).map(move |meta| (params, meta)));
    for (params, meta) in cases {
        let meta = match meta {
            8 => None,
            9 => Some("7".to_owned()),
            mask => Some(format!("{{{}}}", some(mask).join(" , "))),
        };
        for place in 0..2 {
            let mut all: Vec<String> = some(params).into_iter().map(str::to_owned).collect();
            if let Some(meta) = &meta {
                all.insert(if place == 0 { 0 } else { all.len() }, format!("\"_meta\":{meta}"));
            }
            let text = format!(r#"{{"id":1,"jsonrpc":"2.0","params":{{ {} }},"method":"m","z":0}}"#, all.join(","));
            let message = parse(&text).unwrap();
            for (out, put) in
                [(&[][..], ""), (&["a"], ""), (&["b", "a"], "\"n\":1"), (&["a", "b", "c"], "\"n\":1,\"o\":2")]
            {
                let recast = message.edit().id("77").recast(out, put, out, "\"e\":1").finish();
                let seen = parse(std::str::from_utf8(recast.text()).unwrap())
                    .unwrap_or_else(|error| panic!("{error:?}: {recast:?}"));
                let mut expected = object(&all.join(","));
                let mut inner = expected.remove("_meta").and_then(|one| one.as_object().cloned()).unwrap_or_default();
                for map in [&mut expected, &mut inner] {
                    map.retain(|key, _| !out.contains(&key.as_str()));
                }
                expected.extend(object(put));
                inner.insert("e".into(), 1.into());
                expected.insert("_meta".into(), Value::Object(inner));
                let body: Value = serde_json::from_str(seen.body().unwrap()).unwrap();
                assert_eq!(body, Value::Object(expected), "{text} {out:?} {put}");
                assert_eq!(seen.id().unwrap().as_json(), "77");
            }
        }
    }
    let bare = parse(r#"{"jsonrpc":"2.0","id":1,"method":"m"} "#).unwrap();
    let recast = bare.edit().recast(&["a"], "\"n\":1", &[], "\"e\":1").finish();
    assert_eq!(&recast.text()[..], br#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"n":1,"_meta":{"e":1}}} "#);
}
