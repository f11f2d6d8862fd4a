use std::path::Path;

use pgrenga_core::{Limits, Position};
use pgrenga_writeset::entry::Item;
use pgrenga_writeset::writeset::{Flags, Header, encode_header};
use pgrenga_writeset::{Incarnation, NodeId, Seq};

use super::*;

const NODE: NodeId = NodeId(1);
const TRANSACTIONS: u64 = 60;

/// A core that forgets at once, and the log that it reads.
struct Node {
    core: Core,
    past: Past,
    index: LogIndex,
}

fn open(directory: &Path) -> Past {
    let limits = pgrenga_outcomes::Limits { age: Duration::from_secs(3600), bytes: 1 << 30 };
    Past { outcomes: Some(Outcomes::open(directory, limits).unwrap()), writing: None }
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
        decisions.iter().for_each(|decision| self.past.note(decision));
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

    async fn told(&self, txid: TransactionId) -> Fate {
        self.past.look(&self.core, txid).here().await
    }

    async fn check(&self, life: u32, undecided: Fate) {
        for n in 1..=TRANSACTIONS {
            let fate = [Fate::Committed, Fate::Aborted, undecided][n as usize % 3];
            assert_eq!(self.told(txid(life, n)).await, fate, "transaction {n} of life {life}");
        }
    }
}

#[tokio::test]
async fn what_the_core_forgot_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = Node::new(directory.path());
    node.run(1);
    assert_eq!(node.core.status(txid(1, 3)), Status::Unknown, "it was to be forgotten");
    node.check(1, Fate::InProgress).await;

    node.begin_life(2);
    node.check(1, Fate::Aborted).await;
    node.run(2);
    // It committed long ago, and comes again.
    let again = writeset(txid(2, 3), Seq(1));
    node.read(&Item::Writeset(&again));
    node.check(2, Fate::InProgress).await;
    assert_eq!(node.told(txid(3, 3)).await, Fate::Unknown, "there is no such life yet");

    // The daemon begins with the state that took the place of the log.
    node.past.keep(node.index).unwrap().run().unwrap();
    node.past = open(directory.path());
    node.past.begin(node.index, &node.core);
    node.check(1, Fate::Aborted).await;
    node.check(2, Fate::InProgress).await;
}

#[tokio::test]
async fn what_was_decided_before_this_node_came_is_not_guessed() {
    let (here, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut node = Node::new(elsewhere.path());
    node.run(1);
    node.past = open(here.path());
    node.past.begin(node.index, &node.core);
    node.begin_life(2);
    node.run(2);
    for n in 1..=TRANSACTIONS {
        assert_eq!(node.told(txid(1, n)).await, Fate::Unknown, "transaction {n}");
    }
    node.check(2, Fate::InProgress).await;
    let (known, someone) = (node.past.look(&node.core, txid(1, 3)), silent_member());
    assert_eq!(known.anywhere(txid(1, 3), node.index, &[someone]).await, None, "who may know does not answer");
    let known = node.past.look(&node.core, txid(1, 3));
    assert_eq!(known.anywhere(txid(1, 3), node.index, &[]).await, Some(Fate::Unknown), "nobody else is there");
}

/// Nobody listens there.
fn silent_member() -> Member {
    Member {
        id: NodeId(2),
        name: "n2".to_owned(),
        admin_url: "http://127.0.0.1:1".to_owned(),
        postgres: None,
        peer: "127.0.0.1:1".to_owned(),
        voter: true,
    }
}
