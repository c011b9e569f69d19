//! A pool of connections that are made of nothing.

mod books;
mod model;
mod random;
