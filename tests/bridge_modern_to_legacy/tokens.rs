//! What a client brings back: each token is of use once, to whom it was given, for what it was given. Every other is refused
//! alike, and the tool runs as often as it was called.

use super::*;

/// What a refusal looks like, whatever is wrong.
const REFUSED: &str = "this requestState is of no use here: call again without it";

async fn assert_refused(world: &World, what: &str, request: &Modern) {
    let response = world.post(request).await;
    assert_eq!(response.status, 200, "{what}");
    let answer = response.answer().ok().await;
    assert_ours(&answer, -32602);
    assert_eq!(answer["error"]["message"], REFUSED, "{what}");
    assert_eq!(answer["error"]["data"], json!({ "origin": "proxy", "reason": "request_state" }), "{what}");
}

/// 2026-07-28, Multi Round-Trip Requests: what is not known is ignored. Answers without a state are for other questions: the client is
/// asked, and the server is not told of them.
#[tokio::test]
async fn answers_without_a_state_answer_no_question_of_another_name() {
    let world = World::new(Via::Http).await;
    let asked = world.answer(&asking(json!({ "message": "?" })).param("inputResponses", json!({ "q1": {} }))).await;
    assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
    let calls = world.arrived("tools/call");
    assert_eq!(calls.len(), 1);
    assert!(!format!("{:?}", calls[0]).contains("inputResponses"), "{calls:?}");
}

/// docs/bridge.md: whatever is wrong with it, a token opens nothing, does nothing, and spoils nothing.
#[tokio::test]
async fn a_token_is_of_use_to_whom_and_for_what_it_was_given() {
    let world = World::new(Via::Http).await;
    let ask = |message: &str| asking(json!({ "message": message })).header("Authorization", Some("a"));
    let asked = world.answer(&ask("?")).await;
    let answers = accepting(&asked);
    let token = asked["result"]["requestState"].as_str().unwrap().to_owned();
    let with = |request: Modern, token: &str| {
        request.param("requestState", token.into()).param("inputResponses", answers.clone())
    };

    for at in [0, 5, 20, 50, token.len() - 1] {
        let mut changed = token.clone();
        let other = if &token[at..=at] == "A" { "B" } else { "A" };
        changed.replace_range(at..=at, other);
        assert_refused(&world, "changed", &with(ask("?"), &changed)).await;
    }
    for cut in [0, 1, 40, token.len() - 1] {
        assert_refused(&world, "cut", &with(ask("?"), &token[..cut])).await;
    }
    assert_refused(&world, "longer", &with(ask("?"), &format!("{token}A"))).await;
    assert_refused(&world, "very long", &with(ask("?"), &"A".repeat(100_000))).await;
    assert_refused(&world, "made up", &with(ask("?"), "made up")).await;
    assert_refused(
        &world,
        "no text",
        &ask("?").param("requestState", 7.into()).param("inputResponses", answers.clone()),
    )
    .await;
    assert_refused(&world, "other arguments", &with(ask("!"), &token)).await;
    assert_refused(&world, "other principal", &with(ask("?").header("Authorization", Some("b")), &token)).await;
    let nobody = asking(json!({ "message": "?" }));
    assert_refused(&world, "no principal", &with(nobody, &token)).await;
    let other_tool = Modern::call("echo", json!({ "message": "?" })).header("Authorization", Some("a"));
    assert_refused(&world, "other tool", &with(other_tool, &token)).await;
    let other_method = Modern::new("tools/list").header("Authorization", Some("a"));
    assert_refused(&world, "other method", &with(other_method, &token)).await;
    let elsewhere = World::new(Via::Http).await;
    assert_refused(&elsewhere, "other proxy", &with(ask("?"), &token)).await;
    assert_eq!(world.arrived("tools/call").len(), 1, "nothing of it reached the server");

    let done = world.answer(&with(ask("?"), &token)).await;
    assert_eq!(done["result"]["resultType"], "complete", "the true one is still good: {done}");
    assert_refused(&world, "used", &with(ask("?"), &token)).await;
    assert_eq!(world.arrived("tools/call").len(), 1);
    assert_eq!(elsewhere.arrived("tools/call").len(), 0);
    world.close().await;
}

/// Of many who bring the same token at once, one goes on with the call.
#[tokio::test]
async fn a_token_is_of_use_once() {
    for via in Via::ALL {
        let world = World::with(via, legacy(), |settings| settings.upstreams[0].connections_max = 1).await;
        let ask = || asking(json!({ "message": "?" }));
        let asked = world.answer(&ask()).await;
        let retry = again(ask(), &asked, accepting(&asked));
        let answers = futures_util::future::join_all((0..20).map(|_| world.answer(&retry))).await;
        let done = answers.iter().filter(|answer| answer["result"]["resultType"] == "complete").count();
        let refused = answers.iter().filter(|answer| answer["error"]["message"] == REFUSED).count();
        assert_eq!((done, refused), (1, 19), "{via:?}");
        let stats = world.stats().await;
        assert_eq!((&stats["tools"]["ask"], &stats["answers"]), (&json!(1), &json!(1)), "{via:?}");
        world.close().await;
    }
}

/// A client that goes away with an answer under way has cancelled: the call is not there for another try, and has run once.
#[tokio::test]
async fn a_client_that_goes_while_its_answers_are_used_has_cancelled() {
    let script = legacy().fault(On::tool("ask"), Do::Late { ms: 60_000 });
    let world = World::with(Via::Http, script, |_| {}).await;
    let ask = || asking(json!({ "message": "?" }));
    let asked = world.answer(&ask()).await;
    let retry = again(ask(), &asked, accepting(&asked));
    let answered = |request: &Recorded| request.method == "POST" && request.json("/result/action") == "accept";
    let mock = world.mock.as_ref().unwrap();
    tokio::select! {
        done = world.post(&retry) => panic!("it is late: {done:?}"),
        answered = mock.request(DEADLINE, answered) => assert!(answered.is_some()),
    }
    let cancelled = |request: &Recorded| request.json("/method") == "notifications/cancelled";
    assert!(mock.request(DEADLINE, cancelled).await.is_some(), "{:#?}", mock.requests());
    assert_refused(&world, "used", &retry).await;
    assert_eq!(world.arrived("tools/call").len(), 1);
}

/// Whatever clients do with what they are asked (answer, answer twice at once, answer in parts, make something up, go away in the middle,
/// never come back), the tool has run as often as it was called, no question was answered twice, and nothing is left.
#[tokio::test]
async fn a_tool_runs_as_often_as_it_is_called() {
    const CLIENTS: usize = 60;
    for via in [Via::Http, Via::Sse] {
        let world = World::with(via, legacy(), |settings| {
            settings.upstreams[0].connections_max = 12;
            settings.limits.parked = 8;
            settings.limits.queue = CLIENTS;
            settings.timeouts.parked = Duration::from_millis(500);
            settings.timeouts.acquire = DEADLINE;
            settings.timeouts.cancel_grace = Duration::from_millis(50);
        })
        .await;
        let one = async |number: usize| {
            let ask = || asking(json!({ "message": number.to_string(), "parallel": 2 })).id(&number.to_string());
            let asked = world.answer(&ask()).await;
            if asked["error"].is_object() {
                assert_eq!(asked["error"]["data"]["reason"], "too_many_parked", "{asked}");
                return;
            }
            let retry = again(ask(), &asked, accepting(&asked));
            match number % 6 {
                0 => {
                    let done = world.answer(&retry).await;
                    // Its time may have been over.
                    assert!(done["result"]["resultType"] == "complete" || code(&done) == -32602, "{done}");
                }
                1 => {
                    let both = tokio::join!(world.answer(&retry), world.answer(&retry));
                    let done = [&both.0, &both.1].iter().filter(|one| one["result"].is_object()).count();
                    assert!(done <= 1, "{both:?}");
                }
                2 => {
                    let key = questions(&asked).keys().next().unwrap();
                    let part = again(ask(), &asked, json!({ key: { "action": "decline" } }));
                    let rest = world.answer(&part).await;
                    if rest["result"].is_object() {
                        assert_eq!(questions(&rest).len(), 1, "{rest}");
                        world.answer(&again(ask(), &rest, accepting(&rest))).await;
                    }
                }
                3 => {
                    let other = asking(json!({ "message": "another", "parallel": 2 }));
                    assert_eq!(code(&world.answer(&again(other, &asked, accepting(&asked))).await), -32602);
                }
                4 => {
                    tokio::select! {
                        biased;
                        _ = world.post(&retry) => {}
                        _ = tokio::task::yield_now() => {}
                    }
                }
                _ => {}
            }
        };
        futures_util::future::join_all((0..CLIENTS).map(one)).await;
        world.until_metric("shadowcat_parked", &[], 0.0).await;
        world.until_metric("shadowcat_exchanges_in_flight", &[], 0.0).await;
        world.until_metric("shadowcat_pool", &["leased"], 0.0).await;
        let told = async || {
            let stats = world.mock.as_ref().unwrap().stats();
            (stats["tools"]["ask"].clone(), stats["answers"].clone(), stats["stray_answers"].clone())
        };
        let all = (json!(CLIENTS), json!(2 * CLIENTS), json!(0));
        until(&format!("{via:?}: each question has one answer"), told, |seen| *seen == all).await;
        world.close().await;
    }
}
