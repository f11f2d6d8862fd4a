//! The port worker: the background worker that stands between the backends'
//! ring and the daemon's socket. It moves bytes and flips commit slots; it
//! decides nothing.

mod connection;
mod gathering;
mod slots;
mod worker;

pub use worker::register;
