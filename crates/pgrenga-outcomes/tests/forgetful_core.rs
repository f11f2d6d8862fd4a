//! The promise: a core that forgets, with the files beside it, tells what a core that forgets nothing would.

use std::path::Path;
use std::time::Duration;

use pgrenga_core::{Core, Decision, Limits, Position, Status};
use pgrenga_outcomes::{Mark, Outcomes, Recalled};
use pgrenga_writeset::entry::Item;
use pgrenga_writeset::writeset::{Flags, Header, encode_header};
use pgrenga_writeset::{Incarnation, LogIndex, NodeId, Seq, TransactionId};

const NODE: NodeId = NodeId(1);
const TRANSACTIONS: u64 = 60;

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Committed,
    Aborted,
    InProgress,
    Unknown,
}

/// A core that forgets at once, and the log that it reads.
struct Node {
    core: Core,
    past: Outcomes,
    index: LogIndex,
}

fn open(directory: &Path) -> Outcomes {
    let limits = pgrenga_outcomes::Limits { age: Duration::from_secs(3600), bytes: 1 << 30 };
    Outcomes::open(directory, limits).unwrap()
}

fn txid(life: u32, n: u64) -> TransactionId {
    TransactionId { node: NODE, incarnation: Incarnation(life), counter: n << TransactionId::SLOT_BITS }
}

fn writeset(txid: TransactionId, seen: Seq) -> Vec<u8> {
    let header = Header { flags: Flags(0), txid, seen_first: seen, seen_last: seen, fence: LogIndex(0), fragments: 0 };
    let mut bytes = Vec::new();
    encode_header(&mut bytes, &header, [].iter(), [].iter(), &[]);
    bytes
}

impl Node {
    fn new(directory: &Path) -> Self {
        let core = Core::new(Limits { outcomes: 4, ..Limits::default() });
        let mut node = Self { core, past: open(directory), index: LogIndex(0) };
        node.begin_life(1);
        node
    }

    fn read(&mut self, item: &Item<'_>) {
        self.index = LogIndex(self.index.0 + 1);
        let mut decisions = Vec::new();
        self.core.step(Position { index: self.index, item: 0 }, item, &mut decisions);
        for decision in &decisions {
            match decision {
                Decision::Commit { txid, .. } => self.past.note(txid, Mark::Committed),
                Decision::Abort { txid, .. } => self.past.note(txid, Mark::Aborted),
                _ => {}
            }
        }
    }

    fn begin_life(&mut self, life: u32) {
        self.read(&Item::Incarnation { node: NODE, incarnation: Incarnation(life) });
    }

    /// Of three transactions one commits, one is given up, and one does nothing yet.
    fn run(&mut self, life: u32) {
        for n in 1..=TRANSACTIONS {
            match n % 3 {
                0 => self.read(&Item::Writeset(&writeset(txid(life, n), self.core.seq()))),
                1 => self.read(&Item::GiveUp(txid(life, n))),
                _ => {}
            }
        }
    }

    fn told(&self, txid: TransactionId) -> Fate {
        let undecided = self.core.undecided(txid);
        let recalled = self.past.look(&txid).recall();
        match (self.core.status(txid), undecided, recalled) {
            (Status::Committed(_), ..) | (Status::Unknown, Some(_), Recalled::Committed) => Fate::Committed,
            (Status::Aborted, ..) | (Status::Unknown, Some(_), Recalled::Aborted) => Fate::Aborted,
            (Status::InProgress, ..) => Fate::InProgress,
            (Status::Unknown, Some(Status::InProgress), Recalled::Undecided) => Fate::InProgress,
            (Status::Unknown, Some(_), Recalled::Undecided) => Fate::Aborted,
            (Status::Unknown, ..) => Fate::Unknown,
        }
    }

    fn check(&self, life: u32, undecided: Fate) {
        for n in 1..=TRANSACTIONS {
            let fate = [Fate::Committed, Fate::Aborted, undecided][n as usize % 3];
            assert_eq!(self.told(txid(life, n)), fate, "transaction {n} of life {life}");
        }
    }
}

#[test]
fn what_the_core_forgot_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = Node::new(directory.path());
    node.run(1);
    assert_eq!(node.core.status(txid(1, 3)), Status::Unknown, "it was to be forgotten");
    node.check(1, Fate::InProgress);

    node.begin_life(2);
    node.check(1, Fate::Aborted);
    node.run(2);
    // It committed long ago, and comes again.
    let again = writeset(txid(2, 3), Seq(1));
    node.read(&Item::Writeset(&again));
    node.check(2, Fate::InProgress);
    assert_eq!(node.told(txid(3, 3)), Fate::Unknown, "there is no such life yet");

    // The daemon begins with the state that took the place of the log.
    node.past.keep(node.index).run().unwrap();
    node.past = open(directory.path());
    node.past.begin(node.index, node.core.lives());
    node.check(1, Fate::Aborted);
    node.check(2, Fate::InProgress);
}

#[test]
fn what_was_decided_before_this_node_came_is_not_guessed() {
    let (here, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut node = Node::new(elsewhere.path());
    node.run(1);
    node.past = open(here.path());
    node.past.begin(node.index, node.core.lives());
    node.begin_life(2);
    node.run(2);
    for n in 1..=TRANSACTIONS {
        assert_eq!(node.told(txid(1, n)), Fate::Unknown, "transaction {n}");
    }
    node.check(2, Fate::InProgress);
}
