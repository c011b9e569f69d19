//! What a process can say about itself, and what it can leave behind.

use serde_json::{Value, json};

/// Ids, arguments, the names (never the values) of environment variables, and on Linux the open files.
pub(crate) fn report() -> Value {
    let mut environment: Vec<String> =
        std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
    environment.sort();
    let arguments: Vec<String> = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let mut report = json!({ "pid": std::process::id(), "argv": arguments, "env": environment });
    if let Ok(directory) = std::env::current_dir() {
        report["cwd"] = directory.to_string_lossy().into();
    }
    #[cfg(unix)]
    {
        report["ppid"] = std::os::unix::process::parent_id().into();
        report["pgid"] = rustix::process::getpgrp().as_raw_nonzero().get().into();
    }
    #[cfg(target_os = "linux")]
    {
        report["fds"] = open_files();
    }
    report
}

/// File descriptor → what it is.
#[cfg(target_os = "linux")]
fn open_files() -> Value {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return Value::Null;
    };
    let name = |entry: std::fs::DirEntry| {
        let target = std::fs::read_link(entry.path()).ok()?;
        Some((entry.file_name().to_string_lossy().into_owned(), target.to_string_lossy().into_owned().into()))
    };
    let own = Value::from(format!("/proc/{}/fd", std::process::id()));
    let listed = entries.flatten().filter_map(name).filter(|(_, target)| *target != own);
    Value::Object(listed.collect())
}

/// Starts a process that holds our stdin, stdout and stderr open for so long and that nobody waits for.
#[cfg(unix)]
#[expect(clippy::disallowed_methods, reason = "a process nobody owns is the fault being played")]
pub(crate) fn grandchild(seconds: u32) -> std::io::Result<()> {
    std::process::Command::new("sleep").arg(seconds.to_string()).spawn().map(drop)
}

/// Starts a process that holds our stdin, stdout and stderr open. Unix only.
#[cfg(not(unix))]
pub(crate) fn grandchild(_seconds: u32) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Closes stdout for good while this process goes on, under the same id: it becomes one that swallows its input until that ends.
#[cfg(unix)]
#[expect(clippy::disallowed_methods, reason = "this replaces the process, it starts none")]
pub(crate) fn close_stdout() -> std::io::Error {
    use std::os::unix::process::CommandExt as _;
    std::process::Command::new("cat").stdout(std::process::Stdio::null()).exec()
}

/// Closes stdout for good. Unix only.
#[cfg(not(unix))]
pub(crate) fn close_stdout() -> std::io::Error {
    std::io::ErrorKind::Unsupported.into()
}
