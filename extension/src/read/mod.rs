//! What a statement may read: whether this server serves reads now, and how
//! fresh they have to be.
//!
//! Looked at in `ExecutorStart_hook`, before the first row, at the price of one
//! load and a clock. PostgreSQL has no hook before it takes a statement's snapshot
//! (a cached plan is bound and started without any), so whoever had to wait here
//! takes the [`snapshot`] anew. That happens once for each message of the client:
//! what was acknowledged anywhere before the client sent it is what it must see.
//! Statements within functions run under what their caller has seen; and at
//! REPEATABLE READ only the first statement of a transaction has a snapshot to take.

mod consistency;
mod gate;
mod snapshot;

pub use consistency::{Consistency, check_commit_seq, late, report_commit};
pub use gate::{reason, wait_until_serving};

use std::ffi::{CStr, c_int};

use pgrx::pg_sys::{self, NodeTag};

use crate::backend::BackendLocal;
use crate::serializable;
use crate::session;
use crate::settings;
use crate::shmem::shared;

/// When the client's message began whose first statement was looked at last.
static LOOKED_AT: BackendLocal<i64> = BackendLocal::new(0);
/// Whether this transaction has run a statement: at REPEATABLE READ its snapshot is settled.
static HAS_RUN: BackendLocal<bool> = BackendLocal::new(false);

static mut PREVIOUS: pg_sys::ExecutorStart_hook_type = None;

/// Installs the hook. Call from `_PG_init`.
pub fn install() {
    // SAFETY: in the postmaster, single-threaded.
    unsafe {
        PREVIOUS = pg_sys::ExecutorStart_hook;
        pg_sys::ExecutorStart_hook = Some(executor_start);
    }
}

/// Forgets the transaction. COMMIT, PREPARE and ABORT callbacks call this.
pub fn end_transaction() {
    HAS_RUN.set(false);
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn executor_start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    type Original = unsafe extern "C-unwind" fn(*mut pg_sys::QueryDesc, c_int);
    unsafe extern "C-unwind" {
        fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: c_int);
    }
    // SAFETY: the hook's contract. An error of the original jumps over this
    // function, in which nothing needs a destructor.
    unsafe {
        session::check_lost();
        if flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as c_int == 0 && pg_sys::ParallelWorkerNumber < 0 {
            before(&Statement::Query(query));
            if serializable::is_serializable() {
                serializable::note_query(query);
            }
        }
        let original: Original = PREVIOUS.unwrap_or(standard_ExecutorStart);
        original(query, flags);
    }
}

/// A utility statement is about to run. Most that read rows do so through the executor.
///
/// # Safety
/// `statement` is the utility statement that PostgreSQL processes now.
pub unsafe fn before_utility(statement: *mut pg_sys::Node) {
    // SAFETY: the tag tells what the node is.
    unsafe {
        match (*statement).type_ {
            NodeTag::T_CopyStmt => {
                let copy = &*statement.cast::<pg_sys::CopyStmt>();
                if !copy.is_from && !copy.relation.is_null() {
                    before(&Statement::Copy);
                }
            }
            NodeTag::T_FetchStmt if !is_open() => gate::wait_until_open(),
            // Whoever takes over another's snapshot wants that one.
            NodeTag::T_VariableSetStmt => {
                let set = &*statement.cast::<pg_sys::VariableSetStmt>();
                if !set.name.is_null() && CStr::from_ptr(set.name) == c"TRANSACTION SNAPSHOT" {
                    HAS_RUN.set(true);
                }
            }
            _ => {}
        }
    }
}

/// Runs a function that reads large objects: no query tells of that. Each one has a snapshot of its own unless all
/// statements of the transaction see one.
///
/// # Safety
/// Nothing that needs a destructor is alive in the callers: an error of `run` jumps over them.
pub unsafe fn large_object<R>(run: impl FnOnce() -> R) -> R {
    // SAFETY: a plain variable of this process.
    let message = unsafe { pg_sys::GetCurrentStatementStartTimestamp() };
    let (was_open, wanted) = (is_open(), settings::READ_CONSISTENCY.get());
    let keeps_snapshot = snapshot::is_the_transactions();
    let is_settled = keeps_snapshot && HAS_RUN.get();
    if !was_open {
        gate::wait_until_open();
    }
    if is_settled || (was_open && wanted == Consistency::Local) {
        return run();
    }
    let is_old = (LOOKED_AT.get() != message && consistency::wait(wanted)) || !was_open;
    LOOKED_AT.set(message);
    if keeps_snapshot {
        HAS_RUN.set(true);
        if is_old {
            snapshot::renew(std::ptr::null_mut());
        }
        return run();
    }
    // SAFETY: pushed and popped here; an error ends the transaction or savepoint, and with it the snapshot.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let result = run();
        pg_sys::PopActiveSnapshot();
        result
    }
}

/// What is about to read.
enum Statement {
    Query(*mut pg_sys::QueryDesc),
    /// `COPY table TO`, under the active snapshot.
    Copy,
}

impl Statement {
    fn reads_rows(&self) -> bool {
        match *self {
            // SAFETY: a query that is about to start.
            Self::Query(query) => unsafe { gate::reads_rows((*query).plannedstmt) },
            Self::Copy => true,
        }
    }
}

fn is_open() -> bool {
    shared().serving() || settings::MINORITY_READS.get()
}

fn before(statement: &Statement) {
    // SAFETY: a plain variable of this process.
    let message = unsafe { pg_sys::GetCurrentStatementStartTimestamp() };
    let is_first = LOOKED_AT.get() != message;
    let (is_open, wanted) = (is_open(), settings::READ_CONSISTENCY.get());
    if !is_open || (is_first && wanted != Consistency::Local) {
        wait(statement, is_first, is_open, wanted);
    } else {
        LOOKED_AT.set(message);
    }
    HAS_RUN.set(true);
}

/// Waits for the gate and for what is wanted, and takes the snapshot anew.
#[cold]
fn wait(statement: &Statement, is_first: bool, is_open: bool, wanted: Consistency) {
    let (reads_rows, keeps_snapshot) = (statement.reads_rows(), snapshot::is_the_transactions());
    // What reads no rows itself may call functions that do: they are looked at in its
    // place. But at REPEATABLE READ they have its snapshot.
    if !reads_rows && !keeps_snapshot {
        return;
    }
    let may_renew = is_first && !(keeps_snapshot && HAS_RUN.get());
    let mut is_old = false;
    if reads_rows && !is_open {
        gate::wait_until_open();
        is_old = true;
    }
    if may_renew {
        is_old |= consistency::wait(wanted);
        if is_old {
            snapshot::renew(match *statement {
                Statement::Query(query) => query,
                Statement::Copy => std::ptr::null_mut(),
            });
        }
    }
    // SAFETY: a plain variable of this process.
    LOOKED_AT.set(unsafe { pg_sys::GetCurrentStatementStartTimestamp() });
}
