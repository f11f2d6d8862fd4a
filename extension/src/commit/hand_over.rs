//! The writeset's way into the ring, and the wait for its verdict.
//!
//! A large body goes ahead in fragments, a few at a time: the next ones follow
//! when the log has taken the first, so that no process on the way holds more
//! than [`WINDOW`] of them for one transaction. And as long as the log takes them
//! the transaction makes progress: `commit_timeout` counts from the last one.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use pgrenga_writeset::LogIndex;
use pgrenga_writeset::port::FromPostgres;
use pgrenga_writeset::writeset::Header;

use super::submit::{commit_deadline, fence_lost, seen, victim};
use super::told;
use super::turn::die_if_told;
use crate::capture::Transaction;
use crate::error::{PgSqlErrorCode, raise};
use crate::failpoint::{self, Failpoint};
use crate::settings;
use crate::shmem::{self, Fence, Slot, State, ring, shared};

/// Fragments under way at once.
const WINDOW: u32 = 8;

/// Time for COMMIT that starts anew whenever the log has taken a fragment.
pub(super) struct Patience {
    deadline: u64,
    taken: u32,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self { deadline: commit_deadline(), taken: 0 }
    }

    /// Milliseconds left, none if there was no progress for too long.
    fn left(&mut self, taken: u32) -> Option<u64> {
        if taken != self.taken {
            *self = Self { deadline: commit_deadline(), taken };
        }
        self.deadline.checked_sub(shmem::monotonic_ms()).filter(|left| *left > 0)
    }
}

/// Puts the writeset into the ring; returns how many fragments went ahead of it. Returns early if the
/// slot has left `Waiting`.
pub(super) fn hand_over(txn: &mut Transaction, slot: &Slot, counter: u64, patience: &mut Patience) -> u32 {
    let fence = match slot.fence() {
        Fence::Held(index) => index,
        Fence::Lost => fence_lost(),
        Fence::None | Fence::Requested(_) => 0,
    };
    let txid = super::transaction_id(counter);
    told::check(&txid);
    slot.incarnation.store(txid.incarnation.0, Ordering::Release);
    slot.taken.store(0, Ordering::Release);
    if !slot.advance(State::Open(counter), State::Waiting(counter)) {
        victim();
    }
    failpoint::reach(Failpoint::CapturedKill);
    let fragments = txn.for_each_fragment(|ordinal, body| {
        wait_for_window(slot, counter, ordinal, patience)?;
        push_in_time(&FromPostgres::Fragment { txid, ordinal, body }, slot, patience);
        ControlFlow::Continue(())
    });
    if slot.state() != State::Waiting(counter) {
        return fragments;
    }
    let header = Header {
        flags: txn.flags(),
        txid,
        seen_first: txn.seen_first(),
        seen_last: seen(),
        fence: LogIndex(fence),
        fragments,
    };
    push_in_time(&FromPostgres::Submit(txn.encode(&header)), slot, patience);
    failpoint::reach(Failpoint::SubmittedKill);
    fragments
}

/// Waits until fewer than [`WINDOW`] of `sent` fragments are under way.
fn wait_for_window(slot: &Slot, counter: u64, sent: u32, patience: &mut Patience) -> ControlFlow<()> {
    loop {
        if slot.state() != State::Waiting(counter) {
            return ControlFlow::Break(());
        }
        let taken = slot.taken.load(Ordering::Acquire);
        if sent.saturating_sub(taken) < WINDOW {
            return ControlFlow::Continue(());
        }
        pause(slot, patience);
    }
}

/// Puts a short frame into the ring, waiting for room if need be, and wakes the
/// port worker if it is time.
pub(super) fn push(frame: &FromPostgres<'_>) {
    let shared = shared();
    while !shared.ring().push(frame) {
        shared.wake_port_worker();
        die_if_told();
        shmem::sleep(1);
    }
    wake_for(&shared.ring());
}

/// The same for a part of a writeset.
fn push_in_time(frame: &FromPostgres<'_>, slot: &Slot, patience: &mut Patience) {
    let shared = shared();
    while !shared.ring().push(frame) {
        shared.wake_port_worker();
        pause(slot, patience);
    }
    wake_for(&shared.ring());
}

/// The first writeset of a batch has the port worker wait for the others, the last one has it go.
fn wake_for(ring: &ring::Handle<'_>) {
    if ring.writesets() == 1 || ring.is_due() {
        shared().wake_port_worker();
    }
}

/// Sleeps a moment, or ends the transaction if there was no progress for too
/// long. The writeset itself is not in the ring yet, so nothing can come of it.
fn pause(slot: &Slot, patience: &mut Patience) {
    die_if_told();
    let Some(left) = patience.left(slot.taken.load(Ordering::Acquire)) else {
        raise(
            PgSqlErrorCode::ERRCODE_CANNOT_CONNECT_NOW,
            format!("the transaction could not be handed over within {} ms", settings::COMMIT_TIMEOUT_MS.get()),
            "The daemon is not running, or a majority of the nodes cannot be reached. Nothing was changed.",
            "Try again, or use another node; \"pgrenga status\" shows which ones serve.",
        )
    };
    shmem::sleep(left.min(10) as i64);
}

/// Waits for the slot to leave `Waiting`. Returns `Waiting` when the time was
/// over first; then the slot is given up, and a late verdict finds nobody.
pub(super) fn await_verdict(slot: &Slot, counter: u64, patience: &mut Patience) -> State {
    let waiting = State::Waiting(counter);
    loop {
        let state = slot.state();
        if state != waiting {
            return state;
        }
        die_if_told();
        let left = patience.left(slot.taken.load(Ordering::Acquire));
        if left.is_none() && slot.advance(waiting, State::Free) {
            return waiting;
        }
        shmem::sleep(left.unwrap_or(1).clamp(1, 1000) as i64);
    }
}
