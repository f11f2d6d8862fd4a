//! `pgrenga.ack`: who shows a transaction when its client hears that it is committed.
//!
//! PostgreSQL has no hook between a commit and its answer. But each commit changes
//! `pgrenga.commit_seq`, a setting that is reported to the client: PostgreSQL asks for
//! its value outside of any transaction, with no lock held, just before it ends the
//! answer and sends it (`ReportChangedGUCOptions` in `guc.c`, called by
//! `PostgresMain`). That is where this waits. Only a client that asks for an answer to
//! be flushed earlier, within a pipeline, hears of a commit before.
//!
//! The transaction is committed then, whatever happens: so the wait ends with a
//! warning, never with an error (compare `SyncRepWaitForLSN` in `syncrep.c`).

use std::ffi::{CString, c_char};

use pgrenga_writeset::Seq;
use pgrenga_writeset::port::Topic;
use pgrx::guc::PostgresGucEnum;
use pgrx::prelude::*;

use crate::backend::BackendLocal;
use crate::question;
use crate::settings;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum Ack {
    /// A majority has it durably, and this node shows it.
    #[name = c"majority"]
    Majority,
    /// Every node that serves shows it.
    #[name = c"all"]
    All,
}

/// What every node has to show before the client is answered; zero for nothing.
static AWAITED: BackendLocal<u64> = BackendLocal::new(0);
/// What the hook returned last.
static SHOWN: BackendLocal<Option<CString>> = BackendLocal::new(None);

/// The transaction got its seq.
pub fn note(seq: u64) {
    if settings::ACK.get() == Ack::All {
        AWAITED.set(seq);
    }
}

/// It did not commit after all. Never fails.
pub fn forget() {
    AWAITED.set(0);
}

/// The value of `pgrenga.commit_seq`.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn show_commit_seq() -> *const c_char {
    // SAFETY: plain looks at this process's state.
    let is_idle = unsafe { !pg_sys::IsTransactionOrTransactionBlock() };
    if is_idle && AWAITED.get() != 0 {
        let seq = AWAITED.get();
        AWAITED.set(0);
        await_everywhere(seq);
    }
    // SAFETY: the borrow ends before PostgreSQL is called again; the text lives until the next call.
    unsafe { SHOWN.borrow() }.insert(settings::COMMIT_SEQ.get().unwrap_or_default()).as_ptr()
}

fn await_everywhere(seq: u64) {
    // SAFETY: flags that signal handlers set.
    let is_interrupted = || unsafe { pg_sys::QueryCancelPending != 0 || pg_sys::ProcDiePending != 0 };
    let answer = question::ask_unless(Topic::Everywhere(Seq(seq)), super::submit::commit_deadline(), is_interrupted);
    if answer.is_some() {
        return;
    }
    let why = if is_interrupted() { "The wait was interrupted." } else { "pgrenga.commit_timeout is over." };
    // SAFETY: the request was for a transaction that is over.
    unsafe { pg_sys::QueryCancelPending = 0 };
    ereport!(
        PgLogLevel::WARNING,
        PgSqlErrorCode::ERRCODE_WARNING,
        "not every node shows the transaction yet",
        format!("{why} The transaction is committed on this node and durable on a majority.")
    );
}
