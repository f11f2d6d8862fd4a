//! What the daemon calls through SQL. All of it is for superusers: the
//! extension's script revokes it from PUBLIC, save for `wait_for` and `visible`.

use pgrx::pg_extern;
use pgrx::pg_sys;

use super::{failure, marker, progress};
use crate::commit;
use crate::shmem::shared;

fn seq(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_else(|_| failure::protocol("A seq is never negative."))
}

/// Executes a piece of node `origin`'s writeset `seq` once `after` is visible;
/// the transaction's commit makes it visible in its turn.
#[pg_extern]
fn pgrenga_apply(seq_: i64, after: i64, origin: i32, body: &[u8], last: bool) {
    super::apply(seq(seq_), seq(after), origin as u32, body, last);
}

/// Executes a run (see `pgrenga_writeset::run`) that begins with seq `first`, once `after` is
/// visible; the transaction's commit makes all of it visible in its turn.
#[pg_extern]
fn pgrenga_apply_run(first: i64, after: i64, run: &[u8]) {
    super::apply_run(seq(first), seq(after), run);
}

/// Holds the turnstile at a marker; false if it is visible already.
#[pg_extern]
fn pgrenga_hold(seq_: i64) -> bool {
    marker::hold(seq(seq_))
}

/// Lets go of a marker.
#[pg_extern]
fn pgrenga_release(seq_: i64) {
    marker::release(seq(seq_));
}

/// Creates the replication origins that carry this node's progress.
#[pg_extern]
fn pgrenga_setup(origins: i32) {
    progress::create_origins(origins);
}

/// The highest visible seq.
#[pg_extern]
fn pgrenga_visible() -> i64 {
    shared().turnstile.visible() as i64
}

/// Flushes WAL, and returns up to which seq a crash now loses nothing.
#[pg_extern]
fn pgrenga_flushed() -> i64 {
    progress::flush() as i64
}

/// The highest seq in PostgreSQL's own commit records.
#[pg_extern]
fn pgrenga_recovered() -> i64 {
    progress::recovered() as i64
}

/// Waits until `seq` is visible; false when `timeout_ms` is over.
#[pg_extern]
fn pgrenga_wait_for(seq_: i64, timeout_ms: i32) -> bool {
    let interrupt = || {
        // SAFETY: inside a statement, where interrupts are welcome.
        unsafe {
            if pg_sys::InterruptPending != 0 {
                pg_sys::ProcessInterrupts();
            }
        }
    };
    commit::wait_visible(seq(seq_), u64::try_from(timeout_ms).ok(), interrupt)
}
