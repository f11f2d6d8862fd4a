//! `setval()`, replicated.
//!
//! Ours stands in the place of PostgreSQL's in the table of built-in functions, so that every call by SQL comes
//! here: in queries, functions, views, defaults, rules, and by the protocol's function calls. It
//! runs `ALTER SEQUENCE .. RESTART`: like any other DDL, that reaches every node and each goes on with its own
//! values.
//!
//! Unlike PostgreSQL's, this `setval()` is rolled back with its transaction.

use pgrx::pg_sys::{self, Datum, FunctionCallInfo};
use pgrx::prelude::*;

use super::{Position, definition, position, quoted, set_position, stored};
use crate::builtin;
use crate::capture;
use crate::ddl::{as_owner_of, as_superuser, is_watched, relation_name};
use crate::error::{PgSqlErrorCode, raise, refuse};

static mut TWO_ARGUMENTS: Option<builtin::Original> = None;
static mut THREE_ARGUMENTS: Option<builtin::Original> = None;

/// Puts our functions in the place of PostgreSQL's. Call from `_PG_init`.
pub(super) fn install() {
    // SAFETY: in the postmaster, single-threaded.
    unsafe {
        TWO_ARGUMENTS = Some(builtin::replace(pg_sys::F_SETVAL_REGCLASS_INT8, setval));
        THREE_ARGUMENTS = Some(builtin::replace(pg_sys::F_SETVAL_REGCLASS_INT8_BOOL, setval3));
    }
}

/// PostgreSQL's own `setval(regclass, int8, bool)`: of this node alone.
pub(super) fn original() -> builtin::Original {
    // SAFETY: set at server start.
    unsafe { THREE_ARGUMENTS.expect("set at server start") }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn setval(call: FunctionCallInfo) -> Datum {
    // SAFETY: the function's own arguments, as it is strict.
    unsafe {
        let (sequence, value) = (builtin::value(call, 0), builtin::value(call, 1));
        if is_local(sequence) {
            return TWO_ARGUMENTS.expect("set at server start")(call);
        }
        Datum::from(set(sequence, value, true))
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn setval3(call: FunctionCallInfo) -> Datum {
    // SAFETY: as in `setval`.
    unsafe {
        let (sequence, value, is_called) = (builtin::value(call, 0), builtin::value(call, 1), builtin::value(call, 2));
        if is_local(sequence) {
            return original()(call);
        }
        Datum::from(set(sequence, value, is_called))
    }
}

/// Whether PostgreSQL's own function is to do it, or to refuse.
fn is_local(sequence: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-ups inside a transaction.
    unsafe {
        !is_watched()
            || pg_sys::XactReadOnly
            || pg_sys::get_rel_relkind(sequence) as u8 != pg_sys::RELKIND_SEQUENCE
            || pg_sys::get_rel_persistence(sequence) as u8 == pg_sys::RELPERSISTENCE_TEMP
    }
}

fn set(sequence: pg_sys::Oid, value: i64, is_called: bool) -> i64 {
    let name = relation_name(sequence).expect("it is a sequence");
    check_permission(sequence, &name.relation);
    capture::transaction().begin_write();
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
    if is_called {
        remember(sequence, &quoted(&name), value);
    }
    value
}

/// Makes it what `currval()` returns in this session. The sequence's file is this transaction's own since RESTART.
fn remember(sequence: pg_sys::Oid, name: &str, value: i64) {
    let aligned = as_superuser(|| position(name));
    if !aligned.is_called {
        set_position(sequence, Position { last_value: value, is_called: true });
        set_position(sequence, aligned);
    }
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
