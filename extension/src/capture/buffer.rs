//! Growing bytes in PostgreSQL's memory: running out of it is an ERROR there,
//! where Rust's own allocator would end the process.

use pgrenga_writeset::Sink;
use pgrx::pg_sys;

/// Above this capacity (bytes) a buffer gives its memory back when cleared.
const KEEP: usize = 256 << 10;

/// Bytes that live until the process ends; reused from transaction to transaction.
pub struct Buffer {
    start: *mut u8,
    length: usize,
    capacity: usize,
}

impl Buffer {
    /// An empty buffer without memory.
    pub const fn new() -> Self {
        Self { start: std::ptr::null_mut(), length: 0, capacity: 0 }
    }

    /// How many bytes it holds.
    pub fn len(&self) -> usize {
        self.length
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        if self.length == 0 {
            return &[];
        }
        // SAFETY: `start` points to `capacity >= length` bytes that `put` wrote.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }

    /// Cuts it back to `length` bytes.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// Empties it. Never fails: ABORT callbacks call it.
    pub fn clear(&mut self) {
        self.length = 0;
        if self.capacity > KEEP {
            // SAFETY: allocated by `grow`, not freed since.
            unsafe { pg_sys::pfree(self.start.cast()) };
            self.start = std::ptr::null_mut();
            self.capacity = 0;
        }
    }

    fn grow(&mut self, needed: usize) {
        let capacity = needed.next_power_of_two().max(4096);
        // SAFETY: both raise an ERROR rather than return null, and then leave
        // the old memory, and with it this buffer, as it was.
        self.start = unsafe {
            if self.start.is_null() {
                pg_sys::MemoryContextAllocHuge(pg_sys::TopMemoryContext, capacity)
            } else {
                pg_sys::repalloc_huge(self.start.cast(), capacity)
            }
        }
        .cast();
        self.capacity = capacity;
    }
}

impl Sink for Buffer {
    fn put(&mut self, bytes: &[u8]) {
        let needed = self.length + bytes.len();
        if needed > self.capacity {
            self.grow(needed);
        }
        // SAFETY: there is room, and `bytes` cannot lie inside: it is borrowed from elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.add(self.length), bytes.len()) };
        self.length = needed;
    }
}
