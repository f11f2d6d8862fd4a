//! What can go wrong, told by who can do something about it.

use std::io;
use std::path::PathBuf;

use pgrenga_writeset::{LogIndex, NodeId};

/// Why an operation on the log failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The options contradict themselves or each other. The operator corrects the configuration.
    #[error("invalid log option: {0}")]
    Options(String),
    /// The disk or the listening socket failed.
    #[error("{context}: {source}")]
    Io {
        /// What was being done.
        context: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// Data that had been made durable is no longer readable. Nothing was changed on disk: the node
    /// needs a copy of the log from the others, or the disk needs repair.
    #[error("corrupt log file {file:?} at byte {offset}: {reason}")]
    Corrupt {
        /// Which file.
        file: PathBuf,
        /// Where in it, in bytes from its beginning.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The directory is in use by another process.
    #[error("log directory {0:?} is in use by another process")]
    Locked(PathBuf),
    /// The directory holds another member's log.
    #[error("log directory belongs to node {found}, not to node {expected}")]
    WrongNode {
        /// Whose log it is.
        found: NodeId,
        /// Whose it should be.
        expected: NodeId,
    },
    /// The node belongs to a cluster already: it has a log, or has voted.
    #[error("the log is initialized already")]
    AlreadyInitialized,
    /// No member leads, or this one cannot reach the leader, within the time allowed.
    #[error("no leader could be reached")]
    NoLeader,
    /// Another change of the membership is under way, or this one makes no sense.
    #[error("membership change refused: {0}")]
    Membership(String),
    /// The index is below what is kept: purged after a snapshot.
    #[error("log index {0} has been purged")]
    Purged(LogIndex),
    /// The index is above what is known to be committed here.
    #[error("log index {0} is not committed yet")]
    NotCommitted(LogIndex),
    /// The log's own entry: a leader's first one, or a membership.
    #[error("log index {0} holds no payload")]
    NoPayload(LogIndex),
    /// The log was shut down, or stopped because of an error that is in the process's log.
    #[error("the log is closed")]
    Closed,
}

impl Error {
    /// Whether the disk was full: it may go well when there is room.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if crate::store::is_disk_full(source))
    }

    /// Wraps an error of the operating system with what was being done.
    pub(crate) fn io(context: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let context = context.into();
        move |source| Self::Io { context, source }
    }
}

/// Why a proposal has no place in the log, or may have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// Surely not in the log, now or later. Propose it again freely.
    #[error("the entry was not proposed: no leader could be reached in time")]
    NotSent,
    /// It may be in the log or still get there. Propose it again only if the state machine drops
    /// duplicates.
    #[error("the entry may or may not be in the log")]
    Unknown,
    /// Larger than [`crate::Options::max_entry_bytes`].
    #[error("the entry is too large for the log")]
    TooLarge,
    /// The log was shut down before the entry was proposed.
    #[error("the log is closed")]
    Closed,
}
