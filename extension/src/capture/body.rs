//! The ops of a transaction: in memory, and beyond a limit in a temporary file.

use std::ops::ControlFlow;

use pgrenga_writeset::Sink;
use pgrx::pg_sys;

use super::buffer::Buffer;

/// Bytes of ops that stay in memory; what comes before them goes to the file.
const IN_MEMORY: usize = 1 << 20;

/// A byte sequence that can be cut back.
pub struct Body {
    memory: Buffer,
    /// Bytes in the file: the beginning of the sequence.
    spilled: u64,
    /// Where the file's end is; after a cut it lies beyond `spilled`.
    file: *mut pg_sys::BufFile,
}

impl Body {
    /// An empty body.
    pub const fn new() -> Self {
        Self { memory: Buffer::new(), spilled: 0, file: std::ptr::null_mut() }
    }

    /// Bytes so far.
    pub fn len(&self) -> u64 {
        self.spilled + self.memory.len() as u64
    }

    /// The bytes that are not in the file.
    pub fn tail(&self) -> &[u8] {
        self.memory.as_slice()
    }

    /// Cuts it back to `length` bytes. Never fails: ABORT callbacks call it.
    pub fn truncate(&mut self, length: u64) {
        if length >= self.spilled {
            self.memory.truncate((length - self.spilled) as usize);
        } else {
            self.spilled = length;
            self.memory.clear();
        }
    }

    /// Closes the file; what was in it is no longer needed. Before commit:
    /// PostgreSQL warns of files that a committing transaction leaves open.
    pub fn close_file(&mut self) {
        if !self.file.is_null() {
            // SAFETY: opened by `spill_if_large` in this transaction.
            unsafe { pg_sys::BufFileClose(self.file) };
            self.file = std::ptr::null_mut();
        }
    }

    /// Forgets everything. The file belongs to the transaction's resource
    /// owner, which closes and removes it. Never fails.
    pub fn reset(&mut self) {
        self.memory.clear();
        self.spilled = 0;
        self.file = std::ptr::null_mut();
    }

    /// Moves what is in memory to the file when it has become much. Call it
    /// between ops.
    pub fn spill_if_large(&mut self) {
        if self.memory.len() < IN_MEMORY {
            return;
        }
        // SAFETY: the file is the transaction's own. Its resource owner must be
        // the top transaction's, not the statement's or savepoint's that
        // happens to be current.
        unsafe {
            let owner = pg_sys::CurrentResourceOwner;
            pg_sys::CurrentResourceOwner = pg_sys::TopTransactionResourceOwner;
            let context = pg_sys::MemoryContextSwitchTo(pg_sys::TopTransactionContext);
            if self.file.is_null() {
                self.file = pg_sys::BufFileCreateTemp(false);
            }
            self.seek(self.spilled);
            pg_sys::BufFileWrite(self.file, self.memory.as_slice().as_ptr().cast_mut().cast(), self.memory.len());
            pg_sys::MemoryContextSwitchTo(context);
            pg_sys::CurrentResourceOwner = owner;
        }
        self.spilled += self.memory.len() as u64;
        self.memory.clear();
    }

    /// Reads the file from its beginning in pieces of at most `piece` bytes,
    /// as long as `each` wants more.
    pub fn try_for_each_spilled(
        &self,
        piece: usize,
        mut each: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut bytes = vec![0; piece.min(self.spilled as usize)];
        let mut at = 0;
        if self.spilled > 0 {
            // SAFETY: the file is open as long as its transaction.
            unsafe { self.seek(0) };
        }
        while at < self.spilled {
            let run = piece.min((self.spilled - at) as usize);
            // SAFETY: reads at most `run` bytes into a buffer of that size.
            let read = unsafe { pg_sys::BufFileRead(self.file, bytes.as_mut_ptr().cast(), run) };
            assert_eq!(read, run, "the temporary file of a writeset ends early");
            each(&bytes[..run])?;
            at += run as u64;
        }
        ControlFlow::Continue(())
    }

    /// # Safety
    /// The file is open.
    unsafe fn seek(&self, to: u64) {
        const SEGMENT: u64 = 1 << 30;
        // SAFETY: BufFile segments are 1 GiB (`MAX_PHYSICAL_FILESIZE` in buffile.c).
        let failed =
            unsafe { pg_sys::BufFileSeek(self.file, (to / SEGMENT) as i32, (to % SEGMENT) as i64, libc::SEEK_SET) };
        assert_eq!(failed, 0, "could not seek in the temporary file of a writeset");
    }
}

impl Sink for Body {
    fn put(&mut self, bytes: &[u8]) {
        self.memory.put(bytes);
    }
}
