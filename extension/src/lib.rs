//! pgrenga inside PostgreSQL.
//!
//! A transaction's way: `capture` records what it does to rows and `ddl`
//! its statements, `large_object` to large objects, `notify` what it tells listeners; `commit` hands the writeset over at pre-commit, through
//! the ring in `shmem` and the background worker in `port`, waits for the
//! verdict, and makes it visible in seq order. `apply` brings in other
//! nodes' writesets; `brute_force` clears its way. `read` says what a
//! statement may see, `serializable` what was seen, and `session` what another node
//! would have to restore.

mod apply;
mod backend;
mod brute_force;
mod builtin;
mod capture;
mod commit;
mod ddl;
mod error;
mod failpoint;
mod large_object;
mod notify;
mod patch;
mod port;
mod question;
mod read;
mod sequence;
mod serializable;
mod session;
mod settings;
mod shmem;

use pgrx::pg_sys;

pgrx::pg_module_magic!();

/// PostgreSQL calls this when it loads the library.
///
/// # Safety
/// Only PostgreSQL may call it.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn _PG_init() {
    // SAFETY: plain variables of this process.
    let (preloading, binary_upgrade) =
        unsafe { (pg_sys::process_shared_preload_libraries_in_progress, pg_sys::IsBinaryUpgrade) };
    if !preloading {
        error::raise(
            error::PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "pgrenga must be loaded through shared_preload_libraries",
            "It replaces functions of the heap access method before any session exists.",
            "Put pgrenga first in shared_preload_libraries and restart the server.",
        );
    }
    if binary_upgrade {
        return;
    }
    // Errors go to clients; a backtrace has no place there, and takes time.
    // SAFETY: the postmaster has one thread.
    unsafe { std::env::set_var("RUST_BACKTRACE", "0") };
    refuse_unless_first();
    settings::define();
    shmem::install();
    capture::install();
    commit::install();
    ddl::install();
    builtin::install();
    large_object::install();
    notify::install();
    serializable::install();
    read::install();
    session::install();
    brute_force::install();
    port::register();
}

/// Callbacks run last-registered first. Ours at pre-commit must be the last
/// one, after whatever else may still change rows.
fn refuse_unless_first() {
    // SAFETY: a C string that lives as long as the setting.
    let libraries = unsafe { std::ffi::CStr::from_ptr(pg_sys::shared_preload_libraries_string) }.to_string_lossy();
    let first = libraries.split(',').next().unwrap_or("").trim().trim_matches('"');
    let name = first.rsplit('/').next().unwrap_or(first);
    if !matches!(name, "pgrenga" | "pgrenga.so" | "libpgrenga" | "libpgrenga.so") {
        error::raise(
            error::PgSqlErrorCode::ERRCODE_CONFIG_FILE_ERROR,
            "pgrenga must be the first library in shared_preload_libraries",
            format!("shared_preload_libraries is \"{libraries}\"."),
            "Put pgrenga first.",
        );
    }
}
