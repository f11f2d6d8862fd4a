//! The beginning of an op whose rest comes with the next piece.

use pgrx::pg_sys;

use super::failure;

/// Longest op: two rows of PostgreSQL's largest values, and then some.
const MAX_OP_BYTES: usize = 4 << 30;

/// Bytes in the transaction's memory. PostgreSQL frees them with it, so there
/// is nothing to drop; an allocation that fails is an ERROR.
pub(super) struct Pending {
    start: *mut u8,
    length: usize,
    capacity: usize,
}

impl Pending {
    pub(super) fn new() -> Self {
        Self { start: std::ptr::null_mut(), length: 0, capacity: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Appends `bytes`.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.reserve(self.length + bytes.len());
        // SAFETY: `reserve` made room; a piece never lies in our own buffer.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.add(self.length), bytes.len()) };
        self.length += bytes.len();
    }

    /// Forgets all but the last `length` bytes.
    pub(super) fn keep_last(&mut self, length: usize) {
        // SAFETY: both ranges lie within the first `self.length` bytes.
        unsafe { std::ptr::copy(self.start.add(self.length - length), self.start, length) };
        self.length = length;
    }

    /// The bytes. They stay where they are until the next `append` or
    /// `keep_last`; the caller sees to it that neither happens while it reads.
    pub(super) fn bytes<'a>(&self) -> &'a [u8] {
        if self.length == 0 {
            return &[];
        }
        // SAFETY: initialized by `append`; see above for how long.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }

    fn reserve(&mut self, wanted: usize) {
        if wanted <= self.capacity {
            return;
        }
        if wanted > MAX_OP_BYTES {
            failure::malformed("an op is too long");
        }
        let capacity = wanted.next_power_of_two();
        // SAFETY: allocations of the transaction's context; errors unwind
        // before the fields change.
        unsafe {
            self.start = if self.start.is_null() {
                pg_sys::MemoryContextAllocHuge(pg_sys::TopTransactionContext, capacity).cast()
            } else {
                pg_sys::repalloc_huge(self.start.cast(), capacity).cast()
            };
        }
        self.capacity = capacity;
    }
}
