//! Tells a victim over what it lost.
//!
//! Whoever clears its way leaves its process number in the blocker's slot,
//! together with the local transaction id that it found there. The victim
//! looks up what that process needs, and names its own key that is in its way.
//!
//! Most victims end in PostgreSQL's own error for a conflict with recovery,
//! raised wherever interrupts are welcome. Its words are about standbys, so an
//! error context callback puts ours in their place. It stands at the bottom of
//! the stack, below whatever a statement pushes, and so stays when the session
//! idles between statements. It gets there when the session's first statement is
//! analyzed, and again after an error, which empties the stack.

use std::ffi::{CString, c_char, c_int};

use pgrx::pg_sys;

use crate::capture::{self, UsedKey};
use crate::commit;
use crate::error::PgSqlErrorCode;
use crate::failpoint::{self, Failpoint};
use crate::shmem::{Fence, State, shared};

static mut CONTEXT: pg_sys::ErrorContextCallback = pg_sys::ErrorContextCallback {
    previous: std::ptr::null_mut(),
    callback: Some(on_error),
    arg: std::ptr::null_mut(),
};

unsafe extern "C-unwind" {
    /// `elog.c`: these set parts of the error that is being reported.
    fn errmsg_internal(format: *const c_char, ...) -> c_int;
    fn errdetail_internal(format: *const c_char, ...) -> c_int;
    fn errhint(format: *const c_char, ...) -> c_int;
}

/// Makes sure that errors of this session pass us. Never fails: ABORT callbacks
/// call it.
pub fn watch_errors() {
    // SAFETY: a list of this process; its elements outlive their stay in it,
    // and ours lives for ever.
    unsafe {
        let ours = &raw mut CONTEXT;
        let mut link = &raw mut pg_sys::error_context_stack;
        while !(*link).is_null() {
            if *link == ours {
                return;
            }
            link = &raw mut (**link).previous;
        }
        (*ours).previous = std::ptr::null_mut();
        *link = ours;
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_error(_arg: *mut std::ffi::c_void) {
    // SAFETY: errfinish calls this with the error's data on its stack.
    if unsafe { pg_sys::geterrcode() } != PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE as i32 {
        return;
    }
    let Some(loss) = Loss::find() else { return };
    // SAFETY: every process with a transaction has a PGPROC.
    shared().my_slot().hear(unsafe { (*pg_sys::MyProc).lxid });
    failpoint::reach(Failpoint::HeardPause);
    let detail = loss.to_string();
    loss.record();
    let text = |text: &str| CString::new(text).unwrap_or_default();
    let (message, detail, hint) = (text(commit::VICTIM_MESSAGE), text(&detail), text(commit::VICTIM_HINT));
    // SAFETY: as above; the texts are copied.
    unsafe {
        errmsg_internal(c"%s".as_ptr(), message.as_ptr());
        errdetail_internal(c"%s".as_ptr(), detail.as_ptr());
        errhint(c"%s".as_ptr(), hint.as_ptr());
    }
}

/// In whose way this process's transaction stood, and with what, in words.
pub fn detail() -> Option<String> {
    Loss::find().map(|loss| loss.to_string())
}

/// What this process's transaction lost.
enum Loss {
    /// To a transaction of that node, ordered at that seq: a key, or a table's lock.
    Ordered { node: u32, seq: u64, key: Option<UsedKey>, table: String },
    /// To a transaction of this node that changes the catalog.
    Definition,
    /// The winner is gone already.
    Somebody,
}

impl Loss {
    /// `None` if it stood in nobody's way. Looks at memory only: errors are
    /// reported from here.
    fn find() -> Option<Self> {
        let slot = shared().my_slot();
        if !matches!(slot.state(), State::Free | State::Open(_) | State::Victim(_)) {
            return None;
        }
        // SAFETY: every process with a transaction has a PGPROC.
        let accuser = slot.accuser(unsafe { (*pg_sys::MyProc).lxid })?;
        let accuser = &shared().slots()[accuser];
        Some(match accuser.state() {
            State::Applying(_) | State::Yielded(_) => {
                let needs = &accuser.needs;
                let key = needs.keys().find_map(|hash| capture::transaction().key_with_hash(hash));
                Self::Ordered { node: needs.node(), seq: needs.seq(), key, table: needs.relation() }
            }
            State::Open(_) if matches!(accuser.fence(), Fence::Held(_)) => Self::Definition,
            _ => Self::Somebody,
        })
    }

    /// For `pgrenga.conflicts`.
    fn record(self) {
        if let Self::Ordered { node, seq, key, table } = self {
            key.unwrap_or(UsedKey { table, ..UsedKey::default() }).record_lost(node, seq);
        }
    }
}

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ordered { node, seq, key: Some(key), .. } => {
                write!(f, "{key}, which a transaction of node {node} changed at seq {seq}.")
            }
            Self::Ordered { node, seq, key: None, table } if table.is_empty() => {
                write!(f, "It held a lock that a transaction of node {node}, ordered at seq {seq}, needed.")
            }
            Self::Ordered { node, seq, key: None, table } => write!(
                f,
                "It held a lock on table \"{table}\" that a transaction of node {node}, ordered at seq {seq}, needed."
            ),
            Self::Definition => {
                f.write_str("It held a lock that a transaction of this node, which changes the catalog, needed.")
            }
            Self::Somebody => f.write_str("It held a lock that an ordered transaction needed."),
        }
    }
}
