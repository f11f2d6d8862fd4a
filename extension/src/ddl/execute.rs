//! Running another node's statement.

use std::ffi::CString;

use pgrenga_writeset::op::Ddl;
use pgrx::pg_sys;

use super::identity::{run_as, set_nested};
use super::ship::from_utf8;
use crate::error::{PgSqlErrorCode, raise};
use crate::sequence;

/// Runs a statement as its origin ran it: as the same role, under the same
/// settings. Triggers and event triggers stay silent, as what they did at the
/// origin is in the writeset. Errors propagate and leave nothing behind.
pub fn execute(statement: &Ddl<'_>) {
    let text = from_utf8(statement.statement);
    let role = from_utf8(statement.role);
    // SAFETY: a catalog look-up inside a transaction.
    let role = unsafe { pg_sys::get_role_oid(role.as_ptr(), false) };
    let set = || {
        for (name, value) in &statement.settings {
            let name = CString::new(*name).unwrap_or_default();
            set_nested(&name, &from_utf8(value));
        }
        set_nested(c"session_replication_role", c"replica");
        set_nested(c"check_function_bodies", c"off");
        set_nested(c"default_tablespace", c"");
    };
    run_as(role, 0, set, || run(&text));
    sequence::settle();
}

fn run(text: &CString) {
    // SAFETY: SPI's protocol; an error ends the connection with the transaction.
    let result = unsafe {
        pg_sys::SPI_connect();
        let result = pg_sys::SPI_execute(text.as_ptr(), false, 0);
        pg_sys::SPI_finish();
        result
    };
    if result != pg_sys::SPI_OK_UTILITY as i32 {
        raise(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            "a replicated statement was not one that changes the catalog",
            format!("SPI returned {result}."),
            "",
        );
    }
}
