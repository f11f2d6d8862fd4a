//! From pre-commit to commit: the writeset goes to the daemon, the verdict
//! comes back, and the transaction becomes visible in seq order.
//!
//! Invariants, each held by the slot's compare-and-swaps:
//! * exactly one of backend and applier makes seq N visible;
//! * a transaction that is or may be ordered never ends in a retryable error;
//! * `replorigin_session_origin_lsn` is N in N's commit record and zero in every other.

mod acknowledge;
mod admission;
mod callbacks;
pub mod fence;
mod hand_over;
mod rematch;
mod submit;
mod told;
mod turn;

pub use acknowledge::{Ack, show_commit_seq};
pub use callbacks::ensure_origin;
pub use rematch::{await_winner, lost_to};
pub use submit::{VICTIM_HINT, VICTIM_MESSAGE, ensure_writable, fence_lost, seen, victim};
pub use told::{draw_counter, show_transaction_id};
pub use turn::wait_visible;

use std::sync::atomic::Ordering;

use pgrenga_writeset::{Incarnation, NodeId, TransactionId};

use crate::shmem::shared;

/// Installs the hooks. Call from `_PG_init`.
pub fn install() {
    callbacks::install();
    admission::install();
}

/// The name under which this process's transaction `counter` was handed over. Its
/// node may have begun a new life since.
fn handed_over_id(counter: u64) -> TransactionId {
    let incarnation = Incarnation(shared().my_slot().incarnation.load(Ordering::Acquire));
    TransactionId { incarnation, ..transaction_id(counter) }
}

/// The name of this process's transaction `counter` in the node's present life.
pub fn transaction_id(counter: u64) -> TransactionId {
    let shared = shared();
    TransactionId {
        node: NodeId(shared.node.load(Ordering::Acquire)),
        incarnation: Incarnation(shared.incarnation.load(Ordering::Acquire)),
        counter,
    }
}
