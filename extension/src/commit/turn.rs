//! Waiting: for one's turn to commit, and for others' commits to be visible.

use pgrx::pg_sys;

use crate::shmem::{self, State, shared};

/// What became of a wait at the turnstile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Everything before is visible: commit now.
    Mine,
    /// The seq is visible already: somebody else committed it.
    Passed,
    /// The slot was taken away: somebody else will commit it.
    Lost,
}

/// Ends the process if it was told to end. Cancelling a query does not count
/// here: an ordered transaction cannot be taken back.
pub fn die_if_told() {
    // SAFETY: plain flags of this process; ProcessInterrupts looks at ProcDiePending first.
    unsafe {
        if pg_sys::ProcDiePending != 0 && pg_sys::InterruptHoldoffCount == 0 {
            pg_sys::ProcessInterrupts();
        }
    }
}

/// Waits until `seq` is the next to become visible, as long as this process's
/// slot stays in `state`.
pub fn wait_turn(seq: u64, state: State) -> Turn {
    let shared = shared();
    let slot = shared.my_slot();
    // SAFETY: every process with a transaction has a PGPROC.
    let procno = unsafe { (*pg_sys::MyProc).pgprocno };
    loop {
        let queued = shared.turnstile.queue(seq, procno);
        let visible = shared.turnstile.visible();
        if slot.state() != state {
            shared.turnstile.unqueue(seq);
            return Turn::Lost;
        }
        if visible + 1 >= seq {
            shared.turnstile.unqueue(seq);
            return if visible + 1 == seq { Turn::Mine } else { Turn::Passed };
        }
        die_if_told();
        shmem::sleep(if queued { 1000 } else { 1 });
    }
}

/// Waits until `seq` is visible; false when `timeout_ms` is over. `interrupt`
/// runs after each wake-up and may raise an error.
pub fn wait_visible(seq: u64, timeout_ms: Option<u64>, interrupt: impl Fn()) -> bool {
    let turnstile = &shared().turnstile;
    if turnstile.visible() >= seq {
        return true;
    }
    let deadline = timeout_ms.map(|ms| shmem::monotonic_ms() + ms);
    // SAFETY: every process with a transaction has a PGPROC.
    let watch = turnstile.watch(seq, unsafe { (*pg_sys::MyProc).pgprocno });
    loop {
        if turnstile.visible() >= seq {
            return true;
        }
        interrupt();
        if deadline.is_some_and(|deadline| shmem::monotonic_ms() >= deadline) {
            return false;
        }
        shmem::sleep(if watch.is_some() { 100 } else { 1 });
    }
}
