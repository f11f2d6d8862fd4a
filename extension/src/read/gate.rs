//! The gate: a server without a lease serves no rows, unless it is told to.
//!
//! What it is told by is `pgrenga.minority_reads`. Catalogs, temporary and foreign
//! tables and pgrenga's own functions stay readable: without them nobody could find
//! out what is wrong.

use std::borrow::Cow;

use pgrenga_writeset::port::Standing;
use pgrx::pg_sys;

use crate::ddl::items;
use crate::error::{PgSqlErrorCode, raise};
use crate::settings;
use crate::shmem::{self, shared};

/// Whether a query reads rows of permanent tables of users.
///
/// # Safety
/// `planned` is a valid plan, and a transaction is open.
pub(super) unsafe fn reads_rows(planned: *mut pg_sys::PlannedStmt) -> bool {
    // SAFETY: a plan's flat range table; its relations are locked.
    unsafe {
        items::<pg_sys::RangeTblEntry>((*planned).rtable).any(|entry| {
            let entry = &*entry;
            entry.rtekind == pg_sys::RTEKind::RTE_RELATION
                && entry.requiredPerms & pg_sys::ACL_SELECT != 0
                && matches!(
                    entry.relkind as u8,
                    pg_sys::RELKIND_RELATION | pg_sys::RELKIND_PARTITIONED_TABLE | pg_sys::RELKIND_MATVIEW
                )
                && entry.relid.to_u32() >= pg_sys::FirstNormalObjectId
                && pg_sys::get_rel_persistence(entry.relid) as u8 == pg_sys::RELPERSISTENCE_PERMANENT
        })
    }
}

/// Waits until the server serves reads, for `pgrenga.commit_timeout`, or raises an error.
pub(super) fn wait_until_open() {
    if !wait_until_serving(|| shared().serving()) {
        raise(
            PgSqlErrorCode::ERRCODE_CANNOT_CONNECT_NOW,
            "this node does not serve reads now",
            reason(),
            "Try again, or use another node; \"pgrenga status\" shows which ones serve. \
             A superuser can read what may be old with SET pgrenga.minority_reads = on.",
        );
    }
}

/// Waits for the daemon to let this server serve, for `pgrenga.commit_timeout`; false if it
/// does not. Not for a node that differs or is out: that does not heal while somebody waits.
pub fn wait_until_serving(is_serving: impl Fn() -> bool) -> bool {
    let deadline = shmem::monotonic_ms() + settings::COMMIT_TIMEOUT_MS.get() as u64;
    while !is_serving() {
        // SAFETY: the caller is inside a statement, where interrupts are welcome.
        unsafe { pg_sys::ProcessInterrupts() };
        if shmem::monotonic_ms() >= deadline
            || matches!(shared().standing(), Some(Standing::Different | Standing::Removed))
        {
            return false;
        }
        shmem::sleep(20);
    }
    true
}

/// Why this server does not serve, for DETAIL.
pub fn reason() -> Cow<'static, str> {
    let reason = match shared().standing() {
        None => "Its daemon is not running.",
        Some(Standing::CatchingUp) => "It is catching up with the other nodes.",
        Some(Standing::Alone) => "It is cut off from the majority of the nodes.",
        Some(Standing::Removed) => "It was removed from the cluster.",
        Some(Standing::Different) => {
            return format!("Its data is not what the cluster's log decided: {}.", shared().problem.get()).into();
        }
        Some(Standing::Serving) => "Its daemon does not answer.",
    };
    reason.into()
}
