//! Connections to servers that no session has at the moment, in transaction mode. They keep their places, which are
//! what is bounded; whoever needs a place for another one takes it from the one that has been idle for longest.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pgrenga_writeset::NodeId;

use super::known::{Prepared, Reported};
use super::moving::Ticket;
use crate::cancel::Target;
use crate::places::Place;
use crate::tls::Stream;

/// A connection without a session.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(super) place: Place,
    pub(super) server: Stream,
    pub(super) target: Target,
    /// What opened it. Only who has proven the same gets it.
    pub(super) ticket: Arc<Ticket>,
    /// What its last session has left in it.
    pub(super) reported: Reported,
    pub(super) statements: Prepared,
    /// Whose session that was.
    pub(super) owner: u64,
}

/// All of them, the one that was parked last at the end.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<Vec<Parked>>);

impl Pool {
    /// Keeps a connection. Those to nodes that do not serve any more are closed.
    pub(super) fn park(&self, parked: Parked) {
        let mut idle = self.lock();
        idle.push(parked);
        let gone: Vec<_> = idle.extract_if(.., |parked| !parked.place.is_serving()).collect();
        drop(idle);
        // Each drop gives its place back.
        drop(gone);
    }

    /// A connection for who has this ticket: the one that was its own last, or at the node where it was, or any. Those that
    /// their servers have closed are dropped.
    pub(super) fn take(&self, ticket: &Ticket, owner: u64, node: Option<NodeId>) -> Option<Parked> {
        loop {
            let mut parked = self.remove(ticket, owner, node)?;
            if parked.server.is_silent() {
                return Some(parked);
            }
        }
    }

    fn remove(&self, ticket: &Ticket, owner: u64, node: Option<NodeId>) -> Option<Parked> {
        let mut idle = self.lock();
        let fits = |parked: &&Parked| parked.place.is_serving() && *parked.ticket == *ticket;
        let rank = |parked: &Parked| (parked.owner == owner, Some(parked.place.node().id) == node);
        let fitting = idle.iter().enumerate().filter(|(_, parked)| fits(parked));
        let (best, _) = fitting.max_by_key(|(_, parked)| rank(parked))?;
        Some(idle.remove(best))
    }

    /// Closes the connection that has been idle for longest, if there is one.
    pub(super) fn evict(&self) -> bool {
        let mut idle = self.lock();
        let oldest = (!idle.is_empty()).then(|| idle.remove(0));
        drop(idle);
        oldest.is_some()
    }

    /// Closes all.
    pub(crate) fn clear(&self) {
        drop(std::mem::take(&mut *self.lock()));
    }

    /// How many are idle.
    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Parked>> {
        // Whole between any two statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
