//! When all is calm, every member has the same data, and in it every commit that a client was told of.

use std::collections::BTreeMap;

use pgrenga_writeset::Seq;

use super::{Event, Invariant, Told};

#[derive(Default)]
pub(super) struct NothingIsLost {
    acknowledged: BTreeMap<u64, Seq>,
}

impl Invariant for NothingIsLost {
    fn see(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Told { serial, told: Told::Committed(seq) } => {
                self.acknowledged.insert(*serial, *seq);
            }
            Event::Ended { tables } => {
                let Some((reference, first)) = tables.first() else { return Err("no member is left".into()) };
                for (node, table) in *tables {
                    if table != first {
                        return Err(format!("nodes {reference} and {node} have different data"));
                    }
                }
                if let Some((serial, seq)) = self.acknowledged.iter().find(|(_, seq)| **seq > first.visible) {
                    return Err(format!("transaction {serial}, acknowledged as {seq}, is lost"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
