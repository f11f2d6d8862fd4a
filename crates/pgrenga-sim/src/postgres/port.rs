//! The commit port: what PostgreSQL and its daemon tell each other.

use pgrenga_writeset::{Incarnation, LogIndex, Seq, TransactionId};
use tokio::sync::mpsc;

use super::sessions::Stage;
use super::{Inner, Postgres};
use crate::invariants::Told;
use crate::writes::Writes;

/// What PostgreSQL tells its daemon.
#[derive(Debug)]
pub enum FromPostgres {
    /// It is there.
    Hello {
        /// Tells one start from the next.
        start: u64,
        /// The visible seq.
        visible: Seq,
    },
    /// A transaction asks to commit.
    Submit {
        /// Which.
        txid: TransactionId,
        /// Its encoded writeset.
        bytes: Vec<u8>,
    },
    /// A piece of a writeset, ahead of it.
    Fragment {
        /// Whose.
        txid: TransactionId,
        /// Which piece.
        ordinal: u32,
        /// The piece.
        body: Vec<u8>,
    },
    /// A transaction asks for the fence.
    FenceRequest(TransactionId),
    /// It ended without a writeset.
    GiveUp(TransactionId),
    /// This transaction still waits.
    Waiting(TransactionId),
    /// Nobody here commits this seq.
    Orphan(Seq),
    /// Up to here commits are visible.
    Progress(Seq),
    /// Up to here they are durable.
    Flushed(Seq),
}

/// How an attempt to apply a seq ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It is visible.
    Done,
    /// Try again.
    Again,
}

impl Postgres {
    /// A daemon connects.
    pub fn connect(&self, daemon: mpsc::UnboundedSender<FromPostgres>) {
        let mut inner = self.inner.borrow_mut();
        inner.daemon = Some(daemon);
        inner.serves = false;
        // What is submitted before the next life begins is held back.
        inner.life = None;
        inner.hello();
    }

    /// A life began.
    pub fn welcome(&self, life: Incarnation) {
        self.change(|inner| {
            inner.life = Some(life);
            inner.ask_anew();
        });
    }

    /// It may take writes.
    pub fn serve(&self) {
        self.change(|inner| inner.serves = true);
    }

    /// The transaction is ordered.
    pub fn order(&self, txid: TransactionId, seq: Seq) {
        self.change(|inner| {
            if seq <= inner.table.visible || inner.ordered(seq).is_some() {
                return;
            }
            match inner.by_txid(txid) {
                Some(session) if session.stage == Stage::Waiting => session.stage = Stage::Ordered(seq),
                found => {
                    let serial = found.map(|session| session.serial);
                    serial.and_then(|serial| inner.forget(serial));
                    inner.send(FromPostgres::Orphan(seq));
                }
            }
        });
    }

    /// The transaction must abort.
    pub fn abort(&self, txid: TransactionId) {
        self.change(|inner| {
            let serial = inner.by_txid(txid).filter(|session| !matches!(session.stage, Stage::Ordered(_)));
            if let Some(serial) = serial.map(|session| session.serial) {
                inner.end(serial, Told::Aborted);
            }
        });
    }

    /// The transaction's writeset was lost.
    pub fn resubmit(&self, txid: TransactionId) {
        self.change(|inner| inner.resubmit(txid));
    }

    /// The transaction holds the fence.
    pub fn grant_fence(&self, txid: TransactionId, fence: LogIndex, after: Seq) {
        self.change(|inner| {
            let session = inner.by_txid(txid).filter(|session| session.stage == Stage::WantsFence);
            if let Some(session) = session {
                session.stage = Stage::HasFence(fence, after);
                inner.clear_table();
            }
        });
    }

    /// The transaction lost the fence.
    pub fn lose_fence(&self, txid: TransactionId) {
        self.change(|inner| {
            let waits = |stage| matches!(stage, Stage::WantsFence | Stage::HasFence(..));
            let serial = inner.by_txid(txid).filter(|session| waits(session.stage)).map(|session| session.serial);
            if let Some(serial) = serial {
                inner.end(serial, Told::Aborted);
            }
        });
    }

    /// A marker's turn, if it has come. It leaves no commit record.
    pub fn pass_marker(&self, seq: Seq) {
        self.change(|inner| {
            if seq == inner.table.visible.next() {
                inner.commit(seq, None);
            }
        });
    }

    /// A worker executes a run: takes its rows.
    pub fn execute(&self, run: &[(Seq, Writes)]) {
        self.change(|inner| run.iter().for_each(|(_, writes)| inner.brute_force(writes)));
    }

    /// A worker commits the run that it has executed, if its turn has come: all of it at once.
    pub fn apply(&self, run: &[(Seq, Writes)]) -> Applied {
        let mut applied = Applied::Again;
        self.change(|inner| {
            if run.last().is_some_and(|(last, _)| *last <= inner.table.visible) {
                applied = Applied::Done;
            } else if run.first().is_some_and(|(first, _)| *first == inner.table.visible.next())
                && run.iter().all(|(seq, _)| inner.ordered(*seq).is_none())
            {
                for (seq, writes) in run {
                    // Whoever took a row since it was executed waits behind it.
                    inner.brute_force(writes);
                    inner.commit(*seq, Some(writes.clone()));
                }
                applied = Applied::Done;
            }
        });
        applied
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        {
            let mut inner = self.inner.borrow_mut();
            if !inner.is_alive() {
                return;
            }
            change(&mut inner);
        }
        self.changed.notify_waiters();
    }
}
