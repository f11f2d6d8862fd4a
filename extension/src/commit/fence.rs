//! The DDL fence: while a transaction holds it, only its own node's writesets
//! are certified, so that no DDL can be overtaken and none starves.

use pgrenga_writeset::port::FromPostgres;
use pgrx::pg_sys;

use super::{hand_over, submit, turn};
use crate::capture;
use crate::error::{PgSqlErrorCode, raise};
use crate::settings;
use crate::shmem::{self, Fence, State, shared};

/// Takes the fence for this transaction, unless it holds it already, and waits
/// until everything before it is visible here. May be cancelled.
pub fn acquire() {
    let slot = shared().my_slot();
    match slot.fence() {
        Fence::Held(_) => return,
        Fence::Lost => submit::fence_lost(),
        Fence::None | Fence::Requested(_) => {}
    }
    let txn = capture::transaction();
    txn.open();
    let counter = txn.counter();
    slot.set_fence(Fence::Requested(counter));
    hand_over::push(&FromPostgres::FenceRequest(super::transaction_id(counter)));
    let deadline = shmem::monotonic_ms() + settings::DDL_FENCE_TIMEOUT_MS.get() as u64;
    loop {
        match slot.fence() {
            Fence::Held(_) => break,
            Fence::Lost => submit::fence_lost(),
            Fence::None | Fence::Requested(_) => {}
        }
        interrupt();
        if shmem::monotonic_ms() >= deadline {
            raise(
                PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
                "could not obtain the DDL fence in time",
                "Another transaction holds it, or a majority of the nodes is not reachable.",
                "Try the transaction again.",
            );
        }
        shmem::sleep(100);
    }
    let after = slot.fence_after.load(std::sync::atomic::Ordering::Acquire);
    turn::wait_visible(after, None, interrupt);
    txn.refresh_seen_first();
}

fn interrupt() {
    // SAFETY: inside a statement, where interrupts are welcome.
    unsafe { pg_sys::ProcessInterrupts() };
    if matches!(shared().my_slot().state(), State::Victim(_)) {
        submit::victim();
    }
}
