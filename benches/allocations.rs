//! How often the proxy asks for memory per request: a gate without noise, `cargo bench --profile dev --bench allocations`:
//! without optimisation, so that it is the same everywhere.
//!
//! The proxy runs in this process, on a thread of its own, and what that thread allocates is counted; one client calls, one request at a
//! time. `benches/allocations.txt` says how many there may be. More than that, by more than the tolerance, fails (exit code 7), and
//! so do fewer: then the table is out of date, and `-- --update` writes it anew.
#![allow(unsafe_code, reason = "an allocator cannot be written without")]
#![allow(unreachable_pub, missing_docs, reason = "a program, not a library")]
#![allow(clippy::panic, clippy::unwrap_used, clippy::disallowed_methods, reason = "a benchmark fails by panicking")]

#[allow(dead_code, reason = "only its processes are needed")]
mod legacy;
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shadowcat::load::{Call, Crew, Plan, Target};
use shadowcat::protocol::revision::Era;
use shadowcat::server::Running;
use shadowcat::settings::{
    EraChoice, HttpTarget, HttpTransport, Isolation, Settings, StdioTarget, Target as Upstream, UpstreamSettings,
};
use support::echo::PROGRESS;
use support::process::{Server, own_program, play_role, stdio_role};

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/allocations.txt");
/// Allocations per request that a change of the machine's mood may make: reads that come in one piece or in two.
const TOLERANCE: f64 = 1.0;
const WARM_UP: u64 = 300;
const CALLS: u64 = 2000;

// === Counting ===

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

fn count(bytes: usize) {
    if COUNTED.get() {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

// SAFETY: everything is done by the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        unsafe { System.dealloc(old, layout) }
    }
}

// === Measuring ===

struct Row {
    name: String,
    allocations: f64,
    bytes: f64,
}

fn main() -> ExitCode {
    play_role();
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let asked = arguments.first().filter(|first| !first.starts_with('-'));
    if asked.is_some_and(|name| !"allocations".contains(name.as_str())) {
        return ExitCode::SUCCESS;
    }
    let http = Server::echo();
    let mut rows = Vec::new();
    for era in [Era::Legacy, Era::Modern] {
        for (path, upstream, progress) in [
            ("stdio, shared", stdio(), 0),
            ("HTTP, JSON", over_http(&http), 0),
            ("HTTP, SSE", over_http(&http), PROGRESS),
        ] {
            for bytes in [200, 65536] {
                let name = format!("{path}, {}, {bytes} B", era.as_str());
                rows.push(measure(
                    name,
                    upstream.clone(),
                    era,
                    Call::echo("echo", "text", bytes).with_progress(progress),
                ));
            }
        }
    }
    if arguments.iter().any(|argument| argument == "--update") {
        std::fs::write(TABLE, table(&rows)).unwrap();
    }
    let committed = std::fs::read_to_string(TABLE).unwrap_or_default();
    let mut broken = false;
    for row in &rows {
        let before = committed
            .lines()
            .find(|line| line.starts_with(&format!("{} ", row.name)) || line.starts_with(&format!("{}  ", row.name)));
        let before = before.and_then(|line| line.split_whitespace().rev().nth(1)?.parse::<f64>().ok());
        let off = before.is_none_or(|before| (row.allocations - before).abs() > TOLERANCE);
        broken |= off;
        let before = before.map_or("not in the table".to_owned(), |before| format!("table: {before:.1}"));
        println!(
            "{:<32} {:>7.1} allocations {:>9.0} bytes   {before}{}",
            row.name,
            row.allocations,
            row.bytes,
            if off { "  <- off" } else { "" }
        );
    }
    if broken { ExitCode::from(7) } else { ExitCode::SUCCESS }
}

fn table(rows: &[Row]) -> String {
    let mut text =
        "# Allocations per request, and bytes: cargo bench --profile dev --bench allocations -- --update\n".to_owned();
    for row in rows {
        writeln!(text, "{:<32} {:>7.1} {:>9.0}", row.name, row.allocations, row.bytes).unwrap();
    }
    text
}

fn stdio() -> UpstreamSettings {
    let target =
        StdioTarget { program: own_program(), args: stdio_role(), env: Vec::new(), pass_env: Vec::new(), cwd: None };
    UpstreamSettings { isolation: Isolation::Shared, ..UpstreamSettings::new("bench", Upstream::Stdio(target)) }
}

fn over_http(server: &Server) -> UpstreamSettings {
    let url = server.target.to_string().parse().unwrap();
    UpstreamSettings::new(
        "bench",
        Upstream::Http(HttpTarget { url, headers: Vec::new(), transport: HttpTransport::Streamable }),
    )
}

fn measure(name: String, upstream: UpstreamSettings, era: Era, call: Call) -> Row {
    let era_choice = if era == Era::Modern { EraChoice::Modern } else { EraChoice::Legacy };
    let settings = Settings::for_upstream(UpstreamSettings { era: era_choice, ..upstream });
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let proxy = std::thread::spawn(move || {
        COUNTED.set(true);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let running = Running::start(settings).await.unwrap();
            tell.send(running.address()).unwrap();
            let _ = stopped.await;
            running.shutdown().await;
        });
    });
    let target = Target::parse(&format!("http://{}/mcp", told.recv().unwrap())).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (allocations, bytes) = runtime.block_on(async {
        let plan = Plan { target, era, clients: 1, call, patience: Duration::from_secs(10) };
        let mut crew = Crew::open(&plan).await.unwrap();
        crew.complete(WARM_UP).await;
        let before = (ALLOCATIONS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
        let tally = crew.complete(CALLS).await;
        assert_eq!(tally.answers(), CALLS, "{:?}", tally.first_failure());
        let after = (ALLOCATIONS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
        crew.close().await;
        (after.0 - before.0, after.1 - before.1)
    });
    let _ = stop.send(());
    proxy.join().unwrap();
    Row { name, allocations: allocations as f64 / CALLS as f64, bytes: bytes as f64 / CALLS as f64 }
}
