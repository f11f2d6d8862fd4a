//! Taking a statement's snapshot anew, after it had to wait.
//!
//! Nothing was read under the old one yet. At READ COMMITTED that is what
//! PostgreSQL itself does for each statement. At REPEATABLE READ the transaction
//! keeps one snapshot from its first statement on, in `snapmgr.c`'s `CurrentSnapshot`
//! (that is `FirstXactSnapshot`): what it says is replaced in place. It stays
//! registered as before, and the process's advertised xmin stays the older one,
//! which only keeps more.

use pgrx::pg_sys;

use crate::backend::BackendLocal;

/// For `GetSnapshotData`, which allocates its arrays once.
static FRESH: BackendLocal<Option<pg_sys::SnapshotData>> = BackendLocal::new(None);

/// Whether all statements of the transaction see one snapshot.
pub(super) fn is_the_transactions() -> bool {
    // SAFETY: a plain variable of this process.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// Whether the snapshot belongs to SSI, which has noted what it conflicts with.
pub(super) fn is_serializable() -> bool {
    // SAFETY: a plain variable of this process.
    unsafe { pg_sys::XactIsoLevel == pg_sys::XACT_SERIALIZABLE as i32 }
}

/// Replaces the active snapshot, and `query`'s unless that is null, by one taken now.
pub(super) fn renew(query: *mut pg_sys::QueryDesc) {
    // SAFETY: a statement is about to start under the active snapshot, and `query`, if
    // there is one, holds a reference to it. As many are pushed and registered as are
    // popped and released.
    unsafe {
        if is_the_transactions() {
            overwrite(pg_sys::GetTransactionSnapshot());
        }
        let portal = pg_sys::ActivePortal;
        let is_portals = !portal.is_null() && (*portal).portalSnapshot == pg_sys::GetActiveSnapshot();
        let level = if is_portals { (*portal).createLevel } else { pg_sys::GetCurrentTransactionNestLevel() };
        if !query.is_null() {
            pg_sys::UnregisterSnapshot((*query).snapshot);
        }
        pg_sys::PopActiveSnapshot();
        pg_sys::PushActiveSnapshotWithLevel(pg_sys::GetTransactionSnapshot(), level);
        if is_portals {
            (*portal).portalSnapshot = pg_sys::GetActiveSnapshot();
        }
        if !query.is_null() {
            (*query).snapshot = pg_sys::RegisterSnapshot(pg_sys::GetActiveSnapshot());
        }
    }
}

/// Has a snapshot say what is visible now.
///
/// # Safety
/// `snapshot` is the transaction's own, and nothing was read under it.
unsafe fn overwrite(snapshot: pg_sys::Snapshot) {
    // SAFETY: `FRESH` is borrowed by nobody else; its arrays are copied into memory
    // that lives as long as the transaction.
    unsafe {
        let fresh = FRESH.borrow().get_or_insert_with(pg_sys::SnapshotData::default);
        pg_sys::GetSnapshotData(fresh);
        let snapshot = &mut *snapshot;
        snapshot.xmin = fresh.xmin;
        snapshot.xmax = fresh.xmax;
        snapshot.xip = copy(fresh.xip, fresh.xcnt as usize);
        snapshot.xcnt = fresh.xcnt;
        snapshot.subxip = copy(fresh.subxip, fresh.subxcnt as usize);
        snapshot.subxcnt = fresh.subxcnt;
        snapshot.suboverflowed = fresh.suboverflowed;
        snapshot.vistest = fresh.vistest;
        snapshot.whenTaken = fresh.whenTaken;
        snapshot.lsn = fresh.lsn;
        snapshot.snapXactCompletionCount = fresh.snapXactCompletionCount;
    }
}

/// # Safety
/// `count` ids stand at `ids`.
unsafe fn copy(ids: *const pg_sys::TransactionId, count: usize) -> *mut pg_sys::TransactionId {
    // SAFETY: room for as many as are copied.
    unsafe {
        let bytes = count * size_of::<pg_sys::TransactionId>();
        let copied = pg_sys::MemoryContextAlloc(pg_sys::TopTransactionContext, bytes).cast::<pg_sys::TransactionId>();
        copied.copy_from_nonoverlapping(ids, count);
        copied
    }
}
