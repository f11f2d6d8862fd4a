//! Recorded concurrent histories, and the checkers that judge them.
//!
//! A [`History`] is what the clients of a database saw: which transactions they
//! ran, when, where, what each of its steps read or wrote, and what they were
//! told about its end. A checker holds it to a [`Promise`] and returns a
//! [`Report`] of anomalies, each with a witness that a reader can follow.
//!
//! | module | workload | what it can show |
//! |---|---|---|
//! | [`append`] | lists of unique values that only grow | every isolation anomaly, by cycles of dependencies |
//! | [`bank`] | transfers between accounts | broken snapshots, lost and half-done transfers |
//! | [`set`] | inserts of rows under a unique key | lost rows, two owners of one key |
//! | [`counter`] | increments | lost and repeated updates |
//!
//! A checker never passes for want of evidence: a history without an
//! acknowledged write, or without a final read, is an [`Error`].

pub mod append;
pub mod bank;
pub mod counter;
mod cycle;
mod file;
mod graph;
mod real_time;
mod record;
mod report;
#[cfg(test)]
mod script;
pub mod set;
pub mod simulate;

pub use file::{FORMAT_VERSION, read_workload_name};
pub use record::{
    Error, FinalRead, History, Isolation, NodeIndex, Outcome, ProcessId, Step, Tick, Transaction, TransactionId,
};
pub use report::{Anomaly, Kind, Model, OrderUsed, Promise, RealTime, Report};
