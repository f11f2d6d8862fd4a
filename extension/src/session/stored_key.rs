//! What a balancer needs to log a session in on another node without its password: the role's StoredKey (RFC 5802).
//! With it, who has passed a client's SCRAM exchange on finds the ClientKey in the client's proof. It opens nothing by
//! itself; but who has seen the exchange, too, can log in. So it is told to nobody but the one that begins a session
//! with SCRAM and asks for it in the startup packet, over a connection that others cannot listen to; once; and SQL
//! cannot ask for it.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::net::{Ipv4Addr, Ipv6Addr};

use pgrx::pg_sys;

use crate::backend::BackendLocal;
use crate::settings;

/// `libpq-be.h` of PostgreSQL 15, as far as it is looked at. The bindings leave it out.
#[repr(C)]
struct Port {
    socket: c_int,
    noblock: bool,
    protocol: u32,
    local: Address,
    remote: Address,
    remote_host: *mut c_char,
    remote_hostname: *mut c_char,
    remote_hostname_resolv: c_int,
    remote_hostname_errcode: c_int,
    remote_port: *mut c_char,
    can_accept_connections: c_int,
    database_name: *mut c_char,
    user_name: *mut c_char,
    cmdline_options: *mut c_char,
    guc_options: *mut c_void,
    application_name: *mut c_char,
    hba: *mut HbaLine,
    authn_id: *const c_char,
    keepalives: [c_int; 8],
    gss: *mut c_void,
    ssl_in_use: bool,
}

#[repr(C)]
struct Address {
    storage: libc::sockaddr_storage,
    length: libc::socklen_t,
}

/// `hba.h`.
#[repr(C)]
struct HbaLine {
    line_number: c_int,
    raw_line: *mut c_char,
    connection_type: c_int,
    databases: *mut c_void,
    roles: *mut c_void,
    address: libc::sockaddr_storage,
    address_length: c_int,
    mask: libc::sockaddr_storage,
    mask_length: c_int,
    compare_method: c_int,
    hostname: *mut c_char,
    method: c_int,
}

/// `UserAuth` in `hba.h`.
const SCRAM: c_int = 6;

type Hook = unsafe extern "C-unwind" fn(*mut Port, c_int);

unsafe extern "C-unwind" {
    static mut ClientAuthentication_hook: Option<Hook>;
}

static mut PREVIOUS: Option<Hook> = None;
static KEY: BackendLocal<Option<CString>> = BackendLocal::new(None);
/// What the hook returned last.
static SHOWN: BackendLocal<Option<CString>> = BackendLocal::new(None);

pub(super) fn install() {
    // SAFETY: in the postmaster, single-threaded.
    unsafe {
        PREVIOUS = ClientAuthentication_hook;
        ClientAuthentication_hook = Some(on_authentication);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_authentication(port: *mut Port, status: c_int) {
    // SAFETY: the hook's contract: a connection, with its rule of `pg_hba.conf`, inside a transaction.
    unsafe {
        if status == pg_sys::STATUS_OK as c_int && (*(*port).hba).method == SCRAM && is_private(port) {
            let mut detail = std::ptr::null();
            let verifier = pg_sys::get_role_password((*port).user_name, &raw mut detail);
            let key = (!verifier.is_null()).then(|| stored_key(CStr::from_ptr(verifier))).flatten();
            *KEY.borrow() = key;
        }
        if let Some(previous) = PREVIOUS {
            previous(port, status);
        }
    }
}

/// Whether others cannot listen.
///
/// # Safety
/// `port` is a connection.
unsafe fn is_private(port: *mut Port) -> bool {
    // SAFETY: the family tells what the address is.
    unsafe {
        let remote = &raw const (*port).remote.storage;
        let is_local = match c_int::from((*remote).ss_family) {
            libc::AF_UNIX => true,
            libc::AF_INET => {
                let address = u32::from_be((*remote.cast::<libc::sockaddr_in>()).sin_addr.s_addr);
                Ipv4Addr::from(address).is_loopback()
            }
            libc::AF_INET6 => {
                let address = (*remote.cast::<libc::sockaddr_in6>()).sin6_addr.s6_addr;
                Ipv6Addr::from(address).is_loopback()
            }
            _ => false,
        };
        is_local || (*port).ssl_in_use
    }
}

/// Of `SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY`, as it is there: in base 64.
fn stored_key(verifier: &CStr) -> Option<CString> {
    let mut parts = verifier.to_str().ok()?.strip_prefix("SCRAM-SHA-256$")?.split('$');
    let keys = parts.nth(1)?;
    CString::new(keys.split(':').next()?).ok()
}

/// The value of `pgrenga.stored_key`. The first to ask is PostgreSQL itself, when the session begins
/// (`BeginReportingGUCOptions` in `guc.c`); whoever asks later gets nothing.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn show() -> *const c_char {
    // SAFETY: short borrows, none across a call.
    unsafe {
        let key = KEY.borrow().take().filter(|_| settings::REPORT_SESSION.get());
        SHOWN.borrow().insert(key.unwrap_or_default()).as_ptr()
    }
}
