//! What the tests of this suite share: proxies with one kind of isolation, clients with names, and the books of the pool.

use shadowcat::settings::{Isolation, Reuse, Settings};
use shadowcat::testing::Script;
use shadowcat::testing::client::{self, Headers, LegacySession, Modern, Response};

use crate::common::*;
use serde_json::{Value, json};

/// A proxy that isolates its clients so, in front of a fake server.
pub(crate) async fn isolated(isolation: Isolation, script: Script, change: impl FnOnce(&mut Settings)) -> Proxy {
    let change = |settings: &mut Settings| {
        settings.upstreams[0].isolation = isolation;
        settings.upstreams[0].reuse = Reuse::usual(isolation);
        change(settings);
    };
    Proxy::with(script, change).await
}

/// Changes nothing.
pub(crate) fn plain(_: &mut Settings) {}

/// One connection at a time.
pub(crate) fn one(settings: &mut Settings) {
    settings.upstreams[0].connections_max = 1;
}

/// Waits are short where a test has to see them pass.
pub(crate) fn ms(count: u64) -> std::time::Duration {
    std::time::Duration::from_millis(count)
}

/// The capabilities of a client that can be asked things and has no folders.
pub(crate) fn rootless() -> Value {
    json!({ "elicitation": {}, "sampling": {} })
}

/// A legacy session without folders.
pub(crate) async fn open(proxy: &Proxy) -> Client {
    open_as(proxy, None).await
}

/// The same for one who shows this in `Authorization`.
pub(crate) async fn open_as(proxy: &Proxy, who: Option<&str>) -> Client {
    let headers: Vec<_> = who.map(|who| ("Authorization", who)).into_iter().collect();
    Client::Legacy(LegacySession::open_with(&proxy.url, LEGACY, rootless(), &headers).ok().await)
}

/// The session of a legacy client.
pub(crate) fn session(client: &Client) -> &LegacySession {
    match client {
        Client::Legacy(session) => session,
        Client::Modern(_) => panic!("a modern client has no session"),
    }
}

/// Ends the session of a legacy client.
pub(crate) async fn end(client: Client) {
    assert_eq!(session(&client).delete().ok().await.status, 204);
}

/// The answer to a request of a session.
pub(crate) async fn request(client: &Client, method: &str, params: Value) -> Value {
    session(client).request(method, params).ok().await.answer().ok().await
}

/// A modern call of one who shows this in `Authorization`.
pub(crate) async fn modern_call(proxy: &Proxy, who: Option<&str>, tool: &str, arguments: Value) -> Response {
    Modern::call(tool, arguments).header("Authorization", who).post(&proxy.url).ok().await
}

/// The process that answers such a call.
pub(crate) async fn modern_pid(proxy: &Proxy, who: Option<&str>) -> i32 {
    let answer = modern_call(proxy, who, "pid", json!({})).await.answer().ok().await;
    let process: Value = serde_json::from_str(text(&answer)).unwrap();
    i32::try_from(process["pid"].as_i64().unwrap()).unwrap()
}

/// Asks the user something, which occupies a connection until it is answered: the call, and the question.
pub(crate) async fn asking(client: &Client, id: &str, message: &str) -> (Response, Value) {
    let mut call = client.begin(id, None, "ask", json!({ "message": message })).await;
    let question = next(&mut call).await.unwrap().json();
    assert_eq!(question["method"], "elicitation/create", "{question}");
    (call, question)
}

/// Answers such a question, and returns what the call says then.
pub(crate) async fn answering(client: &Client, (mut call, question): (Response, Value), said: &str) -> String {
    let content = json!({ "action": "accept", "content": { "answer": said } });
    assert_eq!(session(client).respond(&question["id"], &content).ok().await.status, 202);
    text(&rest(&mut call).await.pop().unwrap().json()).to_owned()
}

/// Kills a process, and waits until the proxy has noticed.
pub(crate) async fn kill_and_wait(proxy: &Proxy, pid: i32) {
    let before = proxy.metric("shadowcat_child_exits_total", &[]).await;
    kill(pid);
    until("it is reaped", async || proxy.metric("shadowcat_child_exits_total", &[]).await, |now| *now > before).await;
    until("it is gone", async || alive(pid), |alive| !alive).await;
}

/// What a metric page says of the pool.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Books {
    pub(crate) idle: f64,
    pub(crate) leased: f64,
    pub(crate) creating: f64,
    pub(crate) closing: f64,
    pub(crate) children: f64,
    pub(crate) waiting: f64,
    pub(crate) in_flight: f64,
}

impl Books {
    /// How many connections there are.
    pub(crate) fn live(&self) -> f64 {
        self.idle + self.leased + self.creating + self.closing
    }

    /// Nothing is on its way, and there are as many processes as connections (C-POOL-1, C-POOL-12).
    fn at_rest(&self) -> bool {
        self.creating + self.closing + self.waiting + self.in_flight == 0.0 && self.children == self.live()
    }
}

/// The books as they are, read at once.
pub(crate) async fn books(proxy: &Proxy) -> Books {
    let url = format!("http://{}/metrics", proxy.running.admin_address().unwrap());
    let page = client::send("GET", &url, Headers::default(), "").ok().await.text().ok().await;
    let sum = |start: &str| -> f64 {
        let lines = page.lines().filter(|line| line.starts_with(start));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    let state = |state: &str| -> f64 {
        let label = format!("state=\"{state}\"");
        let lines = page.lines().filter(|line| line.starts_with("shadowcat_pool{") && line.contains(&label));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    Books {
        idle: state("idle"),
        leased: state("leased"),
        creating: state("creating"),
        closing: state("closing"),
        children: sum("shadowcat_children{"),
        waiting: sum("shadowcat_queue{"),
        in_flight: sum("shadowcat_exchanges_in_flight{"),
    }
}

/// Waits until nothing is on its way.
pub(crate) async fn at_rest(proxy: &Proxy) -> Books {
    until("all is at rest", async || books(proxy).await, Books::at_rest).await
}

/// Waits until nothing is on its way, with so many idle and leased.
pub(crate) async fn rests_with(proxy: &Proxy, idle: u32, leased: u32) {
    let wanted = |books: &Books| books.at_rest() && (books.idle, books.leased) == (idle.into(), leased.into());
    until(&format!("{idle} idle and {leased} leased"), async || books(proxy).await, wanted).await;
}

/// The reason that the proxy gives in an error of its own.
#[track_caller]
pub(crate) fn reason(answer: &Value) -> &str {
    assert_eq!(answer["error"]["data"]["origin"], "proxy", "{answer}");
    answer["error"]["data"]["reason"].as_str().unwrap_or_else(|| panic!("no reason: {answer}"))
}

/// Waits for the next thing that is said on a stream, by its method.
pub(crate) async fn hears(stream: &mut Response) -> String {
    let event = next(stream).await.unwrap_or_else(|| panic!("the stream has ended"));
    event.json()["method"].as_str().unwrap_or_default().to_owned()
}
