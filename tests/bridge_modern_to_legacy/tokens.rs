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
