//! What the final reads must hold: everything acknowledged, nothing aborted, and
//! the same on every node.

use std::collections::{BTreeSet, HashSet};

use super::super::record::{NodeIndex, TransactionId};
use super::super::report::{Kind, Report};
use super::evidence::{Evidence, Reader};
use super::{State, Step};

pub(super) fn check(evidence: &Evidence<'_>, finals: &[(NodeIndex, &State)], report: &mut Report) {
    for &(node, state) in finals {
        check_lists(evidence, node, state, report);
        check_nothing_lost(evidence, node, state, report);
    }
    for pair in finals.windows(2) {
        check_same(pair[0], pair[1], report);
    }
}

fn check_lists(evidence: &Evidence<'_>, node: NodeIndex, state: &State, report: &mut Report) {
    let reader = Reader::Final(node);
    for (&key, values) in state {
        let order = &evidence.orders[&key];
        if !order.values.starts_with(values) {
            let detail = format!(
                "{reader} holds {values:?} in key {key}, but {} saw {:?}",
                order.reader, order.values
            );
            report.add(Kind::IncompatibleOrder, order.reader.transaction(), detail);
            evidence.check_values(key, values, reader, report);
        }
        evidence.check_aborted(key, values, reader, report);
    }
}

fn check_nothing_lost(
    evidence: &Evidence<'_>,
    node: NodeIndex,
    state: &State,
    report: &mut Report,
) {
    let held: HashSet<(u64, u64)> = state
        .iter()
        .flat_map(|(&key, values)| values.iter().map(move |&value| (key, value)))
        .collect();
    for (index, t) in evidence.effective_transactions() {
        for step in &t.steps {
            if let Step::Append { key, value } = *step
                && !held.contains(&(key, value))
            {
                let writer = TransactionId::new(index);
                let detail = format!(
                    "{value}, which {writer} appended to key {key}, is not in the final read at {node}"
                );
                report.add(Kind::LostWrite, [writer], detail);
            }
        }
    }
}

fn check_same((a, left): (NodeIndex, &State), (b, right): (NodeIndex, &State), report: &mut Report) {
    if left == right {
        return;
    }
    let keys: BTreeSet<u64> = left.keys().chain(right.keys()).copied().collect();
    for key in keys {
        let (left, right) = (left.get(&key), right.get(&key));
        if left != right {
            let show = |list: Option<&Vec<u64>>| list.map_or("nothing".to_owned(), |l| format!("{l:?}"));
            let detail = format!("key {key}: {a} holds {}, {b} {}", show(left), show(right));
            report.add(Kind::Divergence, [], detail);
        }
    }
}
