//! Raw text of JSON members.
//!
//! The fakes must give back what they were sent digit by digit (`1.0`, `9007199254740993`, `"a\u0062"`), which a parsed
//! value cannot. This is a second, small reading of text that `serde_json` has accepted already; it is on purpose not the
//! reader the proxy itself uses, so that one bug cannot hide in both.

/// The text of the value of `key` in the object `text`; the last one if the key is repeated.
///
/// `text` has to be valid JSON; for anything that is not an object the answer is `None`.
pub(crate) fn member<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut found = None;
    let mut rest = text.trim_start().strip_prefix('{')?;
    loop {
        rest = rest.trim_start().trim_start_matches(',').trim_start();
        if !rest.starts_with('"') {
            return found;
        }
        let (name, after) = split_value(rest);
        let (value, after) = split_value(after.trim_start().strip_prefix(':')?.trim_start());
        if serde_json::from_str::<String>(name).is_ok_and(|name| name == key) {
            found = Some(value);
        }
        rest = after;
    }
}

/// The texts of the elements of the array `text`; nothing for anything that is not an array.
pub(crate) fn elements(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let Some(mut rest) = text.trim_start().strip_prefix('[') else {
        return found;
    };
    loop {
        rest = rest.trim_start().trim_start_matches(',').trim_start();
        if rest.is_empty() || rest.starts_with(']') {
            return found;
        }
        let (value, after) = split_value(rest);
        found.push(value);
        rest = after;
    }
}

/// `object` with the member `key: value` put first; `object` must be the text of an object that lacks the key.
pub(crate) fn with(object: &str, key: &str, value: &str) -> String {
    let inner = object.trim_start().strip_prefix('{').unwrap_or("}").trim_start();
    let comma = if inner.starts_with('}') { "" } else { "," };
    format!("{{\"{key}\":{value}{comma}{inner}")
}

/// Splits text that starts with a JSON value after that value.
fn split_value(text: &str) -> (&str, &str) {
    let bytes = text.as_bytes();
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\\' if in_string => at += 1,
            b'"' => {
                in_string = !in_string;
                if !in_string && depth == 0 {
                    return text.split_at(at + 1);
                }
            }
            _ if in_string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth > 0 => {
                depth -= 1;
                if depth == 0 {
                    return text.split_at(at + 1);
                }
            }
            b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n' if depth == 0 => {
                return text.split_at(at);
            }
            _ => {}
        }
        at += 1;
    }
    (text, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_their_text() {
        let text = r#" { "id" : 1.0 ,"n\u0061me":"a\"}b", "o":{"id":[1,{"x":"]"}]}, "id2":9007199254740993 } "#;
        assert_eq!(member(text, "id"), Some("1.0"));
        assert_eq!(member(text, "name"), Some(r#""a\"}b""#));
        assert_eq!(member(text, "o"), Some(r#"{"id":[1,{"x":"]"}]}"#));
        assert_eq!(member(text, "id2"), Some("9007199254740993"));
        assert_eq!(member(text, "x"), None);
        assert_eq!(member("[1]", "x"), None);
        assert_eq!(member("{}", "x"), None);
        assert_eq!(member(r#"{"a":1,"a":2}"#, "a"), Some("2"));
    }

    #[test]
    fn elements_keep_their_text() {
        assert_eq!(elements(r#"[ {"a":[1,2]} , 1.0,"x,y" ]"#), [r#"{"a":[1,2]}"#, "1.0", r#""x,y""#]);
        assert!(elements("[]").is_empty());
        assert!(elements("{}").is_empty());
    }

    #[test]
    fn a_member_is_put_first() {
        assert_eq!(with("{}", "id", "1.0"), r#"{"id":1.0}"#);
        assert_eq!(with(r#"{"a":1}"#, "id", "\"x\""), r#"{"id":"x","a":1}"#);
    }
}
