//! Orders that do not come from values: of a process, and of a node.

use std::collections::BTreeMap;

use super::record::{Outcome, Tick, Transaction};

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

/// Pairs of transactions of which the first was acknowledged before the second,
/// at the same node, began; without those that follow from others, so that
/// there are about as many for each transaction as there are clients.
pub(crate) fn node_order<S>(ts: &[Transaction<S>], effective: &[bool]) -> Vec<(usize, usize)> {
    let mut moments: Vec<(Tick, usize)> = Vec::with_capacity(2 * ts.len());
    for (index, t) in ts.iter().enumerate().filter(|&(i, _)| effective[i]) {
        moments.push((t.invoke, index));
        if t.outcome == Outcome::Committed {
            moments.push((t.complete, index));
        }
    }
    moments.sort_unstable();

    let mut pairs = Vec::new();
    // Of each node: acknowledged transactions that do not precede another such one.
    let mut frontiers: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (moment, index) in moments {
        let t = &ts[index];
        let frontier = frontiers.entry(t.node).or_default();
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
    fn node_order_is_reduced_and_knows_nodes_and_unknown_outcomes() {
        let ts = [
            transaction(0, 1, 2, Outcome::Committed),
            transaction(0, 3, 6, Outcome::Committed),
            transaction(1, 4, 5, Outcome::Committed),
            transaction(0, 7, 8, Outcome::Unknown),
            transaction(0, 9, 10, Outcome::Committed),
        ];
        let pairs = node_order(&ts, &[true; 5]);
        assert_eq!(pairs, [(0, 1), (1, 3), (1, 4)]);
    }
}
