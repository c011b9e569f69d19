//! Connections that are made of nothing, and a maker of them that does what it is told.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::super::ledger::{Bounds, Counts, Pooled};
use super::super::restarts::Policy;
use super::super::{Config, Connect, Failure, Lease, Patience, Place, Pool, PoolError};
use super::model::{K, SPARE};
use crate::metrics::Metrics;
use crate::rt::Tasks;

/// How a creation goes. Without an order it succeeds at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Make {
    Well,
    Slowly(u64),
    /// Whether it counts, and after which time.
    Badly(bool, u64),
    Never,
    /// It is there, and not ready until it is needed.
    Silent,
    Panic,
    /// It is there, and its process is gone.
    DeadOnArrival,
    /// It is there, and broken, and its process is not gone yet.
    Broken,
}

#[derive(Default)]
struct State {
    dead: AtomicBool,
    busy: AtomicBool,
    place: Mutex<Option<Place>>,
    dropped: AtomicBool,
}

/// A connection as its world sees it.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) id: usize,
    state: Arc<State>,
}

impl Peer {
    /// Its process ends, and is noticed and reaped at once.
    pub(super) fn die(&self) {
        self.breaks();
        self.vanish();
    }

    /// Its reader finds it broken; the process still runs.
    pub(super) fn breaks(&self) {
        self.state.dead.store(true, Ordering::SeqCst);
    }

    /// The process is reaped.
    pub(super) fn vanish(&self) {
        let place = self.state.place.lock().unwrap().take();
        drop(place);
    }

    /// It has been of use.
    pub(super) fn worked(&self) {
        if let Some(place) = self.state.place.lock().unwrap().as_mut() {
            place.worked();
        }
    }

    pub(super) fn busy(&self, busy: bool) {
        self.state.busy.store(busy, Ordering::SeqCst);
    }

    /// The pool has dropped the connection.
    pub(super) fn is_dropped(&self) -> bool {
        self.state.dropped.load(Ordering::SeqCst)
    }

    /// It takes a place.
    pub(super) fn is_alive(&self) -> bool {
        self.state.place.lock().unwrap().is_some()
    }

    pub(super) fn is_dead(&self) -> bool {
        self.state.dead.load(Ordering::SeqCst)
    }
}

/// What a pool has. Dropping it ends the process, at once or, in a lingering world, when it is buried.
pub(super) struct Conn {
    pub(super) peer: Peer,
    lingers: bool,
}

impl Conn {
    pub(super) fn id(&self) -> usize {
        self.peer.id
    }
}

impl Pooled for Conn {
    fn is_usable(&self) -> bool {
        !self.peer.is_dead()
    }

    fn is_quiescent(&self) -> bool {
        !self.peer.state.busy.load(Ordering::SeqCst)
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.peer.state.dropped.store(true, Ordering::SeqCst);
        if !self.lingers {
            self.peer.vanish();
        }
    }
}

#[derive(Default)]
struct Told {
    orders: VecDeque<Make>,
    peers: Vec<Peer>,
    begun: Vec<(Instant, K)>,
}

/// Everything outside the pool.
#[derive(Clone, Default)]
pub(super) struct World {
    told: Arc<Mutex<Told>>,
    lingers: Arc<AtomicBool>,
}

impl World {
    /// How the next creations go.
    pub(super) fn order(&self, orders: impl IntoIterator<Item = Make>) {
        self.told.lock().unwrap().orders.extend(orders);
    }

    /// Whatever was ordered, creations succeed from now on.
    pub(super) fn forget(&self) {
        self.told.lock().unwrap().orders.clear();
    }

    /// Processes do not end when they are told to.
    pub(super) fn linger(&self) {
        self.lingers.store(true, Ordering::SeqCst);
    }

    /// What was dropped, ends now.
    pub(super) fn bury(&self) {
        self.peers().iter().filter(|peer| peer.is_dropped()).for_each(Peer::vanish);
    }

    pub(super) fn peers(&self) -> Vec<Peer> {
        self.told.lock().unwrap().peers.clone()
    }

    pub(super) fn peer(&self, id: usize) -> Peer {
        self.peers()[id].clone()
    }

    pub(super) fn alive(&self) -> usize {
        self.peers().iter().filter(|peer| peer.is_alive()).count()
    }

    /// When creations were begun, and for which keys.
    pub(super) fn begun(&self) -> Vec<(Instant, K)> {
        self.told.lock().unwrap().begun.clone()
    }
}

impl Connect for World {
    type Key = K;
    type Conn = Conn;
    type Error = &'static str;

    async fn connect(
        &self,
        key: &K,
        place: Place,
        needed: impl Future<Output = ()> + Send,
    ) -> Result<Conn, Failure<&'static str>> {
        let make = {
            let mut told = self.told.lock().unwrap();
            told.begun.push((Instant::now(), *key));
            told.orders.pop_front().unwrap_or(Make::Well)
        };
        match make {
            Make::Slowly(time) | Make::Badly(_, time) => sleep(Duration::from_millis(time)).await,
            Make::Never => std::future::pending().await,
            Make::Silent => needed.await,
            _ => {}
        }
        match make {
            Make::Badly(counts, _) => return Err(Failure { error: "refused", counts }),
            Make::Panic => panic!("as it was told"),
            _ => {}
        }
        let state = State { place: Mutex::new(Some(place)), ..State::default() };
        let mut told = self.told.lock().unwrap();
        let peer = Peer { id: told.peers.len(), state: Arc::new(state) };
        told.peers.push(peer.clone());
        drop(told);
        match make {
            Make::DeadOnArrival => peer.die(),
            Make::Broken => peer.breaks(),
            _ => {}
        }
        Ok(Conn { peer, lingers: self.lingers.load(Ordering::SeqCst) })
    }
}

pub(super) type Acquired = Result<Lease<World>, PoolError<&'static str>>;

/// A pool, and all there is around it.
pub(super) struct Setup {
    pub(super) pool: Pool<World>,
    pub(super) world: World,
    pub(super) tasks: Tasks,
    pub(super) metrics: Arc<Metrics>,
}

pub(super) const IDLE: Duration = Duration::from_secs(60);
pub(super) const AGE: Duration = Duration::from_secs(600);
pub(super) const GRACE: Duration = Duration::from_secs(2);
pub(super) const ONE: K = K(1);
pub(super) const OTHER: K = K(3);

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(super) fn config(max: usize) -> Config<K> {
    Config {
        bounds: Bounds { max, creating: max, queue: 16, idle: IDLE, spares: 0 },
        spare: Some(SPARE),
        max_age: AGE,
        cancel_grace: GRACE,
        restarts: Policy { failures: 5, window: Duration::from_secs(30), longest: Duration::from_secs(2) },
    }
}

/// What fails may be tried again at once.
pub(super) fn forgetful(max: usize) -> Config<K> {
    let mut config = config(max);
    config.restarts.window = Duration::ZERO;
    config
}

impl Setup {
    pub(super) fn new(max: usize) -> Setup {
        Setup::with(config(max), World::default())
    }

    pub(super) fn with(config: Config<K>, world: World) -> Setup {
        let (tasks, metrics) = (Tasks::new(), Arc::new(Metrics::new()));
        let pool = Pool::new(world.clone(), config, &tasks, metrics.server("fake").pool());
        Setup { pool, world, tasks, metrics }
    }

    pub(super) async fn acquire(&self, key: K) -> Acquired {
        // Time is paused: this is no matter of speed.
        let limit = 2 * (PATIENCE.wait + PATIENCE.create);
        tokio::time::timeout(limit, self.pool.acquire(&key, PATIENCE)).await.expect("it ends within its patience")
    }

    pub(super) async fn lease(&self, key: K) -> Lease<World> {
        self.acquire(key).await.expect("a connection")
    }

    /// One who asks in a task of its own, which has run as far as it can.
    pub(super) async fn waiter(&self, key: K) -> Waiting {
        let pool = self.pool.clone();
        let limit = 2 * (PATIENCE.wait + PATIENCE.create);
        let mut future: Waiting = Box::pin(async move {
            let asked = tokio::time::timeout(limit, pool.acquire(&key, PATIENCE));
            asked.await.expect("it ends within its patience")
        });
        assert!(peek(&mut future).await.is_none(), "it waits");
        future
    }

    pub(super) async fn close(&self) -> usize {
        self.pool.close(Instant::now() + Duration::from_secs(5)).await
    }

    pub(super) fn counts(&self) -> [usize; 4] {
        let Counts { idle, leased, creating, closing, .. } = self.pool.counts();
        [idle, leased, creating, closing]
    }

    /// The sum of a family of metrics over those whose labels contain this.
    pub(super) fn metric(&self, name: &str, label: &str) -> u64 {
        let text = self.metrics.exposition(0);
        let lines =
            text.lines().filter(|line| line.starts_with(&format!("shadowcat_{name}{{")) && line.contains(label));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
    }
}

pub(super) const PATIENCE: Patience = Patience { wait: Duration::from_secs(5), create: Duration::from_secs(10) };

pub(super) type Waiting = Pin<Box<dyn Future<Output = Acquired> + Send>>;

/// Polls a future once.
pub(super) async fn peek<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    poll_fn(|context| {
        Poll::Ready(match Pin::new(&mut *future).poll(context) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}

/// Lets every task run until it has nothing left to do; no time passes.
pub(super) async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}
