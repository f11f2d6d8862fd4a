//! After a lost conflict: the session's next transaction waits for the winner.
//!
//! The winner is ordered, but may not be visible here yet. A transaction tried
//! again before it is would read the same rows as the first time and lose to the
//! same winner: on a busy node that lags a little, again and again. So it waits, with
//! nothing locked and nothing read, until a further attempt can do better.

use super::turn::wait_visible;
use crate::backend::BackendLocal;

/// A winner that is not visible by then will not be soon. The attempt begins, and
/// certification decides as ever.
const PATIENCE_MS: u64 = 1000;

/// The seq to which this session lost last; zero for none.
static WINNER: BackendLocal<u64> = BackendLocal::new(0);

/// Notes that this session lost to `seq`. Error paths call this: it cannot fail.
pub fn lost_to(seq: u64) {
    WINNER.set(WINNER.get().max(seq));
}

/// Waits for the winner. Call where a transaction begins or is about to write for the
/// first time, and interrupts are welcome.
pub fn await_winner() {
    let seq = WINNER.get();
    if seq == 0 {
        return;
    }
    WINNER.set(0);
    wait_visible(seq, Some(PATIENCE_MS), || {
        // SAFETY: the caller's promise.
        unsafe { pgrx::pg_sys::ProcessInterrupts() }
    });
}
