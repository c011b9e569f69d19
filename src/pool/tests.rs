//! A pool of connections that are made of nothing.

mod books;
mod cancel;
mod chaos;
mod contract;
mod fake;
mod faults;
mod ledger;
mod model;
mod random;
mod restarts;

/// So many random programs, or as many as the environment asks for with `PROPTEST_CASES`.
fn cases(cases: u32) -> proptest::test_runner::Config {
    let asked = proptest::test_runner::Config::default();
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => asked,
        None => proptest::test_runner::Config { cases, ..asked },
    }
}
