//! The ring through which backends hand frames to the port worker.
//!
//! Many producers under one LWLock, one consumer. Frames stand in it as they
//! go to the daemon's socket (see [`pgrenga_writeset::port`]), so the worker
//! passes on bytes and many transactions share its wake-up and its system call.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use pgrenga_writeset::Sink;
use pgrenga_writeset::port::FromPostgres;
use pgrx::pg_sys;

/// Bytes in the ring: several times the longest frame.
pub const CAPACITY: usize = 8 << 20;

/// Positions count bytes since the server started; their remainder is the place.
#[repr(C)]
pub struct Ring {
    lock: *mut pg_sys::LWLock,
    written: AtomicU64,
    read: AtomicU64,
    /// Whole writesets in it, which may wait for company.
    writesets: AtomicU32,
    /// Other frames in it, which may not.
    urgent: AtomicU32,
    /// How many writesets make a batch, as the port worker sees it.
    batch: AtomicU32,
}

impl Ring {
    pub(super) fn new(lock: *mut pg_sys::LWLock) -> Self {
        let (written, read) = (AtomicU64::new(0), AtomicU64::new(0));
        let (writesets, urgent, batch) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(1));
        Self { lock, written, read, writesets, urgent, batch }
    }
}

/// The ring with its bytes.
pub struct Handle<'a> {
    ring: &'a Ring,
    bytes: *mut u8,
}

impl<'a> Handle<'a> {
    /// # Safety
    /// `bytes` points to [`CAPACITY`] shared bytes that belong to `ring`.
    pub(super) unsafe fn new(ring: &'a Ring, bytes: *mut u8) -> Self {
        Self { ring, bytes }
    }

    /// Puts a frame in; false if there is no room for it now. Wake the port
    /// worker afterwards. Do not call it in COMMIT or ABORT callbacks: it locks.
    pub fn push(&self, frame: &FromPostgres<'_>) -> bool {
        let length = frame.encoded_len() + pgrenga_writeset::port::LENGTH_BYTES;
        // SAFETY: the LWLock is this ring's. Nothing between acquire and
        // release can raise an error; an interrupt cannot, as LWLocks hold them.
        unsafe {
            pg_sys::LWLockAcquire(self.ring.lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
            let written = self.ring.written.load(Ordering::Relaxed);
            let fits = written - self.ring.read.load(Ordering::Acquire) + length as u64 <= CAPACITY as u64;
            if fits {
                let mut writer = Writer { bytes: self.bytes, at: written };
                frame.encode(&mut writer);
                debug_assert_eq!(writer.at, written + length as u64);
                self.ring.written.store(writer.at, Ordering::Release);
                let count =
                    if matches!(frame, FromPostgres::Submit(_)) { &self.ring.writesets } else { &self.ring.urgent };
                count.fetch_add(1, Ordering::Release);
            }
            pg_sys::LWLockRelease(self.ring.lock);
            fits
        }
    }

    /// Whether what is in the ring should go now: a whole batch, or anything that cannot wait.
    pub fn is_due(&self) -> bool {
        let writesets = self.ring.writesets.load(Ordering::Acquire);
        self.ring.urgent.load(Ordering::Acquire) > 0 || writesets >= self.ring.batch.load(Ordering::Relaxed)
    }

    /// How many writesets wait in it for company.
    pub fn writesets(&self) -> u32 {
        self.ring.writesets.load(Ordering::Acquire)
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.ring.written.load(Ordering::Acquire) == self.ring.read.load(Ordering::Relaxed)
    }

    /// Says how many writesets should travel together from now on. Only the port worker calls this.
    pub fn set_batch(&self, writesets: u32) {
        self.ring.batch.store(writesets, Ordering::Relaxed);
    }

    /// Appends everything that is in the ring to `out`, and says how many writesets that were. Only
    /// the port worker calls this.
    pub fn drain(&self, out: &mut Vec<u8>) -> u32 {
        // First the counts: what comes meanwhile goes along, and is counted for the next time at worst.
        let writesets = self.ring.writesets.swap(0, Ordering::AcqRel);
        self.ring.urgent.store(0, Ordering::Release);
        let read = self.ring.read.load(Ordering::Relaxed);
        let written = self.ring.written.load(Ordering::Acquire);
        let mut at = read;
        while at < written {
            let place = at as usize % CAPACITY;
            let run = ((written - at) as usize).min(CAPACITY - place);
            // SAFETY: producers never touch what lies between `read` and `written`.
            out.extend_from_slice(unsafe { std::slice::from_raw_parts(self.bytes.add(place), run) });
            at += run as u64;
        }
        self.ring.read.store(written, Ordering::Release);
        writesets
    }
}

struct Writer {
    bytes: *mut u8,
    at: u64,
}

impl Sink for Writer {
    fn put(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let place = self.at as usize % CAPACITY;
            let (run, rest) = bytes.split_at(bytes.len().min(CAPACITY - place));
            // SAFETY: `push` made sure of room and holds the lock.
            unsafe { std::ptr::copy_nonoverlapping(run.as_ptr(), self.bytes.add(place), run.len()) };
            self.at += run.len() as u64;
            bytes = rest;
        }
    }
}
