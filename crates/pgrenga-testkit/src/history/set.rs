//! The set checker: rows are inserted under a unique key.
//!
//! With a new key each time it is a set that only grows; where several
//! transactions try one key, at most one of them may own it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::record::{self, Error, History, NodeIndex, Outcome, Tick, TransactionId};
use super::report::{Anomaly, Kind, OrderUsed, Report};

/// A row of a table `(key primary key, token)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Row {
    /// The unique key.
    pub key: u64,
    /// Names the attempt; unique in the history.
    pub token: u64,
}

/// One step of a set transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Inserted the row. A transaction that met a unique violation aborted.
    Insert(Row),
    /// Saw these rows, all that there were.
    Read(Vec<Row>),
}

impl record::Step for Step {
    const WORKLOAD: &'static str = "set";
    type State = Vec<Row>;

    fn is_write(&self) -> bool {
        matches!(self, Self::Insert(_))
    }
}

/// Judges a set history, which must begin with no rows.
///
/// # Errors
/// If the history is vacuous or contradicts itself: see [`Error`].
pub fn check(history: &History<Step>) -> Result<Report, Error> {
    let finals = history.validate()?;
    let mut set = Set { history, attempts: attempts(history)?, effective: Vec::new() };
    set.effective = set.find_effective(&finals);
    let mut report = Report::of(&set.effective);
    set.check_owners(&mut report);
    set.check_reads(&mut report);
    for &(node, rows) in &finals {
        set.check_rows(None, &format!("the final read at {node}"), rows, &mut report);
        let held: BTreeSet<Row> = rows.iter().copied().collect();
        for (row, index) in set.effective_rows() {
            if !held.contains(&row) {
                let writer = TransactionId::new(index);
                let detail = format!("{row:?} of {writer} is not in the final read at {node}");
                report.add(Kind::LostWrite, [writer], detail);
            }
        }
    }
    for pair in finals.windows(2) {
        let ((a, left), (b, right)) = (pair[0], pair[1]);
        let rows = |list: &[Row]| -> BTreeSet<Row> { list.iter().copied().collect() };
        for row in rows(left).symmetric_difference(&rows(right)) {
            let detail = format!("{a} and {b} differ in {row:?}");
            report.add(Kind::Divergence, [], detail);
        }
    }
    Ok(report)
}

fn attempts(history: &History<Step>) -> Result<BTreeMap<u64, (usize, Row)>, Error> {
    let mut attempts: BTreeMap<u64, (usize, Row)> = BTreeMap::new();
    for (index, t) in history.transactions.iter().enumerate() {
        for step in &t.steps {
            if let Step::Insert(row) = *step
                && let Some((first, _)) = attempts.insert(row.token, (index, row))
            {
                return Err(Error::AmbiguousValue {
                    value: row.token,
                    first: TransactionId::new(first),
                    second: TransactionId::new(index),
                });
            }
        }
    }
    Ok(attempts)
}

struct Set<'h> {
    history: &'h History<Step>,
    /// By token.
    attempts: BTreeMap<u64, (usize, Row)>,
    effective: Vec<bool>,
}

impl Set<'_> {
    fn find_effective(&self, finals: &[(NodeIndex, &Vec<Row>)]) -> Vec<bool> {
        let ts = &self.history.transactions;
        let mut effective: Vec<bool> = ts.iter().map(|t| t.outcome == Outcome::Committed).collect();
        let reads = ts.iter().filter(|t| t.outcome == Outcome::Committed);
        let read_rows = reads.flat_map(|t| &t.steps).filter_map(|step| match step {
            Step::Read(rows) => Some(rows),
            Step::Insert(_) => None,
        });
        for row in read_rows.chain(finals.iter().map(|&(_, rows)| rows)).flatten() {
            if let Some(&(index, _)) = self.attempts.get(&row.token) {
                effective[index] |= ts[index].outcome == Outcome::Unknown;
            }
        }
        effective
    }

    fn effective_rows(&self) -> impl Iterator<Item = (Row, usize)> {
        let rows = self.attempts.values().map(|&(index, row)| (row, index));
        rows.filter(|&(_, index)| self.effective[index])
    }

    fn check_owners(&self, report: &mut Report) {
        let mut owners: BTreeMap<u64, Vec<TransactionId>> = BTreeMap::new();
        for (row, index) in self.effective_rows() {
            owners.entry(row.key).or_default().push(TransactionId::new(index));
        }
        for (key, owners) in owners.into_iter().filter(|(_, owners)| owners.len() > 1) {
            let detail = format!("key {key} was given to {owners:?}");
            report.add(Kind::UniquenessViolation, owners, detail);
        }
    }

    fn check_rows(&self, reader: Option<TransactionId>, name: &str, rows: &[Row], report: &mut Report) {
        let mut keys = BTreeSet::new();
        for row in rows {
            if !keys.insert(row.key) {
                let detail = format!("{name} saw key {} twice", row.key);
                report.add(Kind::Duplicate, reader, detail);
            }
            let attempt = self.attempts.get(&row.token).filter(|(_, r)| r == row);
            let Some(&(index, _)) = attempt else {
                let detail = format!("{name} saw {row:?}, which nobody wrote");
                report.add(Kind::GarbageRead, reader, detail);
                continue;
            };
            if self.history.transactions[index].outcome == Outcome::Aborted {
                let writer = TransactionId::new(index);
                let detail = format!("{name} saw {row:?}, but {writer} aborted");
                report.add(Kind::G1a, reader.into_iter().chain([writer]), detail);
            }
        }
    }

    /// A read must hold what was acknowledged at its node before it began.
    fn check_reads(&self, report: &mut Report) {
        let ts = &self.history.transactions;
        let mut acknowledged: BTreeMap<NodeIndex, Vec<(Tick, Row, usize)>> = BTreeMap::new();
        for (row, index) in self.effective_rows() {
            if ts[index].outcome == Outcome::Committed {
                let at_node = acknowledged.entry(ts[index].node).or_default();
                at_node.push((ts[index].complete, row, index));
            }
        }
        for rows in acknowledged.values_mut() {
            rows.sort_unstable();
        }
        for (index, t) in ts.iter().enumerate().filter(|&(i, _)| self.effective[i]) {
            for step in &t.steps {
                let Step::Read(rows) = step else { continue };
                let reader = TransactionId::new(index);
                self.check_rows(Some(reader), &reader.to_string(), rows, report);
                let seen: BTreeSet<Row> = rows.iter().copied().collect();
                let at_node = acknowledged.get(&t.node).map_or(&[][..], Vec::as_slice);
                let before = at_node.iter().take_while(|(at, ..)| *at < t.invoke);
                for &(_, row, writer) in before.filter(|(_, row, _)| !seen.contains(row)) {
                    let writer = TransactionId::new(writer);
                    report.push(Anomaly {
                        kind: Kind::StaleRead,
                        order: OrderUsed::RealTime,
                        transactions: vec![reader, writer],
                        detail: format!("{reader} missed {row:?}, which {writer} had inserted"),
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Isolation;
    use super::super::script::{self, Script};
    use super::*;

    const A: Row = Row { key: 1, token: 10 };
    const B: Row = Row { key: 2, token: 20 };
    /// Wants `A`'s key.
    const RIVAL: Row = Row { key: 1, token: 11 };

    fn set() -> Script<Step> {
        script::history(Isolation::ReadCommitted, Vec::new()).committed(vec![Step::Insert(A)])
    }

    fn kinds(history: History<Step>) -> Vec<Kind> {
        check(&history).expect("checkable").kinds()
    }

    #[test]
    fn a_good_history_passes() {
        let history = || {
            set().aborted(vec![Step::Insert(RIVAL)]).unknown(vec![Step::Insert(B)]).committed(vec![Step::Read(vec![A])])
        };
        assert_eq!(kinds(history().finally(vec![A]).done()), []);
        assert_eq!(kinds(history().finally(vec![B, A]).done()), []);
    }

    #[test]
    fn a_lost_row_is_seen() {
        assert_eq!(kinds(set().finally(vec![]).done()), [Kind::LostWrite]);
        let stale = set().committed(vec![Step::Read(vec![])]).finally(vec![A]);
        assert_eq!(kinds(stale.done()), [Kind::StaleRead]);
    }

    #[test]
    fn two_owners_of_a_key_are_seen() {
        let history = set().committed(vec![Step::Insert(RIVAL)]).finally(vec![A]);
        let expected = [Kind::LostWrite, Kind::UniquenessViolation];
        assert_eq!(kinds(history.done()), expected);
        let both = set().committed(vec![Step::Insert(RIVAL)]).finally(vec![A, RIVAL]);
        let expected = [Kind::Duplicate, Kind::UniquenessViolation];
        assert_eq!(kinds(both.done()), expected);
    }

    #[test]
    fn aborted_and_foreign_rows_are_seen() {
        let history = set().aborted(vec![Step::Insert(B)]).finally(vec![A, B]);
        assert_eq!(kinds(history.done()), [Kind::G1a]);
        assert_eq!(kinds(set().finally(vec![A, B]).done()), [Kind::GarbageRead]);
    }

    #[test]
    fn nodes_must_agree() {
        let history = set().unknown(vec![Step::Insert(B)]).finally(vec![A, B]).finally(vec![A]);
        assert_eq!(kinds(history.done()), [Kind::LostWrite, Kind::Divergence]);
    }
}
