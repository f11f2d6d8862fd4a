//! What the final reads must hold: everything acknowledged, nothing aborted, and
//! the same on every node.

use std::collections::{BTreeSet, HashMap};

use super::super::record::{NodeIndex, TransactionId};
use super::super::report::{Kind, Report};
use super::evidence::{Evidence, Reader};
use super::{State, Step};

pub(super) fn check(evidence: &Evidence<'_>, finals: &[(NodeIndex, &State)], report: &mut Report) {
    for &(node, state) in finals {
        for (&key, values) in state {
            evidence.check_list(key, values, Reader::Final(node), report);
        }
        check_nothing_lost(evidence, node, state, report);
    }
    for pair in finals.windows(2) {
        check_same(pair[0], pair[1], report);
    }
}

fn check_nothing_lost(evidence: &Evidence<'_>, node: NodeIndex, state: &State, report: &mut Report) {
    // Lists that are prefixes of the longest ones, which is all of them in a
    // good history, hold what has its position in them.
    let prefix_len = |(key, values): (&u64, &Vec<u64>)| {
        let is_prefix = evidence.orders[key].values.starts_with(values);
        is_prefix.then_some((*key, values.len()))
    };
    let prefixes: HashMap<u64, usize> = state.iter().filter_map(prefix_len).collect();
    let holds = |key: u64, value: u64| match (prefixes.get(&key), state.get(&key)) {
        (Some(&len), _) => {
            let position = evidence.write(key, value).and_then(|write| write.position);
            position.is_some_and(|position| position < len)
        }
        (None, Some(values)) => values.contains(&value),
        (None, None) => false,
    };
    for (index, t) in evidence.effective_transactions() {
        for step in &t.steps {
            if let Step::Append { key, value } = *step
                && !holds(key, value)
            {
                let writer = TransactionId::new(index);
                let detail =
                    format!("{value}, which {writer} appended to key {key}, is not in the final read at {node}");
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
