//! Checks of ALTER TABLE that must come before it runs.

use std::ffi::c_char;

use pgrx::pg_sys::{self, AlterTableType, CoercionContext, CoercionForm, ParseExprKind};

use super::tree::items;
use super::{evaluate, refusal};

/// Refuses to rewrite rows by an expression that other nodes could evaluate
/// differently.
///
/// # Safety
/// `statement` is an ALTER TABLE out of `query`; called inside a transaction.
pub(super) unsafe fn check(statement: *mut pg_sys::AlterTableStmt, query: *const c_char) {
    // SAFETY: the grammar's list of subcommands.
    let commands = unsafe { items::<pg_sys::AlterTableCmd>((*statement).cmds) };
    // SAFETY: as above; of this subcommand the definition is a column's.
    let mut usings = commands.filter(|command| unsafe {
        (**command).subtype == AlterTableType::AT_AlterColumnType
            && !(*(**command).def.cast::<pg_sys::ColumnDef>()).raw_default.is_null()
    });
    let Some(first) = usings.next() else { return };
    // SAFETY: takes the lock that the statement itself takes first, and checks
    // the same permissions.
    let relation = unsafe {
        let lock = pg_sys::AlterTableGetLockLevel((*statement).cmds);
        pg_sys::AlterTableLookupRelation(statement, lock)
    };
    if relation == pg_sys::InvalidOid || !any_has_rows(relation) {
        return;
    }
    for command in std::iter::once(first).chain(usings) {
        // SAFETY: chosen above.
        if unsafe { using_is_mutable(relation, (*command).def.cast(), query) } {
            refusal::MUTABLE_USING.raise();
        }
    }
}

/// Whether the table or one of its children has rows.
fn any_has_rows(relation: pg_sys::Oid) -> bool {
    unsafe extern "C-unwind" {
        /// `catalog/pg_inherits.h`; the bindings lack it.
        fn find_all_inheritors(
            parent: pg_sys::Oid,
            lock: pg_sys::LOCKMODE,
            counts: *mut *mut pg_sys::List,
        ) -> *mut pg_sys::List;
    }
    // SAFETY: the statement's lock keeps children from coming and going; the
    // list has the table itself in it.
    unsafe {
        let family = pg_sys::ffi::pg_guard_ffi_boundary(|| {
            find_all_inheritors(relation, pg_sys::NoLock as i32, std::ptr::null_mut())
        });
        (0..(*family).length).any(|at| evaluate::has_rows(pg_sys::list_nth_oid(family, at)))
    }
}

/// As `ATPrepAlterColumnType` in `tablecmds.c` reads the expression.
unsafe fn using_is_mutable(relation: pg_sys::Oid, column: *const pg_sys::ColumnDef, query: *const c_char) -> bool {
    // SAFETY: parse analysis changes the tree, so it gets a copy; the relation
    // is locked and closed again.
    unsafe {
        let relation = pg_sys::relation_open(relation, pg_sys::NoLock as i32);
        let state = pg_sys::make_parsestate(std::ptr::null_mut());
        (*state).p_sourcetext = query;
        let item = pg_sys::addRangeTableEntryForRelation(
            state,
            relation,
            pg_sys::AccessShareLock as i32,
            std::ptr::null_mut(),
            false,
            true,
        );
        pg_sys::addNSItemToQuery(state, item, false, true, true);
        let raw = pg_sys::copyObjectImpl((*column).raw_default.cast()).cast();
        let expression = pg_sys::transformExpr(state, raw, ParseExprKind::EXPR_KIND_ALTER_COL_TRANSFORM);
        let (mut kind, mut modifier) = (pg_sys::InvalidOid, -1);
        pg_sys::typenameTypeIdAndMod(std::ptr::null_mut(), (*column).typeName, &mut kind, &mut modifier);
        let converted = pg_sys::coerce_to_target_type(
            state,
            expression,
            pg_sys::exprType(expression),
            kind,
            modifier,
            CoercionContext::COERCION_ASSIGNMENT,
            CoercionForm::COERCE_IMPLICIT_CAST,
            -1,
        );
        // Without a conversion the statement fails by itself.
        let mutable = !converted.is_null() && {
            pg_sys::assign_expr_collations(state, converted);
            evaluate::is_mutable(converted)
        };
        pg_sys::relation_close(relation, pg_sys::NoLock as i32);
        pg_sys::free_parsestate(state);
        mutable
    }
}
