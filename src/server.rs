//! A proxy that listens: bind, run, drain, close.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use axum::body::Body;
use axum::response::Response;
use futures_util::FutureExt as _;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{HttpService, Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::DuplexStream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Duration, Instant, sleep, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::admin;
use crate::front::{self, Front};
use crate::proxy::Proxy;
use crate::rt::Tasks;
use crate::rt::gather::Gathered;
use crate::rt::stall::Unstalled;
use crate::rt::wakes::{Bell, Belled};
use crate::rt::workers::{Crew, Place};
use crate::session::EndReason;
use crate::settings::{Behind, Settings, UpstreamSettings};

/// How long the accept loop rests after an error that will not go away by itself, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long clients are given to read that their requests are cut off.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How much waits between a tape and whoever stands behind it, in bytes each way.
const PIPE_BYTES: usize = 64 << 10;

/// Most connections to the admin listener at once: it has limits of its own, so that it answers when the other one is full.
const ADMIN_CONNECTIONS: usize = 64;
/// Most header fields of a request where hyper is not told another number.
const HEADERS_OF_HYPER: usize = 100;

/// Where a proxy is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It serves.
    Running,
    /// It takes nothing new and finishes what it has.
    Draining,
    /// It ends sessions and children.
    Closing,
    /// Nothing is left.
    Done,
}

/// What a shutdown had to do by force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShutdownReport {
    /// Requests that had not ended when the time for draining was over.
    pub requests_cut: bool,
    /// Tasks that had not ended when all time was over, by name.
    pub survivors: Vec<String>,
}

impl ShutdownReport {
    /// Whether everything ended by itself.
    pub fn is_clean(&self) -> bool {
        !self.requests_cut && self.survivors.is_empty()
    }
}

/// Why a proxy does not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}; choose another address with --listen or --admin")]
pub struct StartError {
    address: SocketAddr,
    source: io::Error,
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound.await.map_err(|source| StartError { address, source })
}

/// Serves one client on standard input and output with the single upstream of `settings`, until either ends.
///
/// # Errors
/// A pipe breaks.
pub(crate) async fn connect(settings: Settings, tasks: &Tasks) -> io::Result<()> {
    let shutdown = settings.timeouts.shutdown;
    let proxy = Proxy::build(settings, tasks.clone());
    let Some(server) = proxy.server(None).cloned() else {
        return Err(io::Error::other("there is no upstream"));
    };
    let served = front::stdio::serve(&proxy, &server, tokio::io::stdin(), tokio::io::stdout()).await;
    if server.tap.is_some() {
        // How the server was taken leave of is on the tape, too.
        proxy.close(Instant::now() + shutdown).await;
        proxy.end_tapes(Instant::now() + shutdown).await;
    }
    tasks.close(Instant::now() + shutdown).await;
    served
}

/// A proxy within this process, whose clients need no socket.
pub(crate) struct Inside {
    proxy: Arc<Proxy>,
}

impl Inside {
    /// In front of this server.
    pub(crate) fn new(upstream: UpstreamSettings, tasks: &Tasks) -> Inside {
        Inside { proxy: Proxy::build(Settings::for_upstream(upstream), tasks.clone()) }
    }
}

impl std::fmt::Debug for Inside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inside")
    }
}

impl Behind for Inside {
    fn open(&self) -> DuplexStream {
        pipe(&self.proxy)
    }
}

/// A client that has a pipe of its own within this process, as one has on standard input and output.
fn pipe(proxy: &Arc<Proxy>) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
    let proxy = Arc::clone(proxy);
    proxy.tasks.clone().spawn("inside", async move {
        let Some(server) = proxy.server(None).cloned() else { return };
        let (input, output) = tokio::io::split(theirs);
        let stop = proxy.tasks.stop().clone();
        tokio::select! {
            _ = front::stdio::serve(&proxy, &server, input, output) => {}
            () = stop.cancelled() => {}
        }
    });
    ours
}

/// A running proxy. Dropping it stops everything, without waiting for anything.
#[derive(Debug)]
pub struct Running {
    inner: Arc<Inner>,
    address: SocketAddr,
    admin: Option<SocketAddr>,
    _stop: DropGuard,
}

struct Inner {
    proxy: Arc<Proxy>,
    phase: Mutex<Phase>,
    /// One permit per connection: when all are back, all connections have ended.
    connections: Arc<Semaphore>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("phase", &self.phase).finish_non_exhaustive()
    }
}

impl Running {
    /// Binds and serves. Returns when clients can connect.
    ///
    /// # Errors
    /// An address cannot be listened on.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn start(settings: Settings) -> Result<Running, StartError> {
        Running::start_on(settings, &Crew::alone()).await
    }

    /// The same, with connections of clients handed out among these workers.
    pub(crate) async fn start_on(settings: Settings, crew: &Crew) -> Result<Running, StartError> {
        let (listener, address) = bind(settings.listen).await?;
        let admin_listener = match settings.admin {
            None => None,
            Some(admin) => match bind(admin).await {
                Ok(bound) => Some(bound),
                Err(error) if settings.admin_required => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "No health and metrics: choose another address with --admin");
                    None
                }
            },
        };
        let admin = admin_listener.as_ref().map(|(_, address)| *address);
        let tasks = Tasks::new();
        let stop = tasks.stop_on_drop();
        let proxy = Proxy::build(Settings { listen: address, ..settings }, tasks.clone());
        let connections = Arc::new(Semaphore::new(proxy.settings.limits.connections));
        let front = Front::new(&proxy);
        // What a request takes is boxed by itself, so that a connection that is idle does not hold it.
        let clients = service_fn(move |request| Box::pin(front.clone().serve(request)));
        accept(&proxy, listener, clients, &connections, tasks.drain(), "listener", crew.clone());
        if let Some((listener, _)) = admin_listener {
            let connections = Arc::new(Semaphore::new(ADMIN_CONNECTIONS));
            // Whoever asks during a drain is told of it: this one listens to the end.
            let operator = TowerToHyperService::new(admin::router(&proxy));
            accept(&proxy, listener, operator, &connections, tasks.stop(), "admin-listener", Crew::alone());
        }
        let inner = Inner { proxy, phase: Mutex::new(Phase::Running), connections };
        Ok(Running { inner: Arc::new(inner), address, admin, _stop: stop })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where `/health`, `/ready`, `/status` and `/metrics` are.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        *self.inner.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client without a socket.
    pub(crate) fn pipe(&self) -> DuplexStream {
        pipe(&self.inner.proxy)
    }

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.inner.proxy.tasks
    }

    /// Stops in order: nothing new is accepted, requests under way may finish, standing streams end, sessions and
    /// children end, tasks end (C-LIFE-3). Takes at most the configured time. A second call finds nothing to do.
    pub async fn shutdown(&self) -> ShutdownReport {
        let timeouts = &self.inner.proxy.settings.timeouts;
        let started = Instant::now();
        if !self.begin_shutdown() {
            return ShutdownReport::default();
        }
        let proxy = &self.inner.proxy;
        proxy.tasks.drain().cancel();
        let all = u32::try_from(proxy.settings.limits.connections).unwrap_or(u32::MAX);
        // Whether all connections have ended by then.
        let ended_by = async |deadline| {
            let ended = timeout_at(deadline, self.inner.connections.acquire_many(all));
            tokio::select! {
                ended = ended => ended.is_ok(),
                () = proxy.tasks.stop().cancelled() => false,
            }
        };
        let requests_cut = !ended_by(started + timeouts.drain).await;
        if requests_cut {
            proxy.tasks.cut().cancel();
            ended_by((Instant::now() + LAST_WORDS).min(started + timeouts.shutdown)).await;
        }

        self.enter(Phase::Closing);
        proxy.sessions.end_all(EndReason::Shutdown);
        tokio::select! {
            () = proxy.close(started + timeouts.shutdown) => {}
            () = proxy.tasks.stop().cancelled() => {}
        }
        proxy.end_tapes(started + timeouts.shutdown).await;
        let survivors = proxy.tasks.close(started + timeouts.shutdown).await;
        self.enter(Phase::Done);
        ShutdownReport { requests_cut, survivors: survivors.into_iter().map(|task| task.name.to_owned()).collect() }
    }

    /// Whether this call is the one that shuts down: looking and deciding are one step.
    fn begin_shutdown(&self) -> bool {
        let mut phase = self.inner.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let first = *phase == Phase::Running;
        if first {
            *phase = Phase::Draining;
        }
        first
    }

    fn enter(&self, phase: Phase) {
        tracing::debug!(?phase, "Shutdown");
        *self.inner.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }
}

/// Starts the task that accepts connections for `service`.
/// `until` ends it: nothing is accepted then, and connections end with what they are at.
fn accept<S>(
    proxy: &Arc<Proxy>,
    listener: TcpListener,
    service: S,
    permits: &Arc<Semaphore>,
    until: &CancellationToken,
    name: &'static str,
    crew: Crew,
) where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let proxy = Arc::clone(proxy);
    let permits = Arc::clone(permits);
    let tasks = proxy.tasks.clone();
    let (loop_tasks, until) = (tasks.clone(), until.clone());
    tasks.spawn(name, async move {
        let tasks = loop_tasks;
        loop {
            // A connection beyond the limit waits in the kernel's queue, where it costs nothing.
            let accepted = async {
                let permit = Arc::clone(&permits).acquire_owned().await;
                (permit, listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                biased;
                () = until.cancelled() => return,
                accepted = accepted => accepted,
            };
            let (place, stream) = match accepted.and_then(|(stream, _)| placed(stream, &crew)) {
                Ok(placed) => placed,
                Err(error) => {
                    tracing::warn!(%error, "Connection not accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let counted = proxy.metrics.connection();
            let (until, stop) = (until.clone(), tasks.stop().clone());
            place.within(|place| {
                let connection = connection(&proxy, stream, service.clone());
                let held = (permit, counted, place);
                tasks.spawn("connection", attend(connection, until, stop).map(|()| drop(held)));
            });
        }
    });
}

/// A connection of a client, and the worker that it is given to.
fn placed(stream: TcpStream, crew: &Crew) -> io::Result<(Place, TcpStream)> {
    let place = crew.place();
    if place.is_here() {
        return Ok((place, stream));
    }
    let stream = stream.into_std()?;
    place.within(|place| Ok((place, TcpStream::from_std(stream)?)))
}

type Connection<S> = Belled<Pin<Box<http1::Connection<Gathered<TokioIo<Box<Unstalled<TcpStream>>>>, S>>>>;

fn connection<S>(proxy: &Proxy, stream: TcpStream, service: S) -> Connection<S>
where
    S: HttpService<Incoming, ResBody = Body>,
{
    let limits = &proxy.settings.limits;
    let timeouts = &proxy.settings.timeouts;
    let crowd = proxy.settings.has_http_servers().then(|| proxy.metrics.connections().clone());
    let io = Gathered::new(TokioIo::new(Box::new(guarded(stream, timeouts.write_stall))), crowd);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(timeouts.header_read)
        .max_buf_size(limits.header_bytes.max(8192))
        // A client that closes its side has gone: for a modern one that is how it cancels, and nothing else would tell.
        .half_close(false);
    // Where it is said, the room for all of them is made anew for each request.
    if limits.header_count != HEADERS_OF_HYPER {
        http.max_headers(limits.header_count);
    }
    Belled::new(Box::pin(http.serve_connection(io, service)))
}

/// Serves a connection until it ends. `until` asks it to end with what it is at, `stop` at once.
async fn attend<S>(mut connection: Connection<S>, until: CancellationToken, stop: CancellationToken)
where
    S: HttpService<Incoming, ResBody = Body>,
{
    let mut ended = {
        // Looked at only when there is something to see.
        let (mut until, bell) = (pin!(until.cancelled()), Bell::new());
        poll_fn(|cx| {
            // The connection first: most often there is something for it. A stop cancels `until` too.
            if let Poll::Ready(ended) = connection.poll_unpin(cx) {
                return Poll::Ready(Some(ended));
            }
            match bell.poll_if_rung(cx, |cx| until.as_mut().poll(cx)) {
                Some(Poll::Ready(())) => Poll::Ready(None),
                Some(Poll::Pending) | None => Poll::Pending,
            }
        })
        .await
    };
    if ended.is_none() {
        connection.future.as_mut().graceful_shutdown();
        ended = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            ended = &mut connection => Some(ended),
        };
    }
    if let Some(Err(error)) = ended {
        tracing::debug!(%error, "Connection ended");
    }
}

/// A connection on which a client that reads nothing is given up.
fn guarded(stream: TcpStream, write_stall: Duration) -> Unstalled<TcpStream> {
    // Small events must not wait for more of them.
    let _ = stream.set_nodelay(true);
    let keepalive = socket2::TcpKeepalive::new().with_time(Duration::from_secs(60));
    let _ = socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    // A client that has vanished without a word is noticed by what it does not acknowledge.
    let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(write_stall));
    Unstalled::new(stream, write_stall)
}
