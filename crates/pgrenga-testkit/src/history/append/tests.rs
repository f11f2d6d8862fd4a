//! One planted history for each anomaly, good ones beside them, and simulated ones.

use proptest::prelude::*;

use super::super::record::{History, Isolation, Outcome, Tick, Transaction};
use super::super::report::{Kind, Model, OrderUsed, Promise, RealTime, Report};
use super::super::script::{self, Script};
use super::super::simulate::{self, Bug, Options};
use super::*;

const X: u64 = 1;
const Y: u64 = 2;

fn a(key: u64, value: u64) -> Step {
    Step::Append { key, value }
}

fn r(key: u64, values: &[u64]) -> Step {
    let values = values.to_vec();
    Step::Read { key, values }
}

/// An empty history whose transactions follow one another at node 0.
fn lists() -> Script<Step> {
    script::history(Isolation::RepeatableRead, State::new())
}

/// One whose transactions all run at the same time.
fn together() -> Script<Step> {
    lists().together()
}

fn ends(script: Script<Step>, lists: &[(u64, &[u64])]) -> History<Step> {
    let lists = lists.iter().map(|&(key, values)| (key, values.to_vec()));
    script.finally(lists.collect()).done()
}

fn judge(history: &History<Step>, model: Model) -> Report {
    let promise = Promise { model, ..Promise::of(history.isolation) };
    check(history, promise).expect("checkable")
}

/// The kinds found under snapshot isolation and under read committed.
fn kinds(history: &History<Step>) -> (Vec<Kind>, Vec<Kind>) {
    let kinds = |model| judge(history, model).kinds();
    (kinds(Model::SnapshotIsolation), kinds(Model::ReadCommitted))
}

fn flagged(history: &History<Step>, kind: Kind) {
    assert_eq!(kinds(history), (vec![kind], vec![kind]));
}

fn flagged_under_snapshot_isolation(history: &History<Step>, kind: Kind) {
    assert_eq!(kinds(history), (vec![kind], vec![]));
}

fn passes(history: &History<Step>) {
    assert_eq!(kinds(history), (vec![], vec![]));
}

#[test]
fn serial_history_passes() {
    let script = lists()
        .committed(vec![a(X, 1), r(X, &[1]), a(X, 2), r(Y, &[])])
        .committed(vec![r(X, &[1, 2]), a(Y, 3), r(Y, &[3])])
        .aborted(vec![r(X, &[1, 2]), a(X, 4)])
        .committed(vec![r(X, &[1, 2]), r(Y, &[3]), r(X, &[1, 2])]);
    passes(&ends(script, &[(X, &[1, 2]), (Y, &[3])]));
}

#[test]
fn write_skew_passes() {
    let script =
        together().committed(vec![r(X, &[]), r(Y, &[]), a(X, 1)]).committed(vec![r(X, &[]), r(Y, &[]), a(Y, 2)]);
    passes(&ends(script, &[(X, &[1]), (Y, &[2])]));
}

#[test]
fn g0_dirty_write() {
    let script = together().committed(vec![a(X, 1), a(Y, 2)]).committed(vec![a(X, 3), a(Y, 4)]);
    flagged(&ends(script, &[(X, &[1, 3]), (Y, &[4, 2])]), Kind::G0);
}

#[test]
fn g1a_aborted_read() {
    let script = || together().committed(vec![a(X, 1)]).aborted(vec![a(X, 2)]);
    let history = ends(script().committed(vec![r(X, &[1, 2])]), &[(X, &[1])]);
    let report = judge(&history, Model::ReadCommitted);
    assert!(report.found(Kind::G1a) > 0, "{report}");
    // Also when only the final read shows it.
    flagged(&ends(script(), &[(X, &[1, 2])]), Kind::G1a);
}

#[test]
fn g1b_intermediate_read() {
    let script = together().committed(vec![a(X, 1), a(X, 2)]).committed(vec![r(X, &[1])]);
    let history = ends(script, &[(X, &[1, 2])]);
    let (snapshot, committed) = kinds(&history);
    // Under snapshot isolation it is read skew too.
    assert_eq!(snapshot, [Kind::G1b, Kind::GSingle]);
    assert_eq!(committed, [Kind::G1b]);
}

#[test]
fn g1c_circular_information_flow() {
    let script = together().committed(vec![a(X, 1), r(Y, &[2])]).committed(vec![a(Y, 2), r(X, &[1])]);
    flagged(&ends(script, &[(X, &[1]), (Y, &[2])]), Kind::G1c);
}

#[test]
fn g_single_read_skew() {
    let script = together().committed(vec![a(X, 1), a(Y, 2)]).committed(vec![r(X, &[]), r(Y, &[2])]);
    let history = ends(script, &[(X, &[1]), (Y, &[2])]);
    flagged_under_snapshot_isolation(&history, Kind::GSingle);
}

#[test]
fn lost_update() {
    let script = together().committed(vec![r(X, &[]), a(X, 1)]).committed(vec![r(X, &[]), a(X, 2)]);
    let history = ends(script, &[(X, &[1, 2])]);
    let (snapshot, committed) = kinds(&history);
    assert_eq!(snapshot, [Kind::GSingle, Kind::LostUpdate]);
    assert_eq!(committed, []);
}

#[test]
fn long_fork() {
    let script = together()
        .committed(vec![a(X, 1)])
        .committed(vec![a(Y, 2)])
        .committed(vec![r(X, &[1]), r(Y, &[])])
        .committed(vec![r(X, &[]), r(Y, &[2])]);
    let history = ends(script, &[(X, &[1]), (Y, &[2])]);
    flagged_under_snapshot_isolation(&history, Kind::LongFork);
}

#[test]
fn g_nonadjacent_with_a_write_dependency() {
    // As a long fork, but the first reader saw a value that replaced the write.
    let script = together()
        .committed(vec![a(X, 1)])
        .committed(vec![a(X, 3)])
        .committed(vec![a(Y, 2)])
        .committed(vec![r(X, &[1, 3]), r(Y, &[])])
        .committed(vec![r(X, &[]), r(Y, &[2])]);
    let history = ends(script, &[(X, &[1, 3]), (Y, &[2])]);
    flagged_under_snapshot_isolation(&history, Kind::GNonadjacent);
}

#[test]
fn dirty_read() {
    let script = together().committed(vec![a(X, 1)]).committed(vec![r(X, &[1])]);
    let mut history = ends(script, &[(X, &[1])]);
    passes(&history);
    history.transactions[0].commit = Some(Tick(100));
    history.transactions[0].complete = Tick(101);
    flagged(&history, Kind::DirtyRead);
}

#[test]
fn non_repeatable_read() {
    let script = together().committed(vec![a(X, 1)]).committed(vec![r(X, &[]), r(X, &[1])]);
    let history = ends(script, &[(X, &[1])]);
    let (snapshot, committed) = kinds(&history);
    assert_eq!(snapshot, [Kind::GSingle, Kind::NonRepeatableRead]);
    assert_eq!(committed, []);
}

#[test]
fn non_monotonic_read() {
    let script = together().committed(vec![a(X, 1)]).committed(vec![r(X, &[1]), r(X, &[])]);
    let history = ends(script, &[(X, &[1])]);
    assert_eq!(kinds(&history).1, [Kind::NonMonotonicRead]);
}

#[test]
fn internal_inconsistency() {
    let forgotten = together().committed(vec![a(X, 1), r(X, &[])]);
    flagged(&ends(forgotten, &[(X, &[1])]), Kind::Internal);
    let foreseen = together().committed(vec![r(X, &[1]), a(X, 1)]);
    flagged(&ends(foreseen, &[(X, &[1])]), Kind::Internal);
}

#[test]
fn incompatible_order() {
    let script = together().committed(vec![a(X, 1)]).committed(vec![a(X, 2)]).committed(vec![r(X, &[2])]);
    flagged(&ends(script, &[(X, &[1, 2])]), Kind::IncompatibleOrder);
}

#[test]
fn duplicate() {
    let script = together().committed(vec![a(X, 1)]);
    let history = ends(script, &[(X, &[1, 1])]);
    flagged(&history, Kind::Duplicate);
}

#[test]
fn garbage_read() {
    let script = together().committed(vec![a(X, 1)]).committed(vec![a(Y, 2)]);
    let history = ends(script, &[(X, &[1, 2]), (Y, &[2])]);
    flagged(&history, Kind::GarbageRead);
    let script = together().committed(vec![a(X, 1)]);
    flagged(&ends(script, &[(X, &[1, 9])]), Kind::GarbageRead);
}

#[test]
fn lost_append() {
    let script = together().committed(vec![a(X, 1)]).committed(vec![a(X, 2)]);
    flagged(&ends(script, &[(X, &[1])]), Kind::LostWrite);
}

#[test]
fn divergence() {
    let script = || together().committed(vec![a(X, 1)]).committed(vec![a(X, 2)]);
    let state = |values: &[u64]| State::from([(X, values.to_vec())]);
    let same = script().finally(state(&[1, 2])).finally(state(&[1, 2]));
    passes(&same.done());
    let other = script().finally(state(&[1, 2])).finally(state(&[2, 1])).done();
    let (found, _) = kinds(&other);
    assert_eq!(found, [Kind::IncompatibleOrder, Kind::Divergence]);
}

#[test]
fn stale_read_where_real_time_order_reaches() {
    let script = |node| {
        let script = lists().committed(vec![a(X, 1)]);
        ends(script.at(node).committed(vec![r(X, &[])]), &[(X, &[1])])
    };
    flagged(&script(0), Kind::StaleRead);
    passes(&script(1));
    let cluster = Promise { real_time: RealTime::Cluster, ..Promise::of(Isolation::RepeatableRead) };
    let report = check(&script(1), cluster).expect("checkable");
    assert_eq!(report.kinds(), [Kind::StaleRead]);
    let report = judge(&script(0), Model::ReadCommitted);
    assert_eq!(report.anomalies()[0].order, OrderUsed::RealTime);
}

#[test]
fn stale_read_in_one_session_across_nodes() {
    let script = lists().by(0).committed(vec![a(X, 1)]);
    let history = ends(script.at(1).committed(vec![r(X, &[])]), &[(X, &[1])]);
    flagged(&history, Kind::StaleRead);
    let relaxed = Promise { session_order: false, ..Promise::of(history.isolation) };
    assert!(check(&history, relaxed).expect("checkable").is_clean());
}

#[test]
fn reads_at_one_node_never_go_back() {
    let script = |node| {
        let script = lists().committed(vec![a(X, 1)]).at(1);
        let script = script.committed(vec![r(X, &[1])]).at(node);
        ends(script.committed(vec![r(X, &[])]), &[(X, &[1])])
    };
    flagged(&script(1), Kind::StaleRead);
    passes(&script(2));
}

#[test]
fn commits_must_not_go_against_the_order_of_a_node() {
    let script = lists().committed(vec![a(X, 1)]).committed(vec![a(X, 2)]);
    let history = ends(script, &[(X, &[2, 1])]);
    flagged(&history, Kind::G0);
    let report = judge(&history, Model::ReadCommitted);
    assert_eq!(report.anomalies()[0].order, OrderUsed::RealTime);
}

#[test]
fn an_unknown_transaction_happened_whole_or_not_at_all() {
    let script = || {
        let script = lists().committed(vec![a(X, 1)]);
        script.unknown(vec![a(X, 2), a(Y, 3)])
    };
    passes(&ends(script(), &[(X, &[1])]));
    passes(&ends(script(), &[(X, &[1, 2]), (Y, &[3])]));
    flagged(&ends(script(), &[(X, &[1, 2])]), Kind::LostWrite);
    // A read shows it: then it must stay.
    let script = script().committed(vec![r(Y, &[3])]);
    let history = ends(script, &[(X, &[1])]);
    let report = judge(&history, Model::ReadCommitted);
    assert_eq!(report.found(Kind::LostWrite), 2, "{report}");
}

#[test]
fn an_unknown_transaction_may_take_effect_late() {
    let script = lists().unknown(vec![a(X, 1)]).committed(vec![r(X, &[]), a(Y, 2)]).committed(vec![r(X, &[1])]);
    passes(&ends(script, &[(X, &[1]), (Y, &[2])]));
}

#[test]
fn histories_that_prove_nothing_are_errors() {
    let promise = Promise::of(Isolation::RepeatableRead);
    let check = |history| check(&history, promise);
    let script = lists().aborted(vec![a(X, 1)]).unknown(vec![a(X, 2)]);
    let vacuous = ends(script.committed(vec![r(X, &[])]), &[]);
    assert!(matches!(check(vacuous), Err(Error::Vacuous { .. })));
    let unfinished = lists().committed(vec![a(X, 1)]).done();
    assert!(matches!(check(unfinished), Err(Error::NoFinalRead)));
    let mut unread = ends(lists().committed(vec![a(X, 1)]), &[(X, &[1])]);
    unread.final_reads[0].state = None;
    assert!(matches!(check(unread), Err(Error::FinalReadFailed { .. })));
    let twice = lists().committed(vec![a(X, 1), a(Y, 1)]);
    let twice = check(ends(twice, &[(X, &[1])]));
    assert!(matches!(twice, Err(Error::AmbiguousValue { .. })));
}

#[test]
fn every_planted_bug_is_found() {
    for bug in Bug::ALL {
        for seed in 0..20 {
            let history = simulate::run(&Options { seed, bug: Some(bug), transactions: 1000, ..Options::default() });
            let report = judge(&history, Model::SnapshotIsolation);
            assert!(!report.is_clean(), "{bug:?} with seed {seed} was not found");
        }
    }
}

/// A read that a mutation can spoil: by a transaction that took effect, of this
/// many values at least.
fn some_read(history: &mut History<Step>, len: usize, pick: usize) -> Option<&mut Vec<u64>> {
    let committed = history.transactions.iter_mut().filter(|t| t.outcome == Outcome::Committed);
    let steps = committed.flat_map(|t| &mut t.steps);
    let mut reads: Vec<&mut Vec<u64>> = steps
        .filter_map(|step| match step {
            Step::Read { values, .. } if values.len() >= len => Some(values),
            _ => None,
        })
        .collect();
    (!reads.is_empty()).then(|| reads.swap_remove(pick % reads.len()))
}

fn mutate(history: &mut History<Step>, mutation: u32, pick: usize) -> Option<()> {
    match mutation {
        // The final reads forget an acknowledged append.
        0 => {
            let finals = history.final_reads.iter_mut().filter_map(|read| read.state.as_mut());
            let values = finals.flat_map(|state| state.values_mut()).find(|v| !v.is_empty())?;
            values.remove(pick % values.len());
        }
        // A read swaps, forgets, repeats or invents a value.
        1 => some_read(history, 2, pick)?.swap(0, 1),
        2 => drop(some_read(history, 2, pick)?.remove(0)),
        3 => {
            let values = some_read(history, 1, pick)?;
            values.push(values[0]);
        }
        4 => some_read(history, 0, pick)?.push(u64::MAX),
        // A transaction that was seen says that it aborted.
        5 => {
            let value = *some_read(history, 1, pick)?.last()?;
            let wrote = |t: &Transaction<Step>| {
                let append = |s: &Step| matches!(s, Step::Append { value: v, .. } if *v == value);
                t.steps.iter().any(append)
            };
            let writer = history.transactions.iter_mut().find(|t| wrote(t))?;
            writer.outcome = Outcome::Aborted;
        }
        // The last transaction misses everything that was acknowledged before.
        _ => {
            let first = history
                .transactions
                .iter()
                .find(|t| t.outcome == Outcome::Committed && t.steps.iter().any(record::Step::is_write))?;
            let (first_complete, node) = (first.complete, first.node);
            let write = first.steps.iter().find_map(|s| match s {
                Step::Append { key, .. } => Some(*key),
                Step::Read { .. } => None,
            })?;
            let late = history
                .transactions
                .iter_mut()
                .rfind(|t| t.outcome == Outcome::Committed && t.node == node && t.invoke > first_complete)?;
            late.steps = vec![r(write, &[])];
        }
    }
    Some(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn simulated_histories_pass(
        seed in any::<u64>(),
        read_committed in any::<bool>(),
        nodes in 1..4_u32,
        processes in 1..12_u32,
        keys in 1..6_u64,
    ) {
        let isolation = match read_committed {
            true => Isolation::ReadCommitted,
            false => Isolation::RepeatableRead,
        };
        let history = simulate::run(&Options {
            seed, isolation, nodes, processes, keys, ..Options::default()
        });
        let report = check(&history, Promise::of(isolation)).expect("checkable");
        prop_assert!(report.is_clean(), "{}", report);
    }

    #[test]
    fn mutated_histories_are_flagged(
        seed in any::<u64>(),
        mutation in 0..7_u32,
        pick in any::<usize>(),
    ) {
        let mut history = simulate::run(&Options { seed, ..Options::default() });
        prop_assume!(mutate(&mut history, mutation, pick).is_some());
        let report = judge(&history, Model::SnapshotIsolation);
        prop_assert!(!report.is_clean());
    }

    #[test]
    fn stored_histories_come_back_the_same(seed in any::<u64>()) {
        let history = simulate::run(&Options { seed, transactions: 30, ..Options::default() });
        let mut stored = Vec::new();
        history.write(&mut stored).expect("memory");
        let again: History<Step> = History::read(stored.as_slice()).expect("just written");
        prop_assert_eq!(again, history);
    }
}
