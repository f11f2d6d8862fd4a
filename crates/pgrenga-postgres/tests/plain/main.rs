//! What this crate does to a PostgreSQL server, done to a plain one.

mod compare;
mod scratch;
mod server;
