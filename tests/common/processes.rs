//! Processes from outside: who lives, who is whose child, and tests that need one of their own.

/// Whether a process is there (and not merely waiting to be reaped by a parent that is not ours).
pub(crate) fn alive(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// The processes in the process group of `pgid`, those that only wait to be reaped left out.
pub(crate) fn group(pgid: i32) -> Vec<i32> {
    processes(|fields| fields.get(2) == Some(&pgid.to_string().as_str()))
}

/// The children of a process, zombies too.
pub(crate) fn children(parent: i32) -> Vec<i32> {
    let of_parent = |fields: &[&str]| fields.get(1) == Some(&parent.to_string().as_str());
    all_processes(of_parent).into_iter().map(|(pid, _)| pid).collect()
}

fn processes(wanted: impl Fn(&[&str]) -> bool) -> Vec<i32> {
    let all = all_processes(wanted).into_iter();
    all.filter(|(_, state)| !matches!(state.as_str(), "Z" | "X")).map(|(pid, _)| pid).collect()
}

/// Process ids and states; the fields are those of `/proc/…/stat` behind the name: state, parent, group …
fn all_processes(wanted: impl Fn(&[&str]) -> bool) -> Vec<(i32, String)> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let stat = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        wanted(&fields).then(|| (pid, fields[0].to_owned()))
    };
    pids.filter_map(stat).collect()
}

/// Kills a process, which may have ended already.
pub(crate) fn kill(pid: i32) {
    let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL);
}

/// Runs `body` in a process of its own, where open files and children can be counted: this test again, alone.
pub(crate) fn alone(name: &str, body: impl FnOnce()) {
    const ALONE: &str = "SHADOWCAT_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return body();
    }
    let me = std::env::current_exe().unwrap();
    #[expect(clippy::disallowed_methods, reason = "a test of processes")]
    let output =
        std::process::Command::new(me).args(["--exact", name, "--nocapture"]).env(ALONE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "{said}");
}
