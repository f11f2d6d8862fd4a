//! One entry of the replicated log: a batch of items.
//!
//! ```text
//! version u8 | { kind u8, length u32, bytes } ...
//! ```

use crate::{Error, Incarnation, LogIndex, NodeId, Reader, Seq, Sink, TransactionId};

/// Format of an entry; raised when its layout changes.
pub const VERSION: u8 = 1;

/// What can stand in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A transaction asks to commit: an encoded [`crate::writeset::Writeset`].
    Writeset(&'a [u8]),
    /// A piece of a large writeset's body, ahead of its header.
    Fragment {
        /// Whose.
        txid: TransactionId,
        /// Which piece, from 0.
        ordinal: u32,
        /// Part of the ops' bytes; an op may span pieces.
        body: &'a [u8],
    },
    /// A transaction asks for the DDL fence.
    FenceRequest(TransactionId),
    /// A transaction ended, or never will be: if it is not decided yet, it is aborted.
    GiveUp(TransactionId),
    /// Someone found the fence's holder gone or too slow and lifts its fence.
    FenceLift(TransactionId),
    /// A node begins a new life: what it left in flight before is void.
    Incarnation {
        /// Which node.
        node: NodeId,
        /// Its new life.
        incarnation: Incarnation,
    },
    /// Takes a seq without changing anything: a point at which all nodes can
    /// be compared.
    Marker {
        /// Chosen by who asked for it.
        id: u64,
    },
    /// Up to where a node could lose nothing in a crash.
    Progress {
        /// Which node.
        node: NodeId,
        /// Flushed by its PostgreSQL.
        flushed: Seq,
    },
    /// What a node decided, so that nodes can compare: the running hash of its
    /// verdicts after the entry at `index`.
    Verdicts {
        /// Which node.
        node: NodeId,
        /// The last entry that the hash includes.
        index: LogIndex,
        /// See the core's `verdict_hash`.
        hash: u64,
    },
    /// What others must know of a node: its name and addresses, as the daemon
    /// writes them (JSON); the state machine only keeps the newest.
    Member {
        /// Which node.
        node: NodeId,
        /// Opaque to the log and the core.
        description: &'a str,
    },
    /// A node is out for good: nothing of it is certified after this.
    Remove(NodeId),
    /// A node is to take no new sessions until it is attached.
    Detach(NodeId),
    /// A node may take sessions again.
    Attach(NodeId),
}

mod kind {
    pub(super) const WRITESET: u8 = 1;
    pub(super) const FRAGMENT: u8 = 2;
    pub(super) const FENCE_REQUEST: u8 = 3;
    pub(super) const GIVE_UP: u8 = 4;
    pub(super) const FENCE_LIFT: u8 = 5;
    pub(super) const INCARNATION: u8 = 6;
    pub(super) const MARKER: u8 = 7;
    pub(super) const PROGRESS: u8 = 8;
    pub(super) const MEMBER: u8 = 9;
    pub(super) const VERDICTS: u8 = 10;
    pub(super) const REMOVE: u8 = 11;
    pub(super) const DETACH: u8 = 12;
    pub(super) const ATTACH: u8 = 13;
}

/// Begins an entry. Then [`push`] items.
pub fn begin(out: &mut impl Sink) {
    out.put_u8(VERSION);
}

/// Appends an item to an entry that was begun.
pub fn push(out: &mut Vec<u8>, item: &Item<'_>) {
    let kind = match item {
        Item::Writeset(_) => kind::WRITESET,
        Item::Fragment { .. } => kind::FRAGMENT,
        Item::FenceRequest(_) => kind::FENCE_REQUEST,
        Item::GiveUp(_) => kind::GIVE_UP,
        Item::FenceLift(_) => kind::FENCE_LIFT,
        Item::Incarnation { .. } => kind::INCARNATION,
        Item::Marker { .. } => kind::MARKER,
        Item::Progress { .. } => kind::PROGRESS,
        Item::Member { .. } => kind::MEMBER,
        Item::Verdicts { .. } => kind::VERDICTS,
        Item::Remove(_) => kind::REMOVE,
        Item::Detach(_) => kind::DETACH,
        Item::Attach(_) => kind::ATTACH,
    };
    out.put_u8(kind);
    let length_at = out.len();
    out.put_u32(0);
    match item {
        Item::Writeset(bytes) => out.put(bytes),
        Item::Fragment { txid, ordinal, body } => {
            out.put_txid(txid);
            out.put_u32(*ordinal);
            out.put(body);
        }
        Item::FenceRequest(txid) | Item::GiveUp(txid) | Item::FenceLift(txid) => out.put_txid(txid),
        Item::Incarnation { node, incarnation } => {
            out.put_u32(node.0);
            out.put_u32(incarnation.0);
        }
        Item::Marker { id } => out.put_u64(*id),
        Item::Progress { node, flushed } => {
            out.put_u32(node.0);
            out.put_u64(flushed.0);
        }
        Item::Member { node, description } => {
            out.put_u32(node.0);
            out.put_str(description);
        }
        Item::Verdicts { node, index, hash } => {
            out.put_u32(node.0);
            out.put_u64(index.0);
            out.put_u64(*hash);
        }
        Item::Remove(node) | Item::Detach(node) | Item::Attach(node) => out.put_u32(node.0),
    }
    let length = u32::try_from(out.len() - length_at - 4).expect("an item is shorter than 4 GiB");
    out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
}

/// Appends the items of `next` to an entry; false, and nothing done, if either is of another version.
pub fn join(entry: &mut Vec<u8>, next: &[u8]) -> bool {
    let joins = entry.first() == Some(&VERSION) && next.first() == Some(&VERSION);
    if joins {
        entry.extend_from_slice(&next[1..]);
    }
    joins
}

/// Reads an entry's items in order. After an error nothing more comes.
#[derive(Clone, Debug)]
pub struct Items<'a> {
    reader: Reader<'a>,
}

impl<'a> Items<'a> {
    /// Reads an entry's version.
    pub fn decode(entry: &'a [u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(entry);
        match reader.u8()? {
            VERSION => Ok(Self { reader }),
            found => Err(Error::Version { found, expected: VERSION }),
        }
    }

    fn item(&mut self) -> Result<Item<'a>, Error> {
        let tag = self.reader.u8()?;
        let mut body = Reader::new(self.reader.bytes()?);
        let item = match tag {
            kind::WRITESET => return Ok(Item::Writeset(body.rest())),
            kind::FRAGMENT => {
                return Ok(Item::Fragment { txid: body.txid()?, ordinal: body.u32()?, body: body.rest() });
            }
            kind::FENCE_REQUEST => Item::FenceRequest(body.txid()?),
            kind::GIVE_UP => Item::GiveUp(body.txid()?),
            kind::FENCE_LIFT => Item::FenceLift(body.txid()?),
            kind::INCARNATION => Item::Incarnation { node: NodeId(body.u32()?), incarnation: Incarnation(body.u32()?) },
            kind::MARKER => Item::Marker { id: body.u64()? },
            kind::PROGRESS => Item::Progress { node: NodeId(body.u32()?), flushed: Seq(body.u64()?) },
            kind::MEMBER => Item::Member { node: NodeId(body.u32()?), description: body.str()? },
            kind::VERDICTS => {
                Item::Verdicts { node: NodeId(body.u32()?), index: LogIndex(body.u64()?), hash: body.u64()? }
            }
            kind::REMOVE => Item::Remove(NodeId(body.u32()?)),
            kind::DETACH => Item::Detach(NodeId(body.u32()?)),
            kind::ATTACH => Item::Attach(NodeId(body.u32()?)),
            tag => return Err(Error::Unknown { what: "log item", tag }),
        };
        body.finish()?;
        Ok(item)
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<Item<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.is_empty() {
            return None;
        }
        let item = self.item();
        if item.is_err() {
            self.reader = Reader::new(&[]);
        }
        Some(item)
    }
}
