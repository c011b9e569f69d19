//! What was answered, and whether it is another answer than before.
//!
//! Much of what servers say differs from one time to the next: times, random ids, process ids. So an answer is never
//! compared with one other answer, but with several that were given in the same situation: where these differ among
//! themselves, nothing is concluded from what a further one says.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde_json::Value;

/// Longest text of which more than the fingerprint is kept, in bytes.
pub(crate) const KEPT_MAX: usize = 256 << 10;

/// What an answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    fingerprint: (usize, u64),
    /// `None` for what is too long to keep.
    value: Option<Value>,
}

impl Content {
    /// Of the JSON text of a result or an error. `room` bytes may be kept; of a longer text only a fingerprint is.
    pub(crate) fn of(json: &str, room: usize) -> Content {
        // Without a seed: the same text has the same fingerprint in each process.
        let mut hasher = DefaultHasher::new();
        json.hash(&mut hasher);
        let kept = json.len() <= room.min(KEPT_MAX);
        Content {
            fingerprint: (json.len(), hasher.finish()),
            value: if kept { serde_json::from_str(json).ok() } else { None },
        }
    }

    /// How many bytes of text are kept of it.
    pub(crate) fn kept(&self) -> usize {
        if self.value.is_some() { self.fingerprint.0 } else { 0 }
    }

    /// Whether `this` says something that none of `before` does, in a place where they all agree.
    pub(crate) fn is_news(before: &[&Content], this: &Content) -> bool {
        if before.is_empty() || before.iter().any(|one| one.fingerprint == this.fingerprint) {
            return false;
        }
        let values: Option<Vec<&Value>> = before.iter().map(|content| content.value.as_ref()).collect();
        match (values, &this.value) {
            (Some(before), Some(this)) => news(&before, this),
            _ => Content::agree(before),
        }
    }

    /// Whether all say the same.
    pub(crate) fn agree(all: &[&Content]) -> bool {
        all.windows(2).all(|pair| pair[0].fingerprint == pair[1].fingerprint)
    }
}

/// Whether `this` differs from `before` in a place where these agree. Recurses as deep as the JSON does, which its
/// parser bounds.
fn news(before: &[&Value], this: &Value) -> bool {
    let Some(first) = before.first() else { return false };
    if before.iter().all(|one| *one == this) {
        return false;
    }
    match (*first, this) {
        (Value::Object(_), Value::Object(_)) => news_in_objects(before, this),
        (Value::Array(_), Value::Array(_)) => news_in_arrays(before, this),
        // Tools like to answer with JSON in a text.
        (Value::String(_), Value::String(_)) => match (before.iter().copied().map(nested).collect(), nested(this)) {
            (Some::<Vec<Value>>(before), Some(this)) => news(&before.iter().collect::<Vec<_>>(), &this),
            _ => agree(before),
        },
        _ => agree(before),
    }
}

fn news_in_objects(before: &[&Value], this: &Value) -> bool {
    let objects: Option<Vec<_>> = before.iter().map(|value| value.as_object()).collect();
    let (Some(objects), Some(this)) = (objects, this.as_object()) else { return false };
    let in_all = |key: &String| objects.iter().map(|object| object.get(key)).collect::<Option<Vec<&Value>>>();
    let missing = |key: &&String| in_all(key).is_some() && !this.contains_key(*key);
    let other = |(key, value): (&String, &Value)| match in_all(key) {
        Some(before) => news(&before, value),
        // What some had and some had not comes and goes by itself.
        None => !objects.iter().any(|object| object.contains_key(key)),
    };
    objects.first().is_some_and(|first| first.keys().any(|key| missing(&key))) || this.iter().any(other)
}

fn news_in_arrays(before: &[&Value], this: &Value) -> bool {
    let arrays: Option<Vec<_>> = before.iter().map(|value| value.as_array()).collect();
    let (Some(arrays), Some(this)) = (arrays, this.as_array()) else { return false };
    let lengths_agree = arrays.windows(2).all(|pair| pair[0].len() == pair[1].len());
    if arrays.first().is_some_and(|first| lengths_agree && first.len() != this.len()) {
        return true;
    }
    let at = |n: usize| arrays.iter().map(|array| array.get(n)).collect::<Option<Vec<&Value>>>();
    this.iter().enumerate().any(|(n, value)| at(n).is_some_and(|before| news(&before, value)))
}

fn agree(values: &[&Value]) -> bool {
    values.windows(2).all(|pair| pair[0] == pair[1])
}

/// The JSON in a text, if it is an object or an array.
fn nested(value: &Value) -> Option<Value> {
    let text = value.as_str()?;
    if !text.trim_start().starts_with(['{', '[']) {
        return None;
    }
    serde_json::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn is_news(before: &[Value], this: Value) -> bool {
        let content = |value: &Value| Content::of(&value.to_string(), KEPT_MAX);
        let before: Vec<Content> = before.iter().map(content).collect();
        Content::is_news(&before.iter().collect::<Vec<_>>(), &content(&this))
    }

    #[test]
    fn another_answer_where_all_agreed_is_news() {
        for (before, this) in [
            (json!(1), json!(2)),
            (json!("one"), json!("two")),
            (json!({ "count": 1 }), json!({ "count": 2 })),
            (json!({ "a": { "b": [1, 2] } }), json!({ "a": { "b": [1, 3] } })),
            (json!([1]), json!([1, 2])),
            (json!([1, 2]), json!([1])),
            (json!({ "a": 1 }), json!({ "a": 1, "b": 1 })),
            (json!({ "a": 1, "b": 1 }), json!({ "a": 1 })),
            (json!({ "a": 1 }), json!([1])),
            (json!({ "text": "{\"count\":1}" }), json!({ "text": "{\"count\":2}" })),
            (json!({ "text": "{\"count\":1}" }), json!({ "text": "none" })),
        ] {
            assert!(is_news(&[before.clone(), before.clone()], this.clone()), "{before} {this}");
            assert!(!is_news(&[before.clone(), before.clone()], before.clone()), "{before}");
        }
    }

    #[test]
    fn what_varies_by_itself_is_no_news() {
        for (one, two, this) in [
            (json!(1), json!(2), json!(3)),
            (json!({ "time": 1, "count": 1 }), json!({ "time": 2, "count": 1 }), json!({ "time": 3, "count": 1 })),
            (json!([1]), json!([1, 2]), json!([1, 2, 3])),
            (json!({ "a": 1 }), json!({ "a": 1, "b": 1 }), json!({ "a": 1, "b": 2 })),
            (json!({ "text": "{\"pid\":1}" }), json!({ "text": "{\"pid\":2}" }), json!({ "text": "{\"pid\":3}" })),
            (json!("at 1"), json!("at 2"), json!("at 3")),
            (json!({ "a": 1 }), json!([1]), json!("x")),
        ] {
            assert!(!is_news(&[one.clone(), two.clone()], this.clone()), "{one} {two} {this}");
        }
    }

    #[test]
    fn beside_what_varies_the_rest_still_counts() {
        let before = [json!({ "time": 1, "count": 1 }), json!({ "time": 2, "count": 1 })];
        assert!(is_news(&before, json!({ "time": 3, "count": 2 })));
        let nested = |time: u32, count: u32| json!({ "text": json!({ "time": time, "count": count }).to_string() });
        assert!(is_news(&[nested(1, 1), nested(2, 1)], nested(3, 2)));
        assert!(!is_news(&[nested(1, 1), nested(2, 1)], nested(3, 1)));
        assert!(is_news(&[json!([1, 7]), json!([2, 7])], json!([3, 8])));
        assert!(is_news(&[json!({ "a": 1, "b": 1 }), json!({ "a": 1 })], json!({ "a": 2 })));
    }

    #[test]
    fn of_what_is_too_long_the_whole_is_compared() {
        let content = |text: &str| Content::of(&json!(text).to_string(), 4);
        let (one, two, three) = (content("a long one"), content("another long one"), content("a third"));
        assert_eq!(one.kept(), 0);
        assert!(Content::is_news(&[&one, &one], &two));
        assert!(!Content::is_news(&[&one, &one], &one));
        assert!(!Content::is_news(&[&one, &two], &three), "they differ by themselves");
        assert!(!Content::is_news(&[], &one), "there is nothing to compare with");
    }

    #[test]
    fn what_was_answered_once_is_not_news() {
        assert!(!is_news(&[json!("heads"), json!("tails")], json!("tails")));
    }
}
