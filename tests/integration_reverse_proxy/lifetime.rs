//! How a proxy begins and ends, in this process and as a program.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use shadowcat::server::{Phase, Running};
use shadowcat::settings::Settings;
use shadowcat::testing::client::{self, Headers, Modern};
use shadowcat::testing::{Do, On};
use tokio::process::Command;

use crate::common::*;

fn quick(settings: &mut Settings) {
    settings.timeouts.drain = Duration::from_millis(500);
    settings.timeouts.shutdown = Duration::from_secs(10);
    settings.timeouts.stop_eof = Duration::from_millis(200);
    settings.timeouts.stop_term = Duration::from_millis(200);
}

/// C-LIFE-3: what is under way finishes, streams end with a word of when to come back, nothing new gets in; a second shutdown
/// finds nothing to do.
#[tokio::test]
async fn shutdown_lets_requests_finish_and_ends_streams() {
    for era in Era::BOTH {
        let proxy = Proxy::start(era.server()).await;
        let client = proxy.client(era).await;
        let pid = client.pid().await;
        let standing = match &client {
            Client::Legacy(session) => {
                let mut stream = session.stream(None).ok().await;
                stream.event().ok().await;
                Some(stream)
            }
            Client::Modern(_) => None,
        };
        let mut working = client.begin("1", Some("1"), "progress", json!({ "steps": 10, "delay_ms": 20 })).await;
        next(&mut working).await.unwrap();
        let (report, rest_of_work) = tokio::join!(within("shutdown", proxy.running.shutdown()), rest(&mut working));
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(text(&rest_of_work.last().unwrap().json()), "did 10 steps", "{era:?}: not cut");
        if let Some(mut standing) = standing {
            let last = standing.event().ok().await.unwrap();
            assert!(last.retry.is_some() && last.data.is_none(), "{last:?}");
            assert_eq!(standing.event().ok().await, None, "and then it ended properly");
        }
        assert_eq!(proxy.running.phase(), Phase::Done);
        assert!(!alive(pid));
        assert!(client::post(&proxy.url, "{}", &[]).await.is_err(), "the port is closed");
        assert!(proxy.running.shutdown().await.is_clean());
    }
}

/// C-LIFE-3, C-POOL-7: while it drains it says so, and whoever waits for a connection is told at once that there will be none.
#[tokio::test]
async fn a_drain_is_told() {
    let proxy = Proxy::with(legacy(), |settings| {
        settings.upstreams[0].connections_max = 1;
        settings.timeouts.acquire = Duration::from_secs(60);
    })
    .await;
    let client = proxy.client(Era::Legacy).await;
    let mut working = client.begin("1", Some("1"), "progress", json!({ "steps": 40, "delay_ms": 50 })).await;
    next(&mut working).await.unwrap();
    let ready = format!("http://{}/ready", proxy.running.admin_address().unwrap());
    let is_ready = async || client::send("GET", &ready, Headers::default(), "").ok().await.status;
    assert_eq!(is_ready().await, 200);
    let shutdown = async {
        proxy.until_metric("shadowcat_queue", &[], 1.0).await;
        within("shutdown", proxy.running.shutdown()).await
    };
    let (waiting, report, _, _) = tokio::join!(
        async { client::post(&proxy.url, &initialize(LEGACY), &[]).ok().await },
        shutdown,
        until("not ready", is_ready, |status| *status == 503),
        rest(&mut working),
    );
    assert_eq!(waiting.status, 503);
    assert_ours(&waiting.json().ok().await, -31005);
    assert!(report.is_clean(), "{report:?}");
}

/// C-LIFE-3: what does not finish in time is told so and cut; streams of subscriptions do not hold anything up.
#[tokio::test]
async fn shutdown_cuts_what_does_not_finish() {
    for era in Era::BOTH {
        let proxy = Proxy::with(era.server(), quick).await;
        let client = proxy.client(era).await;
        let pid = client.pid().await;
        let mut endless = client.begin("1", Some("1"), "progress", json!({ "steps": 100_000, "delay_ms": 20 })).await;
        next(&mut endless).await.unwrap();
        let started = tokio::time::Instant::now();
        let (report, heard) = tokio::join!(within("shutdown", proxy.running.shutdown()), async {
            let mut last = None;
            while let Ok(Some(event)) = endless.event().await {
                last = event.data.map(|data| serde_json::from_str::<Value>(&data).unwrap()).or(last);
            }
            last.unwrap()
        });
        assert!(report.requests_cut && report.survivors.is_empty(), "{report:?}");
        assert!(started.elapsed() < Duration::from_secs(8));
        assert_ours(&heard, -31005);
        assert!(!alive(pid));
    }
    let proxy = Proxy::with(modern(), |settings| settings.timeouts.drain = Duration::from_secs(15)).await;
    let mut listening =
        Modern::new("subscriptions/listen").param("notifications", json!({})).post(&proxy.url).ok().await;
    next(&mut listening).await.unwrap();
    let started = tokio::time::Instant::now();
    let (report, _) = tokio::join!(within("shutdown", proxy.running.shutdown()), rest(&mut listening));
    assert!(report.is_clean(), "{report:?}");
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "a subscription has no answer to wait for: {:?}",
        started.elapsed()
    );
}

/// C-LIFE-4: dropped without a word, in the middle of requests and with streams open, nothing is left: no process, no port.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_it_stops_everything() {
    let proxy = Proxy::with(legacy().fault(On::tool("echo"), Do::Hang), quick).await;
    let mut pids = Vec::new();
    let mut open = Vec::new();
    for _ in 0..5 {
        let client = proxy.client(Era::Legacy).await;
        pids.push(client.pid().await);
        let Client::Legacy(session) = &client else { unreachable!() };
        open.push(session.stream(None).ok().await);
        open.push(client.begin("1", None, "ask", json!({ "message": "?" })).await);
    }
    let url = proxy.url.clone();
    drop(proxy);
    for pid in pids {
        until("its process has ended", async || alive(pid), |alive| !alive).await;
    }
    until("the port is closed", async || client::post(&url, "{}", &[]).await.is_err(), |closed| *closed).await;
    for mut stream in open {
        while let Ok(Some(_)) = within("the end of a stream", stream.event()).await {}
    }
}

/// C-LIFE-4: dropped outside of its runtime, or with it, it neither panics nor leaves processes behind.
#[test]
fn dropping_it_outside_of_its_runtime_is_safe() {
    for runtime_first in [true, false] {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (proxy, pids) = runtime.block_on(async {
            let proxy = Proxy::with(legacy(), quick).await;
            let pids = [proxy.client(Era::Legacy).await.pid().await, proxy.client(Era::Legacy).await.pid().await];
            (proxy, pids)
        });
        if runtime_first {
            drop(runtime);
            drop(proxy);
        } else {
            drop(proxy);
            drop(runtime);
        }
        let wait = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for pid in pids {
            wait.block_on(until("its process has ended", async || alive(pid), |alive| !alive));
        }
    }
}

/// C-LIFE: 100 times up and down leave as many open files as there were, and no process, not even a zombie.
#[test]
fn a_hundred_starts_and_stops_leave_nothing_behind() {
    alone("lifetime::a_hundred_starts_and_stops_leave_nothing_behind", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        runtime.block_on(async {
            let cycle = async |n: usize| {
                let proxy = Proxy::with(if n.is_multiple_of(2) { legacy() } else { modern() }, quick).await;
                // Processes cost most: every fourth time there is one.
                if n % 4 < 2 {
                    let client = proxy.client(if n.is_multiple_of(2) { Era::Legacy } else { Era::Modern }).await;
                    assert_eq!(text(&client.call("echo", json!({ "text": "x" })).await), "x");
                }
                proxy.close().await;
            };
            cycle(0).await;
            cycle(1).await;
            let before = files();
            for n in 0..100 {
                cycle(n).await;
            }
            assert_eq!(files(), before);
            assert_eq!(children(std::process::id().try_into().unwrap()), [] as [i32; 0]);
        });
    });
}

// === The program ===

/// C-LIFE-5: the first signal drains, and the exit code says that all went well; no process is left.
#[tokio::test]
async fn a_signal_drains_the_program() {
    for signal in [Signal::TERM, Signal::INT] {
        let program = Program::start(legacy(), &[]).await;
        let client = program.session().await;
        let pid = client.pid().await;
        let mut working = client.begin("1", Some("1"), "progress", json!({ "steps": 10, "delay_ms": 20 })).await;
        next(&mut working).await.unwrap();
        program.signal(signal);
        assert_eq!(text(&rest(&mut working).await.last().unwrap().json()), "did 10 steps");
        assert_eq!(program.exit_code().await, Some(0), "{signal:?}");
        assert!(!alive(pid));
    }
}

/// C-LIFE-5: the second signal stops at once; children that ignore everything do not outlive the program.
#[tokio::test]
async fn a_second_signal_stops_the_program_at_once() {
    let stubborn = || {
        legacy()
            .fault(On::start(), Do::IgnoreEof)
            .fault(On::start(), Do::IgnoreTerm)
            .fault(On::start(), Do::Grandchild { seconds: 600 })
    };
    for (signal, expected) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let program = Program::start(stubborn(), &[]).await;
        let client = program.session().await;
        let pid = client.pid().await;
        let mut asking = client.begin("1", None, "ask", json!({ "message": "?" })).await;
        next(&mut asking).await.unwrap();
        program.signal(signal);
        // Draining has begun when nothing new is let in.
        let url = program.url.clone();
        let refused = async || client::post(&url, &initialize(LEGACY), &[]).await.map_or(0, |response| response.status);
        until("it drains", refused, |status| matches!(status, 0 | 503)).await;
        let started = tokio::time::Instant::now();
        program.signal(signal);
        assert_eq!(program.exit_code().await, Some(expected));
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        until("no relative is left", async || group(pid), Vec::is_empty).await;
    }
}

/// C-POOL-12: even when the program is killed and can do nothing any more, its servers end: their input does.
#[tokio::test]
async fn servers_end_when_the_program_is_killed() {
    for script in [legacy(), legacy().fault(On::start(), Do::IgnoreEof)] {
        let program = Program::start(script, &[]).await;
        let pids = [program.session().await.pid().await, program.session().await.pid().await];
        program.signal(Signal::KILL);
        assert_eq!(program.exit_code().await, None);
        for pid in pids {
            until("its server has ended", async || alive(pid), |alive| !alive).await;
        }
    }
}

/// Two proxies at one address: the second one says so and exits with 4; a server that does not exist is 5.
#[tokio::test]
async fn a_program_that_cannot_start_says_why() {
    let first = Program::start(legacy(), &[]).await;
    let address = first.url.trim_start_matches("http://").trim_end_matches("/mcp").to_owned();
    let run = async |args: &[&str]| {
        #[expect(clippy::disallowed_methods, reason = "a test of processes")]
        let output = Command::new(PROGRAM).args(["serve", "--admin", "off"]).args(args).output().ok().await;
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run(&["--listen", &address, "--", PROGRAM, "fake", "stdio"]).await;
    assert!(code == Some(4) && said.contains(&address) && said.contains("--listen"), "{code:?} {said}");
    let (code, said) = run(&["--listen", "127.0.0.1:0", "--", "/no/such/program"]).await;
    assert!(code == Some(5) && said.contains("/no/such/program"), "{code:?} {said}");
}

/// C-LIFE-1: health and readiness are told on the admin listener, and the gauges return to zero.
#[tokio::test]
async fn health_readiness_and_gauges_are_told() {
    let proxy = Proxy::with(legacy(), quick).await;
    let admin = format!("http://{}", proxy.running.admin_address().unwrap());
    for path in ["/health", "/ready"] {
        assert_eq!(send("GET", &format!("{admin}{path}"), &[], "").await.status, 200);
    }
    let session = proxy.session().await;
    let mut asking = session.call("ask", json!({ "message": "?" })).ok().await;
    next(&mut asking).await.unwrap();
    for (name, value) in [("sessions", 1.0), ("exchanges_in_flight", 1.0), ("children", 1.0), ("streams", 1.0)] {
        assert_eq!(proxy.metric(&format!("shadowcat_{name}"), &[]).await, value, "{name}");
    }
    drop(asking);
    session.delete().ok().await;
    for name in ["sessions", "exchanges_in_flight", "children", "streams"] {
        proxy.until_metric(&format!("shadowcat_{name}"), &[], 0.0).await;
    }
    let bound = Running::start(Settings {
        listen: proxy.running.address(),
        ..Settings::for_upstream(command(PROGRAM, vec![]))
    })
    .await;
    assert!(bound.unwrap_err().to_string().contains("--listen"));
}

/// C-LIFE-3: a server that is just being started when the proxy stops does not stay behind, and its client is told.
#[tokio::test]
async fn stopping_while_a_server_starts_leaves_none_behind() {
    for era in Era::BOTH {
        let slow = era.server().fault(On::start(), Do::Delay { ms: 600_000 });
        let proxy = Proxy::with(slow, quick).await;
        let first = async {
            match era {
                Era::Legacy => client::post(&proxy.url, &initialize(LEGACY), &[]).await,
                Era::Modern => Modern::call("echo", json!({})).post(&proxy.url).await,
            }
        };
        let stop = async {
            proxy.until_metric("shadowcat_children", &[], 1.0).await;
            within("shutdown", proxy.running.shutdown()).await
        };
        let (answer, report) = tokio::join!(within("an answer, or the end of the connection", first), stop);
        if let Ok(answer) = answer {
            assert!(answer.status == 503 || answer.status == 200, "{}", answer.status);
        }
        assert_eq!(report.survivors, [] as [String; 0]);
    }
}

/// Many connections are shared out among threads: sessions are used from connections of other threads than the one that they were
/// opened on, whatever is behind the proxy, and all of it ends as ever (C-LIFE-3).
#[tokio::test]
async fn many_connections_are_served_by_several_threads() {
    let far = Proxy::start(legacy()).await;
    let workers = ["--workers", "3"];
    let own = Program::start(legacy(), &workers).await;
    let shared = Program::start(legacy(), &[&workers[..], &["--isolation", "shared"]].concat()).await;
    let http = Program::before(&far.url, &workers).await;
    for program in [own, shared, http] {
        // Each with a connection that stays, which fills the first two threads.
        let sessions = futures_util::future::join_all((0..40).map(async |_| {
            let Client::Legacy(session) = program.session().await else { unreachable!() };
            let mut stream = session.stream(None).ok().await;
            stream.event().ok().await;
            (session, stream)
        }));
        let sessions = within("sessions", sessions).await;
        let calls = sessions.iter().enumerate().map(async |(number, (session, _))| {
            for id in 0..3 {
                let said = format!("of {number}, {id}");
                let params = json!({ "name": "echo", "arguments": { "text": said } });
                let answer = session.send(&message(&id.to_string(), "tools/call", &params.to_string())).ok().await;
                let answer = answer.answer().ok().await;
                assert_eq!((&answer["id"], text(&answer)), (&json!(id), said.as_str()));
            }
        });
        within("calls", futures_util::future::join_all(calls)).await;
        program.signal(Signal::TERM);
        for (_, stream) in sessions {
            let last = rest(&mut { stream }).await;
            assert!(last.iter().all(|event| event.data.is_none()), "{last:?}");
        }
        assert_eq!(within("exit", program.exit_code()).await, Some(0));
    }
}
