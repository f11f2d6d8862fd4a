//! `setval()`, replicated.
//!
//! PostgreSQL calls the built-in function by its OID, so it cannot be replaced
//! in the catalog. Instead a call in an analyzed query is given the OID of ours,
//! which runs `ALTER SEQUENCE .. RESTART`: like any other DDL, that reaches
//! every node and each goes on with its own values. Calls that come another
//! way are refused where they run (see `ddl::access`).
//!
//! Unlike PostgreSQL's, this `setval()` is rolled back with its transaction,
//! and leaves `currval()` as it was.

use std::ffi::c_void;

use pgrx::pg_sys::{self, NodeTag};
use pgrx::prelude::*;

use super::{definition, quoted, stored};
use crate::ddl::{as_owner_of, as_superuser, expression_tree_walker, is_watched, query_tree_walker, relation_name};
use crate::error::{PgSqlErrorCode, raise, refuse};

static mut PREVIOUS: pg_sys::post_parse_analyze_hook_type = None;

/// Installs the hook. Call from `_PG_init`.
pub(super) fn install() {
    // SAFETY: in the postmaster, single-threaded.
    unsafe {
        PREVIOUS = pg_sys::post_parse_analyze_hook;
        pg_sys::post_parse_analyze_hook = Some(on_analyzed);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_analyzed(
    state: *mut pg_sys::ParseState,
    query: *mut pg_sys::Query,
    jumble: *mut pg_sys::JumbleState,
) {
    // SAFETY: the hook's contract; nothing with a destructor is alive when the next hook runs.
    unsafe {
        if (*query).commandType != pg_sys::CmdType::CMD_UTILITY
            && mentions_setval((*state).p_sourcetext)
            && is_watched()
        {
            // As somebody who may look into the schema.
            let mut ours = as_superuser(Ours::find);
            if ours.both_exist() {
                pg_sys::ffi::pg_guard_ffi_boundary(|| {
                    query_tree_walker(query, replace_calls, (&raw mut ours).cast(), 0);
                });
            }
        }
        if let Some(previous) = PREVIOUS {
            previous(state, query, jumble);
        }
    }
}

/// A quick look that spares almost every query the walk.
unsafe fn mentions_setval(text: *const std::ffi::c_char) -> bool {
    const NAME: &[u8] = b"setval";
    if text.is_null() {
        return false;
    }
    // SAFETY: a C string.
    unsafe { std::ffi::CStr::from_ptr(text) }
        .to_bytes()
        .windows(NAME.len())
        .any(|window| window.eq_ignore_ascii_case(NAME))
}

/// OIDs of our functions.
#[derive(Clone, Copy)]
struct Ours {
    two_arguments: pg_sys::Oid,
    three_arguments: pg_sys::Oid,
}

impl Ours {
    fn find() -> Self {
        let arguments = [pg_sys::REGCLASSOID, pg_sys::INT8OID, pg_sys::BOOLOID];
        Self {
            two_arguments: super::own_function(c"setval", &arguments[..2]),
            three_arguments: super::own_function(c"setval", &arguments),
        }
    }

    fn both_exist(self) -> bool {
        self.two_arguments != pg_sys::InvalidOid && self.three_arguments != pg_sys::InvalidOid
    }
}

/// A tree walker that puts our functions in the place of PostgreSQL's.
unsafe extern "C-unwind" fn replace_calls(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: the tag tells what the node is; `on_analyzed` gives the context.
    // Nothing here has a destructor.
    unsafe {
        if (*node).type_ == NodeTag::T_Query {
            return query_tree_walker(node.cast(), replace_calls, context, 0);
        }
        if (*node).type_ == NodeTag::T_FuncExpr {
            let call = node.cast::<pg_sys::FuncExpr>();
            match u32::from((*call).funcid) {
                pg_sys::F_SETVAL_REGCLASS_INT8 => (*call).funcid = (*context.cast::<Ours>()).two_arguments,
                pg_sys::F_SETVAL_REGCLASS_INT8_BOOL => (*call).funcid = (*context.cast::<Ours>()).three_arguments,
                _ => {}
            }
        }
        expression_tree_walker(node, replace_calls, context)
    }
}

#[pg_extern]
fn pgrenga_setval2(sequence: pg_sys::Oid, value: i64) -> i64 {
    set(sequence, value, true)
}

#[pg_extern]
fn pgrenga_setval3(sequence: pg_sys::Oid, value: i64, is_called: bool) -> i64 {
    set(sequence, value, is_called)
}

fn set(sequence: pg_sys::Oid, value: i64, is_called: bool) -> i64 {
    // SAFETY: catalog look-ups inside a transaction.
    let replicated = unsafe {
        is_watched()
            && !pg_sys::XactReadOnly
            && pg_sys::get_rel_relkind(sequence) as u8 == pg_sys::RELKIND_SEQUENCE
            && pg_sys::get_rel_persistence(sequence) as u8 != pg_sys::RELPERSISTENCE_TEMP
    };
    let Some(name) = relation_name(sequence).filter(|_| replicated) else {
        super::set_position(sequence, super::Position { last_value: value, is_called });
        return value;
    };
    check_permission(sequence, &name.relation);
    let definition = definition(sequence);
    if value < definition.min || value > definition.max {
        raise(
            PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
            format!(
                "setval: value {value} is out of bounds for sequence \"{}\" ({}..{})",
                name.relation, definition.min, definition.max
            ),
            "",
            "",
        );
    }
    let increment = as_superuser(|| stored(sequence)).map_or(definition.increment, |own| own.increment);
    let next = if is_called { value.checked_add(increment) } else { Some(value) };
    let Some(next) = next.filter(|next| (definition.min..=definition.max).contains(next)) else {
        refuse(
            "setval() cannot use up a sequence",
            format!("No value of sequence \"{}\" comes after {value}.", name.relation),
            "Use a smaller value, or ALTER SEQUENCE to change its limits.",
        )
    };
    as_owner_of(sequence, || {
        if let Err(error) = Spi::run(&format!("ALTER SEQUENCE {} RESTART WITH {next}", quoted(&name))) {
            super::unexpected(&error.to_string());
        }
    });
    value
}

/// As `do_setval` in `sequence.c`.
fn check_permission(sequence: pg_sys::Oid, name: &str) {
    let name = std::ffi::CString::new(name).unwrap_or_default();
    // SAFETY: catalog look-ups inside a transaction.
    unsafe {
        let result = pg_sys::pg_class_aclcheck(sequence, pg_sys::GetUserId(), pg_sys::ACL_UPDATE);
        if result != pg_sys::AclResult::ACLCHECK_OK {
            pg_sys::aclcheck_error(result, pg_sys::ObjectType::OBJECT_SEQUENCE, name.as_ptr());
        }
    }
}
