use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::bridge::legacy_to_modern::wrap::Wrapped;
use crate::bridge::tests::any_json::{members, object, read, with};

/// What a server or a client, well-behaved or not, may do next.
#[derive(Debug, Clone)]
enum Move {
    Complete,
    Error,
    Ask(Vec<&'static str>),
    Busy,
    Odd,
    /// The server refuses a client that takes no tasks; makes one; says how it stands.
    WantsTask,
    Task,
    Stands(&'static str),
    Progress(u8),
    Request,
    /// The client answers one of the questions that are open, or one that is not.
    Answer(u32, bool),
    Unasked(u32),
    Wait(u16),
}

fn moves() -> impl Strategy<Value = Move> {
    let questions = prop::sample::select(vec!["elicit", "sample", "roots", "many", "url", "odd"]);
    prop_oneof![
        1 => Just(Move::Complete),
        1 => Just(Move::Error),
        6 => prop::collection::vec(questions, 1..4).prop_map(Move::Ask),
        2 => Just(Move::Busy),
        1 => Just(Move::Odd),
        3 => Just(Move::WantsTask),
        3 => Just(Move::Task),
        6 => prop::sample::select(vec!["working", "input_required", "completed", "failed", "cancelled", "odd"]).prop_map(Move::Stands),
        2 => any::<u8>().prop_map(Move::Progress),
        1 => Just(Move::Request),
        8 => (0..12u32, prop::bool::weighted(0.9)).prop_map(|(number, well)| Move::Answer(number, well)),
        1 => (0..12u32).prop_map(Move::Unasked),
        2 => (0..1000u16).prop_map(Move::Wait),
    ]
}

fn question(kind: &str) -> &'static str {
    match kind {
        "elicit" => r#"{"method":"elicitation/create","params":{"message":"?","requestedSchema":{"properties":{}}}}"#,
        "sample" => r#"{"method":"sampling/createMessage","params":{"messages":[]}}"#,
        "roots" => r#"{"method":"roots/list"}"#,
        "many" => {
            r#"{"method":"elicitation/create","params":{"message":"?","requestedSchema":{"properties":{"m":{"type":"array"}}}}}"#
        }
        "url" => r#"{"method":"elicitation/create","params":{"mode":"url","message":"?","url":"https://x"}}"#,
        _ => "[]",
    }
}

fn input(what: &Move, id: i64, open: &BTreeSet<u32>) -> Input {
    let result =
        |result: String| Input::Upstream(message(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)));
    let one_of = |n: u32| open.iter().nth(n as usize % open.len().max(1)).copied().unwrap_or(n);
    match what {
        Move::Complete => result(r#"{"resultType":"complete","content":[]}"#.into()),
        Move::Error => Input::Upstream(message(&format!(
            r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32021,"message":"x","data":{{}}}}}}"#
        ))),
        Move::Ask(kinds) => {
            let all: Vec<_> =
                kinds.iter().enumerate().map(|(n, kind)| format!("\"k{n}\":{}", question(kind))).collect();
            result(format!(
                r#"{{"resultType":"input_required","inputRequests":{{{}}},"requestState":"s"}}"#,
                all.join(",")
            ))
        }
        Move::Busy => result(r#"{"resultType":"input_required","requestState":"s"}"#.into()),
        Move::WantsTask => Input::Upstream(message(&format!(
            r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32021,"message":"x","data":{{"requiredCapabilities":{{"extensions":{{"io.modelcontextprotocol/tasks":{{}}}}}}}}}}}}"#
        ))),
        Move::Task => result(r#"{"resultType":"task","taskId":"t","status":"working"}"#.into()),
        Move::Stands(status) => {
            let (elicit, roots) = (question("elicit"), question("roots"));
            result(format!(
                r#"{{"taskId":"t","status":"{status}","inputRequests":{{"k{id}":{elicit},"k":{roots}}},"result":{{"content":[]}},"error":{{"code":7,"message":"x"}}}}"#
            ))
        }
        Move::Odd => result(r#"{"resultType":7}"#.into()),
        Move::Progress(n) => Input::Upstream(message(&format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{id},"progress":{n}}}}}"#
        ))),
        Move::Request => Input::Upstream(message(r#"{"jsonrpc":"2.0","id":"theirs","method":"roots/list"}"#)),
        Move::Answer(n, true) => {
            let number = one_of(*n);
            Input::Answered(
                number,
                message(&format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"n":1}}}}"#, 100 + number)),
            )
        }
        Move::Answer(n, false) => {
            let number = one_of(*n);
            let error = r#""error":{"code":-1,"message":"no"}"#;
            Input::Answered(number, message(&format!(r#"{{"jsonrpc":"2.0","id":{},{error}}}"#, 100 + number)))
        }
        Move::Unasked(n) => Input::Unasked(one_of(*n)),
        Move::Wait(_) => Input::Timer,
    }
}

/// Whether a leg says that its client takes tasks.
fn takes_tasks(leg: &Message) -> bool {
    leg.meta("io.modelcontextprotocol/clientCapabilities")
        .is_some_and(|all| all.contains("io.modelcontextprotocol/tasks"))
}

/// Plays the moves, looks at each effect, and gives all of them back as text.
fn play(revision: &str, moves: &[Move]) -> Result<String, TestCaseError> {
    let request =
        r#"{"jsonrpc":"2.0","id":"mine","method":"tools/call","params":{"name":"t","_meta":{"progressToken":"tok"}}}"#;
    let mut call = Call::begin(&client(revision, EVERYTHING), &message(request), true, None, PATIENCE).unwrap();
    let (begun, mut elapsed) = (super::now(), Duration::ZERO);
    let (mut id, mut finals, mut open, mut asked, mut seen) = (1, 0, BTreeSet::new(), BTreeSet::new(), String::new());
    for what in moves {
        if let Move::Wait(seconds) = what {
            elapsed += Duration::from_secs(u64::from(*seconds));
        }
        let input = input(what, id, &open);
        let was_open = |input: &Input| match input {
            Input::Answered(number, _) | Input::Unasked(number) => open.contains(number).then_some(*number),
            _ => None,
        };
        let answered = was_open(&input);
        let mut effects = Vec::new();
        call.handle(input, begun + elapsed, &mut effects);
        if let Some(number) = answered {
            open.remove(&number);
        }
        for effect in effects {
            let _ = std::fmt::Write::write_fmt(&mut seen, format_args!("{effect:?}\n"));
            if finals > 0 {
                prop_assert!(matches!(effect, Effect::Drop(_)), "after the end: {effect:?}");
            }
            match effect {
                Effect::Finish(message) => {
                    finals += 1;
                    prop_assert_eq!(message.id(), RequestId::from_json("\"mine\""));
                    super::message(std::str::from_utf8(message.text()).unwrap());
                }
                Effect::Violation(_) => finals += 1,
                Effect::Ask(number, _) => {
                    prop_assert!(asked.insert(number), "asked twice: {}", number);
                    open.insert(number);
                }
                Effect::Withdraw(number) => prop_assert!(open.remove(&number), "was not open: {}", number),
                Effect::Pass(message) => {
                    prop_assert_eq!(message.param("progressToken"), Some("\"tok\""), "no name of ours goes down");
                }
                Effect::Again => {
                    prop_assert!(open.is_empty(), "not everything has been answered");
                    id += 1;
                    let leg = call.leg().message(id);
                    prop_assert_eq!(leg.id(), Some(RequestId::from_integer(id)), "no name of the client's goes up");
                    let leg = super::message(std::str::from_utf8(leg.text()).unwrap());
                    let token = id.to_string();
                    let is_call = leg.method() == Some("tools/call");
                    prop_assert_eq!(leg.meta("progressToken"), is_call.then_some(token.as_str()));
                    match leg.method() {
                        Some("tools/call") if takes_tasks(&leg) => {}
                        Some("tools/call") => prop_assert_eq!(leg.param("requestState"), Some("\"s\"")),
                        Some("tasks/update") => prop_assert!(leg.param("inputResponses").is_some()),
                        method => prop_assert_eq!(method, Some("tasks/get")),
                    }
                    prop_assert_eq!(is_call, leg.param("taskId").is_none());
                }
                Effect::Listed(_) | Effect::Lost(_) | Effect::Drop(_) => {}
            }
        }
        if finals > 0 {
            prop_assert!(open.is_empty(), "nobody waits for answers any more: {:?}", open);
            prop_assert_eq!(call.deadline(), None);
        } else {
            prop_assert!(call.is_upstream() != call.deadline().is_some(), "somebody is waited for");
        }
    }
    prop_assert!(finals <= 1, "{} final answers", finals);
    Ok(seen)
}

proptest! {
    /// One final answer at most, and nothing after it; no name crosses; each question is answered, refused or taken back once; and
    /// what is done depends on nothing but what happened.
    #[test]
    fn holds_for_every_dialogue(
        revision in prop::sample::select(vec!["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]),
        moves in prop::collection::vec(moves(), 1..40),
    ) {
        prop_assert_eq!(play(revision, &moves)?, play(revision, &moves)?);
    }

    /// Whoever is waited for answers in the end, or time does: there is always a final answer.
    #[test]
    fn there_is_a_final_answer(moves in prop::collection::vec(moves(), 0..20)) {
        let mut moves = moves;
        // The server answers, or has to wait for a client that never answers.
        moves.extend([Move::Wait(1000), Move::Complete]);
        let seen = play("2025-11-25", &moves)?;
        prop_assert!(seen.contains("Finish") || seen.contains("Violation"), "{}", seen);
    }

    /// A result has the shape that the client was told: wrapped where the schema was, else an object, else text.
    #[test]
    fn results_have_the_shape_that_was_listed(
        schema in prop::sample::select(vec!["", r#"{"type":"object"}"#, r#"{"type":"array"}"#, "true", r##"{"anyOf":[{"$ref":"#"}]}"##, r##"{"$recursiveRef":"#"}"##]),
        value in prop::sample::select(vec!["{}", r#"{"result":1.5}"#, "[1.50]", "null", "\"x\"", "7"]),
        wraps in any::<bool>(),
        room in 0..3usize,
    ) {
        let client = client("2025-11-25", "{}");
        let answered = |request: &str, shape: Shape, result: &str| {
            let mut call = Call::begin(&client, &message(request), true, None, PATIENCE).unwrap().shaped(shape);
            let mut effects = Vec::new();
            let answer = message(&format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#));
            call.handle(Input::Upstream(answer), super::now(), &mut effects);
            let (mut wrapped, mut told) = (Wrapped::default(), serde_json::Value::Null);
            for effect in effects {
                match effect {
                    Effect::Listed(tools) => tools.iter().for_each(|(name, is)| wrapped.told(name, *is)),
                    Effect::Finish(message) => told = serde_json::from_str(message.body().unwrap()).unwrap(),
                    _ => {}
                }
            }
            (wrapped, told)
        };
        let schema = if schema.is_empty() { String::new() } else { format!(r#","outputSchema":{schema}"#) };
        let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
        let shape = if wraps { Shape::Wrap { room } } else { Shape::Omit };
        let (wrapped, listed) = answered(list, shape, &format!(r#"{{"tools":[{{"name":"t"{schema}}}]}}"#));
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}"#;
        let shape = if wrapped.has("t") { Shape::Wrapped } else { Shape::Omit };
        let (_, result) = answered(call, shape, &format!(r#"{{"content":[],"structuredContent":{value}}}"#));
        let value: serde_json::Value = serde_json::from_str(value).unwrap();
        let told = &listed["tools"][0]["outputSchema"];
        prop_assert!(told.is_null() || told["type"] == "object");
        match result.get("structuredContent") {
            Some(one) if told["required"][0] == "result" => prop_assert_eq!(one, &serde_json::json!({ "result": value })),
            Some(one) => prop_assert!(*one == value && value.is_object()),
            None => {
                prop_assert!(told["required"][0] != "result" && !value.is_object());
                let text = result["content"][0]["text"].as_str().unwrap();
                prop_assert_eq!(serde_json::from_str::<serde_json::Value>(text).unwrap(), value);
            }
        }
    }

    /// What is not of one era alone is carried as it is written: up, and down again.
    #[test]
    fn everything_else_is_carried(params in members(), meta in members(), result in members()) {
        let client = client("2025-11-25", "{}");
        let params = with(&params, &[("name", "\"t\"")]);
        let theirs = with(&meta, &[("progressToken", "\"p\""), ("io.modelcontextprotocol/clientInfo", "7")]);
        let whole = object(&with(&params, &[("_meta", &object(&theirs)), ("task", "{}")]));
        let request = message(&format!(r#"{{"jsonrpc":"2.0","id":"c","method":"tools/call","params":{whole}}}"#));
        let mut call = Call::begin(&client, &request, true, None, PATIENCE).unwrap();
        let mut up = read(call.leg().message(42).body().unwrap());
        let mut envelope = read(&up.remove("_meta").unwrap());
        envelope.retain(|name, _| !name.starts_with("io.modelcontextprotocol/"));
        prop_assert_eq!(envelope, with(&meta, &[("progressToken", "42")]));
        prop_assert_eq!(up, params);

        let mut effects = Vec::new();
        let answer = object(&with(&result, &[("resultType", "\"complete\"")]));
        call.handle(Input::Upstream(message(&format!(r#"{{"jsonrpc":"2.0","id":42,"result":{answer}}}"#))), super::now(), &mut effects);
        let [Effect::Finish(answer)] = &effects[..] else { panic!("{effects:?}") };
        prop_assert_eq!(read(answer.body().unwrap()), result);
    }
}
