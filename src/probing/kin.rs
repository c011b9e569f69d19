//! A process and those that it started: how much memory they take, and which of them outlive it. Known on Linux only, where the
//! kernel tells it in `/proc`.

/// What a process and those that it started take together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    /// How many processes they are.
    pub(crate) processes: usize,
    /// Resident memory, in bytes. What they share is counted once for each.
    pub(crate) rss: u64,
    /// The same with what is shared divided among those that share it; `None` where the kernel does not tell.
    pub(crate) pss: Option<u64>,
}

#[cfg(target_os = "linux")]
pub(super) use proc::{family, memory, survivors};
#[cfg(not(target_os = "linux"))]
pub(super) use unknown::{family, memory, survivors};

/// Where nothing can be seen.
#[cfg(not(target_os = "linux"))]
mod unknown {
    use super::Memory;

    /// A process with all that it started.
    pub(in super::super) struct Family;

    /// A process with all that it started.
    pub(in super::super) fn family(_pid: u32) -> Family {
        Family
    }

    /// What a process takes.
    pub(in super::super) fn memory(_pid: u32) -> Option<Memory> {
        None
    }

    /// How many of a family are left.
    pub(in super::super) async fn survivors(_family: Family) -> Option<usize> {
        None
    }
}

#[cfg(target_os = "linux")]
mod proc {
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::Memory;
    use super::stat::{Member, Stat, family_of, kilobytes, parse_stat};

    /// How long those that were killed together with their process may take to be gone.
    const GONE_WITHIN: Duration = Duration::from_secs(2);
    const PAUSE: Duration = Duration::from_millis(10);

    /// A process with all that it started, itself first.
    pub(in super::super) type Family = Vec<Member>;

    fn processes() -> Vec<Stat> {
        let Ok(folder) = std::fs::read_dir("/proc") else { return Vec::new() };
        let pids = folder.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        pids.filter_map(|pid| parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)).collect()
    }

    /// A process with all that it started.
    pub(in super::super) fn family(pid: u32) -> Family {
        family_of(pid, &processes())
    }

    /// What a process takes; `None` when it has ended.
    pub(in super::super) fn memory(pid: u32) -> Option<Memory> {
        let family = family(pid);
        let read = |member: &Member, file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", member.pid)).ok();
        let rss = |member| kilobytes(&read(member, "status")?, "VmRSS");
        let pss = |member| kilobytes(&read(member, "smaps_rollup")?, "Pss");
        // One that ended in between takes nothing.
        let sizes: Vec<u64> = family.iter().filter_map(rss).collect();
        let shares: Vec<u64> = family.iter().filter_map(pss).collect();
        (!sizes.is_empty()).then(|| Memory {
            processes: sizes.len(),
            rss: sizes.iter().sum(),
            pss: (shares.len() == sizes.len()).then(|| shares.iter().sum()),
        })
    }

    /// How many of a family are left; those that are being killed are waited for, for up to 2 s.
    pub(in super::super) async fn survivors(family: Family) -> Option<usize> {
        let deadline = Instant::now() + GONE_WITHIN;
        loop {
            let alive = processes().iter().filter(|stat| !stat.dead && family.contains(&stat.member)).count();
            if alive == 0 || Instant::now() >= deadline {
                return Some(alive);
            }
            sleep(PAUSE).await;
        }
    }
}

/// What the files in `/proc` say.
#[cfg(any(target_os = "linux", test))]
mod stat {
    /// One process, told apart from a later one of the same number.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(in super::super) struct Member {
        pub(super) pid: u32,
        /// When it was started, in the kernel's ticks.
        pub(super) start: u64,
    }

    /// What `/proc/PID/stat` says of a process, see proc_pid_stat(5).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Stat {
        pub(super) member: Member,
        pub(super) parent: u32,
        pub(super) group: u32,
        /// Whether it has ended and only waits to be reaped.
        pub(super) dead: bool,
    }

    /// Reads `/proc/PID/stat`: the name in it may hold anything, brackets and spaces too.
    pub(super) fn parse_stat(text: &str) -> Option<Stat> {
        let (pid, rest) = text.split_once(" (")?;
        let (_, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |n: usize| fields.get(n)?.parse::<u64>().ok();
        let id = |n: usize| u32::try_from(number(n)?).ok();
        Some(Stat {
            member: Member { pid: pid.parse().ok()?, start: number(19)? },
            parent: id(1)?,
            group: id(2)?,
            dead: matches!(fields.first(), Some(&("Z" | "X"))),
        })
    }

    /// A process with all that descend from it or are in its group, itself first. Those whose parent has ended and that have left
    /// the group are strangers.
    pub(super) fn family_of(pid: u32, all: &[Stat]) -> Vec<Member> {
        let Some(head) = all.iter().find(|stat| stat.member.pid == pid && !stat.dead) else { return Vec::new() };
        let mut family = vec![head.member];
        loop {
            let joins = |stat: &&Stat| {
                let related = stat.group == pid || family.iter().any(|member| member.pid == stat.parent);
                related && !stat.dead && !family.contains(&stat.member)
            };
            let more: Vec<Member> = all.iter().filter(joins).map(|stat| stat.member).collect();
            if more.is_empty() {
                return family;
            }
            family.extend(more);
        }
    }

    /// The number of kilobytes in the line `NAME: 12 kB`, in bytes.
    pub(super) fn kilobytes(text: &str, name: &str) -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    }
}

#[cfg(test)]
mod tests {
    use super::stat::{Member, Stat, family_of, kilobytes, parse_stat};
    #[cfg(target_os = "linux")]
    use super::{family, memory, survivors};

    fn stat(pid: u32, parent: u32, group: u32) -> Stat {
        Stat { member: Member { pid, start: 1 }, parent, group, dead: false }
    }

    #[test]
    fn a_name_cannot_confuse() {
        let text = "12 (a) R (b)) S 3 4 4 0 -1 1 2 3 4 5 6 7 8 9 20 0 1 0 777 8 9";
        let read = parse_stat(text).unwrap();
        assert_eq!(read, Stat { member: Member { pid: 12, start: 777 }, parent: 3, group: 4, dead: false });
        assert!(parse_stat(&text.replace(") S", ") Z")).unwrap().dead);
        for broken in ["", "12", "12 (a", "12 (a) S", "12 (a) S 3 4"] {
            assert_eq!(parse_stat(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_family_is_who_descends_or_is_in_the_group() {
        let dead = Stat { dead: true, ..stat(9, 2, 2) };
        let all = [stat(4, 3, 4), stat(1, 0, 1), stat(2, 1, 2), stat(3, 2, 2), stat(5, 1, 5), stat(6, 1, 2), dead];
        let pids: Vec<u32> = family_of(2, &all).iter().map(|member| member.pid).collect();
        assert_eq!(pids, [2, 3, 6, 4]);
        assert_eq!(family_of(7, &all), []);
        assert_eq!(family_of(9, &all), [], "it is dead");
    }

    #[test]
    fn sizes_are_read() {
        let text = "Name:\tx\nVmRSS:\t   1234 kB\nPss:   7 kB\nPss_Dirty:  5 kB\n";
        assert_eq!(kilobytes(text, "VmRSS"), Some(1234 * 1024));
        assert_eq!(kilobytes(text, "Pss"), Some(7 * 1024));
        assert_eq!(kilobytes(text, "Rss"), None);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn this_process_takes_some_memory_and_is_not_gone() {
        let own = std::process::id();
        assert!(memory(own).unwrap().rss > 1 << 16);
        assert_eq!(family(own)[0].pid, own);
        assert_eq!(survivors(Vec::new()).await, Some(0));
        assert_eq!(memory(u32::MAX), None);
    }
}
