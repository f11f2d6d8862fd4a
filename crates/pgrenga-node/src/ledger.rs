//! What is ordered and may still have to be applied here.
//!
//! Holds every seq above the position up to which PostgreSQL has its commits
//! durably: a crash takes PostgreSQL back, but never below that.
//! `flushed <= visible <= certified`.

use std::collections::BTreeMap;

use bytes::Bytes;
use pgrenga_core::Position;
use pgrenga_core::schedule::Task;
use pgrenga_writeset::{Seq, TransactionId};

/// Bytes of bodies kept in memory; others are read from the log again.
const CACHED: usize = 16 << 20;

/// What a seq stands for.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// A writeset.
    Writeset {
        /// Whose.
        txid: TransactionId,
        /// Where it stands in the log.
        at: Position,
        /// Where its fragments stand.
        fragments: Vec<Position>,
        /// Its ops, if still in memory.
        body: Option<Bytes>,
    },
    /// A point at which nodes are compared.
    Marker {
        /// Chosen by who asked for it; nothing if that was before the log's
        /// beginning, so that nobody waits for it any more.
        id: Option<u64>,
    },
}

/// One seq.
#[derive(Clone, Debug)]
pub(crate) struct Ordered {
    /// How the dispatcher sees it.
    pub(crate) task: Task,
    /// What there is to do.
    pub(crate) work: Work,
}

/// All of them, by seq.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    ordered: BTreeMap<Seq, Ordered>,
    cached: usize,
    visible: Seq,
    /// Every seq above this was entered since the daemon began, and not given up.
    begins: Seq,
}

impl Ledger {
    /// Begins with the state of a snapshot: what has a commit record up to there
    /// is flushed, here as elsewhere. The markers after that have none.
    pub(crate) fn begin(&mut self, last_writeset: Seq, certified: Seq) {
        self.begins = last_writeset;
        for seq in (last_writeset.0 + 1..=certified.0).map(Seq) {
            let task = Task { seq, after: Seq(seq.0 - 1), barrier: false, bytes: 0 };
            self.insert(seq, Ordered { task, work: Work::Marker { id: None } });
        }
    }

    /// Above which seq it is complete, but for what is flushed.
    pub(crate) fn begins(&self) -> Seq {
        self.begins
    }

    /// Enters a seq.
    pub(crate) fn insert(&mut self, seq: Seq, mut ordered: Ordered) {
        if let Work::Writeset { body: body @ Some(_), .. } = &mut ordered.work {
            let size = body.as_ref().map_or(0, Bytes::len);
            if self.cached + size > CACHED {
                *body = None;
            } else {
                self.cached += size;
            }
        }
        self.ordered.insert(seq, ordered);
    }

    /// What stands at `seq`.
    pub(crate) fn get(&self, seq: Seq) -> Option<&Ordered> {
        self.ordered.get(&seq)
    }

    /// Everything above `seq`, in order.
    pub(crate) fn above(&self, seq: Seq) -> impl Iterator<Item = (Seq, &Ordered)> {
        self.ordered.range(seq.next()..).map(|(seq, ordered)| (*seq, ordered))
    }

    /// Everything up to `visible` is applied: its bytes are not needed soon.
    pub(crate) fn visible(&mut self, visible: Seq) {
        if visible <= self.visible {
            self.visible = visible;
            return;
        }
        for (_, ordered) in self.ordered.range_mut(self.visible.next()..=visible) {
            if let Work::Writeset { body, .. } = &mut ordered.work {
                self.cached -= body.take().map_or(0, |body| body.len());
            }
        }
        self.visible = visible;
    }

    /// Everything up to `flushed` is durable in PostgreSQL and will never be
    /// needed again. Markers have no commit record: those after the last
    /// writeset are passed again after a crash.
    pub(crate) fn flushed(&mut self, flushed: Seq) {
        let is_writeset = |ordered: &Ordered| matches!(ordered.work, Work::Writeset { .. });
        let last = self.ordered.range(..=flushed).rev().find(|(_, ordered)| is_writeset(ordered));
        if let Some((&flushed, _)) = last {
            self.drop_up_to(flushed);
        }
    }

    /// The log up to `seq` is let go though PostgreSQL, which is gone, lacks some of it: it will
    /// need a copy of another node's data.
    pub(crate) fn give_up(&mut self, seq: Seq) {
        self.drop_up_to(seq);
        self.begins = self.begins.max(seq);
    }

    fn drop_up_to(&mut self, seq: Seq) {
        let keep = self.ordered.split_off(&seq.next());
        for ordered in std::mem::replace(&mut self.ordered, keep).into_values() {
            if let Work::Writeset { body: Some(body), .. } = ordered.work {
                self.cached -= body.len();
            }
        }
    }

    /// Whether it holds every seq after `visible` up to `certified`.
    pub(crate) fn reaches(&self, visible: Seq, certified: Seq) -> bool {
        visible >= certified || self.ordered.contains_key(&visible.next())
    }

    /// How many seqs it holds.
    pub(crate) fn len(&self) -> usize {
        self.ordered.len()
    }
}
