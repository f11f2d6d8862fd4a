//! `pgrenga.read_consistency`: how fresh a statement's snapshot has to be.
//!
//! `session`: not before the session's own last commit, on whichever node that was:
//! `pgrenga.commit_seq` names it, is reported to the client after each commit, and
//! set by whoever takes the session to another node.
//!
//! `cluster`: not before anything that was acknowledged on any node. The daemon has a
//! majority confirm how far the log is, and tells the last seq given there.

use std::ffi::{CStr, CString, c_char, c_void};

use pgrenga_writeset::port::Topic;
use pgrx::guc::PostgresGucEnum;
use pgrx::pg_sys;

use super::snapshot;
use crate::backend::BackendLocal;
use crate::commit;
use crate::error::{PgSqlErrorCode, raise, refuse};
use crate::question;
use crate::settings;
use crate::shmem;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum Consistency {
    /// What this node shows.
    #[name = c"local"]
    Local,
    /// At least what the session has committed.
    #[name = c"session"]
    Session,
    /// At least what was acknowledged on any node.
    #[name = c"cluster"]
    Cluster,
}

/// A seq that every snapshot of this session includes.
static SEEN: BackendLocal<u64> = BackendLocal::new(0);

/// Waits until a snapshot taken now is as fresh as wanted; says whether an older one may not be.
pub(super) fn wait(wanted: Consistency) -> bool {
    let seq = match wanted {
        Consistency::Local => return false,
        Consistency::Session => settings::COMMIT_SEQ.get().and_then(|text| parse(&text)).unwrap_or(0),
        Consistency::Cluster => u64::MAX,
    };
    if seq <= SEEN.get() {
        return false;
    }
    if snapshot::is_serializable() {
        refuse(
            "pgrenga.read_consistency is not supported at SERIALIZABLE",
            "The transaction's snapshot cannot wait for commits of other nodes.",
            "Use REPEATABLE READ, or SET pgrenga.read_consistency = local.",
        );
    }
    let deadline = shmem::monotonic_ms() + settings::COMMIT_TIMEOUT_MS.get() as u64;
    let seq = if wanted == Consistency::Cluster { present(deadline) } else { seq };
    let left = deadline.saturating_sub(shmem::monotonic_ms());
    // SAFETY: inside a statement, where interrupts are welcome.
    if !commit::wait_visible(seq, Some(left), || unsafe { pg_sys::ProcessInterrupts() }) {
        late(seq);
    }
    SEEN.set(seq.max(SEEN.get()));
    true
}

/// The last seq that may have been acknowledged anywhere.
fn present(deadline: u64) -> u64 {
    match question::ask_until(Topic::Present, deadline).and_then(|text| text.parse().ok()) {
        Some(seq) => seq,
        None => raise(
            PgSqlErrorCode::ERRCODE_CANNOT_CONNECT_NOW,
            format!("no majority of the nodes told within {} ms what is to be read", settings::COMMIT_TIMEOUT_MS.get()),
            "The daemon is not running, is catching up, or is cut off from the majority of the nodes.",
            "Try again, use another node, or SET pgrenga.read_consistency = local.",
        ),
    }
}

/// This node did not show that seq in time.
pub fn late(seq: u64) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_CANNOT_CONNECT_NOW,
        format!("this node did not show seq {seq} within {} ms", settings::COMMIT_TIMEOUT_MS.get()),
        "It lags behind the other nodes, or there is no such seq yet.",
        "Try again, or use another node; \"pgrenga status\" shows how far each of them is.",
    )
}

/// Tells the client, and this session's later reads, what it has committed.
pub fn report_commit(seq: u64) {
    let text = CString::new(seq.to_string()).unwrap_or_default();
    // SAFETY: inside a transaction, in which settings may change; the text is copied.
    unsafe {
        pg_sys::SetConfigOption(
            settings::COMMIT_SEQ_NAME.as_ptr(),
            text.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
        );
    }
}

fn parse(text: &CStr) -> Option<u64> {
    text.to_str().ok()?.parse().ok().filter(|seq| *seq <= i64::MAX as u64)
}

/// Whether a value of `pgrenga.commit_seq` is one.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn check_commit_seq(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: the hook's contract: a C string, or null for none.
    unsafe { (*value).is_null() || parse(CStr::from_ptr(*value)).is_some() }
}
