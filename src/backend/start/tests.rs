//! With real processes.

#![cfg(unix)]

use std::time::Duration;

use super::*;
use crate::metrics::Metrics;
use crate::pool::{Patience, Pool, PoolError};
use crate::settings::StdioTarget;
use crate::upstream::child;

const LONG: Duration = Duration::from_secs(20);

/// A pool of processes that run this script.
fn pool(script: &str, spares: usize, timeouts: Timeouts) -> (Tasks, Pool<Starter>) {
    let target = StdioTarget {
        program: "sh".into(),
        args: vec!["-c".into(), script.into()],
        env: vec![],
        pass_env: vec![],
        cwd: None,
    };
    let settings = UpstreamSettings { warm_spares: spares, ..UpstreamSettings::new("test", Target::Stdio(target)) };
    let (tasks, metrics) = (Tasks::new(), Arc::new(Metrics::new()).server("test"));
    let starter = Starter {
        settings: settings.clone(),
        limits: Limits::default(),
        timeouts: timeouts.clone(),
        tasks: tasks.clone(),
        metrics: metrics.clone(),
        http: None,
        tap: None,
        answers: Arc::default(),
    };
    let config = super::super::config(&settings, &Limits::default(), &timeouts);
    (tasks.clone(), Pool::new(starter, config, &tasks, metrics.pool()))
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LONG, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// C-POOL-7, C-POOL-12: a pool is not closed while a process of its is being started, which nobody can call back.
#[tokio::test]
async fn closing_waits_for_what_is_being_started() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let held = child::hold().await;
    let (tasks, pool) = pool(&format!("echo $$ > {}; cat", file.display()), 1, Timeouts::default());
    until("it is being started", || tasks.live().contains(&"child-start")).await;
    let mut closing = Box::pin(pool.close(Instant::now() + LONG));
    assert_eq!(closing.as_mut().now_or_never(), None);
    until("nobody waits for it", || !tasks.live().contains(&"pool-connect")).await;
    assert_eq!(closing.as_mut().now_or_never(), None);
    drop(held);
    assert_eq!(closing.await, 0);
    let pid = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    assert_eq!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH));
}

/// `timeouts.start` covers the start itself.
#[tokio::test]
async fn a_start_takes_no_longer_than_it_may() {
    let held = child::hold().await;
    let start = Duration::from_millis(10);
    let (_tasks, pool) = pool("cat", 0, Timeouts { start, ..Timeouts::default() });
    let failed = pool.acquire(&Key::Probe { patient: false }, Patience { wait: LONG, create: LONG }).await;
    let late = StartError::Start(UpstreamError::Timeout { sent: false });
    assert!(matches!(failed, Err(PoolError::Create(error)) if error == late));
    assert_eq!(pool.counts().live(), 1, "it may still come");
    drop(held);
    until("it has gone", || pool.counts().live() == 0).await;
}

/// Whoever took the last one goes first: another spare is started some milliseconds later.
#[tokio::test(start_paused = true)]
async fn a_spare_is_not_started_at_once() {
    let held = child::hold().await;
    let (tasks, pool) = pool("cat", 1, Timeouts::default());
    let begun = Instant::now();
    // Time goes on only when nothing else is left to do.
    while !tasks.live().contains(&"child-start") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(begun.elapsed() >= SPARE_PAUSE, "{:?}", begun.elapsed());
    drop((held, pool));
}
