//! What follows from what was seen.

use serde_json::json;

use super::content::{Content, KEPT_MAX};
use super::observed::{
    Answer, Asked, Asking, Ended, Levels, Observed, Offers, Overlap, Questions, Step, Stop, Subscription, Tasks, View,
};
use super::*;

const LISTS: &str = "tools/list";

fn says(what: &str) -> Answer {
    Answer::Result(Content::of(&json!({ "text": what }).to_string(), KEPT_MAX))
}

fn fails(what: &str) -> Answer {
    Answer::Failure(Content::of(&json!({ "text": what }).to_string(), KEPT_MAX))
}

/// A list that is always the same, and a tool that answered this.
fn view(tool: &str) -> View {
    vec![says("the list"), says(tool)]
}

/// A server with one tool `tool`, of which everything was tried. The answers of the tool, in processes with one session (twice
/// each) and with two: B, A, B.
fn seen(alone: &[[&str; 2]], shared: &[[&str; 3]]) -> Observed {
    Observed {
        offers: Some(Offers::default()),
        tools: Some(1),
        asked: vec![Asked::Method(LISTS), Asked::Call("tool".into())],
        alone: alone.iter().map(|answers| answers.map(view)).collect(),
        shared: shared.iter().map(|answers| answers.map(view)).collect(),
        overlap: Some(Overlap { answers: vec![(0, says("the list")), (0, says("the list"))], after: Vec::new() }),
        asking: Some(Asking { view: view(alone[0][0]), ..Asking::default() }),
        stops: vec![Stop { step: Step::Asked, survivors: Some(0) }],
        ..Observed::default()
    }
}

/// A server that answers the same to everybody.
fn plain() -> Observed {
    seen(&[["x", "x"], ["x", "x"]], &[["x", "x", "x"]])
}

fn finding(seen: &Observed, name: Name) -> Finding {
    judge(seen).findings.into_iter().find(|finding| finding.name == name).unwrap()
}

#[track_caller]
fn assert_found(seen: &Observed, name: Name, verdict: Verdict, word: &str) {
    let found = finding(seen, name);
    assert!(found.verdict == verdict && found.sentence.contains(word), "{found:?}: not {verdict:?} with {word:?}");
    // Each is one or more whole sentences, and a harmful one has a reason.
    assert!(found.sentence.ends_with('.') && !found.sentence.contains("  "), "{found:?}");
    assert_eq!(found.verdict == Verdict::Unsafe, !found.because.is_empty(), "{found:?}");
}

#[test]
fn each_thing_is_judged_once_and_in_order() {
    let names: Vec<&str> = judge(&plain()).findings.iter().map(|finding| finding.name.as_str()).collect();
    let all = ["ids", "state", "asks_client", "subscriptions", "log_level", "tasks", "survives"];
    assert_eq!(names, all);
    let nothing: Vec<&str> = judge(&Observed::default()).findings.iter().map(|finding| finding.name.as_str()).collect();
    assert_eq!(nothing, all, "also where nothing was seen");
}

#[test]
fn a_server_that_answers_the_same_to_everybody_is_safe() {
    let judgement = judge(&plain());
    assert!(judgement.findings.iter().all(|finding| finding.verdict == Verdict::Ok), "{judgement:?}");
    assert!(judgement.is_safe());
    assert_eq!((judgement.conclusion().as_str(), judgement.isolation()), ("safe to share", "shared"));
}

#[test]
fn the_conclusion_says_why_and_what_is_lost() {
    let mut unsafe_ = seen(&[["1", "2"], ["1", "2"]], &[["1", "2", "3"]]);
    unsafe_.asking = Some(Asking { questions: Questions { roots: 1, ..Questions::default() }, ..Asking::default() });
    let judgement = judge(&unsafe_);
    assert_eq!(
        judgement.conclusion(),
        "not safe to share, because sessions notice what others did before them, and it works in the folders of its client"
    );
    assert_eq!((judgement.is_safe(), judgement.isolation()), (false, "session"));

    let mut lossy = plain();
    lossy.offers = Some(Offers { logging: true, tasks: true, ..Offers::default() });
    let judgement = judge(&lossy);
    assert_eq!(
        judgement.conclusion(),
        "safe to share, as far as it was tried (unknown: tasks), but for what is lost: log_level"
    );
    assert!(judgement.is_safe());
}

#[test]
fn a_process_that_does_not_end_is_no_reason_against_sharing() {
    for (step, survivors, verdict, word) in [
        (Step::Asked, Some(0), Verdict::Ok, "when its input does, and leaves no process behind"),
        (Step::Terminated, Some(0), Verdict::Ok, "SIGTERM"),
        (Step::Killed, Some(0), Verdict::Lost, "has to be killed"),
        (Step::Asked, Some(1), Verdict::Lost, "a process that it started stayed behind"),
        (Step::Asked, Some(2), Verdict::Lost, "processes that it started stayed behind"),
        (Step::Asked, None, Verdict::Ok, "cannot be seen"),
    ] {
        let mut seen = plain();
        seen.stops.push(Stop { step, survivors });
        assert_found(&seen, Name::Survives, verdict, word);
        assert_eq!(judge(&seen).conclusion(), "safe to share");
    }
    assert_found(&Observed::default(), Name::Survives, Verdict::Unknown, "before it was asked to");
}

#[test]
fn state_that_others_notice_is_harm() {
    for (what, alone, shared) in [
        ("a counter", [["1", "2"], ["1", "2"]], ["1", "2", "3"]),
        ("what is written once", [["none", "mine"], ["none", "mine"]], ["none", "mine", "mine"]),
        ("what another one overwrites", [["none", "mine"], ["none", "mine"]], ["none", "none", "theirs"]),
    ] {
        let seen = seen(&alone, &[shared]);
        assert_found(&seen, Name::State, Verdict::Unsafe, "`tool`");
        assert!(!finding(&seen, Name::State).sentence.contains(LISTS), "{what}: the list is the same");
        assert!(is_worth_repeating(&seen), "{what}");
    }
}

#[test]
fn what_a_session_does_to_itself_is_no_harm() {
    // The same session twice on a process is not the same session once: only the other one's doing counts.
    let own = seen(&[["none", "mine"], ["none", "mine"]], &[["none", "none", "mine"]]);
    assert_found(&own, Name::State, Verdict::Ok, "tools tried: 1 of 1");
}

#[test]
fn what_varies_by_itself_is_no_harm() {
    for (what, alone, shared) in [
        ("chance", [["a", "b"], ["c", "d"]], ["e", "f", "g"]),
        ("a process id", [["1", "1"], ["2", "2"]], ["3", "3", "3"]),
        ("a clock that moves slowly", [["10:00", "10:00"], ["10:01", "10:01"]], ["10:00", "10:01", "10:01"]),
        ("what is kept outside of the process", [["1", "2"], ["6", "7"]], ["3", "4", "5"]),
    ] {
        let seen = seen(&alone, &[shared]);
        assert_found(&seen, Name::State, Verdict::Ok, "Compared only in what does not vary by itself: `tool`.");
        assert!(!is_worth_repeating(&seen), "{what}");
    }
}

#[test]
fn a_difference_counts_when_it_is_seen_again() {
    let always = [["1", "2"], ["1", "2"], ["1", "2"]];
    let twice = seen(&always, &[["1", "2", "3"], ["1", "2", "3"]]);
    assert_found(&twice, Name::State, Verdict::Unsafe, "`tool`");
    let once = seen(&always, &[["1", "2", "3"], ["1", "1", "2"]]);
    assert_found(&once, Name::State, Verdict::Ok, "");
}

#[test]
fn an_answer_of_another_kind_is_another_answer() {
    for other in [fails("x"), Answer::Silence, Answer::Malformed] {
        let mut seen = plain();
        seen.shared[0][1][1] = other;
        assert_found(&seen, Name::State, Verdict::Unsafe, "`tool`");
    }
    let mut seen = plain();
    seen.alone[0][0][1] = fails("x");
    seen.shared[0][1][1] = fails("y");
    assert_found(&seen, Name::State, Verdict::Unknown, "0 of 1");
}

#[test]
fn lists_that_change_are_named() {
    let mut seen = plain();
    seen.shared[0][1][0] = says("a longer list");
    assert_found(&seen, Name::State, Verdict::Unsafe, "other answers to tools/list than");
}

#[test]
fn how_much_was_tried_is_said() {
    let mut seen = plain();
    assert!(!finding(&seen, Name::State).sentence.contains("--call"), "all were tried");
    seen.tools = Some(3);
    assert_found(&seen, Name::State, Verdict::Ok, "tools tried: 1 of 3");
    assert_found(&seen, Name::State, Verdict::Ok, "--call NAME");
    seen.left_out = vec!["slow".into()];
    assert_found(&seen, Name::State, Verdict::Ok, "Left out, since it took too long: `slow`.");

    let mut none = plain();
    none.asked.truncate(1);
    assert_found(&none, Name::State, Verdict::Unknown, "--call NAME");
    assert!(judge(&none).is_safe(), "unknown is not unsafe");
    assert!(judge(&none).conclusion().contains("unknown: state"));
    none.tools = Some(0);
    assert_found(&none, Name::State, Verdict::Ok, "it has no tools");
    none.tools = None;
    assert_found(&none, Name::State, Verdict::Unknown, "did not list its tools");

    let mut failing = plain();
    failing.alone.iter_mut().flatten().for_each(|view| view[1] = fails("x"));
    failing.shared.iter_mut().flatten().for_each(|view| view[1] = fails("x"));
    assert_found(&failing, Name::State, Verdict::Unknown, "Answered with errors only: `tool`.");
    assert_found(&Observed::default(), Name::State, Verdict::Unknown, "not tried");
}

#[test]
fn a_process_that_ends_by_itself_ends_it_for_all() {
    let ended = Ended { during: Asked::Call("tool".into()), why: "exit status: 1".into(), words: "help".into() };
    let seen = Observed { ended: Some(ended), ..Observed::default() };
    assert_found(&seen, Name::State, Verdict::Unsafe, "while it worked on `tool` (exit status: 1)");
    for name in [Name::Ids, Name::AsksClient, Name::Subscriptions, Name::LogLevel, Name::Tasks] {
        assert_eq!(finding(&seen, name).verdict, Verdict::Unknown, "{name:?}");
    }
    assert_eq!(judge(&seen).conclusion(), "not safe to share, because one request can end it for everybody");
    assert!(!is_worth_repeating(&seen));
}

#[test]
fn answers_have_to_come_once_and_under_their_ids() {
    assert_found(&plain(), Name::Ids, Verdict::Ok, "2 requests of two sessions");
    assert_found(
        &Observed { unknown_answers: 1, ..plain() },
        Name::Ids,
        Verdict::Unsafe,
        "an id that nobody had used, once.",
    );
    assert_found(&Observed { repeated_answers: 2, ..plain() }, Name::Ids, Verdict::Unsafe, "answered before, 2 times.");
    assert_found(&Observed { overlap: None, ..plain() }, Name::Ids, Verdict::Unknown, "No two requests");
    let single = Some(Overlap { answers: vec![(0, says("the list"))], after: Vec::new() });
    assert_found(&Observed { overlap: single, ..plain() }, Name::Ids, Verdict::Unknown, "No two requests");
}

#[test]
fn answers_have_to_be_the_same_when_requests_overlap() {
    for (answer, verdict) in [
        (says("x"), Verdict::Ok),
        (says("the list"), Verdict::Unsafe),
        (Answer::Silence, Verdict::Unsafe),
        (fails("busy"), Verdict::Unsafe),
    ] {
        let overlap = Some(Overlap { answers: vec![(0, says("the list")), (1, answer.clone())], after: Vec::new() });
        assert_found(&Observed { overlap, ..plain() }, Name::Ids, verdict, "");
    }
    // What depends on the order anyway is not blamed on overlapping.
    let mut counter = seen(&[["1", "2"], ["1", "2"]], &[["1", "2", "3"]]);
    counter.overlap = Some(Overlap { answers: vec![(1, says("4")), (1, says("5"))], after: Vec::new() });
    assert_found(&counter, Name::Ids, Verdict::Ok, "2 requests");
    // Nor is what has changed with time, as the next answers show.
    let clock = |after: &str| Overlap {
        answers: vec![(0, says("the list")), (1, says("10:01"))],
        after: vec![(1, says(after))],
    };
    let at_ten = || seen(&[["10:00", "10:00"], ["10:00", "10:00"]], &[["10:00", "10:00", "10:00"]]);
    let moved = Observed { overlap: Some(clock("10:02")), ..at_ten() };
    assert_found(&moved, Name::Ids, Verdict::Ok, "2 requests");
    let back = Observed { overlap: Some(clock("10:00")), ..at_ten() };
    assert_found(&back, Name::Ids, Verdict::Unsafe, "`tool`");
}

#[test]
fn what_a_server_asks_its_client() {
    let asking = |questions, tool: Answer| {
        let asking = Some(Asking { questions, view: vec![says("the list"), tool] });
        Observed { asking, ..plain() }
    };
    let none = Questions::default();
    let (roots, sampling) = (Questions { roots: 1, ..none }, Questions { sampling: 2, ..none });
    let (elicitation, other) = (Questions { elicitation: 1, ..none }, Questions { other: 1, ..none });
    assert_found(&asking(none, says("x")), Name::AsksClient, Verdict::Ok, "for nothing");
    assert_found(&asking(roots, says("x")), Name::AsksClient, Verdict::Unsafe, "roots");
    assert_found(&asking(sampling, says("x")), Name::AsksClient, Verdict::Lost, "sampling");
    assert_found(&asking(elicitation, says("x")), Name::AsksClient, Verdict::Lost, "elicitation");
    assert_found(&asking(other, says("x")), Name::AsksClient, Verdict::Lost, "clients do not know");
    let both = asking(sampling.and(elicitation), says("x"));
    assert_found(&both, Name::AsksClient, Verdict::Lost, "(sampling) and input of its user (elicitation)");

    // It worked where the client could be asked, and does not where it cannot.
    let mut needs = asking(sampling, says("x"));
    needs.shared[0][0][1] = fails("no client");
    assert_found(&needs, Name::AsksClient, Verdict::Unsafe, "`tool` fails where it cannot");
    let mut fails_anyway = asking(sampling, fails("x"));
    fails_anyway.shared[0][0][1] = fails("x");
    assert_found(&fails_anyway, Name::AsksClient, Verdict::Lost, "works without");

    // It asks although it was told that there is nobody.
    let deaf = Observed { asked_in_vain: roots, ..plain() };
    assert_found(&deaf, Name::AsksClient, Verdict::Unsafe, "roots");
    let deaf = Observed { asked_in_vain: elicitation, ..plain() };
    assert_found(&deaf, Name::AsksClient, Verdict::Lost, "elicitation");

    let broke = Some(Asking::default());
    assert_found(&Observed { asking: broke, ..plain() }, Name::AsksClient, Verdict::Unknown, "did not work");
    let asked_and_broke = Some(Asking { questions: roots, view: Vec::new() });
    assert_found(&Observed { asking: asked_and_broke, ..plain() }, Name::AsksClient, Verdict::Unsafe, "roots");
    assert_found(&Observed { asking: None, ..plain() }, Name::AsksClient, Verdict::Unknown, "not tried");
}

#[test]
fn what_is_there_only_for_clients_that_can_be_asked() {
    let mut more = plain();
    more.asking = Some(Asking { view: vec![says("a longer list"), says("x")], ..Asking::default() });
    assert_found(&more, Name::AsksClient, Verdict::Lost, "see tools/list");
    let mut other_answer = plain();
    other_answer.asking = Some(Asking { view: vec![says("the list"), says("y")], ..Asking::default() });
    assert_found(&other_answer, Name::AsksClient, Verdict::Ok, "for nothing");
}

#[test]
fn subscriptions_are_told_apart() {
    let good = Subscription { tried: true, begun: true, ended: true, ..Subscription::default() };
    for (subscription, verdict, word) in [
        (Some(good.clone()), Verdict::Ok, "no change to be told of"),
        (Some(Subscription { told: 1, ..good.clone() }), Verdict::Ok, "of nothing else"),
        (Some(Subscription { told_after: 1, told: 1, ..good.clone() }), Verdict::Ok, "does not end"),
        (Some(Subscription { ended: false, ..good.clone() }), Verdict::Ok, "does not end"),
        (Some(Subscription { unasked: 1, ..good.clone() }), Verdict::Lost, "nobody subscribed to"),
        (Some(Subscription { begun: false, ..good }), Verdict::Unknown, "refused"),
        (Some(Subscription::default()), Verdict::Unknown, "lists no resource"),
        (None, Verdict::Unknown, "not tried"),
    ] {
        let offers = Some(Offers { subscriptions: true, ..Offers::default() });
        assert_found(&Observed { offers, subscription, ..plain() }, Name::Subscriptions, verdict, word);
    }
    assert_found(&plain(), Name::Subscriptions, Verdict::Ok, "offers no subscriptions");
}

#[test]
fn log_messages_are_lost() {
    let levels = |at_debug, at_emergency| Some(Levels { accepted: true, at_debug, at_emergency });
    for (levels, word) in [
        (None, "go to nobody."),
        (Some(Levels { accepted: false, ..levels(3, 0).unwrap() }), "go to nobody."),
        (levels(0, 0), "sent none"),
        (levels(2, 2), "changes nothing"),
        (levels(2, 0), "decides what is sent for the other"),
    ] {
        let offers = Some(Offers { logging: true, ..Offers::default() });
        assert_found(&Observed { offers, levels, ..plain() }, Name::LogLevel, Verdict::Lost, word);
    }
    assert_found(&plain(), Name::LogLevel, Verdict::Ok, "offers no log messages");
}

#[test]
fn tasks_of_others_are_harm() {
    for (tasks, verdict, word) in [
        (None, Verdict::Unknown, "not tried"),
        (Some(Tasks { begun: false, listed: false }), Verdict::Unknown, "--call"),
        (Some(Tasks { begun: true, listed: true }), Verdict::Unsafe, "tasks of all others"),
        (Some(Tasks { begun: true, listed: false }), Verdict::Ok, "not in the other's list"),
    ] {
        let offers = Some(Offers { tasks: true, ..Offers::default() });
        assert_found(&Observed { offers, tasks, ..plain() }, Name::Tasks, verdict, word);
    }
    assert_found(&plain(), Name::Tasks, Verdict::Ok, "offers no tasks");
}

#[test]
fn nothing_of_a_modern_server_is_tied_to_the_connection() {
    let modern = Observed { modern: true, asking: None, ..plain() };
    for name in [Name::AsksClient, Name::Subscriptions, Name::LogLevel, Name::Tasks] {
        assert_found(&modern, name, Verdict::Ok, "2026-07-28");
    }
    assert_eq!(judge(&modern).conclusion(), "safe to share");
    let counter = seen(&[["1", "2"], ["1", "2"]], &[["1", "2", "3"]]);
    assert!(!judge(&Observed { modern: true, ..counter }).is_safe(), "but its answers are compared");
}

#[test]
fn what_was_tried_is_told() {
    let mut seen = plain();
    seen.asked = vec![
        Asked::Call("a".into()),
        Asked::Call("b".into()),
        Asked::Call("a".into()),
        Asked::Call("c".into()),
        Asked::Method(LISTS),
    ];
    seen.alone = vec![[vec![fails(""), fails(""), says(""), says(""), says("")], Vec::new()]];
    let tried = judge(&seen).tried;
    assert_eq!((tried.tools, tried.failed), (vec!["a".to_owned(), "c".to_owned()], vec!["b".to_owned()]));
}

#[test]
fn names_are_enumerated() {
    assert_eq!(enumerated(&[""; 0]), "");
    assert_eq!(enumerated(&["a"]), "a");
    assert_eq!(enumerated(&["a", "b"]), "a and b");
    assert_eq!(enumerated(&["a", "b", "c", "d", "e"]), "a, b, c, d and e");
    assert_eq!(enumerated(&["a", "b", "c", "d", "e", "f", "g"]), "a, b, c, d, e and 2 more");
}
