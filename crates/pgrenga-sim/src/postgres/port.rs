//! The commit port: what PostgreSQL and its daemon tell each other.

use pgrenga_writeset::port::ToPostgres;
use pgrenga_writeset::{LogIndex, Seq, TransactionId};
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

    /// The daemon says something.
    pub fn obey(&self, word: &ToPostgres<'_>) {
        self.change(|inner| match *word {
            ToPostgres::Welcome { incarnation, .. } => {
                inner.life = Some(incarnation);
                inner.ask_anew();
            }
            ToPostgres::Commit { txid, seq } => inner.order(txid, seq),
            ToPostgres::Abort { txid, .. } => inner.settle(txid, Told::Aborted),
            ToPostgres::Forgotten(txid) => inner.settle(txid, Told::Unknown),
            ToPostgres::Refused(txid) => inner.refuse(txid),
            ToPostgres::Resubmit(txid) => inner.resubmit(txid),
            ToPostgres::FenceGranted { txid, fence, after } => inner.grant_fence(txid, fence, after),
            ToPostgres::FenceLost(txid) => inner.lose_fence(txid),
            _ => {}
        });
    }

    /// It may take writes.
    pub fn serve(&self) {
        self.change(|inner| inner.serves = true);
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

impl Inner {
    fn order(&mut self, txid: TransactionId, seq: Seq) {
        if seq <= self.table.visible || self.ordered(seq).is_some() {
            return;
        }
        match self.by_txid(txid) {
            Some(session) if session.stage == Stage::Waiting => session.stage = Stage::Ordered(seq),
            found => {
                let serial = found.map(|session| session.serial);
                serial.and_then(|serial| self.forget(serial));
                self.send(FromPostgres::Orphan(seq));
            }
        }
    }

    /// What is ordered listens no more.
    fn settle(&mut self, txid: TransactionId, told: Told) {
        let session = self.by_txid(txid).filter(|session| !matches!(session.stage, Stage::Ordered(_)));
        if let Some(serial) = session.map(|session| session.serial) {
            self.end(serial, told);
        }
    }

    /// The disks are full. Fragments of it that went ahead are taken back.
    fn refuse(&mut self, txid: TransactionId) {
        if self.by_txid(txid).is_some_and(|session| session.pieces > 1) {
            self.send(FromPostgres::GiveUp(txid));
        }
        self.settle(txid, Told::Refused);
    }

    fn grant_fence(&mut self, txid: TransactionId, fence: LogIndex, after: Seq) {
        let session = self.by_txid(txid).filter(|session| session.stage == Stage::WantsFence);
        if let Some(session) = session {
            session.stage = Stage::HasFence(fence, after);
            self.clear_table();
        }
    }

    fn lose_fence(&mut self, txid: TransactionId) {
        let waits = |stage| matches!(stage, Stage::WantsFence | Stage::HasFence(..));
        let serial = self.by_txid(txid).filter(|session| waits(session.stage)).map(|session| session.serial);
        if let Some(serial) = serial {
            self.end(serial, Told::Aborted);
        }
    }
}
