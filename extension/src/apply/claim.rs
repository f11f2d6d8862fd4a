//! Taking a seq, so that exactly one process ever commits it.

use std::ops::RangeInclusive;
use std::sync::atomic::{Ordering, fence};

use pgrx::pg_sys;

use super::{failure, interrupt};
use crate::shmem::{self, State, shared};

/// How long another session may stand at the seq before this one gives up.
const PATIENCE_MS: u64 = 1000;

/// Moves this process's slot to `Applying` for `seqs`. False if all of them are
/// visible: then the slot is free.
///
/// First the own slot, then a look at all others: of two processes that claim
/// the same seqs, at least one sees the other (Dekker), and whoever sees
/// another steps back. So none proceeds while another stands there, be it an
/// applier or a local transaction that was ordered at one of these seqs.
pub(super) fn claim(seqs: RangeInclusive<u64>) -> bool {
    let shared = shared();
    let slot = shared.my_slot();
    // SAFETY: every process with a transaction has a PGPROC.
    let procno = unsafe { (*pg_sys::MyProc).pgprocno };
    let deadline = shmem::monotonic_ms() + PATIENCE_MS;
    loop {
        slot.set_last(*seqs.end());
        slot.set(State::Applying(*seqs.start()));
        fence(Ordering::SeqCst);
        let visible = shared.turnstile.visible();
        if visible < *seqs.start() && !taken_by_another(&seqs, procno) {
            return true;
        }
        slot.set(State::Free);
        slot.set_last(0);
        if visible >= *seqs.end() {
            return false;
        }
        interrupt();
        // A part of a run that is visible will not be taken back.
        if visible >= *seqs.start() || shmem::monotonic_ms() >= deadline {
            failure::taken(*seqs.start());
        }
        // Unequal pauses, so that two that stepped back do not meet again.
        shmem::sleep(1 + i64::from(procno % 8));
    }
}

fn taken_by_another(seqs: &RangeInclusive<u64>, procno: i32) -> bool {
    let meets = |other: RangeInclusive<u64>| other.start() <= seqs.end() && seqs.start() <= other.end();
    let slots = shared().slots().iter().enumerate();
    slots.filter(|(at, _)| *at != procno as usize).any(|(_, slot)| slot.seqs().is_some_and(meets))
}
