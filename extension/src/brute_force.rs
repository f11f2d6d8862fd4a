//! Brute-force abort: ending what stands in the way of the order.
//!
//! A writeset that is ordered must be applied, whatever local transactions
//! hold. [`scan`] runs every few milliseconds in the port worker and looks for
//! appliers, and holders of the DDL fence, that wait for a heavyweight lock.
//! What becomes of a blocker depends on its commit slot:
//!
//! | slot | what happens |
//! |---|---|
//! | Open | becomes Victim, then the signal: at pre-commit it finds out at the latest |
//! | Free | holds a lock without having written: the signal alone |
//! | Waiting, Aborted, Resubmit | its verdict decides |
//! | Ordered(m), m later | becomes Revoked: the applier does it in its turn |
//! | Applying(m), m later | becomes Yielded: the daemon tries it again |
//! | earlier, or Committing | passes the turnstile first |
//!
//! The signal is the one for a conflict with recovery on a standby, sent to a
//! virtual transaction id, so that it never hits the next transaction:
//! an error with 40001, and FATAL where PostgreSQL cannot do better (idle in
//! transaction, or inside a subtransaction that might swallow the error). A
//! victim between two statements therefore gets a moment to send the next one,
//! which fails with 40001 at its start ([`statement`]). The signal
//! is sent again until the victim is gone: a lost wake-up here would stop this
//! node for ever.

mod accusation;
mod blockers;
mod pursuit;
mod statement;

use pgrx::pg_sys;

use crate::shmem::{self, Fence, Slot, State, shared};
pub use accusation::{detail, watch_errors};
use blockers::Blocker;
pub use statement::install;

/// For how long an idle transaction may keep a holder of the DDL fence waiting.
const FENCE_GRACE_MS: u64 = 200;

/// Who wants the lock.
#[derive(Clone, Copy)]
enum Demand {
    /// The applier of this seq.
    Seq(u64),
    /// A local transaction that holds the DDL fence.
    Fence,
}

/// Slots' states, from before the blockers were looked for. A transaction that
/// was in its slot before and is still there afterwards is the one that the
/// lock tables showed in between.
struct States(Vec<State>);

impl States {
    fn read() -> Self {
        Self(shared().slots().iter().map(Slot::state).collect())
    }
}

/// Clears the way for every process that has a right to it and waits for a lock.
pub fn scan() {
    for (procno, slot) in shared().slots().iter().enumerate() {
        let demand = match slot.state() {
            State::Applying(seq) => Demand::Seq(seq),
            State::Open(_) if matches!(slot.fence(), Fence::Held(_)) => Demand::Fence,
            _ => continue,
        };
        if let Some(pid) = blockers::waiting_pid(procno) {
            clear_way_for(pid, demand, procno);
        }
    }
}

fn clear_way_for(pid: i32, demand: Demand, accuser: usize) {
    let states = States::read();
    for blocker in blockers::of_process(pid) {
        clear(demand, accuser, &blocker, &states);
    }
}

/// For the applier of `seq` that found the row in `slot` held by others:
/// clears the way at once, before it waits for them. `mode` is the row lock
/// that it needs; holders of locks that do not conflict are left alone.
///
/// # Safety
/// The slot holds a heap tuple in its buffer.
pub unsafe fn clear_row(seq: u64, slot: *mut pg_sys::TupleTableSlot, mode: pg_sys::LockTupleMode::Type) {
    let states = States::read();
    // SAFETY: every process with a transaction has a PGPROC.
    let me = unsafe { (*pg_sys::MyProc).pgprocno } as usize;
    // SAFETY: the caller's promise.
    for xid in unsafe { blockers::row_holders(slot, mode) } {
        for blocker in blockers::of_transaction(xid) {
            // What no slot paces is the port worker's alone, or both would signal.
            if blocker.procno.is_some_and(|procno| states.0.get(procno) != Some(&State::Free)) {
                clear(Demand::Seq(seq), me, &blocker, &states);
            }
        }
    }
}

fn clear(demand: Demand, accuser: usize, blocker: &Blocker, states: &States) {
    let Some(procno) = blocker.procno else { return pursuit::report_prepared(blocker) };
    if blocker.has_ended() {
        return;
    }
    let slot = &shared().slots()[procno];
    let Some(&state) = states.0.get(procno) else { return };
    let accuse = || slot.accuse(blocker.vxid.localTransactionId, accuser);
    match (demand, state) {
        (_, State::Victim(_)) => pursuit::end_again(blocker),
        (Demand::Seq(_), State::Free | State::Open(_)) => {
            accuse();
            make_victim(blocker, slot, state);
        }
        (Demand::Seq(seq), State::Ordered(later)) if later > seq => {
            slot.advance(state, State::Revoked(later));
            shmem::wake(procno as i32);
        }
        (Demand::Seq(seq), State::Applying(later)) if later > seq => {
            slot.advance(state, State::Yielded(later));
            pursuit::end_applier(blocker, procno, later);
        }
        (_, State::Yielded(later)) => pursuit::end_applier(blocker, procno, later),
        (_, State::Revoked(_)) => shmem::wake(procno as i32),
        (Demand::Fence, State::Free | State::Open(_)) if is_due_for_fence(blocker, slot) => {
            accuse();
            make_victim(blocker, slot, state);
        }
        _ => {}
    }
}

/// Whoever waits for the fence himself would wait for its holder: he goes at
/// once. Others are given time to finish, but not to idle.
fn is_due_for_fence(blocker: &Blocker, slot: &Slot) -> bool {
    let waits_for_fence = matches!(slot.fence(), Fence::Requested(_));
    let patience = if waits_for_fence || blocker.is_autovacuum() { 0 } else { FENCE_GRACE_MS };
    pursuit::blocked_for(blocker) >= patience && (patience == 0 || blocker.is_idle())
}

/// First the slot, then the signal: one that arrives too late to stop the
/// commit must find that the slot has stopped it.
fn make_victim(blocker: &Blocker, slot: &Slot, state: State) {
    let stopped = match state {
        State::Open(counter) => slot.advance(state, State::Victim(counter)),
        // It has written nothing that a commit could keep.
        _ => true,
    };
    if stopped {
        pursuit::end(blocker);
    }
}
