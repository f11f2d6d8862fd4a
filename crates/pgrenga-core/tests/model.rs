//! Promise: on any log the core decides as a plain quadratic model does, the
//! same every time, and the same after a restart from a snapshot.

#[allow(unused_imports)]
mod support;

use std::collections::{BTreeMap, BTreeSet};

use pgrenga_core::{Core, Decision, Limits, Position, Status};
use pgrenga_writeset::writeset::Writeset;
use pgrenga_writeset::{Incarnation, LogIndex, NodeId, TransactionId};
use proptest::prelude::*;
use support::actions::{Action, Owned, action, step};
use support::model::Model;

const FEW: Limits = Limits {
    keys: 3,
    relations: 2,
    outcomes: 1000,
    deferred: 3,
    deferred_bytes: 400,
    fragments: 3,
    nodes: 3,
    description_bytes: 100,
    sequence_slots: 16,
};

fn begin(limits: Limits) -> (Core, u64) {
    let mut core = Core::new(limits);
    for node in 1..=3 {
        step(&mut core, u64::from(node), &Owned::Incarnation(NodeId(node), Incarnation(1)));
    }
    (core, 3)
}

/// Runs the actions, checking every decision; gives the log.
fn run(actions: &[Action], limits: Limits, forgets: bool) -> (Vec<Owned>, Core) {
    let (mut core, mut index) = begin(limits);
    let (mut model, mut log) = (Model::default(), Vec::new());
    for action in actions {
        index += 1;
        let at = Position { index: LogIndex(index), item: 0 };
        let item = action.resolve(&core);
        let held = core.fence();
        if let Owned::Writeset(bytes) = &item {
            model.ordered(at, bytes);
        }
        let decisions = step(&mut core, index, &item);
        for decision in &decisions {
            model.check(at, decision, forgets);
        }
        check_fence(held, &core, &decisions);
        log.push(item);
    }
    while let Some((holder, _)) = core.fence() {
        index += 1;
        let item = Owned::GiveUp(holder);
        let at = Position { index: LogIndex(index), item: 0 };
        step(&mut core, index, &item).iter().for_each(|decision| model.check(at, decision, forgets));
        log.push(item);
    }
    assert_eq!(core.deferred(), 0, "nothing waits when no fence is held");
    for item in &log {
        if let Owned::Writeset(bytes) = item
            && let Ok(writeset) = Writeset::decode(bytes)
        {
            assert!(model.is_decided(&writeset.header.txid), "{} was never decided", writeset.header.txid);
        }
    }
    (log, core)
}

/// While one fence is held through a step, only its holder's node goes on.
fn check_fence(before: Option<(TransactionId, LogIndex)>, core: &Core, decisions: &[Decision]) {
    assert!(core.fence().is_some() || core.deferred() == 0, "who waits, waits for a fence");
    let Some((holder, _)) = before.filter(|held| core.fence() == Some(*held)) else { return };
    for decision in decisions {
        if let Decision::Commit { txid, .. } = decision {
            assert_eq!(txid.node, holder.node, "{txid} was certified behind the fence of {holder}");
        }
    }
}

/// Every transaction that may come, up to the next life of each node.
fn all_ids(core: &Core) -> impl Iterator<Item = TransactionId> + use<> {
    let lives = (1..=3).map(NodeId).map(|node| (node, core.incarnation(node).0 + 1)).collect::<Vec<_>>();
    lives.into_iter().flat_map(|(node, lives)| {
        let ids = (0..=lives).flat_map(|life| (1..=40).map(move |counter| (Incarnation(life), counter)));
        ids.map(move |(incarnation, counter)| TransactionId { node, incarnation, counter })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn decides_as_the_model(actions in prop::collection::vec(action(), 1..120)) {
        run(&actions, Limits::default(), false);
    }

    #[test]
    fn forgetting_only_aborts_more(actions in prop::collection::vec(action(), 1..120)) {
        run(&actions, FEW, true);
    }

    #[test]
    fn outcomes_are_forgotten_safely(actions in prop::collection::vec(action(), 1..160), outcomes in 1..6_u32) {
        // A writeset that comes again is the same again.
        let (mut core, mut index) = begin(Limits { outcomes, ..Limits::default() });
        let (mut committed, mut first) = (Vec::new(), BTreeMap::new());
        for action in &actions {
            index += 1;
            let mut item = action.resolve(&core);
            if let Owned::Writeset(bytes) = &mut item
                && let Ok(writeset) = Writeset::decode(bytes)
            {
                *bytes = first.entry(writeset.header.txid).or_insert(bytes.clone()).clone();
            }
            for decision in step(&mut core, index, &item) {
                if let Decision::Commit { txid, .. } = decision {
                    prop_assert!(!committed.contains(&txid), "{} committed twice", txid);
                    committed.push(txid);
                }
            }
        }
    }

    #[test]
    fn nothing_is_said_of_a_transaction_that_does_not_stay_true(
        actions in prop::collection::vec(action(), 1..160),
        outcomes in 1..6_u32,
    ) {
        let (mut core, mut index) = begin(Limits { outcomes, ..Limits::default() });
        let (mut committed, mut given_up) = (BTreeSet::new(), BTreeSet::new());
        let mut known = BTreeMap::new();
        for action in &actions {
            index += 1;
            let mut item = action.resolve(&core);
            if let Owned::Writeset(bytes) = &mut item
                && let Ok(writeset) = Writeset::decode(bytes)
            {
                *bytes = known.entry(writeset.header.txid).or_insert(bytes.clone()).clone();
            }
            for decision in step(&mut core, index, &item) {
                if let Decision::Commit { txid, .. } = decision {
                    prop_assert!(!given_up.contains(&txid), "{} was said to be aborted", txid);
                    committed.insert(txid);
                }
            }
            for txid in all_ids(&core) {
                match core.status(txid) {
                    Status::Committed(_) => prop_assert!(committed.contains(&txid), "{} did not commit", txid),
                    Status::Unknown => {}
                    said => prop_assert!(!committed.contains(&txid), "{} committed and is {}", txid, said),
                }
                if core.status(txid) == Status::Aborted && core.outcome(txid).is_none() {
                    given_up.insert(txid);
                }
            }
        }
    }

    #[test]
    fn goes_on_from_a_snapshot(
        actions in prop::collection::vec(action(), 1..80),
        at in any::<prop::sample::Index>(),
        few in any::<bool>(),
    ) {
        let limits = if few { FEW } else { Limits::default() };
        let (log, last) = run(&actions, limits, true);
        let cut = at.index(log.len());
        let (mut core, first) = begin(limits);
        let mut restored = None;
        for (index, (number, item)) in (first + 1..).zip(log.iter().enumerate()) {
            if number == cut {
                let bytes = core.snapshot();
                let copy = Core::restore(&bytes, limits).unwrap();
                prop_assert_eq!(copy.snapshot(), bytes);
                restored = Some(copy);
            }
            let decisions = step(&mut core, index, item);
            if let Some(copy) = &mut restored {
                prop_assert_eq!(step(copy, index, item), decisions);
            }
        }
        prop_assert_eq!(core.snapshot(), last.snapshot(), "the same log twice");
        prop_assert_eq!(restored.unwrap().snapshot(), last.snapshot());
        prop_assert_eq!(core.verdict_hash(), last.verdict_hash());
    }

    #[test]
    fn damaged_snapshots_are_refused(
        actions in prop::collection::vec(action(), 1..40),
        at in any::<prop::sample::Index>(),
        bit in 0..8_u32,
    ) {
        let (_, core) = run(&actions, Limits::default(), false);
        let mut bytes = core.snapshot();
        let place = at.index(bytes.len());
        prop_assert!(Core::restore(&bytes[..place], Limits::default()).is_err());
        bytes[place] ^= 1 << bit;
        prop_assert!(Core::restore(&bytes, Limits::default()).is_err());
        prop_assert!(Core::restore(&core.snapshot(), FEW).is_err(), "other limits");
    }
}
