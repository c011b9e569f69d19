//! What the tests of the cells have in common.

pub(crate) mod any_json;
