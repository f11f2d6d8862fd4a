//! Orders that do not come from values: of a process, and of time.

use std::collections::BTreeMap;

use super::record::{Outcome, Tick, Transaction};
use super::report::RealTime;

/// Pairs of transactions (by index) of which the first was acknowledged before
/// the second, of the same process, began. Only transactions that took effect
/// take part, and one with an unknown outcome precedes nothing.
pub(crate) fn session_order<S>(ts: &[Transaction<S>], effective: &[bool]) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    let mut last_of = BTreeMap::new();
    for (index, t) in ts.iter().enumerate().filter(|&(i, _)| effective[i]) {
        if let Some(&last) = last_of.get(&t.process) {
            pairs.push((last, index));
        }
        if t.outcome == Outcome::Committed {
            last_of.insert(t.process, index);
        }
    }
    pairs
}

/// Pairs of transactions of which the first was acknowledged before the second
/// began, as far as real-time order reaches; without those that follow from
/// others, so that there are about as many for each transaction as there are
/// clients.
pub(crate) fn order<S>(ts: &[Transaction<S>], effective: &[bool], reach: RealTime) -> Vec<(usize, usize)> {
    let place_of = |t: &Transaction<S>| match reach {
        RealTime::Node => Some(t.node),
        RealTime::Ignored | RealTime::Cluster => None,
    };
    if reach == RealTime::Ignored {
        return Vec::new();
    }
    let mut moments: Vec<(Tick, usize)> = Vec::with_capacity(2 * ts.len());
    for (index, t) in ts.iter().enumerate().filter(|&(i, _)| effective[i]) {
        moments.push((t.invoke, index));
        if t.outcome == Outcome::Committed {
            moments.push((t.complete, index));
        }
    }
    moments.sort_unstable();

    let mut pairs = Vec::new();
    // Of each place: acknowledged transactions that do not precede another such one.
    let mut frontiers: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (moment, index) in moments {
        let t = &ts[index];
        let frontier = frontiers.entry(place_of(t)).or_default();
        if moment == t.invoke {
            pairs.extend(frontier.iter().map(|&before| (before, index)));
        } else {
            frontier.retain(|&other| ts[other].complete > t.invoke);
            frontier.push(index);
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::super::record::{NodeIndex, ProcessId};
    use super::*;

    fn transaction(node: u32, invoke: u64, complete: u64, outcome: Outcome) -> Transaction<()> {
        Transaction {
            process: ProcessId(0),
            node: NodeIndex(node),
            invoke: Tick(invoke),
            commit: Some(Tick(invoke)),
            complete: Tick(complete),
            outcome,
            steps: Vec::new(),
            error: None,
        }
    }

    #[test]
    fn order_is_reduced_and_knows_nodes_and_unknown_outcomes() {
        let ts = [
            transaction(0, 1, 2, Outcome::Committed),
            transaction(0, 3, 6, Outcome::Committed),
            transaction(1, 4, 5, Outcome::Committed),
            transaction(0, 7, 8, Outcome::Unknown),
            transaction(0, 9, 10, Outcome::Committed),
        ];
        let order = |reach| order(&ts, &[true; 5], reach);
        assert_eq!(order(RealTime::Ignored), []);
        assert_eq!(order(RealTime::Node), [(0, 1), (1, 3), (1, 4)]);
        let everywhere = [(0, 1), (0, 2), (2, 3), (1, 3), (2, 4), (1, 4)];
        assert_eq!(order(RealTime::Cluster), everywhere);
    }
}
