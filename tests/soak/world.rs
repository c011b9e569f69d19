//! A proxy in front of servers of all kinds.

use std::time::Duration;

use serde_json::Value;
use shadowcat::settings::{Isolation, Reuse, Settings, UpstreamSettings};
use shadowcat::testing::{Do, On, OnCancel, Script};

use crate::common::*;
use crate::measured::Measured;

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

/// Who a client says it is.
pub(crate) fn principal(number: u64) -> String {
    format!("Bearer {number}")
}

/// The text of a result, if there is one.
pub(crate) fn said(answer: &Value) -> Option<&str> {
    answer["result"]["content"][0]["text"].as_str()
}
