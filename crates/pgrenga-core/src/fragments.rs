//! Pieces of large writesets that came ahead of their header.

use std::collections::BTreeMap;

use pgrenga_writeset::{LogIndex, NodeId, Reader, Sink, TransactionId};

use crate::{Error, Position};

/// Open fragments: where each stands, by transaction and ordinal.
#[derive(Clone, Debug)]
pub(crate) struct Fragments {
    limit: usize,
    open: BTreeMap<(TransactionId, u32), Position>,
}

impl Fragments {
    pub(crate) fn new(limit: u32) -> Self {
        Self { limit: limit as usize, open: BTreeMap::new() }
    }

    /// Notes a fragment. One that comes again is the same again: the first
    /// counts. One beyond the limit is ignored, and will be missed.
    pub(crate) fn insert(&mut self, txid: TransactionId, ordinal: u32, at: Position) {
        if self.open.len() < self.limit {
            self.open.entry((txid, ordinal)).or_insert(at);
        }
    }

    /// Takes a transaction's fragments, in order, if they are exactly `0..count`.
    pub(crate) fn take(&mut self, txid: TransactionId, count: u32) -> Option<Vec<Position>> {
        if self.open.is_empty() {
            return (count == 0).then(Vec::new);
        }
        let complete = self.of(txid).map(|(ordinal, _)| ordinal).eq(0..count);
        let positions = if complete { self.of(txid).map(|(_, at)| at).collect() } else { Vec::new() };
        self.drop_transaction(txid);
        complete.then_some(positions)
    }

    fn of(&self, txid: TransactionId) -> impl Iterator<Item = (u32, Position)> {
        self.open.range((txid, 0)..=(txid, u32::MAX)).map(|(&(_, ordinal), &at)| (ordinal, at))
    }

    /// Forgets a transaction that will have no header.
    pub(crate) fn drop_transaction(&mut self, txid: TransactionId) {
        while let Some((&key, _)) = self.open.range((txid, 0)..=(txid, u32::MAX)).next() {
            self.open.remove(&key);
        }
    }

    /// Forgets a node's: those of older lives when a new one begins.
    pub(crate) fn drop_node(&mut self, node: NodeId) {
        self.open.retain(|(txid, _), _| txid.node != node);
    }

    /// The lowest log index of any.
    pub(crate) fn oldest(&self) -> Option<LogIndex> {
        self.open.values().map(|at| at.index).min()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.open.len() as u32);
        for ((txid, ordinal), at) in &self.open {
            out.put_txid(txid);
            out.put_u32(*ordinal);
            at.encode(out);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>, limit: u32) -> Result<Self, Error> {
        let mut fragments = Self::new(limit);
        for _ in 0..reader.u32()? {
            let key = (reader.txid()?, reader.u32()?);
            fragments.open.insert(key, Position::decode(reader)?);
        }
        Ok(fragments)
    }
}
