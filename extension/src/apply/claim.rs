//! Taking a seq, so that exactly one process ever commits it.

use std::sync::atomic::{Ordering, fence};

use pgrx::pg_sys;

use super::{failure, interrupt};
use crate::shmem::{self, State, shared};

/// How long another session may stand at the seq before this one gives up.
const PATIENCE_MS: u64 = 1000;

/// Moves this process's slot to `Applying(seq)`. False if `seq` is visible:
/// then the slot is free.
///
/// First the own slot, then a look at all others: of two processes that claim
/// the same seq, at least one sees the other (Dekker), and whoever sees
/// another steps back. So none proceeds while another stands there, be it an
/// applier or a local transaction that was ordered at this seq.
pub(super) fn claim(seq: u64) -> bool {
    let shared = shared();
    let slot = shared.my_slot();
    // SAFETY: every process with a transaction has a PGPROC.
    let procno = unsafe { (*pg_sys::MyProc).pgprocno };
    let deadline = shmem::monotonic_ms() + PATIENCE_MS;
    loop {
        slot.set(State::Applying(seq));
        fence(Ordering::SeqCst);
        if shared.turnstile.visible() >= seq {
            slot.set(State::Free);
            return false;
        }
        if !taken_by_another(seq, procno) {
            return true;
        }
        slot.set(State::Free);
        interrupt();
        if shmem::monotonic_ms() >= deadline {
            failure::taken(seq);
        }
        // Unequal pauses, so that two that stepped back do not meet again.
        shmem::sleep(1 + i64::from(procno % 8));
    }
}

fn taken_by_another(seq: u64, procno: i32) -> bool {
    let slots = shared().slots().iter().enumerate();
    slots.filter(|(at, _)| *at != procno as usize).any(|(_, slot)| slot.state().seq() == Some(seq))
}
