//! How applying fails, in words that the daemon understands.
//!
//! | SQLSTATE | meaning | the daemon |
//! |---|---|---|
//! | `40001` | made way for an earlier seq, or the seq is taken | tries again |
//! | `57014` | the same, while it waited for a lock | tries again |
//! | `PG001` | the seq became visible meanwhile | drops it |
//! | `PG002` | this node's data differ from the log | declares the node different |
//! | `PG003` | the call or the writeset is malformed | stops: a defect |
//!
//! Classes 53 and 58 (the disk is full, a file cannot be read) are tried again until it works.
//! Any other error is tried again, then alone at the turnstile's head, and
//! only there is it taken for a difference.

use std::ffi::{c_int, c_void};

use pgrx::pg_sys;

use crate::backend::BackendLocal;
use crate::error::{PgSqlErrorCode, raise};

const ALREADY_VISIBLE: &[u8; 5] = b"PG001";
const DIVERGED: &[u8; 5] = b"PG002";
const PROTOCOL: &[u8; 5] = b"PG003";

/// Ends the transaction: another session made `seq` visible.
pub fn already_visible(seq: u64) -> ! {
    raise_as(ALREADY_VISIBLE, format!("seq {seq} is visible already"), String::new())
}

/// Ends the transaction: an earlier seq needs what this one holds.
pub fn give_up(seq: u64) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        format!("applying seq {seq} made way for an earlier one"),
        "It held a lock that an earlier writeset needs.",
        "",
    )
}

/// Ends the transaction: another session is at `seq` and does not end.
pub(super) fn taken(seq: u64) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        format!("seq {seq} is taken by another session"),
        "It commits there, or can be applied once that session is gone.",
        "",
    )
}

/// Ends the transaction: a row keeps changing under it.
pub(super) fn unsettled(seq: u64, relation: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        format!("a row of {relation} keeps changing while seq {seq} is applied"),
        "Transactions that are not replicated write to it.",
        "",
    )
}

/// Ends the transaction: what the writeset changes is not here.
pub(super) fn diverged(seq: u64, relation: &str, what: impl std::fmt::Display) -> ! {
    raise_as(
        DIVERGED,
        format!("this node's data differ from the log at seq {seq}"),
        format!("Relation {relation}: {what}"),
    )
}

/// Ends the transaction: the bytes are no writeset.
pub(super) fn malformed(what: impl std::fmt::Display) -> ! {
    raise_as(PROTOCOL, "the writeset cannot be read".into(), format!("Reason: {what}."))
}

/// Ends the transaction: the functions were called out of order.
pub(super) fn protocol(detail: impl Into<String>) -> ! {
    raise_as(PROTOCOL, "the applier's functions were called out of order".into(), detail.into())
}

static SQLSTATE: BackendLocal<c_int> = BackendLocal::new(0);
static mut CONTEXT: pg_sys::ErrorContextCallback = pg_sys::ErrorContextCallback {
    previous: std::ptr::null_mut(),
    callback: Some(set_sqlstate),
    arg: std::ptr::null_mut::<c_void>(),
};

unsafe extern "C-unwind" {
    /// `elog.c`; sets the code of the error being reported and cannot fail.
    fn errcode(code: c_int) -> c_int;
}

/// Raises an error with a code of our own, which pgrx's closed list of codes
/// cannot name: an error context callback puts it in when the error is
/// reported. Error recovery drops the callback.
fn raise_as(code: &[u8; 5], message: String, detail: String) -> ! {
    // `MAKE_SQLSTATE` in elog.h: six bits for each character.
    SQLSTATE.set(code.iter().rev().fold(0, |sum, &letter| (sum << 6) | c_int::from((letter - b'0') & 0x3F)));
    // SAFETY: a static; the stack below it outlives the error.
    unsafe {
        let context = &raw mut CONTEXT;
        (*context).previous = pg_sys::error_context_stack;
        pg_sys::error_context_stack = context;
    }
    raise(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, message, detail, "")
}

unsafe extern "C-unwind" fn set_sqlstate(_arg: *mut c_void) {
    // SAFETY: errfinish calls this with the error's data on its stack.
    unsafe { errcode(SQLSTATE.get()) };
}
