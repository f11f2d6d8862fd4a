//! One replicated, durable, ordered log of opaque byte entries.
//!
//! [`start()`] gives a [`Handle`], to propose entries and to manage the members,
//! and a [`Committed`], the stream of entries that a majority has on disk, the
//! same in the same order on every member. The consensus is Raft, by openraft;
//! its types do not show here. The log on disk and the transport are this
//! crate's: see `docs/internals/log.md`.
//!
//! What is promised: an entry whose proposal succeeded is in the log of every
//! majority and comes out of every [`Committed`], once and at the same place,
//! whatever crashes. What is not: that an entry whose proposal failed with
//! [`ProposeError::Unknown`] is not there, or is there only once if it was
//! proposed again.

mod codec;
mod committed;
mod error;
mod gather;
mod handle;
mod leader;
mod network;
mod options;
mod raft;
mod recover;
mod runtime;
pub mod simulation;
mod snapshot;
mod space;
mod start;
mod state_machine;
mod status;
mod store;
mod watch;

pub use committed::{Committed, Event};
pub use error::{Error, ProposeError};
pub use gather::Join;
pub use handle::Handle;
pub use options::Options;
pub use pgrenga_writeset::{LogIndex, NodeId};
pub use recover::{Recovery, Remains};
pub use start::start;
pub use status::{Member, Status};
pub use store::is_disk_full;
