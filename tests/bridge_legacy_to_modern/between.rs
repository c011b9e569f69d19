//! Between revisions with a handshake nothing is translated: client and server agree on one of them, through us.

use serde_json::json;
use shadowcat::testing::{Script, Served};

use crate::common::*;
use crate::{Place, Stage};

/// 2025-11-25, Lifecycle › Version Negotiation: the client hears the server's choice, whatever it asked for, and what it can do
/// in its session is what that revision has.
#[tokio::test]
async fn a_session_has_the_revision_that_both_agree_on() {
    for place in Place::BOTH {
        for newest in REVISIONS {
            let script = Script { era: Served::Legacy, newest_legacy: newest.into(), ..Script::default() };
            let stage = Stage::new(place, script).await;
            for asked in REVISIONS {
                let session = stage.session(asked).await;
                let agreed = asked.min(newest);
                assert_eq!(session.initialized["protocolVersion"], agreed, "{place:?}: {asked} in front of {newest}");
                let client = Client::Legacy(session);
                assert_eq!(client.stats().await["client"]["revision"], agreed);
                let Client::Legacy(session) = client else { unreachable!() };

                // Forms are there from 2025-06-18 on: a server of before has no words for them.
                let mut response = session.call("ask", json!({ "message": "?" })).ok().await;
                let answer = if response.is_sse() {
                    let question = next(&mut response).await.unwrap().json();
                    assert_eq!(question["method"], "elicitation/create");
                    assert!(agreed >= "2025-06-18", "{agreed}");
                    let declined = session.respond(&question["id"], &json!({ "action": "decline" })).ok().await;
                    assert_eq!(declined.status, 202);
                    next(&mut response).await.unwrap().json()
                } else {
                    response.json().ok().await
                };
                assert_eq!(answer["result"]["isError"] == true, agreed < "2025-06-18", "{agreed}: {answer}");

                // Batches are there in 2025-03-26 only.
                let headers: Vec<_> =
                    session.headers().into_iter().filter(|(name, _)| *name != "MCP-Protocol-Version").collect();
                let batch = format!("[{}]", message("1", "ping", "{}"));
                let batch = send("POST", &stage.url, &[json_headers(), headers].concat(), &batch).await;
                assert_eq!(batch.status == 200, agreed == "2025-03-26", "{agreed}");
                assert_eq!(session.delete().ok().await.status, 204);
            }
        }
    }
}
