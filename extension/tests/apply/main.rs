//! The applier, in a real server of its own for each test.
//!
//! Needs `initdb` and `postgres` of the version that the extension is built
//! for, and the library: `cargo build --release` before `cargo test --release`.
//! No daemon runs; where local transactions have to be ordered, the test plays it.

mod brute_force;
mod daemon;
mod moved;
mod order;
mod question;
mod rows;
mod run;
mod server;
mod session;
mod speed;
mod stress;
mod told;
mod verdict;
mod writeset;
