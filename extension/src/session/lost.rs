//! A transaction that was open on a node that is gone. Its session goes on here, in a transaction that can only end:
//! whatever is asked of it first fails, so that the client hears of the loss as it does of any conflict, and ROLLBACK
//! rolls back what there is not.

use pgrx::{pg_extern, pg_sys};

use crate::backend::BackendLocal;
use crate::error::{PgSqlErrorCode, raise};

static IS_LOST: BackendLocal<bool> = BackendLocal::new(false);

/// Whatever follows in this transaction fails. Anybody may call it.
#[pg_extern]
fn pgrenga_lose_transaction() {
    IS_LOST.set(true);
}

/// Fails if the transaction is one that was lost.
pub fn check() {
    if IS_LOST.get() {
        fail();
    }
}

#[cold]
fn fail() -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "the transaction was lost with its node",
        "The node on which it ran is gone, or was taken out of service. It changed nothing.",
        "Try the transaction again.",
    )
}

/// # Safety
/// `statement` is a utility statement.
pub(super) unsafe fn before_utility(statement: *mut pg_sys::Node) {
    use pg_sys::TransactionStmtKind::{TRANS_STMT_COMMIT, TRANS_STMT_ROLLBACK};
    if !IS_LOST.get() {
        return;
    }
    // SAFETY: the tag tells what the node is.
    unsafe {
        if (*statement).type_ == pg_sys::NodeTag::T_TransactionStmt {
            let kind = (*statement.cast::<pg_sys::TransactionStmt>()).kind;
            // A COMMIT fails where others do, so that no transaction is open behind it.
            if matches!(kind, TRANS_STMT_COMMIT | TRANS_STMT_ROLLBACK) {
                return;
            }
        }
    }
    fail();
}

/// The transaction is about to commit.
pub(super) fn before_commit() {
    check();
}

/// COMMIT and ABORT callbacks call this.
pub fn end_transaction() {
    IS_LOST.set(false);
}
