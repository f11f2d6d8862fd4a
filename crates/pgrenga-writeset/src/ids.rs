//! Names of nodes, transactions and positions. Newtypes, so that a position in
//! the log and a position in seq order cannot be mixed up.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! newtype {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

newtype!(
    /// A member of the cluster. Given once and never used again, not even
    /// after the node was removed.
    NodeId(u32)
);
newtype!(
    /// Counts the lives of a node: a new one begins whenever its daemon or its
    /// PostgreSQL starts. What an earlier life left in flight is void once the
    /// log holds the next one's beginning.
    Incarnation(u32)
);
newtype!(
    /// Position in the order of commits: dense, from 1. Zero is the state
    /// before the first replicated transaction.
    Seq(u64)
);
newtype!(
    /// Position in the replicated log. Not the same order as [`Seq`]: a
    /// writeset deferred by a DDL fence gets its seq later.
    LogIndex(u64)
);

impl Seq {
    /// The seq that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Names one transaction for ever: the node, its life, and a counter that
/// holds the commit slot in its low [`TransactionId::SLOT_BITS`] bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TransactionId {
    /// Where the transaction ran.
    pub node: NodeId,
    /// In which life of that node.
    pub incarnation: Incarnation,
    /// Unique within that life; the commit slot's generation.
    pub counter: u64,
}

impl TransactionId {
    /// How many low bits of `counter` name the commit slot, so that a verdict
    /// finds its slot without a table.
    pub const SLOT_BITS: u32 = 16;

    /// The commit slot in which the transaction waits.
    #[must_use]
    pub fn slot(&self) -> usize {
        (self.counter & ((1 << Self::SLOT_BITS) - 1)) as usize
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.node, self.incarnation, self.counter)
    }
}

/// The text is not of the form `node-incarnation-counter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a transaction id has the form NODE-INCARNATION-COUNTER")]
pub struct ParseTransactionIdError;

impl FromStr for TransactionId {
    type Err = ParseTransactionIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.trim().splitn(3, '-');
        let mut part = || parts.next().ok_or(ParseTransactionIdError);
        let (node, incarnation, counter) = (part()?, part()?, part()?);
        let bad = |_| ParseTransactionIdError;
        Ok(Self {
            node: NodeId(node.parse().map_err(bad)?),
            incarnation: Incarnation(incarnation.parse().map_err(bad)?),
            counter: counter.parse().map_err(bad)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transaction_id_reads_what_it_prints() {
        let id = TransactionId { node: NodeId(3), incarnation: Incarnation(7), counter: (99 << 16) | 41 };
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.slot(), 41);
        for bad in ["", "1", "1-2", "1-2-x", "1-2-3-4", "-1-2-3"] {
            assert!(bad.parse::<TransactionId>().is_err(), "{bad}");
        }
    }
}
