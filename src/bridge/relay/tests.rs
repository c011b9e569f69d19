use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::bridge::tests::any_json::{Members, json, members, object};

fn message(text: &str) -> Message {
    Message::parse(Bytes::copy_from_slice(text.as_bytes()), 64).unwrap()
}

fn begin(era: Era, text: &str) -> (Relay, String) {
    let (relay, upstream) = {
        let request = message(text);
        Relay::begin(era, request.id().unwrap(), &request, 42)
    };
    (relay, String::from_utf8(upstream.text().to_vec()).unwrap())
}

fn down(relay: &Relay, text: &str) -> (&'static str, String) {
    let (what, message) = match relay.down(message(text)) {
        Down::Final(message) => ("final", message),
        Down::Pass(message) => ("pass", message),
        Down::Ask(message, _) => ("ask", message),
        Down::Withdraw(message, _) => ("withdraw", message),
        Down::Drop(why) | Down::Violation(why) => return (why, String::new()),
    };
    (what, String::from_utf8(message.text().to_vec()).unwrap())
}

/// Ids and tokens are ours upstream and the client's downstream, each in its own spelling; nothing else changes
/// (Basic › Requests; Progress).
#[test]
fn rewrites_names_and_nothing_else() {
    let (relay, up) = begin(
        Era::Legacy,
        r#"{"method":"tools/call","jsonrpc":"2.0","params":{"x":1.10,"_meta":{"progressToken":"t\u0031","z":[1E5]}},"id":1.0}"#,
    );
    assert_eq!(
        up,
        r#"{"method":"tools/call","jsonrpc":"2.0","params":{"x":1.10,"_meta":{"progressToken":42,"z":[1E5]}},"id":42}"#
    );
    assert_eq!(
        down(&relay, r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":42,"progress":1.50}}"#),
        ("pass", r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"t\u0031","progress":1.50}}"#.into())
    );
    assert_eq!(
        down(&relay, r#"{"jsonrpc":"2.0","id":42,"result":{"n":18446744073709551616,"unknown":{"z":1,"a":2}}}"#),
        ("final", r#"{"jsonrpc":"2.0","id":1.0,"result":{"n":18446744073709551616,"unknown":{"z":1,"a":2}}}"#.into())
    );
    assert_eq!(
        down(&relay, r#"{"jsonrpc":"2.0","id":42,"error":{"code":-32601,"message":"x","data":null}}"#).1,
        r#"{"jsonrpc":"2.0","id":1.0,"error":{"code":-32601,"message":"x","data":null}}"#
    );
    let odd = r#"{"jsonrpc":"2.0","method":"vendor/odd","params":{"a":1},"extra":true}"#;
    assert_eq!(down(&relay, odd), ("pass", odd.into()));
}

/// 2026-07-28, Subscriptions: what belongs to a listen stream carries the id of the client's own listen request.
#[test]
fn tags_listen_streams_with_the_clients_id() {
    let (relay, _) = begin(Era::Modern, r#"{"jsonrpc":"2.0","id":"L","method":"subscriptions/listen","params":{}}"#);
    let tagged = |id: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{{"_meta":{{"io.modelcontextprotocol/subscriptionId":{id}}}}}}}"#
        )
    };
    assert_eq!(down(&relay, &tagged("42")), ("pass", tagged("\"L\"")));
    assert_eq!(
        down(&relay, r#"{"jsonrpc":"2.0","id":42,"result":{"resultType":"complete","_meta":{"io.modelcontextprotocol/subscriptionId":42}}}"#).1,
        r#"{"jsonrpc":"2.0","id":"L","result":{"resultType":"complete","_meta":{"io.modelcontextprotocol/subscriptionId":"L"}}}"#
    );
}

/// 2026-07-28, Basic › Results: an unknown kind of result is invalid, a missing one is complete.
#[test]
fn checks_the_kind_of_a_modern_result() {
    let (relay, _) = begin(Era::Modern, r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#);
    let result = |members: &str| down(&relay, &format!(r#"{{"jsonrpc":"2.0","id":42,"result":{{{members}}}}}"#)).0;
    assert_eq!(result(""), "final");
    assert_eq!(result(r#""resultType":"complete""#), "final");
    assert_eq!(result(r#""resultType":"input_required","inputRequests":{}"#), "final");
    assert_eq!(result(r#""content":[{"resultType":"odd"}]"#), "final");
    assert_ne!(result(r#""resultType":"odd""#), "final");
    assert_ne!(result(r#""resultType":7"#), "final");
}

/// 2026-07-28, Patterns: a modern client is never sent a request.
#[test]
fn a_modern_client_gets_no_requests() {
    let (relay, _) = begin(Era::Modern, r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#);
    assert_eq!(
        down(&relay, r#"{"jsonrpc":"2.0","id":5,"method":"sampling/createMessage"}"#).0,
        "request_of_modern_server"
    );
}

/// A request, or an answer or notification: its members in any order and any spacing. `@id` stands for its id, `@token` for its token.
fn written(parts: Vec<(&'static str, String)>) -> impl Strategy<Value = String> {
    let extra =
        (Just(parts), json(), prop::sample::select(vec!["", " ", "\n\t"])).prop_flat_map(|(parts, extra, space)| {
            let parts: Vec<_> =
                parts.into_iter().chain([("jsonrpc", "\"2.0\"".to_owned()), ("extra", extra)]).collect();
            (Just(parts).prop_shuffle(), Just(space))
        });
    extra.prop_map(|(parts, space)| {
        let all: Vec<_> =
            parts.iter().map(|(name, value)| format!("{space}\"{name}\"{space}:{space}{value}")).collect();
        format!("{{{}}}", all.join(","))
    })
}

fn filled(text: &str, id: &str, token: &str) -> String {
    text.replace("@id", id).replace("@token", token)
}

fn params(params: &Members, meta: &Members) -> String {
    let meta = object(meta).replacen('{', r#"{"progressToken":@token,"#, 1).replace(",}", "}");
    object(params).replacen('{', &format!(r#"{{"_meta":{meta},"#), 1).replace(",}", "}")
}

/// What passes on the way up, and what on the way down.
fn dialogues() -> impl Strategy<Value = (String, String, String, String)> {
    let request = (members(), members()).prop_flat_map(|(all, meta)| {
        written(vec![("id", "@id".into()), ("method", "\"tools/call\"".into()), ("params", params(&all, &meta))])
    });
    let answer = (members(), any::<bool>()).prop_flat_map(|(all, failed)| {
        let error = format!(r#"{{"code":-32000,"message":"m","data":{}}}"#, object(&all));
        let said = if failed { ("error", error) } else { ("result", object(&all)) };
        written(vec![("id", "@id".into()), said])
    });
    let progress = (members(), json()).prop_flat_map(|(all, amount)| {
        let params = object(&all)
            .replacen('{', &format!(r#"{{"progressToken":@token,"progress":{amount},"#), 1)
            .replace(",}", "}");
        written(vec![("method", "\"notifications/progress\"".into()), ("params", params)])
    });
    let other =
        members().prop_flat_map(|all| written(vec![("method", "\"vendor/x\"".into()), ("params", object(&all))]));
    (request, answer, progress, other)
}

proptest! {
    /// Relaying is the identity but for the names that are ours: of the request, and of its progress. It depends on nothing but what is
    /// said.
    #[test]
    fn all_but_our_names_is_left_alone(
        (request, answer, progress, other) in dialogues(),
        modern in any::<bool>(),
        id in prop::sample::select(vec!["7", "1.0", "\"\\u0031\"", "-3"]),
        token in prop::sample::select(vec!["\"p\"", "1e3", "\"\\u2603\""]),
    ) {
        let era = if modern { Era::Modern } else { Era::Legacy };
        let (relay, up) = begin(era, &filled(&request, id, token));
        prop_assert_eq!(&up, &filled(&request, "42", "42"));
        prop_assert_eq!(up, begin(era, &filled(&request, id, token)).1);
        for (said, kind) in [(&answer, "final"), (&progress, "pass"), (&other, "pass")] {
            let ours = filled(said, "42", "42");
            prop_assert_eq!(down(&relay, &ours), (kind, filled(said, id, token)));
            prop_assert_eq!(down(&relay, &ours), down(&relay, &ours));
        }
    }
}
