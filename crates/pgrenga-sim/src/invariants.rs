//! What must hold in every run, one file for each. They are told everything that happens, on every
//! member, and say at once what is wrong.

mod decided_once;
mod fates;
mod lives;
mod logs_agree;
mod nothing_is_lost;
mod nothing_needed_is_purged;
mod one_fence;
mod one_leader;
mod seqs_are_dense;
mod states_agree;
mod visible_in_order;

use std::cell::RefCell;
use std::rc::Rc;

use pgrenga_core::{Core, Decision};
use pgrenga_log::LogIndex;
use pgrenga_writeset::entry::Item;
use pgrenga_writeset::{Seq, TransactionId};

use crate::network::Id;
use crate::table::Table;
use crate::trace::Trace;
use crate::writes::Writes;

/// What a client was told of its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is committed.
    Committed(Seq),
    /// It changed nothing, and may be tried again.
    Aborted,
    /// It changed nothing: there was no room for it.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// One thing that happened.
pub enum Event<'a> {
    /// A daemon began to read the log anew.
    Began {
        /// Whose.
        node: Id,
    },
    /// It begins with a snapshot that includes everything up to here.
    Restored {
        /// Whose.
        node: Id,
        /// The last entry in it.
        index: LogIndex,
        /// The state that came out of it.
        core: &'a Core,
    },
    /// It read an entry of the log, whatever that is.
    Read {
        /// Whose.
        node: Id,
        /// The entry's place.
        index: LogIndex,
        /// A digest of what it says.
        digest: u64,
    },
    /// It put an entry's items through its core.
    Stepped {
        /// Whose.
        node: Id,
        /// The entry's place.
        index: LogIndex,
        /// No other daemon has put it through its core before.
        first: bool,
        /// The items with what was decided at each.
        steps: &'a [(Item<'a>, Vec<Decision>)],
        /// The state after it.
        core: &'a Core,
    },
    /// A proposal was answered with its place.
    Proposed {
        /// The place.
        index: LogIndex,
        /// The proposal.
        payload: &'a [u8],
    },
    /// A member says that it leads.
    Leads {
        /// Which.
        node: Id,
        /// In which term.
        term: u64,
    },
    /// A transaction was submitted, perhaps not for the first time.
    Submitted {
        /// The transaction.
        serial: u64,
        /// Its name in the log from now on.
        txid: TransactionId,
    },
    /// A client was answered.
    Told {
        /// The transaction.
        serial: u64,
        /// What.
        told: Told,
    },
    /// A seq is about to become visible in a PostgreSQL.
    Visible {
        /// Where.
        node: Id,
        /// Which.
        seq: Seq,
        /// What it does there; a marker does nothing.
        writes: Option<&'a Writes>,
        /// The data before.
        table: &'a Table,
    },
    /// A member lets go of the log up to here.
    Purges {
        /// Which.
        node: Id,
        /// Up to where.
        index: LogIndex,
        /// What PostgreSQL has durably, on every member that has one.
        flushed: &'a [(Id, Seq)],
    },
    /// Faults have stopped and nothing moves any more: the data on every member.
    Ended {
        /// By member.
        tables: &'a [(Id, Table)],
    },
}

/// See the module.
pub trait Invariant {
    /// Takes part of what happened.
    ///
    /// # Errors
    /// What is wrong with it.
    fn see(&mut self, event: &Event<'_>) -> Result<(), String>;
}

/// All of them. All clones are one.
#[derive(Clone)]
pub struct Invariants(Rc<RefCell<State>>);

struct State {
    all: Vec<(&'static str, Box<dyn Invariant>)>,
    /// The last entry that any core has taken in.
    stepped: Option<LogIndex>,
    broken: Option<String>,
    trace: Trace,
}

impl Invariants {
    /// Of a run that has not begun.
    pub fn begin(trace: Trace) -> Self {
        let all: Vec<(&'static str, Box<dyn Invariant>)> = vec![
            ("logs agree", Box::<logs_agree::LogsAgree>::default()),
            ("states agree", Box::<states_agree::StatesAgree>::default()),
            ("seqs are dense", Box::<seqs_are_dense::SeqsAreDense>::default()),
            ("a transaction is decided once", Box::<decided_once::DecidedOnce>::default()),
            ("what is said of a transaction is true", Box::<fates::Fates>::default()),
            ("a life ends where the next begins", Box::<lives::Lives>::default()),
            ("one transaction holds the fence", Box::<one_fence::OneFence>::default()),
            ("a term has one leader", Box::<one_leader::OneLeader>::default()),
            ("commits become visible in order", Box::<visible_in_order::VisibleInOrder>::default()),
            ("nothing needed is purged", Box::<nothing_needed_is_purged::NothingNeededIsPurged>::default()),
            ("nothing acknowledged is lost", Box::<nothing_is_lost::NothingIsLost>::default()),
        ];
        Self(Rc::new(RefCell::new(State { all, stepped: None, broken: None, trace })))
    }

    /// Tells all of them what happened.
    pub fn see(&self, event: &Event<'_>) {
        let mut state = self.0.borrow_mut();
        match event {
            Event::Submitted { serial, txid } => {
                let (node, life, counter) = (txid.node, txid.incarnation, txid.counter);
                crate::note!(state.trace, "transaction {serial} is n{node} life {life} no. {counter}");
            }
            Event::Told { serial, told } => crate::note!(state.trace, "transaction {serial} {told:?}"),
            _ => {}
        }
        for at in 0..state.all.len() {
            let (name, invariant) = &mut state.all[at];
            if let Err(reason) = invariant.see(event) {
                let reason = format!("{name}: {reason}");
                state.fail(reason);
            }
        }
    }

    /// Tells them what a daemon's core decided on an entry.
    pub fn stepped(&self, node: Id, index: LogIndex, steps: &[(Item<'_>, Vec<Decision>)], core: &Core) {
        let first = self.0.borrow().stepped < Some(index);
        if first {
            self.0.borrow_mut().stepped = Some(index);
        }
        self.see(&Event::Stepped { node, index, first, steps, core });
    }

    /// Something is wrong that none of them would see.
    pub fn fail(&self, reason: String) {
        self.0.borrow_mut().fail(reason);
    }

    /// What is wrong, if anything is.
    pub fn broken(&self) -> Option<String> {
        self.0.borrow().broken.clone()
    }
}

impl State {
    fn fail(&mut self, reason: String) {
        crate::note!(self.trace, "BROKEN {reason}");
        self.broken.get_or_insert(reason);
    }
}
