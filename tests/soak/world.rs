//! A proxy in front of servers of all kinds, and what can be measured of it.

use std::time::Duration;

use serde_json::Value;
use shadowcat::settings::{Isolation, Reuse, Settings, UpstreamSettings};
use shadowcat::testing::{Do, On, OnCancel, Script};

use crate::common::*;

/// One server, and how it is used.
pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) isolation: Isolation,
    pub(crate) era: Era,
    /// Whether clients show who they are.
    pub(crate) named: bool,
}

/// The proxy and its servers.
pub(crate) struct World {
    pub(crate) proxy: Proxy,
    pub(crate) places: Vec<Place>,
    /// How many processes there are when nobody wants anything: spares, and one for each server whose modern clients
    /// share one.
    pub(crate) spares: u32,
    pub(crate) shared: u32,
    _scripts: Vec<tempfile::NamedTempFile>,
}

/// Name, era, isolation, reuse, spares, places.
type Row = (&'static str, Era, Isolation, Reuse, usize, usize);

const ROWS: [Row; 8] = [
    ("session", Era::Legacy, Isolation::Session, Reuse::Any, 2, 8),
    ("alone", Era::Legacy, Isolation::Session, Reuse::Never, 0, 2),
    ("same", Era::Legacy, Isolation::Session, Reuse::SamePrincipal, 1, 8),
    ("shared", Era::Legacy, Isolation::Shared, Reuse::Never, 1, 4),
    ("principal", Era::Legacy, Isolation::Principal, Reuse::Never, 0, 6),
    ("request", Era::Legacy, Isolation::Request, Reuse::Any, 1, 2),
    ("modern", Era::Modern, Isolation::Session, Reuse::Never, 0, 4),
    ("each", Era::Modern, Isolation::Request, Reuse::Any, 0, 2),
];

impl World {
    pub(crate) async fn start() -> World {
        let cancels = |script: Script| script.fault(On::tool("sleep"), Do::Cancel(OnCancel::Answer));
        let scripts: Vec<_> = ROWS.iter().map(|row| script_file(&cancels(row.1.server()))).collect();
        let upstreams =
            ROWS.iter().zip(&scripts).map(|((name, _, isolation, reuse, spares, max), script)| UpstreamSettings {
                name: (*name).into(),
                isolation: *isolation,
                reuse: *reuse,
                warm_spares: *spares,
                connections_max: *max,
                ..command(PROGRAM, fake(script.path()))
            });
        let change = |settings: &mut Settings| {
            settings.upstreams = upstreams.collect();
            // Servers are killed all the time: that is not their fault.
            settings.limits.crashes = 1_000;
            // Some wait too long, and some are too many.
            settings.limits.queue = 3;
            settings.timeouts.acquire = Duration::from_millis(600);
            let timeouts = &mut settings.timeouts;
            timeouts.restart_max = Duration::from_millis(20);
            timeouts.session_idle = Duration::from_secs(3);
            timeouts.connection_idle = Duration::from_secs(1);
            timeouts.connection_max_age = Duration::from_secs(4);
            timeouts.cancel_grace = Duration::from_millis(300);
            timeouts.stop_eof = Duration::from_millis(500);
        };
        let proxy = Proxy::with(legacy(), change).await;
        let place = |(name, era, isolation, reuse, ..): &Row| Place {
            url: proxy.at(&format!("/servers/{name}/mcp")),
            isolation: *isolation,
            era: *era,
            named: *isolation == Isolation::Principal || *reuse == Reuse::SamePrincipal,
        };
        let places: Vec<Place> = ROWS.iter().map(place).collect();
        // A server that dies when it is asked for its era for the first time is taken to have a handshake.
        for modern in places.iter().filter(|place| place.era == Era::Modern) {
            Client::Modern(modern.url.clone()).stats().await;
        }
        World {
            places,
            spares: ROWS.iter().map(|row| u32::try_from(row.4).unwrap()).sum(),
            shared: 1,
            proxy,
            _scripts: scripts,
        }
    }

    /// Waits until everybody has gone and everything is as it was in the beginning.
    pub(crate) async fn at_rest(&self) -> Measured {
        for gauge in ["sessions", "exchanges_in_flight", "streams", "queue"] {
            self.proxy.until_metric(&format!("shadowcat_{gauge}"), &[], 0.0).await;
        }
        // The one that modern clients share may have been killed last.
        for place in
            self.places.iter().filter(|place| place.era == Era::Modern && place.isolation == Isolation::Session)
        {
            let client = Client::Modern(place.url.clone());
            assert_eq!(text(&client.call("echo", serde_json::json!({ "text": "x" })).await), "x");
        }
        for (state, count) in [("closing", 0), ("creating", 0), ("leased", self.shared), ("idle", self.spares)] {
            let label = format!("state=\"{state}\"");
            self.proxy.until_metric("shadowcat_pool", &[&label], count.into()).await;
        }
        self.proxy.until_metric("shadowcat_children", &[], (self.spares + self.shared).into()).await;
        // The one on which this is asked.
        self.proxy.until_metric("shadowcat_connections", &[], 1.0).await;
        assert_eq!(self.proxy.metric("shadowcat_task_panics", &[]).await, 0.0);
        Measured::now()
    }
}

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

/// Who a client says it is.
pub(crate) fn principal(number: u64) -> String {
    format!("Bearer {number}")
}

/// The text of a result, if there is one.
pub(crate) fn said(answer: &Value) -> Option<&str> {
    answer["result"]["content"][0]["text"].as_str()
}
