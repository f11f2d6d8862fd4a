//! What the core answers.

use std::fmt;

use pgrenga_writeset::port::AbortReason;
use pgrenga_writeset::{Incarnation, LogIndex, NodeId, Reader, Seq, Sink, TransactionId};

/// Where an item stands in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The entry.
    pub index: LogIndex,
    /// The item in that entry, from 0.
    pub item: u32,
}

impl Position {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.index.0);
        out.put_u32(self.item);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, pgrenga_writeset::Error> {
        Ok(Self { index: LogIndex(reader.u64()?), item: reader.u32()? })
    }
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Certified at this place.
    Commit(Seq),
    /// Not certified.
    Abort(AbortReason),
}

/// What can be said of a transaction, see [`crate::Core::status`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Certified at this place: every node has it, or will.
    Committed(Seq),
    /// It changed nothing and never will.
    Aborted,
    /// Not decided yet: it waits, is on its way, or runs.
    InProgress,
    /// Its outcome may have been forgotten, or there never was such a transaction.
    Unknown,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Committed(_) => "committed",
            Self::Aborted => "aborted",
            Self::InProgress => "in progress",
            Self::Unknown => "unknown",
        })
    }
}

/// One consequence of an item. A step has any number of them, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A writeset is certified: every node applies it as `seq`.
    Commit {
        /// Its place; always one more than the last [`Decision::Commit`] or
        /// [`Decision::Marker`].
        seq: Seq,
        /// Whose.
        txid: TransactionId,
        /// Where its header and the last piece of its body stand.
        at: Position,
        /// Where the earlier pieces of its body stand, in order; empty for all
        /// but large writesets.
        fragments: Vec<Position>,
        /// It may be executed once this seq is visible.
        after: Seq,
        /// Must be executed alone.
        barrier: bool,
    },
    /// A marker took a seq.
    Marker {
        /// Its place.
        seq: Seq,
        /// Chosen by who asked for it.
        id: u64,
    },
    /// A writeset is not certified and never will be.
    Abort {
        /// Whose.
        txid: TransactionId,
        /// Why.
        reason: AbortReason,
    },
    /// A transaction now holds the DDL fence.
    FenceGranted {
        /// Which.
        txid: TransactionId,
        /// Names the fence; the writeset must carry it.
        fence: LogIndex,
        /// Everything up to here comes before the fence.
        after: Seq,
    },
    /// A transaction lost the fence, or its place in the queue for it.
    FenceLost {
        /// Which.
        txid: TransactionId,
    },
    /// A writeset came again after it was decided.
    Duplicate {
        /// Whose.
        txid: TransactionId,
        /// What was decided then.
        outcome: Outcome,
    },
    /// A node began a new life.
    Incarnation {
        /// Which node.
        node: NodeId,
        /// Its new life.
        incarnation: Incarnation,
    },
    /// A member was described, detached or attached; see [`crate::Core::members`] and
    /// [`crate::Core::is_detached`].
    Member {
        /// Which node.
        node: NodeId,
    },
    /// A node was introduced for which there is no room, see [`crate::Limits`]: it is no member.
    Full {
        /// Which node.
        node: NodeId,
    },
    /// A node is out for good.
    Removed {
        /// Which node.
        node: NodeId,
    },
    /// An item that cannot be understood and names no transaction. It has no
    /// effect.
    Malformed {
        /// Where it stands.
        at: Position,
    },
}
