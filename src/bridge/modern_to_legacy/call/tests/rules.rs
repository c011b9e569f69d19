//! What is true of every dialogue, whatever client and server do.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::bridge::tests::any_json::{members, object, read, with};

/// What a client or a server may do next.
#[derive(Debug, Clone)]
enum Move {
    Ask(u8),
    Withdraw(u8),
    Progress,
    Log,
    Other,
    Answer,
    MadeTask,
    Error(i64),
    /// The client comes back and answers those of what it was asked whose bit is set.
    Back(u8),
    Wait(u16),
    Lost,
    Gone,
    NoRoom,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        6 => (0..4u8).prop_map(Move::Ask),
        1 => (0..8u8).prop_map(Move::Withdraw),
        1 => Just(Move::Progress),
        1 => Just(Move::Log),
        1 => Just(Move::Other),
        2 => Just(Move::Answer),
        1 => Just(Move::MadeTask),
        2 => prop_oneof![Just(-32042), Just(-32002), Just(-32601), Just(-32020)].prop_map(Move::Error),
        6 => any::<u8>().prop_map(Move::Back),
        6 => prop_oneof![Just(20), Just(1_000), Just(30_000), 0..700u16].prop_map(Move::Wait),
        1 => Just(Move::Lost),
        1 => Just(Move::Gone),
        1 => Just(Move::NoRoom),
    ];
    proptest::collection::vec(one, 0..40)
}

fn question(number: usize, kind: u8) -> String {
    let (method, params) = match kind {
        0 => ("elicitation/create", r#"{"message":"m"}"#),
        1 => ("sampling/createMessage", r#"{"maxTokens":1}"#),
        2 => ("roots/list", "{}"),
        _ => ("elicitation/create", r#"{"mode":"odd"}"#),
    };
    format!(r#"{{"jsonrpc":"2.0","id":"s{number}","method":"{method}","params":{params}}}"#)
}

/// Plays the moves that are possible; returns all effects.
fn play(method: &str, offers: bool, moves: &[Move], origin: Instant) -> Result<Vec<Effect>, TestCaseError> {
    let mut now = origin;
    let about = |rest: &str| if offers { format!("{TAKES_TASKS}{rest}") } else { rest.to_owned() };
    let first = request(
        "\"leg0\"",
        method,
        r#""name":"x""#,
        &about(r#","progressToken":"p0","io.modelcontextprotocol/logLevel":"debug""#),
    );
    let mut call = begun(&first, now);
    if offers {
        call = call.offered();
    }
    let mut all = Vec::new();
    // What is known from outside.
    let (mut legs, mut leg_open, mut over) = (1, true, false);
    let mut at_server = true;
    let mut asked: BTreeMap<String, bool> = BTreeMap::new();
    let mut keys: Vec<String> = Vec::new();
    let mut seen_keys = BTreeSet::new();
    for one in moves {
        let input = match one {
            // A server that has answered, or is gone, says nothing more of this call.
            Move::Ask(_)
            | Move::Progress
            | Move::Log
            | Move::Other
            | Move::Answer
            | Move::MadeTask
            | Move::Error(_)
            | Move::Withdraw(_)
            | Move::Lost
                if !at_server =>
            {
                continue;
            }
            // Whose connection it is then answers for it.
            Move::Ask(_) if over => continue,
            Move::Ask(kind) => {
                let number = asked.len();
                asked.insert(format!("\"s{number}\""), false);
                Input::Server(message(&question(number, *kind)))
            }
            Move::Withdraw(number) => {
                let id = format!("\"s{number}\"");
                if let Some(answered) = asked.get_mut(&id) {
                    *answered = true;
                }
                Input::Server(message(&format!(
                    r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#
                )))
            }
            Move::Progress => Input::Server(message(
                r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":42,"progress":1}}"#,
            )),
            Move::Log => Input::Server(message(
                r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}"#,
            )),
            Move::Other => Input::Server(message(r#"{"jsonrpc":"2.0","method":"vendor/x","params":{}}"#)),
            Move::Answer => {
                at_server = false;
                Input::Server(message(r#"{"jsonrpc":"2.0","id":42,"result":{}}"#))
            }
            Move::MadeTask => {
                at_server = false;
                Input::Server(message(
                    r#"{"jsonrpc":"2.0","id":42,"result":{"task":{"taskId":"t","status":"working"}}}"#,
                ))
            }
            Move::Error(code) => {
                at_server = false;
                let data = r#"{"elicitations":[{"url":"https://a","elicitationId":"e"}]}"#;
                Input::Server(message(&format!(
                    r#"{{"jsonrpc":"2.0","id":42,"error":{{"code":{code},"message":"m","data":{data}}}}}"#
                )))
            }
            Move::Back(_) if leg_open || over => continue,
            Move::Back(which) => {
                let answers: Vec<String> = keys
                    .iter()
                    .enumerate()
                    .filter(|(at, _)| which & (1 << (at % 8)) != 0)
                    .map(|(_, key)| format!(r#""{key}":{{"action":"accept"}}"#))
                    .collect();
                let (id, token) = (format!("\"leg{legs}\""), about(&format!(r#","progressToken":"p{legs}""#)));
                let retry = request(&id, method, &format!(r#""inputResponses":{{{}}}"#, answers.join(",")), &token);
                (legs, leg_open) = (legs + 1, true);
                Input::Back(leg(&retry), question::answers(&retry))
            }
            Move::Wait(ms) => {
                now += Duration::from_millis(u64::from(*ms) * if *ms > 600 { 1_000 } else { 1 });
                Input::Timer
            }
            Move::Lost => {
                at_server = false;
                asked.values_mut().for_each(|answered| *answered = true);
                over = true;
                Input::Lost
            }
            Move::Gone => {
                over = true;
                Input::Gone
            }
            // It is what the shell says to a call that it could not park.
            Move::NoRoom if leg_open => continue,
            Move::NoRoom => {
                over = true;
                Input::NoRoom
            }
        };
        let was_over = over && !matches!(input, Input::Lost | Input::Gone | Input::NoRoom);
        let mut effects = Vec::new();
        call.handle(input, now, &mut effects);
        if matches!(one, Move::Lost | Move::Gone) || was_over {
            leg_open = false;
        }
        for effect in &effects {
            match effect {
                Effect::Answer(answer) => {
                    prop_assert!(leg_open, "an answer to nothing");
                    let id = format!("\"leg{}\"", legs - 1);
                    let own = answer.id().unwrap();
                    prop_assert_eq!(own.as_json(), id.as_str(), "ids do not cross");
                    (leg_open, over) = (false, true);
                }
                Effect::Ask(id, requests) => {
                    prop_assert!(leg_open, "a question to nobody");
                    prop_assert_eq!(id.as_json(), format!("\"leg{}\"", legs - 1));
                    leg_open = false;
                    let map: serde_json::Map<String, Value> = serde_json::from_str(requests).unwrap();
                    prop_assert!(!map.is_empty());
                    keys = map.keys().cloned().collect();
                    seen_keys.extend(keys.iter().cloned());
                }
                Effect::Client(message) => {
                    prop_assert!(leg_open, "nothing comes after an answer");
                    if let Some(token) = message.param("progressToken") {
                        prop_assert_eq!(token, format!("\"p{}\"", legs - 1), "tokens do not cross");
                    }
                }
                Effect::Server(answer) => {
                    let id = answer.id().unwrap().as_json().to_owned();
                    let answered = asked.get_mut(&id);
                    prop_assert!(answered.as_ref().is_some_and(|answered| !**answered), "{} is answered once", id);
                    *answered.unwrap() = true;
                }
                Effect::Made(id, ..) => {
                    prop_assert!(offers && leg_open, "a task for nobody");
                    prop_assert_eq!(id.as_json(), format!("\"leg{}\"", legs - 1));
                    (leg_open, over) = (false, true);
                    // From now on they are the task's.
                    for question in call.left() {
                        let answered = asked.get_mut(question.id.as_json());
                        prop_assert!(answered.as_ref().is_some_and(|answered| !**answered));
                        *answered.unwrap() = true;
                    }
                }
                Effect::CancelTask(_) => prop_assert!(at_server || offers, "there is none"),
                Effect::Again | Effect::AsTask | Effect::Fetch(_) => {
                    prop_assert!(!at_server, "it is not called twice at once");
                    at_server = true;
                }
                Effect::Cancel => {
                    over = true;
                    leg_open = false;
                }
                // Nobody fetched an answer that is there: there is nothing to be cancelled.
                Effect::Lost(Loss::ParkedExpired) => over = true,
                Effect::Lost(_) | Effect::Drop(_) => {}
            }
        }
        prop_assert!(!was_over || effects.is_empty(), "nothing comes after the end: {:?}", effects);
        all.extend(effects);
        prop_assert_eq!(over && !leg_open, call.over, "it knows when it is over");
        prop_assert!(call.over || call.deadline().is_some() || leg_open, "what is parked ends");
    }
    // However it went, it ends: time passes, and everything has been answered once.
    for step in 0..4 {
        now += Duration::from_secs(1_000);
        let mut effects = Vec::new();
        call.handle(if step < 3 { Input::Timer } else { Input::Gone }, now, &mut effects);
        for effect in &effects {
            if let Effect::Server(answer) = effect {
                let answered = asked.get_mut(answer.id().unwrap().as_json());
                prop_assert!(answered.as_ref().is_some_and(|answered| !**answered));
                *answered.unwrap() = true;
            }
        }
        all.extend(effects);
    }
    prop_assert!(call.over);
    prop_assert!(asked.values().all(|answered| *answered), "every question is answered or refused: {:?}", asked);
    Ok(all)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Exactly one answer for each request that waits, with its id; nothing after it; every question answered or refused exactly
    /// once; a parked call ends once; and the same moves have the same effects.
    #[test]
    fn whatever_they_do_everybody_is_answered_once(moves in moves(), asks in any::<bool>(), offers in any::<bool>()) {
        let method = if asks { "tools/call" } else { "tools/list" };
        let origin = now();
        let once = play(method, asks && offers, &moves, origin)?;
        prop_assert_eq!(once, play(method, asks && offers, &moves, origin)?);
    }

    /// What is not of 2026-07-28 alone is carried as it is written: up, and down again.
    #[test]
    fn everything_else_is_carried(params in members(), meta in members(), result in members(), level in any::<bool>()) {
        let params = with(&params, &[("name", "\"t\""), ("inputResponses", "{}")]);
        let ours = [
            ("io.modelcontextprotocol/protocolVersion", "\"2026-07-28\""),
            ("io.modelcontextprotocol/clientCapabilities", "{}"),
            ("io.modelcontextprotocol/clientInfo", r#"{"name":"c"}"#),
            ("io.modelcontextprotocol/logLevel", "\"info\""),
        ];
        let envelope = with(&with(&meta, &ours[..if level { 4 } else { 3 }]), &[("progressToken", "\"p\"")]);
        let whole = object(&with(&params, &[("_meta", &object(&envelope))]));
        let request = message(&format!(r#"{{"jsonrpc":"2.0","id":"c","method":"tools/call","params":{whole}}}"#));
        let up = upward(&request, 42);
        let mut expected = params;
        expected.remove("inputResponses");
        let mut told = read(up.body().unwrap());
        prop_assert_eq!(read(&told.remove("_meta").unwrap()), with(&meta, &[("progressToken", "42")]));
        prop_assert_eq!(told, expected);

        let mut call = begun(&request, now());
        let mut effects = Vec::new();
        let answer = message(&format!(r#"{{"jsonrpc":"2.0","id":42,"result":{}}}"#, object(&result)));
        call.handle(Input::Server(answer), now(), &mut effects);
        let [Effect::Answer(answer)] = &effects[..] else { panic!("{effects:?}") };
        prop_assert_eq!(read(answer.body().unwrap()), with(&result, &[("resultType", "\"complete\"")]));
    }
}
