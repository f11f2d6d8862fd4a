//! The bank checker: transfers move money between accounts, so no snapshot may
//! show another total than the first; and since each transfer leaves a row, the
//! balances must be what exactly those rows explain.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::record::{self, Error, History, NodeIndex, Outcome, Transaction, TransactionId};
use super::report::{Kind, Report};

/// Balances by account.
pub type Balances = BTreeMap<u32, i64>;

/// The row that a transfer leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Transfer {
    /// Unique in the history.
    pub id: u64,
    /// The account that pays.
    pub from: u32,
    /// The account that receives.
    pub to: u32,
    /// How much.
    pub amount: i64,
}

/// One step of a bank transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Move money and leave the row.
    Transfer(Transfer),
    /// Saw all balances, in one snapshot.
    Snapshot(Balances),
}

/// Everything the bank holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The accounts.
    pub balances: Balances,
    /// The rows of transfers, in any order.
    pub transfers: Vec<Transfer>,
}

impl record::Step for Step {
    const WORKLOAD: &'static str = "bank";
    type State = State;

    fn is_write(&self) -> bool {
        matches!(self, Self::Transfer(_))
    }
}

/// Judges a bank history. The initial state must hold the accounts, and no rows
/// of transfers.
///
/// # Errors
/// If the history is vacuous or contradicts itself: see [`Error`].
pub fn check(history: &History<Step>) -> Result<Report, Error> {
    let finals = history.validate()?;
    let attempts = attempts(history)?;
    let listed: BTreeSet<u64> =
        finals.iter().flat_map(|(_, state)| state.transfers.iter().map(|transfer| transfer.id)).collect();
    let effective: Vec<bool> = history
        .transactions
        .iter()
        .map(|t| match t.outcome {
            Outcome::Committed => true,
            Outcome::Aborted => false,
            Outcome::Unknown => transfers(t).any(|transfer| listed.contains(&transfer.id)),
        })
        .collect();

    let mut report = Report::of(&effective);
    check_snapshots(history, &effective, &mut report);
    let bank = Bank { history, attempts, effective };
    for &(node, state) in &finals {
        bank.check_rows(node, state, &mut report);
        bank.check_balances(node, state, &mut report);
    }
    for pair in finals.windows(2) {
        check_same(pair[0], pair[1], &mut report);
    }
    Ok(report)
}

fn transfers(t: &Transaction<Step>) -> impl Iterator<Item = &Transfer> {
    t.steps.iter().filter_map(|step| match step {
        Step::Transfer(transfer) => Some(transfer),
        Step::Snapshot(_) => None,
    })
}

fn attempts(history: &History<Step>) -> Result<BTreeMap<u64, (usize, Transfer)>, Error> {
    let mut attempts: BTreeMap<u64, (usize, Transfer)> = BTreeMap::new();
    for (index, t) in history.transactions.iter().enumerate() {
        for &transfer in transfers(t) {
            if let Some((first, _)) = attempts.insert(transfer.id, (index, transfer)) {
                return Err(Error::AmbiguousValue {
                    value: transfer.id,
                    first: TransactionId::new(first),
                    second: TransactionId::new(index),
                });
            }
        }
    }
    Ok(attempts)
}

fn total(balances: &Balances) -> i64 {
    balances.values().sum()
}

fn check_snapshots(history: &History<Step>, effective: &[bool], report: &mut Report) {
    let initial = &history.initial.balances;
    for (index, t) in history.transactions.iter().enumerate() {
        for step in &t.steps {
            let Step::Snapshot(balances) = step else {
                continue;
            };
            if effective[index] && (total(balances) != total(initial) || !balances.keys().eq(initial.keys())) {
                let reader = TransactionId::new(index);
                let detail =
                    format!("{reader} saw a total of {} instead of {}: {balances:?}", total(balances), total(initial));
                report.add(Kind::Imbalance, [reader], detail);
            }
        }
    }
}

struct Bank<'h> {
    history: &'h History<Step>,
    attempts: BTreeMap<u64, (usize, Transfer)>,
    effective: Vec<bool>,
}

impl Bank<'_> {
    /// The rows must be those of all transactions that took effect, once each.
    fn check_rows(&self, node: NodeIndex, state: &State, report: &mut Report) {
        let mut held = BTreeSet::new();
        for row in &state.transfers {
            if !held.insert(row.id) {
                let detail = format!("{node} holds transfer {} twice", row.id);
                report.add(Kind::Duplicate, [], detail);
            }
            match self.attempts.get(&row.id) {
                Some(&(index, transfer)) if transfer == *row => {
                    if self.history.transactions[index].outcome == Outcome::Aborted {
                        let writer = TransactionId::new(index);
                        let detail = format!("{node} holds {row:?}, but {writer} aborted");
                        report.add(Kind::G1a, [writer], detail);
                    }
                }
                _ => report.add(Kind::GarbageRead, [], format!("{node} holds {row:?}, which nobody wrote")),
            }
        }
        for (id, (index, transfer)) in &self.attempts {
            if self.effective[*index] && !held.contains(id) {
                let writer = TransactionId::new(*index);
                let detail = format!("{node} misses {transfer:?} of {writer}");
                report.add(Kind::LostWrite, [writer], detail);
            }
        }
    }

    fn check_balances(&self, node: NodeIndex, state: &State, report: &mut Report) {
        let mut explained = self.history.initial.balances.clone();
        for row in &state.transfers {
            *explained.entry(row.from).or_default() -= row.amount;
            *explained.entry(row.to).or_default() += row.amount;
        }
        if explained != state.balances {
            let detail = format!("{node} holds {:?}, but its rows of transfers make {explained:?}", state.balances);
            report.add(Kind::Unexplained, [], detail);
        }
        let initial = total(&self.history.initial.balances);
        if total(&state.balances) != initial {
            let now = total(&state.balances);
            let detail = format!("{node} holds a total of {now} instead of {initial}");
            report.add(Kind::Imbalance, [], detail);
        }
    }
}

fn check_same((a, left): (NodeIndex, &State), (b, right): (NodeIndex, &State), report: &mut Report) {
    let rows = |state: &State| -> BTreeSet<Transfer> { state.transfers.iter().copied().collect() };
    if left.balances != right.balances {
        let detail = format!("{a} holds {:?}, {b} {:?}", left.balances, right.balances);
        report.add(Kind::Divergence, [], detail);
    }
    let (left, right) = (rows(left), rows(right));
    for row in left.symmetric_difference(&right) {
        let (has, lacks) = if left.contains(row) { (a, b) } else { (b, a) };
        let detail = format!("{has} holds {row:?}, {lacks} does not");
        report.add(Kind::Divergence, [], detail);
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Isolation;
    use super::super::script::{self, Script};
    use super::*;

    const TRANSFER: Transfer = Transfer { id: 7, from: 0, to: 1, amount: 30 };

    fn balances(of: [i64; 2]) -> Balances {
        (0..).zip(of).collect()
    }

    fn state(of: [i64; 2], transfers: &[Transfer]) -> State {
        State { balances: balances(of), transfers: transfers.to_vec() }
    }

    fn bank() -> Script<Step> {
        script::history(Isolation::RepeatableRead, state([100, 100], &[]))
    }

    fn kinds(history: History<Step>) -> Vec<Kind> {
        check(&history).expect("checkable").kinds()
    }

    #[test]
    fn a_good_history_passes() {
        let history = bank()
            .committed(vec![Step::Snapshot(balances([100, 100]))])
            .committed(vec![Step::Transfer(TRANSFER)])
            .committed(vec![Step::Snapshot(balances([70, 130]))])
            .finally(state([70, 130], &[TRANSFER]))
            .finally(state([70, 130], &[TRANSFER]));
        assert_eq!(kinds(history.done()), []);
    }

    #[test]
    fn a_half_done_transfer_is_seen() {
        let history = bank()
            .committed(vec![Step::Transfer(TRANSFER)])
            .committed(vec![Step::Snapshot(balances([70, 100]))])
            .finally(state([70, 130], &[TRANSFER]));
        assert_eq!(kinds(history.done()), [Kind::Imbalance]);
    }

    #[test]
    fn an_acknowledged_transfer_must_be_there() {
        let history = bank().committed(vec![Step::Transfer(TRANSFER)]).finally(state([100, 100], &[]));
        assert_eq!(kinds(history.done()), [Kind::LostWrite]);
    }

    #[test]
    fn an_unknown_transfer_may_be_there_or_not_but_everywhere_alike() {
        let other = Transfer { id: 8, ..TRANSFER };
        let history = || bank().unknown(vec![Step::Transfer(TRANSFER)]).committed(vec![Step::Transfer(other)]);
        let without = state([70, 130], &[other]);
        let with = state([40, 160], &[other, TRANSFER]);
        assert_eq!(kinds(history().finally(without.clone()).done()), []);
        assert_eq!(kinds(history().finally(with.clone()).done()), []);
        let differing = history().finally(with).finally(without).done();
        assert_eq!(kinds(differing), [Kind::LostWrite, Kind::Divergence]);
    }

    #[test]
    fn an_aborted_transfer_must_not_be_there() {
        let aborted = Transfer { id: 8, ..TRANSFER };
        let history = bank()
            .committed(vec![Step::Transfer(TRANSFER)])
            .aborted(vec![Step::Transfer(aborted)])
            .finally(state([40, 160], &[TRANSFER, aborted]));
        assert_eq!(kinds(history.done()), [Kind::G1a]);
    }

    #[test]
    fn lost_updates_of_balances_are_unexplained() {
        let other = Transfer { id: 8, ..TRANSFER };
        let history = bank()
            .committed(vec![Step::Transfer(TRANSFER)])
            .committed(vec![Step::Transfer(other)])
            .finally(state([70, 130], &[TRANSFER, other]));
        assert_eq!(kinds(history.done()), [Kind::Unexplained]);
    }

    #[test]
    fn a_transfer_applied_twice_is_seen() {
        let history = bank().committed(vec![Step::Transfer(TRANSFER)]).finally(state([40, 160], &[TRANSFER, TRANSFER]));
        assert_eq!(kinds(history.done()), [Kind::Duplicate]);
        let history = bank().committed(vec![Step::Transfer(TRANSFER)]).finally(state([40, 160], &[TRANSFER]));
        assert_eq!(kinds(history.done()), [Kind::Unexplained]);
    }

    #[test]
    fn a_row_that_nobody_wrote_is_seen() {
        let changed = Transfer { amount: 31, ..TRANSFER };
        let history = bank().committed(vec![Step::Transfer(TRANSFER)]).finally(state([69, 131], &[changed]));
        assert_eq!(kinds(history.done()), [Kind::GarbageRead]);
    }

    #[test]
    fn nothing_acknowledged_is_an_error() {
        let history = bank()
            .aborted(vec![Step::Transfer(TRANSFER)])
            .committed(vec![Step::Snapshot(balances([100, 100]))])
            .finally(state([100, 100], &[]));
        assert!(matches!(check(&history.done()), Err(Error::Vacuous { .. })));
    }
}
