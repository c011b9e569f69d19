use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

type Does = fn() -> BoxFuture<'static, Verdict>;

/// Does what it is told to, with messages of one method.
struct Puppet {
    name: &'static str,
    does: Does,
    on_failure: OnFailure,
    asked: AtomicU64,
}

impl Puppet {
    fn new(name: &'static str, does: Does) -> Puppet {
        Puppet { name, does, on_failure: OnFailure::Open, asked: AtomicU64::new(0) }
    }
}

impl Interceptor for Puppet {
    fn name(&self) -> &'static str {
        self.name
    }

    fn wants(&self, _direction: Direction, message: &Message) -> bool {
        message.method() == Some("wanted")
    }

    fn intercept<'a>(&'a self, _direction: Direction, _message: &'a Message) -> BoxFuture<'a, Verdict> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        (self.does)()
    }

    fn on_failure(&self) -> OnFailure {
        self.on_failure
    }
}

fn message(method: &str) -> Message {
    Message::parse(format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"}}"#).into(), 8).unwrap()
}

fn says(effect: Effect, ms: u64) -> BoxFuture<'static, Verdict> {
    std::future::ready(Verdict { effect, wait: Duration::from_millis(ms), answer: None }).boxed()
}

fn did(decision: &Decision) -> Vec<(&str, &str)> {
    decision.by.iter().map(|by| (by.name.as_str(), by.did.as_str())).collect()
}

#[tokio::test]
async fn they_are_asked_in_order_until_one_does_not_let_it_pass() {
    let puppets = [
        Arc::new(Puppet::new("first", || says(Effect::Pass, 3))),
        Arc::new(Puppet::new("second", || says(Effect::Drop, 4))),
        Arc::new(Puppet::new("third", || says(Effect::Pass, 5))),
    ];
    let chain = Chain::new(puppets.iter().map(|puppet| Arc::clone(puppet) as Arc<dyn Interceptor>).collect());
    assert!(chain.on(Direction::Up, &message("other")).is_none(), "nobody is asked who does not want to be");
    let decision = chain.on(Direction::Up, &message("wanted")).unwrap().await;
    assert!(matches!(decision.effect, Effect::Drop));
    assert_eq!(decision.wait, Duration::from_millis(7));
    assert_eq!(did(&decision), [("first", "delayed"), ("second", "delayed"), ("second", "dropped")]);
    assert_eq!(puppets.map(|puppet| puppet.asked.load(Ordering::Relaxed)), [1, 1, 0]);
}

/// One that hangs or panics holds nothing up: the message passes, or is refused, as was said of that one.
#[tokio::test(start_paused = true)]
async fn one_that_fails_is_open_or_closed() {
    let failures: [(Does, &str); 2] = [
        (|| std::future::pending().boxed(), "late"),
        (|| async { panic!("a bug of an interceptor") }.boxed(), "failed"),
    ];
    for (does, word) in failures {
        for (on_failure, direction, refused) in [
            (OnFailure::Open, Direction::Up, None),
            (OnFailure::Closed, Direction::Up, Some("refused")),
            (OnFailure::Closed, Direction::Down, Some("dropped")),
        ] {
            let puppet = Puppet { on_failure, ..Puppet::new("puppet", does) };
            let chain = Chain::new(vec![Arc::new(puppet)]);
            let decision = chain.on(direction, &message("wanted")).unwrap().await;
            let expected: Vec<_> = [Some(word), refused].into_iter().flatten().map(|word| ("puppet", word)).collect();
            assert_eq!(did(&decision), expected);
        }
    }
}
