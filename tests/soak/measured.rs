//! What can be measured of a proxy that runs in this process.

use crate::common::*;

/// What this process holds of the system.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Measured {
    pub(crate) files: usize,
    /// Zombies too.
    pub(crate) children: usize,
    pub(crate) tasks: usize,
    /// Resident memory in bytes: what the allocator keeps for later is part of it.
    pub(crate) memory: u64,
}

impl Measured {
    pub(crate) fn now() -> Measured {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = pages.split(' ').nth(1).unwrap().parse().unwrap();
        Measured {
            files: std::fs::read_dir("/proc/self/fd").unwrap().count(),
            children: children(i32::try_from(std::process::id()).unwrap()).len(),
            tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks(),
            memory: pages * 4096,
        }
    }

    /// Waits until there is no more of anything than there was; memory is judged elsewhere.
    pub(crate) async fn until_no_more_than(before: Measured) {
        let fits =
            |now: &Measured| now.files <= before.files && now.children <= before.children && now.tasks <= before.tasks;
        until(&format!("no more than there was: {before:?}"), async || Measured::now(), fits).await;
    }
}

/// How memory grew with requests: samples of bytes and requests.
#[derive(Default)]
pub(crate) struct Growth(Vec<(u64, u64)>);

impl Growth {
    /// What the allocator and the machine do by themselves.
    const NOISE: u64 = 12 << 20;
    /// Beyond that, so many bytes for each request are a leak.
    const PER_REQUEST: f64 = 512.0;

    pub(crate) fn sample(&mut self, requests: u64) {
        self.0.push((Measured::now().memory, requests));
    }

    /// Compares the middle of the second quarter with that of the last: the first is for warming up. What the medians differ
    /// by, less the noise, per request in between.
    pub(crate) fn judge(&self) -> (String, bool) {
        let quarter = self.0.len() / 4;
        let median = |samples: &[(u64, u64)]| {
            let mut bytes: Vec<u64> = samples.iter().map(|(bytes, _)| *bytes).collect();
            bytes.sort_unstable();
            (bytes[bytes.len() / 2], samples[samples.len() / 2].1)
        };
        if quarter == 0 {
            return ("too short to judge memory".into(), true);
        }
        let (early, late) = (median(&self.0[quarter..2 * quarter]), median(&self.0[3 * quarter..]));
        let grown = late.0.saturating_sub(early.0);
        let requests = (late.1 - early.1).max(1);
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let each = grown.saturating_sub(Self::NOISE) as f64 / requests as f64;
        let said = format!(
            "memory: {} MiB, then {} MiB after {requests} more requests: {each:.0} bytes each beyond noise",
            early.0 >> 20,
            late.0 >> 20
        );
        (said, each <= Self::PER_REQUEST)
    }
}
