//! The applier: executes other nodes' writesets inside PostgreSQL.
//!
//! The daemon calls [`functions`] on connections of its own. One transaction
//! applies a run of successive writesets, or one large one piece by piece: it waits
//! until everything that they depend on is visible, [`claim`]s the seqs, executes the
//! ops, and passes the turnstile at pre-commit like any local transaction, so runs
//! execute in parallel and commit in order.
//!
//! Nothing is computed again that the origin settled: no triggers, CHECKs,
//! defaults or generated columns. What the origin did not settle, expressions
//! of indexes, runs as the table's owner ([`owner`]). A row that is not found
//! is never skipped ([`failure::diverged`]).

mod claim;
mod execution;
mod failure;
mod functions;
mod large_objects;
mod marker;
mod owner;
mod pending;
mod progress;
mod relation;
mod replacement;
mod rows;
mod search;
mod value;

pub use failure::{already_visible, give_up};

use std::ops::RangeInclusive;

use pgrenga_writeset::run::Bodies;
use pgrx::pg_sys;

use crate::backend::BackendLocal;
use crate::commit;
use crate::error::{PgSqlErrorCode, raise};
use crate::shmem::{State, shared};
use execution::Execution;
use pending::Pending;
use relation::Described;

/// A writeset that comes in pieces; it lives as long as its transaction.
struct Writeset {
    seq: u64,
    /// The relations that its ops name, by ordinal.
    relations: Vec<Option<Described>>,
    /// The beginning of an op that goes on in the next piece.
    pending: Pending,
    /// Whether the last piece has come.
    complete: bool,
}

/// The (first) seq that this process's transaction applies; zero for none.
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
    let mut writeset = match unsafe { WRITESET.borrow() }.take() {
        Some(writeset) => writeset,
        None if begin(seq..=seq, after) => {
            shared().my_slot().needs.begin(origin, seq);
            Writeset::new(seq)
        }
        None => return,
    };
    if writeset.seq != seq || writeset.complete {
        failure::protocol(format!("A piece of seq {seq} came in the transaction of seq {}.", writeset.seq));
    }
    let mut execution = Execution::new(seq, &mut writeset.relations, &mut writeset.pending);
    execution.run(piece);
    execution.finish();
    if last {
        if !writeset.pending.is_empty() {
            failure::malformed("the last op is cut off");
        }
        writeset.complete = true;
    }
    // SAFETY: a short borrow.
    unsafe { *WRITESET.borrow() = Some(writeset) };
}

/// Executes the writesets of `run`, which stand at `first` and the seqs after it, once
/// `after` is visible. Does nothing if all of them are visible already.
fn apply_run(first: u64, after: u64, run: &[u8]) {
    let Some(more) = Bodies::new(run).count().checked_sub(1) else { failure::malformed("the run is empty") };
    if !begin(first..=first + more as u64, after) {
        return;
    }
    let mut writeset = Writeset::new(first);
    let mut execution = Execution::new(first, &mut writeset.relations, &mut writeset.pending);
    for (seq, body) in (first..).zip(Bodies::new(run)) {
        let (origin, ops) = body.unwrap_or_else(|error| failure::malformed(error));
        shared().my_slot().needs.begin(origin.0, seq);
        execution.begin(seq);
        execution.run(ops);
        if execution.is_cut_off() {
            failure::malformed("the last op is cut off");
        }
    }
    execution.finish();
    writeset.complete = true;
    // SAFETY: a short borrow.
    unsafe { *WRITESET.borrow() = Some(writeset) };
}

/// Claims `seqs` for this transaction, once `after` is visible; false if they are visible already.
fn begin(seqs: RangeInclusive<u64>, after: u64) -> bool {
    if shared().turnstile.visible() >= *seqs.end() {
        return false;
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
    let first = *seqs.start();
    if !claim::claim(seqs) {
        return false;
    }
    ACTIVE.set(first);
    true
}

impl Writeset {
    fn new(seq: u64) -> Self {
        Self { seq, relations: Vec::new(), pending: Pending::new(), complete: false }
    }
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
