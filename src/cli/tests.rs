//! What arguments mean. The program as a whole is tested in `tests/config_errors.rs`.

use clap::CommandFactory as _;
use clap::Parser as _;

use crate::settings::Settings;

use super::*;
use crate::settings::{HttpTransport, Isolation, OnCrash, RecordEdges, RecordPolicy, Reuse, Target};

fn parse(line: &[&str]) -> Command {
    let args = std::iter::once("shadowcat").chain(line.iter().copied()).map(OsString::from);
    match Cli::try_parse_from(with_subcommand(args.collect())) {
        Ok(cli) => cli.command,
        Err(error) => panic!("{error}"),
    }
}

fn load(line: &[&str]) -> Result<Settings, String> {
    let variable = |name: &str| (name == "TOKEN").then(|| "hunter2".to_owned());
    match parse(line) {
        Command::Serve(args) => match args.load("/bin/own ${x}", &variable) {
            Ok(loaded) => Ok(loaded.settings),
            Err(faults) => Err(faults.to_string()),
        },
        other => panic!("not serve: {other:?}"),
    }
}

/// The same text in a file, for arguments that name one.
fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn the_arguments_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_option_has_a_variable() {
    fn check(command: &clap::Command) {
        for option in command.get_opts().filter(|option| !option.is_global_set()) {
            let variable = option.get_env().and_then(|name| name.to_str()).unwrap_or("");
            let long = option.get_long().unwrap_or("").replace('-', "_").to_ascii_uppercase();
            let ends_as_the_option = variable.ends_with(&long);
            assert!(variable.starts_with("SHADOWCAT_") && ends_as_the_option, "{option}: {variable}");
        }
        command.get_subcommands().for_each(check);
    }
    check(&Cli::command());
}

/// Whoever asks for help with secrets in the environment does not want to read them.
#[test]
fn help_shows_no_secret_variable() {
    for command in ["serve", "probe"] {
        for option in Cli::command().find_subcommand(command).unwrap().get_opts() {
            if matches!(option.get_long(), Some("header" | "env" | "upstream" | "call")) {
                assert!(option.is_hide_env_values_set(), "{option}");
            }
        }
    }
}

#[test]
fn without_a_server_it_is_the_demo() {
    let settings = load(&["serve"]).unwrap();
    assert_eq!(settings.upstreams.len(), 1);
    assert_eq!(settings.upstreams[0].name, "demo");
    let Target::Stdio(demo) = &settings.upstreams[0].target else { panic!("not a program") };
    assert_eq!(demo.program, "/bin/own ${x}");
    assert_eq!(demo.args, ["fake", "stdio"]);
}

#[test]
fn a_command_is_taken_as_it_stands() {
    for line in [
        &["--", "sh", "-c", "echo ${HOME} $${X}", "--listen"][..],
        &["serve", "--", "sh", "-c", "echo ${HOME} $${X}", "--listen"][..],
    ] {
        let settings = load(line).unwrap();
        let Target::Stdio(target) = &settings.upstreams[0].target else { panic!("not a program") };
        assert_eq!(target.program, "sh");
        assert_eq!(target.args, ["-c", "echo ${HOME} $${X}", "--listen"]);
        assert_eq!(settings.upstreams[0].name, "main");
    }
}

#[test]
fn the_options_of_a_program_arrive() {
    let settings = load(&[
        "serve",
        "--name",
        "fs",
        "--env",
        "K=${TOKEN}=x",
        "--env",
        "L=",
        "--pass-env",
        "A,B",
        "--pass-env",
        "C",
        "--cwd",
        "/srv",
        "--era",
        "legacy",
        "--max-connections",
        "2",
        "--isolation",
        "request",
        "--reuse",
        "same-principal",
        "--warm-spares",
        "2",
        "--principal-header",
        "X-User",
        "--on-crash",
        "end-session",
        "--",
        "fs",
    ]);
    let settings = settings.unwrap();
    let upstream = &settings.upstreams[0];
    let Target::Stdio(target) = &upstream.target else { panic!("not a program") };
    assert_eq!((upstream.name.as_str(), upstream.connections_max), ("fs", 2));
    assert_eq!((upstream.isolation, upstream.reuse), (Isolation::Request, Reuse::SamePrincipal));
    assert_eq!((upstream.warm_spares, upstream.on_crash), (2, OnCrash::EndSession));
    assert_eq!(upstream.principal_header, "x-user");
    assert_eq!(target.env[0].1.0, "hunter2=x");
    assert_eq!(target.env[1].1.0, "");
    assert_eq!(target.pass_env, ["A", "B", "C"]);
    assert_eq!(target.cwd.as_deref(), Some(std::path::Path::new("/srv")));
}

/// What is said about recording is said of all servers that have nothing of their own in the file.
#[test]
fn the_options_of_recording_are_for_all_servers() {
    let folder = tempfile::tempdir().unwrap();
    let (file, plan) = (folder.path().join("c.toml"), folder.path().join("plan.json"));
    let own = "[servers.a]\ncommand = 'a'\n[servers.b]\ncommand = 'b'\nrecord = '/own'\n";
    std::fs::write(&file, own).unwrap();
    std::fs::write(&plan, r#"{ "faults": [{ "do": "hang" }] }"#).unwrap();
    let (file, plan) = (file.to_str().unwrap(), plan.to_str().unwrap());
    let options = [
        ["--record", "/t"],
        ["--record-edges", "both"],
        ["--record-policy", "block"],
        ["--redact-key", "pin"],
        ["--redact-pointer", "/a"],
        ["--redact-pattern", "[a,b]"],
        ["--faults", plan],
    ];
    let arguments = ["serve", "--config", file, "--no-redact-defaults", "--record-compress"];
    let settings = load(&[&arguments[..], options.as_flattened()].concat()).unwrap();
    let record = |at: usize| settings.upstreams[at].record.as_ref().unwrap();
    assert_eq!((record(0).edges, record(0).policy, record(0).compress), (RecordEdges::Both, RecordPolicy::Block, true));
    let redact = &record(0).redact;
    assert_eq!((redact.defaults, redact.keys.len(), redact.pointers.len()), (false, 1, 1));
    assert_eq!(redact.patterns, ["[a,b]"]);
    assert_eq!((record(1).folder.to_str(), record(1).edges), (Some("/own"), RecordEdges::Client));
    assert_eq!(settings.faults.as_ref().unwrap().faults.len(), 1);
    let summary = serve::Summary(&settings).to_string();
    assert!(summary.contains("records both to /t (policy block)") && summary.contains("faults  1"), "{summary}");
}

#[test]
fn a_plan_that_makes_no_sense_is_refused() {
    let plan = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(plan.path(), r#"{ "faults": [{ "do": "nothing" }] }"#).unwrap();
    let refused = load(&["serve", "--faults", plan.path().to_str().unwrap()]).unwrap_err().to_string();
    assert!(refused.starts_with("--faults: not a plan: unknown variant `nothing`"), "{refused}");
    let refused = load(&["serve", "--faults", "/no/such/file"]).unwrap_err().to_string();
    assert!(refused.starts_with("--faults: cannot be read"), "{refused}");
}

#[test]
fn the_options_of_an_upstream_arrive() {
    let settings = load(&[
        "serve",
        "--upstream",
        "https://h/mcp?k=${TOKEN}",
        "--transport",
        "sse",
        "--header",
        "Authorization: Bearer ${TOKEN}",
        "--header",
        "X-A:b:c\nX-B: d",
        "--forward-header",
        "x-c",
    ]);
    let settings = settings.unwrap();
    let Target::Http(target) = &settings.upstreams[0].target else { panic!("not a URL") };
    assert_eq!(target.url, "https://h/mcp?k=hunter2");
    assert_eq!(target.transport, HttpTransport::Sse);
    let headers: Vec<(&str, &str)> = target.headers.iter().map(|(k, v)| (k.as_str(), v.to_str().unwrap())).collect();
    assert_eq!(headers, [("authorization", "Bearer hunter2"), ("x-a", "b:c"), ("x-b", "d")]);
    let summary = serve::Summary(&settings).to_string();
    assert!(!summary.contains("hunter2") && summary.contains("authorization"), "{summary}");
}

#[test]
fn arguments_lie_over_the_file() {
    let toml = file(
        "listen = \"127.0.0.1:1\"\npath = \"/file\"\nadmin = \"off\"\nallow_hosts = [\"a\"]\n[servers.x]\ncommand = \"x\"",
    );
    let path = toml.path().to_str().unwrap();
    let settings = load(&["serve", "--config", path]).unwrap();
    assert_eq!((settings.listen.port(), settings.path.as_str()), (1, "/file"));
    assert_eq!(settings.admin, None);

    let settings = load(&[
        "serve",
        "--config",
        path,
        "--listen",
        "127.0.0.1:2",
        "--path",
        "/arg",
        "--admin",
        "127.0.0.1:3",
        "--allow-host",
        "b,c",
        "--no-http-sse",
        "--",
        "fs",
    ]);
    let settings = settings.unwrap();
    assert_eq!((settings.listen.port(), settings.path.as_str()), (2, "/arg"));
    assert_eq!(settings.admin, Some("127.0.0.1:3".parse().unwrap()));
    assert_eq!(settings.allow_hosts, ["a", "b", "c"]);
    assert!(!settings.http_sse);
    assert_eq!(settings.upstreams.len(), 2);

    let clash = load(&["serve", "--config", path, "--name", "x", "--", "fs"]).unwrap_err();
    assert!(clash.starts_with("--name: the server `x` is given twice; first at "), "{clash}");
}

#[test]
fn options_about_no_server_are_refused() {
    let toml = file("[servers.x]\ncommand = \"x\"");
    let path = toml.path().to_str().unwrap();
    let faults = load(&["serve", "--config", path, "--era", "modern", "--env", "A=B"]).unwrap_err();
    assert_eq!(faults.lines().count(), 2, "{faults}");
    assert!(faults.starts_with("--env: does not apply: it is about the server that COMMAND"), "{faults}");
    let sharing = [
        ("--isolation", "session"),
        ("--reuse", "never"),
        ("--warm-spares", "0"),
        ("--principal-header", "x-user"),
        ("--on-crash", "reinitialize"),
    ];
    for (option, value) in sharing {
        let fault = load(&["serve", "--config", path, option, value]).unwrap_err();
        assert!(
            fault.starts_with(&format!("{option}: does not apply: it is about the server that COMMAND")),
            "{fault}"
        );
    }
    let faults = load(&["serve", "--header", "A: B", "--", "x"]).unwrap_err();
    assert!(faults.starts_with("--header: does not apply: it is for a server with a `url`"), "{faults}");
}

#[test]
fn options_about_sharing_that_contradict_each_other_are_refused() {
    let faults = load(&[
        "serve",
        "--upstream",
        "http://h",
        "--forward-header",
        "authorization",
        "--isolation",
        "principal",
        "--reuse",
        "any",
        "--warm-spares",
        "1",
        "--principal-header",
        "x user",
    ]);
    let faults = faults.unwrap_err();
    let places: Vec<&str> = faults.lines().filter_map(|line| line.split_once(": ").map(|(place, _)| place)).collect();
    assert_eq!(places, ["--isolation", "--principal-header", "--reuse", "--reuse", "--warm-spares"], "{faults}");
    let fault = load(&["serve", "--max-connections", "1", "--warm-spares", "2", "--", "x"]).unwrap_err();
    assert!(fault.starts_with("--warm-spares: is 2, more than `max_connections`, which is 1: "), "{fault}");
}

/// What is said of sharing is what the operator asked for, or the default of it; what is as usual is left out.
#[test]
fn the_summary_tells_who_shares_a_connection() {
    for (options, end) in [
        (&[][..], "at most 64 at once, isolation session"),
        (&["--reuse", "any"], "isolation session, reuse any"),
        (&["--isolation", "request"], "isolation request"),
        (&["--isolation", "request", "--reuse", "never", "--warm-spares", "1"], "request, reuse never, 1 warm spare"),
        (&["--isolation", "shared", "--warm-spares", "3"], "isolation shared, 3 warm spares"),
        (&["--bridge-structured", "wrap"], "isolation session, bridge structured wrap"),
    ] {
        let line = [&["serve"], options, &["--", "x"]].concat();
        let summary = serve::Summary(&load(&line).unwrap()).to_string();
        assert!(summary.trim_end().ends_with(end), "{summary}");
    }
}

#[test]
fn only_a_default_admin_address_may_be_taken() {
    let settings = load(&["serve"]).unwrap();
    assert_eq!((settings.admin, settings.admin_required), (Some("127.0.0.1:9464".parse().unwrap()), false));
    let settings = load(&["serve", "--admin", "127.0.0.1:9464"]).unwrap();
    assert!(settings.admin.is_some() && settings.admin_required);
    let settings = load(&["serve", "--admin", "off"]).unwrap();
    assert!(settings.admin.is_none() && !settings.admin_required);
    let settings = load(&["serve", "--listen", "127.0.0.1:9464"]).unwrap();
    assert_eq!(settings.admin, None);
}

#[test]
fn a_long_request_timeout_is_not_cut_short_by_a_default() {
    let settings = load(&["serve", "--request-timeout", "2h"]).unwrap();
    assert_eq!(settings.timeouts.request, settings.timeouts.request_max);
    let settings = load(&["serve", "--request-timeout", "2m"]).unwrap();
    assert_eq!(settings.timeouts.request_max.as_secs(), 3600);
    // But by what somebody has set, it is.
    let toml = file("timeouts.request_max = \"1h\"\n[servers.x]\ncommand = \"x\"");
    let path = toml.path().to_str().unwrap();
    let fault = load(&["serve", "--config", path, "--request-timeout", "2h"]).unwrap_err();
    assert_eq!(fault, "--request-timeout: is 2h, longer than `request_max`, which is 1h");
}

#[test]
fn connect_needs_no_more_than_a_server() {
    let Command::Connect(args) = parse(&["connect", "https://h/mcp", "--header", "A: b", "--era", "modern"]) else {
        panic!("not connect");
    };
    let upstream = args.load(&|_| None).unwrap();
    assert!(matches!(upstream.target, Target::Http(_)));
    let Command::Connect(args) = parse(&["connect", "h/mcp", "--header", "A"]) else { panic!("not connect") };
    assert_eq!(args.load(&|_| None).unwrap_err().iter().count(), 2);
}

#[test]
fn filters_and_levels_are_taken() {
    for (text, fine) in [("debug", true), ("OFF", true), ("shadowcat=debug,hyper=info", true), ("a=loud", false)] {
        assert_eq!(crate::telemetry::filter(text).is_ok(), fine, "{text}");
    }
    assert_eq!(crate::telemetry::filter("debug").unwrap().to_string(), "shadowcat=debug,warn");
}

#[test]
fn probe_knows_what_to_start_and_what_to_call() {
    let probe = |line: &[&str]| match parse(line) {
        Command::Probe(args) => args,
        other => panic!("not probe: {other:?}"),
    };
    let args = probe(&["probe", "--", "fs"]);
    assert_eq!((args.json, args.timeout.as_secs(), args.call.len()), (false, 60, 0));
    assert_eq!(args.log.log, "error", "logs would stand between its words");

    let calls = ["--call", "add={\"a\":\"x=y\"}", "--call", "get"];
    let more = ["--json", "--timeout", "2s", "--env", "K=${TOKEN}", "--pass-env", "A,B", "--cwd", "/srv"];
    let args = probe(&[&["probe"][..], &calls, &more, &["--", "fs", "--json", "${X}"]].concat());
    assert_eq!((args.json, args.timeout.as_secs()), (true, 2));
    let calls: Vec<(&str, String)> =
        args.call.iter().map(|call| (call.name.as_str(), call.arguments.to_string())).collect();
    assert_eq!(calls, [("add", "{\"a\":\"x=y\"}".to_owned()), ("get", "{}".to_owned())]);
    let upstream = args.load(&|name| (name == "TOKEN").then(|| "hunter2".to_owned())).unwrap();
    let Target::Stdio(target) = upstream.target else { panic!("not a program") };
    assert_eq!((target.program.as_str(), target.args), ("fs", vec!["--json".to_owned(), "${X}".to_owned()]));
    assert_eq!((target.env[0].1.0.as_str(), target.pass_env), ("hunter2", vec!["A".to_owned(), "B".to_owned()]));
    assert_eq!(probe(&["probe", "--env", "K", "--", "x"]).load(&|_| None).unwrap_err().iter().count(), 1);

    for wrong in
        [&["--timeout", "0s"][..], &["--timeout", "2h"], &["--call", "=1"], &["--call", "x=1"], &["--call", "x={"]]
    {
        let line = [&["shadowcat", "probe"][..], wrong, &["--", "x"]].concat();
        assert!(Cli::try_parse_from(line).is_err(), "{wrong:?}");
    }
    assert!(Cli::try_parse_from(["shadowcat", "probe"]).is_err(), "there is nothing to start");
}
