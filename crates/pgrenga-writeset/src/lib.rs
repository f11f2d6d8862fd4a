//! What the extension and the daemon say to each other, and what the log holds.
//!
//! A [`writeset`] is what one transaction changed: a header that
//! certification reads and a body of [`op`]s that the applier executes. An
//! [`entry`] is one record of the replicated log, a batch of items from many
//! transactions. The [`port`] frames carry writesets and verdicts between
//! PostgreSQL and its daemon; [`run`]s of bodies go to the applier. A [`session`] is what a
//! server reports of it, so that another one can go on with it.
//!
//! Everything is hand-framed and little-endian, begins with a version where it
//! outlives a process, and is read in place: decoding borrows from the bytes.
//! No I/O happens here, and no OID ever enters, since OIDs differ between nodes; save
//! those of [large objects](large_object), by which users know them.

pub mod entry;
mod ids;
pub mod large_object;
pub mod op;
pub mod port;
mod reader;
pub mod run;
pub mod session;
mod sink;
pub mod writeset;

pub use ids::{Incarnation, LogIndex, NodeId, ParseTransactionIdError, Seq, TransactionId};
pub use reader::{Error, Reader};
pub use sink::Sink;
