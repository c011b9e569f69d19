//! With real processes, hence in real time: waits are for events, with generous deadlines.

#![cfg(unix)]

use std::ops::Range;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use futures_util::FutureExt as _;
use rustix::process::{Pid, Signal, kill_process, test_kill_process, test_kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::Instant;

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

fn sh(script: &str) -> StdioTarget {
    StdioTarget {
        program: "sh".into(),
        args: vec!["-c".into(), script.into()],
        env: vec![],
        pass_env: vec![],
        cwd: None,
    }
}

fn program(program: &str, args: &[&str]) -> StdioTarget {
    StdioTarget { program: program.into(), args: args.iter().map(|&arg| arg.into()).collect(), ..sh("") }
}

/// A ladder of 200 ms.
fn quick() -> Timeouts {
    let step = Duration::from_millis(100);
    Timeouts { stop_eof: step, stop_term: step, ..Timeouts::default() }
}

#[derive(Debug, Default)]
struct Log(Mutex<Vec<String>>);

impl Log {
    fn push(&self, entry: String) {
        self.0.lock().unwrap().push(entry);
    }

    fn entries(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl ChildEvents for Log {
    fn stop_step(&self, step: StopStep) {
        self.push(format!("{step:?}"));
    }

    fn exited(&self, exit: Exit, asked: bool) {
        self.push(format!("{exit}{}", if asked { ", asked" } else { "" }));
    }
}

/// A child with everything around it.
struct Scene {
    tasks: Tasks,
    log: Arc<Log>,
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Scene {
    async fn new(target: &StdioTarget, timeouts: &Timeouts) -> Scene {
        let (tasks, log) = (Tasks::new(), Arc::new(Log::default()));
        let started = Child::spawn("test", target, timeouts, &tasks, Arc::clone(&log) as _).await;
        let (child, stdin, stdout) = started.unwrap();
        Scene { tasks, log, child, stdin, stdout: BufReader::new(stdout) }
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        in_time("a line on stdout", self.stdout.read_line(&mut line)).await.unwrap();
        line.trim_end().to_owned()
    }

    async fn pid_line(&mut self) -> Pid {
        let line = self.line().await;
        line.parse().ok().and_then(Pid::from_raw).unwrap_or_else(|| panic!("no process id: {line:?}"))
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.pid().try_into().unwrap()).unwrap()
    }

    /// The right way to stop: input first.
    async fn stop(self) -> (Exit, Arc<Log>) {
        let pid = self.pid();
        drop(self.stdin);
        self.child.stop();
        let exit = in_time("the stop", self.child.stopped()).await;
        eventually("the group is gone", || test_kill_process_group(pid).is_err()).await;
        assert_eq!(self.tasks.close(Instant::now() + DEADLINE).await, []);
        (exit, self.log)
    }
}

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("timed out: {what}"))
}

/// Polls, for what gives no event.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether the process still runs; a zombie does not.
fn runs(pid: Pid) -> bool {
    if cfg!(target_os = "linux") {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
    } else {
        test_kill_process(pid).is_ok()
    }
}

fn signal_of(exit: Exit) -> Option<i32> {
    match exit {
        Exit::Status(status) => status.signal(),
        Exit::Unknown => None,
    }
}

/// In milliseconds. The upper bounds are below the 5 s of the default ladder, for which nothing here should wait.
fn took(range: Range<u64>, start: Instant) {
    let took = start.elapsed();
    let range = Duration::from_millis(range.start)..Duration::from_millis(range.end);
    assert!(range.contains(&took), "took {took:?}, expected {range:?}");
}

#[tokio::test]
async fn messages_go_in_and_out() {
    let mut scene = Scene::new(&program("cat", &[]), &Timeouts::default()).await;
    scene.stdin.write_all(b"hello\n").await.unwrap();
    assert_eq!(scene.line().await, "hello");
    assert_eq!(*scene.child.exited().borrow(), None);
    let (_, log) = scene.stop().await;
    assert_eq!(log.entries(), ["exit status: 0, asked"]);
}

#[tokio::test]
async fn an_exit_at_once_is_seen_at_once() {
    let start = Instant::now();
    let scene = Scene::new(&sh("echo 'cannot\tstart' >&2; exit 3"), &Timeouts::default()).await;
    let exit = in_time("exit", scene.child.stopped()).await;
    took(0..4_000, start);
    assert_eq!(exit.to_string(), "exit status: 3");
    assert_eq!(*scene.child.exited().borrow(), Some(exit), "level-triggered");
    assert_eq!(in_time("stderr", scene.child.last_words()).await, "cannot\\tstart\n");
    let (again, log) = scene.stop().await;
    assert_eq!(again, exit);
    assert_eq!(log.entries(), ["exit status: 3"]);
}

#[tokio::test]
async fn sigterm_comes_when_the_end_of_input_is_not_enough() {
    let (exit, log) = Scene::new(&program("sleep", &["1000"]), &quick()).await.stop().await;
    assert_eq!(signal_of(exit), Some(Signal::TERM.as_raw()));
    assert_eq!(log.entries(), ["Terminate", "signal: 15 (SIGTERM), asked"]);
}

#[tokio::test]
async fn a_child_that_ignores_everything_is_killed_with_its_group() {
    let mut scene = Scene::new(&sh("trap '' TERM; sleep 1000 & echo $!; while :; do sleep 1; done"), &quick()).await;
    let grandchild = scene.pid_line().await;
    let start = Instant::now();
    let (exit, log) = scene.stop().await;
    took(200..4_000, start);
    assert_eq!(signal_of(exit), Some(Signal::KILL.as_raw()));
    assert_eq!(log.entries(), ["Terminate", "Kill", "signal: 9 (SIGKILL), asked"]);
    assert!(!runs(grandchild));
}

#[tokio::test]
async fn a_grandchild_that_holds_the_pipes_neither_hides_the_exit_nor_survives() {
    let mut scene = Scene::new(&sh("sleep 1000 & echo $!; exit 0"), &Timeouts::default()).await;
    let start = Instant::now();
    let grandchild = scene.pid_line().await;
    let exit = in_time("exit", scene.child.stopped()).await;
    took(0..4_000, start);
    assert_eq!(exit.to_string(), "exit status: 0");
    eventually("the grandchild is gone", || !runs(grandchild)).await;
    let mut rest = String::new();
    in_time("end of stdout", scene.stdout.read_to_string(&mut rest)).await.unwrap();
    eventually("the tasks end", || scene.tasks.live().is_empty()).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_process_that_left_the_group_does_not_keep_the_tasks() {
    let mut scene = Scene::new(&sh("setsid sh -c 'echo $$; exec sleep 1000' & wait"), &quick()).await;
    let escaped = scene.pid_line().await;
    let start = Instant::now();
    drop(scene.stdin);
    scene.child.stop();
    in_time("the stop", scene.child.stopped()).await;
    eventually("the tasks end", || scene.tasks.live().is_empty()).await;
    took(0..4_000, start);
    assert!(runs(escaped), "out of reach, and documented to be");
    kill_process(escaped, Signal::KILL).unwrap();
}

#[tokio::test]
async fn kill_now_does_not_wait_for_the_ladder() {
    let mut scene = Scene::new(&sh("trap '' TERM; echo ready; while :; do sleep 1; done"), &Timeouts::default()).await;
    scene.line().await;
    let start = Instant::now();
    scene.child.stop();
    scene.child.stop();
    scene.child.kill_now();
    let exit = in_time("the kill", scene.child.stopped()).await;
    took(0..4_000, start);
    assert_eq!(signal_of(exit), Some(Signal::KILL.as_raw()));
    scene.child.kill_now();
    scene.child.stop();
}

#[tokio::test]
async fn the_stop_token_starts_the_ladder() {
    let scene = Scene::new(&program("sleep", &["1000"]), &quick()).await;
    assert_eq!(scene.tasks.close(Instant::now() + DEADLINE).await, []);
    assert_eq!(scene.log.entries(), ["Terminate", "signal: 15 (SIGTERM), asked"]);
    let refused = Child::spawn("test", &sh("exit"), &quick(), &scene.tasks, Arc::new(())).await;
    assert!(matches!(refused, Err(SpawnError::Stopping)));
}

#[tokio::test]
async fn dropping_the_handle_starts_the_ladder() {
    let Scene { tasks, child, stdin, .. } = Scene::new(&program("sleep", &["1000"]), &quick()).await;
    let mut exited = child.exited();
    drop((stdin, child));
    let exit = in_time("exit", exited.wait_for(Option::is_some)).await.unwrap().unwrap();
    assert_eq!(signal_of(exit), Some(Signal::TERM.as_raw()));
    eventually("the tasks end", || tasks.live().is_empty()).await;
}

/// Nobody hears of a process that was started, and it is gone all the same.
#[tokio::test]
async fn a_start_that_is_given_up_leaves_no_process() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pids");
    let script = format!("trap '' TERM; sleep 1000 & echo $$ $! > {0}.new; mv {0}.new {0}; wait", file.display());
    let (target, timeouts, tasks) = (sh(&script), Timeouts::default(), Tasks::new());
    let mut start = Box::pin(Child::spawn("test", &target, &timeouts, &tasks, Arc::new(())));
    // Asked for once, and not looked at again when it is there.
    assert!((&mut start).now_or_never().is_none());
    eventually("the process runs", || file.exists()).await;
    drop(start);

    let text = std::fs::read_to_string(&file).unwrap();
    let pids: Vec<_> = text.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap()).collect();
    let &[leader, grandchild] = &pids[..] else { panic!("{text:?}") };
    eventually("no process", || !runs(grandchild) && test_kill_process(leader).is_err()).await;
    assert_eq!(tasks.live(), [""; 0]);
}

/// On Linux a child hears of the end of the thread that started it.
#[test]
fn a_child_outlives_the_thread_that_asked_for_it() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let on_a_thread_of_its_own = || runtime.block_on(Scene::new(&sh("while read line; do echo $line; done"), &quick()));
    let mut scene = std::thread::scope(|scope| scope.spawn(on_a_thread_of_its_own).join()).unwrap();
    runtime.block_on(async {
        for _ in 0..10 {
            scene.stdin.write_all(b"there?\n").await.unwrap();
            assert_eq!(scene.line().await, "there?");
        }
        let (exit, log) = scene.stop().await;
        assert_eq!(
            (exit.to_string().as_str(), &log.entries()[..]),
            ("exit status: 0", &["exit status: 0, asked".to_owned()][..])
        );
    });
}

#[tokio::test]
async fn an_aborted_owner_kills() {
    let mut scene =
        Scene::new(&sh("trap '' TERM; sleep 1000 & echo $!; while :; do sleep 1; done"), &Timeouts::default()).await;
    let (leader, grandchild) = (scene.pid(), scene.pid_line().await);
    let left = scene.tasks.close(Instant::now()).await;
    assert!(left.iter().any(|survivor| survivor.name == "child-owner"), "{left:?}");
    let exit = in_time("the abort", scene.child.stopped()).await;
    assert_eq!(exit, Exit::Unknown);
    eventually("nobody is left", || !runs(leader) && !runs(grandchild)).await;
    assert_eq!(scene.log.entries(), ["exit status unknown, asked"]);
}

#[test]
fn dropping_the_runtime_leaves_no_process() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (scene, grandchild) = runtime.block_on(async {
        let script = "trap '' TERM; sleep 1000 & echo $!; while :; do sleep 1; done";
        let mut scene = Scene::new(&sh(script), &Timeouts::default()).await;
        let grandchild = scene.pid_line().await;
        (scene, grandchild)
    });
    let leader = scene.pid();
    let start = Instant::now();
    drop(runtime);
    took(0..4_000, start);
    // Outside any runtime: none of this may panic.
    scene.child.stop();
    scene.child.kill_now();
    assert_eq!(*scene.child.exited().borrow(), Some(Exit::Unknown));
    drop(scene);

    // Another runtime also works off what tokio could not reap, so that not even a zombie is left.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        eventually("no process", || !runs(grandchild) && test_kill_process(leader).is_err()).await;
    });
}

/// Resident memory of this process in bytes.
#[cfg(target_os = "linux")]
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_flood_on_stderr_blocks_nothing_and_is_not_kept() {
    // Lines, and one line that does not end.
    for flood in ["yes $(printf %099d 0) | head -c 100000000 >&2", "head -c 100000000 /dev/zero >&2"] {
        let before = resident();
        let scene = Scene::new(&sh(&format!("{flood}; echo end >&2")), &Timeouts::default()).await;
        let exit = in_time(flood, scene.child.stopped()).await;
        assert_eq!(exit.to_string(), "exit status: 0");
        assert!(in_time("stderr", scene.child.last_words()).await.ends_with("end\n"));
        let grown = resident().saturating_sub(before);
        assert!(grown < 32 << 20, "{flood}: grown by {grown} bytes");
    }
}

#[tokio::test]
async fn the_environment_is_scrubbed() {
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some(), "run by cargo, which sets what must not leak");
    let target = StdioTarget {
        env: vec![("TOKEN".into(), crate::settings::Secret("hush".into()))],
        pass_env: vec!["CARGO_PKG_NAME".into()],
        ..program("env", &[])
    };
    let mut scene = Scene::new(&target, &quick()).await;
    let mut text = String::new();
    in_time("stdout", scene.stdout.read_to_string(&mut text)).await.unwrap();
    let mut names: Vec<_> = text.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    assert!(text.contains("TOKEN=hush\n") && names.contains(&"CARGO_PKG_NAME") && names.contains(&"PATH"));
    names.retain(|name| !name.starts_with("LC_"));
    names.retain(|name| !["PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "LANG", "TZ", "TMPDIR"].contains(name));
    names.sort_unstable();
    assert_eq!(names, ["CARGO_PKG_NAME", "TOKEN"]);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_child_has_three_files_open_and_its_own_group() {
    let folder = tempfile::tempdir().unwrap();
    let _file = std::fs::File::create(folder.path().join("file")).unwrap();
    let _listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _other = Scene::new(&program("cat", &[]), &quick()).await;
    let target = StdioTarget { cwd: Some(folder.path().to_owned()), ..program("cat", &[]) };
    let mut scene = Scene::new(&target, &quick()).await;
    // Until it answers it may still be loading its libraries, each of which is a file that is open for a moment.
    scene.stdin.write_all(b"there?\n").await.unwrap();
    assert_eq!(scene.line().await, "there?");
    let proc = PathBuf::from(format!("/proc/{}", scene.child.pid()));

    let mut open: Vec<_> =
        std::fs::read_dir(proc.join("fd")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    open.sort();
    assert_eq!(open, ["0", "1", "2"]);
    assert_eq!(std::fs::read_link(proc.join("cwd")).unwrap(), folder.path().canonicalize().unwrap());
    assert_eq!(rustix::process::getpgid(Some(scene.pid())).unwrap(), scene.pid());
    let status = std::fs::read_to_string(proc.join("status")).unwrap();
    let sigpipe = 1 << (Signal::PIPE.as_raw() - 1);
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    assert_eq!(mask("SigIgn:") & sigpipe, 0, "SIGPIPE is ignored here, but not in a child");
    scene.stop().await;
}

/// Tests about the proxy's own process run themselves again as one, told by this variable.
#[cfg(target_os = "linux")]
mod as_process {
    use rustix::process::{WaitId, WaitIdOptions, waitid};

    use super::*;

    const HELPER: &str = "SHADOWCAT_TEST_CHILD";

    fn is_helper() -> bool {
        std::env::var_os(HELPER).is_some()
    }

    #[expect(clippy::disallowed_methods, reason = "starts the test itself, not a server")]
    fn helper(test: &str) -> tokio::process::Child {
        tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("upstream::child::tests::as_process::{test}"), "--nocapture"])
            .env(HELPER, "1")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    /// What follows `key=` in the output of a helper.
    async fn said(helper: &mut tokio::process::Child, key: &str) -> String {
        let mut lines = BufReader::new(helper.stdout.take().unwrap()).lines();
        loop {
            let line = in_time(key, lines.next_line()).await.unwrap().unwrap_or_else(|| panic!("no {key}"));
            if let Some((_, value)) = line.split_once(&format!("{key}=")) {
                return value.to_owned();
            }
        }
    }

    #[expect(clippy::print_stdout, reason = "how a helper reports")]
    fn say(key: &str, value: impl fmt::Display) {
        println!("{key}={value}");
    }

    /// `sleep` does not read its input, so that only the parent-death signal ends it.
    #[tokio::test]
    async fn a_killed_proxy_leaves_no_child() {
        if is_helper() {
            let scene = Scene::new(&program("sleep", &["1000"]), &quick()).await;
            say("child", scene.child.pid());
            return std::future::pending().await;
        }
        let mut proxy = helper("a_killed_proxy_leaves_no_child");
        let child = said(&mut proxy, "child").await.parse().ok().and_then(Pid::from_raw).unwrap();
        assert!(runs(child));
        proxy.kill().await.unwrap();
        eventually("the child is gone", || !runs(child)).await;
    }

    /// As process 1 of a container the proxy inherits orphans: it must neither wait for them nor leave zombies.
    #[tokio::test]
    async fn orphans_that_fall_to_the_proxy_are_reaped() {
        if is_helper() {
            rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
            let mut scene = Scene::new(&sh("sleep 1000 & sleep 1000 & echo ready; exit 0"), &quick()).await;
            scene.line().await;
            in_time("exit", scene.child.stopped()).await;
            eventually("the tasks end", || scene.tasks.live().is_empty()).await;
            let left = rustix::process::wait(rustix::process::WaitOptions::NOHANG);
            return say("left", left.map_or_else(|error| error.to_string(), |left| format!("{left:?}")));
        }
        let mut proxy = helper("orphans_that_fall_to_the_proxy_are_reaped");
        assert_eq!(said(&mut proxy, "left").await, rustix::io::Errno::CHILD.to_string());
    }

    /// Given up at whatever moment, before its turn or after.
    #[tokio::test]
    async fn starts_that_are_given_up_leave_no_child() {
        if is_helper() {
            let (target, timeouts, tasks) = (program("sleep", &["1000"]), quick(), Tasks::new());
            for round in 0..60 {
                let mut start = Box::pin(Child::spawn("test", &target, &timeouts, &tasks, Arc::new(())));
                for _ in 0..round * round {
                    if (&mut start).now_or_never().is_some() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
            // Starts come one after the other: when this one has come, so have all before.
            Scene::new(&program("true", &[]), &timeouts).await.stop().await;
            let (all, look) = (WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT);
            eventually("no child", || waitid(all.clone(), look).err() == Some(rustix::io::Errno::CHILD)).await;
            eventually("no task", || tasks.live().is_empty()).await;
            return say("left", "none");
        }
        let mut proxy = helper("starts_that_are_given_up_leave_no_child");
        assert_eq!(said(&mut proxy, "left").await, "none");
    }

    #[tokio::test]
    async fn starting_and_stopping_leaves_no_file_and_no_task() {
        if is_helper() {
            let files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
            // The first one sets up what stays, such as the runtime's signal handling.
            Scene::new(&program("cat", &[]), &quick()).await.stop().await;
            let before = files();
            for _ in 0..50 {
                let (exit, _) = Scene::new(&program("cat", &[]), &quick()).await.stop().await;
                assert_eq!(exit.to_string(), "exit status: 0");
            }
            return say("files", format!("{before}, then {}", files()));
        }
        let files = said(&mut helper("starting_and_stopping_leaves_no_file_and_no_task"), "files").await;
        let (before, after) = files.split_once(", then ").unwrap();
        assert_eq!(before, after);
    }

    /// What was logged.
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A process of its own, because with several tests at once tracing decides for all of them what is of interest.
    #[tokio::test]
    async fn no_log_level_shows_arguments_or_environment() {
        if is_helper() {
            use tracing_subscriber::fmt::format::FmtSpan;
            let page = Page::default();
            let writer = page.clone();
            tracing_subscriber::fmt()
                .with_max_level(tracing::Level::TRACE)
                .with_span_events(FmtSpan::FULL)
                .with_writer(move || writer.clone())
                .init();
            let target = StdioTarget {
                env: vec![("TOKEN".into(), crate::settings::Secret("hush".into()))],
                ..program("true", &["--key=hush"])
            };
            let scene = Scene::new(&target, &quick()).await;
            in_time("exit", scene.child.stopped()).await;
            let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
            assert!(text.contains("Child started"), "{text}");
            return say("shown", text.contains("hush"));
        }
        let mut helper = helper("no_log_level_shows_arguments_or_environment");
        assert_eq!(said(&mut helper, "shown").await, "false");
    }
}
