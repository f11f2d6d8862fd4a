//! How past transactions ended, so that a writeset that comes twice is decided
//! once.
//!
//! Two generations are kept; the older is forgotten when the newer is full.
//! Forgetting is safe: whoever was decided when `seq` was the last seq had
//! closed its writeset before, so its `seen_last <= seq`; if it committed, its
//! own seq is above its `seen_last`. [`Outcomes::forgotten`] is the last seq
//! at which a forgotten outcome was decided, and a writeset whose `seen_last`
//! is below it aborts as too old. So a repeated writeset whose commit was
//! forgotten aborts, whatever keys it has. A repeated writeset whose *abort*
//! was forgotten finds its cause again: what it conflicted with is indexed or
//! was dropped (too old), its life and its fence never come back. What remains
//! is a writeset that missed a fragment, found the waiting list full or was given
//! up, and of which nothing was committed while two generations of aborts went by.
//!
//! Of each node the latest transaction whose outcome was forgotten is known, by
//! its life and its counter. A later one that has no outcome was not decided
//! yet; an earlier one may have been ([`Outcomes::may_have_forgotten`]). What is
//! void needs no memory for that: its life says so.

use std::collections::BTreeMap;
use std::sync::Arc;

use pgrenga_writeset::port::AbortReason;
use pgrenga_writeset::{Incarnation, NodeId, Reader, Seq, Sink, TransactionId};

use crate::hash::{Map, Mixing};
use crate::snapshot::put_map;
use crate::{Error, Outcome};

/// What is remembered of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    /// Its writeset was decided.
    Decided(Outcome),
    /// It lost the fence; a request for it that comes late must not
    /// be granted to nobody.
    FenceEnded,
}

#[derive(Clone, Debug, Default)]
struct Generation {
    memories: Map<TransactionId, Memory, Mixing>,
    /// The last seq when its newest memory was made.
    decided_at: Seq,
}

impl Generation {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.decided_at.0);
        put_map(out, &self.memories, |txid, memory, out| {
            out.put_txid(txid);
            encode_memory(memory, out);
        });
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let mut generation = Self { decided_at: Seq(reader.u64()?), ..Self::default() };
        for _ in 0..reader.u32()? {
            let txid = reader.txid()?;
            generation.memories.insert(txid, decode_memory(reader)?);
        }
        Ok(generation)
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Outcomes {
    limit: usize,
    current: Generation,
    /// Never changes, so that a copy of the core shares it.
    previous: Arc<Generation>,
    forgotten: Seq,
    /// Of each node that had a life: the latest transaction that was forgotten.
    latest_forgotten: BTreeMap<NodeId, (Incarnation, u64)>,
}

impl Outcomes {
    pub(crate) fn new(limit: u32) -> Self {
        Self {
            limit: limit as usize,
            current: Generation::default(),
            previous: Arc::default(),
            forgotten: Seq(0),
            latest_forgotten: BTreeMap::new(),
        }
    }

    pub(crate) fn get(&self, txid: &TransactionId) -> Option<Memory> {
        self.current.memories.get(txid).or_else(|| self.previous.memories.get(txid)).copied()
    }

    /// The decided outcome, if any.
    pub(crate) fn outcome(&self, txid: &TransactionId) -> Option<Outcome> {
        match self.get(txid) {
            Some(Memory::Decided(outcome)) => Some(outcome),
            Some(Memory::FenceEnded) | None => None,
        }
    }

    /// A writeset that has seen less than this might be one that was decided
    /// and forgotten.
    pub(crate) fn forgotten(&self) -> Seq {
        self.forgotten
    }

    /// Whether the transaction, of which nothing is remembered, may have been
    /// decided all the same.
    pub(crate) fn may_have_forgotten(&self, txid: &TransactionId) -> bool {
        self.latest_forgotten.get(&txid.node).is_some_and(|latest| (txid.incarnation, txid.counter) <= *latest)
    }

    /// The previous generation is about to go. Only what is void can name a node
    /// that never had a life, so there are no more entries than nodes.
    fn note_forgotten(&mut self) {
        for (txid, memory) in &self.previous.memories {
            if *memory != Memory::Decided(Outcome::Abort(AbortReason::Void)) {
                let latest = self.latest_forgotten.entry(txid.node).or_default();
                *latest = (*latest).max((txid.incarnation, txid.counter));
            }
        }
    }

    /// Remembers; `seq` is the last seq given, this transaction's included.
    pub(crate) fn insert(&mut self, txid: TransactionId, memory: Memory, seq: Seq) {
        if self.current.memories.len() >= self.limit {
            self.forgotten = self.previous.decided_at.max(self.forgotten);
            self.note_forgotten();
            let oldest = std::mem::replace(&mut self.previous, Arc::new(std::mem::take(&mut self.current)));
            self.current = Arc::try_unwrap(oldest).unwrap_or_default();
            self.current.memories.clear();
        }
        self.current.memories.insert(txid, memory);
        self.current.decided_at = seq;
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.forgotten.0);
        out.put_u32(self.latest_forgotten.len() as u32);
        for (&node, &(incarnation, counter)) in &self.latest_forgotten {
            out.put_txid(&TransactionId { node, incarnation, counter });
        }
        self.current.encode(out);
        self.previous.encode(out);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>, limit: u32) -> Result<Self, Error> {
        let mut outcomes = Self::new(limit);
        outcomes.forgotten = Seq(reader.u64()?);
        for _ in 0..reader.u32()? {
            let latest = reader.txid()?;
            outcomes.latest_forgotten.insert(latest.node, (latest.incarnation, latest.counter));
        }
        outcomes.current = Generation::decode(reader)?;
        outcomes.previous = Arc::new(Generation::decode(reader)?);
        Ok(outcomes)
    }
}

fn encode_memory(memory: &Memory, out: &mut Vec<u8>) {
    let (tag, ordinal, seq, node) = match *memory {
        Memory::FenceEnded => (0, 0, Seq(0), NodeId(0)),
        Memory::Decided(Outcome::Commit(seq)) => (1, 0, seq, NodeId(0)),
        Memory::Decided(Outcome::Abort(reason)) => match reason {
            AbortReason::Key { ordinal, winner, node } => (2, ordinal, winner, node),
            AbortReason::Relation { ordinal, winner, node } => (3, ordinal, winner, node),
            AbortReason::Catalog { winner, node } => (4, 0, winner, node),
            AbortReason::TooOld => (5, 0, Seq(0), NodeId(0)),
            AbortReason::FenceLost => (6, 0, Seq(0), NodeId(0)),
            AbortReason::Void => (7, 0, Seq(0), NodeId(0)),
            AbortReason::Malformed => (8, 0, Seq(0), NodeId(0)),
            AbortReason::GivenUp => (9, 0, Seq(0), NodeId(0)),
            AbortReason::Read { ordinal, winner, node } => (10, ordinal, winner, node),
        },
    };
    out.put_u8(tag);
    out.put_u32(ordinal);
    out.put_u64(seq.0);
    out.put_u32(node.0);
}

fn decode_memory(reader: &mut Reader<'_>) -> Result<Memory, pgrenga_writeset::Error> {
    let (tag, ordinal) = (reader.u8()?, reader.u32()?);
    let (winner, node) = (Seq(reader.u64()?), NodeId(reader.u32()?));
    let reason = match tag {
        0 => return Ok(Memory::FenceEnded),
        1 => return Ok(Memory::Decided(Outcome::Commit(winner))),
        2 => AbortReason::Key { ordinal, winner, node },
        3 => AbortReason::Relation { ordinal, winner, node },
        4 => AbortReason::Catalog { winner, node },
        5 => AbortReason::TooOld,
        6 => AbortReason::FenceLost,
        7 => AbortReason::Void,
        8 => AbortReason::Malformed,
        9 => AbortReason::GivenUp,
        10 => AbortReason::Read { ordinal, winner, node },
        tag => return Err(pgrenga_writeset::Error::Unknown { what: "outcome", tag }),
    };
    Ok(Memory::Decided(Outcome::Abort(reason)))
}
