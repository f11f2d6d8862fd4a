//! A node: one PostgreSQL server and the daemon beside it; or the daemon alone, a witness.
//!
//! The `engine` is one task that owns the deterministic core. Everything
//! else brings it events or carries out what it decides: `port` speaks with
//! the extension, `proposer` writes to the log, `apply` runs writesets in
//! PostgreSQL, `server` keeps PostgreSQL running, `marker` stops commits
//! for a moment so that all nodes can be compared, `question` answers sessions at what `rounds`
//! of a majority confirm, `everywhere` finds out what all nodes show, `snapshot` keeps the core's
//! state and lets go of the log before it, `past` remembers how transactions ended, `transfer` replaces data that is of no use,
//! `check` finds out whether it is.

mod abandoned;
mod agreement;
mod apply;
mod check;
mod cluster;
mod engine;
mod error;
mod everywhere;
mod ledger;
mod life;
mod marker;
mod options;
mod past;
mod port;
mod present;
mod proposer;
mod question;
mod rounds;
mod server;
mod shared;
mod snapshot;
mod transfer;

pub use check::Pace;
pub use error::Error;
pub use life::{Node, start};
pub use options::{Options, Postgres};
