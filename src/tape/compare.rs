//! In what two JSON values differ, as far as it matters. Pure.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::json::Json;
use super::pointer::{Cursor, Pointers, escaped};

/// Most differences of two values that are told.
const DIFFERENCES_MAX: usize = 100;
/// Most elements of two arrays that are compared each with each where order does not matter, beyond those that are equal.
const PAIRED_MAX: usize = 200;
/// Most characters of a value that are shown.
const SHOWN_CHARS: usize = 100;

/// What counts as a difference.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// What is not looked at.
    pub ignore: Pointers,
    /// Arrays whose order does not matter.
    pub unordered: Pointers,
    /// How far apart two numbers may be and still count as equal, as a share of the larger one.
    pub tolerance: f64,
    /// Only types and names are compared, not values. Of an array, all elements must look like one of the other's.
    pub shape_only: bool,
}

/// Something in which two values differ.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Where: a JSON pointer, empty for the value itself.
    pub path: String,
    /// What there is in the one, if there is anything.
    pub expected: Option<Json>,
    /// What there is in the other.
    pub actual: Option<Json>,
    /// Whether it is only said what both are.
    pub kinds_only: bool,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Json| match self.kinds_only {
            true => value.kind().to_owned(),
            false => excerpt(&value.to_string()),
        };
        let path = if self.path.is_empty() { "the whole" } else { &self.path };
        match (&self.expected, &self.actual) {
            (Some(expected), Some(actual)) => {
                write!(f, "{path}: expected {}, got {}", shown(expected), shown(actual))
            }
            (Some(expected), None) => write!(f, "{path}: expected {}, got nothing", shown(expected)),
            (None, Some(actual)) => write!(f, "{path}: expected nothing, got {}", shown(actual)),
            (None, None) => write!(f, "{path}"),
        }
    }
}

/// The beginning of a text, if it is long.
pub(super) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// In what `actual` differs from `expected`: nothing, or at most so many places that a person would read them.
#[must_use]
pub fn differences(expected: &Json, actual: &Json, rules: &Rules) -> Vec<Difference> {
    let without = |value: &Json| value.clone().without(&rules.ignore.root());
    let mut walk = Walk { rules, found: Vec::new() };
    walk.compare(&without(expected), &without(actual), &mut String::new(), &rules.unordered.root());
    walk.found
}

struct Walk<'r> {
    rules: &'r Rules,
    found: Vec<Difference>,
}

impl Walk<'_> {
    fn compare(&mut self, expected: &Json, actual: &Json, path: &mut String, at: &Cursor<'_>) {
        if self.found.len() >= DIFFERENCES_MAX {
            return;
        }
        match (expected, actual) {
            (Json::Object(one), Json::Object(other)) => {
                for (name, value) in one {
                    match other.get(name) {
                        Some(actual) => self.below(value, actual, name, path, at),
                        None => self.differ(Some(value), None, &format!("{path}/{}", escaped(name))),
                    }
                }
                for (name, value) in other.iter().filter(|(name, _)| !one.contains_key(*name)) {
                    self.differ(None, Some(value), &format!("{path}/{}", escaped(name)));
                }
            }
            (Json::Array(one), Json::Array(other)) if self.rules.shape_only => self.shapes(one, other, path, at),
            (Json::Array(one), Json::Array(other)) if at.is_hit() => self.any_order(one, other, path, at),
            (Json::Array(one), Json::Array(other)) => match (names(one), names(other)) {
                (Some(names), Some(others)) => self.by_name((one, &names), (other, &others), path, at),
                _ => {
                    for index in 0..one.len().max(other.len()) {
                        let place = index.to_string();
                        match (one.get(index), other.get(index)) {
                            (Some(expected), Some(actual)) => self.below(expected, actual, &place, path, at),
                            (expected, actual) => self.differ(expected, actual, &format!("{path}/{place}")),
                        }
                    }
                }
            },
            _ if self.rules.shape_only && expected.kind() == actual.kind() => {}
            (Json::Number(one), Json::Number(other)) if self.near(one.as_json(), other.as_json()) => {}
            _ if expected == actual => {}
            _ => self.differ(Some(expected), Some(actual), path),
        }
    }

    fn below(&mut self, expected: &Json, actual: &Json, name: &str, path: &mut String, at: &Cursor<'_>) {
        let length = path.len();
        path.push('/');
        path.push_str(&escaped(name));
        self.compare(expected, actual, path, &at.step(name));
        path.truncate(length);
    }

    /// Elements that have names (tools, prompts, resources) are compared with their namesakes, so that one that is missing does not
    /// make all behind it differ. Their order counts.
    fn by_name(
        &mut self,
        (expected, names): (&[Json], &[&str]),
        (actual, others): (&[Json], &[&str]),
        path: &mut String,
        at: &Cursor<'_>,
    ) {
        let places: HashMap<&str, usize> = others.iter().enumerate().map(|(place, name)| (*name, place)).collect();
        for (index, (name, element)) in names.iter().zip(expected).enumerate() {
            match places.get(name) {
                Some(place) => self.below(element, &actual[*place], &index.to_string(), path, at),
                None => self.differ(Some(element), None, &format!("{path}/{index}")),
            }
        }
        let known: HashSet<&str> = names.iter().copied().collect();
        for (index, element) in actual.iter().enumerate().filter(|(index, _)| !known.contains(others[*index])) {
            self.differ(None, Some(element), &format!("{path}/{index}"));
        }
        let common = |names: &[&str], others: &dyn Fn(&str) -> bool| -> Vec<Json> {
            names.iter().filter(|name| others(name)).map(|name| Json::Text((*name).to_owned())).collect()
        };
        let (before, now) =
            (common(names, &|name| places.contains_key(name)), common(others, &|name| known.contains(name)));
        if before != now {
            self.differ(Some(&Json::Array(before)), Some(&Json::Array(now)), path);
        }
    }

    /// Each element is to look like one of those that are expected.
    fn shapes(&mut self, expected: &[Json], actual: &[Json], path: &mut String, at: &Cursor<'_>) {
        let Some(first) = expected.first() else { return };
        for (index, actual) in actual.iter().take(PAIRED_MAX).enumerate() {
            let at = at.step(&index.to_string());
            if !expected.iter().take(PAIRED_MAX).any(|expected| self.is_same(expected, actual, &at)) {
                self.below(first, actual, &index.to_string(), path, &at);
            }
        }
    }

    /// Elements that are equal find each other; the rest is compared in order.
    fn any_order(&mut self, expected: &[Json], actual: &[Json], path: &mut String, at: &Cursor<'_>) {
        let mut counts: HashMap<&Json, usize> = HashMap::new();
        for element in expected {
            *counts.entry(element).or_default() += 1;
        }
        let mut take = |element: &Json| counts.get_mut(element).filter(|count| **count > 0).map(|count| *count -= 1);
        let mut actual: Vec<(usize, &Json)> =
            actual.iter().enumerate().filter(|(_, one)| take(one).is_none()).collect();
        let mut missing = Vec::new();
        for (index, element) in expected.iter().enumerate() {
            let Some(count) = counts.get_mut(element).filter(|count| **count > 0) else { continue };
            *count -= 1;
            let below = at.step(&index.to_string());
            let found = match actual.len() <= PAIRED_MAX {
                true => actual.iter().position(|(_, other)| self.is_same(element, other, &below)),
                false => None,
            };
            match found {
                Some(found) => drop(actual.remove(found)),
                None => missing.push((index, element)),
            }
        }
        let mut actual = actual.into_iter();
        for (index, element) in missing {
            match actual.next() {
                Some((_, other)) => self.below(element, other, &index.to_string(), path, at),
                None => self.differ(Some(element), None, &format!("{path}/{index}")),
            }
        }
        for (index, other) in actual {
            self.differ(None, Some(other), &format!("{path}/{index}"));
        }
    }

    fn is_same(&self, expected: &Json, actual: &Json, at: &Cursor<'_>) -> bool {
        let mut walk = Walk { rules: self.rules, found: Vec::new() };
        walk.compare(expected, actual, &mut String::new(), at);
        walk.found.is_empty()
    }

    fn near(&self, one: &str, other: &str) -> bool {
        if self.rules.tolerance <= 0.0 {
            return false;
        }
        match (one.parse::<f64>(), other.parse::<f64>()) {
            (Ok(one), Ok(other)) => (one - other).abs() <= self.rules.tolerance * one.abs().max(other.abs()),
            _ => false,
        }
    }

    fn differ(&mut self, expected: Option<&Json>, actual: Option<&Json>, path: &str) {
        if self.found.len() < DIFFERENCES_MAX {
            let (expected, actual) = (expected.cloned(), actual.cloned());
            self.found.push(Difference { path: path.to_owned(), expected, actual, kinds_only: self.rules.shape_only });
        }
    }
}

/// What elements are called, if all of them have different names.
fn names(elements: &[Json]) -> Option<Vec<&str>> {
    ["name", "uri", "uriTemplate"].into_iter().find_map(|member| {
        let names: Option<Vec<&str>> = elements.iter().map(|element| element.get(member)?.as_str()).collect();
        names.filter(|names| !names.is_empty() && names.iter().collect::<HashSet<_>>().len() == names.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(expected: &str, actual: &str, rules: &Rules) -> Vec<String> {
        let json = |text: &str| Json::parse(text.as_bytes()).unwrap();
        differences(&json(expected), &json(actual), rules).iter().map(ToString::to_string).collect()
    }

    fn pointers(text: &str) -> Pointers {
        Pointers::parse([text]).unwrap()
    }

    #[test]
    fn differences_say_where_and_what() {
        let found = told(
            r#"{"a":1,"b":[1,2,{"c/d":"x"}],"gone":null,"n":1.0,"t":true}"#,
            r#"{"n":1,"b":[1,3,{"c/d":"y"},4],"a":"1","new":{},"t":true}"#,
            &Rules::default(),
        );
        assert_eq!(
            found,
            [
                "/a: expected 1, got \"1\"",
                "/b/1: expected 2, got 3",
                "/b/2/c~1d: expected \"x\", got \"y\"",
                "/b/3: expected nothing, got 4",
                "/gone: expected null, got nothing",
                "/new: expected nothing, got {}",
            ]
        );
        assert_eq!(told("1", "[]", &Rules::default()), ["the whole: expected 1, got []"]);
    }

    #[test]
    fn what_is_ignored_is_no_difference() {
        let rules = Rules { ignore: pointers("/**/at"), ..Rules::default() };
        assert_eq!(
            told(r#"{"at":1,"l":[{"at":2,"x":1}]}"#, r#"{"l":[{"x":2}]}"#, &rules),
            ["/l/0/x: expected 1, got 2"]
        );
    }

    #[test]
    fn order_matters_only_where_it_does() {
        let rules = Rules { unordered: pointers("/l"), ..Rules::default() };
        assert_eq!(told(r#"{"l":[1,2,2,{"a":1}]}"#, r#"{"l":[{"a":1.0},2,1,2]}"#, &rules), [] as [&str; 0]);
        assert_eq!(
            told(r#"{"l":[1,2,2],"m":[1,2]}"#, r#"{"l":[2,1,3],"m":[2,1]}"#, &rules),
            ["/l/1: expected 2, got 3", "/m/0: expected 1, got 2", "/m/1: expected 2, got 1",]
        );
        assert_eq!(told(r#"{"l":[1]}"#, r#"{"l":[2,1]}"#, &rules), ["/l/0: expected nothing, got 2"]);
        let near = Rules { tolerance: 0.01, ..rules };
        assert_eq!(told(r#"{"l":[100,200]}"#, r#"{"l":[200.5,100.5]}"#, &near), [] as [&str; 0]);
    }

    #[test]
    fn what_has_a_name_is_compared_with_its_namesake() {
        let found = told(
            r#"[{"name":"a"},{"name":"b","x":1},{"name":"c"},{"name":"d"}]"#,
            r#"[{"name":"d"},{"name":"b","x":2},{"name":"c"},{"name":"e"}]"#,
            &Rules::default(),
        );
        assert_eq!(
            found,
            [
                r#"/0: expected {"name":"a"}, got nothing"#,
                "/1/x: expected 1, got 2",
                r#"/3: expected nothing, got {"name":"e"}"#,
                r#"the whole: expected ["b","c","d"], got ["d","b","c"]"#,
            ]
        );
        // Not names, if two are the same.
        assert_eq!(
            told(r#"[{"name":"a"},{"name":"a"}]"#, r#"[{"name":"a"}]"#, &Rules::default()),
            [r#"/1: expected {"name":"a"}, got nothing"#]
        );
    }

    #[test]
    fn numbers_may_be_near() {
        let rules = Rules { tolerance: 0.01, ..Rules::default() };
        assert_eq!(told("[100,0,-5]", "[101,0.0,-5.04]", &rules), [] as [&str; 0]);
        assert_eq!(told("[100,1]", "[102,\"1\"]", &rules), ["/0: expected 100, got 102", "/1: expected 1, got \"1\""]);
    }

    #[test]
    fn shapes_are_names_and_types() {
        let rules = Rules { shape_only: true, ..Rules::default() };
        assert_eq!(told(r#"{"a":1,"l":[{"t":"x"}]}"#, r#"{"a":2,"l":[{"t":"y"},{"t":"z"}]}"#, &rules), [] as [&str; 0]);
        assert_eq!(
            told(r#"{"a":1,"l":[{"t":"x"}],"n":0}"#, r#"{"a":"1","l":[{"t":null}]}"#, &rules),
            [
                "/a: expected a number, got a string",
                "/l/0/t: expected a string, got null",
                "/n: expected a number, got nothing",
            ]
        );
        assert_eq!(told("[]", "[1]", &rules), [] as [&str; 0]);
    }

    #[test]
    fn so_many_differences_are_told_and_no_more() {
        let numbers = |from: usize| format!("{:?}", (from..from + 1000).collect::<Vec<_>>());
        assert_eq!(told(&numbers(0), &numbers(1), &Rules::default()).len(), DIFFERENCES_MAX);
        let long = format!("\"{}\"", "ä".repeat(1000));
        assert!(told(&long, "1", &Rules::default())[0].chars().count() < 150);
    }
}
