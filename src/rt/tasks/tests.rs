//! Time is paused: a deadline passes when every task has nothing left to do.

use tokio::sync::oneshot;

use super::*;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

/// Says when it is dropped.
struct Guard(Option<oneshot::Sender<()>>);

impl Guard {
    fn new() -> (Guard, oneshot::Receiver<()>) {
        let (tx, rx) = oneshot::channel();
        (Guard(Some(tx)), rx)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(tx) = self.0.take() {
            let _ = tx.send(());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn close_waits_for_tasks_that_obey() {
    let tasks = Tasks::new();
    let stop = tasks.stop().clone();
    tasks.spawn("tidy", async move {
        stop.cancelled().await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    });
    let start = Instant::now();
    assert_eq!(tasks.close(soon()).await, []);
    assert_eq!(start.elapsed(), Duration::from_secs(2));
    assert!(tasks.live().is_empty());
}

#[tokio::test(start_paused = true)]
async fn close_names_and_aborts_what_does_not_end() {
    let tasks = Tasks::new();
    let (guard, dropped) = Guard::new();
    tasks.spawn("deaf", async move {
        let _guard = guard;
        std::future::pending().await
    });
    tasks.spawn("brief", async {});
    let left = tasks.close(soon()).await;
    assert_eq!(left, [Survivor { name: "deaf", age: Duration::from_secs(5) }]);
    dropped.await.expect("aborted, so its guard was dropped");
    tokio::task::yield_now().await;
    assert!(tasks.live().is_empty());
    assert_eq!(tasks.close(soon()).await, [], "a second call finds nothing");
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_counted_and_ends_nothing_else() {
    let tasks = Tasks::new();
    let stop = tasks.stop().clone();
    tasks.spawn("bystander", async move { stop.cancelled().await });
    tasks.spawn("clumsy", async { panic!("expected by this test") });
    while tasks.live().len() > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(tasks.panics(), 1);
    assert_eq!(tasks.live(), ["bystander"]);
    assert!(!tasks.stop().is_cancelled());
    assert_eq!(tasks.close(soon()).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_spawns_while_closing_is_waited_for() {
    let tasks = Tasks::new();
    let (stop, inner) = (tasks.stop().clone(), tasks.clone());
    let (guard, mut dropped) = Guard::new();
    tasks.spawn("parent", async move {
        stop.cancelled().await;
        inner.spawn("late", async move {
            let _guard = guard;
            tokio::time::sleep(Duration::from_secs(1)).await;
        });
    });
    assert_eq!(tasks.close(soon()).await, []);
    assert_eq!(dropped.try_recv(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn after_close_a_future_is_dropped_unpolled() {
    let tasks = Tasks::new();
    assert_eq!(tasks.close(soon()).await, []);
    let (guard, dropped) = Guard::new();
    tasks.spawn("too-late", async move {
        let _guard = guard;
        panic!("polled");
    });
    dropped.await.expect("dropped");
    assert_eq!(tasks.panics(), 0);
}

#[test]
fn stopping_implies_draining_and_needs_no_runtime() {
    let tasks = Tasks::new();
    tasks.drain().cancel();
    assert!(!tasks.stop().is_cancelled());

    let tasks = Tasks::new();
    drop(tasks.stop_on_drop());
    assert!(tasks.stop().is_cancelled());
    assert!(tasks.drain().is_cancelled());
}

#[test]
fn tasks_of_a_dead_runtime_leave_the_table() {
    let tasks = Tasks::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (guard, mut dropped) = Guard::new();
    runtime.block_on(async {
        tasks.spawn("never-polled", async move {
            let _guard = guard;
        });
    });
    assert_eq!(tasks.live(), ["never-polled"]);
    drop(runtime);
    assert_eq!(dropped.try_recv(), Ok(()));
    assert!(tasks.live().is_empty());
}
