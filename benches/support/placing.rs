//! Who runs on which processors while latency is measured: the proxy on one half of them, its clients and servers on the other.
//!
//! Where they share them all, the system decides anew every tenth of a second or so whether two of them that wake each other get one
//! processor or two, and latencies differ by more than half between one and the next, whoever is measured.

use std::collections::HashSet;

/// As long as it is there, the proxy has its processors and everybody else has others. With one processor all share it.
pub struct Apart {
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "processors are not handed out there"))]
    proxy: HashSet<u32>,
}

impl Apart {
    /// Puts these processes apart from all others of ours. Processes and threads that they start later stay with them.
    pub fn new(proxy: impl IntoIterator<Item = u32>) -> Apart {
        let apart = Apart { proxy: proxy.into_iter().collect() };
        #[cfg(target_os = "linux")]
        linux::place(|pid| if apart.proxy.contains(&pid) { linux::Place::Front } else { linux::Place::Back });
        apart
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        #[cfg(target_os = "linux")]
        linux::place(|_| linux::Place::Anywhere);
    }
}

/// This process and all that it and they have started.
pub fn family() -> Vec<u32> {
    let mut all = vec![std::process::id()];
    let mut next = 0;
    while let Some(pid) = all.get(next) {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let children: Vec<u32> = threads
            .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok())
            .flat_map(|children| children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
            .collect();
        all.extend(children);
        next += 1;
    }
    all
}

#[cfg(target_os = "linux")]
mod linux {
    use std::sync::LazyLock;

    use rustix::process::Pid;
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    /// Those that we were given.
    static ALL: LazyLock<Vec<usize>> = LazyLock::new(|| {
        let given = sched_getaffinity(None).unwrap();
        (0..CpuSet::MAX_CPU).filter(|cpu| given.is_set(*cpu)).collect()
    });

    #[derive(Debug, Clone, Copy)]
    pub(super) enum Place {
        /// The second half of the processors.
        Front,
        /// The first.
        Back,
        Anywhere,
    }

    pub(super) fn place(place: impl Fn(u32) -> Place) {
        if ALL.len() < 2 {
            return;
        }
        let (back, front) = ALL.split_at(ALL.len() / 2);
        for pid in super::family() {
            let mut set = CpuSet::new();
            let chosen = match place(pid) {
                Place::Front => front,
                Place::Back => back,
                Place::Anywhere => &ALL,
            };
            chosen.iter().for_each(|cpu| set.set(*cpu));
            let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            for thread in threads.filter_map(|thread| thread.file_name().to_str()?.parse().ok()) {
                // One that has just ended need not be placed.
                let _ = sched_setaffinity(Pid::from_raw(thread), &set);
            }
        }
    }
}
