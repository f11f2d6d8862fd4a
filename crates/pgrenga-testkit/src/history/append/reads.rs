//! Anomalies that a transaction's reads show by themselves.

use std::collections::BTreeMap;

use super::super::record::{Transaction, TransactionId};
use super::super::report::{Kind, Model, Report};
use super::Step;
use super::evidence::{Evidence, Reader};

/// What a transaction knows of a key while it runs.
#[derive(Default)]
struct Known<'h> {
    /// Its own appends so far.
    own: Vec<u64>,
    /// What others had appended by its last read.
    others: Option<&'h [u64]>,
}

/// Checks every read of every transaction that took effect, and groups
/// read-modify-writes of one version.
pub(super) fn check(evidence: &Evidence<'_>, model: Model, report: &mut Report) {
    let mut replaced: BTreeMap<(u64, &[u64]), Vec<TransactionId>> = BTreeMap::new();
    for (index, t) in evidence.effective_transactions() {
        let mut known: BTreeMap<u64, Known<'_>> = BTreeMap::new();
        for step in &t.steps {
            match step {
                Step::Append { key, value } => {
                    let known = known.entry(*key).or_default();
                    if let (Some(others), true) = (known.others, known.own.is_empty()) {
                        let updates = replaced.entry((*key, others)).or_default();
                        updates.push(TransactionId::new(index));
                    }
                    known.own.push(*value);
                }
                Step::Read { key, values } => {
                    let known = known.entry(*key).or_default();
                    let reader = ReadOf { evidence, index, t, key: *key };
                    evidence.check_list(*key, values, Reader::Transaction(index), report);
                    if let Some(others) = reader.strip_own(values, &known.own, report) {
                        reader.check_source(others, report);
                        reader.check_repeated(known.others, others, model, report);
                        known.others = Some(others);
                    }
                }
            }
        }
    }
    if model == Model::SnapshotIsolation {
        for ((key, version), updates) in replaced {
            if updates.len() > 1 {
                let names: Vec<String> = updates.iter().map(ToString::to_string).collect();
                let names = names.join(", ");
                let detail = format!("{names} all read {version:?} in key {key} and appended to it");
                report.add(Kind::LostUpdate, updates, detail);
            }
        }
    }
}

/// One read by one transaction.
struct ReadOf<'e, 'h> {
    evidence: &'e Evidence<'h>,
    index: usize,
    t: &'h Transaction<Step>,
    key: u64,
}

impl ReadOf<'_, '_> {
    fn add(&self, kind: Kind, other: Option<usize>, report: &mut Report, detail: &str) {
        let reader = TransactionId::new(self.index);
        let involved = [reader].into_iter().chain(other.map(TransactionId::new));
        let detail = format!("{reader} reading key {}: {detail}", self.key);
        report.add(kind, involved, detail);
    }

    /// The list as others made it: it ends with what the transaction appended
    /// before the read, and holds nothing that it appended later.
    fn strip_own<'v>(&self, values: &'v [u64], own: &[u64], report: &mut Report) -> Option<&'v [u64]> {
        let Some(others) = values.strip_suffix(own) else {
            let detail = format!("{values:?} does not end with its own appends {own:?}");
            self.add(Kind::Internal, None, report, &detail);
            return None;
        };
        let mine = |value: &u64| {
            let append = |s: &Step| matches!(s, Step::Append { value: v, .. } if v == value);
            self.t.steps.iter().any(append)
        };
        if others.iter().any(mine) {
            let detail = format!("{values:?} has its own appends in a place of others");
            self.add(Kind::Internal, None, report, &detail);
            return None;
        }
        Some(others)
    }

    /// The last value that others appended must be final, and its transaction
    /// must have asked to commit before this one was over.
    fn check_source(&self, others: &[u64], report: &mut Report) {
        let Some(&value) = others.last() else { return };
        let Some(write) = self.evidence.write(self.key, value) else {
            return;
        };
        let writer = TransactionId::new(write.by);
        if !self.evidence.effective[write.by] {
            return;
        }
        if !write.is_last {
            let detail = format!("up to {value}, after which {writer} appended more");
            self.add(Kind::G1b, Some(write.by), report, &detail);
        }
        let asked = self.evidence.history.transactions[write.by].commit;
        if asked > Some(self.t.complete) {
            let detail = format!("saw {value} before {writer} asked to commit");
            self.add(Kind::DirtyRead, Some(write.by), report, &detail);
        }
    }

    fn check_repeated(&self, before: Option<&[u64]>, now: &[u64], model: Model, report: &mut Report) {
        let Some(before) = before else { return };
        let detail = || format!("others' values were first {before:?}, then {now:?}");
        match model {
            Model::SnapshotIsolation if before != now => {
                self.add(Kind::NonRepeatableRead, None, report, &detail());
            }
            Model::ReadCommitted if !now.starts_with(before) => {
                self.add(Kind::NonMonotonicRead, None, report, &detail());
            }
            _ => {}
        }
    }
}
