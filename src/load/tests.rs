use std::time::Duration;

use serde_json::json;

use super::stats::{Limit, Ratio, Verdict, median, paired, unpaired};
use super::words::{Call, Template, Wrong};
use super::*;

fn answer(id: &[u8], text: &str) -> Vec<u8> {
    let id = std::str::from_utf8(id).unwrap();
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":"{text}"}}]}}}}"#).into_bytes()
}

fn text_of(request: &[u8]) -> String {
    let request: serde_json::Value = serde_json::from_slice(request).unwrap();
    request["params"]["arguments"]["text"].as_str().unwrap().to_owned()
}

#[test]
fn an_answer_is_right_by_its_id_and_its_payload() {
    let mut template = Template::new(&Call::echo("echo", "text", 200), Era::Legacy, 3);
    let (request, id) = template.next();
    let text = text_of(&request);
    assert_eq!(text.len(), 200);
    let right = answer(&id, &text);
    assert_eq!(template.check(&right, id), Ok(0));
    assert_eq!(template.read(b"application/json", &right, id), Ok(()));

    let (next, next_id) = template.next();
    assert_eq!(next.len(), request.len());
    assert_eq!(template.check(&right, next_id), Err(Wrong::Id));
    assert_eq!(template.check(&answer(&id, &text[..199]), id), Err(Wrong::Payload));

    // Another client's, with the same id.
    let mut other = Template::new(&Call::echo("echo", "text", 200), Era::Legacy, 33);
    let (request, same) = other.next();
    assert_eq!(same, id);
    assert_eq!(template.check(&answer(&id, &text_of(&request)), id), Err(Wrong::Payload));
}

#[test]
fn progress_counts_only_where_it_belongs() {
    let mut template = Template::new(&Call::echo("echo", "text", 20).with_progress(2), Era::Modern, 1);
    let (request, id) = template.next();
    let parsed: serde_json::Value = serde_json::from_slice(&request).unwrap();
    let token = parsed["params"]["_meta"]["progressToken"].as_str().unwrap().to_owned();
    let body = |tokens: &[&str]| {
        let events = tokens.iter().map(|token| {
            let params = json!({ "progressToken": token, "progress": 1 });
            format!("data: {}\n\n", json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": params }))
        });
        let last = String::from_utf8(answer(&id, &text_of(&request))).unwrap();
        format!("{}data: {last}\n\n", events.collect::<String>()).into_bytes()
    };
    assert_eq!(template.check(&body(&[&token, &token]), id), Ok(2));
    assert_eq!(template.read(b"text/event-stream", &body(&[&token, &token]), id), Ok(()));
    let lost = Err(Wrong::Progress { got: 1, expected: 2 });
    assert_eq!(template.check(&body(&[&token]), id), lost);
    assert_eq!(template.check(&body(&[&token, "load-2-100000001"]), id), lost);
}

#[test]
fn what_is_called_is_what_the_server_has() {
    let tool = |name: &str, argument: &str| json!({ "tools": [{ "name": name, "inputSchema": { "properties": { argument: {} } } }] });
    assert_eq!(Call::found_in(&tool("echo", "message"), 9), Call::echo("echo", "message", 9));
    assert_eq!(Call::found_in(&tool("delete", "text"), 9), Call::list());
    assert_eq!(Call::found_in(&serde_json::Value::Null, 9), Call::list());
}

#[test]
fn urls_are_plain_http() {
    assert_eq!(Target::parse("http://localhost/mcp").unwrap().to_string(), "http://localhost:80/mcp");
    assert_eq!(Target::parse("http://[::1]:9/a?b").unwrap().to_string(), "http://[::1]:9/a?b");
    for wrong in ["https://localhost/mcp", "localhost:80", "/mcp", ""] {
        assert_eq!(Target::parse(wrong), None, "{wrong}");
    }
}

/// Coordinated omission: while a server stalls, requests whose time comes are late from then on.
#[tokio::test(start_paused = true)]
async fn an_open_loop_counts_from_the_intended_start() {
    let now = Instant::now();
    let schedule = Schedule::new(Pace::Rate(100.0), now, now, now + Duration::from_secs(1), u64::MAX);
    // Without the timer of the operating system, which no test can pause.
    let mut alarm = Alarm::of_the_runtime();
    for slot in 0..3 {
        let due = schedule.next(&mut alarm).await.unwrap();
        assert_eq!(due - now, Duration::from_millis(10 * slot));
    }
    tokio::time::advance(Duration::from_millis(500)).await;
    let due = schedule.next(&mut alarm).await.unwrap();
    assert_eq!((due - now, now.elapsed()), (Duration::from_millis(30), Duration::from_millis(520)));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(schedule.next(&mut alarm).await, None);
    assert_eq!(schedule.left(), 96);
}

#[tokio::test]
async fn an_alarm_is_finer_than_the_clock_of_the_runtime() {
    let mut alarm = Alarm::new();
    let start = Instant::now();
    for n in 1..=20 {
        let due = start + Duration::from_micros(300) * n;
        alarm.wait_until(due).await;
        assert!(Instant::now() >= due, "{n}");
    }
}

#[test]
fn a_ratio_is_judged_by_its_interval() {
    let ratio = |low, high| Ratio { low, mid: f64::midpoint(low, high), high };
    let at_most = Limit::AtMost(1.05);
    assert_eq!(at_most.judge(ratio(0.9, 1.05)), Verdict::Pass);
    assert_eq!(at_most.judge(ratio(1.0, 1.06)), Verdict::Inconclusive);
    assert_eq!(at_most.judge(ratio(1.06, 1.2)), Verdict::Fail);
    let at_least = Limit::AtLeast(0.95);
    assert_eq!(at_least.judge(ratio(0.95, 1.2)), Verdict::Pass);
    assert_eq!(at_least.judge(ratio(0.94, 1.2)), Verdict::Inconclusive);
    assert_eq!(at_least.judge(ratio(0.5, 0.94)), Verdict::Fail);
    assert_eq!(at_most.judge(ratio(f64::NAN, f64::NAN)), Verdict::Fail, "what was not measured is no pass");
}

#[test]
fn pairs_are_compared_as_pairs() {
    // The machine gets slower and slower, and one is always a tenth slower than the other beside it.
    let theirs: Vec<f64> = (0..20).map(|n| 100.0 * 1.1f64.powi(n)).collect();
    let ours: Vec<f64> = theirs.iter().map(|value| value * 1.1).collect();
    let ratio = paired(&ours, &theirs);
    assert!((ratio.low - 1.1).abs() < 1e-9 && (ratio.high - 1.1).abs() < 1e-9, "{ratio:?}");
    let blind = unpaired(&ours, &theirs);
    assert!(blind.low < 0.9 && blind.high > 1.3, "{blind:?}");
    assert_eq!(paired(&ours, &theirs), ratio);
}

#[test]
fn medians() {
    assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
    assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    assert!(median(vec![]).is_nan());
}
