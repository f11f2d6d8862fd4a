//! A victim finds out at the beginning of its next statement.

use pgrx::pg_sys;

use super::watch_errors;
use crate::commit;
use crate::shmem::{State, shared};

unsafe extern "C-unwind" {
    /// `execMain.c`. pgrx's own binding would strip an error of all but its
    /// message.
    #[link_name = "standard_ExecutorStart"]
    fn unguarded_standard_executor_start(query: *mut pg_sys::QueryDesc, flags: i32);
}

static mut PREVIOUS: pg_sys::ExecutorStart_hook_type = None;
static mut PREVIOUS_ANALYZE: pg_sys::post_parse_analyze_hook_type = None;

/// Installs the hooks. Call from `_PG_init`.
pub fn install() {
    // SAFETY: in the postmaster, single-threaded.
    unsafe {
        PREVIOUS = pg_sys::ExecutorStart_hook;
        pg_sys::ExecutorStart_hook = Some(on_executor_start);
        PREVIOUS_ANALYZE = pg_sys::post_parse_analyze_hook;
        pg_sys::post_parse_analyze_hook = Some(on_analyzed);
    }
}

/// Of all hooks this one runs first in a session, and outside of any `PG_TRY`,
/// which would put the error context stack back to what it was.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_analyzed(
    state: *mut pg_sys::ParseState,
    query: *mut pg_sys::Query,
    jumble: *mut pg_sys::JumbleState,
) {
    watch_errors();
    // SAFETY: the hook's contract; nothing here needs dropping.
    unsafe {
        if let Some(previous) = PREVIOUS_ANALYZE {
            previous(state, query, jumble);
        }
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_executor_start(query: *mut pg_sys::QueryDesc, flags: i32) {
    if matches!(shared().my_slot().state(), State::Victim(_)) {
        commit::victim();
    }
    // SAFETY: the hook's contract. Nothing here needs dropping, so an error may
    // jump past us, with its constraint and position.
    unsafe {
        match PREVIOUS {
            Some(previous) => previous(query, flags),
            None => unguarded_standard_executor_start(query, flags),
        }
    }
}
