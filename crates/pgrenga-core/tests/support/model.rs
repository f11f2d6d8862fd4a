//! What certification must decide, as plainly as possible: every certified
//! writeset is kept for ever, and each new one is compared with all of them.

use std::collections::BTreeMap;

use pgrenga_core::{Decision, Position};
use pgrenga_writeset::port::AbortReason;
use pgrenga_writeset::writeset::{Access, Flags, Key, Reading, RelationUse, TableLocks, Writeset};
use pgrenga_writeset::{LogIndex, NodeId, Seq, TransactionId};

struct Certified {
    seq: Seq,
    node: NodeId,
    bytes: Vec<u8>,
}

/// The highest seqs of earlier accesses that conflict, by the position that
/// counts, seen or not.
#[derive(Clone, Copy, Default)]
struct Conflicts {
    by_last: Option<(Seq, NodeId)>,
    by_first: Option<(Seq, NodeId)>,
}

#[derive(Default)]
pub struct Model {
    certified: Vec<Certified>,
    barrier: Seq,
    seq: Seq,
    /// Where each writeset stands that is not decided yet.
    ordered: BTreeMap<(TransactionId, Position), Vec<u8>>,
    decided: BTreeMap<TransactionId, ()>,
}

/// What was seen when the key with that ordinal was captured: what the last
/// moment up to it says.
fn captured(w: &Writeset<'_>, ordinal: u32) -> Seq {
    let moments: Vec<_> = w.moments().collect();
    // One behind a later key takes effect with that key.
    let reached = moments.iter().take_while(|moment| moment.key <= ordinal);
    reached.last().map_or(w.header.seen_first, |moment| moment.seen)
}

fn is_barrier(w: &Writeset<'_>) -> bool {
    w.header.flags.contains(Flags::BARRIER) || w.header.flags.contains(Flags::CATALOG)
}

fn keys_conflict(mine: &Key, theirs: &Key) -> bool {
    mine.hash == theirs.hash && mine.mode.conflicts_with(theirs.mode)
}

fn modes_conflict(mine: &RelationUse, theirs: TableLocks) -> bool {
    mine.applied.union(mine.held).conflicting().intersects(theirs)
}

impl Conflicts {
    fn verdict(
        &self,
        w: &Writeset<'_>,
        (first, last): (Seq, Seq),
        reason: impl Fn(Seq, NodeId) -> AbortReason,
    ) -> Option<AbortReason> {
        let end = w.header.seen_last;
        let counts = |newest: Option<(Seq, NodeId)>, seen: Seq| newest.filter(|(seq, _)| *seq > seen.min(end));
        counts(self.by_last, last).or_else(|| counts(self.by_first, first)).map(|(seq, node)| reason(seq, node))
    }

    fn newest(&self) -> Seq {
        [self.by_last, self.by_first].into_iter().flatten().map(|(seq, _)| seq).max().unwrap_or_default()
    }
}

impl Model {
    fn conflicts(
        &self,
        by_last: impl Fn(&Writeset<'_>) -> bool,
        by_first: impl Fn(&Writeset<'_>) -> bool,
    ) -> Conflicts {
        let mut found = Conflicts::default();
        for earlier in &self.certified {
            let writeset = Writeset::decode(&earlier.bytes).expect("it was certified");
            if by_last(&writeset) {
                found.by_last = Some((earlier.seq, earlier.node));
            }
            if by_first(&writeset) {
                found.by_first = Some((earlier.seq, earlier.node));
            }
        }
        found
    }

    /// Why the writeset must abort, and the seq after which it may be applied.
    fn certify(&self, w: &Writeset<'_>) -> (Option<AbortReason>, Seq) {
        let is_unfenced_catalog = w.header.flags.contains(Flags::CATALOG) && w.header.fence == LogIndex(0);
        let is_barrier = is_barrier(w);
        let mut after = self.barrier;
        let mut verdict = None;
        let mut judge = |conflicts: Conflicts, seen: (Seq, Seq), reason: &dyn Fn(Seq, NodeId) -> AbortReason| {
            after = after.max(conflicts.newest());
            verdict = verdict.or(conflicts.verdict(w, seen, reason));
        };
        let seen = (w.header.seen_first, w.header.seen_last);
        let catalog = self.conflicts(|their| their.header.flags.contains(Flags::CATALOG), |_| is_unfenced_catalog);
        judge(catalog, (w.header.seen_first, w.header.seen_first), &|winner, node| AbortReason::Catalog {
            winner,
            node,
        });
        for (ordinal, mine) in (0..).zip(w.relations()) {
            let kept = |held: TableLocks| TableLocks(held.0 & !TableLocks::ACCESS_SHARE.0);
            let conflicts = self.conflicts(
                |their| their.relations().any(|r| r.hash == mine.hash && modes_conflict(&mine, r.applied)),
                |their| their.relations().any(|r| r.hash == mine.hash && modes_conflict(&mine, kept(r.held))),
            );
            judge(conflicts, seen, &|winner, node| AbortReason::Relation { ordinal, winner, node });
        }
        for (ordinal, mine) in (0..).zip(w.keys()) {
            let wrote = |key: &Key| key.access != Access::Lock && keys_conflict(&mine, key);
            let locked = |key: &Key| key.access == Access::Lock && keys_conflict(&mine, key);
            let conflicts = self
                .conflicts(|their| their.keys().any(|key| wrote(&key)), |their| their.keys().any(|key| locked(&key)));
            let captured = captured(w, ordinal);
            let last = if mine.access == Access::Deferred { captured } else { w.header.seen_last };
            judge(conflicts, (captured, last), &|winner, node| AbortReason::Key { ordinal, winner, node });
        }
        verdict = verdict.or_else(|| self.judge_reads(w));
        if is_barrier {
            after = self.seq;
        }
        (verdict, after)
    }

    /// Whether anything that was read has been written since.
    fn judge_reads(&self, w: &Writeset<'_>) -> Option<AbortReason> {
        if !w.header.flags.contains(Flags::SERIALIZABLE) {
            return None;
        }
        let since = |counts: &dyn Fn(&Writeset<'_>) -> bool| {
            let later =
                self.certified.iter().rev().take_while(|earlier| earlier.seq > w.snapshot().min(w.header.seen_last));
            later
                .filter(|earlier| counts(&Writeset::decode(&earlier.bytes).expect("it was certified")))
                .map(|earlier| (earlier.seq, earlier.node))
                .next()
        };
        if let Some((winner, node)) = since(&|their| their.header.flags.contains(Flags::CATALOG)) {
            return Some(AbortReason::Catalog { winner, node });
        }
        (0..).zip(w.reads()).find_map(|(ordinal, read)| {
            let uses = |their: &Writeset<'_>, modes: u16| {
                their.relations().any(|relation| relation.hash == read.hash && relation.applied.0 & modes != 0)
            };
            let found = match read.what {
                // Every mode that changes rows or the definition, from RowExclusive on, but for Share itself.
                Reading::Rows => since(&|their| uses(their, 0b1_1101_1000)),
                // From ShareUpdateExclusive on.
                Reading::Definition => since(&|their| uses(their, 0b1_1111_0000)),
                Reading::Key => {
                    since(&|their| their.keys().any(|key| key.hash == read.hash && key.access != Access::Lock))
                }
            };
            found.map(|(winner, node)| AbortReason::Read { ordinal, winner, node })
        })
    }

    /// Notes a writeset where it stands in the log.
    pub fn ordered(&mut self, at: Position, bytes: &[u8]) {
        if let Ok(writeset) = Writeset::decode(bytes) {
            self.ordered.insert((writeset.header.txid, at), bytes.to_vec());
        }
    }

    /// Checks a decision against all before it. With `forgets`, the core may
    /// take what it forgot for a conflict.
    pub fn check(&mut self, at: Position, decision: &Decision, forgets: bool) {
        match decision {
            Decision::Marker { seq, .. } => {
                assert_eq!(*seq, self.seq.next());
                self.seq = *seq;
            }
            Decision::Commit { seq, txid, at, after, barrier, fragments } => {
                assert_eq!(*seq, self.seq.next(), "seqs are dense");
                assert!(self.decided.insert(*txid, ()).is_none(), "{txid} was decided twice");
                let bytes = self.ordered.remove(&(*txid, *at)).expect("a commit is of what stands there");
                let writeset = Writeset::decode(&bytes).expect("a commit can be read");
                let (verdict, expected) = self.certify(&writeset);
                assert_eq!(verdict, None, "{txid} commits as {seq}");
                assert!(*after >= expected && *after < *seq, "{txid} after {after}, at least {expected}");
                assert!(forgets || *after == expected, "{txid} after {after}, exactly {expected}");
                assert_eq!(*barrier, is_barrier(&writeset));
                assert_eq!(fragments.len(), writeset.header.fragments as usize);
                if *barrier {
                    self.barrier = *seq;
                }
                self.certified.push(Certified { seq: *seq, node: txid.node, bytes });
                self.seq = *seq;
            }
            Decision::Abort { txid, reason } => {
                assert!(self.decided.insert(*txid, ()).is_none(), "{txid} was decided twice");
                match reason {
                    AbortReason::TooOld => assert!(forgets, "{txid} is not too old"),
                    AbortReason::Key { .. }
                    | AbortReason::Relation { .. }
                    | AbortReason::Catalog { .. }
                    | AbortReason::Read { .. } => {
                        let stands = |(id, place): &&(TransactionId, Position)| id == txid && *place <= at;
                        // The first that came is the one that is decided.
                        let first = *self.ordered.keys().find(stands).expect("it stands in the log");
                        let writeset = Writeset::decode(&self.ordered[&first]).expect("it could be read");
                        let (verdict, _) = self.certify(&writeset);
                        assert!(verdict == Some(*reason) || forgets && verdict.is_some(), "{txid}: {reason:?}");
                    }
                    AbortReason::FenceLost | AbortReason::Void | AbortReason::Malformed | AbortReason::GivenUp => {}
                }
            }
            _ => {}
        }
    }

    pub fn is_decided(&self, txid: &TransactionId) -> bool {
        self.decided.contains_key(txid)
    }
}
