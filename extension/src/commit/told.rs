//! The transaction id that a client knows before it sends COMMIT.
//!
//! Whoever loses its connection during COMMIT asks with it what became of the transaction. So
//! * a transaction whose id was told is handed over under that id or not at all: if the node began
//!   a new life meanwhile, it ends with an error that says that it can be tried again;
//! * an id that was told and will never be handed over is given up through the log, so that its
//!   answer is soon definite.
//!
//! With `pgrenga.report_transaction_id` a session tells the id of its *next* transaction, whenever
//! it has ended one that used the last: so a client, or what stands between it and the node, knows
//! the id of a single statement's transaction, too. The text of `pgrenga.transaction_id` is made
//! when PostgreSQL asks for it; setting it only makes PostgreSQL ask (`ReportChangedGUCOptions` in
//! `guc.c`), at a commit because it was set and after an abort because that took it back.

use std::ffi::{CString, c_char, c_int};
use std::sync::atomic::Ordering;

use pgrenga_writeset::TransactionId;
use pgrx::{pg_extern, pg_sys};

use super::submit::ensure_writable;
use super::transaction_id;
use crate::backend::BackendLocal;
use crate::capture;
use crate::error::{PgSqlErrorCode, raise};
use crate::settings;
use crate::shmem::{Notice, shared};

/// What was told: of the transaction that runs, or of the next one.
static TOLD: BackendLocal<Option<TransactionId>> = BackendLocal::new(None);
/// What the hook returned last.
static SHOWN: BackendLocal<Option<CString>> = BackendLocal::new(None);
/// Whether the id is given up when this process ends.
static WATCHED: BackendLocal<bool> = BackendLocal::new(false);

/// This transaction's id. Its writeset will be ordered under it, or never.
#[pg_extern]
fn pgrenga_transaction_id() -> String {
    ensure_writable();
    let txn = capture::transaction();
    txn.open();
    tell(txn.counter()).to_string()
}

/// A counter for a transaction that begins to write: the one that was told, if any.
pub fn draw_counter() -> u64 {
    let counter = TOLD.get().map_or_else(|| shared().draw_counter(), |told| told.counter);
    report();
    counter
}

/// Tells the id of the transaction with that counter.
pub(super) fn tell(counter: u64) -> TransactionId {
    let told = TOLD.get().unwrap_or_else(|| transaction_id(counter));
    TOLD.set(Some(told));
    told
}

/// Tells the id of the transaction with that counter, which was handed over.
pub(super) fn tell_handed_over(counter: u64) -> TransactionId {
    let txid = super::handed_over_id(counter);
    TOLD.set(Some(txid));
    txid
}

/// Makes sure that the transaction may be handed over under this id.
pub(super) fn check(txid: &TransactionId) {
    if let Some(told) = TOLD.get()
        && told != *txid
    {
        lost(&told);
    }
}

/// The transaction was not ordered under the id that was told, and never will be.
pub(super) fn check_resubmit() {
    if let Some(told) = TOLD.get() {
        lost(&told);
    }
}

fn lost(told: &TransactionId) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "the transaction was lost before it was ordered",
        format!("This node began a new life since transaction {told} did. It is aborted under the id that was told."),
        "Try the transaction again.",
    )
}

/// The transaction with that counter is over, and used its id; says whether it was told. Never fails.
pub(super) fn end(counter: u64) -> bool {
    let is_used = TOLD.get().is_some_and(|told| told.counter == counter);
    if is_used {
        TOLD.set(None);
    }
    is_used
}

/// Has PostgreSQL ask for the id, and tell the client if it is another one. Inside a transaction.
pub(super) fn report() {
    if !settings::REPORT_TRANSACTION_ID.get() {
        return;
    }
    // SAFETY: settings may change inside a transaction. The value is of no account; the text is static.
    unsafe {
        pg_sys::SetConfigOption(
            settings::TRANSACTION_ID_NAME.as_ptr(),
            c"used".as_ptr(),
            pg_sys::GucContext::PGC_INTERNAL,
            pg_sys::GucSource::PGC_S_SESSION,
        );
    }
}

/// The value of `pgrenga.transaction_id`: the running transaction's if it has one, or else the next one's.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn show_transaction_id() -> *const c_char {
    let text =
        if settings::REPORT_TRANSACTION_ID.get() && can_write() { tell_next().to_string() } else { String::new() };
    // SAFETY: the borrow ends before PostgreSQL is called again; the text lives until the next call.
    unsafe { SHOWN.borrow() }.insert(CString::new(text).unwrap_or_default()).as_ptr()
}

/// Whether this process can have transactions that are ordered.
fn can_write() -> bool {
    // SAFETY: plain variables of this process.
    let is_session = unsafe { !pg_sys::MyProc.is_null() && pg_sys::ParallelWorkerNumber < 0 };
    is_session && shared().incarnation.load(Ordering::Acquire) != 0
}

fn tell_next() -> TransactionId {
    let txn = capture::transaction();
    let told = match TOLD.get() {
        Some(told) => told,
        None if txn.is_open() => tell(txn.counter()),
        None => tell(shared().draw_counter()),
    };
    if !WATCHED.get() {
        WATCHED.set(true);
        // SAFETY: a registration, once in the life of this process.
        unsafe { pg_sys::before_shmem_exit(Some(on_exit), pg_sys::Datum::null()) };
    }
    told
}

/// The session ends: nobody will use what it told last.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_exit(_code: c_int, _argument: pg_sys::Datum) {
    if let Some(told) = TOLD.get() {
        TOLD.set(None);
        shared().notices.leave(Notice::GiveUp(told.counter));
        shared().wake_port_worker();
    }
}
