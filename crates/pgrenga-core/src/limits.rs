//! How much the core remembers.

use pgrenga_writeset::{Reader, Sink};

use crate::Error;

/// Named bounds of everything that the core keeps. They decide verdicts, so
/// they are constants of the cluster: the same on every node, and a snapshot
/// restores only under the limits with which it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Keys in one generation of the key index; two generations are kept.
    /// When full, the older one is forgotten, and transactions that would have
    /// needed it abort.
    pub keys: u32,
    /// Relations whose uses are told apart. When full, what is known of all of
    /// them is folded into one entry that stands for any relation.
    pub relations: u32,
    /// Outcomes in one generation; two are kept.
    pub outcomes: u32,
    /// Writesets and fence requests that may wait for the DDL fence. Beyond,
    /// a writeset aborts and a request is lost.
    pub deferred: u32,
    /// Bytes of the waiting writesets' headers. Beyond, a writeset aborts.
    pub deferred_bytes: u32,
    /// Fragments ahead of their header, of all transactions. Beyond, one is
    /// ignored, so that its transaction aborts.
    pub fragments: u32,
    /// Nodes that ever took part. Beyond, none is introduced.
    pub nodes: u16,
    /// Bytes of a member's description. Beyond, it is malformed.
    pub description_bytes: u32,
    /// Slots of every sequence, of which each node has one. Who finds none is no member.
    pub sequence_slots: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            keys: 400_000,
            relations: 100_000,
            outcomes: 200_000,
            deferred: 10_000,
            deferred_bytes: 256 << 20,
            fragments: 1 << 16,
            nodes: 4096,
            description_bytes: 64 << 10,
            sequence_slots: 16,
        }
    }
}

impl Limits {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let Self { keys, relations, outcomes, deferred, deferred_bytes, fragments, .. } = *self;
        let Self { nodes, description_bytes, sequence_slots, .. } = *self;
        for limit in [keys, relations, outcomes, deferred, deferred_bytes, fragments, description_bytes] {
            out.put_u32(limit);
        }
        out.put_u16(nodes);
        out.put_u16(sequence_slots);
    }

    /// Reads limits and compares them with these.
    pub(crate) fn expect(&self, reader: &mut Reader<'_>) -> Result<(), Error> {
        let mut own = Vec::new();
        self.encode(&mut own);
        if reader.take(own.len())? == own { Ok(()) } else { Err(Error::Limits) }
    }
}
