//! Expressions that a statement evaluated over rows that exist already. Every
//! node runs the statement, so what it evaluates must not depend on where or
//! when it runs.

use std::ffi::c_void;

use pgrx::pg_sys::{self, NodeTag};
use pgrx::spi::Spi;

use super::frame::Changes;
use super::identity::as_superuser;
use super::refusal;
use super::tree::expression_tree_walker;
use crate::capture;

/// Records what new columns gave to the rows that were there, and refuses what
/// gave values, or a verdict on rows, that another node could see differently.
pub(super) fn check(changes: &Changes) {
    for column in changes.created.iter().filter(|object| object.class == pg_sys::RelationRelationId && object.part > 0)
    {
        let (relation, number) = (column.oid, column.part as i16);
        if default_is_settled(relation, number) || changes.replaced.contains(&relation) || !is_permanent(relation) {
            continue;
        }
        if !record_missing(relation, number) && has_rows(relation) {
            refusal::MUTABLE_DEFAULT.raise();
        }
    }
    for constraint in changes.created.iter().chain(&changes.altered) {
        if constraint.class == pg_sys::Oid::from(CONSTRAINT_RELATION) && validates_mutably(constraint.oid) {
            refusal::MUTABLE_CHECK.raise();
        }
    }
}

/// `ConstraintRelationId`, which the bindings lack.
const CONSTRAINT_RELATION: u32 = 2606;

/// A default that was evaluated once, without touching the rows, is kept beside the
/// column and stands for what they lack: every node keeps the value that came out
/// here. False if there is none.
fn record_missing(relation: pg_sys::Oid, column: i16) -> bool {
    const QUERY: &str =
        "SELECT attmissingval::text FROM pg_attribute WHERE attrelid = $1 AND attnum = $2 AND atthasmissing";
    let value = as_superuser(|| {
        capture::in_transmission_modes(|| Spi::get_one_with_args::<String>(QUERY, &[relation.into(), column.into()]))
    });
    let Ok(Some(value)) = value else { return false };
    capture::record_missing(relation, column as u16, &value);
    true
}

/// Whether every node derives the expression's value alike, and without running
/// anything that users wrote.
///
/// # Safety
/// `expression` is an analyzed expression; called inside a transaction.
pub(super) unsafe fn is_settled(expression: *mut pg_sys::Node) -> bool {
    // SAFETY: as in `is_mutable`.
    unsafe {
        let planned = pg_sys::expression_planner(expression.cast()).cast();
        !pg_sys::contain_mutable_functions(planned)
            && !pg_sys::ffi::pg_guard_ffi_boundary(|| runs_user_code(planned, std::ptr::null_mut()))
    }
}

unsafe extern "C-unwind" {
    /// `nodes/nodeFuncs.h`; the bindings guard it.
    #[link_name = "check_functions_in_node"]
    fn unguarded_check_functions_in_node(
        node: *mut pg_sys::Node,
        checker: unsafe extern "C-unwind" fn(pg_sys::Oid, *mut c_void) -> bool,
        context: *mut c_void,
    ) -> bool;
}

/// A tree walker: finds calls of functions that are not PostgreSQL's own, and
/// domains, whose CHECKs may call some.
unsafe extern "C-unwind" fn runs_user_code(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    unsafe extern "C-unwind" fn is_users(function: pg_sys::Oid, _context: *mut c_void) -> bool {
        u32::from(function) >= pg_sys::FirstNormalObjectId
    }
    if node.is_null() {
        return false;
    }
    // SAFETY: a node of an expression; nothing here has a destructor.
    unsafe {
        (*node).type_ == NodeTag::T_CoerceToDomain
            || unguarded_check_functions_in_node(node, is_users, context)
            || expression_tree_walker(node, runs_user_code, context)
    }
}

/// Whether the value of an expression may depend on more than its arguments.
///
/// # Safety
/// `expression` is an analyzed expression; called inside a transaction.
unsafe fn is_mutable(expression: *mut pg_sys::Node) -> bool {
    // SAFETY: planning inlines functions, fills in default arguments, and works on a copy.
    unsafe { pg_sys::contain_mutable_functions(pg_sys::expression_planner(expression.cast()).cast()) }
}

/// The column's default, its type's, or an identity's next value.
fn default_is_settled(relation: pg_sys::Oid, column: i16) -> bool {
    // SAFETY: the statement holds its lock on the relation, which is closed again.
    unsafe {
        let relation = pg_sys::relation_open(relation, pg_sys::AccessShareLock as i32);
        let default = pg_sys::build_column_default(relation, i32::from(column));
        let settled = default.is_null() || is_settled(default);
        pg_sys::relation_close(relation, pg_sys::NoLock as i32);
        settled
    }
}

/// Whether the relation's rows are everybody's: those of unlogged tables are each node's own.
pub(super) fn is_permanent(relation: pg_sys::Oid) -> bool {
    // SAFETY: a catalog look-up inside a transaction, of a relation that exists.
    unsafe { pg_sys::get_rel_persistence(relation) as u8 == pg_sys::RELPERSISTENCE_PERMANENT }
}

/// Whether the table itself, without its children, has a row that somebody can see.
pub(super) fn has_rows(relation: pg_sys::Oid) -> bool {
    // SAFETY: the statement holds its lock on the relation; what is opened is closed again.
    unsafe {
        if pg_sys::get_rel_relkind(relation) as u8 != pg_sys::RELKIND_RELATION {
            return false;
        }
        let relation = pg_sys::relation_open(relation, pg_sys::AccessShareLock as i32);
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
        let scan = pg_sys::table_beginscan(relation, snapshot, 0, std::ptr::null_mut());
        let slot = pg_sys::table_slot_create(relation, std::ptr::null_mut());
        let found = pg_sys::table_scan_getnextslot(scan, pg_sys::ScanDirection::ForwardScanDirection, slot);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::table_endscan(scan);
        pg_sys::UnregisterSnapshot(snapshot);
        pg_sys::relation_close(relation, pg_sys::NoLock as i32);
        found
    }
}

/// Whether a validated CHECK constraint could find the rows that exist valid
/// on one node and not on another.
fn validates_mutably(constraint: pg_sys::Oid) -> bool {
    const QUERY: &str =
        "SELECT conrelid, conbin::text FROM pg_constraint WHERE oid = $1 AND contype = 'c' AND convalidated";
    let found = as_superuser(|| Spi::get_two_with_args::<pg_sys::Oid, String>(QUERY, &[constraint.into()]));
    let Ok((Some(relation), Some(expression))) = found else { return false };
    let text = std::ffi::CString::new(expression).expect("no NUL in a text");
    // SAFETY: PostgreSQL's own form of the expression.
    let mutable = unsafe { is_mutable(pg_sys::stringToNode(text.as_ptr()).cast()) };
    // A domain's constraint was checked in whatever tables use it.
    mutable && (relation == pg_sys::InvalidOid || has_rows(relation))
}

/// Whether some other relation has a column of this relation's row type: then
/// its rows change their form without a lock on it.
pub(super) fn is_column_type(relation: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-ups inside a transaction.
    let (row, array) = unsafe {
        let row = pg_sys::get_rel_type_id(relation);
        if row == pg_sys::InvalidOid {
            return false;
        }
        (row, pg_sys::get_array_type(row))
    };
    const QUERY: &str = "SELECT EXISTS (SELECT FROM pg_depend WHERE refclassid = 'pg_type'::regclass
        AND refobjid IN ($1, $2) AND classid = 'pg_class'::regclass AND objsubid > 0)";
    as_superuser(|| Spi::get_one_with_args::<bool>(QUERY, &[row.into(), array.into()])) == Ok(Some(true))
}
