//! NOTIFY: what a transaction tells listeners, it tells those of every node.
//!
//! PostgreSQL collects a transaction's notifications where nobody else can read them (`async.c`).
//! So they are captured on their way there: `NOTIFY` as a statement, `pg_notify()` at its entry in the
//! table of built-in functions, from which every call by SQL takes the function's address. They are steps of the
//! writeset like rows, so that a savepoint takes them back. Whoever applies the writeset
//! hands them to PostgreSQL again, and its commit, in seq order, queues them for this node's listeners.
//!
//! A function written in C can notify without coming by here (`triggered_change_notification()` of
//! contrib/tcn does). [`check_complete`] finds out, and refuses the transaction.

use std::ffi::{CStr, c_char};

use pgrenga_writeset::op::Notify;
use pgrenga_writeset::writeset::Flags;
use pgrx::pg_sys::{self, NodeTag};
use pgrx::{FromDatum as _, PgTryBuilder};

use crate::backend::BackendLocal;
use crate::builtin;
use crate::capture::{self, Transaction};
use crate::ddl::is_watched;
use crate::error::{PgSqlErrorCode, raise, refuse};

/// How full PostgreSQL's queue may be before transactions that notify are turned away. The rest is for those on
/// their way: one that does not fit when its commit is decided could not be taken back.
const FULL: f64 = 0.9;

unsafe extern "C-unwind" {
    /// `commands/async.h`.
    fn Async_Notify(channel: *const c_char, payload: *const c_char);
    fn AtPrepare_Notify();
}

static mut ORIGINAL: Option<builtin::Original> = None;

/// Whether something came by in this transaction of which PostgreSQL keeps a note until its end: a
/// notification, LISTEN or UNLISTEN.
static HEARD: BackendLocal<bool> = BackendLocal::new(false);

/// Puts our `pg_notify()` in the place of PostgreSQL's. Call from `_PG_init`.
pub fn install() {
    // SAFETY: in the postmaster, single-threaded.
    unsafe { ORIGINAL = Some(builtin::replace(pg_sys::F_PG_NOTIFY, pg_notify)) };
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn pg_notify(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    before();
    // SAFETY: the call's own arguments; nothing that needs dropping is alive while the original runs.
    unsafe {
        let result = (ORIGINAL.expect("set at server start"))(call);
        let [channel, payload] = [0, 1].map(|at| {
            let argument = (*call).args.as_slice(2)[at];
            if argument.isnull {
                return std::ptr::null_mut();
            }
            pg_sys::text_to_cstring(argument.value.cast_mut_ptr())
        });
        after(channel, payload);
        result
    }
}

/// Before a utility statement runs. True if it is NOTIFY, which [`after_statement`] must hear of.
///
/// # Safety
/// `statement` is a utility statement.
pub unsafe fn before_statement(statement: *mut pg_sys::Node) -> bool {
    // SAFETY: the caller's promise.
    match unsafe { (*statement).type_ } {
        NodeTag::T_NotifyStmt => {
            before();
            true
        }
        NodeTag::T_ListenStmt | NodeTag::T_UnlistenStmt | NodeTag::T_DiscardStmt => {
            HEARD.set(true);
            false
        }
        _ => false,
    }
}

/// NOTIFY has run.
///
/// # Safety
/// `statement` is NOTIFY.
pub unsafe fn after_statement(statement: *mut pg_sys::Node) {
    // SAFETY: the caller's promise.
    unsafe {
        let statement = &*statement.cast::<pg_sys::NotifyStmt>();
        after(statement.conditionname, statement.payload);
    }
}

/// May this transaction notify here and now?
fn before() {
    HEARD.set(true);
    if is_watched() {
        capture::transaction().begin_write();
    }
}

/// PostgreSQL has accepted a notification: it is captured.
///
/// # Safety
/// Both are C strings, or null for an empty one.
unsafe fn after(channel: *const c_char, payload: *const c_char) {
    if !is_watched() {
        return;
    }
    let bytes = |text: *const c_char| {
        if text.is_null() {
            return &[][..];
        }
        // SAFETY: the caller's promise.
        unsafe { CStr::from_ptr(text) }.to_bytes()
    };
    let notification = Notify { channel: bytes(channel), payload: bytes(payload) };
    capture::transaction().record_notification(&notification);
}

/// Hands a notification of another node's transaction to PostgreSQL.
pub fn send(notification: &Notify<'_>) {
    if !HEARD.get() {
        ensure_room(PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES);
        HEARD.set(true);
    }
    let [channel, payload] =
        [notification.channel, notification.payload].map(|text| std::ffi::CString::new(text).unwrap_or_default());
    // SAFETY: C strings, which PostgreSQL copies.
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| Async_Notify(channel.as_ptr(), payload.as_ptr())) };
}

/// The last look at a transaction before its hand-over, while it can still be refused.
pub fn check_complete(txn: &Transaction) {
    if txn.flags().contains(Flags::NOTIFIES) {
        return ensure_room(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED);
    }
    if !HEARD.get() && is_watched() && is_any_pending() {
        refuse(
            "a notification was not captured",
            "A function written in C notified without NOTIFY or pg_notify(), so that only this node's listeners would hear it.",
            "Use NOTIFY or pg_notify().",
        );
    }
}

/// Whether PostgreSQL keeps notifications, or LISTEN and UNLISTEN, for this transaction's end: then it refuses to
/// prepare it, and that is all that it does there.
fn is_any_pending() -> bool {
    PgTryBuilder::new(|| {
        // SAFETY: inside a transaction.
        unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| AtPrepare_Notify()) };
        false
    })
    .catch_others(|_| true)
    .execute()
}

/// Turns the transaction away while PostgreSQL's queue is almost full, as it is if a listener stays in a
/// transaction for very long.
fn ensure_room(code: PgSqlErrorCode) {
    // SAFETY: `pg_notification_queue_usage()` by its OID, inside a transaction.
    let usage = unsafe {
        let function = pg_sys::Oid::from(pg_sys::F_PG_NOTIFICATION_QUEUE_USAGE);
        f64::from_datum(pg_sys::OidFunctionCall0Coll(function, pg_sys::InvalidOid), false)
    };
    if usage.is_some_and(|usage| usage > FULL) {
        raise(
            code,
            "too many notifications in the NOTIFY queue",
            "A session of this node listens, and has been in a transaction since they were sent.",
            "End that transaction: the one in pg_stat_activity with the oldest xact_start.",
        );
    }
}

/// The transaction ended. Never fails.
pub fn forget() {
    HEARD.set(false);
}
