//! The applier: executes other nodes' writesets inside PostgreSQL.
//!
//! The daemon calls [`functions`] on connections of its own. One transaction
//! applies one writeset: it waits until everything that the writeset depends
//! on is visible, [`claim`]s the seq, executes the ops, and passes the
//! turnstile at pre-commit like any local transaction, so writesets execute in
//! parallel and commit in order.
//!
//! Nothing is computed again that the origin settled: no triggers, CHECKs,
//! defaults or generated columns. What the origin did not settle, expressions
//! of indexes, runs as the table's owner ([`owner`]). A row that is not found
//! is never skipped ([`failure::diverged`]).

mod claim;
mod execution;
mod failure;
mod functions;
mod marker;
mod owner;
mod pending;
mod progress;
mod relation;
mod rows;
mod search;
mod value;

pub use failure::{already_visible, give_up};

use pgrx::pg_sys;

use crate::backend::BackendLocal;
use crate::commit;
use crate::error::{PgSqlErrorCode, raise};
use crate::shmem::{State, shared};
use execution::Execution;
use pending::Pending;
use relation::Described;

/// A writeset on its way; it lives as long as its transaction.
struct Writeset {
    seq: u64,
    /// The relations that its ops name, by ordinal.
    relations: Vec<Option<Described>>,
    /// The beginning of an op that goes on in the next piece.
    pending: Pending,
    /// Whether the last piece has come.
    complete: bool,
}

/// The seq that this process's transaction applies; zero for none.
static ACTIVE: BackendLocal<u64> = BackendLocal::new(0);
/// Between two pieces, what the next one needs.
static WRITESET: BackendLocal<Option<Writeset>> = BackendLocal::new(None);

/// Whether this process's transaction applies a writeset: capture and the DDL
/// hooks let everything pass.
pub fn active() -> bool {
    ACTIVE.get() != 0
}

/// Forgets the transaction. COMMIT and ABORT callbacks call this: it neither
/// allocates nor fails.
pub fn reset() {
    ACTIVE.set(0);
    // SAFETY: `apply` holds no borrow while anything of PostgreSQL runs.
    unsafe { *WRITESET.borrow() = None };
}

/// Refuses to commit a writeset of which the last piece has not come. For the
/// PRE_COMMIT callback, before the turnstile.
pub fn check_complete(seq: u64) {
    // SAFETY: a short borrow.
    if !unsafe { WRITESET.borrow() }.as_ref().is_some_and(|writeset| writeset.complete) {
        failure::protocol(format!("The transaction of seq {seq} ended before the writeset's last piece."));
    }
}

/// Executes one piece of writeset `seq`, once `after` is visible. Does nothing
/// if `seq` is visible already.
fn apply(seq: u64, after: u64, origin: u32, piece: &[u8], last: bool) {
    // SAFETY: a short borrow; from here on the writeset is this frame's own.
    let writeset = unsafe { WRITESET.borrow() }.take();
    let Some(mut writeset) = writeset.or_else(|| begin(seq, after, origin)) else { return };
    if writeset.seq != seq || writeset.complete {
        failure::protocol(format!("A piece of seq {seq} came in the transaction of seq {}.", writeset.seq));
    }
    Execution::new(&mut writeset).run(piece);
    if last {
        if !writeset.pending.is_empty() {
            failure::malformed("the last op is cut off");
        }
        writeset.complete = true;
    }
    // SAFETY: a short borrow.
    unsafe { *WRITESET.borrow() = Some(writeset) };
}

/// Claims `seq` for this transaction; `None` if it is visible already.
fn begin(seq: u64, after: u64, origin: u32) -> Option<Writeset> {
    if shared().turnstile.visible() >= seq {
        return None;
    }
    if shared().my_slot().state() != State::Free {
        failure::protocol("The transaction has written before.");
    }
    // SAFETY: plain variables of this process.
    unsafe {
        if pg_sys::XactIsoLevel != pg_sys::XACT_READ_COMMITTED as i32 {
            raise(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "writesets are applied in READ COMMITTED transactions only",
                "Other levels would find conflicts that certification has settled.",
                "",
            );
        }
        // The origin was not read-only, whatever this server's default is.
        pg_sys::XactReadOnly = false;
    }
    commit::wait_visible(after, None, interrupt);
    commit::ensure_origin();
    shared().my_slot().needs.begin(origin);
    if !claim::claim(seq) {
        return None;
    }
    ACTIVE.set(seq);
    Some(Writeset { seq, relations: Vec::new(), pending: Pending::new(), complete: false })
}

/// Handles what this process was told while it worked or waited: a cancel, the
/// end, or to make way for an earlier seq.
fn interrupt() {
    // SAFETY: called between ops and while waiting, where an error may end the transaction.
    unsafe {
        if pg_sys::InterruptPending != 0 {
            pg_sys::ProcessInterrupts();
        }
    }
    if let State::Yielded(seq) = shared().my_slot().state() {
        give_up(seq);
    }
}
