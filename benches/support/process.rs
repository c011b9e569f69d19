//! Processes that are measured: what listens where, how much time and memory they take.
//!
//! What is no program of its own is this very program, started again in another role: `PROGRAM --role ROLE ARGUMENT…`.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use shadowcat::load::Target;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::super::legacy::{Legacy, Mutant, Upstream};
use super::placing::{Apart, family};
use super::{bridge, echo};

/// What the proxies stand before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind<'a> {
    /// One process for all sessions.
    Stdio,
    StdioPerSession,
    /// The server at this address.
    Http(&'a Target),
}

/// A process that listens. It is stopped when this is dropped.
pub struct Server {
    child: Child,
    pub target: Target,
    _files: Option<TempDir>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nginx ends its workers on this; the others have none.
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let deadline = Instant::now() + Duration::from_secs(2);
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// The server itself, over HTTP.
    pub fn echo() -> Server {
        Server::role(&["echo"])
    }

    pub fn legacy(behind: Behind<'_>, mutant: Option<Mutant>) -> Server {
        let url = match behind {
            Behind::Http(target) => target.to_string(),
            Behind::Stdio => "shared".to_owned(),
            Behind::StdioPerSession => "session".to_owned(),
        };
        let mutant = mutant.map(|mutant| format!("{mutant:?}")).unwrap_or_default();
        Server::role(&["legacy", &url, &mutant])
    }

    pub fn bridge() -> Server {
        Server::role(&["bridge"])
    }

    /// The program as it is installed, with limits above what is measured; metrics, timeouts and reconnection are on, as ever.
    pub fn shadowcat(behind: Behind<'_>, modern: bool) -> Server {
        Server::build_of_shadowcat(env!("CARGO_BIN_EXE_shadowcat"), behind, modern)
    }

    /// The same, with both sides of all that passes written to tapes.
    pub fn recording(behind: Behind<'_>, modern: bool) -> Server {
        Server::start(env!("CARGO_BIN_EXE_shadowcat"), behind, modern, |command, files| {
            command.arg("--record").arg(files.join("tapes")).args(["--record-edges", "both"]);
        })
    }

    /// The same, with a process for each session, and so many that wait for the next ones.
    pub fn with_spares(spares: usize) -> Server {
        Server::start(env!("CARGO_BIN_EXE_shadowcat"), Behind::StdioPerSession, false, |command, _| {
            command.args(["--warm-spares", &spares.to_string()]);
        })
    }

    /// Another build of it.
    pub fn build_of_shadowcat(program: &str, behind: Behind<'_>, modern: bool) -> Server {
        Server::start(program, behind, modern, |_, _| {})
    }

    /// `options` adds to the command, and is told of a folder that is there as long as the process.
    fn start(program: &str, behind: Behind<'_>, modern: bool, options: impl FnOnce(&mut Command, &Path)) -> Server {
        let files = tempfile::tempdir().unwrap();
        let config = files.path().join("shadowcat.toml");
        let limits = "[limits]\nsessions = 100000\nconnections = 100000\nqueue = 10000\ntape_folder_bytes = \"4000 MiB\"\n[timeouts]\nheader_read = \"1h\"\n";
        std::fs::write(&config, limits).unwrap();
        let mut command = Command::new(program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log", "error"]);
        command.args(["--era", if modern { "modern" } else { "legacy" }, "--max-connections", "10000"]);
        command.arg("--config").arg(config);
        options(&mut command, files.path());
        match behind {
            Behind::Http(target) => command.args(["--upstream", &target.to_string()]),
            Behind::Stdio => command.args(["--isolation", "shared", "--", &own_program(), "--role", "stdio"]),
            Behind::StdioPerSession => command.args(["--", &own_program(), "--role", "stdio"]),
        };
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let target = loop {
            let mut line = String::new();
            assert!(lines.read_line(&mut line).unwrap() > 0, "shadowcat does not start");
            if let Some(url) = line.split_whitespace().find(|word| word.starts_with("http://")) {
                break Target::parse(url).unwrap();
            }
        };
        // The rest of what it has to say at the start is for people.
        let complaints = lines.lines().map_while(Result::ok).filter(|line| line.contains("ERROR"));
        std::thread::spawn(move || complaints.for_each(|line| eprintln!("{line}")));
        Server { child, target, _files: Some(files) }
    }

    /// Nginx as a plain reverse proxy; `None` where it is not installed.
    pub fn nginx(upstream: &Target) -> Option<Server> {
        let files = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let authority = upstream.to_string();
        let authority = authority.trim_start_matches("http://").split('/').next().unwrap_or_default();
        let folder = files.path().display();
        let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {folder}/{name};\n"))
            .concat();
        let config = format!(
            "daemon off; pid {folder}/pid; error_log stderr warn; worker_processes 2;\n\
             events {{ worker_connections 16384; }}\n\
             http {{ {paths} access_log off; keepalive_requests 100000000; keepalive_timeout 1h; client_body_buffer_size 256k;\n\
               upstream server {{ server {authority}; keepalive 512; keepalive_requests 100000000; }}\n\
               server {{ listen 127.0.0.1:{port} reuseport; tcp_nodelay on;\n\
                 location / {{ proxy_pass http://server; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
                   proxy_buffering off; proxy_read_timeout 1h; }} }} }}\n"
        );
        std::fs::write(files.path().join("nginx.conf"), config).unwrap();
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
        let child = Command::new("nginx")
            .env("PATH", path)
            .args(["-p".as_ref(), files.path(), "-c".as_ref(), "nginx.conf".as_ref()] as [&Path; 4])
            .stdin(Stdio::null())
            .spawn()
            .ok()?;
        let target = Target::parse(&format!("http://127.0.0.1:{port}/mcp")).unwrap();
        let server = Server { child, target, _files: Some(files) };
        let deadline = Instant::now() + Duration::from_secs(5);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "nginx does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(server)
    }

    fn role(arguments: &[&str]) -> Server {
        let mut command = Command::new(own_program());
        command.arg("--role").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
        let target = Target::parse(url.trim()).unwrap_or_else(|| panic!("{arguments:?} does not start"));
        Server { child, target, _files: None }
    }

    /// Its process, and for nginx its workers; not the servers behind it.
    fn processes(&self) -> Vec<u32> {
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.child.id()));
        let workers = children.unwrap_or_default();
        let workers = workers.split_whitespace().filter_map(|pid| pid.parse().ok());
        let is_nginx =
            |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "nginx");
        std::iter::once(self.child.id()).chain(workers.filter(is_nginx)).collect()
    }

    /// Puts it on processors of its own, as long as what is returned is there.
    pub fn apart(&self) -> Apart {
        Apart::new(self.processes())
    }

    /// The processor time it has taken so far, of all its threads (Linux: to the nanosecond).
    pub fn cpu(&self) -> Duration {
        let of_thread = |path: std::path::PathBuf| {
            let text = std::fs::read_to_string(path.join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        };
        let of = |pid| {
            let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok();
            threads.into_iter().flatten().flatten().filter_map(|thread| of_thread(thread.path())).sum::<u64>()
        };
        Duration::from_nanos(self.processes().into_iter().map(of).sum())
    }

    /// The memory that is its own alone, in bytes.
    pub fn memory(&self) -> u64 {
        let of = |pid| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
            line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or_default() * 1024
        };
        self.processes().into_iter().map(of).sum()
    }

    /// All of the memory that it has, shared or not, in bytes.
    pub fn resident(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap_or_default();
        statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or_default() * 4096
    }
}

/// Processor time that has been used, in ticks: by all, and by us and whatever we have started.
pub struct Usage {
    machine: u64,
    idle: u64,
    ours: u64,
}

impl Usage {
    pub fn now() -> Usage {
        let numbers = |text: &str| text.split_whitespace().filter_map(|word| word.parse().ok()).collect::<Vec<u64>>();
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let all = numbers(text.lines().next().unwrap_or_default());
        let of = |pid| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // After the name, which may have spaces in it; with what its dead children took.
            let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(4);
            fields.filter_map(|field| field.parse::<u64>().ok()).sum::<u64>()
        };
        let ours = family().into_iter().map(of).sum();
        let waits = all.get(3).unwrap_or(&0) + all.get(4).unwrap_or(&0);
        Usage { machine: all.iter().take(8).sum(), idle: waits, ours }
    }

    /// What part of the machine others have kept busy since then.
    pub fn noise_since(&self, before: &Usage) -> f64 {
        let all = (self.machine - before.machine) as f64;
        let others = all - (self.idle - before.idle) as f64 - self.ours.saturating_sub(before.ours) as f64;
        (others / all.max(1.0)).max(0.0)
    }
}

pub fn own_program() -> String {
    std::env::current_exe().unwrap().into_os_string().into_string().unwrap()
}

/// Plays the role that this program was started in, if it was; then it does not return.
pub fn play_role() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some("--role") {
        return;
    }
    let arguments: Vec<String> = arguments.collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["stdio"] => echo::stdio(),
        ["echo"] => on_one_thread(async |listener| echo::http(listener).await),
        ["bridge"] => on_one_thread(async |listener| bridge::serve(listener, &own_program(), &stdio_role()).await),
        ["legacy", behind, mutant] => legacy(behind, mutant),
        other => panic!("no such role: {other:?}"),
    }
    std::process::exit(0);
}

pub fn stdio_role() -> Vec<String> {
    vec!["--role".to_owned(), "stdio".to_owned()]
}

fn legacy(behind: &str, mutant: &str) {
    let all = [
        Mutant::ProcessPerRequest,
        Mutant::DoubleParse,
        Mutant::BufferedSse,
        Mutant::StatePerRequest,
        Mutant::DebugLog,
    ];
    let mutant = all.into_iter().find(|known| format!("{known:?}") == mutant);
    if mutant == Some(Mutant::DebugLog) {
        let nowhere = std::fs::OpenOptions::new().write(true).open("/dev/null").unwrap();
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(std::sync::Mutex::new(nowhere))
            .init();
    }
    let upstream = match behind {
        "shared" | "session" => {
            Upstream::Stdio { program: own_program(), args: stdio_role(), per_session: behind == "session" }
        }
        url => {
            let (authority, path) = url.trim_start_matches("http://").split_once('/').unwrap();
            Upstream::Http { authority: authority.to_owned(), path: format!("/{path}") }
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = listen().await;
        Legacy::new(upstream, mutant).serve(listener).await;
    });
}

fn on_one_thread(serve: impl AsyncFnOnce(TcpListener)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async { serve(listen().await).await });
}

/// Listens, says where, and sees to it that nothing is left when whoever started this has gone.
async fn listen() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("http://{}/mcp", listener.local_addr().unwrap());
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    listener
}
