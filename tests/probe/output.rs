//! What is printed.

use serde_json::Value;
use shadowcat::testing::Script;

use super::common::legacy;
use super::{probe, report, with_tools};

/// The text without what differs from machine to machine.
fn steady(text: &str) -> String {
    let lines = text.lines().map(|line| match line.split_whitespace().next() {
        Some("start-up") => "  start-up  [times]".to_owned(),
        Some("memory") => "  memory    [sizes]".to_owned(),
        _ => line.replace(env!("CARGO_PKG_VERSION"), "[version]"),
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_safe_server_as_text() {
    let run = probe(&with_tools(legacy(), &["echo", "progress", "pid"]), &[]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    insta::assert_snapshot!(steady(&run.stdout), @r#"
    shadowcat-demo [version]
      era       legacy: 2025-11-25
      start-up  [times]
      memory    [sizes]
      tried     2 of 3 tools (progress, pid), 4 lists

      ids            ok       12 requests of two sessions, under way at the same time, were answered each under
                              its own id, once.
      state          ok       Its lists and answers do not depend on what other sessions did; tools tried: 2 of 3.
                              Compared only in what does not vary by itself: `pid`. A tool that does not say it is
                              read-only, or that needs arguments, is called only if it is named: --call NAME or
                              --call 'NAME={…}'.
      asks_client    ok       It asked its client for nothing while it was tried.
      subscriptions  ok       A subscription begins and ends; there was no change to be told of.
      log_level      lost     Its log messages do not say whose they are: those of a shared process go to nobody.
                              It sent none while it was tried.
      tasks          ok       It offers no tasks.
      survives       ok       It ends when its input does, and leaves no process behind.

    safe to share, but for what is lost: log_level
    isolation = "shared"
    "#);
}

#[test]
fn an_unsafe_server_as_text() {
    let run = probe(&Script::default(), &["--call", r#"count={"key":"k"}"#]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(7), ""));
    insta::assert_snapshot!(steady(&run.stdout), @r#"
    shadowcat-demo [version]
      era       both: 2026-07-28, 2025-11-25, 2025-06-18, 2025-03-26, 2024-11-05 (tried with the handshake)
      start-up  [times]
      memory    [sizes]
      tried     5 of 19 tools (progress, pid, stats, meta, count), 4 lists

      ids            ok       20 requests of two sessions, under way at the same time, were answered each under
                              its own id, once.
      state          unsafe   After another session was active, a session gets other answers to `stats` and
                              `count` than in a process of its own.
      asks_client    unsafe   It asks its client for roots: what it does depends on the client's folders, and one
                              process knows those of one client.
      subscriptions  ok       A subscription begins and ends; there was no change to be told of.
      log_level      lost     Its log messages do not say whose they are: those of a shared process go to nobody.
                              It sent none while it was tried.
      tasks          ok       It offers no tasks.
      survives       ok       It ends when its input does, and leaves no process behind.

    not safe to share, because sessions notice what others did before them, and it works in the folders of its
    client
    isolation = "session"
    "#);
}

/// The keys are part of the interface.
#[test]
fn a_report_as_json() {
    let mut json = report(&with_tools(legacy(), &["progress", "fail"]), &[]).json;
    for pointer in ["/startup_ms/first", "/startup_ms/second"] {
        let time = json.pointer_mut(pointer).unwrap();
        assert!(time.as_f64().is_some_and(|ms| ms > 0.0), "{pointer}: {time}");
        *time = "[number]".into();
    }
    for memory in json["memory"].as_array_mut().unwrap() {
        for key in ["processes", "rss_bytes", "pss_bytes"] {
            assert!(memory[key].is_u64(), "{key}: {memory}");
            memory[key] = "[number]".into();
        }
    }
    for finding in json["findings"].as_array_mut().unwrap() {
        assert!(finding["sentence"].is_string());
        finding["sentence"] = "[text]".into();
    }
    json["server"]["version"] = "[version]".into();
    insta::assert_snapshot!(format!("{json:#}"), @r#"
    {
      "conclusion": "safe to share, but for what is lost: log_level",
      "ended": null,
      "findings": [
        {
          "name": "ids",
          "sentence": "[text]",
          "verdict": "ok"
        },
        {
          "name": "state",
          "sentence": "[text]",
          "verdict": "ok"
        },
        {
          "name": "asks_client",
          "sentence": "[text]",
          "verdict": "ok"
        },
        {
          "name": "subscriptions",
          "sentence": "[text]",
          "verdict": "ok"
        },
        {
          "name": "log_level",
          "sentence": "[text]",
          "verdict": "lost"
        },
        {
          "name": "tasks",
          "sentence": "[text]",
          "verdict": "ok"
        },
        {
          "name": "survives",
          "sentence": "[text]",
          "verdict": "ok"
        }
      ],
      "isolation": "shared",
      "memory": [
        {
          "processes": "[number]",
          "pss_bytes": "[number]",
          "rss_bytes": "[number]"
        },
        {
          "processes": "[number]",
          "pss_bytes": "[number]",
          "rss_bytes": "[number]"
        }
      ],
      "safe": true,
      "server": {
        "era": "legacy",
        "name": "shadowcat-demo",
        "revisions": [
          "2025-11-25"
        ],
        "version": "[version]"
      },
      "startup_ms": {
        "first": "[number]",
        "second": "[number]"
      },
      "tried": {
        "failed": [
          "fail"
        ],
        "left_out": [],
        "lists": 4,
        "tools": [
          "progress"
        ],
        "tools_offered": 2
      }
    }
    "#);
}

/// What a server calls its things cannot do anything to a terminal.
#[test]
fn names_are_shown_as_they_are() {
    let script = Script { name: "evil\u{1b}[2J\u{202e}name".into(), ..with_tools(legacy(), &["progress"]) };
    let run = probe(&script, &[]);
    assert!(run.stdout.starts_with("evil\u{fffd}[2J\u{fffd}name "), "{:?}", run.stdout);
    let report = report(&script, &[]);
    assert_eq!(report.json["server"]["name"], Value::from("evil\u{fffd}[2J\u{fffd}name"));
}
