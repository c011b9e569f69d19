//! One who asks may go away at any moment.

use tokio::time::advance;

use super::fake::{Make, ONE, OTHER, PATIENCE, Setup, World, forgetful, ms, peek, settle};

/// What there is when somebody asks, and what happens while it waits.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Scene {
    Idle,
    Created,
    CreatedSlowly,
    CreationFails,
    CreationPanics,
    DeadOnArrival,
    /// A leased one comes back after so many polls.
    Returned(usize),
    /// And is broken.
    ReturnedBroken(usize),
    /// Its place has to be made free first.
    Evicted,
    /// Somebody else waits behind, for the same.
    Returned1WithAnother,
    ClosedAfter(usize),
}

const SCENES: &[Scene] = &[
    Scene::Idle,
    Scene::Created,
    Scene::CreatedSlowly,
    Scene::CreationFails,
    Scene::CreationPanics,
    Scene::DeadOnArrival,
    Scene::Returned(0),
    Scene::Returned(1),
    Scene::Returned(3),
    Scene::ReturnedBroken(1),
    Scene::ReturnedBroken(3),
    Scene::Evicted,
    Scene::Returned1WithAnother,
    Scene::ClosedAfter(1),
    Scene::ClosedAfter(3),
];

/// C-POOL-2: polled so often and dropped, in every scene: nothing is lost, nobody is forgotten.
#[tokio::test(start_paused = true)]
async fn dropped_after_any_number_of_polls_nothing_is_lost() {
    for scene in SCENES {
        let mut polls = 0;
        // Until it has been polled to its end.
        while !play(*scene, polls).await {
            polls += 1;
            assert!(polls < 200, "{scene:?} never ends");
        }
        assert!(polls >= 1, "{scene:?}");
    }
}

/// Returns whether the future ended before it would have been dropped.
async fn play(scene: Scene, polls: usize) -> bool {
    let setup = Setup::with(forgetful(1), World::default());
    let mut lease = None;
    let mut another = None;
    match scene {
        Scene::Idle => drop(setup.lease(ONE).await),
        Scene::Evicted => drop(setup.lease(OTHER).await),
        Scene::Created => {}
        Scene::CreatedSlowly => setup.world.order([Make::Slowly(30)]),
        Scene::CreationFails => setup.world.order([Make::Badly(true, 15)]),
        Scene::CreationPanics => setup.world.order([Make::Panic]),
        Scene::DeadOnArrival => setup.world.order([Make::DeadOnArrival]),
        Scene::Returned(_) | Scene::ReturnedBroken(_) | Scene::Returned1WithAnother | Scene::ClosedAfter(_) => {
            lease = Some(setup.lease(ONE).await);
        }
    }
    let pool = setup.pool.clone();
    let mut asks = Box::pin(async move { pool.acquire(&ONE, PATIENCE).await });
    let mut ended = false;
    for poll in 0..polls {
        if peek(&mut asks).await.is_some() {
            ended = true;
            break;
        }
        match scene {
            Scene::Returned(after) if poll == after => lease = None,
            Scene::ReturnedBroken(after) if poll == after => {
                setup.world.peers().iter().for_each(|peer| peer.breaks());
                lease = None;
            }
            Scene::Returned1WithAnother if poll == 0 => another = Some(setup.waiter(ONE).await),
            Scene::Returned1WithAnother if poll == 1 => lease = None,
            Scene::ClosedAfter(after) if poll == after => {
                let _ = peek(&mut Box::pin(setup.close())).await;
            }
            _ => {}
        }
        // Sometimes the news is there when it is dropped, sometimes not.
        if poll % 2 == 1 {
            settle().await;
            advance(ms(10)).await;
        }
    }
    drop(asks);
    drop(lease);
    let at = format!("{scene:?} after {polls} polls");
    settle().await;
    if let Some(another) = another {
        assert!(another.await.is_ok(), "{at}: the next is served");
    }
    assert_eq!(setup.pool.counts().waiting, 0, "{at}");
    if matches!(scene, Scene::ClosedAfter(after) if polls > after) {
        assert_eq!(setup.close().await, 0, "{at}");
        return ended;
    }
    // As if it had never asked: there is a place, and at once.
    advance(ms(100)).await;
    settle().await;
    setup.world.forget();
    let [_, leased, creating, closing] = setup.counts();
    assert_eq!([leased, creating, closing], [0; 3], "{at}");
    assert!(setup.acquire(OTHER).await.is_ok(), "{at}");
    assert_eq!(setup.close().await, 0, "{at}");
    assert_eq!(setup.world.alive(), 0, "{at}");
    settle().await;
    assert_eq!(setup.tasks.live(), [] as [&str; 0], "{at}");
    ended
}

/// C-POOL-2, -3: time runs out at the very moment at which something is given: it is given, or goes to the next.
#[tokio::test(start_paused = true)]
async fn time_runs_out_as_something_is_given() {
    let setup = Setup::new(1);
    let lease = setup.lease(ONE).await;
    let mut first = setup.waiter(ONE).await;
    advance(ms(1)).await;
    let second = setup.waiter(ONE).await;
    advance(PATIENCE.wait - ms(1)).await;
    drop(lease);
    let first = peek(&mut first).await.expect("it is over, in one way or another");
    assert!(first.is_ok(), "what is there is taken");
    drop(first);
    assert_eq!(second.await.unwrap().id(), 0);
}
