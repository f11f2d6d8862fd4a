//! The deterministic core of pgrenga.
//!
//! One door: [`Core::step`] takes the next item of the replicated log and says
//! what it decides. The answer is a function of the log's prefix and of
//! [`Limits`] and of nothing else: no clock, no randomness, no I/O, no hash
//! order. So every node decides the same, and a node that restarts from a
//! [`Core::snapshot`] goes on as the others do.
//!
//! The story of a writeset: it arrives in log order ([`Core::step`]), waits if
//! another node holds the DDL fence (`fence`), is compared with what was
//! certified since its snapshot (`certify`), gets a seq or an abort
//! ([`Decision`]), and is handed to an apply worker ([`schedule`]).

mod certify;
mod decision;
pub mod divergence;
mod error;
mod fence;
mod fragments;
mod hash;
mod limits;
mod machine;
mod membership;
mod outcomes;
pub mod retention;
pub mod schedule;
pub mod sessions;
pub mod silent;
mod snapshot;

pub use decision::{Decision, Outcome, Position, Status};
pub use error::Error;
pub use limits::Limits;
pub use machine::Core;
