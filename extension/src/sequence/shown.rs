//! What SQL sees of sequences: the user's own definition, and a position that no node is beyond, as far as this one knows.
//!
//! Physically a sequence steps by its increment times the number of slots, and stands where this node is. Whoever
//! asks a catalog wants to make the same sequence somewhere else, or go on where this one is: `pg_dump`, `\d`,
//! `pg_sequences`, `information_schema`, an ORM. So in a query, as it is about to be planned and all views are expanded,
//!
//! - column `increment` of `pg_sequence` is replaced by `pgrenga.own_increment(..)`;
//! - columns `last_value` and `is_called` of a sequence's own relation by `pgrenga.shown_last_value(..)` and `pgrenga.shown_is_called(..)`,
//!   which look at the columns that the sequence fills: other nodes' values are there.
//!
//! PostgreSQL itself reads both in other ways, and goes on seeing what is. A row as a whole (`SELECT s FROM pg_sequence s`) is shown as it is.

use std::ffi::{CStr, c_char, c_int, c_void};

use pgrx::pg_sys::{self, NodeTag};
use pgrx::prelude::*;

use super::lattice::{self, Bounds, Position};
use super::{SEQUENCE_RELATION, columns, definition, stored};
use crate::ddl::{as_superuser, expression_tree_walker, items, query_tree_walker};

/// How a query begins that wants to see what is there physically.
pub(super) const AS_IT_IS: &str = "/* pgrenga: as it is */";

static mut PREVIOUS: pg_sys::planner_hook_type = None;

/// Installs the hook. Call from `_PG_init`.
pub(super) fn install() {
    // SAFETY: in the postmaster, single-threaded.
    unsafe {
        PREVIOUS = pg_sys::planner_hook;
        pg_sys::planner_hook = Some(plan);
    }
}

type Mutator = unsafe extern "C-unwind" fn(*mut pg_sys::Node, *mut c_void) -> *mut pg_sys::Node;

unsafe extern "C-unwind" {
    fn standard_planner(
        query: *mut pg_sys::Query,
        text: *const c_char,
        options: c_int,
        params: pg_sys::ParamListInfo,
    ) -> *mut pg_sys::PlannedStmt;
    /// `nodes/nodeFuncs.h`; the bindings lack it, and the next one.
    fn query_tree_mutator(
        query: *mut pg_sys::Query,
        mutator: Mutator,
        context: *mut c_void,
        flags: c_int,
    ) -> *mut pg_sys::Query;
    fn expression_tree_mutator(node: *mut pg_sys::Node, mutator: Mutator, context: *mut c_void) -> *mut pg_sys::Node;
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn plan(
    query: *mut pg_sys::Query,
    text: *const c_char,
    options: c_int,
    params: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    type Original = unsafe extern "C-unwind" fn(
        *mut pg_sys::Query,
        *const c_char,
        c_int,
        pg_sys::ParamListInfo,
    ) -> *mut pg_sys::PlannedStmt;
    // SAFETY: the hook's contract; nothing with a destructor is alive when the next hook runs.
    unsafe {
        let mut query = query;
        if may_mention(query)
            && !wants_it_as_it_is(text)
            && let Some(ours) = Ours::find()
        {
            query = shown(query, ours);
        }
        let original: Original = PREVIOUS.unwrap_or(standard_planner);
        original(query, text, options, params)
    }
}

unsafe fn wants_it_as_it_is(text: *const c_char) -> bool {
    // SAFETY: null, or the query's text.
    !text.is_null() && unsafe { CStr::from_ptr(text) }.to_bytes().starts_with(AS_IT_IS.as_bytes())
}

/// Spares almost every query the walk: who reads `pg_sequence` has locked it, and a sequence itself stands in the
/// range table, or further inside.
unsafe fn may_mention(query: *mut pg_sys::Query) -> bool {
    // SAFETY: the planner's query.
    unsafe {
        let may = items::<pg_sys::RangeTblEntry>((*query).rtable)
            .any(|entry| (*entry).rtekind == pg_sys::RTEKind::RTE_SUBQUERY || is_of_interest(&*entry));
        (may || (*query).hasSubLinks || !(*query).cteList.is_null()) && mentions(query.cast(), std::ptr::null_mut())
    }
}

fn is_of_interest(entry: &pg_sys::RangeTblEntry) -> bool {
    entry.rtekind == pg_sys::RTEKind::RTE_RELATION
        && (u32::from(entry.relid) == SEQUENCE_RELATION || entry.relkind as u8 == pg_sys::RELKIND_SEQUENCE)
}

/// A tree walker that stops at a range table entry that [`is_of_interest`].
unsafe extern "C-unwind" fn mentions(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: the tag tells what the node is.
    unsafe {
        match (*node).type_ {
            NodeTag::T_RangeTblEntry => is_of_interest(&*node.cast()),
            NodeTag::T_Query => {
                query_tree_walker(node.cast(), mentions, context, pg_sys::QTW_EXAMINE_RTES_BEFORE as c_int)
            }
            _ => expression_tree_walker(node, mentions, context),
        }
    }
}

/// OIDs of our functions.
#[derive(Clone, Copy)]
struct Ours {
    increment: pg_sys::Oid,
    last_value: pg_sys::Oid,
    is_called: pg_sys::Oid,
}

impl Ours {
    /// `None` in a database without the extension.
    fn find() -> Option<Self> {
        let position = [pg_sys::OIDOID, pg_sys::INT8OID, pg_sys::BOOLOID];
        // As somebody who may look into the schema.
        let ours = as_superuser(|| Self {
            increment: super::own_function(c"own_increment", &position[..2]),
            last_value: super::own_function(c"shown_last_value", &position),
            is_called: super::own_function(c"shown_is_called", &position),
        });
        let all = [ours.increment, ours.last_value, ours.is_called];
        all.iter().all(|oid| *oid != pg_sys::InvalidOid).then_some(ours)
    }
}

/// A query and those around it.
struct Level {
    query: *mut pg_sys::Query,
    outer: *const Level,
    ours: Ours,
}

/// The query with our functions in it.
unsafe fn shown(query: *mut pg_sys::Query, ours: Ours) -> *mut pg_sys::Query {
    let level = Level { query, outer: std::ptr::null(), ours };
    // SAFETY: the planner's query; the context lives as long as the walk. Neither `Level` nor
    // anything in the mutator has a destructor.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            query_tree_mutator(query, replace_columns, (&raw const level).cast_mut().cast(), 0)
        })
    }
}

unsafe extern "C-unwind" fn replace_columns(node: *mut pg_sys::Node, context: *mut c_void) -> *mut pg_sys::Node {
    if node.is_null() {
        return node;
    }
    // SAFETY: the tag tells what the node is; `shown` gives the context.
    unsafe {
        let level = &*context.cast::<Level>();
        match (*node).type_ {
            NodeTag::T_Query => {
                let inner = Level { query: node.cast(), outer: level, ours: level.ours };
                query_tree_mutator(node.cast(), replace_columns, (&raw const inner).cast_mut().cast(), 0).cast()
            }
            NodeTag::T_Var => {
                let replaced = of_column(&*node.cast::<pg_sys::Var>(), level);
                if replaced.is_null() { expression_tree_mutator(node, replace_columns, context) } else { replaced }
            }
            _ => expression_tree_mutator(node, replace_columns, context),
        }
    }
}

/// What stands for a column, or null.
unsafe fn of_column(column: &pg_sys::Var, level: &Level) -> *mut pg_sys::Node {
    /// `Anum_pg_sequence_seqrelid`, `Anum_pg_sequence_seqincrement`.
    const RELID: i16 = 1;
    const INCREMENT: i16 = 4;
    /// `SEQ_COL_LASTVAL`, `SEQ_COL_CALLED` of `commands/sequence.h`.
    const LAST_VALUE: i16 = 1;
    const IS_CALLED: i16 = 3;
    // SAFETY: as many levels as the column says; its number is one of the range table there.
    unsafe {
        let mut level = level;
        for _ in 0..column.varlevelsup {
            if level.outer.is_null() {
                return std::ptr::null_mut();
            }
            level = &*level.outer;
        }
        if column.varno <= 0 || column.varno == (*level.query).resultRelation {
            return std::ptr::null_mut();
        }
        let entry = &*pg_sys::list_nth((*level.query).rtable, column.varno - 1).cast::<pg_sys::RangeTblEntry>();
        if !is_of_interest(entry) {
            return std::ptr::null_mut();
        }
        let sibling = |number, kind| {
            pg_sys::makeVar(column.varno, number, kind, -1, pg_sys::InvalidOid, column.varlevelsup).cast::<c_void>()
        };
        let is_sequence = entry.relkind as u8 == pg_sys::RELKIND_SEQUENCE;
        let (function, result) = match (is_sequence, column.varattno) {
            (false, INCREMENT) => (level.ours.increment, pg_sys::INT8OID),
            (true, LAST_VALUE) => (level.ours.last_value, pg_sys::INT8OID),
            (true, IS_CALLED) => (level.ours.is_called, pg_sys::BOOLOID),
            _ => return std::ptr::null_mut(),
        };
        let mut arguments = std::ptr::null_mut();
        if is_sequence {
            let relation = pg_sys::Datum::from(entry.relid);
            let relation = pg_sys::makeConst(
                pg_sys::OIDOID,
                -1,
                pg_sys::InvalidOid,
                size_of::<pg_sys::Oid>() as c_int,
                relation,
                false,
                true,
            );
            arguments = pg_sys::lappend(arguments, relation.cast());
            arguments = pg_sys::lappend(arguments, sibling(LAST_VALUE, pg_sys::INT8OID));
            arguments = pg_sys::lappend(arguments, sibling(IS_CALLED, pg_sys::BOOLOID));
        } else {
            arguments = pg_sys::lappend(arguments, sibling(RELID, pg_sys::OIDOID));
            arguments = pg_sys::lappend(arguments, sibling(INCREMENT, pg_sys::INT8OID));
        }
        let form = pg_sys::CoercionForm::COERCE_EXPLICIT_CALL;
        pg_sys::makeFuncExpr(function, result, arguments, pg_sys::InvalidOid, pg_sys::InvalidOid, form).cast()
    }
}

#[pg_extern]
fn pgrenga_own_increment(sequence: pg_sys::Oid, physical: i64) -> i64 {
    as_superuser(|| stored(sequence)).map_or(physical, |own| own.increment)
}

#[pg_extern]
fn pgrenga_shown_last_value(sequence: pg_sys::Oid, last_value: i64, is_called: bool) -> i64 {
    shown_position(sequence, Position { last_value, is_called }).last_value
}

#[pg_extern]
fn pgrenga_shown_is_called(sequence: pg_sys::Oid, last_value: i64, is_called: bool) -> bool {
    shown_position(sequence, Position { last_value, is_called }).is_called
}

/// This node's position, or a value in one of the columns that the sequence fills if that comes later.
fn shown_position(sequence: pg_sys::Oid, here: Position) -> Position {
    let filled = as_superuser(|| stored(sequence).and_then(|_| columns::filled_value(sequence)));
    let definition = definition(sequence);
    let bounds = Bounds { min: definition.min, max: definition.max };
    lattice::shown(here, definition.increment, bounds, filled)
}
