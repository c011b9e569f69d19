//! The `mcpServers` files of other programs.

use super::*;

fn load_json(text: &str) -> Result<Loaded, Faults> {
    let mut loader = Loader::default();
    loader.mcp_json(".mcp.json", text);
    loader.finish(&variable)
}

/// What a server with these keys is reached by.
fn target(keys: &str) -> Result<Target, String> {
    let text = format!(r#"{{ "mcpServers": {{ "x": {{ {keys} }} }} }}"#);
    let loaded = load_json(&text).map_err(|faults| faults.to_string())?;
    Ok(loaded.settings.upstreams.into_iter().next().unwrap().target)
}

#[test]
fn all_spellings_of_the_transport_are_known() {
    use HttpTransport::{Auto, Sse, Streamable};
    for key in ["type", "transport", "transportType", "protocol"] {
        for (name, expected) in [
            ("http", Auto),
            ("remote", Auto),
            ("streamable-http", Streamable),
            ("streamableHttp", Streamable),
            ("streamable_http", Streamable),
            ("streamablehttp", Streamable),
            ("sse", Sse),
            ("SSE", Sse),
        ] {
            let target = target(&format!(r#""{key}": "{name}", "url": "http://h/mcp""#));
            let Ok(Target::Http(target)) = target else { panic!("{key} = {name}: {target:?}") };
            assert_eq!(target.transport, expected, "{key} = {name}");
        }
        for name in ["stdio", "local"] {
            let target = target(&format!(r#""{key}": "{name}", "command": "fs""#));
            assert!(matches!(target, Ok(Target::Stdio(_))), "{key} = {name}: {target:?}");
        }
    }
}

#[test]
fn the_transport_follows_from_the_keys() {
    for key in ["url", "serverUrl", "httpUrl"] {
        let target = target(&format!(r#""{key}": "http://h/mcp""#));
        let Ok(Target::Http(target)) = target else { panic!("{key}: {target:?}") };
        assert_eq!(target.transport, HttpTransport::Auto, "{key}");
    }
    assert!(matches!(target(r#""command": "fs", "url": null"#), Ok(Target::Stdio(_))));
}

#[test]
fn a_typical_file_is_read() {
    let text = r#"{
        // The editor's own file, comments and all.
        "inputs": [],
        "mcpServers": {
            "Files of Me": {
                "command": "npx", "args": ["-y", "pkg", "${UNSET:-/tmp}"],
                "env": { "K": "${env:TOKEN}", "N": 1, "B": true, "F": 1.50, "O": null },
                "cwd": "/srv", "disabled": false, "timeout": 60, "alwaysAllow": [],
            },
            /* half-finished */
            "off": { "disabled": true, "url": 7 },
            "off2": { "enabled": false },
        },
        "servers": {
            "api": { "type": "http", "url": "https://h/mcp", "headers": { "A": "Bearer ${TOKEN}" } },
        },
    }"#;
    let loaded = load_json(text).unwrap();
    let upstreams = &loaded.settings.upstreams;
    assert_eq!(upstreams.len(), 2);
    assert_eq!(upstreams[0].name, "Files-of-Me");
    let Target::Stdio(files) = &upstreams[0].target else { panic!("not a program") };
    assert_eq!(files.program, "npx");
    assert_eq!(files.args, ["-y", "pkg", "/tmp"]);
    let env: Vec<(&str, &str)> = files.env.iter().map(|(k, v)| (k.as_str(), v.0.as_str())).collect();
    assert_eq!(env, [("K", "hunter2"), ("N", "1"), ("B", "true"), ("F", "1.50")]);
    assert_eq!(upstreams[1].name, "api");

    let notes: Vec<String> = loaded.notes.iter().map(Note::to_string).collect();
    insta::assert_snapshot!(notes.join("\n"), @r#"
        .mcp.json:1:1: not used here: inputs
        .mcp.json:5:13: mcpServers."Files of Me": is called `Files-of-Me` here: the name becomes part of a URL
        .mcp.json:5:28: mcpServers."Files of Me": not used here: timeout, alwaysAllow
        .mcp.json:11:13: mcpServers.off: disabled, skipped
        .mcp.json:12:13: mcpServers.off2: disabled, skipped
        "#);
}

#[test]
fn servers_may_come_as_a_list() {
    let text = r#"{ "mcpServers": [
        { "name": "a", "command": "a" },
        { "name": "b", "url": "http://h", "protocol": "sse", "enabled": true }
    ] }"#;
    let names = load_json(text).unwrap().settings.upstreams;
    let names: Vec<&str> = names.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    let fault = load_json(r#"{ "servers": [ {} ] }"#).unwrap_err().to_string();
    assert_eq!(fault, ".mcp.json:1:16: servers[0]: expected a key `name`");
}

#[test]
fn all_faults_are_reported_with_their_places() {
    let text = r#"{
  "mcpServers": {
    "a": { "command": ["x"], "args": "-y", "disabled": "no" },
    "b": { "type": "sse", "command": "x" },
    "c": { "type": "stdio", "url": "http://h" },
    "d": { "type": "websocket", "url": "http://h" },
    "e": { "url": "${NOPE}" },
    "f": { "command": "x", "command": "y", "env": { "A": {} } },
    "g": 1,
    "h": {},
    "h": { "command": "x" },
    "/": { "command": "x" }
  }
}"#;
    insta::assert_snapshot!(load_json(text).unwrap_err(), @r#"
        .mcp.json:3:23: mcpServers.a.command: expected a string, found a list
        .mcp.json:3:38: mcpServers.a.args: expected a list of strings, found a string
        .mcp.json:3:56: mcpServers.a.disabled: expected true or false, found a string
        .mcp.json:4:20: mcpServers.b.type: does not apply: the server has a `command`
        .mcp.json:5:20: mcpServers.c.type: does not apply: the server has a `url`
        .mcp.json:6:20: mcpServers.d.type: `websocket` is none of `stdio`, `local`, `http`, `remote`, `streamable-http`, `sse`
        .mcp.json:7:19: mcpServers.e.url: variable `NOPE` is not set; set it, or give a default: `${NOPE:-default}` (`$${` is a plain `${`)
        .mcp.json:8:28: mcpServers.f.command: `command` is given twice; first at .mcp.json:8:12
        .mcp.json:8:58: mcpServers.f.env.A: expected a string, found a table
        .mcp.json:9:10: mcpServers.g: expected a table, found an integer
        .mcp.json:10:5: mcpServers.h: needs `command` (a program to start) or `url` (a server to connect to)
        .mcp.json:11:5: mcpServers.h: the server `h` is given twice; first at .mcp.json:10:5: mcpServers.h
        .mcp.json:12:5: mcpServers."/": expected a name of 1 to 64 characters A-Z a-z 0-9 _ . -, of which one is no dot
        "#);
}

#[test]
fn broken_files_have_one_fault() {
    for (text, fault) in [
        ("", ".mcp.json:1:1: the file is empty"),
        ("[]", ".mcp.json:1:1: expected a table, found a list"),
        ("{}", ".mcp.json:1:1: expected a key `mcpServers` or `servers`"),
        ("{ \"mcpServers\": { \"a\" } }", ".mcp.json:1:23: Expected colon after the string or word in object property"),
        ("{ 'mcpServers': {} }", ".mcp.json:1:3: Single-quoted strings are not allowed"),
    ] {
        assert_eq!(load_json(text).unwrap_err().to_string(), fault, "{text}");
    }
    let deep = "[".repeat(100_000);
    assert!(load_json(&deep).is_err());
}

#[test]
fn both_files_together_are_one_configuration() {
    let json = r#"{ "mcpServers": { "a": { "command": "json" }, "b": { "command": "json" } } }"#;
    let both = |toml: &str| {
        let mut loader = Loader::default();
        loader.toml("shadowcat.toml", toml);
        loader.mcp_json(".mcp.json", json);
        loader.finish(&variable).map(|loaded| loaded.settings)
    };
    let settings = both("path = \"/x\"\n[servers.c]\ncommand = \"toml\"").unwrap();
    assert_eq!(settings.path, "/x");
    assert_eq!(settings.upstreams.len(), 3);

    let faults = both("[servers.b]\ncommand = \"toml\"\nx = 1").unwrap_err().to_string();
    insta::assert_snapshot!(faults, @r#"
        .mcp.json:1:47: mcpServers.b: the server `b` is given twice; first at shadowcat.toml:1:10: servers.b
        shadowcat.toml:3:1: servers.b.x: unknown key
        "#);
}
