//! Capture at the table access method.
//!
//! All row writes and row locks of ordinary tables go through heap's
//! `TableAmRoutine`, a constant struct whose address `GetHeapamTableAmRoutine`
//! tells. In the postmaster we replace six of its entries by functions that
//! call the originals and then record what happened; backends inherit that.
//! (Another handler in `pg_am` would not do: `heap_getnext` insists on heap's
//! own struct.) Catalogs, TOAST and sequences do not pass here.

use std::rc::Rc;

use pgrenga_writeset::writeset::RowLock;
use pgrx::pg_sys::{self, TM_Result};

use super::row::Row;
use super::table::{self, Table};
use super::transaction::transaction;
use super::value::FIRST_USER_OID;
use super::{OWN_SCHEMA, with_scratch};
use crate::apply;
use crate::patch;
use crate::settings;

static mut ORIGINAL: pg_sys::TableAmRoutine = unsafe {
    // SAFETY: all fields are integers or nullable function pointers.
    std::mem::zeroed()
};

/// Replaces the entries. Call once, in the postmaster.
pub fn install() {
    // SAFETY: single-threaded, before any backend exists; the struct lies in the
    // executable's read-only data.
    unsafe {
        let routine = pg_sys::GetHeapamTableAmRoutine();
        ORIGINAL = std::ptr::read(routine);
        patch::change(routine, |routine| {
            routine.tuple_insert = Some(tuple_insert);
            routine.tuple_complete_speculative = Some(tuple_complete_speculative);
            routine.multi_insert = Some(multi_insert);
            routine.tuple_delete = Some(tuple_delete);
            routine.tuple_update = Some(tuple_update);
            routine.tuple_lock = Some(tuple_lock);
        });
    }
}

unsafe extern "C-unwind" {
    /// `matview.c`: whether REFRESH CONCURRENTLY changes rows now. Only reads a variable.
    fn MatViewIncrementalMaintenanceIsEnabled() -> bool;
}

/// Whether writes to this relation are replicated.
fn is_captured(relation: pg_sys::Relation) -> bool {
    // SAFETY: the relation is open.
    unsafe {
        let class = (*relation).rd_rel;
        (*class).relpersistence == pg_sys::RELPERSISTENCE_PERMANENT as i8
            && u32::from((*relation).rd_id) >= FIRST_USER_OID
            // A rewrite's transient heap: the statement replicates it.
            && (*class).relrewrite == pg_sys::InvalidOid
            // One that is filled travels as a whole, when it is full.
            && ((*class).relkind != pg_sys::RELKIND_MATVIEW as i8 || MatViewIncrementalMaintenanceIsEnabled())
            && settings::REPLICATE.get()
            && !apply::active()
            && !pg_sys::creating_extension
    }
}

/// The table, if writes to it are replicated and this is not one of our own.
fn captured(relation: pg_sys::Relation) -> Option<Rc<Table>> {
    if !is_captured(relation) {
        return None;
    }
    Some(table::lookup(relation)).filter(|table| table.schema != OWN_SCHEMA)
}

/// Before the original: may this transaction write here and now? Nothing that
/// needs dropping stays alive, since an error in the original jumps past us.
fn begin_write(relation: pg_sys::Relation) {
    if captured(relation).is_some() {
        transaction().begin_write();
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn tuple_insert(
    relation: pg_sys::Relation,
    slot: *mut pg_sys::TupleTableSlot,
    command: pg_sys::CommandId,
    options: i32,
    bulk: *mut pg_sys::BulkInsertStateData,
) {
    // SAFETY: the access method's contract: an open relation and a slot that holds the row.
    unsafe {
        begin_write(relation);
        (ORIGINAL.tuple_insert.unwrap())(relation, slot, command, options, bulk);
        if let Some(table) = captured(relation) {
            with_scratch(|| transaction().record_insert(&table, &Row::of_slot(slot)));
        }
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn tuple_complete_speculative(
    relation: pg_sys::Relation,
    slot: *mut pg_sys::TupleTableSlot,
    token: u32,
    succeeded: bool,
) {
    // SAFETY: as in `tuple_insert`.
    unsafe {
        begin_write(relation);
        (ORIGINAL.tuple_complete_speculative.unwrap())(relation, slot, token, succeeded);
        if succeeded && let Some(table) = captured(relation) {
            with_scratch(|| transaction().record_insert(&table, &Row::of_slot(slot)));
        }
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn multi_insert(
    relation: pg_sys::Relation,
    slots: *mut *mut pg_sys::TupleTableSlot,
    count: i32,
    command: pg_sys::CommandId,
    options: i32,
    bulk: *mut pg_sys::BulkInsertStateData,
) {
    // SAFETY: as in `tuple_insert`, for `count` slots.
    unsafe {
        begin_write(relation);
        (ORIGINAL.multi_insert.unwrap())(relation, slots, count, command, options, bulk);
        if let Some(table) = captured(relation) {
            for slot in std::slice::from_raw_parts(slots, count as usize) {
                with_scratch(|| transaction().record_insert(&table, &Row::of_slot(*slot)));
            }
        }
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn tuple_delete(
    relation: pg_sys::Relation,
    tid: pg_sys::ItemPointer,
    command: pg_sys::CommandId,
    snapshot: pg_sys::Snapshot,
    crosscheck: pg_sys::Snapshot,
    wait: bool,
    failure: *mut pg_sys::TM_FailureData,
    changing_partition: bool,
) -> TM_Result::Type {
    // SAFETY: as in `tuple_insert`; `tid` names the row.
    unsafe {
        let old_tid = *tid;
        begin_write(relation);
        let result = (ORIGINAL.tuple_delete.unwrap())(
            relation,
            tid,
            command,
            snapshot,
            crosscheck,
            wait,
            failure,
            changing_partition,
        );
        if result == TM_Result::TM_Ok
            && let Some(table) = captured(relation)
        {
            with_scratch(|| with_version(relation, old_tid, |old| transaction().record_delete(&table, old)));
        }
        result
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn tuple_update(
    relation: pg_sys::Relation,
    tid: pg_sys::ItemPointer,
    slot: *mut pg_sys::TupleTableSlot,
    command: pg_sys::CommandId,
    snapshot: pg_sys::Snapshot,
    crosscheck: pg_sys::Snapshot,
    wait: bool,
    failure: *mut pg_sys::TM_FailureData,
    mode: *mut pg_sys::LockTupleMode::Type,
    update_indexes: *mut bool,
) -> TM_Result::Type {
    // SAFETY: as in `tuple_insert`; `tid` names the old version, `slot` holds the new one.
    unsafe {
        let old_tid = *tid;
        begin_write(relation);
        let result = (ORIGINAL.tuple_update.unwrap())(
            relation,
            tid,
            slot,
            command,
            snapshot,
            crosscheck,
            wait,
            failure,
            mode,
            update_indexes,
        );
        if result == TM_Result::TM_Ok
            && let Some(table) = captured(relation)
        {
            with_scratch(|| {
                let new = Row::of_slot(slot);
                let mode = row_lock(*mode);
                let same_keys = mode == RowLock::NoKeyUpdate && table.keys_follow_columns && table.identity.is_some();
                if same_keys && !new.has_toasted(&table) {
                    transaction().record_update(&table, None, &new, mode);
                } else {
                    with_version(relation, old_tid, |old| transaction().record_update(&table, Some(old), &new, mode));
                }
            });
        }
        result
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn tuple_lock(
    relation: pg_sys::Relation,
    tid: pg_sys::ItemPointer,
    snapshot: pg_sys::Snapshot,
    slot: *mut pg_sys::TupleTableSlot,
    command: pg_sys::CommandId,
    mode: pg_sys::LockTupleMode::Type,
    policy: pg_sys::LockWaitPolicy::Type,
    flags: u8,
    failure: *mut pg_sys::TM_FailureData,
) -> TM_Result::Type {
    // SAFETY: as in `tuple_insert`; on TM_Ok `slot` holds the locked version.
    unsafe {
        let result =
            (ORIGINAL.tuple_lock.unwrap())(relation, tid, snapshot, slot, command, mode, policy, flags, failure);
        if result == TM_Result::TM_Ok
            && let Some(table) = captured(relation)
        {
            let txn = transaction();
            txn.open();
            with_scratch(|| txn.record_lock(&table, &Row::of_slot(slot), row_lock(mode)));
        }
        result
    }
}

fn row_lock(mode: pg_sys::LockTupleMode::Type) -> RowLock {
    match mode {
        pg_sys::LockTupleMode::LockTupleKeyShare => RowLock::KeyShare,
        pg_sys::LockTupleMode::LockTupleShare => RowLock::Share,
        pg_sys::LockTupleMode::LockTupleNoKeyExclusive => RowLock::NoKeyUpdate,
        _ => RowLock::Update,
    }
}

/// Reads the row version at `tid`, which this transaction has just replaced
/// or deleted: nobody removes it while the transaction lives.
///
/// # Safety
/// The relation is open and the version exists.
unsafe fn with_version(relation: pg_sys::Relation, tid: pg_sys::ItemPointerData, use_row: impl FnOnce(&Row<'_>)) {
    // SAFETY: the caller's promise; the buffer stays pinned while the row is used.
    unsafe {
        let mut tuple: pg_sys::HeapTupleData = std::mem::zeroed();
        tuple.t_self = tid;
        let mut buffer = pg_sys::InvalidBuffer as pg_sys::Buffer;
        let found = pg_sys::heap_fetch(relation, &raw mut pg_sys::SnapshotAnyData, &mut tuple, &mut buffer, false);
        assert!(found, "the old version of a row is gone");
        let columns = (*(*relation).rd_att).natts as usize;
        let mut values = vec![pg_sys::Datum::from(0usize); columns];
        let mut nulls = vec![false; columns];
        pg_sys::heap_deform_tuple(&mut tuple, (*relation).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
        use_row(&Row::new(&values, &nulls));
        pg_sys::ReleaseBuffer(buffer);
    }
}
