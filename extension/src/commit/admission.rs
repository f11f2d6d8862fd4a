//! Who may come in while the node is detached, or the server not up to date.
//!
//! A node that is detached or lags goes on with the sessions that it has; new ones are
//! turned away at once, so that they go to another node.
//!
//! PostgreSQL may come back from a crash without its last commits, which are
//! durable in the log. Until the daemon has applied them and granted the first
//! lease, a session would show an older state than this server showed before.
//! It has to wait before it takes its first snapshot: when it connects. Afterwards
//! the server only goes forward. Where the configuration has `pgrenga.minority_reads`
//! on, an older state is what was asked for.

use std::ffi::{CStr, c_char, c_int, c_void};

use pgrx::pg_sys;

use crate::error::{PgSqlErrorCode, raise};
use crate::read;
use crate::settings;
use crate::shmem::{self, shared};

/// The beginning of `libpq/libpq-be.h`'s `Port`, which the bindings lack.
#[repr(C)]
struct Port {
    socket: c_int,
    no_block: bool,
    protocol: u32,
    local: SocketAddress,
    remote: SocketAddress,
    remote_host: *const c_char,
    remote_hostname: *const c_char,
    remote_hostname_resolved: c_int,
    remote_hostname_error: c_int,
    remote_port: *const c_char,
    can_accept_connections: c_int,
    database_name: *const c_char,
    user_name: *const c_char,
    command_line_options: *const c_char,
    settings: *const c_void,
    application_name: *const c_char,
}

/// `libpq/pqcomm.h`'s `SockAddr`.
#[repr(C)]
struct SocketAddress {
    address: libc::sockaddr_storage,
    length: libc::socklen_t,
}

type Hook = Option<unsafe extern "C-unwind" fn(*mut Port, c_int)>;

unsafe extern "C" {
    /// `libpq/auth.h`.
    static mut ClientAuthentication_hook: Hook;
}

static mut PREVIOUS: Hook = None;

/// Installs the hook. Call from `_PG_init`.
pub fn install() {
    // SAFETY: in the postmaster, single-threaded.
    unsafe {
        PREVIOUS = ClientAuthentication_hook;
        ClientAuthentication_hook = Some(on_authenticated);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_authenticated(port: *mut Port, status: c_int) {
    // SAFETY: the hook's contract; nothing here needs dropping.
    unsafe {
        if let Some(previous) = PREVIOUS {
            previous(port, status);
        }
        let is_accepted = status == pg_sys::STATUS_OK as c_int;
        if is_accepted && !pg_sys::am_walsender && !is_own(&*port) {
            admit(is_verify(&*port));
        }
    }
}

/// `pgrenga verify` looks into detached nodes, too.
fn is_verify(port: &Port) -> bool {
    // SAFETY: a C string, if it is there.
    unsafe { !port.application_name.is_null() && CStr::from_ptr(port.application_name) == c"pgrenga verify" }
}

/// Whether the node's own programs connect: they bring the server up to date.
fn is_own(port: &Port) -> bool {
    // SAFETY: a C string, if it is there.
    let name = unsafe { (!port.application_name.is_null()).then(|| CStr::from_ptr(port.application_name)) };
    c_int::from(port.remote.address.ss_family) == libc::AF_UNIX && name == Some(c"pgrenga")
}

/// Lets a session in once the server is up to date, or turns it away.
fn admit(even_if_detached: bool) {
    let deadline = shmem::monotonic_ms() + settings::COMMIT_TIMEOUT_MS.get() as u64;
    loop {
        // In this order: the daemon closes the door before the first lease.
        let has_served = shared().has_served() || settings::MINORITY_READS.get();
        if shared().turns_away() && !even_if_detached {
            raise(
                PgSqlErrorCode::ERRCODE_CANNOT_CONNECT_NOW,
                "this node takes no new sessions",
                "It is detached, lags too far behind the other nodes, or replaces its data.",
                "Use another node; \"pgrenga status\" shows which ones serve, and \"pgrenga attach\" ends a detachment.",
            );
        }
        if has_served {
            return;
        }
        // SAFETY: a session that begins may be ended.
        unsafe { pg_sys::ProcessInterrupts() };
        if shmem::monotonic_ms() >= deadline {
            raise(
                PgSqlErrorCode::ERRCODE_CANNOT_CONNECT_NOW,
                "this node is not up to date since its server started",
                read::reason(),
                "Try again, or use another node; \"pgrenga status\" shows which ones serve.",
            );
        }
        shmem::sleep(20);
    }
}
