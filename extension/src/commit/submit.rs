//! Handing a writeset over, and waiting for its verdict.

use std::sync::atomic::Ordering;

use pgrenga_writeset::port::FromPostgres;
use pgrenga_writeset::writeset::Header;
use pgrenga_writeset::{LogIndex, Seq};
use pgrx::pg_sys;

use super::turn::die_if_told;
use crate::capture::Transaction;
use crate::error::{PgSqlErrorCode, raise};
use crate::failpoint::{self, Failpoint};
use crate::settings;
use crate::shmem::{self, Fence, Slot, State, shared};

/// The position of this node that a snapshot taken now includes.
pub fn seen() -> Seq {
    Seq(shared().turnstile.visible())
}

fn commit_deadline() -> u64 {
    shmem::monotonic_ms() + settings::COMMIT_TIMEOUT_MS.get() as u64
}

/// Waits until the daemon lets this server accept writes. A node that is
/// cut off or still catching up gets `commit_timeout` to recover.
pub fn ensure_writable() {
    let shared = shared();
    // SAFETY: constant after server start.
    let processes = unsafe { pg_sys::MaxBackends } as usize;
    let ready = || shared.serving() && shared.notices.has_room_for(processes);
    if ready() {
        return;
    }
    let deadline = commit_deadline();
    while !ready() {
        // SAFETY: the caller is inside a statement, where interrupts are welcome.
        unsafe { pg_sys::ProcessInterrupts() };
        if shmem::monotonic_ms() >= deadline {
            raise(
                PgSqlErrorCode::ERRCODE_CANNOT_CONNECT_NOW,
                "this node does not accept writes now",
                "Its daemon is not running, is catching up, or is cut off from the majority of the nodes. Nothing was changed.",
                "Try again, or use another node; \"pgrenga status\" shows which ones serve.",
            );
        }
        shmem::sleep(20);
    }
}

/// Orders the transaction and returns its seq, or ends it with an error.
pub fn order(txn: &mut Transaction) -> u64 {
    let slot = shared().my_slot();
    let deadline = commit_deadline();
    loop {
        ensure_writable();
        let counter = txn.counter();
        hand_over(txn, slot, counter);
        match await_verdict(slot, counter, deadline) {
            State::Ordered(seq) => return seq,
            State::Aborted(_) => txn.raise_conflict(slot.reason()),
            State::Resubmit(_) => txn.reopen(slot),
            _ => raise(
                PgSqlErrorCode::ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN,
                format!(
                    "no majority of the nodes confirmed the transaction within {} ms",
                    settings::COMMIT_TIMEOUT_MS.get()
                ),
                format!("Transaction {} may be committed or not.", super::transaction_id(counter)),
                format!(
                    "SELECT pgrenga.transaction_status('{}') tells its outcome once a majority is back.",
                    super::transaction_id(counter)
                ),
            ),
        }
    }
}

/// Raised where a transaction finds its DDL fence gone.
pub fn fence_lost() -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "the transaction lost the DDL fence",
        "It kept the other nodes' commits waiting for longer than pgrenga.ddl_fence_timeout, or this node began a new life.",
        "Try the transaction again.",
    )
}

/// Raised where a transaction finds that it stood in an ordered one's way.
pub fn victim() -> ! {
    // The signal may have come already: then its error is as good. Left
    // pending, it would end the session when the next command is read.
    // SAFETY: inside a statement or at pre-commit, where interrupts are welcome.
    unsafe { pg_sys::ProcessInterrupts() };
    raise(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "could not serialize access due to a transaction of another node",
        "A transaction that is already ordered needed a lock that this one held.",
        "Try the transaction again.",
    )
}

fn hand_over(txn: &mut Transaction, slot: &Slot, counter: u64) {
    let fence = match slot.fence() {
        Fence::Held(index) => index,
        Fence::Lost => fence_lost(),
        Fence::None | Fence::Requested(_) => 0,
    };
    let txid = super::transaction_id(counter);
    slot.incarnation.store(txid.incarnation.0, Ordering::Release);
    if !slot.advance(State::Open(counter), State::Waiting(counter)) {
        victim();
    }
    failpoint::reach(Failpoint::CapturedKill);
    let fragments = txn.send_fragments(&txid);
    let header = Header {
        flags: txn.flags(),
        txid,
        seen_first: txn.seen_first(),
        seen_last: seen(),
        fence: LogIndex(fence),
        fragments,
    };
    push(&FromPostgres::Submit(txn.encode(&header)));
    failpoint::reach(Failpoint::SubmittedKill);
}

/// Puts a frame into the ring, waiting for room if need be, and wakes the port worker if it is time.
pub fn push(frame: &FromPostgres<'_>) {
    let shared = shared();
    while !shared.ring().push(frame) {
        shared.wake_port_worker();
        die_if_told();
        shmem::sleep(1);
    }
    // The first writeset of a batch has it wait for the others, the last one has it go.
    let ring = shared.ring();
    if ring.writesets() == 1 || ring.is_due() {
        shared.wake_port_worker();
    }
}

/// Waits for the slot to leave `Waiting`. Returns `Waiting` when the deadline
/// passed first; then the slot is given up, and a late verdict finds nobody.
fn await_verdict(slot: &Slot, counter: u64, deadline: u64) -> State {
    let waiting = State::Waiting(counter);
    loop {
        let state = slot.state();
        if state != waiting {
            return state;
        }
        die_if_told();
        let now = shmem::monotonic_ms();
        if now >= deadline && slot.advance(waiting, State::Free) {
            return waiting;
        }
        shmem::sleep(deadline.saturating_sub(now).clamp(1, 1000) as i64);
    }
}
