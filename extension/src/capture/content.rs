//! What a relation holds as a whole, where a statement made it anew: then the
//! rows that it wrote on the way tell nothing.

use pgrx::pg_sys;

use super::hash::Hash;
use super::row::Row;
use super::{table, transaction, with_scratch};

/// Puts the relation's rows into the writeset, in the place of all that it held
/// before.
pub fn record_content(oid: pg_sys::Oid) {
    record_emptied(oid);
    record_rows(oid);
}

/// Says that the relation holds nothing any more.
pub fn record_emptied(oid: pg_sys::Oid) {
    // SAFETY: locked by the statement that makes its content anew.
    unsafe {
        let relation = pg_sys::relation_open(oid, pg_sys::AccessShareLock as i32);
        transaction().record_replacement(&table::lookup(relation));
        pg_sys::relation_close(relation, pg_sys::NoLock as i32);
    }
}

/// Whether rows of the table were captured after `described` tables had been described.
pub fn was_written(oid: pg_sys::Oid, described: usize) -> bool {
    let Some(name) = crate::ddl::relation_name(oid) else { return false };
    transaction().describes_since(Hash::relation(&name.schema, &name.relation), described)
}

/// Records what rows from before it have in a column.
pub fn record_missing(oid: pg_sys::Oid, column: u16, value: &str) {
    // SAFETY: locked by the statement that added the column.
    unsafe {
        let relation = pg_sys::relation_open(oid, pg_sys::AccessShareLock as i32);
        transaction().record_missing(&table::lookup(relation), column, value);
        pg_sys::relation_close(relation, pg_sys::NoLock as i32);
    }
}

/// Puts all rows of a relation that elsewhere is empty into the writeset. The
/// caller's statement locked it so that nobody else can see it.
pub fn record_rows(oid: pg_sys::Oid) {
    // SAFETY: locked by the statement that has just made its content; what is
    // opened here is closed again. All of it is this transaction's own or settled.
    unsafe {
        let relation = pg_sys::relation_open(oid, pg_sys::AccessShareLock as i32);
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
        let scan = pg_sys::table_beginscan(relation, snapshot, 0, std::ptr::null_mut());
        let slot = pg_sys::table_slot_create(relation, std::ptr::null_mut());
        while pg_sys::table_scan_getnextslot(scan, pg_sys::ScanDirection::ForwardScanDirection, slot) {
            pg_sys::check_for_interrupts!();
            let table = table::lookup(relation);
            with_scratch(|| transaction().record_content_row(&table, &Row::of_slot(slot)));
        }
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::table_endscan(scan);
        pg_sys::UnregisterSnapshot(snapshot);
        pg_sys::relation_close(relation, pg_sys::NoLock as i32);
    }
}
