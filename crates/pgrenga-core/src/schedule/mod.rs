//! Which apply worker executes which seq.
//!
//! Workers are serial: each executes its queue in order, and every task waits
//! inside PostgreSQL twice, until `after` is visible before it executes and
//! until `seq - 1` is visible before it commits. A worker that waits is of no
//! use to others, so an order is needed in which the lowest seq that is not
//! visible yet, the *head*, can always run. It follows from three rules:
//!
//! 1. Each worker's queue ascends in seq. So the head, once assigned, is at
//!    the front of its queue, and everything that it waits for is visible.
//! 2. A worker is *free* if its queue holds nothing above the head: it is idle
//!    or will be without waiting for anyone. No task other than the head goes
//!    to a worker unless another one stays free. So a head that comes late (a
//!    local transaction that must be applied here after all, a retry, what a
//!    lost worker left behind) finds a place.
//! 3. Tasks that did not come in ascending order wait until they are the head.
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
}

#[derive(Debug)]
struct Worker {
    lost: bool,
    /// Ascending; all above the visible seq.
    queue: VecDeque<Seq>,
}

/// See the module. Workers are named by their number, from 0.
#[derive(Debug)]
pub struct Dispatcher {
    depth: usize,
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
    /// A dispatcher for `workers` workers with queues of at most `depth` tasks.
    ///
    /// # Panics
    /// If either is zero.
    #[must_use]
    pub fn new(workers: usize, depth: usize) -> Self {
        assert!(workers > 0 && depth > 0, "an applier needs a worker and a place in its queue");
        let workers = (0..workers).map(|_| Worker { lost: false, queue: VecDeque::with_capacity(depth) }).collect();
        Self {
            depth,
            workers,
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
        let known = self.late.contains(&task.seq) || self.workers.iter().any(|worker| worker.queue.contains(&task.seq));
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

    /// A worker committed a task.
    pub fn done(&mut self, worker: usize, seq: Seq) {
        self.take(worker, seq);
    }

    /// A worker rolled a task back. It is tried again when it is the head, so
    /// that nothing before it can be in its way.
    pub fn failed(&mut self, worker: usize, seq: Seq) {
        if self.take(worker, seq) {
            self.late.insert(seq);
        }
    }

    fn take(&mut self, worker: usize, seq: Seq) -> bool {
        let Some(worker) = self.workers.get_mut(worker) else { return false };
        let place = worker.queue.iter().position(|&queued| queued == seq);
        place.and_then(|place| worker.queue.remove(place)).is_some()
    }

    /// A worker is gone, and its queue with it. What it was doing may have
    /// committed: then it turns out visible before it is tried again, or
    /// PostgreSQL drops it.
    pub fn worker_lost(&mut self, worker: usize) {
        if let Some(worker) = self.workers.get_mut(worker) {
            worker.lost = true;
            self.late.extend(worker.queue.drain(..));
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
            while worker.queue.front().is_some_and(|&front| front <= seq) {
                worker.queue.pop_front();
            }
        }
    }

    /// The next assignment, as (worker, seq). To be asked until there is none.
    pub fn assign(&mut self) -> Option<(usize, Seq)> {
        self.assign_head().or_else(|| self.assign_fresh())
    }

    /// How many tasks wait to be assigned.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.fresh.len() + self.late.len()
    }

    /// How many tasks are assigned and not known to be done.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.workers.iter().map(|worker| worker.queue.len()).sum()
    }

    fn assign_head(&mut self) -> Option<(usize, Seq)> {
        let head = self.visible.next();
        if !self.late.contains(&head) && !self.fresh.contains_key(&head) {
            return None;
        }
        let worker = self.workers.iter().position(|worker| !worker.lost && worker.queue.is_empty())?;
        self.late.remove(&head);
        self.fresh.remove(&head);
        Some(self.give(worker, head))
    }

    fn assign_fresh(&mut self) -> Option<(usize, Seq)> {
        let (&seq, &task) = self.fresh.first_key_value()?;
        if self.barriers.first().is_some_and(|&barrier| barrier <= seq) {
            return None;
        }
        let worker = self.place_for(&task)?;
        self.fresh.remove(&seq);
        Some(self.give(worker, seq))
    }

    /// Best behind the task that it waits for, else with the shortest queue.
    fn place_for(&self, task: &Task) -> Option<usize> {
        let free_workers = self.workers.iter().filter(|worker| self.is_free(worker)).count();
        let may_take = |worker: &Worker| {
            let another_is_free = free_workers > usize::from(self.is_free(worker));
            !worker.lost && worker.queue.len() < self.depth && another_is_free
        };
        (0..self.workers.len()).filter(|&number| may_take(&self.workers[number])).min_by_key(|&number| {
            let queue = &self.workers[number].queue;
            (queue.back() != Some(&task.after), queue.len(), number)
        })
    }

    fn is_free(&self, worker: &Worker) -> bool {
        !worker.lost && worker.queue.back().is_none_or(|&last| last <= self.visible.next())
    }

    fn give(&mut self, worker: usize, seq: Seq) -> (usize, Seq) {
        self.workers[worker].queue.push_back(seq);
        self.assigned = self.assigned.max(seq);
        (worker, seq)
    }
}
