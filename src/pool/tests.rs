//! A pool of connections that are made of nothing.
