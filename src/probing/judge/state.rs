//! What only sharing does to answers: `ids` and `state`.

use super::observed::{Answer, Asked, Observed};
use super::{Finding, Name, Verdict, enumerated, tools, tried};

/// How to have more tried.
const HOW: &str = "A tool that does not say it is read-only, or that needs arguments, is called only if it is named: \
                   --call NAME or --call 'NAME={…}'.";

/// Whether every answer comes under its own id, once, and is the one that the request would have had alone.
pub(super) fn ids(seen: &Observed) -> Finding {
    let harmful = |sentence: String| Finding::harmful(Name::Ids, "its answers get mixed up", sentence);
    let times = |count: u64| if count == 1 { "once".to_owned() } else { format!("{count} times") };
    if seen.unknown_answers > 0 {
        return harmful(format!("It answered under an id that nobody had used, {}.", times(seen.unknown_answers)));
    }
    if seen.repeated_answers > 0 {
        return harmful(format!("It answered what it had answered before, {}.", times(seen.repeated_answers)));
    }
    let Some(overlap) = seen.overlap.as_ref().filter(|overlap| overlap.answers.len() > 1) else {
        return Finding::new(Name::Ids, Verdict::Unknown, "No two requests could be made at the same time.");
    };
    let leaks = leaks(seen);
    let mut wrong: Vec<&Asked> = Vec::new();
    for (place, answer) in &overlap.answers {
        // From before and after, so that what changes with time is not taken for something else.
        let after = overlap.after.iter().filter(|(other, _)| other == place).map(|(_, answer)| answer);
        let alone: Vec<&Answer> = answers(seen, *place).chain(after).collect();
        let Some(asked) = seen.asked.get(*place) else { continue };
        // Where sessions see each other's doings anyway, overlapping is not what changes an answer.
        if !leaks.contains(place) && Answer::is_news(&alone, answer) && !wrong.contains(&asked) {
            wrong.push(asked);
        }
    }
    if !wrong.is_empty() {
        return harmful(format!(
            "When requests of two sessions are under way at the same time, it answers {} differently than one after the other.",
            enumerated(&wrong)
        ));
    }
    let count = overlap.answers.len();
    let sentence = format!(
        "{count} requests of two sessions, under way at the same time, were answered each under its own id, once."
    );
    Finding::new(Name::Ids, Verdict::Ok, sentence)
}

/// Whether what a session sees depends on what another one did.
pub(super) fn state(seen: &Observed) -> Finding {
    if let Some(ended) = &seen.ended {
        let sentence = format!(
            "It came to an end while it worked on {} ({}): a shared process would take the sessions of all with it.",
            ended.during, ended.why
        );
        return Finding::harmful(Name::State, "one request can end it for everybody", sentence);
    }
    let leaks: Vec<&Asked> = leaks(seen).into_iter().filter_map(|place| seen.asked.get(place)).collect();
    if !leaks.is_empty() {
        let sentence = format!(
            "After another session was active, a session gets other answers to {} than in a process of its own.",
            enumerated(&leaks)
        );
        return Finding::harmful(Name::State, "sessions notice what others did before them", sentence);
    }
    if seen.shared.is_empty() {
        return Finding::new(Name::State, Verdict::Unknown, "It was not tried.");
    }
    unharmed(seen)
}

/// The finding where nothing leaks: how much has been tried decides what that is worth.
fn unharmed(seen: &Observed) -> Finding {
    let tried = tried(seen);
    let (called, offered) = (tried.tools.len(), tried.offered);
    let (verdict, mut sentence) = match (called, offered) {
        (_, None) => (
            Verdict::Unknown,
            "Its lists do not depend on what other sessions did, but it did not list its tools.".to_owned(),
        ),
        (_, Some(0)) => {
            (Verdict::Ok, "Its lists do not depend on what other sessions did; it has no tools.".to_owned())
        }
        (0, Some(offered)) => (
            Verdict::Unknown,
            format!(
                "Its lists do not depend on what other sessions did, but no tool was tried with success: 0 of {offered}."
            ),
        ),
        (called, Some(offered)) => (
            Verdict::Ok,
            format!(
                "Its lists and answers do not depend on what other sessions did; tools tried: {called} of {offered}."
            ),
        ),
    };
    let varying = varying(seen);
    if !varying.is_empty() {
        sentence += &format!(" Compared only in what does not vary by itself: {}.", enumerated(&varying));
    }
    if !tried.failed.is_empty() {
        sentence += &format!(" Answered with errors only: {}.", tools(&tried.failed));
    }
    if !tried.left_out.is_empty() {
        sentence += &format!(" Left out, since it took too long: {}.", tools(&tried.left_out));
    }
    let known = called + tried.failed.len() + tried.left_out.len();
    if offered.is_some_and(|offered| known < offered) {
        sentence = format!("{sentence} {HOW}");
    }
    Finding::new(Name::State, verdict, sentence)
}

/// The places in [`Observed::asked`] where the answer shows what another session did, in each trial.
pub(super) fn leaks(seen: &Observed) -> Vec<usize> {
    if seen.shared.is_empty() {
        return Vec::new();
    }
    (0..seen.asked.len()).filter(|place| leaks_at(seen, *place)).collect()
}

/// A session that comes second is compared with one that comes first; a session that has been there before, with one that has
/// as well and was alone in between.
fn leaks_at(seen: &Observed, place: usize) -> bool {
    let first: Vec<&Answer> = first(seen, place).collect();
    let again: Vec<&Answer> = seen.alone.iter().filter_map(|views| views[1].get(place)).collect();
    seen.shared.iter().all(|views| {
        let newcomer = views[1].get(place).is_some_and(|answer| Answer::is_news(&first, answer));
        newcomer || views[2].get(place).is_some_and(|answer| Answer::is_news(&again, answer))
    })
}

/// What was answered in processes that nobody had used before.
pub(super) fn first(seen: &Observed, place: usize) -> impl Iterator<Item = &Answer> {
    let alone = seen.alone.iter().map(|views| &views[0]);
    alone.chain(seen.shared.iter().map(|views| &views[0])).filter_map(move |view| view.get(place))
}

/// All that was answered one after the other.
fn answers(seen: &Observed, place: usize) -> impl Iterator<Item = &Answer> {
    let alone = seen.alone.iter().flatten();
    alone.chain(seen.shared.iter().flatten()).filter_map(move |view| view.get(place))
}

/// What is answered differently by processes that nobody had used before.
fn varying(seen: &Observed) -> Vec<&Asked> {
    let varies = |place: usize| {
        let mut answers = first(seen, place);
        answers.next().is_some_and(|one| answers.any(|other| other != one))
    };
    let varying = seen.asked.iter().enumerate().filter(|(place, _)| varies(*place)).map(|(_, asked)| asked);
    varying.fold(Vec::new(), |mut names, asked| {
        if !names.contains(&asked) {
            names.push(asked);
        }
        names
    })
}
