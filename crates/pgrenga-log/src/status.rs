//! How the log stands, for operators and metrics.

use std::time::Duration;

use pgrenga_writeset::{LogIndex, NodeId};

/// The log as one member sees it. `purged <= snapshot <= committed <= last` where they are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The member that tells.
    pub node_id: NodeId,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// Raft's term: counts elections.
    pub term: u64,
    /// The last entry held.
    pub last: Option<LogIndex>,
    /// The last entry known to be on a majority's disks.
    pub committed: Option<LogIndex>,
    /// The last committed entry that [`crate::Committed`] may hand out.
    pub applied: Option<LogIndex>,
    /// The last entry in the snapshot.
    pub snapshot: Option<LogIndex>,
    /// The last entry removed.
    pub purged: Option<LogIndex>,
    /// Everyone who belongs to the cluster.
    pub members: Vec<Member>,
    /// Size of the log's segments on disk, in bytes.
    pub disk_bytes: u64,
    /// Whether the disk has no room for another segment. It is tried again each second.
    pub is_full: bool,
}

/// One member of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub node_id: NodeId,
    /// `HOST:PORT` of its log.
    pub address: String,
    /// Whether it counts towards the majority; a learner only follows.
    pub voter: bool,
    /// The last entry that it is known to hold; only a leader knows.
    pub matching: Option<LogIndex>,
    /// Since it last answered; only a leader knows, and not of itself.
    pub last_contact: Option<Duration>,
    /// Whether its disk was full when it answered last; only a leader knows of others.
    pub is_full: bool,
}
