//! What an applier is about to do, left where the transaction that it ends can
//! read it: over which table and key it lost, and to which node.
//!
//! Plain words, written by the applier before each step that may wait. Whoever
//! stands in its way reads them before he lets go, so while the applier waits
//! for him; should he be late, he says less.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::text::Text;

/// Keys of one row that are told; with more unique indexes the rest is not.
pub const KEYS: usize = 8;
/// Bytes of a relation's qualified name that are told.
const NAME_BYTES: usize = 128;

/// See the module. One in each slot.
#[repr(C)]
pub struct Needs {
    node: AtomicU32,
    seq: AtomicU64,
    keys: AtomicU32,
    hashes: [AtomicU64; KEYS],
    name: Text<{ NAME_BYTES / 8 }>,
}

impl Needs {
    /// The writeset that is applied from now on: of that node, at that seq.
    pub fn begin(&self, node: u32, seq: u64) {
        self.node.store(node, Ordering::Relaxed);
        self.seq.store(seq, Ordering::Relaxed);
        self.set_relation("");
    }

    /// The relation of the ops that come next. Its rows' keys are not known yet.
    pub fn set_relation(&self, name: &str) {
        self.set_keys(&[]);
        self.name.set(name);
    }

    /// The keys of the row that is written next.
    pub fn set_keys(&self, hashes: &[u64]) {
        let count = hashes.len().min(KEYS);
        for (word, hash) in self.hashes.iter().zip(&hashes[..count]) {
            word.store(*hash, Ordering::Relaxed);
        }
        self.keys.store(count as u32, Ordering::Release);
    }

    /// The node whose writeset is applied.
    pub fn node(&self) -> u32 {
        self.node.load(Ordering::Relaxed)
    }

    /// The seq of the writeset that is applied.
    pub fn seq(&self) -> u64 {
        self.seq.load(Ordering::Relaxed)
    }

    /// The keys' hashes.
    pub fn keys(&self) -> impl Iterator<Item = u64> + '_ {
        let count = self.keys.load(Ordering::Acquire) as usize;
        self.hashes.iter().take(count).map(|hash| hash.load(Ordering::Relaxed))
    }

    /// The relation's name, cut off if it is long; empty if it is not known.
    pub fn relation(&self) -> String {
        self.name.get()
    }
}
