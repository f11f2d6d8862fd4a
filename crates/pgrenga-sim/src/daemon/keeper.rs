//! Keeps the core's state in place of the log before it, when nobody needs that any more.

use std::cell::Cell;
use std::rc::Rc;

use pgrenga_core::Core;
use pgrenga_core::retention::Candidate;
use pgrenga_log::{Handle, LogIndex};
use pgrenga_writeset::Seq;

use super::Setup;
use crate::invariants::Event;
use crate::network::Id;
use crate::note;

pub(super) struct Keeper {
    setup: Setup,
    log: Handle,
    read_bytes: usize,
    read_index: LogIndex,
    waiting: Option<(Candidate, Vec<u8>)>,
    installing: Rc<Cell<bool>>,
}

impl Keeper {
    pub(super) fn new(setup: &Setup, log: Handle) -> Self {
        let (read_index, waiting) = (LogIndex(0), None);
        Self { setup: setup.clone(), log, read_bytes: 0, read_index, waiting, installing: Rc::default() }
    }

    /// The core has taken in the whole entry at `index`, and nothing after it.
    pub(super) fn read(&mut self, index: LogIndex, bytes: usize, core: &Core) {
        self.read_bytes += bytes;
        self.read_index = index;
        if self.read_bytes >= self.setup.plan.snapshot_bytes && self.waiting.is_none() && !self.installing.get() {
            self.read_bytes = 0;
            self.waiting = Some((Candidate::new(index, core), core.snapshot()));
        }
    }

    /// Looks whether the state that waits may be installed now.
    pub(super) fn look(&mut self, core: &Core) {
        let Some((candidate, _)) = &mut self.waiting else { return };
        candidate.look(core);
        if !candidate.may_replace_log(core.members().map(|(node, _)| core.flushed(node))) {
            return;
        }
        let Some((candidate, state)) = self.waiting.take() else { return };
        let (setup, log, installing, index) =
            (self.setup.clone(), self.log.clone(), self.installing.clone(), candidate.index());
        installing.set(true);
        tokio::task::spawn_local(async move {
            if setup.power.is_on() {
                let flushed: Vec<(Id, Seq)> =
                    setup.servers.borrow().iter().map(|(id, server)| (*id, server.flushed())).collect();
                note!(setup.trace, "n{} keeps its state up to {index}", setup.id);
                setup.invariants.see(&Event::Purges { node: setup.id, index, flushed: &flushed });
            }
            if log.snapshot_taken(index, state.into()).await.is_ok() {
                let _ = log.purge(index).await;
            }
            installing.set(false);
        });
    }
}
