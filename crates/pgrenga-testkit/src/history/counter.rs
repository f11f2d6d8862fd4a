//! The counter checker: one number, which transactions add to.
//!
//! A value can be wrong in two ways only: too low, so that something
//! acknowledged is missing, or too high, so that something happened twice or
//! although it aborted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::record::{self, Error, History, Outcome, Tick, Transaction, TransactionId};
use super::report::{Anomaly, Kind, OrderUsed, Report};

/// One step of a counter transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Added this much, more than nothing.
    Add(u32),
    /// Saw this value.
    Read(u64),
}

impl record::Step for Step {
    const WORKLOAD: &'static str = "counter";
    type State = u64;

    fn is_write(&self) -> bool {
        matches!(self, Self::Add(_))
    }
}

fn added(t: &Transaction<Step>) -> u64 {
    let amount = |step: &Step| match step {
        Step::Add(amount) => u64::from(*amount),
        Step::Read(_) => 0,
    };
    t.steps.iter().map(amount).sum()
}

/// Judges a counter history: reads of acknowledged transactions, and final reads.
///
/// A read must hold everything that was acknowledged at its node before its
/// transaction began, and must not be lower than an earlier such read there.
///
/// # Errors
/// If the history is vacuous or contradicts itself: see [`Error`].
pub fn check(history: &History<Step>) -> Result<Report, Error> {
    let finals = history.validate()?;
    let committed = |t: &Transaction<Step>| t.outcome == Outcome::Committed;
    let effective: Vec<bool> = history.transactions.iter().map(committed).collect();
    let mut report = Report::of(&effective);
    check_reads(history, &mut report);

    let sum_of = |outcome| -> u64 {
        let ended_so = |t: &&Transaction<Step>| t.outcome == outcome;
        history.transactions.iter().filter(ended_so).map(added).sum()
    };
    let least = history.initial + sum_of(Outcome::Committed);
    let most = least + sum_of(Outcome::Unknown);
    for &(node, &value) in &finals {
        let detail = format!("{node} holds {value} in the end, outside of {least} to {most}");
        if value < least {
            report.add(Kind::LostWrite, [], detail);
        } else if value > most {
            report.add(Kind::Unexplained, [], detail);
        }
    }
    for pair in finals.windows(2) {
        let ((a, left), (b, right)) = (pair[0], pair[1]);
        if left != right {
            let detail = format!("{a} holds {left}, {b} {right}");
            report.add(Kind::Divergence, [], detail);
        }
    }
    Ok(report)
}

/// What a node has shown or acknowledged by some moment.
#[derive(Clone, Copy, Default)]
struct Shown {
    acknowledged: u64,
    read: u64,
}

fn check_reads(history: &History<Step>, report: &mut Report) {
    let ts = &history.transactions;
    let mut moments: Vec<(Tick, usize)> = Vec::with_capacity(2 * ts.len());
    for (index, t) in ts.iter().enumerate() {
        moments.push((t.invoke, index));
        moments.push((t.complete, index));
    }
    moments.sort_unstable();

    let mut shown: BTreeMap<_, Shown> = BTreeMap::new();
    let mut shown_at_invoke = vec![Shown::default(); ts.len()];
    let mut possible = history.initial;
    for (moment, index) in moments {
        let t = &ts[index];
        let at_node = shown.entry(t.node).or_default();
        if moment == t.invoke {
            shown_at_invoke[index] = *at_node;
            if t.outcome != Outcome::Aborted {
                possible += added(t);
            }
        } else if t.outcome == Outcome::Committed {
            let least = shown_at_invoke[index].read.max(history.initial + shown_at_invoke[index].acknowledged);
            let highest = check_one(TransactionId::new(index), t, least, possible, report);
            at_node.read = at_node.read.max(highest);
            at_node.acknowledged += added(t);
        }
    }
}

/// Checks one transaction's reads, and returns the highest value of others that it saw.
fn check_one(reader: TransactionId, t: &Transaction<Step>, least: u64, most: u64, report: &mut Report) -> u64 {
    let mut own = 0;
    let mut highest = 0;
    for step in &t.steps {
        match step {
            Step::Add(amount) => own += u64::from(*amount),
            Step::Read(value) => {
                let detail = || format!("{reader} saw {value}, outside of {} to {most}", least + own);
                if *value < least + own {
                    report.push(Anomaly {
                        kind: Kind::StaleRead,
                        order: OrderUsed::RealTime,
                        transactions: vec![reader],
                        detail: detail(),
                    });
                } else if *value > most {
                    report.add(Kind::Unexplained, [reader], detail());
                }
                highest = highest.max(value.saturating_sub(own));
            }
        }
    }
    highest
}

#[cfg(test)]
mod tests {
    use super::super::record::Isolation;
    use super::super::script::{self, Script};
    use super::*;

    fn counter() -> Script<Step> {
        script::history(Isolation::ReadCommitted, 10)
    }

    fn kinds(history: History<Step>) -> Vec<Kind> {
        check(&history).expect("checkable").kinds()
    }

    #[test]
    fn a_good_history_passes_with_and_without_the_unknown_addition() {
        let history = || {
            counter()
                .committed(vec![Step::Add(1), Step::Read(11)])
                .unknown(vec![Step::Add(5)])
                .aborted(vec![Step::Add(3)])
        };
        let seen = history().committed(vec![Step::Read(16)]).finally(16);
        assert_eq!(kinds(seen.done()), []);
        let unseen = history().committed(vec![Step::Read(11)]).finally(11);
        assert_eq!(kinds(unseen.done()), []);
    }

    #[test]
    fn a_lost_addition_is_seen_in_the_end_and_before() {
        let lost = counter().committed(vec![Step::Add(1)]).finally(10);
        assert_eq!(kinds(lost.done()), [Kind::LostWrite]);
        let stale = counter().committed(vec![Step::Add(1)]).committed(vec![Step::Read(10)]).finally(11);
        assert_eq!(kinds(stale.done()), [Kind::StaleRead]);
    }

    #[test]
    fn a_read_that_goes_back_is_seen() {
        let history = counter()
            .committed(vec![Step::Add(1)])
            .unknown(vec![Step::Add(5)])
            .committed(vec![Step::Read(16)])
            .committed(vec![Step::Read(11)])
            .finally(16);
        assert_eq!(kinds(history.done()), [Kind::StaleRead]);
    }

    #[test]
    fn a_repeated_addition_is_seen() {
        let history = counter().committed(vec![Step::Add(1)]).committed(vec![Step::Read(12)]).finally(12);
        assert_eq!(kinds(history.done()), [Kind::Unexplained]);
    }

    #[test]
    fn nodes_must_agree() {
        let history = counter().committed(vec![Step::Add(1)]).unknown(vec![Step::Add(1)]).finally(11).finally(12);
        assert_eq!(kinds(history.done()), [Kind::Divergence]);
    }
}
