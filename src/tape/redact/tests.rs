//! C-TAPE-2: secrets are taken out, and nothing else.

use proptest::prelude::*;

use super::super::json::Json;
use super::*;

fn redactor(change: impl FnOnce(&mut Rules)) -> Redactor {
    let mut rules = Rules::default();
    change(&mut rules);
    Redactor::new(rules).unwrap()
}

fn left(redactor: &Redactor, text: &str) -> (String, Vec<String>) {
    let redacted = redactor.message(&Bytes::from(text.to_owned()));
    (String::from_utf8(redacted.bytes.to_vec()).unwrap(), redacted.places)
}

#[test]
fn values_with_telling_names_are_taken_out_and_the_rest_stays() {
    let text = r#"{"jsonrpc":"2.0", "id":1.0,"params":{"_meta":{"progressToken":"abc"},"arguments":{"API-Key":"k","a":[1e0, {"user_password" : 12}],"credentials":{"u":"x","on":true,"n":null,"list":["y",""]},"maxTokens":5,"p\u0061ssword":"é"}}}"#;
    let (text, places) = left(&redactor(|_| {}), text);
    insta::assert_snapshot!(text, @r#"{"jsonrpc":"2.0", "id":1.0,"params":{"_meta":{"progressToken":"abc"},"arguments":{"API-Key":"[redacted]","a":[1e0, {"user_password" : "[redacted]"}],"credentials":{"u":"[redacted]","on":true,"n":null,"list":["[redacted]",""]},"maxTokens":5,"p\u0061ssword":"[redacted]"}}}"#);
    assert_eq!(
        places,
        [
            "/params/arguments/API-Key",
            "/params/arguments/a/1/user_password",
            "/params/arguments/credentials/u",
            "/params/arguments/credentials/list/0",
            "/params/arguments/password",
        ]
    );
}

#[test]
fn schemas_say_what_a_tool_takes_and_hold_no_secrets() {
    let text = r#"{"tools":[{"name":"login","inputSchema":{"type":"object","properties":{"password":{"type":"string","description":"your password"}},"required":["password"]}}]}"#;
    assert_eq!(left(&redactor(|_| {}), text), (text.to_owned(), vec![]));
}

#[test]
fn what_looks_like_a_secret_is_taken_out_of_any_string() {
    let secrets = [
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_0123456789abcdefghijABCDEFGHIJ012345",
        "sk-proj-0123456789abcdefghij",
        "xoxb-1234567890-abcdef",
        "Bearer abcdefghijklmnop1234==",
        "-----BEGIN RSA PRIVATE KEY-----\\nMIIEow\\n-----END RSA PRIVATE KEY-----",
    ];
    for secret in secrets {
        let (text, places) = left(&redactor(|_| {}), &format!(r#"{{"text":"it is {secret}, see \"there\""}}"#));
        assert_eq!(text, r#"{"text":"it is [redacted], see \"there\""}"#, "{secret}");
        assert_eq!(places, ["/text"]);
        let (text, places) = left(&redactor(|_| {}), &format!("warning: {secret}!"));
        assert_eq!((text.as_str(), places), ("warning: [redacted]!", vec![String::new()]), "{secret}");
    }
    for harmless in ["skip-this-part-of-the-text-please", "basic knowledge", "eyJ", "a task-list-of-twenty-four-things"]
    {
        let text = format!(r#"{{"text":"{harmless}"}}"#);
        assert_eq!(left(&redactor(|_| {}), &text).0, text);
    }
}

#[test]
fn json_within_strings_is_looked_into() {
    let text = r#"{"content":[{"type":"text","text":"{\"token\": \"abc\", \"n\": 1.0}"}]}"#;
    let (text, places) = left(&redactor(|_| {}), text);
    assert_eq!(text, r#"{"content":[{"type":"text","text":"{\"token\": \"[redacted]\", \"n\": 1.0}"}]}"#);
    assert_eq!(places, ["/content/0/text"]);
    let twice = serde_json::json!({ "text": serde_json::json!(r#"{"db_password":"hunter2"}"#).to_string() });
    assert!(!left(&redactor(|_| {}), &twice.to_string()).0.contains("hunter2"), "a string in a string");
}

#[test]
fn rules_of_ones_own_are_added() {
    let own = redactor(|rules| {
        rules.keys = vec!["Ssn".into(), "*_pin".into()];
        rules.pointers = vec!["/params/arguments/*/deep".into(), "/result".into()];
        rules.patterns = vec!["cat-[0-9]+".into()];
        rules.headers = vec!["user-*".into()];
    });
    let text = r#"{"ssn":1,"door_pin":"7","params":{"arguments":{"a":{"deep":{"x":[1]}},"deep":"stays"}},"say":"cat-12 and cat-x","password":"p"}"#;
    assert_eq!(
        left(&own, text).0,
        r#"{"ssn":"[redacted]","door_pin":"[redacted]","params":{"arguments":{"a":{"deep":"[redacted]"},"deep":"stays"}},"say":"[redacted] and cat-x","password":"[redacted]"}"#
    );
    assert_eq!(own.summary(), ["defaults", "keys: 2", "pointers: 2", "patterns: 1", "headers: 1"]);
    assert_eq!(own.header("user-agent", "x"), Header::Dropped);

    let none = redactor(|rules| rules.defaults = false);
    let text = r#"{"password":"p","text":"AKIAIOSFODNN7EXAMPLE"}"#;
    assert_eq!(left(&none, text), (text.to_owned(), vec![]));
    assert_eq!(none.summary(), [] as [&str; 0]);
}

#[test]
fn of_headers_only_those_are_kept_that_are_known() {
    let redactor = redactor(|_| {});
    assert_eq!(redactor.header("content-type", "text/plain"), Header::Kept("text/plain".into()));
    assert_eq!(redactor.header("mcp-param-city", "Ulm"), Header::Kept("Ulm".into()));
    assert_eq!(redactor.header("www-authenticate", "Bearer abcdefghijklmnop1234"), Header::Kept("[redacted]".into()));
    assert_eq!(redactor.header("mcp-session-id", "x"), Header::Pseudonym);
    for secret in ["authorization", "cookie", "set-cookie", "x-anything", "mcp-param-api-key"] {
        assert_eq!(redactor.header(secret, "x"), Header::Dropped, "{secret}");
    }
}

#[test]
fn rules_that_make_no_sense_are_told() {
    let told = |rules: Rules| Redactor::new(rules).unwrap_err().to_string();
    let pattern = told(Rules { patterns: vec!["(".into()], ..Rules::default() });
    assert!(pattern.starts_with("`(` is no regular expression: regex parse error"), "{pattern}");
    let pointer = told(Rules { pointers: vec!["a.b".into()], ..Rules::default() });
    assert!(pointer.starts_with("`a.b` is no JSON pointer"), "{pointer}");
}

#[test]
fn places_are_bounded_and_counted() {
    let many: Vec<String> = (0..100).map(|n| format!(r#""{n}":{{"token":"x"}}"#)).collect();
    let redacted = redactor(|_| {}).message(&format!("{{{}}}", many.join(",")).into());
    assert_eq!((redacted.places.len(), redacted.more), (PLACES_MAX, 100 - PLACES_MAX as u64));
}

#[test]
fn bytes_that_are_no_text_are_left_out_if_there_is_a_secret_in_them() {
    let redactor = redactor(|_| {});
    let harmless = Bytes::from_static(b"\xff\x00 nothing");
    assert_eq!(redactor.message(&harmless).bytes, harmless);
    assert_eq!(redactor.message(&Bytes::from_static(b"\xff AKIAIOSFODNN7EXAMPLE")).bytes, REDACTED);
}

#[test]
fn names_are_matched_by_globs() {
    let cases = [
        ("token", "Token", true),
        ("token", "tokens", false),
        ("*token", "auth_token", true),
        ("a*b*c", "a-x-b-y-c", true),
        ("a*b*c", "acb", false),
        ("*", "", true),
        ("ab*ba", "aba", false),
    ];
    for (glob, name, expected) in cases {
        assert_eq!(
            is_one_of(&regex(names("^(?:", [glob].into_iter(), ".*", ")$")).unwrap(), name),
            expected,
            "{glob} {name}"
        );
    }
}

proptest! {
    /// Whatever is redacted is still JSON, equal but for what was taken out; and nothing is found in it any more.
    #[test]
    fn the_rest_stays(value in any_json()) {
        let text = value.to_string();
        let redactor = redactor(|_| {});
        let redacted = redactor.message(&text.clone().into());
        let left = Json::parse(&redacted.bytes).unwrap();
        if redacted.places.is_empty() {
            prop_assert_eq!(&redacted.bytes[..], text.as_bytes());
        } else if redacted.more == 0 {
            let places = Pointers::parse(redacted.places.iter().map(String::as_str)).unwrap();
            let without = |json: Json| json.without(&places.root());
            prop_assert_eq!(without(Json::parse(text.as_bytes()).unwrap()), without(left));
        }
        let careful = Redactor { suspects: None, ..redactor.clone() };
        prop_assert_eq!(&redacted, &careful.message(&text.clone().into()));
        let again = redactor.message(&redacted.bytes);
        prop_assert_eq!(&again.bytes, &redacted.bytes);
        prop_assert!(!text.contains("hunter2") || !String::from_utf8_lossy(&again.bytes).contains("hunter2"));
    }
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<i32>().prop_map(Into::into),
        "[a-z\"\\\\{é]{0,8}".prop_map(Into::into),
        Just("say sk-0123456789abcdefghijkl".into()),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        let name = prop_oneof!["[a-c~/]{1,3}", Just("inputSchemas".to_owned())];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            (proptest::collection::btree_map(name, inner.clone(), 0..4), any::<bool>()).prop_map(
                |(members, secret)| {
                    let mut object: serde_json::Map<_, _> = members.into_iter().collect();
                    if secret {
                        object.insert("db_password".into(), "hunter2".into());
                    }
                    serde_json::Value::from(object)
                }
            ),
            inner.prop_map(|value| value.to_string().into()),
        ]
    })
}

/// Texts in which names and forms of secrets nearly are, or are, around numbers.
fn nearly() -> impl Strategy<Value = String> {
    const PIECES: &[&str] = &[
        "{",
        "}",
        ":",
        ",",
        "\"",
        "\"id\":",
        "token",
        "pass",
        "word",
        "-",
        "_",
        "sk-",
        "abcdefghij",
        "AKIA",
        "bearer ",
        "1",
        "2026",
        ":7,",
        "-----BEGIN PRIVATE KEY-----",
    ];
    proptest::collection::vec(proptest::sample::select(PIECES), 0..10).prop_map(|pieces| pieces.concat())
}

proptest! {
    /// Who goes through one message after another finds in each what would be found in it alone.
    #[test]
    fn what_was_seen_before_makes_no_difference(
        (before, after) in (nearly(), nearly()),
        numbers in proptest::collection::vec((0..3_u8, 0..10_000_u32), 1..6),
        keys in proptest::option::of(proptest::sample::select(vec!["token", "a1b", "*id*"])),
    ) {
        let redactor = redactor(|rules| rules.keys.extend(keys.map(str::to_owned)));
        let mut clean = Vec::new();
        for (form, number) in numbers {
            let text = Bytes::from(match form {
                0 => format!("{before}:{number},{after}"),
                1 => format!("{before}:{number}}}{after}"),
                _ => format!("{before}{number}{after}"),
            });
            let alone = redactor.message(&text);
            let found = redactor.next_message(&text, &mut clean).unwrap_or_else(|| Redacted { bytes: text, places: vec![], more: 0 });
            prop_assert_eq!(found, alone);
        }
    }
}

#[test]
fn of_two_messages_with_other_ids_the_second_is_not_searched() {
    let is_same = |clean: &str, text: &str| differ_by_number(clean.as_bytes(), text.as_bytes());
    let first = r#"{"jsonrpc":"2.0","id":100000001,"method":"ping"}"#;
    assert!(is_same(first, r#"{"jsonrpc":"2.0","id":14,"method":"ping"}"#));
    assert!(is_same(r#"{"result":{},"id":14}"#, r#"{"result":{},"id":1}"#));
    assert!(!is_same(first, r#"{"jsonrpc":"2.0","id":14,"method":"pong"}"#));
    assert!(!is_same(first, r#"{"jsonrpc":"2.0","id":"14","method":"ping"}"#));
    // What is next to the number is part of a word.
    assert!(!is_same(r#"{"key":"AKIA1,"}"#, r#"{"key":"AKIA2,"}"#));
    assert!(!is_same("", first));
}
