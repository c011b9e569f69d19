//! What a server does beside answering: its questions, notifications, tasks, and its end.

use super::observed::{Answer, Asked, Asking, Observed, Questions, Step};
use super::state::first;
use super::{Finding, Name, Verdict, enumerated};

const NOT_TRIED: &str = "It was not tried.";

/// Whether it asks its client anything. A shared process is told that it cannot: whose client would it be?
pub(super) fn asks_client(seen: &Observed) -> Finding {
    let found = |verdict, sentence: String| Finding::new(Name::AsksClient, verdict, sentence);
    if seen.modern {
        return found(
            Verdict::Ok,
            "It has no requests to make with 2026-07-28: it asks in the answer to the one who called.".into(),
        );
    }
    let Some(asking) = &seen.asking else { return found(Verdict::Unknown, NOT_TRIED.into()) };
    let questions = asking.questions.and(seen.asked_in_vain);
    if questions.roots > 0 {
        return Finding::harmful(
            Name::AsksClient,
            "it works in the folders of its client",
            "It asks its client for roots: what it does depends on the client's folders, and one process knows those of one client.",
        );
    }
    if asking.view.is_empty() && !seen.asked.is_empty() {
        return found(Verdict::Unknown, "The process whose client can be asked did not work.".into());
    }
    let (kinds, more) = (kinds(questions), other_lists(seen, asking));
    let broken = broken_unless_asked(seen, asking);
    if !kinds.is_empty() && !broken.is_empty() {
        let (kinds, broken) = (enumerated(&kinds), enumerated(&broken));
        let sentence =
            format!("It asks its client for {kinds}, and {broken} fails where it cannot, as in a shared process.");
        return Finding::harmful(Name::AsksClient, "it does not work without asking its client", sentence);
    }
    let mut sentence = match kinds.is_empty() {
        true => "It asked its client for nothing while it was tried.".to_owned(),
        false => format!(
            "It asks its client for {}: a shared process is refused that, and works without.",
            enumerated(&kinds)
        ),
    };
    if !more.is_empty() {
        sentence += &format!(
            " What it offers to clients that can be asked is not there in a shared process: see {}.",
            enumerated(&more)
        );
    }
    let harmless = kinds.is_empty() && more.is_empty();
    found(if harmless { Verdict::Ok } else { Verdict::Lost }, sentence)
}

fn kinds(questions: Questions) -> Vec<&'static str> {
    let kinds = [
        (questions.sampling, "the words of its model (sampling)"),
        (questions.elicitation, "input of its user (elicitation)"),
        (questions.other, "something that clients do not know"),
    ];
    kinds.into_iter().filter(|(count, _)| *count > 0).map(|(_, kind)| kind).collect()
}

/// What works for a client that can be asked, and for no other.
fn broken_unless_asked<'a>(seen: &'a Observed, asking: &Asking) -> Vec<&'a Asked> {
    let Some(shared) = seen.shared.first() else { return Vec::new() };
    let both = seen.asked.iter().zip(asking.view.iter().zip(&shared[0]));
    both.filter(|(_, (asking, shared))| asking.is_good() && !shared.is_good()).map(|(what, _)| what).collect()
}

/// Lists in which clients that can be asked find something else.
fn other_lists<'a>(seen: &'a Observed, asking: &Asking) -> Vec<&'a Asked> {
    let all = seen.asked.iter().zip(&asking.view).enumerate();
    let other = all.filter(|(place, (asked, answer))| {
        let alone: Vec<&Answer> = first(seen, *place).collect();
        matches!(asked, Asked::Method(_)) && Answer::is_news(&alone, answer)
    });
    other.map(|(_, (asked, _))| asked).collect()
}

/// Whether subscriptions to resources can be told apart. The proxy counts who subscribed to which, and tells those.
pub(super) fn subscriptions(seen: &Observed) -> Finding {
    let found = |verdict, sentence: &str| Finding::new(Name::Subscriptions, verdict, sentence);
    if seen.modern {
        return found(Verdict::Ok, "With 2026-07-28 each subscription is a request of its own.");
    }
    if seen.offers.is_some_and(|offers| !offers.subscriptions) {
        return found(Verdict::Ok, "It offers no subscriptions to resources.");
    }
    match &seen.subscription {
        None => found(Verdict::Unknown, NOT_TRIED),
        Some(seen) if seen.unasked > 0 => found(
            Verdict::Lost,
            "It tells of changes that nobody subscribed to: those of a shared process go to nobody.",
        ),
        Some(seen) if !seen.tried => {
            found(Verdict::Unknown, "It offers subscriptions, but lists no resource to try them on.")
        }
        Some(seen) if !seen.begun => found(Verdict::Unknown, "It offers subscriptions, but refused to begin one."),
        Some(seen) if !seen.ended || seen.told_after > 0 => {
            found(Verdict::Ok, "A subscription begins but does not end; what it tells after its end goes to nobody.")
        }
        Some(seen) if seen.told > 0 => {
            found(Verdict::Ok, "It tells of changes of what was subscribed to, until that ends, and of nothing else.")
        }
        Some(_) => found(Verdict::Ok, "A subscription begins and ends; there was no change to be told of."),
    }
}

/// What becomes of log messages: they say no session.
pub(super) fn log_level(seen: &Observed) -> Finding {
    let found = |verdict, sentence: String| Finding::new(Name::LogLevel, verdict, sentence);
    if seen.modern {
        return found(Verdict::Ok, "With 2026-07-28 each request says itself what it wants to have logged.".into());
    }
    match seen.offers {
        None => return found(Verdict::Unknown, NOT_TRIED.into()),
        Some(offers) if !offers.logging => return found(Verdict::Ok, "It offers no log messages.".into()),
        Some(_) => {}
    }
    let mut sentence = "Its log messages do not say whose they are: those of a shared process go to nobody.".to_owned();
    if let Some(levels) = seen.levels.filter(|levels| levels.accepted) {
        sentence += match (levels.at_debug, levels.at_emergency) {
            (0, 0) => " It sent none while it was tried.",
            (debug, emergency) if debug == emergency => {
                " The level that one session sets changes nothing for the other."
            }
            _ => " The level that one session sets decides what is sent for the other.",
        };
    }
    found(Verdict::Lost, sentence)
}

/// Whether sessions see each other's tasks (2025-11-25).
pub(super) fn tasks(seen: &Observed) -> Finding {
    let found = |verdict, sentence: &str| Finding::new(Name::Tasks, verdict, sentence);
    if seen.modern {
        return found(Verdict::Ok, "With 2026-07-28 a task is reached by its id alone; there is no list of them.");
    }
    if seen.offers.is_some_and(|offers| !offers.tasks) {
        return found(Verdict::Ok, "It offers no tasks.");
    }
    match seen.tasks {
        None => found(Verdict::Unknown, NOT_TRIED),
        Some(tasks) if !tasks.begun => found(
            Verdict::Unknown,
            "It offers tasks, but none of the tools that were tried became one; name one that can with --call.",
        ),
        Some(tasks) if tasks.listed => Finding::harmful(
            Name::Tasks,
            "sessions find each other's tasks",
            "A session finds the tasks of all others in its list, and their results with them.",
        ),
        Some(_) => found(Verdict::Ok, "A task that one session began is not in the other's list."),
    }
}

/// Whether the process ends when it is asked to. Nothing follows from it for sharing.
pub(super) fn survives(seen: &Observed) -> Finding {
    let found = |verdict, sentence: String| Finding::new(Name::Survives, verdict, sentence);
    let Some(step) = seen.stops.iter().map(|stop| stop.step).max() else {
        return found(Verdict::Unknown, "It ended before it was asked to.".into());
    };
    let left: Option<usize> = seen.stops.iter().map(|stop| stop.survivors).sum();
    let (verdict, how) = match step {
        Step::Asked => (Verdict::Ok, "It ends when its input does"),
        Step::Terminated => (Verdict::Ok, "It does not end with its input, but when it is told to (SIGTERM)"),
        Step::Killed => (Verdict::Lost, "It has to be killed (what it has not saved by then is lost)"),
    };
    match left {
        Some(0) => found(verdict, format!("{how}, and leaves no process behind.")),
        Some(left) => {
            let processes = if left == 1 { "a process" } else { "processes" };
            found(Verdict::Lost, format!("{how}; {processes} that it started stayed behind."))
        }
        None => found(verdict, format!("{how}; whether it leaves processes behind cannot be seen on this system.")),
    }
}
