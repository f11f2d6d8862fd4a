//! What statements that make a relation's content anew do to it as a whole.

use std::ffi::CString;

use pgrx::pg_sys;

use super::failure;
use super::owner::run_as;
use super::relation::{self, Described};
use crate::capture;

const ACCESS_EXCLUSIVE: pg_sys::LOCKMODE = pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE;
const NO_LOCK: pg_sys::LOCKMODE = pg_sys::NoLock as pg_sys::LOCKMODE;

unsafe extern "C-unwind" {
    /// `matview.c`: changes the relation's row in `pg_class`.
    #[link_name = "SetMatViewPopulatedState"]
    fn unguarded_set_populated(relation: pg_sys::Relation, populated: bool);
}

/// Gives the relation new, empty files, as TRUNCATE does (`ExecuteTruncateGuts`
/// in tablecmds.c), whatever refers to its rows. The old ones go when the
/// transaction commits. No reference to the relation may be open.
pub(super) fn empty(seq: u64, described: &Described) {
    let relation = relation::open(seq, described, ACCESS_EXCLUSIVE);
    // SAFETY: the relation is open under a lock that keeps everybody else away;
    // it is closed again and stays locked.
    unsafe {
        let class = *(*relation).rd_rel;
        pg_sys::RelationSetNewRelfilenode(relation, class.relpersistence);
        if class.reltoastrelid != pg_sys::InvalidOid {
            let toast = pg_sys::relation_open(class.reltoastrelid, ACCESS_EXCLUSIVE);
            pg_sys::RelationSetNewRelfilenode(toast, (*(*toast).rd_rel).relpersistence);
            pg_sys::relation_close(toast, NO_LOCK);
        }
        if class.relkind as u8 == pg_sys::RELKIND_MATVIEW {
            pg_sys::ffi::pg_guard_ffi_boundary(|| unguarded_set_populated(relation, true));
        }
        let oid = (*relation).rd_id;
        pg_sys::relation_close(relation, NO_LOCK);
        // Reading an index's expressions folds constants: that runs functions.
        run_as(class.relowner, || {
            let mut parameters = pg_sys::ReindexParams::default();
            pg_sys::reindex_relation(oid, pg_sys::REINDEX_REL_PROCESS_TOAST as i32, &mut parameters);
        });
    }
}

/// Gives rows that lack a column, because it was added later, a value in it.
pub(super) fn set_missing(seq: u64, described: &Described, column: u16, value: &str) {
    let relation = relation::open(seq, described, ACCESS_EXCLUSIVE);
    let Ok(value) = CString::new(value) else { failure::malformed("a value contains a zero byte") };
    // SAFETY: the relation is open under a lock that keeps everybody else away; it is
    // closed again and stays locked. The value is an array in text form, as
    // `SetAttrMissing` in heap.c reads it.
    unsafe {
        let (oid, columns) = ((*relation).rd_id, (*(*relation).rd_att).natts);
        pg_sys::relation_close(relation, NO_LOCK);
        if !(1..=columns).contains(&i32::from(column)) {
            failure::malformed("there is no such column");
        }
        let name = pg_sys::get_attname(oid, column as i16, false);
        capture::in_transmission_modes(|| pg_sys::SetAttrMissing(oid, name, value.as_ptr().cast_mut()));
    }
}
