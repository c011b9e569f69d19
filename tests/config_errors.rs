//! What the program says about its configuration, and how it exits.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use assert_cmd::Command;
use tempfile::TempDir;

/// The program, in a directory of its own and without an environment.
fn shadowcat(directory: &Path, args: &[&str]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shadowcat"));
    let output = command
        .current_dir(directory)
        .env_clear()
        .env("TOKEN", "hunter2")
        .args(args)
        .output()
        .expect("the program starts");
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).expect("a file");
    }
    directory
}

#[test]
fn a_valid_configuration_is_summed_up_without_secrets() {
    let toml = r#"
listen = "127.0.0.1:9000"
admin = "off"

[servers.fs]
command = "npx"
args = ["-y", "--token=${TOKEN}"]
env = { KEY = "${TOKEN}" }
pass_env = ["SSH_AUTH_SOCK"]
reuse = "same-principal"
warm_spares = 2
"#;
    let json = r#"{ "mcpServers": {
        "api": { "type": "sse", "url": "https://h/sse?key=${TOKEN}", "headers": { "Authorization": "Bearer ${TOKEN}" }, "timeout": 5 },
        "off": { "command": "x", "disabled": true }
    } }"#;
    let directory = directory(&[("shadowcat.toml", toml), (".mcp.json", json)]);
    let args = ["serve", "--check", "--config", "shadowcat.toml", "--mcp-json", ".mcp.json"];
    let run = shadowcat(directory.path(), &args);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    insta::assert_snapshot!(run.stdout, @r#"
        The configuration is valid.
        listen  127.0.0.1:9000, path /mcp, HTTP+SSE too
        admin   off
        server  fs: starts npx with 2 arguments, env KEY, inherits SSH_AUTH_SOCK, era auto, at most 64 at once, isolation session, reuse same-principal, 2 warm spares
        server  api: connects to https://h/sse?[redacted], transport sse, headers authorization, era auto, at most 1000 at once, isolation session
        "#);
    insta::assert_snapshot!(run.stderr, @r#"
        note: .mcp.json:2:16: mcpServers.api: not used here: timeout
        note: .mcp.json:3:9: mcpServers.off: disabled, skipped
        "#);
}

#[test]
fn all_faults_of_all_sources_are_reported_at_once() {
    let toml = "lisen = 1\n[servers.fs]\ncommand = \"${NOPE}\"\n";
    let json = "{ \"mcpServers\": { \"fs\": { \"command\": \"x\" } } }";
    let directory = directory(&[("a.toml", toml), ("b.json", json)]);
    let args = ["serve", "--config", "a.toml", "--mcp-json", "b.json", "--path", "mcp"];
    let run = shadowcat(directory.path(), &args);
    assert_eq!(run.code, Some(3));
    assert_eq!(run.stdout, "");
    insta::assert_snapshot!(run.stderr, @r#"
        error: the configuration has 4 faults
        --path: expected a path such as "/mcp": segments of A-Z a-z 0-9 _ . ~ -, no slash at the end
        a.toml:1:1: lisen: unknown key; did you mean `listen`?
        a.toml:3:11: servers.fs.command: variable `NOPE` is not set; set it, or give a default: `${NOPE:-default}` (`$${` is a plain `${`)
        b.json:1:19: mcpServers.fs: the server `fs` is given twice; first at a.toml:2:10: servers.fs
        "#);
}

#[test]
fn the_exit_code_says_whose_fault_it_is() {
    let directory = directory(&[("empty.toml", ""), ("good.toml", "[servers.x]\ncommand = \"x\"")]);
    for (code, args) in [
        (0, &["serve", "--check"][..]),
        (0, &["serve", "--check", "--config", "good.toml"]),
        (0, &["serve", "--check", "--listen", "0.0.0.0:1", "--allow-host", "mcp.example"]),
        (0, &["--help"]),
        (0, &["--version"]),
        (2, &[]),
        (2, &["serve", "--listen", "nowhere"]),
        (2, &["serve", "--check", "--path", "nowhere"]),
        (2, &["serve", "--check", "--request-timeout", "0s"]),
        (2, &["serve", "--check", "--max-connections", "0"]),
        (0, &["serve", "--check", "--isolation", "request", "--reuse", "same-principal", "--warm-spares", "4"]),
        (2, &["serve", "--check", "--isolation", "none"]),
        (2, &["serve", "--check", "--warm-spares", "1001"]),
        (2, &["serve", "--check", "--isolation", "shared", "--reuse", "any"]),
        (2, &["serve", "--check", "--upstream", "http://h", "--", "x"]),
        (2, &["serve", "--check", "--log", "shadowcat=loud"]),
        (3, &["serve", "--check", "--config", "empty.toml"]),
        (3, &["serve", "--check", "--config", "missing.toml"]),
        (8, &["serve", "--check", "--listen", "0.0.0.0:1"]),
        (8, &["serve", "--listen", "[::]:1", "--", "x"]),
    ] {
        let run = shadowcat(directory.path(), args);
        assert_eq!(run.code, Some(code), "{args:?}: {}{}", run.stdout, run.stderr);
    }
}

#[test]
fn an_exposed_address_is_refused_with_a_way_out() {
    let directory = directory(&[]);
    let run = shadowcat(directory.path(), &["serve", "--listen", "0.0.0.0:8080"]);
    assert_eq!(run.code, Some(8));
    assert!(run.stderr.contains("--allow-host NAME") && run.stderr.contains("127.0.0.1"), "{}", run.stderr);
}

#[test]
fn a_malformed_header_is_not_printed() {
    let directory = directory(&[]);
    let args = ["serve", "--check", "--upstream", "http://h", "--header", "Bearer hunter2"];
    let run = shadowcat(directory.path(), &args);
    assert_eq!(run.code, Some(2));
    assert_eq!(run.stderr, "error: --header: expected `NAME: VALUE`\n");
}

#[test]
fn the_schema_is_json() {
    let directory = directory(&[]);
    let run = shadowcat(directory.path(), &["config", "schema"]);
    assert_eq!(run.code, Some(0));
    let schema: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert_eq!(schema["title"], "shadowcat configuration");
}

/// `serve` is understood where a command is given, and nowhere else.
#[test]
fn without_arguments_there_is_help() {
    let directory = directory(&[]);
    let run = shadowcat(directory.path(), &[]);
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("Usage: shadowcat <COMMAND>"), "{}", run.stderr);
}
