//! Gives a session what one on another server had. Anybody may call it: it does nothing that the session
//! could not do itself by SET and PREPARE.

use std::ffi::{CStr, CString};

use pgrenga_writeset::session::State;
use pgrx::{Spi, pg_extern, pg_sys};

use crate::commit;
use crate::error::{PgSqlErrorCode, raise};
use crate::read;
use crate::settings;

/// Once `commit_seq` is visible here, takes over `state`. The seq is the session's last commit from then on.
#[pg_extern]
fn pgrenga_restore_session(state: &str, commit_seq: i64) {
    let Some(State { settings, prepared }) = State::decode(state) else { unreadable() };
    let commit_seq = u64::try_from(commit_seq).unwrap_or(0);
    // SAFETY: inside a statement, where interrupts are welcome.
    let interrupts = || unsafe { pg_sys::ProcessInterrupts() };
    if !commit::wait_visible(commit_seq, Some(settings::COMMIT_TIMEOUT_MS.get() as u64), interrupts) {
        read::late(commit_seq);
    }
    read::report_commit(commit_seq);
    for (name, value) in settings {
        let (Ok(name), Ok(value)) = (CString::new(name), CString::new(value)) else { unreadable() };
        set(&name, &value);
    }
    for statement in prepared {
        let text = String::from_utf8(statement).unwrap_or_else(|_| unreadable());
        if let Err(error) = Spi::run(&text) {
            raise(
                PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                "a prepared statement could not be restored",
                error.to_string(),
                "",
            );
        }
    }
}

fn set(name: &CStr, value: &CStr) {
    // SAFETY: inside a transaction; the texts are copied.
    unsafe {
        let context = if pg_sys::superuser() { pg_sys::GucContext::PGC_SUSET } else { pg_sys::GucContext::PGC_USERSET };
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            context,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SET,
            true,
            0,
            false,
        );
    }
    super::mark();
}

fn unreadable() -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        "this is not a session's state",
        "It is what pgrenga.session reports, behind its last vertical bar.",
        "",
    )
}
