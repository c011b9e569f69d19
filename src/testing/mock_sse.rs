//! The fake server over HTTP: Streamable HTTP of both eras, and HTTP+SSE of 2024-11-05, written to the socket by hand so that
//! it can be broken at any byte.

mod body;
mod connection;
mod events;
mod gzip;
mod message;
mod post;
mod record;
mod respond;
mod session;
mod write;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) use self::record::Record;
pub use self::record::Recorded;
use self::record::Requests;
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

/// Everything the connections of one server share.
#[derive(Debug)]
struct Site {
    server: Arc<Server>,
    sessions: Sessions,
    requests: Requests,
    /// Connections there have been.
    connections: AtomicU64,
    /// Connections and exchanges. All are aborted when the server is dropped.
    tasks: Mutex<JoinSet<()>>,
    /// Cancelled when the process would have exited.
    down: CancellationToken,
    ended: Mutex<Option<io::Result<u8>>>,
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
        MockSse::start_recording(address, script, Record::Memory).await
    }

    /// The same with requests recorded elsewhere; what [`requests`](MockSse::requests) gives is then empty.
    pub(crate) async fn start_recording(address: SocketAddr, script: Script, record: Record) -> io::Result<MockSse> {
        script.check(Some(Transport::Http)).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let site = Arc::new(Site {
            server: Server::new(script),
            sessions: Sessions::default(),
            requests: Requests::new(record),
            connections: AtomicU64::new(0),
            tasks: Mutex::default(),
            down: CancellationToken::new(),
            ended: Mutex::default(),
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

    /// The requests so far, in the order in which they were complete: the latest 100,000 of them, whose bodies have 256 MiB at most.
    #[must_use]
    pub fn requests(&self) -> Vec<Recorded> {
        self.site.requests.all()
    }

    /// Waits until a request fits, and gives it back; `None` if that takes longer than `patience`.
    pub async fn request(&self, patience: Duration, fits: impl Fn(&Recorded) -> bool) -> Option<Recorded> {
        self.site.requests.first(patience, fits).await
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

    /// Waits until the script ends the process; the exit code.
    ///
    /// # Errors
    /// When the server has ended because a request could not be recorded.
    pub(crate) async fn ended(&self) -> io::Result<u8> {
        self.site.down.cancelled().await;
        lock(&self.site.ended).take().unwrap_or(Ok(0))
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

    /// The process ends: nobody is served any more.
    fn exit(&self, code: u8) {
        self.end(Ok(code));
    }

    fn end(&self, ended: io::Result<u8>) {
        lock(&self.ended).get_or_insert(ended);
        self.down.cancel();
    }
}

/// Locks; the mutexes here guard plain data, which a panic elsewhere leaves whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
