//! What an ALTER TABLE evaluates over rows that exist already.
//!
//! Most of it every node derives alike: casts and constants. Where an expression
//! could give other values elsewhere, or is a user's own code, no other node
//! evaluates it: there the tables are emptied first, then the statement runs, and
//! then the rows come in as they came out here ([`replaced`], [`super::finish`]).

use std::ffi::c_char;

use pgrx::pg_sys::{self, AlterTableType, CoercionContext, CoercionForm, ConstrType, ParseExprKind};
use pgrx::spi::Spi;

use super::identity::as_superuser;
use super::tree::{self, items};
use super::{evaluate, refusal};

/// The tables whose rows travel with the statement: all that it may rewrite, if
/// it evaluates anything that others must not.
///
/// # Safety
/// `statement` is an ALTER TABLE out of `query`; called inside a transaction.
pub(super) unsafe fn replaced(statement: *mut pg_sys::AlterTableStmt, query: *const c_char) -> Vec<pg_sys::Oid> {
    // SAFETY: the grammar's list of subcommands.
    let commands = unsafe { items::<pg_sys::AlterTableCmd>((*statement).cmds) };
    // SAFETY: as above.
    let of_kind = |kind| commands.clone().filter(move |command| unsafe { (**command).subtype } == kind);
    let adds = of_kind(AlterTableType::AT_AddColumn);
    let changes = of_kind(AlterTableType::AT_AlterColumnType);
    if adds.clone().next().is_none() && changes.clone().next().is_none() {
        return Vec::new();
    }
    // SAFETY: takes the lock that the statement itself takes first, and checks
    // the same permissions.
    let relation = unsafe {
        let lock = pg_sys::AlterTableGetLockLevel((*statement).cmds);
        pg_sys::AlterTableLookupRelation(statement, lock)
    };
    if relation == pg_sys::InvalidOid {
        return Vec::new();
    }
    let tables = with_rows(relation);
    // SAFETY: of these subcommands the definition is a column's.
    let evaluates = unsafe {
        let new = adds.map(|command| of_new_column(relation, (*command).def.cast(), query)).collect::<Vec<_>>();
        let rewrites = changes.clone().next().is_some() || new.contains(&Evaluation::Generated);
        new.contains(&Evaluation::ForEachRow)
            || rewrites && new.contains(&Evaluation::Once)
            || changes.clone().any(|command| converts_unsettled(relation, command, query))
    };
    if tables.is_empty() || !evaluates {
        return Vec::new();
    }
    // SAFETY: as above.
    let altered = changes.map(|command| unsafe { tree::str((*command).name) }.into_owned());
    if are_referenced(&tables, altered.collect()) {
        refusal::REFERENCED_USING.raise();
    }
    tables
}

/// The permanent tables among a table and its children that have rows.
fn with_rows(relation: pg_sys::Oid) -> Vec<pg_sys::Oid> {
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
    let family: Vec<_> = unsafe {
        let family = pg_sys::ffi::pg_guard_ffi_boundary(|| {
            find_all_inheritors(relation, pg_sys::NoLock as i32, std::ptr::null_mut())
        });
        (0..(*family).length).map(|at| pg_sys::list_nth_oid(family, at)).collect()
    };
    family.into_iter().filter(|table| evaluate::is_permanent(*table) && evaluate::has_rows(*table)).collect()
}

/// Whether a foreign key of another table refers to these columns: with a new
/// type for them it is checked anew, which would find no row in an emptied table.
fn are_referenced(tables: &[pg_sys::Oid], columns: Vec<String>) -> bool {
    const QUERY: &str = "SELECT EXISTS (SELECT FROM pg_constraint c JOIN pg_attribute a
        ON attrelid = confrelid AND attnum = ANY (confkey)
        WHERE contype = 'f' AND confrelid = ANY ($1) AND conrelid <> ALL ($1) AND attname = ANY ($2))";
    let tables = tables.to_vec();
    !columns.is_empty()
        && as_superuser(|| Spi::get_one_with_args::<bool>(QUERY, &[tables.into(), columns.into()])) == Ok(Some(true))
}

/// Runs `step` with a parser that knows the relation's columns.
unsafe fn with_parser<R>(
    relation: pg_sys::Oid,
    query: *const c_char,
    step: impl FnOnce(*mut pg_sys::ParseState) -> R,
) -> R {
    // SAFETY: the relation is locked and closed again.
    unsafe {
        let relation = pg_sys::relation_open(relation, pg_sys::NoLock as i32);
        let state = pg_sys::make_parsestate(std::ptr::null_mut());
        (*state).p_sourcetext = query;
        let lock = pg_sys::AccessShareLock as i32;
        let item = pg_sys::addRangeTableEntryForRelation(state, relation, lock, std::ptr::null_mut(), false, true);
        pg_sys::addNSItemToQuery(state, item, false, true, true);
        let result = step(state);
        pg_sys::relation_close(relation, pg_sys::NoLock as i32);
        pg_sys::free_parsestate(state);
        result
    }
}

/// How a new column gets its values in rows that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Evaluation {
    /// Every node derives them alike.
    Settled,
    /// The same, but it writes all rows anew.
    Generated,
    /// Others could find another value, which is kept beside the column
    /// ([`super::evaluate`]) unless all rows are written anew.
    Once,
    /// Each row gets a value of its own, or a domain's CHECKs run.
    ForEachRow,
}

unsafe fn of_new_column(relation: pg_sys::Oid, column: *const pg_sys::ColumnDef, query: *const c_char) -> Evaluation {
    // SAFETY: a column's definition as the grammar makes it; a copy is analyzed, as that
    // changes the tree.
    unsafe {
        if pg_sys::get_attnum(relation, (*column).colname) != pg_sys::InvalidAttrNumber as i16 {
            return Evaluation::Settled;
        }
        let constraints = items::<pg_sys::Constraint>((*column).constraints);
        let has = |kind| constraints.clone().any(|constraint| (*constraint).contype == kind);
        if is_serial((*column).typeName) || has(ConstrType::CONSTR_IDENTITY) {
            return Evaluation::ForEachRow;
        }
        if has(ConstrType::CONSTR_GENERATED) {
            return Evaluation::Generated;
        }
        let (mut kind, mut modifier) = (pg_sys::InvalidOid, -1);
        pg_sys::typenameTypeIdAndMod(std::ptr::null_mut(), (*column).typeName, &mut kind, &mut modifier);
        if pg_sys::DomainHasConstraints(kind) {
            return Evaluation::ForEachRow;
        }
        let mut defaults = constraints.filter(|constraint| (**constraint).contype == ConstrType::CONSTR_DEFAULT);
        let default = match defaults.next() {
            Some(constraint) => with_parser(relation, query, |state| {
                let raw = pg_sys::copyObjectImpl((*constraint).raw_expr.cast()).cast();
                pg_sys::cookDefault(state, raw, kind, modifier, (*column).colname, 0)
            }),
            None => pg_sys::get_typdefault(kind),
        };
        if default.is_null() || evaluate::is_settled(default) {
            Evaluation::Settled
        } else if pg_sys::contain_volatile_functions(pg_sys::expression_planner(default.cast()).cast()) {
            Evaluation::ForEachRow
        } else {
            Evaluation::Once
        }
    }
}

/// As `transformColumnDefinition` in `parse_utilcmd.c` knows `serial` and its like.
unsafe fn is_serial(kind: *const pg_sys::TypeName) -> bool {
    // SAFETY: a type's name as the grammar makes it.
    let names = unsafe { tree::names((*kind).names) };
    matches!(
        names.as_slice(),
        [name] if ["smallserial", "serial2", "serial", "serial4", "bigserial", "serial8"].contains(&&**name)
    )
}

/// As `ATPrepAlterColumnType` in `tablecmds.c` makes the expression.
unsafe fn converts_unsettled(
    relation: pg_sys::Oid,
    command: *const pg_sys::AlterTableCmd,
    query: *const c_char,
) -> bool {
    // SAFETY: a subcommand for a column's type; a copy is analyzed, as that changes the tree.
    unsafe {
        let column = (*command).def.cast::<pg_sys::ColumnDef>();
        let number = pg_sys::get_attnum(relation, (*command).name);
        if number <= 0 {
            // The statement fails by itself.
            return false;
        }
        with_parser(relation, query, |state| {
            let expression = if (*column).raw_default.is_null() {
                let (mut kind, mut modifier, mut collation) = (pg_sys::InvalidOid, -1, pg_sys::InvalidOid);
                pg_sys::get_atttypetypmodcoll(relation, number, &mut kind, &mut modifier, &mut collation);
                pg_sys::makeVar(1, number, kind, modifier, collation, 0).cast()
            } else {
                let raw = pg_sys::copyObjectImpl((*column).raw_default.cast()).cast();
                pg_sys::transformExpr(state, raw, ParseExprKind::EXPR_KIND_ALTER_COL_TRANSFORM)
            };
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
            !converted.is_null() && {
                pg_sys::assign_expr_collations(state, converted);
                !evaluate::is_settled(converted)
            }
        })
    }
}
