//! The dependency graph of a list-append history.

use super::super::graph::{Edge, EdgeKind, Graph};
use super::super::real_time;
use super::super::report::Promise;
use super::Step;
use super::evidence::Evidence;

/// Builds the graph over the transactions that took effect. Dependencies that
/// follow from others through one key's version order are left out.
pub(super) fn graph(evidence: &Evidence<'_>, promise: Promise) -> Graph {
    let transactions = &evidence.history.transactions;
    let mut edges = Vec::with_capacity(4 * transactions.len());
    let mut add = |from: usize, kind: EdgeKind, to: usize, key: u64, value: u64| {
        if from != to {
            edges.push(Edge { from: vertex(from), to: vertex(to), kind, key, value });
        }
    };

    for (&key, order) in &evidence.orders {
        for pair in order.values.windows(2) {
            let writer = |value| evidence.effective_writer(key, value);
            if let (Some(from), Some(to)) = (writer(pair[0]), writer(pair[1])) {
                add(from, EdgeKind::Ww, to, key, pair[1]);
            }
        }
    }
    for (reader, t) in evidence.effective_transactions() {
        for (place, step) in t.steps.iter().enumerate() {
            let Step::Read { key, values } = step else {
                continue;
            };
            // A read after the transaction's own append shows the version that
            // it replaced: the write dependencies tell that already.
            let own = |s: &Step| matches!(s, Step::Append { key: k, .. } if k == key);
            let order = evidence.orders[key].values;
            if t.steps[..place].iter().any(own) || !order.starts_with(values) {
                continue;
            }
            let writer = |value: &u64| evidence.effective_writer(*key, *value);
            if let Some(value) = values.last()
                && let Some(from) = writer(value)
            {
                add(from, EdgeKind::Wr, reader, *key, *value);
            }
            if let Some(value) = order.get(values.len())
                && let Some(to) = writer(value)
            {
                add(reader, EdgeKind::Rw, to, *key, *value);
            }
        }
    }
    if promise.session_order {
        for (from, to) in real_time::session_order(transactions, &evidence.effective) {
            add(from, EdgeKind::Session, to, 0, 0);
        }
    }
    for (from, to) in real_time::order(transactions, &evidence.effective, promise.real_time) {
        add(from, EdgeKind::RealTime, to, 0, 0);
    }
    Graph::new(transactions.len(), edges)
}

fn vertex(index: usize) -> u32 {
    u32::try_from(index).expect("a history holds less than 2^31 transactions")
}
