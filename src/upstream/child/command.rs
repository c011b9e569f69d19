//! How a child is started: program, arguments, environment, and what the operating system is told about it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::process::Stdio;

use process_wrap::tokio::{ChildWrapper, CommandWrap};
use tokio::process::Command;

use crate::settings::StdioTarget;

use super::SpawnError;

/// Variables of the proxy that every child gets: what programs need to find their files and to talk to their user,
/// and nothing that is likely to be a credential. `LC_*` come on top.
#[cfg(unix)]
const INHERITED: &[&str] = &["PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "LANG", "TZ", "TMPDIR"];

/// As above. Without `SystemRoot` most programs do not even start.
#[cfg(windows)]
const INHERITED: &[&str] = &[
    "APPDATA",
    "COMSPEC",
    "HOMEDRIVE",
    "HOMEPATH",
    "LANG",
    "LOCALAPPDATA",
    "NUMBER_OF_PROCESSORS",
    "OS",
    "PATH",
    "PATHEXT",
    "PROCESSOR_ARCHITECTURE",
    "PROGRAMDATA",
    "PROGRAMFILES",
    "PROGRAMFILES(X86)",
    "PROGRAMW6432",
    "SYSTEMDRIVE",
    "SYSTEMROOT",
    "TEMP",
    "TMP",
    "TZ",
    "USERDOMAIN",
    "USERNAME",
    "USERPROFILE",
    "WINDIR",
];

/// What the kernel sends to the leader when the thread that started it is gone. That one lives as long as the proxy does.
///
/// SIGTERM and not SIGKILL, because it reaches the leader only, and the leader is often a launcher (`npx`, `uvx`,
/// `docker run`) that passes SIGTERM on to the real server. Killed outright it could not, and the server would be
/// left with nothing but the end of its input. The price: a leader that ignores both survives.
#[cfg(target_os = "linux")]
pub(super) const PARENT_DEATH_SIGNAL: rustix::process::Signal = rustix::process::Signal::TERM;

/// Starts the process, leader of a new process group (Windows: in a job), with three pipes. Returns when it runs its own
/// program: blocks for milliseconds.
pub(super) fn start(target: &StdioTarget) -> Result<Box<dyn ChildWrapper>, SpawnError> {
    let environment = environment(target, std::env::vars_os());
    let program = program(target, &environment);
    let mut command = CommandWrap::with_new(program, |_| ());
    #[cfg(unix)]
    command.wrap(process_wrap::tokio::ProcessGroup::leader()).wrap(process_wrap::tokio::ResetSigmask);
    #[cfg(windows)]
    command.wrap(process_wrap::tokio::JobObject);
    // All but the program is said only now: with tracing at debug level the wrappers print the command as it was
    // before, and arguments and environment are where people put their secrets.
    command
        .spawn_with(|command| {
            command.args(&target.args).env_clear().envs(environment);
            if let Some(cwd) = &target.cwd {
                command.current_dir(cwd);
            }
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            between_fork_and_exec(command);
            command.spawn()
        })
        .map_err(|error| explain(target, error))
}

/// What the child finds in its environment; a later entry wins over an earlier one of the same name.
fn environment(target: &StdioTarget, own: impl Iterator<Item = (OsString, OsString)>) -> Vec<(OsString, OsString)> {
    let inherited = |name: &OsStr| {
        let listed = INHERITED.iter().chain(&["LC_*"]).copied();
        listed.chain(target.pass_env.iter().map(String::as_str)).any(|pattern| names(pattern, name))
    };
    let configured = target.env.iter().map(|(name, value)| (name.into(), value.0.clone().into()));
    own.filter(|(name, _)| inherited(name)).chain(configured).collect()
}

/// Whether `pattern` stands for the variable `name`. The one wildcard is that of `LC_*`.
fn names(pattern: &str, name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    if pattern == "LC_*" {
        return name.starts_with(b"LC_");
    }
    if cfg!(windows) { name.eq_ignore_ascii_case(pattern.as_bytes()) } else { name == pattern.as_bytes() }
}

/// What to hand to the operating system as the program. Unix looks it up itself, in the child's own `PATH`.
#[cfg(unix)]
fn program(target: &StdioTarget, _environment: &[(OsString, OsString)]) -> OsString {
    OsString::from(&target.program)
}

/// As above. Windows by itself only tries `.exe`, while `npx` is `npx.cmd`. The standard library runs such files
/// through `cmd.exe` with its own quoting, and refuses arguments that cannot be quoted.
#[cfg(windows)]
fn program(target: &StdioTarget, environment: &[(OsString, OsString)]) -> OsString {
    let path = environment.iter().rev().find(|(name, _)| names("PATH", name));
    path.and_then(|(_, path)| find_with_extension(&target.program, path))
        .map_or_else(|| OsString::from(&target.program), std::path::PathBuf::into_os_string)
}

/// The first file in the folders of `path` that is `program` with one of the usual extensions; `None` when `program`
/// has an extension or a folder of its own.
#[cfg(any(windows, test))]
fn find_with_extension(program: &str, path: &OsStr) -> Option<std::path::PathBuf> {
    if program.contains(['/', '\\', ':']) || Path::new(program).extension().is_some() {
        return None;
    }
    std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .flat_map(|folder| ["exe", "cmd", "bat"].map(|extension| folder.join(format!("{program}.{extension}"))))
        .find(|candidate| candidate.is_file())
}

/// What is done in the child between fork and exec: no file but 0, 1 and 2 goes on, and the parent-death signal is
/// armed.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "there is no safe way to run code between fork and exec")]
fn between_fork_and_exec(command: &mut Command) {
    use std::os::fd::BorrowedFd;

    use rustix::io::{FdFlags, fcntl_setfd};
    use rustix::process::{getpid, getppid, set_parent_process_death_signal};

    let parent = getpid();
    let inherited: &'static [_] = &INHERITED_FILES;
    let prepare = move || {
        for &file in inherited {
            // SAFETY: the number is not -1. The program did not open this file and does not know it, so it is still
            // open; if something else closed it, the call reports that the number is unused, or repeats what is so
            // anyway for every file that Rust opens.
            let file = unsafe { BorrowedFd::borrow_raw(file) };
            let _ = fcntl_setfd(file, FdFlags::CLOEXEC);
        }
        set_parent_process_death_signal(Some(PARENT_DEATH_SIGNAL))?;
        // If the proxy died in between, the signal was missed: the child has another parent already.
        if getppid() == Some(parent) { Ok(()) } else { Err(io::Error::from(rustix::io::Errno::SRCH)) }
    };
    // SAFETY: the closure runs in the forked child, where any lock may be held for ever by a thread that does not
    // exist there. It makes system calls without libc's help (fcntl, prctl, getppid), and neither allocates nor locks:
    // an `io::Error` made from an error number is a plain value. It captures an integer and a slice that exists for
    // ever.
    unsafe {
        command.pre_exec(prepare);
    }
}

#[cfg(not(target_os = "linux"))]
fn between_fork_and_exec(_command: &mut Command) {}

/// The files beyond 0, 1 and 2 that the proxy was itself started with, by a shell or a supervisor, and that would go
/// on to every child. Whatever Rust opens is closed on exec. Looked up once, at the first start of a child.
#[cfg(target_os = "linux")]
static INHERITED_FILES: std::sync::LazyLock<Vec<std::os::fd::RawFd>> = std::sync::LazyLock::new(inherited_files);

#[cfg(target_os = "linux")]
fn inherited_files() -> Vec<std::os::fd::RawFd> {
    // Without /proc the children get what we got; there is no other safe way to ask.
    let Ok(folder) = std::fs::read_dir("/proc/self/fdinfo") else {
        return Vec::new();
    };
    let goes_on = |file: &std::os::fd::RawFd| {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{file}"));
        info.is_ok_and(|info| goes_on_to_children(&info))
    };
    folder
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|file| *file > 2 && goes_on(file))
        .collect()
}

/// Whether the close-on-exec flag is missing from the flags in a file of `/proc/self/fdinfo`, see proc_pid_fdinfo(5).
#[cfg(target_os = "linux")]
fn goes_on_to_children(info: &str) -> bool {
    const O_CLOEXEC: u32 = 0o2_000_000;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok()).is_some_and(|flags| flags & O_CLOEXEC == 0)
}

/// Makes an error that says what to do. "Not found" has four causes, and the system does not tell which.
fn explain(target: &StdioTarget, error: io::Error) -> SpawnError {
    let program = target.program.clone();
    if let Some(cwd) = target.cwd.as_ref().filter(|cwd| !cwd.is_dir()) {
        return SpawnError::CwdMissing { cwd: cwd.clone() };
    }
    match error.kind() {
        io::ErrorKind::NotFound => {
            let place = target.cwd.as_deref().unwrap_or(Path::new("")).join(&program);
            let hint = if !program.contains(std::path::is_separator) {
                "it is in no folder of PATH; give its full path, or set PATH in `env`"
            } else if place.is_file() {
                "the file is there, but not the interpreter or loader that it asks for (see its first line)"
            } else {
                "there is no such file (a relative path starts at `cwd`)"
            };
            SpawnError::NotFound { program, hint }
        }
        io::ErrorKind::PermissionDenied => SpawnError::PermissionDenied { program },
        _ => SpawnError::Other { program, source: error },
    }
}

#[cfg(test)]
mod tests;
