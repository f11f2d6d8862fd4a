//! Sessions: what clients do, and how their transactions end.

use pgrenga_writeset::{LogIndex, Seq, TransactionId};
use tokio::sync::oneshot;

use super::{FromPostgres, Inner, Postgres};
use crate::invariants::{Event, Told};
use crate::writes::{Touch, Writes};

/// How far a transaction is: its commit slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It runs.
    Open,
    /// It asked for the fence.
    WantsFence,
    /// It holds the fence; everything up to the seq comes before it.
    HasFence(LogIndex, Seq),
    /// Its writeset waits for the verdict.
    Waiting,
    /// Nobody waits for the verdict any more.
    Orphan,
    /// It commits when its turn comes.
    Ordered(Seq),
}

pub(super) struct Session {
    pub(super) serial: u64,
    pub(super) stage: Stage,
    pub(super) txid: Option<TransactionId>,
    writes: Writes,
    seen: (Seq, Seq),
    fence: LogIndex,
    pub(super) pieces: usize,
    client: Option<oneshot::Sender<Told>>,
}

impl Session {
    /// Answers the client, who hears the first answer only.
    pub(super) fn tell(&mut self, told: Told) {
        if let Some(client) = self.client.take() {
            let _ = client.send(told);
        }
    }

    /// The server is gone.
    pub(super) fn lost(mut self) {
        let submitted = matches!(self.stage, Stage::Waiting | Stage::Orphan | Stage::Ordered(_));
        self.tell(if submitted { Told::Unknown } else { Told::Aborted });
    }

    /// Holds the lock on the whole table that a definition takes.
    fn locks_table(&self) -> bool {
        let held = matches!(self.stage, Stage::HasFence(..) | Stage::Waiting | Stage::Ordered(_));
        self.writes.definition && held
    }

    /// Holds rows that a definition has to wait for.
    fn locks_rows(&self) -> bool {
        !self.writes.definition && matches!(self.stage, Stage::Waiting | Stage::Ordered(_))
    }

    fn waits_for_fence(&self) -> bool {
        matches!(self.stage, Stage::WantsFence | Stage::HasFence(..))
    }
}

impl Postgres {
    /// A client begins a transaction, which is told how it ended. A definition takes the fence first.
    pub fn open(&self, serial: u64, definition: bool, pieces: usize) -> Option<oneshot::Receiver<Told>> {
        let mut inner = self.inner.borrow_mut();
        if !inner.is_alive() || !inner.serves || inner.sessions.values().any(Session::locks_table) {
            return None;
        }
        let (client, told) = oneshot::channel();
        let (schema, visible) = (inner.table.schema(), inner.table.visible);
        let padding = if pieces > 1 { pieces * 200 } else { fastrand::usize(..64) };
        let writes = Writes { serial, definition, schema, touched: Vec::new(), padding };
        let mut session = Session {
            serial,
            stage: Stage::Open,
            txid: None,
            writes,
            seen: (visible, visible),
            fence: LogIndex(0),
            pieces,
            client: Some(client),
        };
        if definition {
            session.txid = Some(inner.next_txid()?);
            session.stage = Stage::WantsFence;
            inner.send(FromPostgres::FenceRequest(session.txid?));
        }
        inner.sessions.insert(serial, session);
        Some(told)
    }

    /// Writes or locks a row, unless another session holds it. False if the transaction is no more.
    pub fn touch(&self, serial: u64, row: u64, write: bool) -> bool {
        let mut inner = self.inner.borrow_mut();
        if !inner.is_alive() || !inner.sessions.contains_key(&serial) {
            return false;
        }
        if inner.locks.contains_key(&row) {
            return true;
        }
        inner.locks.insert(row, serial);
        let touch = Touch { row, write, version: inner.table.version(row), captured: inner.table.visible };
        if let Some(session) = inner.sessions.get_mut(&serial) {
            session.writes.touched.push(touch);
        }
        true
    }

    /// Whether a definition may go on: none if it is no more.
    pub fn may_define(&self, serial: u64) -> Option<bool> {
        let inner = self.inner.borrow();
        let session = inner.sessions.get(&serial)?;
        let locked = inner.sessions.values().any(Session::locks_rows);
        Some(matches!(session.stage, Stage::HasFence(_, after) if inner.table.visible >= after && !locked))
    }

    /// COMMIT: hands the writeset over, if the transaction is still there and wrote anything.
    pub fn submit(&self, serial: u64) {
        let mut inner = self.inner.borrow_mut();
        if !inner.is_alive() {
            return;
        }
        let (visible, schema) = (inner.table.visible, inner.table.schema());
        let Some(session) = inner.sessions.get_mut(&serial) else { return };
        session.seen.1 = visible;
        if let Stage::HasFence(fence, _) = session.stage {
            session.fence = fence;
            session.writes.schema = schema;
        } else if session.writes.touched.is_empty() {
            return inner.end(serial, Told::Aborted);
        }
        session.stage = Stage::Waiting;
        inner.hand_over(serial);
    }

    /// The client gives up, or an administrator ends the session.
    pub fn terminate(&self, serial: u64) {
        let mut inner = self.inner.borrow_mut();
        let Some(stage) = inner.sessions.get(&serial).map(|session| session.stage).filter(|_| inner.is_alive()) else {
            return;
        };
        match stage {
            Stage::Waiting => inner.orphan(serial),
            Stage::Ordered(seq) => {
                inner.end(serial, Told::Unknown);
                inner.send(FromPostgres::Orphan(seq));
            }
            Stage::Orphan => {}
            Stage::Open | Stage::WantsFence | Stage::HasFence(..) => inner.end(serial, Told::Aborted),
        }
        drop(inner);
        self.changed.notify_waiters();
    }

    /// Ends a random session.
    pub fn terminate_one(&self) {
        let serials: Vec<u64> = self.inner.borrow().sessions.keys().copied().collect();
        if !serials.is_empty() {
            self.terminate(serials[fastrand::usize(..serials.len())]);
        }
    }

    /// The turnstile: lets the session pass whose turn it is. False if it is nobody's here.
    pub fn pass(&self) -> bool {
        let mut inner = self.inner.borrow_mut();
        let next = inner.table.visible.next();
        let Some(serial) = inner.ordered(next).filter(|_| inner.is_alive()) else { return false };
        let Some(writes) = inner.sessions.get(&serial).map(|session| session.writes.clone()) else { return false };
        inner.commit(next, Some(writes));
        inner.end(serial, Told::Committed(next));
        drop(inner);
        self.changed.notify_waiters();
        true
    }
}

impl Inner {
    /// Sends the writeset, under a name of the present life.
    fn hand_over(&mut self, serial: u64) {
        let fenced = self.sessions.get(&serial).and_then(|session| session.txid);
        let present = fenced.filter(|txid| Some(txid.incarnation) == self.life);
        let Some(txid) = present.or_else(|| self.next_txid()) else { return };
        let Some(session) = self.sessions.get_mut(&serial) else { return };
        session.txid = Some(txid);
        let encoded = session.writes.encode(txid, session.seen, session.fence, session.pieces);
        self.invariants.see(&Event::Submitted { serial, txid });
        for (ordinal, body) in (0..).zip(encoded.fragments) {
            self.send(FromPostgres::Fragment { txid, ordinal, body });
        }
        self.send(FromPostgres::Submit { txid, bytes: encoded.writeset });
    }

    /// Its writeset was lost before it was ordered.
    pub(super) fn resubmit(&mut self, txid: TransactionId) {
        let Some(session) = self.by_txid(txid) else { return };
        let serial = session.serial;
        match session.stage {
            Stage::Waiting => {
                session.txid = None;
                // If it was of the life that is known here, that one has ended, and the next one begins soon.
                if Some(txid.incarnation) != self.life {
                    self.hand_over(serial);
                }
            }
            Stage::Orphan => drop(self.forget(serial)),
            _ => {}
        }
    }

    pub(super) fn end(&mut self, serial: u64, told: Told) {
        let Some(mut session) = self.forget(serial) else { return };
        if let Some(txid) = session.txid.filter(|_| session.waits_for_fence()) {
            self.send(FromPostgres::GiveUp(txid));
        }
        session.tell(told);
    }

    /// A definition got the fence: who holds rows and idles has to go.
    pub(super) fn clear_table(&mut self) {
        let open = self.sessions.values().filter(|session| session.stage == Stage::Open);
        let open: Vec<u64> = open.map(|session| session.serial).collect();
        open.into_iter().for_each(|serial| self.end(serial, Told::Aborted));
    }

    fn orphan(&mut self, serial: u64) {
        if self.sessions.get(&serial).is_some_and(|session| session.txid.is_none()) {
            // It waits to be handed over once there is a life: nobody will tell what became of it.
            return self.end(serial, Told::Aborted);
        }
        self.locks.retain(|_, holder| *holder != serial);
        let Some(session) = self.sessions.get_mut(&serial) else { return };
        session.stage = Stage::Orphan;
        session.tell(Told::Unknown);
        // If its client knows its id, it is given up: what became of it shall be definite soon.
        if let Some(txid) = session.txid.filter(|_| fastrand::bool()) {
            self.send(FromPostgres::GiveUp(txid));
        }
    }

    /// An ordered writeset needs its rows: who holds one and is not ordered has to go.
    pub(super) fn brute_force(&mut self, writes: &Writes) {
        let all = self.sessions.values().map(|session| session.serial);
        let in_the_way: Vec<u64> = if writes.definition {
            all.collect()
        } else {
            // Rows that were only locked at their origin are not locked again.
            let written = writes.touched.iter().filter(|touch| touch.write);
            written.filter_map(|touch| self.locks.get(&touch.row).copied()).collect()
        };
        for serial in in_the_way {
            match self.sessions.get(&serial).map(|session| session.stage) {
                Some(Stage::Waiting) => self.orphan(serial),
                Some(Stage::Open | Stage::WantsFence | Stage::HasFence(..)) => self.end(serial, Told::Aborted),
                Some(Stage::Orphan | Stage::Ordered(_)) | None => {}
            }
        }
    }

    /// A new life began: asks what became of those that wait, and ends those that wanted a fence.
    pub(super) fn ask_anew(&mut self) {
        let serials: Vec<u64> = self.sessions.keys().copied().collect();
        for serial in serials {
            let session = &self.sessions[&serial];
            match (session.stage, session.txid) {
                (Stage::WantsFence | Stage::HasFence(..), _) => self.end(serial, Told::Aborted),
                (Stage::Waiting | Stage::Orphan, Some(txid)) => self.send(FromPostgres::Waiting(txid)),
                // It was to be submitted when there was no life.
                (Stage::Waiting, None) => self.hand_over(serial),
                _ => {}
            }
        }
    }
}
