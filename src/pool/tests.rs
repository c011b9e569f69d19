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
