//! The DDL fence: the ordered section in which only its holder's node goes on.
//!
//! Requests for the fence and other nodes' writesets wait in one list, in log
//! order. Invariant: while no fence is held, nothing waits.

use std::collections::{BTreeSet, VecDeque};

use pgrenga_writeset::writeset::Writeset;
use pgrenga_writeset::{Incarnation, LogIndex, NodeId, Reader, Sink, TransactionId};

use crate::{Error, Limits, Position};

/// A fence that is held: who, and the log index of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) txid: TransactionId,
    pub(crate) index: LogIndex,
}

/// A writeset that waits: all that certification needs, without the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Deferred {
    pub(crate) txid: TransactionId,
    pub(crate) at: Position,
    /// Fragments of its body.
    pub(crate) fragments: Vec<Position>,
    /// The encoded header, which was valid when it came.
    header: Box<[u8]>,
}

impl Deferred {
    /// The writeset, without a body.
    pub(crate) fn writeset(&self) -> Writeset<'_> {
        Writeset::decode(&self.header).expect("validated before it was deferred")
    }
}

#[derive(Clone, Debug)]
enum Waiting {
    Request(Held),
    Writeset(Deferred),
}

/// The list is full.
#[derive(Debug)]
pub(crate) struct Full;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Fence {
    limit: usize,
    limit_bytes: usize,
    held: Option<Held>,
    waiting: VecDeque<Waiting>,
    /// Whose requests wait.
    queued: BTreeSet<TransactionId>,
    /// Whose writesets wait.
    deferred: BTreeSet<TransactionId>,
    /// Bytes of their headers.
    bytes: usize,
}

/// What comes next after a fence ended.
#[derive(Debug)]
pub(crate) enum Next {
    /// The next holder. Then its own node's writesets go on.
    Granted(Held),
    /// A writeset that no longer waits.
    Writeset(Deferred),
}

impl Fence {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            limit: limits.deferred as usize,
            limit_bytes: limits.deferred_bytes as usize,
            held: None,
            waiting: VecDeque::new(),
            queued: BTreeSet::new(),
            deferred: BTreeSet::new(),
            bytes: 0,
        }
    }

    pub(crate) fn held(&self) -> Option<Held> {
        self.held
    }

    pub(crate) fn is_held_by(&self, txid: &TransactionId) -> bool {
        self.held.is_some_and(|held| held.txid == *txid)
    }

    /// Whether writesets of this node must wait.
    pub(crate) fn defers(&self, node: NodeId) -> bool {
        self.held.is_some_and(|held| held.txid.node != node)
    }

    pub(crate) fn is_deferred(&self, txid: &TransactionId) -> bool {
        self.deferred.contains(txid)
    }

    /// How many writesets wait.
    pub(crate) fn deferred(&self) -> usize {
        self.deferred.len()
    }

    /// Asks for the fence: `Some` if it is granted now. A request that came
    /// before changes nothing.
    pub(crate) fn request(&mut self, txid: TransactionId, index: LogIndex) -> Result<Option<Held>, Full> {
        let request = Held { txid, index };
        if self.held.is_none() {
            self.held = Some(request);
            return Ok(self.held);
        }
        if !self.is_held_by(&txid) && !self.queued.contains(&txid) {
            if self.waiting.len() >= self.limit {
                return Err(Full);
            }
            self.queue(request);
        }
        Ok(None)
    }

    /// Lets a writeset wait.
    pub(crate) fn defer(
        &mut self,
        at: Position,
        txid: TransactionId,
        header: &[u8],
        fragments: Vec<Position>,
    ) -> Result<(), Full> {
        if self.waiting.len() >= self.limit || self.bytes + header.len() > self.limit_bytes {
            return Err(Full);
        }
        self.push(Deferred { txid, at, fragments, header: header.into() });
        Ok(())
    }

    fn queue(&mut self, request: Held) {
        self.queued.insert(request.txid);
        self.waiting.push_back(Waiting::Request(request));
    }

    fn push(&mut self, deferred: Deferred) {
        self.bytes += deferred.header.len();
        self.deferred.insert(deferred.txid);
        self.waiting.push_back(Waiting::Writeset(deferred));
    }

    fn leave(&mut self, deferred: &Deferred) {
        self.bytes -= deferred.header.len();
        self.deferred.remove(&deferred.txid);
    }

    /// Ends what a transaction has of the fence: held, or asked for. Says
    /// whether it had anything. Afterwards ask [`Fence::next`] until it says
    /// `None`.
    pub(crate) fn end(&mut self, txid: &TransactionId) -> bool {
        if self.is_held_by(txid) {
            self.held = None;
            return true;
        }
        let was_queued = self.queued.remove(txid);
        if was_queued {
            self.waiting.retain(|waiting| !matches!(waiting, Waiting::Request(request) if request.txid == *txid));
        }
        was_queued
    }

    /// Ends what the node's lives before `incarnation` have of the fence.
    /// Their writesets that wait stay: they were ordered in time. Afterwards
    /// ask [`Fence::next`] until it says `None`.
    pub(crate) fn end_lives_before(&mut self, node: NodeId, incarnation: Incarnation) {
        self.end_all(|txid| txid.node == node && txid.incarnation < incarnation);
    }

    /// Ends what the node has of the fence, in any life. Afterwards ask [`Fence::next`] until it
    /// says `None`.
    pub(crate) fn end_node(&mut self, node: NodeId) {
        self.end_all(|txid| txid.node == node);
    }

    fn end_all(&mut self, is_over: impl Fn(&TransactionId) -> bool) {
        self.held = self.held.filter(|held| !is_over(&held.txid));
        self.queued.retain(|txid| !is_over(txid));
        self.waiting.retain(|waiting| !matches!(waiting, Waiting::Request(request) if is_over(&request.txid)));
    }

    /// Takes the next from the list if no fence is held.
    pub(crate) fn next(&mut self) -> Option<Next> {
        if self.held.is_some() {
            return None;
        }
        Some(match self.waiting.pop_front()? {
            Waiting::Request(request) => {
                self.queued.remove(&request.txid);
                self.held = Some(request);
                Next::Granted(request)
            }
            Waiting::Writeset(deferred) => {
                self.leave(&deferred);
                Next::Writeset(deferred)
            }
        })
    }

    /// Takes a node's writesets from the list, in order: those of a new
    /// holder's node need not wait for it.
    pub(crate) fn take_deferred_of(&mut self, node: NodeId) -> Vec<Deferred> {
        let mut taken = Vec::new();
        for waiting in std::mem::take(&mut self.waiting) {
            match waiting {
                Waiting::Writeset(deferred) if deferred.txid.node == node => {
                    self.leave(&deferred);
                    taken.push(deferred);
                }
                other => self.waiting.push_back(other),
            }
        }
        taken
    }

    /// The lowest log index of a writeset that waits, fragments included.
    pub(crate) fn oldest(&self) -> Option<LogIndex> {
        self.waiting
            .iter()
            .filter_map(|waiting| match waiting {
                Waiting::Request(_) => None,
                Waiting::Writeset(deferred) => deferred.fragments.iter().chain([&deferred.at]).min(),
            })
            .map(|at| at.index)
            .min()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(u8::from(self.held.is_some()));
        if let Some(held) = &self.held {
            held.encode(out);
        }
        out.put_u32(self.waiting.len() as u32);
        for waiting in &self.waiting {
            match waiting {
                Waiting::Request(request) => {
                    out.put_u8(0);
                    request.encode(out);
                }
                Waiting::Writeset(deferred) => {
                    out.put_u8(1);
                    deferred.at.encode(out);
                    out.put_u32(deferred.fragments.len() as u32);
                    deferred.fragments.iter().for_each(|at| at.encode(out));
                    out.put_bytes(&deferred.header);
                }
            }
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>, limits: &Limits) -> Result<Self, Error> {
        let mut fence = Self::new(limits);
        if reader.u8()? != 0 {
            fence.held = Some(Held::decode(reader)?);
        }
        for _ in 0..reader.u32()? {
            if reader.u8()? == 0 {
                fence.queue(Held::decode(reader)?);
                continue;
            }
            let at = Position::decode(reader)?;
            let fragments = (0..reader.u32()?).map(|_| Position::decode(reader)).collect::<Result<_, _>>()?;
            let header = reader.bytes()?;
            let txid = Writeset::decode(header)?.header.txid;
            fence.push(Deferred { txid, at, fragments, header: header.into() });
        }
        if fence.held.is_none() && !fence.waiting.is_empty() {
            return Err(Error::Inconsistent("writesets wait though no fence is held"));
        }
        Ok(fence)
    }
}

impl Held {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_txid(&self.txid);
        out.put_u64(self.index.0);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, pgrenga_writeset::Error> {
        Ok(Self { txid: reader.txid()?, index: LogIndex(reader.u64()?) })
    }
}
