//! Servers that do not work: each is told from the others, and none makes the probe hang.

use shadowcat::testing::{Discover, Do, On, When};

use super::common::{PROGRAM, legacy, modern, surprised};
use super::{probe, report, shadowcat, with_tools};

#[test]
fn a_program_that_is_not_there() {
    for (program, word) in [("/nowhere/server", "there is no such file"), ("no-such-server", "give its full path")] {
        let run = shadowcat(&["probe", "--", program]);
        assert_eq!((run.code, run.stdout.as_str()), (Some(5), ""), "{}", run.stderr);
        assert!(run.stderr.starts_with("error: the server cannot be started: program `"), "{}", run.stderr);
        assert!(run.stderr.contains(word) && run.stderr.lines().count() == 1, "{}", run.stderr);
    }
}

#[test]
fn arguments_that_make_no_sense() {
    for args in [
        &["probe"][..],
        &["probe", "--call", "x=[]", "--", "x"],
        &["probe", "--timeout", "forever", "--", "x"],
        &["probe", "--env", "K", "--", "x"],
    ] {
        assert_eq!(shadowcat(args).code, Some(2), "{args:?}");
    }
    let run = probe(&with_tools(legacy(), &["echo", "count"]), &["--call", "cuont"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
    assert_eq!(run.stderr, "error: the server has no tool `cuont`; it has echo, count\n");
}

#[test]
fn a_server_that_ends_at_once_is_quoted() {
    let script = legacy()
        .fault(On::start(), Do::Stderr { bytes: 20, newlines: false })
        .fault(On::start(), Do::Exit { code: 3, when: When::Before });
    let run = probe(&script, &[]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(5), ""));
    insta::assert_snapshot!(run.stderr, @r"
    error: the server has exited (exit status: 3); it had not answered yet
    the last of its standard error:
      eeeeeeeeeeeeeeeeeeee
    ");
}

#[test]
fn a_server_that_keeps_silent_is_given_up() {
    for script in [
        legacy().fault(On::method("initialize"), Do::Hang),
        surprised(Discover::Silence).fault(On::method("initialize"), Do::Hang),
        modern().fault(On::default(), Do::Hang),
        legacy().fault(On::start(), Do::StopReading),
    ] {
        let run = probe(&script, &["--timeout", "500ms"]);
        assert_eq!((run.code, run.stdout.as_str()), (Some(5), ""), "{}", run.stderr);
        assert_eq!(run.stderr, "error: the server did not answer `initialize` within 500ms\n", "{script:?}");
    }
}

#[test]
fn a_server_that_writes_no_messages_is_given_up() {
    let script = legacy().fault(On::start(), Do::Print { text: "loading".into(), times: 20_000, newline: true });
    let run = probe(&script, &[]);
    assert_eq!(run.code, Some(5));
    assert!(run.stderr.contains("it writes what are no messages"), "{}", run.stderr);
    // Some lines are what every client has to live with.
    let script = with_tools(legacy(), &["progress"]);
    let banner = Do::Print { text: "Welcome!".into(), times: 3, newline: true };
    report(&script.fault(On::start(), banner), &[]).safe();
}

#[test]
fn a_server_whose_handshake_fails_is_quoted() {
    let error = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"no licence"}}"#;
    for (answer, word) in [
        (error, "no licence"),
        (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, "its result names no revision"),
        (r#"{"jsonrpc":"2.0","id":1}"#, "its answer is no JSON-RPC message"),
    ] {
        let run = shadowcat(&["probe", "--", "/bin/sh", "-c", "echo \"$0\"; echo sorry >&2; cat >/dev/null", answer]);
        assert_eq!((run.code, run.stdout.as_str()), (Some(5), ""));
        assert!(run.stderr.starts_with("error: the server cannot be spoken to: `initialize`: "), "{}", run.stderr);
        assert!(run.stderr.contains(word) && run.stderr.ends_with("\n  sorry\n"), "{}", run.stderr);
    }
}

#[test]
fn a_call_that_ends_the_process_ends_it_for_all() {
    let script = with_tools(legacy(), &["progress", "pid"])
        .fault(On::tool("pid"), Do::Stderr { bytes: 5, newlines: false })
        .fault(On::tool("pid"), Do::Exit { code: 9, when: When::Before });
    let report = report(&script, &[]);
    report.not_safe(&["state"]).found("state", "unsafe", "while it worked on `pid`");
    report.found("ids", "unknown", "").found("asks_client", "unknown", "not tried").found("tasks", "ok", "");
    assert_eq!(report.json["ended"]["during"], "`pid`");
    assert_eq!(report.json["ended"]["why"], "the server has exited (exit status: 9)");
    assert_eq!(report.json["ended"]["stderr"], "eeeee");
}

/// Only a process that is shared lives long enough for the third call.
#[test]
fn a_shared_process_that_ends_is_told_of() {
    let script = with_tools(legacy(), &["progress"])
        .fault(On::tool("progress").nth(3), Do::Exit { code: 9, when: When::Before });
    report(&script, &[]).not_safe(&["state"]).found("state", "unsafe", "while it worked on `progress`");
}

#[test]
fn a_tool_that_hangs_is_left_out() {
    let script = with_tools(legacy(), &["progress", "pid"]).fault(On::tool("progress"), Do::Hang);
    let report = report(&script, &["--timeout", "5s"]);
    report.safe().found("state", "ok", "took too long: `progress`");
    assert_eq!(report.json["tried"]["left_out"], serde_json::json!(["progress"]));
}

#[test]
fn a_flood_of_notifications_is_read_and_counted() {
    let script = with_tools(legacy(), &["progress"]).fault(On::tool("progress"), Do::Flood { count: 500, bytes: 100 });
    report(&script, &[]).safe().found("log_level", "lost", "changes nothing for the other");
}

/// Such as a server that listens on a port of its own.
#[test]
fn a_server_that_cannot_run_twice_is_told_from_one_that_cannot_run() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().display().to_string();
    // The first two processes have one after the other what the third wants as well.
    let script =
        r#"mkdir "$0/1" 2>&- || mkdir "$0/2" 2>&- || { echo "the port is taken" >&2; exit 1; }; exec "$1" fake stdio"#;
    let run = shadowcat(&["probe", "--", "/bin/sh", "-c", script, &folder, PROGRAM]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(5), ""));
    insta::assert_snapshot!(run.stderr, @r"
    error: the server works, but a further process beside the first does not: the server has exited (exit status: 1); it had not answered yet
    the last of its standard error:
      the port is taken
    ");
}
