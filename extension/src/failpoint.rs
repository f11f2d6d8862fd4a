//! Failpoints: for tests, a place on a write's way where it breaks.
//!
//! `SET pgrenga.failpoint = 'ordered_kill'` (superuser only) makes this session
//! fail, or pause, when its next transaction reaches that place.

use std::time::Duration;

use pgrx::guc::PostgresGucEnum;

use crate::error::{PgSqlErrorCode, raise};
use crate::settings;

/// Where and how this session fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum Failpoint {
    /// Nowhere.
    #[name = c"none"]
    None,
    /// The server crashes after the writeset was closed, before it is handed over.
    #[name = c"captured_kill"]
    CapturedKill,
    /// The server crashes after the writeset was handed over.
    #[name = c"submitted_kill"]
    SubmittedKill,
    /// The server crashes after the verdict.
    #[name = c"ordered_kill"]
    OrderedKill,
    /// An error is raised after the verdict, before the turnstile.
    #[name = c"ordered_error"]
    OrderedError,
    /// The server crashes between the turnstile and the commit record.
    #[name = c"committing_kill"]
    CommittingKill,
    /// An error is raised between the turnstile and the commit record, as
    /// another extension's pre-commit callback could.
    #[name = c"committing_error"]
    CommittingError,
    /// The server crashes after the commit record, before the commit is visible in seq order.
    #[name = c"committed_kill"]
    CommittedKill,
    /// The server crashes after the commit is visible, before the client hears of it.
    #[name = c"visible_kill"]
    VisibleKill,
    /// A transaction that hears that it is ended for an ordered one takes long to roll back.
    #[name = c"heard_pause"]
    HeardPause,
    /// A transaction that was rolled back takes long to give up its locks.
    #[name = c"aborted_pause"]
    AbortedPause,
}

const PAUSE: Duration = Duration::from_millis(200);

/// Fails here if this session was told to. A crash is that of the process
/// itself; PostgreSQL then restarts all of the server. Safe in callbacks that
/// must not fail, for the places that only kill.
pub fn reach(place: Failpoint) {
    if settings::FAILPOINT.get() != place {
        return;
    }
    if matches!(place, Failpoint::OrderedError | Failpoint::CommittingError) {
        raise(PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE, format!("failpoint {place:?}"), "", "");
    }
    if matches!(place, Failpoint::HeardPause | Failpoint::AbortedPause) {
        return std::thread::sleep(PAUSE);
    }
    // SAFETY: ends this process as kill -9 does.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
}
