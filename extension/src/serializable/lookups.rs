//! Where scans begin: which tables are looked into by whole keys only.
//!
//! Scans of tables begin at heap's access method. Those of B-trees begin at `amrescan`, which gets the keys: it is
//! replaced in what `bthandler()` returns, so in all of a backend's indexes. An index of another kind leaves its
//! predicate lock, and no look here.

use std::collections::HashMap;

use pgrx::pg_sys::{self, Oid};

use super::is_serializable;
use crate::backend::BackendLocal;
use crate::builtin::{self, Original};
use crate::capture::{self, Lookups};
use crate::patch;

static LOOKUPS: BackendLocal<Option<HashMap<Oid, Lookups>>> = BackendLocal::new(None);
/// Whether scans ran that were not seen here.
static GIVEN_UP: BackendLocal<bool> = BackendLocal::new(false);

static mut HANDLER: Option<Original> = None;
static mut RESCAN: pg_sys::amrescan_function = None;
static mut SCAN_BEGIN: Option<ScanBegin> = None;

type ScanBegin = unsafe extern "C-unwind" fn(
    pg_sys::Relation,
    pg_sys::Snapshot,
    i32,
    *mut pg_sys::ScanKeyData,
    pg_sys::ParallelTableScanDesc,
    u32,
) -> pg_sys::TableScanDesc;

pub(super) fn install() {
    // SAFETY: in the postmaster, single-threaded; the struct lies in the executable's read-only data.
    unsafe {
        HANDLER = Some(builtin::replace(pg_sys::F_BTHANDLER, handler));
        let routine = pg_sys::GetHeapamTableAmRoutine();
        SCAN_BEGIN = (*routine).scan_begin;
        patch::change(routine, |routine| routine.scan_begin = Some(scan_begin));
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn handler(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: the function's own arguments; it returns a struct of its caller's.
    unsafe {
        let result = (HANDLER.expect("set at server start"))(call);
        let routine = result.cast_mut_ptr::<pg_sys::IndexAmRoutine>();
        RESCAN = (*routine).amrescan;
        (*routine).amrescan = Some(rescan);
        result
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn scan_begin(
    relation: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    count: i32,
    keys: *mut pg_sys::ScanKeyData,
    parallel: pg_sys::ParallelTableScanDesc,
    flags: u32,
) -> pg_sys::TableScanDesc {
    // SAFETY: the access method's contract.
    unsafe {
        if is_serializable() {
            note((*relation).rd_id, None);
        }
        (SCAN_BEGIN.expect("set at server start"))(relation, snapshot, count, keys, parallel, flags)
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn rescan(
    scan: pg_sys::IndexScanDesc,
    keys: pg_sys::ScanKey,
    key_count: i32,
    orders: pg_sys::ScanKey,
    order_count: i32,
) {
    // SAFETY: the access method's contract.
    unsafe {
        if is_serializable() {
            look(scan, keys, key_count);
        }
        (RESCAN.expect("set by the handler"))(scan, keys, key_count, orders, order_count);
    }
}

/// # Safety
/// A scan with its new keys, or null for those that it has.
unsafe fn look(scan: pg_sys::IndexScanDesc, keys: pg_sys::ScanKey, count: i32) {
    // SAFETY: the caller's promise; the index is open.
    unsafe {
        let index = (*scan).indexRelation;
        let table = (*(*index).rd_index).indrelid;
        if table.to_u32() < pg_sys::FirstNormalObjectId {
            return;
        }
        let keys = if keys.is_null() { (*scan).keyData } else { keys };
        let keys = if keys.is_null() { &[] } else { std::slice::from_raw_parts(keys, count.max(0) as usize) };
        // A bitmap scan has no table at hand; it is rare for one row.
        let heap = (*scan).heapRelation;
        let key = if heap.is_null() { None } else { capture::looked_up_key(heap, index, keys) };
        note(table, key.map(|key| ((*index).rd_id, key)));
    }
}

/// The table is scanned: for one key of an index, or otherwise.
fn note(table: Oid, look: Option<(Oid, u64)>) {
    // SAFETY: a short borrow.
    let lookups = unsafe { LOOKUPS.borrow() }.get_or_insert_default().entry(table).or_default();
    match look {
        Some((index, key)) if !lookups.whole && lookups.keys.len() < Lookups::MAX => {
            if !lookups.indexes.contains(&index) {
                lookups.indexes.push(index);
            }
            if lookups.keys.last() != Some(&key) {
                lookups.keys.push(key);
            }
        }
        _ => *lookups = Lookups { whole: true, ..Lookups::default() },
    }
}

/// From now on only whole tables count.
pub(super) fn give_up() {
    GIVEN_UP.set(true);
}

/// By table; nothing if not all scans were seen.
pub(super) fn all() -> Option<&'static HashMap<Oid, Lookups>> {
    // SAFETY: the caller runs no scan while it looks.
    unsafe { LOOKUPS.borrow() }.as_ref().filter(|_| !GIVEN_UP.get())
}

/// The transaction ended. Never fails.
pub(super) fn forget() {
    GIVEN_UP.set(false);
    // SAFETY: a short borrow.
    if let Some(lookups) = unsafe { LOOKUPS.borrow() } {
        lookups.clear();
    }
}
