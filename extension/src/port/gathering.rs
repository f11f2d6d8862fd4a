//! Fuller batches: while many transactions write, a writeset waits a moment
//! for others to travel with.
//!
//! Each batch costs a wake-up of this worker, of the daemon and of the log's
//! writer, and an fsync, however many writesets it holds. Where processors are
//! scarce that decides the throughput. Where they are not, nothing must wait:
//! so batches are gathered only as long as writesets really come together.

use std::sync::atomic::Ordering;

use crate::shmem::shared;

/// Milliseconds that a writeset waits for company at most.
pub(super) const GATHER_MS: u64 = 1;
/// A batch is full with one in so many of the transactions that are writing.
const SHARE: u32 = 3;

/// Whether writesets wait in the ring, and since when.
#[derive(Default)]
pub(super) struct Gathering {
    since_ms: Option<u64>,
}

impl Gathering {
    /// Whether writesets wait.
    pub(super) fn is_on(&self) -> bool {
        self.since_ms.is_some()
    }

    /// Moves what is in the ring to `out`, if it is time.
    pub(super) fn collect(&mut self, now_ms: u64, out: &mut Vec<u8>) {
        let ring = shared().ring();
        if ring.is_empty() {
            self.since_ms = None;
        } else if ring.is_due() || self.since_ms.is_some_and(|since| now_ms >= since + GATHER_MS) {
            self.since_ms = None;
            let company = ring.drain(out) > 1;
            let writers = shared().writers.load(Ordering::Relaxed);
            ring.set_batch(if company { writers.div_ceil(SHARE).max(1) } else { 1 });
        } else {
            self.since_ms.get_or_insert(now_ms);
        }
    }
}
