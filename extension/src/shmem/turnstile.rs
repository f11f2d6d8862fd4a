//! The turnstile: commits become visible in seq order, with no gaps.
//!
//! Invariant: `visible` only ever steps from N-1 to N, or to the end of a run that begins
//! with N, and the step is made by the one process that committed them, after its
//! `ProcArrayEndTransaction`.
//! Whoever waits for N leaves its process number where N-1's owner looks, so
//! that a commit wakes exactly its successor.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use super::wake;

/// How many successive seqs can have a waiter of their own. Waiters further
/// apart share a place; the one that comes second polls.
const WAITERS: usize = 4096;
/// How many commits are remembered, to tell what a snapshot includes.
const REMEMBERED: usize = 1024;
/// How many processes can wait for a seq to be visible (appliers, `wait_for`)
/// and be woken; more of them poll.
const WATCHERS: usize = 64;

/// `FrozenTransactionId`: every snapshot includes it.
const FROZEN: u32 = 2;

#[repr(C)]
struct Waiter {
    seq: AtomicU64,
    procno: AtomicI32,
}

/// A commit: its transaction's id (zero while it is being written down), and up to which
/// seq it made visible.
#[repr(C)]
struct Commit {
    xid: AtomicU32,
    seq: AtomicU64,
}

/// The gate and those who wait at it.
#[repr(C)]
pub struct Turnstile {
    visible: AtomicU64,
    watching: AtomicU64,
    waiters: [Waiter; WAITERS],
    watchers: [Waiter; WATCHERS],
    remembered: AtomicU64,
    commits: [Commit; REMEMBERED],
}

impl Turnstile {
    /// The highest visible seq.
    pub fn visible(&self) -> u64 {
        self.visible.load(Ordering::SeqCst)
    }

    /// Sets the position after recovery, before anything passes.
    pub fn recover(&self, seq: u64) {
        // Older than all that come.
        self.remember(seq, FROZEN);
        self.visible.store(seq, Ordering::SeqCst);
    }

    /// Transaction `xid` has committed everything up to `seq`. Call before [`Turnstile::open`], whose caller
    /// alone writes here. Never waits and never fails.
    pub fn remember(&self, seq: u64, xid: u32) {
        let number = self.remembered.load(Ordering::SeqCst);
        let place = &self.commits[number as usize % REMEMBERED];
        place.xid.store(0, Ordering::SeqCst);
        place.seq.store(seq, Ordering::SeqCst);
        place.xid.store(xid, Ordering::SeqCst);
        self.remembered.store(number + 1, Ordering::SeqCst);
    }

    /// Up to which seq a snapshot includes everything, which `includes` tells of a transaction's id. Commits
    /// become visible in seq order, so the newest one that it includes decides. `None` if all those that are
    /// remembered came later.
    pub fn included_in(&self, includes: impl Fn(u32) -> bool) -> Option<u64> {
        let newest = self.remembered.load(Ordering::SeqCst);
        (newest.saturating_sub(REMEMBERED as u64)..newest).rev().find_map(|number| {
            let place = &self.commits[number as usize % REMEMBERED];
            let xid = place.xid.load(Ordering::SeqCst);
            let seq = place.seq.load(Ordering::SeqCst);
            // One that was written meanwhile is newer than the snapshot.
            (xid != 0 && place.xid.load(Ordering::SeqCst) == xid && includes(xid)).then_some(seq)
        })
    }

    /// Makes `seqs` visible and wakes whoever waits for that. The caller owns
    /// them and has committed them, or knows that they change nothing. Never
    /// waits and never fails: COMMIT callbacks call it.
    pub fn open(&self, seqs: RangeInclusive<u64>) {
        let (first, last) = seqs.into_inner();
        debug_assert_eq!(self.visible() + 1, first);
        self.visible.store(last, Ordering::SeqCst);
        // The successor; and whoever came to do a part of it as well, in vain.
        for seq in first + 1..=last + 1 {
            let waiter = &self.waiters[seq as usize % WAITERS];
            if waiter.seq.load(Ordering::SeqCst) == seq {
                wake(waiter.procno.load(Ordering::SeqCst));
            }
        }
        if self.watching.load(Ordering::SeqCst) > 0 {
            for watcher in &self.watchers {
                let wanted = watcher.seq.load(Ordering::SeqCst);
                if wanted != 0 && wanted <= last {
                    wake(watcher.procno.load(Ordering::SeqCst));
                }
            }
        }
    }

    /// Registers process `procno` as the one that will open `seq`, to be woken
    /// when its turn comes. Check [`Turnstile::visible`] after this, not
    /// before. False if the place is taken: poll.
    pub fn queue(&self, seq: u64, procno: i32) -> bool {
        let place = &self.waiters[seq as usize % WAITERS];
        if place.seq.load(Ordering::SeqCst) == seq {
            return place.procno.load(Ordering::SeqCst) == procno;
        }
        // A place is free when its seq has passed. Two seqs that share a place
        // race for it; the loser polls.
        let old = place.seq.load(Ordering::SeqCst);
        if old > self.visible() {
            return false;
        }
        if place.seq.compare_exchange(old, u64::MAX, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            return false;
        }
        place.procno.store(procno, Ordering::SeqCst);
        place.seq.store(seq, Ordering::SeqCst);
        true
    }

    /// Takes back what [`Turnstile::queue`] registered.
    pub fn unqueue(&self, seq: u64) {
        let place = &self.waiters[seq as usize % WAITERS];
        let _ = place.seq.compare_exchange(seq, 0, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Registers process `procno` to be woken once `seq` is visible. Check
    /// [`Turnstile::visible`] after this. `None` if all places are taken: poll.
    pub fn watch(&self, seq: u64, procno: i32) -> Option<Watch<'_>> {
        self.watching.fetch_add(1, Ordering::SeqCst);
        for place in &self.watchers {
            if place.seq.compare_exchange(0, u64::MAX, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                place.procno.store(procno, Ordering::SeqCst);
                place.seq.store(seq, Ordering::SeqCst);
                return Some(Watch { turnstile: self, place });
            }
        }
        self.watching.fetch_sub(1, Ordering::SeqCst);
        None
    }
}

/// A registration that ends when dropped.
pub struct Watch<'a> {
    turnstile: &'a Turnstile,
    place: &'a Waiter,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.place.seq.store(0, Ordering::SeqCst);
        self.turnstile.watching.fetch_sub(1, Ordering::SeqCst);
    }
}
