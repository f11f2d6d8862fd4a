//! Where this node is in the log.

use pgrx::pg_sys;

use crate::shmem::shared;

/// Creates the replication origins of processes 0..`count` that do not exist;
/// for zero, of as many processes as the server can have.
pub(super) fn create_origins(count: i32) {
    // SAFETY: constant after server start.
    let count = if count > 0 { count } else { unsafe { pg_sys::MaxBackends } };
    for procno in 0..count {
        // `commit::ensure_origin` looks for this name.
        let name = std::ffi::CString::new(format!("pgrenga_{procno}")).expect("no zero byte in it");
        // SAFETY: inside a transaction, as catalog changes need.
        unsafe {
            if pg_sys::replorigin_by_name(name.as_ptr(), true) == 0 {
                pg_sys::replorigin_create(name.as_ptr());
            }
        }
    }
}

/// The highest seq that PostgreSQL's commit records name. After a crash that
/// is the one to go on from.
pub(super) fn recovered() -> u64 {
    let highest = pgrx::Spi::get_one::<i64>(
        "SELECT coalesce(max(s.remote_lsn - '0/0'::pg_catalog.pg_lsn), 0)::bigint \
         FROM pg_catalog.pg_replication_origin_status s WHERE s.external_id LIKE 'pgrenga\\_%'",
    );
    match highest {
        Ok(seq) => seq.unwrap_or(0) as u64,
        Err(error) => panic!("could not read the replication origins: {error}"),
    }
}

/// Makes what is visible durable, and says up to where.
pub(super) fn flush() -> u64 {
    let visible = shared().turnstile.visible();
    // SAFETY: reads the insert position, which is behind the commit records of
    // all that is visible, and waits for the disk.
    unsafe { pg_sys::XLogFlush(end_of_wal()) };
    visible
}

/// End of the last record. The insert position itself is behind a page's
/// header when that page is still empty, and flushing up to there fails.
unsafe fn end_of_wal() -> pg_sys::XLogRecPtr {
    /// `SizeOfXLogShortPHD`, `SizeOfXLogLongPHD` in xlog_internal.h.
    const PAGE_HEADERS: [u64; 2] = [24, 40];
    // SAFETY: a read under a spinlock.
    let position = unsafe { pg_sys::GetXLogInsertRecPtr() };
    let in_page = position % u64::from(pg_sys::XLOG_BLCKSZ);
    if PAGE_HEADERS.contains(&in_page) { position - in_page } else { position }
}
