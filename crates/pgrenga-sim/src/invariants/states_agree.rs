//! At one place of the log every core has the same state, whether it read the whole log or began
//! with a snapshot: the same verdicts, and from time to time every byte.

use std::collections::BTreeMap;

use pgrenga_core::Core;
use pgrenga_log::LogIndex;

use super::{Event, Invariant};
use crate::network::Id;
use crate::trace::digest;

/// Between entries at which the whole state is compared: encoding it takes time.
const EVERY: u64 = 7;

#[derive(Default)]
pub(super) struct StatesAgree {
    verdicts: BTreeMap<LogIndex, u64>,
    states: BTreeMap<LogIndex, u64>,
}

impl StatesAgree {
    fn compare(&mut self, node: Id, index: LogIndex, core: &Core, whole: bool) -> Result<(), String> {
        let hash = core.verdict_hash();
        if *self.verdicts.entry(index).or_insert(hash) != hash {
            return Err(format!("node {node} decided differently up to entry {index}"));
        }
        if whole {
            let state = digest(0, &core.snapshot());
            if *self.states.entry(index).or_insert(state) != state {
                return Err(format!("node {node} has another state after entry {index}"));
            }
        }
        Ok(())
    }
}

impl Invariant for StatesAgree {
    fn see(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Restored { node, index, core } => self.compare(*node, *index, core, index.0.is_multiple_of(EVERY)),
            Event::Stepped { node, index, core, .. } => {
                self.compare(*node, *index, core, index.0.is_multiple_of(EVERY))
            }
            _ => Ok(()),
        }
    }
}
