//! What the core says became of a transaction is true, at any place of the log: what it calls committed did commit,
//! what it calls aborted never does, and what it calls in progress has not ended.

use std::collections::{BTreeMap, BTreeSet};

use pgrenga_core::{Core, Decision, Status};
use pgrenga_log::LogIndex;
use pgrenga_writeset::{Seq, TransactionId};

use super::{Event, Invariant};

/// How many transactions are looked at after each entry.
const LOOKS: usize = 4;

#[derive(Default)]
pub(super) struct Fates {
    submitted: Vec<TransactionId>,
    /// Where each commit was decided.
    committed: BTreeMap<TransactionId, (LogIndex, Seq)>,
    called_aborted: BTreeSet<TransactionId>,
    looked: usize,
}

impl Fates {
    fn look(&mut self, index: LogIndex, txid: TransactionId, core: &Core) -> Result<(), String> {
        let committed = self.committed.get(&txid).copied();
        let is_true = match core.status(txid) {
            Status::Unknown => true,
            Status::Committed(seq) => committed.is_some_and(|(at, as_seq)| at <= index && as_seq == seq),
            Status::InProgress => committed.is_none_or(|(at, _)| at > index),
            Status::Aborted => {
                self.called_aborted.insert(txid);
                committed.is_none()
            }
        };
        let said = core.status(txid);
        if is_true { Ok(()) } else { Err(format!("{txid:?} is called {said} after entry {index}: {committed:?}")) }
    }
}

impl Invariant for Fates {
    fn see(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Submitted { txid, .. } => self.submitted.push(*txid),
            Event::Stepped { index, first, steps, core, .. } => {
                let decisions = steps.iter().flat_map(|(_, decisions)| decisions).filter(|_| *first);
                for decision in decisions {
                    if let Decision::Commit { seq, txid, .. } = decision {
                        self.committed.insert(*txid, (*index, *seq));
                        if self.called_aborted.contains(txid) {
                            return Err(format!("{txid:?} was called aborted, and committed as {seq}"));
                        }
                    }
                }
                for _ in 0..LOOKS.min(self.submitted.len()) {
                    self.looked = (self.looked + 1) % self.submitted.len();
                    self.look(*index, self.submitted[self.looked], core)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}
