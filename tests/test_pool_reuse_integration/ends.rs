//! The end of it all: however a proxy ends, and whatever it is at, no process is left, no zombie and no open file.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use shadowcat::settings::{Isolation, Reuse, Settings};
use shadowcat::testing::client::{self, Modern};
use shadowcat::testing::{Do, On, Script};

use crate::common::*;
use crate::support::*;

const ALL: [Isolation; 4] = [Isolation::Session, Isolation::Shared, Isolation::Principal, Isolation::Request];

fn hasty(settings: &mut Settings) {
    settings.upstreams[0].warm_spares = 2;
    settings.upstreams[0].connections_max = 6;
    settings.timeouts.drain = ms(300);
    settings.timeouts.stop_eof = ms(100);
    settings.timeouts.stop_term = ms(100);
    settings.timeouts.acquire = DEADLINE;
}

fn stubborn() -> Script {
    legacy()
        .fault(On::start(), Do::IgnoreEof)
        .fault(On::start(), Do::IgnoreTerm)
        .fault(On::start(), Do::Grandchild { seconds: 600 })
}

async fn all_gone(pids: &[i32]) {
    for pid in pids {
        until("its group is empty", async || group(*pid), Vec::is_empty).await;
        until("it is no zombie either", async || std::fs::exists(format!("/proc/{pid}")).unwrap(), |there| !there)
            .await;
    }
}

/// Sessions, calls under way, used and unused connections, and some who wait. Returns the processes.
async fn busy(proxy: &Proxy, isolation: Isolation) -> Vec<i32> {
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(open_as(proxy, Some("Bearer ada")).await);
    }
    for client in &clients {
        let mut call = client.begin("1", Some("1"), "progress", json!({ "steps": 100_000, "delay_ms": 20 })).await;
        next(&mut call).await.unwrap();
        std::mem::forget(call);
    }
    if isolation == Isolation::Request {
        assert!(books(proxy).await.leased >= 3.0);
    }
    let pids = proxy.processes();
    assert!(!pids.is_empty());
    pids
}

/// C-POOL-12, C-POOL-7: a shutdown with everything there is under way, in front of servers that ignore every request to end
/// and have relatives that hold their pipes: nothing is left, and the report says that nothing survived.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_leaves_nothing_whatever_is_under_way() {
    for isolation in ALL {
        for script in [legacy(), stubborn()] {
            let proxy = isolated(isolation, script, hasty).await;
            let pids = busy(&proxy, isolation).await;
            let report = within("shutdown", proxy.running.shutdown()).await;
            assert!(report.requests_cut && report.survivors.is_empty(), "{isolation:?}: {report:?}");
            all_gone(&pids).await;
            assert_eq!(proxy.processes(), [] as [i32; 0], "{isolation:?}: none was started in the meantime");
        }
    }
}

/// C-POOL-6, C-LIFE-4: the same without a shutdown: when the last handle is dropped, everything ends by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_it_leaves_nothing_whatever_is_under_way() {
    for isolation in ALL {
        for script in [legacy(), stubborn()] {
            let proxy = isolated(isolation, script, hasty).await;
            let pids = busy(&proxy, isolation).await;
            let url = proxy.url.clone();
            drop(proxy);
            all_gone(&pids).await;
            until("the port is closed", async || client::post(&url, "{}", &[]).await.is_err(), |closed| *closed).await;
        }
    }
}

/// C-POOL-12, C-LIFE: in a process of its own: after all of that there are as many open files as before, no child, no zombie.
#[test]
fn no_file_stays_open() {
    alone("ends::no_file_stays_open", || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
            let me = i32::try_from(std::process::id()).unwrap();
            let cycle = async |round: usize| {
                for isolation in ALL {
                    let script = if round.is_multiple_of(2) { legacy() } else { stubborn() };
                    let proxy = isolated(isolation, script, hasty).await;
                    let client = open_as(&proxy, Some("Bearer ada")).await;
                    let mut call = client.begin("1", None, "ask", json!({ "message": "?" })).await;
                    let _ = call.event().ok().await;
                    kill(proxy.processes()[0]);
                    if round < 2 {
                        proxy.running.shutdown().await;
                    }
                    drop((call, client, proxy));
                    until("no child, no zombie", async || children(me), Vec::is_empty).await;
                }
            };
            cycle(0).await;
            let before = files();
            for round in 0..4 {
                cycle(round).await;
            }
            until("as many open files as before", async || files(), |now| *now <= before).await;
        });
    });
}

/// C-POOL-7: whoever waits is told at once that there will be nothing, and what was being created is not left behind.
#[tokio::test]
async fn whoever_waits_is_told_at_once() {
    for isolation in [Isolation::Session, Isolation::Request] {
        let change = |settings: &mut Settings| {
            one(settings);
            settings.timeouts.acquire = Duration::from_secs(600);
            settings.timeouts.drain = DEADLINE;
        };
        let proxy = isolated(isolation, legacy(), change).await;
        let client = open(&proxy).await;
        let mut held = client.begin("0", Some("0"), "progress", json!({ "steps": 30, "delay_ms": 50 })).await;
        next(&mut held).await.unwrap();
        let waiting = (0..8).map(async |n: u32| {
            let response = match isolation {
                Isolation::Request => client.begin(&(n + 1).to_string(), None, "echo", json!({ "text": "x" })).await,
                _ => send("POST", &proxy.url, &json_headers(), &initialize(LEGACY)).await,
            };
            assert_eq!(response.status, 503);
            response.json().ok().await
        });
        let stop = async {
            proxy.until_metric("shadowcat_queue", &[], 8.0).await;
            within("shutdown", proxy.running.shutdown()).await
        };
        let told = async {
            let answers = join_all(waiting).await;
            // Long before what they wait for is over.
            (answers, proxy.running.phase())
        };
        let ((answers, phase), report, last) = tokio::join!(told, stop, rest(&mut held));
        assert!(answers.iter().all(|answer| reason(answer) == "shutting_down"), "{answers:?}");
        assert_eq!(phase, shadowcat::server::Phase::Draining, "{isolation:?}");
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(text(&last.last().unwrap().json()), "did 30 steps");
        assert_eq!(proxy.processes(), [] as [i32; 0]);
    }
}

/// C-POOL-2: clients that go away while a process is started for them leave one that serves the next, and no more.
#[tokio::test]
async fn who_goes_away_while_a_process_starts_leaves_it_to_the_next() {
    for isolation in ALL {
        let slow = legacy().fault(On::method("initialize").nth(1), Do::Delay { ms: 300 });
        let change = |settings: &mut Settings| {
            one(settings);
            settings.upstreams[0].reuse = if isolation == Isolation::Request { Reuse::Any } else { Reuse::Never };
        };
        let proxy = isolated(isolation, slow, change).await;
        for _ in 0..5 {
            let headers: Vec<_> = json_headers().into_iter().chain([("Authorization", "Bearer ada")]).collect();
            let body = initialize(LEGACY);
            let leaving = send("POST", &proxy.url, &headers, &body);
            tokio::select! {
                _ = leaving => {}
                () = async { until("it starts", async || books(&proxy).await, |books| books.live() > 0.0).await; } => {}
            }
        }
        let client = open_as(&proxy, Some("Bearer ada")).await;
        assert_eq!(text(&client.call("echo", json!({ "text": "x" })).await), "x", "{isolation:?}");
        assert!(proxy.metric("shadowcat_child_starts_total", &[]).await <= 6.0);
        let books = at_rest(&proxy).await;
        assert_eq!(books.live(), 1.0, "{isolation:?}: {books:?}");
        proxy.close().await;
    }
}

/// C-POOL-2: the same for modern clients, who cancel by going away, while the process they need is still asked for its era.
#[tokio::test]
async fn modern_clients_who_go_away_early_leave_nothing() {
    for isolation in [Isolation::Session, Isolation::Request] {
        let slow = modern().fault(On::method("server/discover").nth(1), Do::Delay { ms: 200 });
        let proxy = isolated(isolation, slow, one).await;
        for _ in 0..5 {
            let leaving = Modern::call("echo", json!({ "text": "x" }));
            tokio::select! {
                _ = leaving.post(&proxy.url) => {}
                () = async { until("it starts", async || books(&proxy).await, |books| books.live() > 0.0).await; } => {}
            }
        }
        let client = proxy.client(Era::Modern).await;
        assert_eq!(text(&client.call("echo", json!({ "text": "x" })).await), "x");
        let books = at_rest(&proxy).await;
        assert_eq!((books.live(), books.children), (1.0, 1.0), "{isolation:?}: {books:?}");
        proxy.close().await;
    }
}

/// C-POOL-12: a session that ends while its process ignores everything gives its place back when the process is gone, and
/// not before: a limit of one stays a limit of one.
#[tokio::test]
async fn a_place_is_free_when_its_process_is_gone() {
    let change = |settings: &mut Settings| {
        one(settings);
        settings.timeouts.stop_eof = ms(150);
        settings.timeouts.stop_term = ms(150);
    };
    let proxy = isolated(Isolation::Session, stubborn(), change).await;
    let mut pids = Vec::new();
    for _ in 0..3 {
        let client = open(&proxy).await;
        let pid = client.pid().await;
        assert_eq!(proxy.processes(), [pid]);
        assert!(!pids.iter().any(|old| !group(*old).is_empty()), "its predecessors are gone, with their relatives");
        pids.push(pid);
        end(client).await;
    }
    rests_with(&proxy, 0, 0).await;
    assert_eq!(proxy.metric("shadowcat_child_exits_total", &["killed"]).await, 3.0);
    all_gone(&pids).await;
}
