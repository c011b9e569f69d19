//! The scene of `scripts/peers`, played by the SDK's client in a process of its own.

use std::io::Write;
use std::time::Duration;

use rmcp::ClientLifecycleMode;
use serde_json::{Map, Value, json};

use crate::client::{Transport, User};
use crate::{legacy, modern};

/// URL and era, with a space between.
const SWITCH: &str = "SHADOWCAT_TEST_RMCP_CLIENT";
const PATIENCE: Duration = Duration::from_secs(10);
const STEPS: [&str; 8] = ["list", "call", "progress", "cancel", "ask", "sample", "update", "log"];

/// No test, but what `scripts/peers` runs; it prints its report where the server has its output.
#[tokio::test]
async fn is_played_by_a_process_of_its_own() {
    let Ok(what) = std::env::var(SWITCH) else { return };
    let (url, era) = what.split_once(' ').unwrap();
    let lifecycle = if era == "modern" { modern() } else { legacy() };
    let mut results = Map::new();
    let mut version = Value::Null;
    for step in STEPS {
        // What fails in one step must not keep the others from being played: each has a client of its own.
        let playing = tokio::spawn(play(step, url.to_owned(), lifecycle.clone()));
        let came = match tokio::time::timeout(PATIENCE, playing).await {
            Ok(Ok((seen, spoken))) => {
                version = spoken;
                json!({ "seen": seen })
            }
            Ok(Err(error)) => json!({ "error": reason(error.into_panic().as_ref()) }),
            Err(_) => json!({ "error": "nothing came of it in time" }),
        };
        results.insert(step.to_owned(), came);
    }
    let mut output = std::fs::File::options().write(true).open("/dev/fd/3").unwrap();
    writeln!(output, "{}", json!({ "version": version, "results": results })).unwrap();
}

fn reason(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic").to_owned()
}

/// One step; what was seen, and the version that was spoken.
async fn play(step: &'static str, url: String, lifecycle: ClientLifecycleMode) -> (Value, Value) {
    let mut user = User::connect(&Transport::Http(url), lifecycle).await;
    user.is_called("Alice");
    let version = json!(user.version());
    let seen = match step {
        "list" => json!(user.tools().await),
        "call" => text(&user.call("echo", json!({ "text": "h\u{e9}llo \u{1f600}" })).await),
        "progress" => {
            let result = user.call("progress", json!({ "steps": 3, "text": "step" })).await;
            let heard = user.hear(3).await.into_iter().map(|heard| {
                let heard = &heard["progress"];
                json!([heard["progress"], heard["total"], heard["message"]])
            });
            json!([heard.collect::<Vec<_>>(), text(&result)])
        }
        "cancel" => {
            user.begin_and_cancel().await;
            json!("cancelled")
        }
        "ask" => text(&user.call("ask", json!({ "message": "Who is it?" })).await),
        "sample" => text(&user.call("sample", json!({})).await),
        "update" => user.update().await,
        _ => {
            user.log().await;
            let heard = user.hear(1).await;
            json!([[heard[0]["log"]["level"], heard[0]["log"]["data"]["a"]]])
        }
    };
    user.leave().await;
    (seen, version)
}

/// The text of a result; or all of it, if it is none.
fn text(result: &Value) -> Value {
    match &result["content"][0]["text"] {
        Value::Null => result.clone(),
        text => text.clone(),
    }
}
