//! Servers that work: which of them can be shared.

use shadowcat::testing::{Discover, Do, On, Script, WrongId};

use super::common::{legacy, modern, surprised};
use super::{report, with_tools};

const COUNT: &[&str] = &["--call", r#"count={"key":"k"}"#];

#[test]
fn a_server_without_state_is_safe() {
    let report = report(&with_tools(legacy(), &["echo", "progress", "pid", "count"]), &[]);
    report
        .safe()
        .found("ids", "ok", "12 requests")
        .found("state", "ok", "tools tried: 2 of 4")
        .found("state", "ok", "--call");
    report.found("asks_client", "ok", "nothing").found("tasks", "ok", "no tasks").found("survives", "ok", "input");
    assert_eq!(report.json["server"]["era"], "legacy");
    assert_eq!(report.json["server"]["revisions"], serde_json::json!(["2025-11-25"]));
    assert_eq!(report.json["tried"]["tools"], serde_json::json!(["progress", "pid"]));
}

#[test]
fn a_counter_is_found_by_a_call() {
    let report = report(&with_tools(legacy(), &["progress", "count"]), COUNT);
    report.not_safe(&["state"]).found("state", "unsafe", "`count`");
    assert_eq!(report.json["tried"]["tools"], serde_json::json!(["progress", "count"]));
}

#[test]
fn a_tool_that_shows_the_doings_of_others_is_found_without_a_call() {
    report(&with_tools(legacy(), &["stats"]), &[]).not_safe(&["state"]).found("state", "unsafe", "`stats`");
}

#[test]
fn a_list_that_a_call_changes_is_found() {
    let script = Script { hidden_tools: vec!["region".into()], ..with_tools(legacy(), &["echo", "change", "region"]) };
    report(&script, &[]).safe();
    let changing = report(&script, &["--call", r#"change={"kind":"tools"}"#]);
    changing.not_safe(&["state"]).found("state", "unsafe", "tools/list");
}

/// It answers differently each time, and nobody's doing is the reason.
#[test]
fn what_varies_by_itself_is_no_state() {
    let report = report(&with_tools(legacy(), &["pid"]), &[]);
    report.safe().found("state", "ok", "does not vary by itself: `pid`");
}

#[test]
fn lists_are_read_to_their_last_page() {
    let script = Script {
        page_size: 1,
        hidden_tools: vec!["region".into()],
        ..with_tools(legacy(), &["echo", "change", "region"])
    };
    report(&script, &["--call", r#"change={"kind":"tools"}"#]).not_safe(&["state"]);
}

#[test]
fn modern_servers_are_tried_in_their_language() {
    let script = with_tools(modern(), &["progress", "pid", "roots", "count"]);
    let plain = report(&script, &[]);
    plain.safe().found("ids", "ok", "14 requests").found("state", "ok", "tools tried: 2 of 4");
    for name in ["asks_client", "subscriptions", "log_level", "tasks"] {
        plain.found(name, "ok", "2026-07-28");
    }
    assert_eq!(plain.json["server"]["era"], "modern");
    report(&script, COUNT).not_safe(&["state"]).found("state", "unsafe", "`count`");
}

#[test]
fn servers_of_both_eras_are_tried_with_the_handshake() {
    let report = report(&with_tools(Script::default(), &["progress"]), &[]);
    report.safe().found("log_level", "lost", "nobody");
    assert_eq!(report.json["server"]["era"], "both");
    assert_eq!(report.json["server"]["revisions"][0], "2026-07-28");
    assert_eq!(report.json["server"]["revisions"][4], "2024-11-05");
}

#[test]
fn servers_that_die_of_the_question_for_their_era_are_old() {
    let report = report(&with_tools(surprised(Discover::Exit), &["progress"]), &[]);
    report.safe();
    assert_eq!(report.json["server"]["era"], "legacy");
    assert!(report.json["startup_ms"]["second"].is_number(), "those two that answered");
}

#[test]
fn servers_that_do_not_answer_the_question_for_their_era_are_old() {
    let report = report(&with_tools(surprised(Discover::Silence), &["progress"]), &["--timeout", "6s"]);
    report.safe();
    assert_eq!(report.json["server"]["era"], "legacy");
}

#[test]
fn a_server_that_asks_for_roots_is_not_safe() {
    let report = report(&with_tools(legacy(), &["roots", "progress"]), &[]);
    report.not_safe(&["asks_client"]).found("asks_client", "unsafe", "roots").found("state", "ok", "`roots`");
}

#[test]
fn a_server_that_needs_its_client_is_not_safe() {
    for (tool, call, word) in
        [("sample", r#"sample={"prompt":"x"}"#, "sampling"), ("ask", r#"ask={"message":"x"}"#, "elicitation")]
    {
        let report = report(&with_tools(legacy(), &[tool]), &["--call", call]);
        report.not_safe(&["asks_client"]).found("asks_client", "unsafe", word).found("state", "unknown", "0 of 1");
    }
}

#[test]
fn wrong_ids_are_not_safe() {
    let script = |fault| with_tools(legacy(), &["progress"]).fault(On::tool("progress"), fault);
    report(&script(Do::Duplicate), &[]).not_safe(&["ids"]).found("ids", "unsafe", "before");
    // Nothing comes of the tool, and nothing waits for it.
    let retyped = report(&script(Do::Id(WrongId::Retyped)), &[]);
    retyped.not_safe(&["ids"]).found("ids", "unsafe", "an id that nobody had used");
}

#[test]
fn subscriptions_are_tried_on_a_resource() {
    let touch = with_tools(legacy(), &["touch"]);
    let told = report(&touch, &["--call", r#"touch={"uri":"shadowcat://demo/hello.txt"}"#]);
    told.safe().found("subscriptions", "ok", "of nothing else");
    let updated = r#"notify={"method":"notifications/resources/updated","params":{"uri":"other://"}}"#;
    let unasked = report(&with_tools(legacy(), &["notify"]), &["--call", updated]);
    unasked.safe().found("subscriptions", "lost", "nobody subscribed to");
}

#[test]
fn log_messages_are_lost_and_their_level_is_shared() {
    let report =
        report(&with_tools(legacy(), &["log"]), &["--call", r#"log={"level":"info","text":"something happened"}"#]);
    report.safe().found("log_level", "lost", "decides what is sent for the other");
    assert!(report.json["conclusion"].as_str().unwrap().contains("lost: log_level"));
}

#[test]
fn tasks_that_everybody_finds_are_not_safe() {
    let script = Script { tasks: true, ..with_tools(legacy(), &["progress"]) };
    report(&script, &[]).not_safe(&["tasks"]);
}

#[test]
fn a_process_that_goes_on_without_its_input_can_be_shared() {
    let script = with_tools(legacy(), &["progress"]).fault(On::start(), Do::IgnoreEof);
    report(&script, &[]).safe().found("survives", "ok", "SIGTERM");
}

#[cfg(target_os = "linux")]
#[test]
fn memory_is_that_of_the_process_and_of_those_it_started() {
    let script = with_tools(legacy(), &["progress"]).fault(On::start(), Do::Grandchild { seconds: 60 });
    let report = report(&script, &[]);
    report.safe().found("survives", "ok", "leaves no process behind");
    let memory = report.json["memory"].as_array().unwrap();
    assert_eq!(memory.len(), 2, "of two processes that were there at the same time");
    for memory in memory {
        assert_eq!(memory["processes"], 2);
        let size = |key: &str| memory[key].as_u64().unwrap();
        assert!(size("rss_bytes") >= size("pss_bytes") && size("pss_bytes") > 0, "{memory}");
    }
}
