//! What a server tells before it answers, or by itself: the notifications of the tape and those that came, held against each other.
//! Pure.
//!
//! Those that belong to a request come in order. Progress belongs to the request whose token it has; whose a log message is, only
//! some transports say, and when a server says by itself that something has changed is a matter of chance. So what has no name of
//! its request in it is looked for everywhere before it is missed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::super::align::gaps;
use super::super::compare::{Difference, Rules, differences, excerpt};
use super::super::json::Json;
use super::super::pointer::Pointers;
use crate::protocol::message::Message;
use crate::protocol::meta;
use crate::protocol::method::Known;

/// Most notifications before one answer that are kept and compared.
pub(super) const TOLD_MAX: usize = 10_000;
/// Most pairs of notifications that are compared to find out whether one came elsewhere.
const PAIRS_MAX: usize = 100_000;

/// Where something was told: before the answer to the request of this place, or by itself.
pub(super) type Place = Option<usize>;

/// A notification of the tape.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) seq: u64,
    pub(super) message: Message,
    /// What was taken out of it.
    pub(super) redacted: Pointers,
}

/// A notification that is not as it was.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// It says something else.
    Different {
        /// The number of its frame.
        seq: u64,
        /// Its method.
        method: String,
        /// In what.
        differences: Vec<Difference>,
        /// What it says now.
        now: Message,
    },
    /// It did not come.
    Missing {
        /// The number of its frame.
        seq: u64,
        /// Its method.
        method: String,
    },
    /// It came sooner or later than others.
    Moved {
        /// The number of its frame.
        seq: u64,
        /// Its method.
        method: String,
    },
    /// The tape does not have it.
    Unexpected {
        /// Its method.
        method: String,
        /// The beginning of what it says.
        said: String,
    },
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Told::Different { seq, method, differences, .. } => {
                write!(f, "#{seq} {method}:")?;
                for (index, difference) in differences.iter().enumerate() {
                    write!(f, "{} {difference}", if index == 0 { "" } else { ";" })?;
                }
                Ok(())
            }
            Told::Missing { seq, method } => write!(f, "#{seq} {method} did not come"),
            Told::Moved { seq, method } => write!(f, "#{seq} {method} came in another place"),
            Told::Unexpected { method, said } => write!(f, "{method} came, which is not on the tape: {said}"),
        }
    }
}

/// Whether nothing in it says which request it is of.
pub(super) fn is_loose(message: &Message) -> bool {
    message.known() != Some(Known::Progress) && message.meta(meta::SUBSCRIPTION_ID).is_none()
}

/// A notification as it is compared.
struct Line<'m> {
    place: Place,
    /// Among all of its side.
    order: usize,
    message: &'m Message,
    json: Json,
    recorded: Option<&'m Recorded>,
}

fn lines<'m>(place: Place, all: impl Iterator<Item = (&'m Message, Option<&'m Recorded>)>) -> Vec<Line<'m>> {
    let line = |(order, (message, recorded)): (usize, (&'m Message, Option<&'m Recorded>))| {
        let json = Json::parse(message.text()).unwrap_or(Json::Null);
        Line { place, order, message, json, recorded }
    };
    all.take(TOLD_MAX).enumerate().map(line).collect()
}

struct Comparison<'r> {
    rules: &'r Rules,
}

impl Comparison<'_> {
    fn differences(&self, expected: &Line<'_>, actual: &Line<'_>) -> Vec<Difference> {
        match expected.recorded.filter(|recorded| !recorded.redacted.is_empty()) {
            None => differences(&expected.json, &actual.json, self.rules),
            Some(recorded) => {
                let mut rules = self.rules.clone();
                rules.ignore = rules.ignore.and(recorded.redacted.clone());
                differences(&expected.json, &actual.json, &rules)
            }
        }
    }

    fn is_same(&self, expected: &Line<'_>, actual: &Line<'_>) -> bool {
        expected.message.method() == actual.message.method() && self.differences(expected, actual).is_empty()
    }

    /// Where only shapes count, it does not count how often one comes in a row.
    fn thin(&self, lines: &mut Vec<Line<'_>>) {
        if self.rules.shape_only {
            lines.dedup_by(|later, earlier| self.is_same(earlier, later));
        }
    }

    /// Takes out those that are the same, in order.
    fn in_order<'m>(&self, expected: &mut Vec<Line<'m>>, actual: &mut Vec<Line<'m>>) {
        let gaps = gaps(expected.len(), actual.len(), |one, other| self.is_same(&expected[one], &actual[other]));
        let (mut left, mut came): (BTreeSet<usize>, BTreeSet<usize>) = Default::default();
        for (one, other) in gaps {
            left.extend(one);
            came.extend(other);
        }
        retain(expected, &left);
        retain(actual, &came);
    }

    /// Takes out those that are the same and came elsewhere, or by themselves, where nothing says whose they are.
    fn anywhere<'m>(&self, expected: &mut Vec<Line<'m>>, actual: &mut Vec<Line<'m>>) {
        let mut pairs = PAIRS_MAX;
        expected.retain(|one| {
            if !is_loose(one.message) {
                return true;
            }
            let elsewhere = |other: &Line<'m>| {
                is_loose(other.message) && (one.place.is_none() || one.place != other.place) && {
                    pairs = pairs.saturating_sub(1);
                    pairs > 0 && self.is_same(one, other)
                }
            };
            actual.iter().position(elsewhere).map(|at| actual.remove(at)).is_none()
        });
    }

    /// What is left, in words: those of the same method have changed, the others are missing or new.
    fn tell(&self, expected: Vec<Line<'_>>, actual: Vec<Line<'_>>) -> BTreeMap<Place, Vec<Told>> {
        let mut told: BTreeMap<Place, Vec<Told>> = BTreeMap::new();
        let mut alike: BTreeMap<(Place, Option<&str>), VecDeque<Line<'_>>> = BTreeMap::new();
        for other in actual {
            alike.entry((other.place, other.message.method())).or_default().push_back(other);
        }
        for one in &expected {
            let (seq, method) = (one.recorded.map_or(0, |recorded| recorded.seq), method(one.message));
            let others = alike.get_mut(&(one.place, one.message.method()));
            let what = match others.and_then(VecDeque::pop_front) {
                None => Told::Missing { seq, method },
                Some(other) => match self.differences(one, &other) {
                    none if none.is_empty() => Told::Moved { seq, method },
                    differences => Told::Different { seq, method, differences, now: other.message.clone() },
                },
            };
            told.entry(one.place).or_default().push(what);
        }
        let mut left: Vec<Line<'_>> = alike.into_values().flatten().collect();
        left.sort_by_key(|line| (line.place, line.order));
        for other in left {
            let said = excerpt(other.message.body().unwrap_or_default());
            told.entry(other.place).or_default().push(Told::Unexpected { method: method(other.message), said });
        }
        told
    }
}

fn retain(lines: &mut Vec<Line<'_>>, places: &BTreeSet<usize>) {
    let mut at = 0..;
    lines.retain(|_| at.next().is_some_and(|at| places.contains(&at)));
}

fn method(message: &Message) -> String {
    message.method().unwrap_or_default().to_owned()
}

/// In what `came` differs from what the tape has, by place. Of requests that are `passed_over` nothing is compared.
pub(super) fn compare(
    recorded: &BTreeMap<Place, Vec<Recorded>>,
    came: &BTreeMap<Place, Vec<Message>>,
    passed_over: &BTreeSet<usize>,
    rules: &Rules,
) -> BTreeMap<Place, Vec<Told>> {
    let comparison = Comparison { rules };
    let (mut expected, mut actual) = (Vec::new(), Vec::new());
    let places: BTreeSet<&Place> = recorded.keys().chain(came.keys()).collect();
    for place in places {
        let of = recorded.get(place).into_iter().flatten().map(|one| (&one.message, Some(one)));
        let now = came.get(place).into_iter().flatten().map(|message| (message, None));
        let (mut of, mut now) = (lines(*place, of), lines(*place, now));
        comparison.thin(&mut of);
        comparison.thin(&mut now);
        comparison.in_order(&mut of, &mut now);
        expected.extend(of);
        actual.extend(now);
    }
    comparison.anywhere(&mut expected, &mut actual);
    // What came before something was taken back, or went wrong, is a matter of chance.
    let counts = |line: &Line<'_>| line.place.is_none_or(|place| !passed_over.contains(&place));
    expected.retain(counts);
    actual.retain(counts);
    comparison.tell(expected, actual)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::scan::DEPTH_MAX;

    fn message(method: &str, params: &str) -> Message {
        let text = format!(r#"{{"jsonrpc":"2.0","method":"notifications/{method}","params":{params}}}"#);
        Message::parse(text.into(), DEPTH_MAX).unwrap()
    }

    fn progress(number: u64) -> Message {
        message("progress", &format!(r#"{{"progress":{number}}}"#))
    }

    fn log(text: &str) -> Message {
        message("message", &format!(r#"{{"data":"{text}"}}"#))
    }

    /// What is said of it, by place: `-` is what is told by itself.
    fn told(recorded: &[(Place, Message)], came: &[(Place, Message)], rules: &Rules) -> Vec<String> {
        let (mut then, mut now): (BTreeMap<Place, Vec<Recorded>>, BTreeMap<Place, Vec<Message>>) = Default::default();
        for (seq, (place, message)) in (1..).zip(recorded) {
            let (message, redacted) = (message.clone(), Pointers::default());
            then.entry(*place).or_default().push(Recorded { seq, message, redacted });
        }
        for (place, message) in came {
            now.entry(*place).or_default().push(message.clone());
        }
        let all = compare(&then, &now, &BTreeSet::from([9]), rules);
        let words = |(place, told): (Place, Vec<Told>)| {
            let place = place.map_or_else(|| "-".to_owned(), |place| place.to_string());
            told.into_iter().map(move |one| format!("{place}: {one}"))
        };
        all.into_iter().flat_map(words).collect()
    }

    fn at(place: usize, messages: impl IntoIterator<Item = Message>) -> Vec<(Place, Message)> {
        messages.into_iter().map(|message| (Some(place), message)).collect()
    }

    #[test]
    fn one_that_is_missing_is_told_and_not_all_behind_it() {
        let all = at(0, (1..=50).map(progress));
        let mut some = all.clone();
        some.remove(20);
        let rules = Rules::default();
        assert_eq!(told(&all, &all, &rules), [] as [&str; 0]);
        assert_eq!(told(&all, &some, &rules), ["0: #21 notifications/progress did not come"]);
        assert_eq!(
            told(&some, &all, &rules),
            [r#"0: notifications/progress came, which is not on the tape: {"progress":21}"#]
        );
    }

    #[test]
    fn order_counts_within_a_request() {
        let (a, b) = (progress(1), progress(2));
        assert_eq!(
            told(&at(0, [a.clone(), b.clone()]), &at(0, [b, a]), &Rules::default()),
            ["0: #1 notifications/progress came in another place"]
        );
        assert_eq!(
            told(&at(0, [log("a"), log("b")]), &at(0, [log("b"), log("a")]), &Rules::default()),
            ["0: #1 notifications/message came in another place"]
        );
    }

    #[test]
    fn what_says_something_else_is_told_by_the_place() {
        assert_eq!(
            told(&at(0, [progress(1), log("a")]), &at(0, [progress(3), log("a")]), &Rules::default()),
            ["0: #1 notifications/progress: /params/progress: expected 1, got 3"]
        );
        let near = Rules { tolerance: 0.5, ..Rules::default() };
        assert_eq!(told(&at(0, [progress(2)]), &at(0, [progress(3)]), &near), [] as [&str; 0]);
        let ignored = Rules { ignore: Pointers::parse(["/params/data"]).unwrap(), ..Rules::default() };
        assert_eq!(told(&at(0, [log("a")]), &at(0, [log("b")]), &ignored), [] as [&str; 0]);
    }

    #[test]
    fn where_something_is_told_that_names_no_request_is_free() {
        let changed = message("tools/list_changed", "{}");
        assert_eq!(told(&at(0, [changed.clone()]), &[(None, changed)], &Rules::default()), [] as [&str; 0]);
        assert_eq!(told(&at(0, [log("a")]), &at(1, [log("a")]), &Rules::default()), [] as [&str; 0]);
        let by_itself = [(None, log("a")), (None, log("b"))];
        assert_eq!(told(&by_itself, &[by_itself[1].clone(), by_itself[0].clone()], &Rules::default()), [] as [&str; 0]);
        // Progress names its request.
        assert_eq!(
            told(&at(0, [progress(1)]), &at(1, [progress(1)]), &Rules::default()),
            [
                "0: #1 notifications/progress did not come",
                r#"1: notifications/progress came, which is not on the tape: {"progress":1}"#,
            ]
        );
    }

    #[test]
    fn before_what_was_taken_back_anything_may_be_told() {
        assert_eq!(told(&at(9, [progress(1)]), &at(9, [progress(5), log("x")]), &Rules::default()), [] as [&str; 0]);
    }

    #[test]
    fn of_shapes_it_does_not_count_how_many_there_are() {
        let shapes = Rules { shape_only: true, ..Rules::default() };
        assert_eq!(told(&at(0, (1..4).map(progress)), &at(0, (1..90).map(progress)), &shapes), [] as [&str; 0]);
        assert_eq!(
            told(&at(0, [progress(1)]), &at(0, [message("progress", r#"{"progress":"1"}"#)]), &shapes),
            ["0: #1 notifications/progress: /params/progress: expected a number, got a string"]
        );
        assert_eq!(told(&at(0, [progress(1)]), &[], &shapes), ["0: #1 notifications/progress did not come"]);
    }

    #[test]
    fn very_many_are_compared_in_bounded_time() {
        let many = |from: u64| at(0, (from..from + 2 * TOLD_MAX as u64).map(progress));
        assert_eq!(told(&many(0), &many(1), &Rules::default()).len(), TOLD_MAX);
    }
}
