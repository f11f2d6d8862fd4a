//! The promise: whatever crashes and gaps there are, what is recalled is what a plain map of all
//! decisions says, or that it is missing; and it is missing only where something can be.

use std::collections::BTreeMap;
use std::time::Duration;

use pgrenga_outcomes::{Limits, Mark, Outcomes, Recalled};
use pgrenga_writeset::{Incarnation, LogIndex, NodeId, TransactionId};
use proptest::prelude::*;

const NODES: u32 = 2;
const LIMITS: Limits = Limits { age: Duration::from_secs(1 << 30), bytes: 1 << 40 };
/// On both sides of where a segment ends, and far away.
const DRAWN: [u64; 6] = [0, 1, 7, (1 << 20) - 1, 1 << 20, 3 << 20];

#[derive(Clone, Debug)]
enum Step {
    /// The log decides a transaction, of this life or the one before.
    Decide { node: u32, lives_ago: u32, drawn: usize, committed: bool },
    /// A node begins a life.
    Life(u32),
    /// What is noted is written, and then perhaps a state of the core takes the place of the log.
    Keep { installed: bool },
    /// It was to be written, and was not.
    KeepInVain,
    /// The daemon is gone, and begins with the last state.
    Crash,
    /// The daemon is gone for so long that it begins with another one's state, which lacks the last decisions.
    Overtaken,
}

fn step() -> impl Strategy<Value = Step> {
    let decide = (1..=NODES, 0..2_u32, 0..DRAWN.len(), any::<bool>());
    prop_oneof![
        12 => decide.prop_map(|(node, lives_ago, drawn, committed)| Step::Decide { node, lives_ago, drawn, committed }),
        1 => (1..=NODES).prop_map(Step::Life),
        2 => any::<bool>().prop_map(|installed| Step::Keep { installed }),
        1 => Just(Step::KeepInVain),
        2 => Just(Step::Crash),
        1 => Just(Step::Overtaken),
    ]
}

type Log = Vec<(TransactionId, Mark)>;

struct Run {
    directory: tempfile::TempDir,
    outcomes: Outcomes,
    log: Log,
    lives: BTreeMap<NodeId, Incarnation>,
    /// The last state of the core: its place in the log, and the lives there.
    state: (usize, BTreeMap<NodeId, Incarnation>),
    /// Of which lives something can be missing.
    gaps: BTreeMap<NodeId, Incarnation>,
}

impl Run {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let outcomes = Outcomes::open(directory.path(), LIMITS).unwrap();
        let lives: BTreeMap<_, _> = (1..=NODES).map(|node| (NodeId(node), Incarnation(1))).collect();
        let state = (0, lives.clone());
        Self { directory, outcomes, log: Log::new(), lives, state, gaps: BTreeMap::new() }
    }

    fn here(&self) -> LogIndex {
        LogIndex(self.log.len() as u64)
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Decide { node, lives_ago, drawn, committed } => {
                let node = NodeId(node);
                let incarnation = Incarnation(self.lives[&node].0.saturating_sub(lives_ago).max(1));
                let txid = TransactionId { node, incarnation, counter: DRAWN[drawn] << TransactionId::SLOT_BITS | 5 };
                let is_new = self.log.iter().all(|(decided, _)| *decided != txid);
                // Whoever comes a second time aborts, whatever it was the first time.
                let mark = if committed && is_new { Mark::Committed } else { Mark::Aborted };
                self.log.push((txid, mark));
                self.outcomes.note(&txid, mark);
            }
            Step::Life(node) => self.lives.get_mut(&NodeId(node)).unwrap().0 += 1,
            Step::Keep { installed } => {
                self.outcomes.keep(self.here()).run().unwrap();
                if installed {
                    self.state = (self.log.len(), self.lives.clone());
                }
            }
            Step::KeepInVain => drop(self.outcomes.keep(self.here())),
            Step::Crash => self.restart(),
            Step::Overtaken => {
                let missed = self.log.last().map_or(TransactionId::default(), |(txid, _)| *txid);
                if missed != TransactionId::default() {
                    let counter = 9 << TransactionId::SLOT_BITS;
                    self.log.push((TransactionId { counter, ..missed }, Mark::Committed));
                }
                self.state = (self.log.len(), self.lives.clone());
                self.gaps.clone_from(&self.lives);
                self.restart();
            }
        }
    }

    fn restart(&mut self) {
        self.outcomes = Outcomes::open(self.directory.path(), LIMITS).unwrap();
        let (index, lives) = &self.state;
        if *index > 0 {
            self.outcomes.begin(LogIndex(*index as u64), lives.iter().map(|(node, life)| (*node, *life)));
        }
        self.log[*index..].iter().for_each(|(txid, mark)| self.outcomes.note(txid, *mark));
    }

    fn check(&self) {
        for (&node, &present) in &self.lives {
            for incarnation in (1..=present.0).map(Incarnation) {
                for drawn in DRAWN.into_iter().chain([9]) {
                    let txid = TransactionId { node, incarnation, counter: drawn << TransactionId::SLOT_BITS };
                    self.check_one(&txid);
                }
            }
        }
    }

    fn check_one(&self, txid: &TransactionId) {
        let place = |id: &TransactionId| (id.node, id.incarnation, id.counter >> TransactionId::SLOT_BITS);
        let mut marks = self.log.iter().filter(|(decided, _)| place(decided) == place(txid)).map(|(_, mark)| mark);
        let truth = match marks.next() {
            Some(Mark::Committed) => Recalled::Committed,
            Some(Mark::Aborted) => Recalled::Aborted,
            None => Recalled::Undecided,
        };
        let recalled = self.outcomes.look(txid).recall();
        let may_miss = self.gaps.get(&txid.node).is_some_and(|gap| txid.incarnation <= *gap);
        assert!(
            recalled == truth || may_miss && recalled == Recalled::Missing,
            "{txid} is {truth:?}, not {recalled:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_is_recalled_is_what_was_decided(steps in prop::collection::vec(step(), 1..60)) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
            run.check();
        }
    }
}
