//! Capture: what a transaction physically does to rows, in the order in which
//! it happens, becomes its writeset.

#[expect(clippy::too_many_arguments, reason = "the signatures are PostgreSQL's")]
mod access_method;
mod body;
mod buffer;
mod conflict;
mod content;
mod hash;
mod key;
mod large_object;
mod locks;
mod moments;
mod reads;
mod row;
mod table;
mod transaction;
mod value;

pub use conflict::UsedKey;
pub use content::{record_content, record_emptied, record_missing, record_rows, was_written};
pub use key::stands_in_for;
pub use large_object::{TABLE as LARGE_OBJECTS, large_object_key};
pub use locks::{holds_advisory_lock, sequences_in_use};
pub use reads::{Lookups, looked_up_key};
pub use row::key_hashes;
pub use table::descriptor_hash;
pub use transaction::{Transaction, transaction};

use pgrx::pg_sys;

use crate::backend::BackendLocal;

/// Schema of our own objects, which are never replicated.
pub const OWN_SCHEMA: &str = "pgrenga";

/// Replaces heap's row functions and registers for invalidations. Call from
/// `_PG_init`, in the postmaster.
pub fn install() {
    access_method::install();
    table::install();
}

static SCRATCH: BackendLocal<pg_sys::MemoryContext> = BackendLocal::new(std::ptr::null_mut());

/// Runs `step` in a memory context that is emptied afterwards. An error on the
/// way leaves the context to the next use, which empties it.
fn with_scratch<R>(step: impl FnOnce() -> R) -> R {
    // SAFETY: a context of our own under TopMemoryContext, never freed; the
    // caller's context is current again afterwards, and error recovery sets its own.
    unsafe {
        if SCRATCH.get().is_null() {
            SCRATCH.set(pg_sys::AllocSetContextCreateInternal(
                pg_sys::TopMemoryContext,
                c"pgrenga capture".as_ptr(),
                0,
                8 << 10,
                8 << 20,
            ));
        }
        let outer = pg_sys::MemoryContextSwitchTo(SCRATCH.get());
        let result = step();
        pg_sys::MemoryContextSwitchTo(outer);
        pg_sys::MemoryContextReset(SCRATCH.get());
        result
    }
}

/// Runs `step` with the settings under which text forms are exact and do not
/// depend on the session; the applier uses the same.
pub fn in_transmission_modes<R>(step: impl FnOnce() -> R) -> R {
    const MODES: [(&std::ffi::CStr, &std::ffi::CStr); 4] = [
        (c"datestyle", c"ISO, YMD"),
        (c"intervalstyle", c"postgres"),
        (c"extra_float_digits", c"3"),
        (c"search_path", c"pg_catalog"),
    ];
    // SAFETY: nested settings as functions with SET clauses use them; an error
    // ends the transaction or savepoint, which ends the nesting.
    unsafe {
        let level = pg_sys::NewGUCNestLevel();
        for (name, value) in MODES {
            pg_sys::set_config_option(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
        }
        let result = step();
        pg_sys::AtEOXact_GUC(true, level);
        result
    }
}
