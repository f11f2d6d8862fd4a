//! The state machine's one door.

use pgrenga_writeset::entry::Item;
use pgrenga_writeset::port::AbortReason;
use pgrenga_writeset::writeset::{self, Writeset};
use pgrenga_writeset::{Incarnation, LogIndex, NodeId, Reader, Seq, Sink, TransactionId};

use crate::certify::{Certifier, is_barrier};
use crate::fence::{Deferred, Fence, Held, Next};
use crate::fragments::Fragments;
use crate::hash::VerdictHash;
use crate::membership::Nodes;
use crate::outcomes::{Memory, Outcomes};
use crate::{Decision, Error, Limits, Outcome, Position, Status, snapshot};

/// The state that every node shares: a function of the log's prefix.
#[derive(Clone, Debug)]
pub struct Core {
    limits: Limits,
    seq: Seq,
    last_writeset: Seq,
    verdicts: VerdictHash,
    nodes: Nodes,
    outcomes: Outcomes,
    fragments: Fragments,
    fence: Fence,
    certifier: Certifier,
}

/// Where the parts of a writeset stand.
struct Place {
    at: Position,
    fragments: Vec<Position>,
}

impl Core {
    /// The state before the log's first item.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            seq: Seq(0),
            last_writeset: Seq(0),
            verdicts: VerdictHash::default(),
            nodes: Nodes::new(&limits),
            outcomes: Outcomes::new(limits.outcomes),
            fragments: Fragments::new(limits.fragments),
            fence: Fence::new(&limits),
            certifier: Certifier::new(&limits),
        }
    }

    /// Takes the log's next item and appends what it decides to `out`. Any
    /// bytes are answered; none panic.
    pub fn step(&mut self, at: Position, item: &Item<'_>, out: &mut Vec<Decision>) {
        match *item {
            Item::Writeset(bytes) => self.writeset(at, bytes, out),
            Item::Fragment { txid, ordinal, .. } => {
                if self.nodes.living(&txid).is_some() && !self.is_settled(&txid) {
                    self.fragments.insert(txid, ordinal, at);
                }
            }
            Item::FenceRequest(txid) => self.fence_request(at, txid, out),
            Item::GiveUp(txid) => self.give_up(txid, out),
            Item::FenceLift(txid) => self.fence_lift(txid, out),
            Item::Incarnation { node, incarnation } => self.incarnation_begins(at, node, incarnation, out),
            Item::Marker { id } => {
                self.seq = self.seq.next();
                out.push(Decision::Marker { seq: self.seq, id });
            }
            // Compared by who runs the core; it has no part in the state.
            Item::Verdicts { .. } => {}
            Item::Progress { node, flushed } => {
                if flushed > self.seq || self.nodes.set_flushed(node, flushed).is_err() {
                    out.push(Decision::Malformed { at });
                }
            }
            Item::Member { node, description } => {
                out.push(if description.len() > self.limits.description_bytes as usize {
                    Decision::Malformed { at }
                } else if self.nodes.describe(node, description).is_err() {
                    Decision::Full { node }
                } else {
                    Decision::Member { node }
                });
            }
            Item::Remove(node) => self.remove(node, out),
            Item::Detach(node) | Item::Attach(node) => {
                if self.nodes.set_detached(node, matches!(item, Item::Detach(_))) {
                    out.push(Decision::Member { node });
                }
            }
        }
    }

    /// The last seq given.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// The last seq given to a writeset. What came after it are markers, which
    /// leave no commit record in PostgreSQL.
    #[must_use]
    pub fn last_writeset(&self) -> Seq {
        self.last_writeset
    }

    /// How a transaction ended; `None` if it has not, or is no longer remembered.
    #[must_use]
    pub fn outcome(&self, txid: TransactionId) -> Option<Outcome> {
        self.outcomes.outcome(&txid)
    }

    /// Whether its writeset waits for the DDL fence: it is ordered, and its
    /// verdict is still to come.
    #[must_use]
    pub fn is_deferred(&self, txid: TransactionId) -> bool {
        self.fence.is_deferred(&txid)
    }

    /// What is known of a transaction at this position of the log. What was once
    /// [`Status::Committed`] is never aborted later, nor the other way round; either
    /// may become [`Status::Unknown`] when it is forgotten.
    ///
    /// It is aborted only if its outcome cannot be one of those that were forgotten:
    /// the abort that is remembered, or the writeset that waits for the fence, may be
    /// a repetition of one that committed. Without an outcome its life must be over as
    /// well: then it was not decided, and from now on its writeset is void wherever it
    /// comes.
    #[must_use]
    pub fn status(&self, txid: TransactionId) -> Status {
        match (self.outcomes.outcome(&txid), self.undecided(txid)) {
            (Some(Outcome::Commit(seq)), _) => Status::Committed(seq),
            (_, None) => Status::Unknown,
            _ if self.outcomes.may_have_forgotten(&txid) => Status::Unknown,
            (Some(Outcome::Abort(_)), Some(_)) => Status::Aborted,
            (None, Some(status)) => status,
        }
    }

    /// What is to be said of a transaction that was not decided up to here, as its outcome is known not
    /// to be one of those that were forgotten. Nothing if there never was such a life.
    #[must_use]
    pub fn undecided(&self, txid: TransactionId) -> Option<Status> {
        let exists = Incarnation(1) <= txid.incarnation && txid.incarnation <= self.nodes.incarnation(txid.node);
        let may_come = self.nodes.living(&txid).is_some() || self.fence.is_deferred(&txid);
        exists.then_some(if may_come { Status::InProgress } else { Status::Aborted })
    }

    /// The present lives of all nodes that ever took part.
    pub fn lives(&self) -> impl Iterator<Item = (NodeId, Incarnation)> {
        self.nodes.lives()
    }

    /// Why a writeset that is still to be ordered will abort, if that is certain
    /// by now: what it conflicts with does not go away.
    #[must_use]
    pub fn doom(&self, writeset: &Writeset<'_>) -> Option<AbortReason> {
        self.compare(writeset).err()
    }

    /// The node's present life; zero before its first.
    #[must_use]
    pub fn incarnation(&self, node: NodeId) -> Incarnation {
        self.nodes.incarnation(node)
    }

    /// The members and their newest descriptions, by node.
    pub fn members(&self) -> impl Iterator<Item = (NodeId, &str)> {
        self.nodes.members()
    }

    /// Whether the node is to take no new sessions.
    #[must_use]
    pub fn is_detached(&self, node: NodeId) -> bool {
        self.nodes.is_detached(node)
    }

    /// Whether the node was taken out for good.
    #[must_use]
    pub fn is_removed(&self, node: NodeId) -> bool {
        self.nodes.is_removed(node)
    }

    /// All nodes that were taken out.
    pub fn removed(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.removed()
    }

    /// The highest id that any node ever had.
    #[must_use]
    pub fn highest_node(&self) -> NodeId {
        self.nodes.highest()
    }

    /// The node's slot in every sequence, as long as it is a member; nothing before it appeared.
    #[must_use]
    pub fn sequence_slot(&self, node: NodeId) -> Option<u16> {
        self.nodes.sequence_slot(node).filter(|_| !self.nodes.is_removed(node))
    }

    /// Up to where the node last said it could lose nothing; zero if it never did.
    #[must_use]
    pub fn flushed(&self, node: NodeId) -> Seq {
        self.nodes.flushed(node)
    }

    /// Who holds the DDL fence, and the fence's log index.
    #[must_use]
    pub fn fence(&self) -> Option<(TransactionId, LogIndex)> {
        self.fence.held().map(|held| (held.txid, held.index))
    }

    /// How many writesets wait for the fence to end.
    #[must_use]
    pub fn deferred(&self) -> usize {
        self.fence.deferred()
    }

    /// The lowest log index that a verdict still to come refers to: of a
    /// deferred writeset or an open fragment. The log must be kept from there.
    #[must_use]
    pub fn oldest_needed(&self) -> Option<LogIndex> {
        [self.fence.oldest(), self.fragments.oldest()].into_iter().flatten().min()
    }

    /// A running hash over all verdicts, in order: (seq, txid) of each commit,
    /// (txid, kind of reason) of each abort. Nodes that stand at the same log
    /// position have the same.
    #[must_use]
    pub fn verdict_hash(&self) -> u64 {
        self.verdicts.0
    }

    /// The whole state as canonical bytes: equal states give equal bytes.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        snapshot::seal(|out| {
            self.limits.encode(out);
            out.put_u64(self.seq.0);
            out.put_u64(self.last_writeset.0);
            out.put_u64(self.verdicts.0);
            self.nodes.encode(out);
            self.outcomes.encode(out);
            self.fragments.encode(out);
            self.fence.encode(out);
            self.certifier.encode(out);
        })
    }

    /// The state that [`Core::snapshot`] wrote.
    ///
    /// # Errors
    /// The bytes are damaged, from another version, or taken under other limits.
    pub fn restore(bytes: &[u8], limits: Limits) -> Result<Self, Error> {
        let mut reader: Reader<'_> = snapshot::open(bytes)?;
        limits.expect(&mut reader)?;
        let core = Self {
            limits,
            seq: Seq(reader.u64()?),
            last_writeset: Seq(reader.u64()?),
            verdicts: VerdictHash(reader.u64()?),
            nodes: Nodes::decode(&mut reader, &limits)?,
            outcomes: Outcomes::decode(&mut reader, limits.outcomes)?,
            fragments: Fragments::decode(&mut reader, limits.fragments)?,
            fence: Fence::decode(&mut reader, &limits)?,
            certifier: Certifier::decode(&mut reader, &limits)?,
        };
        reader.finish()?;
        Ok(core)
    }

    /// Decided, or certain to be: nothing that comes now changes its verdict.
    fn is_settled(&self, txid: &TransactionId) -> bool {
        self.outcomes.outcome(txid).is_some() || self.fence.is_deferred(txid)
    }

    fn writeset(&mut self, at: Position, bytes: &[u8], out: &mut Vec<Decision>) {
        let decoded = Writeset::decode(bytes);
        let Some(txid) = decoded.as_ref().map_or_else(|_| readable_txid(bytes), |found| Some(found.header.txid)) else {
            out.push(Decision::Malformed { at });
            return;
        };
        if let Some(outcome) = self.outcomes.outcome(&txid) {
            out.push(Decision::Duplicate { txid, outcome });
            return;
        }
        if self.fence.is_deferred(&txid) {
            return;
        }
        let admitted = self.admit(txid, decoded.as_ref().ok());
        match (admitted, decoded) {
            (Ok(fragments), Ok(writeset)) if self.fence.defers(txid.node) => {
                let header = &bytes[..bytes.len() - writeset.body.len()];
                if self.fence.defer(at, txid, header, fragments).is_err() {
                    self.abort(txid, AbortReason::TooOld, out);
                }
            }
            (Ok(fragments), Ok(writeset)) => self.certify(&writeset, Place { at, fragments }, out),
            (Err(reason), _) => self.abort(txid, reason, out),
            (Ok(_), Err(_)) => self.abort(txid, AbortReason::Malformed, out),
        }
        // Whatever became of it, its transaction needs the fence no more.
        if self.fence.end(&txid) {
            self.drain(out);
        }
    }

    /// What can be said of a writeset where it stands, before it is compared
    /// with others. Gives its fragments.
    fn admit(&mut self, txid: TransactionId, writeset: Option<&Writeset<'_>>) -> Result<Vec<Position>, AbortReason> {
        if self.nodes.living(&txid).is_none() {
            return Err(AbortReason::Void);
        }
        let header = &writeset.ok_or(AbortReason::Malformed)?.header;
        if header.fence != LogIndex(0) && self.fence.held() != Some(Held { txid, index: header.fence }) {
            return Err(AbortReason::FenceLost);
        }
        // Nobody has seen what has no seq yet. That forgetting outcomes is
        // safe rests on this, see `outcomes`.
        if header.seen_last > self.seq {
            return Err(AbortReason::Malformed);
        }
        self.fragments.take(txid, header.fragments).ok_or(AbortReason::Malformed)
    }

    fn certify(&mut self, writeset: &Writeset<'_>, place: Place, out: &mut Vec<Decision>) {
        let txid = writeset.header.txid;
        match self.compare(writeset) {
            Err(reason) => self.abort(txid, reason, out),
            Ok(after) => {
                let node = self.nodes.handle(txid.node).expect("a node without a life has no writeset admitted");
                self.seq = self.seq.next();
                let seq = self.seq;
                self.last_writeset = seq;
                self.certifier.record(writeset, seq, node);
                self.outcomes.insert(txid, Memory::Decided(Outcome::Commit(seq)), seq);
                self.verdicts.commit(seq, &txid);
                let barrier = is_barrier(writeset.header.flags);
                let Place { at, fragments } = place;
                out.push(Decision::Commit { seq, txid, at, fragments, after, barrier });
            }
        }
    }

    /// Compares a writeset with everything certified; gives the seq after which it may be applied.
    fn compare(&self, writeset: &Writeset<'_>) -> Result<Seq, AbortReason> {
        if writeset.header.seen_last < self.outcomes.forgotten() {
            return Err(AbortReason::TooOld);
        }
        self.certifier.certify(writeset, self.seq, &self.nodes)
    }

    fn abort(&mut self, txid: TransactionId, reason: AbortReason, out: &mut Vec<Decision>) {
        self.fragments.drop_transaction(txid);
        self.outcomes.insert(txid, Memory::Decided(Outcome::Abort(reason)), self.seq);
        self.verdicts.abort(&txid, &reason);
        out.push(Decision::Abort { txid, reason });
    }

    fn fence_request(&mut self, at: Position, txid: TransactionId, out: &mut Vec<Decision>) {
        let is_over = self.outcomes.get(&txid).is_some() || self.fence.is_deferred(&txid);
        if self.nodes.living(&txid).is_none() || is_over {
            return;
        }
        match self.fence.request(txid, at.index) {
            Ok(Some(held)) => self.granted(held, out),
            Ok(None) => {}
            Err(_) => self.fence_lost(txid, out),
        }
    }

    fn granted(&self, held: Held, out: &mut Vec<Decision>) {
        out.push(Decision::FenceGranted { txid: held.txid, fence: held.index, after: self.seq });
    }

    fn fence_lost(&mut self, txid: TransactionId, out: &mut Vec<Decision>) {
        self.outcomes.insert(txid, Memory::FenceEnded, self.seq);
        out.push(Decision::FenceLost { txid });
    }

    /// The transaction ended without a writeset, or before it was known what became of it. From here
    /// on it is aborted: neither its writeset nor a request for the fence counts if it comes late.
    fn give_up(&mut self, txid: TransactionId, out: &mut Vec<Decision>) {
        if self.nodes.living(&txid).is_none() || self.is_settled(&txid) {
            return;
        }
        self.abort(txid, AbortReason::GivenUp, out);
        if self.fence.end(&txid) {
            self.drain(out);
        }
    }

    fn fence_lift(&mut self, txid: TransactionId, out: &mut Vec<Decision>) {
        if self.fence.end(&txid) {
            self.fence_lost(txid, out);
            self.drain(out);
        }
    }

    fn incarnation_begins(&mut self, at: Position, node: NodeId, incarnation: Incarnation, out: &mut Vec<Decision>) {
        match self.nodes.begin_life(node, incarnation) {
            Err(_) => out.push(Decision::Malformed { at }),
            Ok(false) => {}
            Ok(true) => {
                self.fragments.drop_node(node);
                self.fence.end_lives_before(node, incarnation);
                self.drain(out);
                // Last: who begins to serve now must know every seq that was given.
                out.push(Decision::Incarnation { node, incarnation });
            }
        }
    }

    /// Whatever the node has under way ends: also writesets that wait for the fence, which nobody
    /// will apply for it any more.
    fn remove(&mut self, node: NodeId, out: &mut Vec<Decision>) {
        if !self.nodes.remove(node) {
            return;
        }
        out.push(Decision::Removed { node });
        for deferred in self.fence.take_deferred_of(node) {
            self.abort(deferred.txid, AbortReason::Void, out);
        }
        self.fragments.drop_node(node);
        self.fence.end_node(node);
        self.drain(out);
    }

    /// Lets go on what waits, up to the next holder of the fence. Nothing
    /// happens while one holds it.
    fn drain(&mut self, out: &mut Vec<Decision>) {
        while let Some(next) = self.fence.next() {
            match next {
                Next::Writeset(deferred) => self.certify_deferred(deferred, out),
                Next::Granted(held) => {
                    self.granted(held, out);
                    for deferred in self.fence.take_deferred_of(held.txid.node) {
                        self.certify_deferred(deferred, out);
                    }
                }
            }
        }
    }

    fn certify_deferred(&mut self, mut deferred: Deferred, out: &mut Vec<Decision>) {
        let place = Place { at: deferred.at, fragments: std::mem::take(&mut deferred.fragments) };
        self.certify(&deferred.writeset(), place, out);
    }
}

/// The transaction that a writeset names which is malformed further on.
fn readable_txid(bytes: &[u8]) -> Option<TransactionId> {
    let mut reader = Reader::new(bytes);
    (reader.u8().ok()? == writeset::VERSION).then_some(())?;
    reader.u8().ok()?;
    reader.txid().ok()
}
