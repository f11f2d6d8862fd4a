//! No value is handed out twice, though commits do not wait for PostgreSQL's
//! own WAL.
//!
//! `nextval()` writes WAL ahead, once in 32 values (`SEQ_LOG_VALS` in
//! sequence.c). In stock PostgreSQL that record is durable before anything that
//! uses the values, because a commit record comes after it. Here commits are
//! made durable by the log alone, and a crash may lose the record: then the
//! values come again, while the rows with the first ones come back from the
//! log. So before a transaction is handed over, or ends without a writeset,
//! WAL is flushed up to the last record of each sequence that it drew from,
//! whoever wrote that. It is the LSN of the sequence's only page, and in 31 of
//! 32 cases it is flushed already.

use pgrx::pg_sys;

use crate::backend::BackendLocal;
use crate::capture;

static DRAWN: BackendLocal<bool> = BackendLocal::new(false);

/// `nextval()` is about to run in this transaction.
pub fn note_drawn() {
    DRAWN.set(true);
}

/// The transaction is over. Never fails.
pub fn forget_drawn() {
    DRAWN.set(false);
}

/// For a transaction without a writeset, before its end: its client may know
/// values that it drew.
pub fn flush_if_drawn() {
    if DRAWN.get() {
        flush(&capture::sequences_in_use());
    }
}

/// Makes durable what was drawn from these sequences.
pub fn flush(sequences: &[pg_sys::Oid]) {
    for sequence in sequences {
        // SAFETY: the transaction holds a lock on the sequence, so that it and
        // its one page stay.
        unsafe {
            let relation = pg_sys::relation_open(*sequence, pg_sys::NoLock as i32);
            let buffer = pg_sys::ReadBuffer(relation, 0);
            let end = pg_sys::BufferGetLSNAtomic(buffer);
            pg_sys::ReleaseBuffer(buffer);
            pg_sys::relation_close(relation, pg_sys::NoLock as i32);
            pg_sys::XLogFlush(end);
        }
    }
}
