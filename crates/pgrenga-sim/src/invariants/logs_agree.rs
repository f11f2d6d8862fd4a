//! Every member reads the same entry at the same place, now and after any crash, without gaps; and
//! an entry whose proposal was answered is at that place for ever.

use std::collections::BTreeMap;

use pgrenga_log::LogIndex;
use pgrenga_writeset::entry::Items;

use super::{Event, Invariant};
use crate::network::Id;
use crate::trace::digest;

#[derive(Default)]
pub(super) struct LogsAgree {
    entries: BTreeMap<LogIndex, u64>,
    next: BTreeMap<Id, u64>,
    /// Answered proposals that nobody has read yet: digests of their items.
    promised: BTreeMap<LogIndex, Vec<u64>>,
    items: BTreeMap<LogIndex, Vec<u64>>,
}

/// An entry may hold what several have proposed: item by item it can be told.
fn items(payload: &[u8]) -> Vec<u64> {
    let items = Items::decode(payload).into_iter().flatten().flatten();
    items.map(|item| digest(0, format!("{item:?}").as_bytes())).collect()
}

impl Invariant for LogsAgree {
    fn see(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Began { node } => {
                self.next.remove(node);
            }
            Event::Restored { node, index, .. } => {
                self.next.insert(*node, index.0 + 1);
            }
            Event::Read { node, index, digest } => {
                let expected = self.next.insert(*node, index.0 + 1).unwrap_or(0);
                if expected != index.0 {
                    return Err(format!("node {node} read entry {index} where {expected} comes next"));
                }
                if *self.entries.entry(*index).or_insert(*digest) != *digest {
                    return Err(format!("node {node} reads another entry {index} than was read before"));
                }
            }
            Event::Stepped { index, first: true, steps, .. } => {
                let held = steps.iter().map(|(item, _)| digest(0, format!("{item:?}").as_bytes())).collect();
                self.items.insert(*index, held);
                if let Some(promised) = self.promised.remove(index) {
                    return self.holds(*index, &promised);
                }
            }
            Event::Proposed { index, payload } => {
                let promised = items(payload);
                if self.items.contains_key(index) {
                    return self.holds(*index, &promised);
                }
                self.promised.entry(*index).or_default().extend(promised);
            }
            Event::Ended { .. } => {
                if let Some((index, _)) = self.promised.first_key_value() {
                    return Err(format!("nobody has the entry {index} though its proposal was answered"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl LogsAgree {
    fn holds(&self, index: LogIndex, promised: &[u64]) -> Result<(), String> {
        if promised.iter().all(|item| self.items[&index].contains(item)) {
            return Ok(());
        }
        Err(format!("entry {index} does not hold what was answered to be there"))
    }
}
