//! Replacing PostgreSQL's built-in functions.
//!
//! Every call by SQL, and by the protocol's function calls, takes the address of a built-in function from the table
//! `fmgr_builtins`, past the catalog. Only functions in C may call another one directly.

use std::ffi::{c_char, c_int};

use pgrx::pg_sys;

use crate::backend::BackendLocal;
use crate::patch;

/// `fmgrtab.h`'s `FmgrBuiltin`, which the bindings lack.
#[repr(C)]
#[derive(Clone, Copy)]
struct Builtin {
    oid: pg_sys::Oid,
    arguments: i16,
    strict: bool,
    returns_set: bool,
    name: *const c_char,
    function: pg_sys::PGFunction,
}

unsafe extern "C-unwind" {
    /// `fmgrtab.h`.
    static fmgr_builtins: [Builtin; 0];
    static fmgr_nbuiltins: c_int;
}

static REPLACED: BackendLocal<Vec<u32>> = BackendLocal::new(Vec::new());
static mut PREVIOUS: pg_sys::needs_fmgr_hook_type = None;

/// Call from `_PG_init`, before [`replace`].
pub fn install() {
    // SAFETY: in the postmaster, single-threaded.
    unsafe {
        PREVIOUS = pg_sys::needs_fmgr_hook;
        pg_sys::needs_fmgr_hook = Some(needs_hook);
    }
}

/// Puts `ours` in the place of the function with that OID, and returns what was there.
/// Call from `_PG_init`.
pub fn replace(
    function: u32,
    ours: unsafe extern "C-unwind" fn(pg_sys::FunctionCallInfo) -> pg_sys::Datum,
) -> Original {
    // SAFETY: in the postmaster, single-threaded; the table lies in the executable's read-only data.
    unsafe {
        let builtins = std::slice::from_raw_parts((&raw const fmgr_builtins).cast(), fmgr_nbuiltins as usize);
        let is_it = |builtin: &&Builtin| u32::from(builtin.oid) == function;
        let builtin = builtins.iter().find(is_it).expect("the function is built in");
        let original = builtin.function.expect("a built-in function has an address");
        patch::change(builtin, |builtin| builtin.function = Some(ours));
        REPLACED.borrow().push(function);
        original
    }
}

/// A function as PostgreSQL has it.
pub type Original = unsafe extern "C-unwind" fn(pg_sys::FunctionCallInfo) -> pg_sys::Datum;

/// Compiled expressions call a built-in function by the name of its symbol, unless it needs a hook: then they take
/// its address as all others do (`llvm_function_reference` in `llvmjit.c`, `fmgr_symbol` in `fmgr.c`).
unsafe extern "C-unwind" fn needs_hook(function: pg_sys::Oid) -> bool {
    // SAFETY: filled at server start and only read since.
    unsafe { REPLACED.borrow().contains(&u32::from(function)) || PREVIOUS.is_some_and(|previous| previous(function)) }
}

/// An argument of the call.
///
/// # Safety
/// The call has so many arguments, and this one is not null, as with any strict function.
pub unsafe fn argument(call: pg_sys::FunctionCallInfo, at: usize) -> pg_sys::Datum {
    // SAFETY: the caller's promise.
    unsafe { (*call).args.as_slice(at + 1)[at].value }
}

/// The same, by its type.
///
/// # Safety
/// As for [`argument`]; it is of that type.
pub unsafe fn value<T: pgrx::FromDatum>(call: pg_sys::FunctionCallInfo, at: usize) -> T {
    // SAFETY: the caller's promise.
    unsafe { T::from_datum(argument(call, at), false) }.expect("not null")
}
