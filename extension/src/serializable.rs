//! SERIALIZABLE across nodes.
//!
//! PostgreSQL's own way (SSI) watches the transactions of one server. Here a SERIALIZABLE transaction that writes tells
//! with its writeset what it has read, and in which snapshot, and certification aborts it if anything of that was
//! changed since. So it reads what it would read at its place in the order of commits, and that order is a serial
//! one. A transaction that does not write has read one state of that order.
//!
//! What was read is told by the predicate locks that PostgreSQL takes on behalf of SSI: the tables of all of them. Of
//! a table that was only looked into by whole keys of unique indexes, those keys count, whether a row was found or
//! not: whoever changes what such a look finds writes the same key. For that the scans are watched where they begin
//! ([`lookups`]). Every other way of reading stands for the whole table.
//!
//! With that told, SSI has nothing left to find, and its part in the transaction is given up before the hand-over:
//! after it, it could only fail a transaction that is committed.

mod lookups;
mod predicate_locks;

use pgrenga_writeset::Seq;
use pgrx::pg_sys;

use crate::backend::BackendLocal;
use crate::capture::{Lookups, Transaction};
use crate::commit;
use crate::shmem::shared;

/// What the transaction's snapshot includes, once that is known.
static SNAPSHOT: BackendLocal<Option<Seq>> = BackendLocal::new(None);

unsafe extern "C-unwind" {
    /// `storage/predicate.h`.
    #[link_name = "ReleasePredicateLocks"]
    fn unguarded_release(is_commit: bool, is_read_only_safe: bool);
}

/// Watches scans. Call from `_PG_init`.
pub fn install() {
    lookups::install();
}

/// Whether this transaction is SERIALIZABLE.
pub fn is_serializable() -> bool {
    // SAFETY: a plain variable of this process.
    unsafe { pg_sys::XactIsoLevel == pg_sys::XACT_SERIALIZABLE as i32 }
}

/// A statement is about to run, or to write, in a SERIALIZABLE transaction. The sooner, the less has been
/// committed since its snapshot.
pub fn note_snapshot() {
    // SAFETY: plain variables of this process. With a first snapshot there is one for the transaction, which
    // PostgreSQL returns as it is.
    unsafe {
        if SNAPSHOT.get().is_some() || !pg_sys::FirstSnapshotSet {
            return;
        }
        let snapshot = pg_sys::GetTransactionSnapshot();
        let includes = |xid: u32| !pg_sys::XidInMVCCSnapshot(pg_sys::TransactionId::from(xid), snapshot);
        SNAPSHOT.set(Some(Seq(shared().turnstile.included_in(includes).unwrap_or(0))));
    }
}

/// A query is about to run. What parallel workers read is known by the table only.
///
/// # Safety
/// The query's plan is valid.
pub unsafe fn note_query(query: *const pg_sys::QueryDesc) {
    note_snapshot();
    // SAFETY: the caller's promise.
    if unsafe { (*(*query).plannedstmt).parallelModeNeeded } {
        lookups::give_up();
    }
}

/// The last step before the hand-over: tells what was read, and takes the transaction out of SSI.
pub fn close(txn: &mut Transaction) {
    note_snapshot();
    // Without a snapshot nothing was read.
    let snapshot = SNAPSHOT.get().unwrap_or_else(commit::seen);
    txn.set_reads(snapshot, &predicate_locks::held(), lookups::all());
    // SAFETY: as at the end of a transaction that is rolled back; nothing reads any more.
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| unguarded_release(false, false)) };
}

/// The transaction ended. Never fails.
pub fn forget() {
    SNAPSHOT.set(None);
    lookups::forget();
}

impl Lookups {
    /// More are not worth telling apart.
    pub const MAX: usize = 10_000;
}
