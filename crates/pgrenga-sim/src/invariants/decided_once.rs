//! A transaction commits at most once, under whatever name it is in the log, and its client is told
//! nothing else than what was decided.

use std::collections::BTreeMap;

use pgrenga_core::Decision;
use pgrenga_writeset::{Seq, TransactionId};

use super::{Event, Invariant, Told};

#[derive(Default)]
pub(super) struct DecidedOnce {
    serials: BTreeMap<TransactionId, u64>,
    committed: BTreeMap<u64, Seq>,
    told: BTreeMap<u64, Told>,
}

impl DecidedOnce {
    fn check(&self, serial: u64) -> Result<(), String> {
        match (self.told.get(&serial), self.committed.get(&serial)) {
            (Some(Told::Committed(told)), decided) if decided != Some(told) => Err(format!(
                "transaction {serial} was told that it committed as {told}, and was decided as {decided:?}"
            )),
            (Some(told @ (Told::Aborted | Told::Refused)), Some(seq)) => Err(format!(
                "transaction {serial} was told that nothing was changed ({told:?}), and committed as {seq}"
            )),
            _ => Ok(()),
        }
    }
}

impl Invariant for DecidedOnce {
    fn see(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Submitted { serial, txid } => {
                let known = self.serials.insert(*txid, *serial).unwrap_or(*serial);
                return if known == *serial { Ok(()) } else { Err(format!("two transactions have the name {txid:?}")) };
            }
            Event::Told { serial, told } => {
                self.told.insert(*serial, *told);
                return self.check(*serial);
            }
            Event::Stepped { first: true, steps, .. } => {
                for decision in steps.iter().flat_map(|(_, decisions)| decisions) {
                    let Decision::Commit { seq, txid, .. } = decision else { continue };
                    let Some(serial) = self.serials.get(txid) else {
                        return Err(format!("nobody submitted {txid:?}, which committed as {seq}"));
                    };
                    if let Some(before) = self.committed.insert(*serial, *seq) {
                        return Err(format!("transaction {serial} committed as {before} and again as {seq}"));
                    }
                    self.check(*serial)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}
