//! For tests: JSON as somebody may write it, numbers and escapes included, and the names that are ours in places where they are not.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::value::RawValue;

/// Members of an object by their names, each a JSON text.
pub(crate) type Members = BTreeMap<String, String>;

/// Any value.
pub(crate) fn json() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "null",
        "true",
        "1.50",
        "-0",
        "1E5",
        "18446744073709551616",
        r#""""#,
        r#""\u0041\/☃ \\ \"id\": 7""#,
        "{}",
        "[]",
    ]);
    let name =
        prop::sample::select(vec!["id", "method", "_meta", "progressToken", "requestState", "resultType", "a", "é"]);
    leaf.prop_map(str::to_owned).prop_recursive(3, 16, 4, move |inner| {
        let space = prop::sample::select(vec!["", " ", "\n\t"]);
        let list = (prop::collection::vec(inner.clone(), 0..4), space.clone())
            .prop_map(|(all, space)| format!("[{space}{}{space}]", all.join(",")));
        let object = (prop::collection::btree_map(name.clone(), inner, 0..4), space).prop_map(|(all, space)| {
            let all: Vec<_> =
                all.into_iter().map(|(name, value)| format!("\"{name}\"{space}:{space}{value}")).collect();
            format!("{{{}}}", all.join(","))
        });
        prop_oneof![list, object]
    })
}

/// Members of any kind, of names that mean nothing to anybody.
pub(crate) fn members() -> impl Strategy<Value = Members> {
    let name = prop::sample::select(vec!["a", "b", "vendor/x", "é", "ID", "result"]);
    prop::collection::btree_map(name.prop_map(str::to_owned), json(), 0..4)
}

/// An object with these members.
pub(crate) fn object(members: &Members) -> String {
    let all: Vec<_> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", all.join(","))
}

/// The members of an object, as they are written.
pub(crate) fn read(object: &str) -> Members {
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(object).unwrap_or_default();
    members.into_iter().map(|(name, value)| (name, value.get().to_owned())).collect()
}

/// Members and more of them.
pub(crate) fn with(members: &Members, more: &[(&str, &str)]) -> Members {
    let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    members.clone().into_iter().chain(more).collect()
}
