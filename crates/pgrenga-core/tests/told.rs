//! Promise: nobody hears that nothing was changed by a transaction that committed, however often it was proposed and
//! however much was forgotten since.

use pgrenga_core::sessions::{remind, report, turn_away};
use pgrenga_core::{Core, Decision, Limits, Position};
use pgrenga_writeset::entry::Item;
use pgrenga_writeset::port::{AbortReason, ToPostgres};
use pgrenga_writeset::writeset::{Header, encode_header};
use pgrenga_writeset::{Incarnation, LogIndex, NodeId, Seq, TransactionId};

const NODE: NodeId = NodeId(1);
const LIFE: Incarnation = Incarnation(1);

fn txid(counter: u64) -> TransactionId {
    TransactionId { node: NODE, incarnation: LIFE, counter }
}

struct Log {
    core: Core,
    index: u64,
}

impl Log {
    fn step(&mut self, item: &Item<'_>) -> Decision {
        self.index += 1;
        let mut decisions = Vec::new();
        self.core.step(Position { index: LogIndex(self.index), item: 0 }, item, &mut decisions);
        decisions.pop().expect("a decision")
    }

    fn writeset(&mut self, counter: u64) -> Decision {
        let mut bytes = Vec::new();
        encode_header(&mut bytes, &Header { txid: txid(counter), ..Header::default() }, [].iter(), [].iter(), &[]);
        self.step(&Item::Writeset(&bytes))
    }
}

/// A log in which transaction 1 committed, was forgotten, and came again; and what was decided then.
fn repeated() -> (Log, Decision) {
    let mut log = Log { core: Core::new(Limits { outcomes: 2, ..Limits::default() }), index: 0 };
    log.step(&Item::Incarnation { node: NODE, incarnation: LIFE });
    for counter in 1..=5 {
        let decision = log.writeset(counter);
        assert!(matches!(decision, Decision::Commit { .. }), "{decision:?}");
    }
    let again = log.writeset(1);
    assert_eq!(again, Decision::Abort { txid: txid(1), reason: AbortReason::TooOld });
    (log, again)
}

#[test]
fn a_daemon_that_reads_the_log_again_tells_nothing_before_its_life_begins() {
    let (log, again) = repeated();
    assert_eq!(report(&again, NODE, None), None);
    // Within a life its commit was told before, and it listens no more.
    let told = ToPostgres::Abort { txid: txid(1), reason: AbortReason::TooOld };
    assert_eq!(report(&again, NODE, Some(LIFE)), Some(told));
    assert_eq!(report(&again, NodeId(2), Some(LIFE)), None, "it is another node's");
    assert_eq!(remind(&log.core, txid(1)), Some(ToPostgres::Forgotten(txid(1))));
    assert_eq!(remind(&log.core, txid(5)), Some(ToPostgres::Commit { txid: txid(5), seq: Seq(5) }));
}

#[test]
fn what_is_of_another_life_is_not_proposed_and_what_is_refused_neither() {
    assert_eq!(turn_away(txid(1), Some(LIFE), true), None);
    assert_eq!(turn_away(txid(1), Some(LIFE), false), Some(ToPostgres::Refused(txid(1))));
    for life in [None, Some(Incarnation(2))] {
        assert_eq!(turn_away(txid(1), life, true), Some(ToPostgres::Resubmit(txid(1))));
        assert_eq!(turn_away(txid(1), life, false), Some(ToPostgres::Resubmit(txid(1))), "it is asked for again");
    }
}
