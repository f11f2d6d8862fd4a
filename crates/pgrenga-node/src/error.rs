//! What can stop a node.

use pgrenga_writeset::{LogIndex, Seq};

/// Why a node cannot start or go on. All of these are this node's own: an
/// error that every node shares is a verdict, not an error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log cannot be opened, read or written.
    #[error(transparent)]
    Log(#[from] pgrenga_log::Error),
    /// PostgreSQL cannot be started.
    #[error(transparent)]
    Server(#[from] pgrenga_postgres::Error),
    /// The daemon's socket cannot be made.
    #[error("could not listen on \"{path}\": {source}")]
    Socket {
        /// Where.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The directory of past outcomes cannot be used.
    #[error("could not open \"{path}\": {source}")]
    Outcomes {
        /// Where.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The state that came with the log cannot be read.
    #[error("could not read the state at log index {index}: {source}")]
    Snapshot {
        /// Which.
        index: LogIndex,
        /// Why.
        source: pgrenga_core::Error,
    },
    /// PostgreSQL came back from a crash with less than it had reported as
    /// flushed. The daemon starts again and replays the log from its snapshot.
    #[error("PostgreSQL came back at seq {visible}, before what it had reported as flushed")]
    Gap {
        /// Where it is.
        visible: Seq,
    },
    /// The leader had let go of entries that this node had not read yet, and
    /// sent its state instead. The daemon starts again from there.
    #[error("the log went on from a snapshot at index {index} while this node was behind it")]
    Overtaken {
        /// Where the snapshot stands.
        index: LogIndex,
    },
    /// An operator took this node out of the cluster.
    #[error("this node was removed from the cluster")]
    Removed,
    /// A cluster goes on in place of the one that this node belongs to.
    #[error("this node's cluster was recovered without it, and goes on as another one")]
    Replaced,
    /// An entry of the log cannot be read. Another version wrote it.
    #[error("could not read log entry {index}: {source}")]
    Entry {
        /// Which.
        index: LogIndex,
        /// Why.
        source: pgrenga_writeset::Error,
    },
}
