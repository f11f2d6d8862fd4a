//! State of one backend process.

use std::cell::UnsafeCell;

/// A process-wide variable of a process that has one thread.
///
/// PostgreSQL's backends never start threads, and pgrx refuses calls into
/// PostgreSQL from any but the first. What must still be avoided is two
/// mutable borrows at once: hooks can nest (a trigger's statement runs inside
/// the outer one's), so borrow for one step and not across calls that may run
/// user code.
pub struct BackendLocal<T>(UnsafeCell<T>);

// SAFETY: only ever touched by the process's one thread, see above.
unsafe impl<T> Sync for BackendLocal<T> {}

impl<T> BackendLocal<T> {
    /// A variable with its first value.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// The value, to read or change.
    ///
    /// # Safety
    /// No other borrow of it is alive.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn borrow(&self) -> &mut T {
        // SAFETY: the caller's promise, and the type's.
        unsafe { &mut *self.0.get() }
    }
}

impl<T: Copy> BackendLocal<T> {
    /// A copy of the value.
    pub fn get(&self) -> T {
        // SAFETY: copies at once; nothing else runs meanwhile.
        unsafe { *self.0.get() }
    }

    /// Replaces the value.
    pub fn set(&self, value: T) {
        // SAFETY: as in `get`.
        unsafe { *self.0.get() = value }
    }
}
