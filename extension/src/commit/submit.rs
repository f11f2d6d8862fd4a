//! Ordering a transaction, and what its client hears if that fails.

use pgrenga_writeset::port::FromPostgres;
use pgrenga_writeset::{Seq, TransactionId};
use pgrx::pg_sys;

use super::hand_over::{Patience, await_verdict, hand_over, push};
use super::told;
use crate::brute_force;
use crate::capture::Transaction;
use crate::error::{PgSqlErrorCode, raise};
use crate::read;
use crate::settings;
use crate::shmem::{self, State, shared};

/// The position of this node that a snapshot taken now includes.
pub fn seen() -> Seq {
    Seq(shared().turnstile.visible())
}

pub(super) fn commit_deadline() -> u64 {
    shmem::monotonic_ms() + settings::COMMIT_TIMEOUT_MS.get() as u64
}

/// Waits until the daemon lets this server accept writes. A node that is
/// cut off or still catching up gets `commit_timeout` to recover.
pub fn ensure_writable() {
    let shared = shared();
    // SAFETY: constant after server start.
    let processes = unsafe { pg_sys::MaxBackends } as usize;
    let ready = || shared.serving() && shared.notices.has_room_for(processes);
    if !read::wait_until_serving(ready) {
        raise(
            PgSqlErrorCode::ERRCODE_CANNOT_CONNECT_NOW,
            "this node does not accept writes now",
            format!("{} Nothing was changed.", read::reason()),
            "Try again, or use another node; \"pgrenga status\" shows which ones serve.",
        );
    }
}

/// Orders the transaction and returns its seq, or ends it with an error.
pub fn order(txn: &mut Transaction) -> u64 {
    let slot = shared().my_slot();
    loop {
        ensure_writable();
        let counter = txn.counter();
        let mut patience = Patience::new();
        let fragments = hand_over(txn, slot, counter, &mut patience);
        match await_verdict(slot, counter, &mut patience) {
            State::Ordered(seq) => return seq,
            State::Aborted(_) => txn.raise_conflict(slot.reason()),
            State::Resubmit(_) => {
                told::check_resubmit();
                txn.reopen(slot);
            }
            State::Refused(_) => refused(counter, fragments),
            State::Forgotten(_) => forgotten(&super::handed_over_id(counter)),
            _ => unconfirmed(counter),
        }
    }
}

/// Nothing of it is in the log, but perhaps fragments, which the log must not wait for.
fn refused(counter: u64, fragments: u32) -> ! {
    if fragments > 0 {
        push(&FromPostgres::GiveUp(super::handed_over_id(counter)));
    }
    raise(
        PgSqlErrorCode::ERRCODE_DISK_FULL,
        "could not write the transaction to the replicated log: no space left on device",
        "The disk under the log is full on this node, or on so many that fewer than a majority have room. Nothing was changed.",
        "Make room where \"pgrenga status\" says so, then try again; or use a node that has room.",
    )
}

fn unconfirmed(counter: u64) -> ! {
    let txid = told::tell_handed_over(counter);
    raise(
        PgSqlErrorCode::ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN,
        format!("no majority of the nodes confirmed the transaction within {} ms", settings::COMMIT_TIMEOUT_MS.get()),
        format!("Transaction {txid} may be committed or not."),
        format!("SELECT pgrenga.transaction_status('{txid}') tells its outcome once a majority is back."),
    )
}

fn forgotten(txid: &TransactionId) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN,
        "the transaction's outcome is no longer known",
        format!(
            "Transaction {txid} may be committed or not: since it was handed over, more transactions ended than the nodes remember."
        ),
        "Look at the data before you repeat it.",
    )
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

/// What a victim hears, wherever it finds out.
pub const VICTIM_MESSAGE: &str = "could not serialize access due to a transaction of another node";
/// And what it can do.
pub const VICTIM_HINT: &str = "Try the transaction again.";

/// Raised where a transaction finds that it stood in an ordered one's way.
pub fn victim() -> ! {
    // The signal may have come already: then its error is as good. Left
    // pending, it would end the session when the next command is read.
    // SAFETY: inside a statement or at pre-commit, where interrupts are welcome.
    unsafe { pg_sys::ProcessInterrupts() };
    let detail =
        brute_force::detail().unwrap_or_else(|| "It held a lock that an ordered transaction needed.".to_owned());
    raise(PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE, VICTIM_MESSAGE, detail, VICTIM_HINT)
}
