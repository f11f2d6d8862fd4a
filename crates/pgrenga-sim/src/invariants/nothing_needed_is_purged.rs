//! Nobody lets go of a part of the log that holds what some PostgreSQL has not flushed yet.

use std::collections::BTreeMap;

use pgrenga_core::Decision;
use pgrenga_log::LogIndex;
use pgrenga_writeset::Seq;

use super::{Event, Invariant};

#[derive(Default)]
pub(super) struct NothingNeededIsPurged {
    /// Where the first piece of each seq's writeset stands.
    begins: BTreeMap<Seq, LogIndex>,
}

impl Invariant for NothingNeededIsPurged {
    fn see(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Stepped { first: true, steps, .. } => {
                for decision in steps.iter().flat_map(|(_, decisions)| decisions) {
                    if let Decision::Commit { seq, at, fragments, .. } = decision {
                        let first = fragments.iter().chain([at]).map(|at| at.index).min();
                        self.begins.extend(first.map(|first| (*seq, first)));
                    }
                }
                Ok(())
            }
            Event::Purges { node, index, flushed } => {
                for (member, flushed) in *flushed {
                    let needed = self.begins.range(flushed.next()..).find(|(_, begins)| *begins <= index);
                    if let Some((seq, begins)) = needed {
                        let lacks = format!("node {member} has flushed {flushed} and lacks {seq} of entry {begins}");
                        return Err(format!("node {node} purges up to entry {index}: {lacks}"));
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
