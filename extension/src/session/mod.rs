//! Sessions that go on at another node.
//!
//! With `pgrenga.report_session`, which the balancer asks for, the setting `pgrenga.session` tells the client
//! whenever it changes what the session has: its settings, and its prepared statements' texts, which [`restore`] puts
//! into a session on another server, and what no other server can be given. So a balancer knows it when the server
//! is gone; a session whose state does not change pays nothing.
//!
//! Whatever may change it marks the setting as changed; the text is made when PostgreSQL asks for it, just before it
//! is ready for the next message (`ReportChangedGUCOptions` in `guc.c`), and only outside of transactions: what a
//! transaction sets may be taken back. The mark is a change of the setting itself, so that a ROLLBACK, which takes it
//! back, marks it again; a COMMIT marks it in its pre-commit.

mod lost;
mod report;
mod restore;
mod stored_key;

pub use lost::{check as check_lost, end_transaction};
pub use report::show as show_session;
pub use stored_key::show as show_stored_key;

use std::ffi::CStr;

use pgrx::pg_sys::{self, NodeTag};

use crate::backend::BackendLocal;
use crate::settings;

/// Something of what is reported may have changed since.
static IS_MARKED: BackendLocal<bool> = BackendLocal::new(false);

/// Installs the hooks. Call from `_PG_init`.
pub fn install() {
    stored_key::install();
}

/// A utility statement is about to run.
///
/// # Safety
/// `statement` is the utility statement that PostgreSQL processes now.
pub unsafe fn before_utility(statement: *mut pg_sys::Node) {
    // SAFETY: the tag tells what the node is; names are C strings, or null.
    unsafe {
        let tag = (*statement).type_;
        lost::before_utility(statement);
        if !settings::REPORT_SESSION.get() {
            return;
        }
        match tag {
            NodeTag::T_PrepareStmt => report::prepared(CStr::from_ptr((*statement.cast::<pg_sys::PrepareStmt>()).name)),
            NodeTag::T_DeallocateStmt => {
                let name = (*statement.cast::<pg_sys::DeallocateStmt>()).name;
                report::deallocated((!name.is_null()).then(|| CStr::from_ptr(name)));
            }
            NodeTag::T_DiscardStmt => {
                if (*statement.cast::<pg_sys::DiscardStmt>()).target == pg_sys::DiscardMode::DISCARD_ALL {
                    report::deallocated(None);
                }
            }
            NodeTag::T_DeclareCursorStmt => {
                let cursor = &*statement.cast::<pg_sys::DeclareCursorStmt>();
                if cursor.options as u32 & pg_sys::CURSOR_OPT_HOLD == 0 {
                    return;
                }
                report::held(CStr::from_ptr(cursor.portalname));
            }
            NodeTag::T_VariableSetStmt
            | NodeTag::T_ListenStmt
            | NodeTag::T_UnlistenStmt
            | NodeTag::T_ClosePortalStmt => {}
            _ => return,
        }
    }
    mark();
}

/// A function is about to run.
pub fn before_function(function: pg_sys::Oid) {
    let changes_session = matches!(
        u32::from(function),
        pg_sys::F_SET_CONFIG | pg_sys::F_PG_ADVISORY_LOCK_INT8..=pg_sys::F_PG_ADVISORY_UNLOCK_ALL
    );
    if changes_session && settings::REPORT_SESSION.get() {
        mark();
    }
}

/// The transaction is about to commit.
pub fn before_commit() {
    lost::before_commit();
    if settings::REPORT_SESSION.get() && (IS_MARKED.get() || report::has_other_temporaries()) {
        mark();
    }
}

/// Has PostgreSQL ask for the text. Inside a transaction.
fn mark() {
    IS_MARKED.set(true);
    // SAFETY: settings may change inside a transaction. The value is of no account; the texts are static.
    unsafe {
        pg_sys::SetConfigOption(
            settings::SESSION_NAME.as_ptr(),
            c"changed".as_ptr(),
            pg_sys::GucContext::PGC_INTERNAL,
            pg_sys::GucSource::PGC_S_SESSION,
        );
    }
}
