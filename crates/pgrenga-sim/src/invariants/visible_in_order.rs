//! Each PostgreSQL makes seqs visible one after the other, each with what was decided for it; and
//! what a transaction saw of the rows that it changes is what is there when it commits: nobody
//! overwrites what he has not seen, and no lock is passed over.

use std::collections::BTreeMap;

use pgrenga_core::Decision;
use pgrenga_writeset::{Seq, TransactionId};

use super::{Event, Invariant};

#[derive(Default)]
pub(super) struct VisibleInOrder {
    serials: BTreeMap<TransactionId, u64>,
    /// The transaction at each seq; none for a marker.
    decided: BTreeMap<Seq, Option<u64>>,
}

impl Invariant for VisibleInOrder {
    fn see(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Submitted { serial, txid } => {
                self.serials.insert(*txid, *serial);
            }
            Event::Stepped { first: true, steps, .. } => {
                for decision in steps.iter().flat_map(|(_, decisions)| decisions) {
                    match decision {
                        Decision::Commit { seq, txid, .. } => {
                            self.decided.insert(*seq, self.serials.get(txid).copied());
                        }
                        Decision::Marker { seq, .. } => {
                            self.decided.insert(*seq, None);
                        }
                        _ => {}
                    }
                }
            }
            Event::Visible { node, seq, writes, table } => {
                if *seq != table.visible.next() {
                    return Err(format!("node {node} makes {seq} visible after {}", table.visible));
                }
                let serial = writes.map(|writes| writes.serial);
                if self.decided.get(seq) != Some(&serial) {
                    let decided = self.decided.get(seq);
                    return Err(format!(
                        "node {node} makes {serial:?} visible as {seq}, which was decided for {decided:?}"
                    ));
                }
                if let Some(Err(reason)) = writes.map(|writes| table.fits(writes)) {
                    return Err(format!("node {node} cannot apply {seq}: {reason}"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
