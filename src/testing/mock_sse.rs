//! The fake server over HTTP: Streamable HTTP of both eras, and HTTP+SSE of 2024-11-05, written to the socket by hand so that
//! it can be broken at any byte.

mod connection;
mod events;
mod message;
mod post;
mod respond;
mod session;
mod write;

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::session::Sessions;
use super::faults::{Fault, Transport};
pub use super::http::Headers;
use super::script::Script;
use super::server::Server;
use super::state::Topic;

/// The header of a legacy session.
const SESSION: &str = "Mcp-Session-Id";

/// A fake MCP server that listens on a port of its own.
///
/// It serves Streamable HTTP at [`url`](MockSse::url) (both eras, as the script says) and HTTP+SSE at
/// [`sse_url`](MockSse::sse_url), remembers each request, and breaks what the faults of its [`Script`] name. When it is
/// dropped it closes everything, and **panics if a fault of its script never happened**, since then the test did not test
/// what it says; [`allow_unused`](MockSse::allow_unused) waives that.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use shadowcat::testing::{Do, MockSse, On, Script, client};
///
/// let busy = Do::Status { code: 503, headers: [("Retry-After".into(), "1".into())].into(), body: String::new() };
/// let mock = MockSse::start(Script::default().fault(On::method("tools/list").nth(1), busy)).await?;
///
/// let list = client::Modern::new("tools/list");
/// assert_eq!(list.post(&mock.url()).await?.status, 503);
/// assert_eq!(list.post(&mock.url()).await?.status, 200);
/// assert_eq!(mock.requests()[0].headers.get("mcp-method"), Some("tools/list"));
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct MockSse {
    site: Arc<Site>,
    address: SocketAddr,
    unused_allowed: bool,
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// When its last byte arrived.
    pub at: Instant,
    /// Number of the connection it arrived on, from 1.
    pub connection: u64,
    /// `GET`, `POST` …
    pub method: String,
    /// The path, with the query.
    pub target: String,
    /// The headers as they were written.
    pub headers: Headers,
    /// The body. What was not UTF-8 in it is replaced.
    pub body: String,
}

impl Recorded {
    /// A member of the JSON object in the body, at a [JSON pointer](serde_json::Value::pointer); `Null` if there is none.
    #[must_use]
    pub fn json(&self, pointer: &str) -> serde_json::Value {
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        body.pointer(pointer).cloned().unwrap_or_default()
    }
}

/// Everything the connections of one server share.
#[derive(Debug)]
struct Site {
    server: Arc<Server>,
    sessions: Sessions,
    requests: Mutex<Vec<Recorded>>,
    /// Told of each request.
    news: watch::Sender<()>,
    /// Connections there have been.
    connections: AtomicU64,
    /// Connections and exchanges. All are aborted when the server is dropped.
    tasks: Mutex<JoinSet<()>>,
    /// Cancelled when the process would have exited.
    down: CancellationToken,
    exit: Mutex<Option<u8>>,
}

impl MockSse {
    /// Starts a server on a free port of the loopback interface.
    ///
    /// # Errors
    /// When there is no port, or the script holds a fault that HTTP cannot have.
    pub async fn start(script: Script) -> io::Result<MockSse> {
        MockSse::start_on(SocketAddr::from(([127, 0, 0, 1], 0)), script).await
    }

    /// Starts a server on a given address.
    ///
    /// # Errors
    /// When it cannot listen there, or the script holds a fault that HTTP cannot have.
    pub async fn start_on(address: SocketAddr, script: Script) -> io::Result<MockSse> {
        script.check(Some(Transport::Http)).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let site = Arc::new(Site {
            server: Server::new(script),
            sessions: Sessions::default(),
            requests: Mutex::default(),
            news: watch::Sender::new(()),
            connections: AtomicU64::new(0),
            tasks: Mutex::default(),
            down: CancellationToken::new(),
            exit: Mutex::default(),
        });
        let accepting = Arc::clone(&site);
        site.spawn(async move { accepting.accept(listener).await });
        Ok(MockSse { site, address, unused_allowed: false })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The Streamable HTTP endpoint.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}{}", self.address, self.site.server.script.http.path)
    }

    /// The HTTP+SSE endpoint (2024-11-05).
    #[must_use]
    pub fn sse_url(&self) -> String {
        format!("http://{}/sse", self.address)
    }

    /// The requests so far, in the order in which they were complete.
    #[must_use]
    pub fn requests(&self) -> Vec<Recorded> {
        lock(&self.site.requests).clone()
    }

    /// Waits until a request fits, and gives it back; `None` if that takes longer than `patience`.
    pub async fn request(&self, patience: Duration, fits: impl Fn(&Recorded) -> bool) -> Option<Recorded> {
        let mut news = self.site.news.subscribe();
        let deadline = Instant::now() + patience;
        loop {
            if let Some(request) = lock(&self.site.requests).iter().find(|request| fits(request)) {
                return Some(request.clone());
            }
            tokio::time::timeout_at(deadline, news.changed()).await.ok()?.ok()?;
        }
    }

    /// Connections there have been so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.site.connections.load(Ordering::Relaxed)
    }

    /// Adds a fault to the script; what it counts, it counts from now.
    ///
    /// # Errors
    /// When HTTP cannot have it.
    pub fn add_fault(&self, fault: Fault) -> io::Result<()> {
        let script = Script { faults: vec![fault.clone()], ..Script::default() };
        script.check(Some(Transport::Http)).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        self.site.server.plan.add(fault);
        Ok(())
    }

    /// Forgets all legacy sessions, as a restart would: requests in them are answered with 404, their streams end.
    pub fn forget_sessions(&self) {
        self.site.sessions.forget_all();
    }

    /// What the `stats` tool would say.
    #[must_use]
    pub fn stats(&self) -> serde_json::Value {
        serde_json::to_value(self.site.server.state().stats()).unwrap_or_default()
    }

    /// Tells clients that a list has changed (`tools`, `prompts` or `resources`); to how many it was said.
    pub fn change(&self, kind: &str) -> usize {
        self.site.server.state().publish(Topic::List(kind))
    }

    /// Tells the subscribers of a resource that it has changed; to how many it was said.
    pub fn touch(&self, uri: &str) -> usize {
        self.site.server.state().publish(Topic::Resource(uri))
    }

    /// The faults of the script that have not happened yet.
    #[must_use]
    pub fn unused(&self) -> Vec<Fault> {
        self.site.server.plan.unused()
    }

    /// Lets faults be unused.
    pub fn allow_unused(&mut self) {
        self.unused_allowed = true;
    }
}

impl Drop for MockSse {
    fn drop(&mut self) {
        self.site.down.cancel();
        lock(&self.site.tasks).abort_all();
        let unused = self.unused();
        assert!(
            self.unused_allowed || unused.is_empty() || std::thread::panicking(),
            "faults of the script never happened: {unused:#?}"
        );
    }
}

/// Serves HTTP clients on an address until the process is interrupted or the script ends it: `shadowcat fake sse`.
///
/// Prints the URLs to stderr. The code is the one the process should exit with.
pub async fn run_sse(address: SocketAddr, script: Script) -> ExitCode {
    let mut mock = match MockSse::start_on(address, script).await {
        Ok(mock) => mock,
        Err(error) => {
            eprintln!("shadowcat fake sse: {address}: {error}");
            return ExitCode::from(if error.kind() == io::ErrorKind::InvalidInput { 3 } else { 4 });
        }
    };
    mock.allow_unused();
    eprintln!("listening: {} (Streamable HTTP), {} (HTTP+SSE)", mock.url(), mock.sse_url());
    tokio::select! {
        () = mock.site.down.cancelled() => ExitCode::from(lock(&mock.site.exit).unwrap_or(0)),
        _ = tokio::signal::ctrl_c() => ExitCode::from(130),
    }
}

impl Site {
    /// Runs a task for as long as the server lives.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                () = self.down.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            // Out of descriptors, or the client has gone again: there is nobody to tell.
            let Ok((socket, _)) = accepted else { continue };
            let number = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
            let site = Arc::clone(&self);
            self.spawn(async move {
                let down = site.down.clone();
                tokio::select! {
                    () = down.cancelled() => {}
                    () = connection::serve(site, socket, number) => {}
                }
            });
        }
    }

    fn record(&self, request: Recorded) {
        lock(&self.requests).push(request);
        self.news.send_replace(());
    }

    /// The process ends: nobody is served any more.
    fn exit(&self, code: u8) {
        lock(&self.exit).get_or_insert(code);
        self.down.cancel();
    }
}

/// Locks; the mutexes here guard plain data, which a panic elsewhere leaves whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
