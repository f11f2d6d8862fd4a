//! What COMMIT and ABORT callbacks have to tell the daemon. They may not wait,
//! lock or allocate, so each notice is one word in a fixed array.
//!
//! The array cannot overflow: a transaction leaves at most one notice and the end of its
//! process another one, and none begins to write while there is not room for all processes.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

const CAPACITY: usize = 4096;
const GIVE_UP_TAG: u64 = 1 << 63;

/// One thing to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Nobody here will commit this seq.
    Orphan(u64),
    /// The transaction with this counter ended, or will never be, and was not ordered.
    GiveUp(u64),
}

/// Notices that wait for the port worker.
#[repr(C)]
pub struct Notices {
    pending: AtomicUsize,
    words: [AtomicU64; CAPACITY],
}

impl Notices {
    /// Whether `processes` transactions more could each leave their notices.
    pub fn has_room_for(&self, processes: usize) -> bool {
        self.pending.load(Ordering::Relaxed) + 2 * processes <= CAPACITY
    }

    /// Leaves a notice. Wake the port worker afterwards.
    pub fn leave(&self, notice: Notice) {
        let word = match notice {
            Notice::Orphan(seq) => seq,
            Notice::GiveUp(counter) => counter | GIVE_UP_TAG,
        };
        self.pending.fetch_add(1, Ordering::SeqCst);
        for place in &self.words {
            if place.compare_exchange(0, word, Ordering::SeqCst, Ordering::Relaxed).is_ok() {
                return;
            }
        }
        debug_assert!(false, "notices overflow");
    }

    /// Takes every notice there is.
    pub fn take(&self, mut each: impl FnMut(Notice)) {
        if self.pending.load(Ordering::SeqCst) == 0 {
            return;
        }
        for place in &self.words {
            let word = place.swap(0, Ordering::SeqCst);
            if word != 0 {
                self.pending.fetch_sub(1, Ordering::SeqCst);
                each(if word & GIVE_UP_TAG == 0 { Notice::Orphan(word) } else { Notice::GiveUp(word & !GIVE_UP_TAG) });
            }
        }
    }
}
