//! DDL: statements that change the catalogs, from the session that runs them
//! to the other nodes.
//!
//! A utility statement comes by `ProcessUtility_hook` ([`hook`]). [`classify`]
//! and [`target`] tell whether it is local, refused ([`refusal`]) or
//! replicated. A replicated one waits for the DDL fence; its text and settings
//! ([`ship`]) enter the writeset at its first change of a catalog, of which
//! `object_access_hook` tells ([`access`]). When it has run, [`finish`] looks
//! at the result. [`execute()`] is the other nodes' side.
//!
//! A change of a catalog that no captured statement answers for trips a wire
//! and is refused: nothing diverges silently.

mod access;
mod alter;
mod classify;
mod concurrently;
mod definition;
mod evaluate;
mod execute;
mod finish;
mod frame;
mod hook;
mod identity;
mod password;
mod refusal;
mod ship;
mod target;
mod text;
mod tree;

use pgrenga_writeset::writeset::Flags;
use pgrx::pg_sys::{self, SubXactEvent, XactEvent};

pub use access::name_of as relation_name;
pub use execute::execute;
pub use frame::Name;
pub use identity::{as_owner_of, as_superuser};
pub use ship::{from_utf8, role as role_name};
pub use text::quote_identifier;
pub use tree::{expression_tree_walker, items, query_tree_walker};

use crate::apply;
use crate::capture::Transaction;
use crate::sequence;
use crate::settings;
use crate::shmem::{Fence, shared};

/// Installs the hooks. Call from `_PG_init`.
pub fn install() {
    hook::install();
    access::install();
    sequence::install();
    // SAFETY: registration in the postmaster, inherited by all backends.
    unsafe {
        pg_sys::RegisterXactCallback(Some(on_xact_event), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(on_subxact_event), std::ptr::null_mut());
    }
}

/// Whether what this process does to the catalogs must be captured. The script
/// of an extension is part of its CREATE EXTENSION.
pub fn is_watched() -> bool {
    // SAFETY: plain variables of this process.
    unsafe {
        settings::REPLICATE.get()
            && pg_sys::IsUnderPostmaster
            && !pg_sys::creating_extension
            && pg_sys::MyBackendType != pg_sys::BackendType::B_AUTOVAC_WORKER
            && !apply::active()
    }
}

/// The last look at a transaction before its hand-over.
pub fn check_complete(txn: &mut Transaction) {
    if txn.flags().contains(Flags::BARRIER) && shared().my_slot().fence() == Fence::None {
        refusal::TRIPWIRE.raise();
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_xact_event(event: XactEvent::Type, _argument: *mut std::ffi::c_void) {
    match event {
        XactEvent::XACT_EVENT_ABORT => {
            frame::forget_from(0);
            sequence::forget();
        }
        XactEvent::XACT_EVENT_COMMIT => sequence::forget(),
        _ => {}
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_subxact_event(
    event: SubXactEvent::Type,
    _mine: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _argument: *mut std::ffi::c_void,
) {
    if event == SubXactEvent::SUBXACT_EVENT_ABORT_SUB {
        // SAFETY: a plain read of the transaction state.
        frame::forget_from(unsafe { pg_sys::GetCurrentTransactionNestLevel() });
        sequence::forget();
    }
}

/// Refuses a sequence that begins again.
pub fn refuse_cycle() -> ! {
    refusal::CYCLE.raise()
}
