//! PostgreSQL's transaction callbacks.
//!
//! Between PRE_COMMIT and COMMIT a transaction can still fail (a full NOTIFY
//! queue, a serialization failure, another extension): `CommitTransaction` in
//! `xact.c`. COMMIT and ABORT callbacks must not fail, wait, lock or allocate.

use std::ffi::{CString, c_char, c_int};
use std::sync::atomic::Ordering;

use pgrx::pg_sys::{self, XactEvent};

use super::turn::{self, Turn};
use super::{acknowledge, submit, told};
use crate::apply;
use crate::backend::BackendLocal;
use crate::brute_force;
use crate::capture;
use crate::error::{PgSqlErrorCode, raise};
use crate::failpoint::{self, Failpoint};
use crate::large_object;
use crate::notify;
use crate::read;
use crate::sequence;
use crate::serializable;
use crate::session;
use crate::shmem::{self, Fence, Notice, State, shared};

/// What pre-commit changed in this process and COMMIT or ABORT puts back.
#[derive(Clone, Copy)]
struct Borrowed {
    synchronous_commit: i32,
    lock_timeout: i32,
}

static BORROWED: BackendLocal<Option<Borrowed>> = BackendLocal::new(None);
/// Whether this session has a replication origin to carry its progress.
static ORIGIN_READY: BackendLocal<bool> = BackendLocal::new(false);

unsafe extern "C-unwind" {
    /// `elog.h`: these set parts of the error that is being reported.
    fn errcode(sqlerrcode: c_int) -> c_int;
    fn errdetail_internal(format: *const c_char, ...) -> c_int;
    fn errhint(format: *const c_char, ...) -> c_int;
}

static mut ERROR_CONTEXT: pg_sys::ErrorContextCallback = pg_sys::ErrorContextCallback {
    previous: std::ptr::null_mut(),
    callback: Some(on_error),
    arg: std::ptr::null_mut(),
};

/// Registers the callbacks. Callbacks run last-registered first, so being the
/// first library makes ours the last one at pre-commit.
pub fn install() {
    // SAFETY: registration in the postmaster, inherited by all backends.
    unsafe {
        pg_sys::RegisterXactCallback(Some(on_xact_event), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(on_subxact_event), std::ptr::null_mut());
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_xact_event(event: XactEvent::Type, _arg: *mut std::ffi::c_void) {
    match event {
        XactEvent::XACT_EVENT_PRE_COMMIT => {
            session::before_commit();
            pre_commit();
        }
        XactEvent::XACT_EVENT_COMMIT => commit(),
        XactEvent::XACT_EVENT_ABORT => {
            abort();
            failpoint::reach(Failpoint::AbortedPause);
            brute_force::watch_errors();
        }
        XactEvent::XACT_EVENT_PREPARE => {
            notify::forget();
            read::end_transaction();
        }
        XactEvent::XACT_EVENT_PRE_PREPARE if capture::transaction().is_open() => crate::error::refuse(
            "PREPARE TRANSACTION is not supported for transactions that write",
            "A prepared transaction's outcome is decided outside the replicated log.",
            "Use COMMIT.",
        ),
        _ => {}
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_subxact_event(
    event: pg_sys::SubXactEvent::Type,
    _mine: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _arg: *mut std::ffi::c_void,
) {
    // SAFETY: a plain read of the transaction state.
    let level = unsafe { pg_sys::GetCurrentTransactionNestLevel() };
    match event {
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => {
            capture::transaction().abort_subtransaction(level);
            brute_force::watch_errors();
        }
        pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => capture::transaction().commit_subtransaction(level),
        _ => {}
    }
}

fn pre_commit() {
    let slot = shared().my_slot();
    if let State::Applying(seq) | State::Yielded(seq) = slot.state() {
        apply::check_complete(seq);
        return pass(seq, State::Applying(seq), apply::already_visible, apply::give_up);
    }
    let txn = capture::transaction();
    notify::check_complete(txn);
    if !txn.has_changes() {
        sequence::flush_if_drawn();
        // Rows were locked, or a savepoint took everything back.
        txn.close_file();
        return;
    }
    crate::ddl::check_complete(txn);
    let sequences = txn.use_held_locks();
    sequence::flush(&sequences);
    ensure_origin();
    if serializable::is_serializable() {
        serializable::close(txn);
    }
    let seq = submit::order(txn);
    guard_errors();
    read::report_commit(seq);
    acknowledge::note(seq);
    told::report();
    txn.close_file();
    failpoint::reach(Failpoint::OrderedKill);
    failpoint::reach(Failpoint::OrderedError);
    pass(seq, State::Ordered(seq), taken_over, taken_over);
}

/// From the verdict on, no error may say that a retry is safe.
fn guard_errors() {
    // SAFETY: plain variables of this process; COMMIT and ABORT take it back.
    unsafe {
        let context = &raw mut ERROR_CONTEXT;
        (*context).previous = pg_sys::error_context_stack;
        pg_sys::error_context_stack = context;
    }
}

/// Takes back what [`guard_errors`] did, if it did.
fn release_errors() {
    // SAFETY: as above.
    unsafe {
        let context = &raw mut ERROR_CONTEXT;
        if pg_sys::error_context_stack == context {
            pg_sys::error_context_stack = (*context).previous;
        }
    }
}

/// The applier commits this transaction in the backend's place, which it left to
/// an earlier one. [`on_error`] says the rest.
fn taken_over(_seq: u64) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN,
        "the transaction is committed, but not by this session",
        "",
        "",
    )
}

/// Waits at the turnstile and prepares the commit record to carry `seq`, or the last one
/// of the run that begins with it.
fn pass(seq: u64, waiting: State, passed: fn(u64) -> !, lost: fn(u64) -> !) {
    let slot = shared().my_slot();
    match turn::wait_turn(seq, waiting) {
        Turn::Mine if slot.advance(waiting, State::Committing(seq)) => {}
        Turn::Passed => passed(seq),
        Turn::Mine | Turn::Lost => lost(seq),
    }
    // SAFETY: plain variables of this process. From here on nothing of ours
    // fails; what PostgreSQL does until the commit record may, and then ABORT
    // puts everything back.
    unsafe {
        // Progress needs a commit record, and a commit record needs an xid.
        pg_sys::GetTopTransactionId();
        BORROWED
            .set(Some(Borrowed { synchronous_commit: pg_sys::synchronous_commit, lock_timeout: pg_sys::LockTimeout }));
        // A commit with notifications waits for the one before to end (`PreCommit_Notify`).
        pg_sys::LockTimeout = 0;
        // The log is durable already: one fsync for a transaction, not two.
        pg_sys::synchronous_commit = pg_sys::SyncCommitLevel::SYNCHRONOUS_COMMIT_OFF as i32;
        pg_sys::replorigin_session_origin_lsn = slot.seqs().map_or(seq, |seqs| *seqs.end());
        pg_sys::replorigin_session_origin_timestamp = pg_sys::GetCurrentTimestamp();
        pg_sys::InterruptHoldoffCount += 1;
    }
    failpoint::reach(Failpoint::CommittingKill);
    failpoint::reach(Failpoint::CommittingError);
}

/// Gives an error after the verdict a SQLSTATE that nobody retries, and the
/// transaction's name: it is committed, whatever happened to this session.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_error(_arg: *mut std::ffi::c_void) {
    // SAFETY: errfinish calls this with the error's data on its stack.
    let class = unsafe { pg_sys::geterrcode() } & 0xFFF;
    let successful_or_warning = class == 0 || class == (1 << 6);
    if successful_or_warning {
        return;
    }
    let txid = super::handed_over_id(capture::transaction().counter());
    let detail = format!("Transaction {txid} is ordered: it is committed, though not by this session.");
    let hint = format!("Do not repeat it. SELECT pgrenga.transaction_status('{txid}') tells its outcome on any node.");
    let (detail, hint) = (CString::new(detail).unwrap_or_default(), CString::new(hint).unwrap_or_default());
    // SAFETY: as above; the texts are copied.
    unsafe {
        errcode(PgSqlErrorCode::ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN as c_int);
        errdetail_internal(c"%s".as_ptr(), detail.as_ptr());
        errhint(c"%s".as_ptr(), hint.as_ptr());
    }
}

/// Puts back what [`pass`] changed.
fn give_back() {
    release_errors();
    let Some(borrowed) = BORROWED.get() else { return };
    BORROWED.set(None);
    // SAFETY: plain variables of this process.
    unsafe {
        pg_sys::synchronous_commit = borrowed.synchronous_commit;
        pg_sys::LockTimeout = borrowed.lock_timeout;
        pg_sys::replorigin_session_origin_lsn = 0;
        pg_sys::replorigin_session_origin_timestamp = 0;
    }
}

fn commit() {
    let shared = shared();
    let slot = shared.my_slot();
    if let State::Committing(_) = slot.state()
        && let Some(seqs) = slot.seqs()
    {
        give_back();
        failpoint::reach(Failpoint::CommittedKill);
        // SAFETY: reads a variable of this process; `pass` saw to it that there is an id.
        let xid = unsafe { pg_sys::GetTopTransactionIdIfAny() };
        shared.turnstile.remember(*seqs.end(), xid.into_inner());
        shared.turnstile.open(seqs);
        failpoint::reach(Failpoint::VisibleKill);
        // SAFETY: pairs with the increment in `pass`.
        unsafe { pg_sys::InterruptHoldoffCount -= 1 };
    }
    end_transaction(slot);
}

fn abort() {
    acknowledge::forget();
    let shared = shared();
    let slot = shared.my_slot();
    give_back();
    let state = slot.state();
    if let Some(seq) = state.seq()
        && !matches!(state, State::Applying(_) | State::Yielded(_))
        && !apply::active()
    {
        shared.notices.leave(Notice::Orphan(seq));
        shared.wake_port_worker();
    }
    end_transaction(slot);
}

fn end_transaction(slot: &shmem::Slot) {
    let txn = capture::transaction();
    let (is_told, state) = (told::end(txn.counter()), slot.state());
    // Fragments may be on their way whose writeset never comes, and others wait for the fence. What
    // was ordered is decided.
    let is_open_elsewhere = is_told || slot.fence() != Fence::None || matches!(state, State::Waiting(_));
    if is_open_elsewhere && state.seq().is_none() {
        shared().notices.leave(Notice::GiveUp(txn.counter()));
        shared().wake_port_worker();
    }
    slot.set_fence(Fence::None);
    if state != State::Free {
        slot.set(State::Free);
        slot.set_last(0);
    }
    if txn.is_open() {
        shared().writers.fetch_sub(1, Ordering::Relaxed);
    }
    txn.reset();
    sequence::forget_drawn();
    notify::forget();
    large_object::forget();
    serializable::forget();
    apply::reset();
    read::end_transaction();
    session::end_transaction();
}

/// Gives this session a replication origin: its commit records carry the seq
/// in it. Once for each session; may fail, so it happens before the hand-over.
pub fn ensure_origin() {
    if ORIGIN_READY.get() {
        return;
    }
    // SAFETY: inside a transaction, as the catalog look-up needs.
    unsafe {
        let name = std::ffi::CString::new(format!("pgrenga_{}", (*pg_sys::MyProc).pgprocno)).expect("no NUL in it");
        let origin = pg_sys::replorigin_by_name(name.as_ptr(), true);
        if origin == 0 {
            raise(
                PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                "there is no replication origin for this backend",
                format!("Origin \"{}\" does not exist.", name.to_string_lossy()),
                "Run SELECT pgrenga.setup() on this node after raising max_connections or max_worker_processes.",
            );
        }
        pg_sys::replorigin_session_setup(origin);
        pg_sys::replorigin_session_origin = origin;
    }
    ORIGIN_READY.set(true);
}
