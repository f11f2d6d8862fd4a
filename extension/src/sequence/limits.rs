//! New limits for a sequence, as another node gave them.
//!
//! `ALTER SEQUENCE .. MAXVALUE` fails if the sequence is beyond (`init_params` in `sequence.c`). Its origin was not,
//! but this node may be: it draws values of its own. Here it must not fail, but leave the sequence used up.

use pgrx::pg_sys;

use super::lattice::{self, Bounds, Position};
use super::{definition, position, replicated_name, set_position};
use crate::ddl::as_superuser;

/// A sequence that was moved to its start, which lies within all limits, and where it stood.
#[derive(Clone, Copy)]
pub struct Moved {
    sequence: pg_sys::Oid,
    stood: Position,
}

impl Moved {
    /// Moves a sequence out of the way of new limits. As part of the transaction: if that does not commit
    /// the sequence is where it was. `None` if there is none of ours.
    pub fn away(sequence: pg_sys::Oid) -> Option<Self> {
        unsafe extern "C-unwind" {
            /// `commands/sequence.h`; the bindings lack it. In a file of the transaction's own.
            fn ResetSequence(sequence: pg_sys::Oid);
        }
        let name = replicated_name(sequence)?;
        let stood = as_superuser(|| position(&name));
        // SAFETY: a sequence; nothing that needs a destructor is alive within.
        unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| ResetSequence(sequence)) };
        Some(Self { sequence, stood })
    }

    /// The sequence has its new limits: back to where it was, or to the end of them.
    pub fn put_back(self) {
        // SAFETY: between statements; shows the statement's own changes.
        unsafe { pg_sys::CommandCounterIncrement() };
        let definition = definition(self.sequence);
        let bounds = Bounds { min: definition.min, max: definition.max };
        set_position(self.sequence, lattice::within(self.stood, definition.increment, bounds));
    }
}
