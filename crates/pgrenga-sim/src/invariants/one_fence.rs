//! At most one transaction holds the DDL fence, and while it does nothing of another node commits.

use pgrenga_core::Decision;
use pgrenga_writeset::TransactionId;
use pgrenga_writeset::entry::Item;

use super::{Event, Invariant};

#[derive(Default)]
pub(super) struct OneFence {
    holder: Option<TransactionId>,
}

impl OneFence {
    /// What of itself ends the fence, whatever is decided.
    fn item(&mut self, item: &Item<'_>) {
        let ends = match item {
            Item::GiveUp(txid) | Item::FenceLift(txid) => self.holder == Some(*txid),
            Item::Incarnation { node, incarnation } => {
                self.holder.is_some_and(|holder| holder.node == *node && holder.incarnation < *incarnation)
            }
            _ => false,
        };
        if ends {
            self.holder = None;
        }
    }

    fn decision(&mut self, decision: &Decision) -> Result<(), String> {
        match decision {
            Decision::FenceGranted { txid, .. } => {
                if let Some(holder) = self.holder.replace(*txid) {
                    return Err(format!("{txid:?} got the fence that {holder:?} holds"));
                }
            }
            Decision::Commit { txid, seq, .. } => match self.holder {
                Some(holder) if holder == *txid => self.holder = None,
                Some(holder) if holder.node != txid.node => {
                    return Err(format!("{txid:?} committed as {seq} while {holder:?} holds the fence"));
                }
                _ => {}
            },
            Decision::Removed { node } if self.holder.is_some_and(|holder| holder.node == *node) => self.holder = None,
            Decision::Abort { txid, .. } | Decision::FenceLost { txid } if self.holder == Some(*txid) => {
                self.holder = None;
            }
            _ => {}
        }
        Ok(())
    }
}

impl Invariant for OneFence {
    fn see(&mut self, event: &Event<'_>) -> Result<(), String> {
        let Event::Stepped { index, first: true, steps, core, .. } = event else { return Ok(()) };
        for (item, decisions) in *steps {
            self.item(item);
            decisions.iter().try_for_each(|decision| self.decision(decision))?;
        }
        let held = core.fence().map(|(txid, _)| txid);
        if held != self.holder {
            return Err(format!("after entry {index} {held:?} holds the fence, not {:?}", self.holder));
        }
        Ok(())
    }
}
