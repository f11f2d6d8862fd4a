//! Which apply worker executes which seqs.
//!
//! A worker executes a [`Run`] of successive seqs in one transaction: what a
//! transaction costs is shared by all of them, and the further this node lags the longer
//! the runs. Workers are serial: each executes its queue in order, and every run waits
//! inside PostgreSQL twice, until `after` is visible before it executes and
//! until the seq before it is visible before it commits. A worker that waits is of no
//! use to others, so an order is needed in which the lowest seq that is not
//! visible yet, the *head*, can always run. It follows from three rules:
//!
//! 1. Each worker's queue ascends in seq. So the head, once assigned, is at
//!    the front of its queue, and everything that it waits for is visible.
//! 2. A worker is *free* if its queue holds no run that begins above the head: it is
//!    idle or will be without waiting for anyone. No run other than the head's goes
//!    to a worker unless another one stays free. So a head that comes late (a
//!    local transaction that must be applied here after all, a retry, what a
//!    lost worker left behind) finds a place.
//! 3. Tasks that did not come in ascending order, or failed, wait until they are the
//!    head, and run on their own.
//!
//! A task that must run alone waits until it is the head, and nothing after it
//! is assigned until it is visible. Pure bookkeeping: no clock, no connections.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use pgrenga_writeset::Seq;

/// A certified writeset to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its place.
    pub seq: Seq,
    /// It may be executed once this seq is visible; below `seq`.
    pub after: Seq,
    /// Must be executed alone.
    pub barrier: bool,
    /// How much room it takes in a run.
    pub bytes: usize,
}

/// Successive seqs that one worker executes in one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first of them.
    pub first: Seq,
    /// The last of them.
    pub last: Seq,
    /// It may be executed once this seq is visible; below `first`.
    pub after: Seq,
}

/// What bounds the dispatcher.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Runs in a worker's queue.
    pub depth: usize,
    /// Seqs in a run.
    pub run: u64,
    /// Bytes of a run of more than one seq.
    pub run_bytes: usize,
}

#[derive(Debug)]
struct Worker {
    lost: bool,
    /// Ascending; each ends above the visible seq.
    queue: VecDeque<Run>,
}

/// See the module. Workers are named by their number, from 0.
#[derive(Debug)]
pub struct Dispatcher {
    bounds: Bounds,
    workers: Vec<Worker>,
    visible: Seq,
    /// The highest seq ever assigned.
    assigned: Seq,
    /// Not assigned and above `assigned`: they go out in order.
    fresh: BTreeMap<Seq, Task>,
    /// Not assigned, and not in order any more: each waits to be the head.
    late: BTreeSet<Seq>,
    /// Tasks not visible yet that must run alone.
    barriers: BTreeSet<Seq>,
}

impl Dispatcher {
    /// A dispatcher for `workers` workers.
    ///
    /// # Panics
    /// Without a worker, a place in its queue and a seq in a run.
    #[must_use]
    pub fn new(workers: usize, bounds: Bounds) -> Self {
        assert!(
            workers > 0 && bounds.depth > 0 && bounds.run > 0,
            "an applier needs a worker and a place in its queue"
        );
        let queue = || VecDeque::with_capacity(bounds.depth);
        Self {
            bounds,
            workers: (0..workers).map(|_| Worker { lost: false, queue: queue() }).collect(),
            visible: Seq(0),
            assigned: Seq(0),
            fresh: BTreeMap::new(),
            late: BTreeSet::new(),
            barriers: BTreeSet::new(),
        }
    }

    /// A task to be done, in any order. One that is visible, known or under
    /// way is ignored.
    pub fn push(&mut self, task: Task) {
        let is_under_way = |worker: &Worker| worker.queue.iter().any(|run| run.holds(task.seq));
        let known = self.late.contains(&task.seq) || self.workers.iter().any(is_under_way);
        if task.seq <= self.visible || known {
            return;
        }
        if task.barrier {
            self.barriers.insert(task.seq);
        }
        if task.seq > self.assigned {
            self.fresh.insert(task.seq, task);
        } else {
            self.late.insert(task.seq);
        }
    }

    /// A worker committed the run that begins with `first`.
    pub fn done(&mut self, worker: usize, first: Seq) {
        self.take(worker, first);
    }

    /// A worker rolled a run back. Each of its seqs is tried again when it is the head, so
    /// that nothing before it can be in its way.
    pub fn failed(&mut self, worker: usize, first: Seq) {
        if let Some(run) = self.take(worker, first) {
            self.late.extend(run.seqs().filter(|seq| *seq > self.visible));
        }
    }

    fn take(&mut self, worker: usize, first: Seq) -> Option<Run> {
        let queue = &mut self.workers.get_mut(worker)?.queue;
        let place = queue.iter().position(|run| run.first == first)?;
        queue.remove(place)
    }

    /// A worker is gone, and its queue with it. What it was doing may have
    /// committed: then it turns out visible before it is tried again, or
    /// PostgreSQL drops it.
    pub fn worker_lost(&mut self, worker: usize) {
        let visible = self.visible;
        if let Some(worker) = self.workers.get_mut(worker) {
            worker.lost = true;
            let left = worker.queue.drain(..).flat_map(|run| run.seqs());
            self.late.extend(left.filter(|seq| *seq > visible));
        }
    }

    /// A lost worker can be used again. Its queue is empty.
    pub fn worker_back(&mut self, worker: usize) {
        if let Some(worker) = self.workers.get_mut(worker) {
            worker.lost = false;
        }
    }

    /// Everything up to `seq` is visible, whoever did it.
    pub fn visible(&mut self, seq: Seq) {
        if seq <= self.visible {
            return;
        }
        self.visible = seq;
        self.fresh = self.fresh.split_off(&seq.next());
        self.late = self.late.split_off(&seq.next());
        self.barriers = self.barriers.split_off(&seq.next());
        for worker in &mut self.workers {
            while worker.queue.front().is_some_and(|run| run.last <= seq) {
                worker.queue.pop_front();
            }
        }
    }

    /// The next assignment, as (worker, run). To be asked until there is none.
    pub fn assign(&mut self) -> Option<(usize, Run)> {
        self.assign_head().or_else(|| self.assign_fresh())
    }

    /// How many tasks wait to be assigned.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.fresh.len() + self.late.len()
    }

    /// How many runs are assigned and not known to be done.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.workers.iter().map(|worker| worker.queue.len()).sum()
    }

    fn assign_head(&mut self) -> Option<(usize, Run)> {
        let head = self.visible.next();
        let is_late = self.late.contains(&head);
        if !is_late && !self.fresh.contains_key(&head) {
            return None;
        }
        let worker = self.workers.iter().position(|worker| !worker.lost && worker.queue.is_empty())?;
        let run = if is_late {
            self.late.remove(&head);
            Run { first: head, last: head, after: self.visible }
        } else {
            self.take_run()?
        };
        Some(self.give(worker, run))
    }

    fn assign_fresh(&mut self) -> Option<(usize, Run)> {
        let (&seq, task) = self.fresh.first_key_value()?;
        if self.barriers.first().is_some_and(|&barrier| barrier <= seq) {
            return None;
        }
        let worker = self.place_for(task.after)?;
        let run = self.take_run()?;
        Some(self.give(worker, run))
    }

    /// Takes the first fresh task, and those right behind it that fit into a run with it.
    fn take_run(&mut self) -> Option<Run> {
        let (first, task) = self.fresh.pop_first()?;
        let mut run = Run { first, last: first, after: task.after };
        let mut bytes = task.bytes;
        while !task.barrier
            && run.last.0 - first.0 + 1 < self.bounds.run
            && let Some(next) = self.fresh.first_entry()
            && *next.key() == run.last.next()
            && !next.get().barrier
            && bytes.saturating_add(next.get().bytes) <= self.bounds.run_bytes
        {
            let next = next.remove();
            bytes += next.bytes;
            run.last = next.seq;
            // What it depends on within the run comes before it in the transaction. But then it
            // may depend on anything before the run as well: `after` tells the last seq only.
            let before = Seq(first.0 - 1);
            run.after = run.after.max(next.after.min(before));
        }
        Some(run)
    }

    /// Best behind the run that it waits for, else with the shortest queue.
    fn place_for(&self, after: Seq) -> Option<usize> {
        let free_workers = self.workers.iter().filter(|worker| self.is_free(worker)).count();
        let may_take = |worker: &Worker| {
            let another_is_free = free_workers > usize::from(self.is_free(worker));
            !worker.lost && worker.queue.len() < self.bounds.depth && another_is_free
        };
        (0..self.workers.len()).filter(|&number| may_take(&self.workers[number])).min_by_key(|&number| {
            let queue = &self.workers[number].queue;
            (!queue.back().is_some_and(|run| run.holds(after)), queue.len(), number)
        })
    }

    fn is_free(&self, worker: &Worker) -> bool {
        !worker.lost && worker.queue.back().is_none_or(|run| run.first <= self.visible.next())
    }

    fn give(&mut self, worker: usize, run: Run) -> (usize, Run) {
        self.workers[worker].queue.push_back(run);
        self.assigned = self.assigned.max(run.last);
        (worker, run)
    }
}

impl Run {
    /// Its seqs, ascending.
    pub fn seqs(self) -> impl Iterator<Item = Seq> {
        (self.first.0..=self.last.0).map(Seq)
    }

    fn holds(self, seq: Seq) -> bool {
        (self.first..=self.last).contains(&seq)
    }
}
