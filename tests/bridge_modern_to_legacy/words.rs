//! What a server asks, in all the words that it has for it: forms with choices, and places to go to (2025-11-25, Elicitation).

use super::*;

fn forms() -> Value {
    json!({
        "one": { "type": "string", "enum": ["a", "b"] },
        "named": { "type": "string", "enum": ["a", "b"], "enumNames": ["A", "B"] },
        "titled": { "type": "string", "oneOf": [{ "const": "a", "title": "A" }], "default": "a" },
        "many": { "type": "array", "items": { "type": "string", "enum": ["a"] }, "minItems": 1 },
        "titles": { "type": "array", "items": { "anyOf": [{ "const": "a", "title": "A" }] } },
        "number": { "type": "number", "default": 95.5 },
    })
}

/// 2025-11-25, Elicitation › Requested Schema: a form comes as it is, with each kind of choice, and so does what was chosen.
#[tokio::test]
async fn forms_with_choices_stay_as_they_are() {
    for via in Via::ALL {
        let world = World::new(via).await;
        let params = json!({ "message": "?", "requestedSchema": { "type": "object", "properties": forms() } });
        let ask = || asking(json!({ "params": params }));
        let asked = world.answer(&ask()).await;
        let (key, question) = questions(&asked).iter().next().unwrap();
        assert_eq!(question["params"], params, "{via:?}");
        let chosen = json!({ "one": "b", "many": ["a"], "number": 1.5 });
        let answers = json!({ key: { "action": "accept", "content": chosen } });
        let done = world.answer(&again(ask(), &asked, answers)).await;
        assert_eq!(text(&done), format!("answer: accept {chosen}"), "{via:?}");
        world.close().await;
    }
}

/// 2025-11-25, Elicitation › URL mode: a place to go to is told without the server's own name for the errand, to those who can go; who
/// cannot is not asked, and learns what it would need.
#[tokio::test]
async fn places_to_go_to_are_told_to_those_who_can_go() {
    let place = json!({ "mode": "url", "message": "Sign in", "url": "https://a.example/?x=1", "elicitationId": "e1" });
    let can = json!({ "elicitation": { "form": {}, "url": {} } });
    for via in Via::ALL {
        let world = World::new(via).await;
        let ask = |can: &Value| Modern::call("ask", json!({ "params": place })).capabilities(can.clone());
        let asked = world.answer(&ask(&can)).await;
        let (key, question) = questions(&asked).iter().next().unwrap();
        let told = json!({ "mode": "url", "message": "Sign in", "url": "https://a.example/?x=1" });
        assert_eq!(question, &json!({ "method": "elicitation/create", "params": told }), "{via:?}");
        let done = world.answer(&again(ask(&can), &asked, json!({ key: { "action": "accept" } }))).await;
        assert_eq!(text(&done), "answer: accept null", "{via:?}");

        let cannot = world.post(&ask(&json!({ "elicitation": {} }))).await;
        assert_eq!(cannot.status, 400, "{via:?}");
        let cannot = cannot.answer().ok().await;
        assert_eq!(code(&cannot), -32021, "{cannot}");
        assert_eq!(cannot["error"]["data"]["requiredCapabilities"], json!({ "elicitation": { "url": {} } }));
        assert_eq!(world.lost("question_undeclared").await, 1.0);
        world.close().await;
    }
}
