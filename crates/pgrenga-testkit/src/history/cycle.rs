//! Finds forbidden cycles among transactions, and names them.

use std::collections::{BTreeSet, HashSet};

use super::graph::EdgeKind::{RealTime, Rw, Session, Wr, Ww};
use super::graph::{Components, Edge, EdgeKind, Graph, Rule, Walk};
use super::record::TransactionId;
use super::report::{Anomaly, Kind, Model, OrderUsed, Report};

/// In a component with many cycles, the best of those through this many edges
/// is the witness.
const CANDIDATES_MAX: usize = 64;

/// The searches for witnesses: the edges that may be used, and those of which
/// one must be. The strongest anomalies and the weakest assumptions come first.
const SEARCHES: [(&[EdgeKind], &[EdgeKind]); 9] = [
    (&[Ww], &[Ww]),
    (&[Ww, Wr], &[Wr]),
    (&[Ww, Wr, Rw], &[Rw]),
    (&[Ww, Session], &[Session]),
    (&[Ww, Wr, Session], &[Session]),
    (&[Ww, Wr, Rw, Session], &[Session]),
    (&[Ww, Session, RealTime], &[RealTime]),
    (&[Ww, Wr, Session, RealTime], &[RealTime]),
    (&[Ww, Wr, Rw, Session, RealTime], &[RealTime]),
];

/// Reports a witness for each group of transactions that is tied into a cycle
/// that the model forbids.
pub(super) fn check(graph: &Graph, model: Model, report: &mut Report) {
    let rule = match model {
        Model::SnapshotIsolation => Rule::Snapshot,
        Model::ReadCommitted => Rule::Statement,
    };
    // Every other search's cycles are cycles here: a good history is done at once.
    let everything = Walk { kinds: &[Ww, Wr, Rw, Session, RealTime], rule };
    let suspects: HashSet<u32> =
        graph.components(everything).members.iter().flatten().map(|state| state.vertex()).collect();
    if suspects.is_empty() {
        return;
    }

    let graph = graph.restricted(|vertex| suspects.contains(&vertex));
    let mut seen = HashSet::new();
    for (kinds, required) in SEARCHES {
        let walk = Walk { kinds, rule };
        let components = graph.components(walk);
        for component in 0..components.members.len() {
            if let Some(cycle) = witness(&graph, walk, &components, component, required) {
                let members: BTreeSet<u32> = cycle.iter().map(|edge| edge.from).collect();
                if seen.insert(members) {
                    report.push(describe(&cycle));
                }
            }
        }
    }
}

fn witness(
    graph: &Graph,
    walk: Walk<'_>,
    components: &Components,
    component: usize,
    required: &[EdgeKind],
) -> Option<Vec<Edge>> {
    graph
        .cyclic_edges(walk, components, component, required)
        .take(CANDIDATES_MAX)
        .filter_map(|edge| graph.cycle_through(walk, components, edge))
        .min_by_key(|cycle| (count(cycle, Rw), cycle.len()))
}

fn count(cycle: &[Edge], kind: EdgeKind) -> usize {
    cycle.iter().filter(|edge| edge.kind == kind).count()
}

fn classify(cycle: &[Edge]) -> Kind {
    let before = |at: usize| cycle[(at + cycle.len() - 1) % cycle.len()].kind;
    let anti_dependencies: Vec<usize> = (0..cycle.len()).filter(|&at| cycle[at].kind == Rw).collect();
    if anti_dependencies.is_empty() {
        return if count(cycle, Wr) == 0 { Kind::G0 } else { Kind::G1c };
    }
    if anti_dependencies.iter().all(|&at| before(at).is_order()) {
        return Kind::StaleRead;
    }
    // writer 1 -wr-> reader 1 -rw-> writer 2 -wr-> reader 2 -rw-> writer 1
    let long_fork = cycle.len() == 4 && anti_dependencies.iter().all(|&at| before(at) == Wr);
    match anti_dependencies.len() {
        1 => Kind::GSingle,
        2 if long_fork => Kind::LongFork,
        _ => Kind::GNonadjacent,
    }
}

fn describe(cycle: &[Edge]) -> Anomaly {
    let order = if count(cycle, RealTime) > 0 {
        OrderUsed::RealTime
    } else if count(cycle, Session) > 0 {
        OrderUsed::Session
    } else {
        OrderUsed::Data
    };
    let mut detail = String::new();
    for edge in cycle {
        let (from, to) = (TransactionId(edge.from), TransactionId(edge.to));
        let (key, value) = (edge.key, edge.value);
        let because = match edge.kind {
            Ww => format!("in key {key}, {to}'s {value} follows a value of {from}"),
            Wr => format!("in key {key}, {to} read up to {from}'s {value}"),
            Rw => format!("in key {key}, {from} read up to just before {to}'s {value}"),
            Session => format!("{to} follows {from} in its process"),
            RealTime => format!("{from} was acknowledged before {to} began"),
        };
        detail.push_str(&format!("\n  {from} -{}-> {to}: {because}", edge.kind.name()));
    }
    Anomaly {
        kind: classify(cycle),
        order,
        transactions: cycle.iter().map(|edge| TransactionId(edge.from)).collect(),
        detail,
    }
}
