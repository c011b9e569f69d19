//! JSON pointers (RFC 6901) to many places at once: `*` stands for any one name or index, `**` for any number of them.

use std::fmt;

use smallvec::SmallVec;

/// A set of pointers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pointers(Vec<Pointer>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pointer(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Name(String),
    Any,
    AnyDepth,
}

/// A text that is no pointer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no JSON pointer: it begins with `/` and names members and indices, such as `/result/content/*/text`")]
pub struct NotAPointer(pub String);

impl Pointers {
    /// Reads pointers.
    ///
    /// # Errors
    /// One of them is none.
    pub fn parse<'t>(texts: impl IntoIterator<Item = &'t str>) -> Result<Pointers, NotAPointer> {
        let one = |text: &str| {
            if text.is_empty() {
                return Ok(Pointer(Vec::new()));
            }
            let steps = text.strip_prefix('/').ok_or_else(|| NotAPointer(text.to_owned()))?;
            let step = |step: &str| match step {
                "*" => Step::Any,
                "**" => Step::AnyDepth,
                name => Step::Name(name.replace("~1", "/").replace("~0", "~")),
            };
            Ok(Pointer(steps.split('/').map(step).collect()))
        };
        texts.into_iter().map(one).collect::<Result<_, _>>().map(Pointers)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of these and all of those.
    #[must_use]
    pub fn and(mut self, others: Pointers) -> Pointers {
        self.0.extend(others.0);
        self
    }

    /// A walk from the root of a value.
    pub(super) fn root(&self) -> Cursor<'_> {
        let mut cursor = Cursor { pointers: self, at: SmallVec::new() };
        for index in 0..self.0.len() {
            cursor.reach(index, 0);
        }
        cursor
    }
}

impl fmt::Display for Pointers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, pointer) in self.0.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { " " })?;
            for step in &pointer.0 {
                match step {
                    Step::Name(name) => write!(f, "/{}", escaped(name))?,
                    Step::Any => f.write_str("/*")?,
                    Step::AnyDepth => f.write_str("/**")?,
                }
            }
        }
        Ok(())
    }
}

/// A name as it is written in a pointer.
#[must_use]
pub fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// A place in a value, as the pointers see it: how far each of them has come.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'p> {
    pointers: &'p Pointers,
    /// Pointer, and how many of its steps are done.
    at: SmallVec<[(usize, usize); 4]>,
}

impl Cursor<'_> {
    /// The place of the member, or the element, of this name.
    pub(super) fn step(&self, name: &str) -> Self {
        let mut below = Cursor { pointers: self.pointers, at: SmallVec::new() };
        for &(pointer, done) in &self.at {
            match self.pointers.0[pointer].0.get(done) {
                Some(Step::Name(known)) if known == name => below.reach(pointer, done + 1),
                Some(Step::Any) => below.reach(pointer, done + 1),
                Some(Step::AnyDepth) => below.reach(pointer, done),
                Some(Step::Name(_)) | None => {}
            }
        }
        below
    }

    /// Whether a pointer ends here.
    pub(super) fn is_hit(&self) -> bool {
        self.at.iter().any(|&(pointer, done)| self.pointers.0[pointer].0.len() == done)
    }

    /// Whether no pointer leads any further.
    pub(super) fn is_lost(&self) -> bool {
        self.at.is_empty()
    }

    fn reach(&mut self, pointer: usize, done: usize) {
        if !self.at.contains(&(pointer, done)) {
            self.at.push((pointer, done));
        }
        // Any number of names may be none.
        if self.pointers.0[pointer].0.get(done) == Some(&Step::AnyDepth) {
            self.reach(pointer, done + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::json::Json;
    use super::*;

    #[test]
    fn pointers_lead_to_many_places() {
        let value = r#"{"a":{"b":1,"c":2},"l":[{"b":3,"x":0},{"b":4,"x":0}],"t~/":5}"#;
        let without = |pointers: &[&str]| {
            let pointers = Pointers::parse(pointers.iter().copied()).unwrap();
            Json::parse(value.as_bytes()).unwrap().without(&pointers.root()).to_string()
        };
        let cases = [
            (&["/a/b"][..], r#"{"a":{"c":2},"l":[{"b":3,"x":0},{"b":4,"x":0}],"t~/":5}"#),
            (&["/l/*/b", "/a"], r#"{"l":[{"x":0},{"x":0}],"t~/":5}"#),
            (&["/**/b"], r#"{"a":{"c":2},"l":[{"x":0},{"x":0}],"t~/":5}"#),
            (&["/l/0", "/t~0~1"], r#"{"a":{"b":1,"c":2},"l":[null,{"b":4,"x":0}]}"#),
            (&["/nowhere", "/a/b/c"], r#"{"a":{"b":1,"c":2},"l":[{"b":3,"x":0},{"b":4,"x":0}],"t~/":5}"#),
            (&["/*"], "{}"),
            (&[""], "null"),
        ];
        for (pointers, expected) in cases {
            assert_eq!(without(pointers), expected, "{pointers:?}");
        }
    }

    #[test]
    fn what_is_no_pointer_is_told() {
        let error = Pointers::parse(["/a", "b.c"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`b.c` is no JSON pointer: it begins with `/` and names members and indices, such as `/result/content/*/text`"
        );
        assert_eq!(Pointers::parse(["/a~1b/*", "/**/c"]).unwrap().to_string(), "/a~1b/* /**/c");
    }
}
