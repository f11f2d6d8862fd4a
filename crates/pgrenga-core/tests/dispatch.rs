//! Promise: whatever workers do, the lowest seq that is not visible can always
//! run, queues ascend and stay short, runs have no gaps, and what must run alone does.

use std::collections::{BTreeMap, BTreeSet};

use pgrenga_core::schedule::{Bounds, Dispatcher, Run, Task};
use pgrenga_writeset::Seq;
use proptest::prelude::*;

/// How a seq gets done on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Applied by a worker.
    Foreign,
    /// Committed by a local backend.
    Local,
    /// Local until the backend dies.
    Orphan,
}

struct Node {
    dispatcher: Dispatcher,
    bounds: Bounds,
    tasks: BTreeMap<u64, (Kind, Task)>,
    pushed: BTreeSet<u64>,
    /// What each worker was given and has not finished; `None`: lost.
    workers: Vec<Option<Vec<Run>>>,
    visible: u64,
    next_to_push: u64,
}

impl Node {
    fn push(&mut self, seq: u64) {
        if self.pushed.insert(seq) {
            self.dispatcher.push(self.tasks[&seq].1);
        }
    }

    /// The log brings the next seq; local ones are not for the dispatcher.
    fn order_next(&mut self) {
        let seq = self.next_to_push;
        if let Some((kind, _)) = self.tasks.get(&seq) {
            self.next_to_push += 1;
            if *kind == Kind::Foreign {
                self.push(seq);
            }
        }
    }

    fn orphan(&mut self, nth: usize) {
        let ordered = self.next_to_push;
        let orphans: Vec<u64> = self
            .tasks
            .iter()
            .filter(|(seq, (kind, _))| **seq < ordered && **seq > self.visible && *kind == Kind::Orphan)
            .map(|(seq, _)| *seq)
            .filter(|seq| !self.pushed.contains(seq))
            .collect();
        if !orphans.is_empty() {
            self.push(orphans[nth % orphans.len()]);
        }
    }

    fn assign(&mut self) {
        while let Some((number, run)) = self.dispatcher.assign() {
            let (first, last) = (run.first.0, run.last.0);
            let queue = self.workers[number].as_mut().expect("a lost worker is given nothing");
            assert!(queue.last().is_none_or(|before| before.last < run.first), "queues ascend");
            queue.push(run);
            assert!(queue.len() <= self.bounds.depth, "queues are short");
            assert!(first > self.visible);
            assert!(last - first < self.bounds.run, "runs are short");
            assert!((first..=last).all(|seq| self.pushed.contains(&seq)), "runs hold what was pushed");
            let bytes: usize = (first..=last).map(|seq| self.tasks[&seq].1.bytes).sum();
            assert!(first == last || bytes <= self.bounds.run_bytes, "runs are small");
            // A task's `after` is the last seq that it depends on: any before that may be another.
            for (_, task) in self.tasks.range(first..=last).map(|(_, task)| task) {
                assert!(task.after.0.min(first - 1) <= run.after.0, "runs wait for all that their tasks may need");
            }
            let is_barrier = |seq: &u64| self.pushed.contains(seq) && self.tasks[seq].1.barrier;
            if (first..=last).any(|seq| is_barrier(&seq)) {
                assert_eq!(
                    (first, last),
                    (self.visible + 1, self.visible + 1),
                    "a barrier runs alone, after all before it"
                );
            }
            let overtaken = (self.visible + 1..first).find(is_barrier);
            assert_eq!(overtaken, None, "{first} was assigned before a barrier was visible");
        }
    }

    fn make_visible(&mut self, seq: u64) {
        assert!(seq > self.visible);
        self.visible = seq;
        self.dispatcher.visible(Seq(seq));
        // PostgreSQL drops what is visible already.
        for queue in self.workers.iter_mut().flatten() {
            queue.retain(|queued| queued.last.0 > seq);
        }
    }

    /// The worker's front run commits if its turn has come.
    fn work(&mut self, number: usize) -> bool {
        let front = self.workers[number].as_ref().and_then(|queue| queue.first().copied());
        let Some(run) = front.filter(|run| run.first.0 == self.visible + 1) else { return false };
        assert!(run.after.0 <= self.visible);
        self.workers[number].as_mut().expect("it has a front").remove(0);
        self.dispatcher.done(number, run.first);
        self.make_visible(run.last.0);
        true
    }

    fn fail(&mut self, number: usize) {
        if let Some(queue) = self.workers[number].as_mut().filter(|queue| !queue.is_empty()) {
            let run = queue.remove(0);
            self.dispatcher.failed(number, run.first);
        }
    }

    fn lose(&mut self, number: usize) {
        self.workers[number] = None;
        self.dispatcher.worker_lost(number);
    }

    fn bring_back(&mut self, number: usize) {
        if self.workers[number].is_none() {
            self.workers[number] = Some(Vec::new());
            self.dispatcher.worker_back(number);
        }
    }

    fn local_commit(&mut self) -> bool {
        let seq = self.visible + 1;
        let is_local = self.tasks.get(&seq).is_some_and(|(kind, _)| *kind != Kind::Foreign);
        let may = is_local && seq < self.next_to_push && !self.pushed.contains(&seq);
        if may {
            self.make_visible(seq);
        }
        may
    }

    fn event(&mut self, event: u8, number: usize) {
        let worker = number % self.workers.len();
        match event {
            0..=5 => self.order_next(),
            6..=11 => {
                self.work(worker);
            }
            12 => self.fail(worker),
            13 => self.lose(worker),
            14 => self.bring_back(worker),
            15 => self.orphan(number),
            _ => {
                self.local_commit();
            }
        }
        self.assign();
    }

    /// No more faults: everything becomes visible.
    fn finish(&mut self) {
        (0..self.workers.len()).for_each(|number| self.bring_back(number));
        self.assign();
        let last = self.tasks.len() as u64;
        while self.visible < last {
            self.order_next();
            self.orphan(0);
            self.assign();
            let worked = (0..self.workers.len()).any(|number| self.work(number));
            let moved = worked || self.local_commit() || self.next_to_push <= last;
            assert!(moved, "stuck at {} with {:?}", self.visible, self.workers);
        }
        assert_eq!((self.dispatcher.waiting(), self.dispatcher.under_way()), (0, 0));
    }
}

fn task() -> impl Strategy<Value = (Kind, u64, bool, usize)> {
    let kind = prop_oneof![6 => Just(Kind::Foreign), 2 => Just(Kind::Local), 2 => Just(Kind::Orphan)];
    (kind, 1..20_u64, prop::bool::weighted(0.1), 1..4_usize)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn nothing_starves(
        tasks in prop::collection::vec(task(), 1..60),
        events in prop::collection::vec((0..18_u8, 0..8_usize), 0..300),
        workers in 1..6_usize,
        depth in 1..5_usize,
        run in 1..6_u64,
        run_bytes in 1..10_usize,
    ) {
        let mut barrier = 0;
        let tasks = (1..).zip(tasks).map(|(seq, (kind, distance, is_barrier, bytes))| {
            let after = if is_barrier { seq - 1 } else { barrier.max(u64::saturating_sub(seq, distance)) };
            if is_barrier {
                barrier = seq;
            }
            (seq, (kind, Task { seq: Seq(seq), after: Seq(after), barrier: is_barrier, bytes }))
        });
        let bounds = Bounds { depth, run, run_bytes };
        let mut node = Node {
            dispatcher: Dispatcher::new(workers, bounds),
            bounds,
            tasks: tasks.collect(),
            pushed: BTreeSet::new(),
            workers: vec![Some(Vec::new()); workers],
            visible: 0,
            next_to_push: 1,
        };
        for (event, number) in events {
            node.event(event, number);
        }
        node.finish();
    }
}
