//! Histories of a simulated replicated store, right ones and wrong ones.
//!
//! The store is what pgrenga means to be: one order of commits, of which each
//! node shows a prefix; snapshots; the first committer wins; an acknowledgement
//! comes after the commit is visible at its node. One seed decides everything.
//! With a [`Bug`] it breaks one of these rules now and then, so that a checker
//! can be shown to notice.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use super::append::{State, Step};
use super::record::{FinalRead, History, Isolation, NodeIndex, Outcome, ProcessId, Tick, Transaction};

/// A rule that the store breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Commits without looking for conflicts.
    SkipCertification,
    /// Takes a new snapshot for each read.
    SnapshotPerStatement,
    /// Shows appends of transactions that have not committed.
    ReadUncommitted,
    /// Acknowledges a commit and forgets it.
    ForgetCommit,
    /// Says that a commit was aborted.
    DenyCommit,
    /// Orders a commit twice.
    CommitTwice,
    /// Shows a later commit before an earlier one.
    ApplyOutOfOrder,
    /// Never applies some commits on some nodes.
    SkipApply,
    /// Begins transactions with an older snapshot than the node has shown.
    OldSnapshot,
    /// Forgets one of a transaction's several appends.
    TearCommit,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::SkipCertification,
        Self::SnapshotPerStatement,
        Self::ReadUncommitted,
        Self::ForgetCommit,
        Self::DenyCommit,
        Self::CommitTwice,
        Self::ApplyOutOfOrder,
        Self::SkipApply,
        Self::OldSnapshot,
        Self::TearCommit,
    ];
}

/// What to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// What transactions ask for.
    pub isolation: Isolation,
    /// How many nodes, at least 1.
    pub nodes: u32,
    /// How many clients, at least 1; client `i` talks to node `i mod nodes`.
    pub processes: u32,
    /// How many transactions are run.
    pub transactions: usize,
    /// How many keys are in use at a time.
    pub keys: u64,
    /// How many appends, on average, a key gets before another replaces it.
    pub appends_per_key: u64,
    /// The rule to break.
    pub bug: Option<Bug>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 0,
            isolation: Isolation::RepeatableRead,
            nodes: 3,
            processes: 9,
            transactions: 300,
            keys: 4,
            appends_per_key: 32,
            bug: None,
        }
    }
}

/// Runs the simulation.
pub fn run(options: &Options) -> History<Step> {
    let mut simulation = Simulation::new(*options);
    while simulation.history.transactions.len() < options.transactions {
        simulation.step();
    }
    simulation.finish()
}

/// What a transaction sees: the commits before `upto`, without some.
#[derive(Clone, Debug, Default)]
struct View {
    upto: usize,
    missing: BTreeSet<usize>,
}

struct Running {
    t: Transaction<Step>,
    view: View,
    /// Steps to go.
    plan: u32,
    /// Whether the commit was decided: only the answer is missing.
    decided: bool,
}

struct Simulation {
    options: Options,
    random: fastrand::Rng,
    now: u64,
    appends: u64,
    /// Commits so far: a commit's sequence number is its place.
    commits: usize,
    lists: BTreeMap<u64, Vec<(usize, u64)>>,
    nodes: Vec<View>,
    processes: Vec<Option<Running>>,
    /// Row locks, for READ COMMITTED, by key.
    locks: BTreeMap<u64, usize>,
    /// Commits whose clients were told "unknown", still to be decided.
    late: Vec<(View, Vec<Step>)>,
    history: History<Step>,
}

impl Simulation {
    fn new(options: Options) -> Self {
        Self {
            options,
            random: fastrand::Rng::with_seed(options.seed),
            now: 0,
            appends: 0,
            commits: 0,
            lists: BTreeMap::new(),
            nodes: vec![View::default(); options.nodes as usize],
            processes: (0..options.processes).map(|_| None).collect(),
            locks: BTreeMap::new(),
            late: Vec::new(),
            history: History::new(options.isolation, options.seed, State::new()),
        }
    }

    fn tick(&mut self) -> Tick {
        self.now += 1;
        Tick(self.now)
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.random.u32(..n) == 0
    }

    /// Whether the bug strikes, at one of its opportunities.
    fn strikes(&mut self, bug: Bug) -> bool {
        self.options.bug == Some(bug) && self.one_in(5)
    }

    fn step(&mut self) {
        if self.one_in(4) {
            let node = self.random.usize(..self.nodes.len());
            self.apply_one(node);
        }
        if self.one_in(8) && !self.late.is_empty() {
            let (view, writes) = self.late.remove(0);
            if self.certifies(&view, &writes) {
                self.commit(&writes);
            }
        }
        let process = self.random.usize(..self.processes.len());
        match self.processes[process].take() {
            None => self.begin(process),
            Some(running) if running.decided => self.end(running),
            Some(running) if running.plan == 0 => self.close(process, running),
            Some(running) => self.advance(process, running),
        }
    }

    fn apply_one(&mut self, node: usize) {
        let out_of_order = self.strikes(Bug::ApplyOutOfOrder);
        let skip = self.strikes(Bug::SkipApply);
        let repair = self.options.bug == Some(Bug::ApplyOutOfOrder) && self.one_in(5);
        let behind = self.commits - self.nodes[node].upto;
        let view = &mut self.nodes[node];
        if repair {
            view.missing.clear();
        } else if out_of_order && behind >= 2 {
            view.missing.insert(view.upto);
            view.upto += 2;
        } else if behind >= 1 {
            if skip {
                view.missing.insert(view.upto);
            }
            view.upto += 1;
        }
    }

    fn begin(&mut self, process: usize) {
        let node = process % self.nodes.len();
        let mut view = self.nodes[node].clone();
        if self.strikes(Bug::OldSnapshot) {
            view.upto = view.upto.saturating_sub(5);
        }
        let invoke = self.tick();
        self.processes[process] = Some(Running {
            t: Transaction {
                process: ProcessId(u32::try_from(process).expect("from a u32")),
                node: NodeIndex(u32::try_from(node).expect("from a u32")),
                invoke,
                commit: None,
                complete: invoke,
                outcome: Outcome::Aborted,
                steps: Vec::new(),
                error: None,
            },
            view,
            plan: self.random.u32(1..=4),
            decided: false,
        });
    }

    fn advance(&mut self, process: usize, mut running: Running) {
        let node = process % self.nodes.len();
        running.plan -= 1;
        let generation = self.appends / (self.options.keys * self.options.appends_per_key);
        let key = generation * self.options.keys + self.random.u64(..self.options.keys);
        let fresh_snapshot =
            self.options.isolation == Isolation::ReadCommitted || self.options.bug == Some(Bug::SnapshotPerStatement);
        if self.random.bool() {
            if self.options.isolation == Isolation::ReadCommitted {
                if *self.locks.entry(key).or_insert(process) != process {
                    return self.end(running);
                }
                // A row is changed in its newest version.
                self.nodes[node].upto = self.commits;
            }
            self.appends += 1;
            let value = self.appends;
            running.t.steps.push(Step::Append { key, value });
        } else {
            if fresh_snapshot {
                running.view = self.nodes[node].clone();
            }
            let values = self.read(key, &running);
            running.t.steps.push(Step::Read { key, values });
        }
        self.processes[process] = Some(running);
    }

    fn read(&mut self, key: u64, running: &Running) -> Vec<u64> {
        let seen = |seq: usize| seq < running.view.upto && !running.view.missing.contains(&seq);
        let list = self.lists.get(&key).map_or(&[][..], Vec::as_slice);
        let committed = list.iter().filter(|&&(seq, _)| seen(seq));
        let mut values: Vec<u64> = committed.map(|&(_, value)| value).collect();
        if self.strikes(Bug::ReadUncommitted) {
            let others = self.processes.iter().flatten().filter(|other| !other.decided);
            let steps = others.flat_map(|other| &other.t.steps);
            values.extend(appends_to(key, steps));
        }
        values.extend(appends_to(key, &running.t.steps));
        values
    }

    /// COMMIT, or a client that changes its mind.
    fn close(&mut self, process: usize, mut running: Running) {
        if self.one_in(30) {
            return self.end(running);
        }
        running.t.commit = Some(self.tick());
        running.decided = true;
        let writes: Vec<Step> = running.t.steps.iter().filter(|s| is_append(s)).cloned().collect();
        let unknown = self.one_in(40);
        if unknown && self.options.isolation == Isolation::RepeatableRead && self.one_in(2) {
            running.t.outcome = Outcome::Unknown;
            self.late.push((running.view.clone(), writes));
        } else if self.certifies(&running.view, &writes) {
            running.t.outcome = if unknown { Outcome::Unknown } else { Outcome::Committed };
            if !writes.is_empty() {
                self.commit_with_bugs(&mut running, writes);
                // Visible at its own node before it is acknowledged.
                let node = process % self.nodes.len();
                self.nodes[node].upto = self.commits;
            }
        }
        self.processes[process] = Some(running);
    }

    fn commit_with_bugs(&mut self, running: &mut Running, mut writes: Vec<Step>) {
        if self.strikes(Bug::ForgetCommit) {
            return;
        }
        if writes.len() > 1 && self.strikes(Bug::TearCommit) {
            writes.pop();
        }
        if self.strikes(Bug::CommitTwice) {
            self.commit(&writes);
        }
        if self.strikes(Bug::DenyCommit) {
            running.t.outcome = Outcome::Aborted;
        }
        self.commit(&writes);
    }

    fn certifies(&self, view: &View, writes: &[Step]) -> bool {
        let conflicting = |key: &u64| {
            let last = self.lists.get(key).and_then(|list| list.last());
            last.is_some_and(|&(seq, _)| seq >= view.upto)
        };
        self.options.isolation == Isolation::ReadCommitted
            || self.options.bug == Some(Bug::SkipCertification)
            || !writes.iter().any(|step| match step {
                Step::Append { key, .. } => conflicting(key),
                Step::Read { .. } => false,
            })
    }

    fn commit(&mut self, writes: &[Step]) {
        for step in writes {
            if let Step::Append { key, value } = *step {
                self.lists.entry(key).or_default().push((self.commits, value));
            }
        }
        self.commits += 1;
    }

    fn end(&mut self, mut running: Running) {
        let process = running.t.process.0 as usize;
        self.locks.retain(|_, holder| *holder != process);
        running.t.complete = self.tick();
        self.history.transactions.push(running.t);
    }

    fn finish(mut self) -> History<Step> {
        for process in 0..self.processes.len() {
            if let Some(running) = self.processes[process].take() {
                self.end(running);
            }
        }
        for (node, view) in mem::take(&mut self.nodes).into_iter().enumerate() {
            let keep = self.options.bug == Some(Bug::SkipApply);
            let held = |seq: &usize| !(keep && view.missing.contains(seq));
            let lists = self.lists.iter().map(|(&key, list)| {
                let values = list.iter().filter(|(seq, _)| held(seq));
                (key, values.map(|&(_, value)| value).collect())
            });
            self.history.final_reads.push(FinalRead {
                node: NodeIndex(u32::try_from(node).expect("from a u32")),
                state: Some(lists.collect()),
                error: None,
            });
        }
        self.history.sort();
        self.history
    }
}

fn is_append(step: &Step) -> bool {
    matches!(step, Step::Append { .. })
}

fn appends_to<'s>(key: u64, steps: impl IntoIterator<Item = &'s Step>) -> impl Iterator<Item = u64> {
    steps.into_iter().filter_map(move |step| match step {
        Step::Append { key: k, value } if *k == key => Some(*value),
        _ => None,
    })
}
