//! A node's lives follow each other in the log. What an earlier one left, and was not ordered in
//! time, is void.

use std::collections::{BTreeMap, BTreeSet};

use pgrenga_core::Decision;
use pgrenga_writeset::entry::Item;
use pgrenga_writeset::writeset::Writeset;
use pgrenga_writeset::{Incarnation, NodeId, TransactionId};

use super::{Event, Invariant};

#[derive(Default)]
pub(super) struct Lives {
    present: BTreeMap<NodeId, Incarnation>,
    /// Ordered while their life was the present one.
    in_time: BTreeSet<TransactionId>,
}

impl Invariant for Lives {
    fn see(&mut self, event: &Event<'_>) -> Result<(), String> {
        let Event::Stepped { index, first: true, steps, .. } = event else { return Ok(()) };
        for (item, decisions) in *steps {
            match item {
                Item::Incarnation { node, incarnation } => {
                    let present = self.present.entry(*node).or_default();
                    *present = (*present).max(*incarnation);
                }
                Item::Writeset(bytes) => {
                    let Ok(writeset) = Writeset::decode(bytes) else { continue };
                    let txid = writeset.header.txid;
                    if self.present.get(&txid.node) == Some(&txid.incarnation) {
                        self.in_time.insert(txid);
                    }
                }
                _ => {}
            }
            for decision in decisions {
                if let Decision::Commit { txid, .. } = decision
                    && !self.in_time.contains(txid)
                {
                    return Err(format!("{txid:?} committed at entry {index} though its life was over"));
                }
            }
        }
        Ok(())
    }
}
