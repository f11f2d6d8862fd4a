//! A PostgreSQL server with the extension, as far as the log can tell: sessions that write rows and
//! wait for verdicts, commits that become visible in order, a position that is durable, and crashes
//! that fall back to anything between the two.

mod port;
mod sessions;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use pgrenga_writeset::{Incarnation, NodeId, Seq, TransactionId};
use tokio::sync::{Notify, mpsc};

use crate::invariants::{Event, Invariants};
use crate::network::Id;
use crate::power::Power;
use crate::table::Table;
use crate::writes::Writes;

pub use port::{Applied, FromPostgres};
use sessions::{Session, Stage};

/// The server; all clones are one.
#[derive(Clone)]
pub struct Postgres {
    inner: Rc<RefCell<Inner>>,
    /// Something became visible, or a session's stage changed.
    changed: Rc<Notify>,
}

struct Inner {
    node: Id,
    up: bool,
    /// Tells one start from the next.
    start: u64,
    table: Table,
    /// What a crash cannot take away.
    flushed: Table,
    /// What is visible and not flushed.
    tail: VecDeque<(Seq, Option<Writes>)>,
    sessions: BTreeMap<u64, Session>,
    /// Which session holds a row.
    locks: BTreeMap<u64, u64>,
    /// The life that transactions name, once a daemon has given one.
    life: Option<Incarnation>,
    serves: bool,
    counter: u64,
    daemon: Option<mpsc::UnboundedSender<FromPostgres>>,
    /// Of the machine.
    power: Arc<Power>,
    invariants: Invariants,
}

impl Postgres {
    /// A server that does not run yet, with its data.
    pub fn new(node: Id, table: Table, invariants: Invariants) -> Self {
        let inner = Inner {
            node,
            up: false,
            start: 0,
            flushed: table.clone(),
            table,
            tail: VecDeque::new(),
            sessions: BTreeMap::new(),
            locks: BTreeMap::new(),
            life: None,
            serves: false,
            counter: 0,
            daemon: None,
            power: Arc::default(),
            invariants,
        };
        Self { inner: Rc::new(RefCell::new(inner)), changed: Rc::default() }
    }

    /// Starts: what survived is visible.
    pub fn start(&self) {
        let mut inner = self.inner.borrow_mut();
        if !inner.up {
            inner.up = true;
            inner.start += 1;
            inner.hello();
        }
    }

    /// Ends without a warning. Of what was not flushed a part survives, as the WAL was written.
    pub fn crash(&self) {
        let mut inner = self.inner.borrow_mut();
        if inner.up {
            inner.crash();
        }
        drop(inner);
        self.changed.notify_waiters();
    }

    /// Makes durable what is visible, or a part of it.
    pub fn flush(&self) {
        let mut inner = self.inner.borrow_mut();
        if inner.is_alive() {
            let upto = inner.survivor();
            inner.flush(upto);
            let flushed = inner.flushed.visible;
            inner.send(FromPostgres::Flushed(flushed));
        }
    }

    /// The machine is fed by this from now on.
    pub fn set_power(&self, power: Arc<Power>) {
        self.inner.borrow_mut().power = power;
    }

    /// Whether it runs.
    pub fn is_up(&self) -> bool {
        self.inner.borrow().up
    }

    /// Whether it runs and has not been started again.
    pub fn runs_since(&self, start: u64) -> bool {
        let inner = self.inner.borrow();
        inner.up && inner.start == start
    }

    /// Whether it takes writes.
    pub fn serves(&self) -> bool {
        let inner = self.inner.borrow();
        inner.is_alive() && inner.serves && inner.life.is_some()
    }

    /// The visible seq.
    pub fn visible(&self) -> Seq {
        self.inner.borrow().table.visible
    }

    /// The seq that no crash takes away.
    pub fn flushed(&self) -> Seq {
        self.inner.borrow().flushed.visible
    }

    /// What is visible.
    pub fn table(&self) -> Table {
        self.inner.borrow().table.clone()
    }

    /// How many sessions have not ended.
    pub fn sessions(&self) -> usize {
        self.inner.borrow().sessions.len()
    }

    /// How far each session is.
    pub fn stages(&self) -> String {
        let inner = self.inner.borrow();
        let stages = inner
            .sessions
            .values()
            .map(|session| format!("{} {:?} {:?} ", session.serial, session.stage, session.txid));
        stages.collect()
    }

    /// Waits until something changes.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Inner {
    /// What it does now can be seen.
    fn is_alive(&self) -> bool {
        self.up && !self.power.machine_failed()
    }

    fn send(&self, frame: FromPostgres) {
        if let Some(daemon) = self.daemon.as_ref().filter(|_| self.is_alive()) {
            // A daemon that is gone will ask.
            let _ = daemon.send(frame);
        }
    }

    fn hello(&self) {
        self.send(FromPostgres::Hello { start: self.start, visible: self.table.visible });
    }

    /// A commit record between the flushed one and the visible one; markers have none.
    fn survivor(&self) -> usize {
        let records = self.tail.iter().enumerate().filter(|(_, (_, writes))| writes.is_some());
        let ends: Vec<usize> = [0].into_iter().chain(records.map(|(at, _)| at + 1)).collect();
        ends[fastrand::usize(..ends.len())]
    }

    fn flush(&mut self, count: usize) {
        for (seq, writes) in self.tail.drain(..count) {
            self.flushed.apply(seq, writes.as_ref());
        }
    }

    fn crash(&mut self) {
        let survivor = self.survivor();
        self.flush(survivor);
        self.tail.clear();
        self.table = self.flushed.clone();
        self.up = false;
        self.serves = false;
        self.life = None;
        self.locks.clear();
        for session in std::mem::take(&mut self.sessions).into_values() {
            session.lost();
        }
    }

    /// Makes a seq visible, whoever does it.
    fn commit(&mut self, seq: Seq, writes: Option<Writes>) {
        let event = Event::Visible { node: self.node, seq, writes: writes.as_ref(), table: &self.table };
        self.invariants.see(&event);
        self.table.apply(seq, writes.as_ref());
        self.tail.push_back((seq, writes));
        self.send(FromPostgres::Progress(seq));
    }

    fn next_txid(&mut self) -> Option<TransactionId> {
        self.counter += 1;
        Some(TransactionId { node: NodeId(self.node), incarnation: self.life?, counter: self.counter })
    }

    fn by_txid(&mut self, txid: TransactionId) -> Option<&mut Session> {
        self.sessions.values_mut().find(|session| session.txid == Some(txid))
    }

    /// The session that commits this seq, if one here does.
    fn ordered(&self, seq: Seq) -> Option<u64> {
        self.sessions.values().find(|session| session.stage == Stage::Ordered(seq)).map(|session| session.serial)
    }

    fn forget(&mut self, serial: u64) -> Option<Session> {
        self.locks.retain(|_, holder| *holder != serial);
        self.sessions.remove(&serial)
    }
}
