//! The last conflicts that transactions of this server lost, for `pgrenga.conflicts`.
//!
//! Written where the error is raised or reported, where nobody may wait: plain
//! words, each entry behind a version. A writer claims its entry; if another one
//! is still writing there, the conflict is not recorded. A reader who meets a
//! writer passes the entry over.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use super::text::Text;

/// How many conflicts are kept.
const CAPACITY: usize = 256;
/// Bytes of a relation's qualified name that are kept.
const TABLE_BYTES: usize = 128;
/// Bytes of an index's name (`NAMEDATALEN`).
const KEY_BYTES: usize = 64;
/// The version of an entry that is being written. Never written ones have 0.
const BUSY: u64 = u64::MAX;

/// One conflict that was lost. What is not known is empty or zero.
pub struct Conflict {
    /// When, as PostgreSQL counts time (`TimestampTz`).
    pub at: i64,
    /// The table, qualified.
    pub table: String,
    /// The index that the key is of.
    pub key: String,
    /// Where the winner ran.
    pub node: u32,
    /// The winner's place.
    pub seq: u64,
}

#[repr(C)]
struct Entry {
    version: AtomicU64,
    at: AtomicU64,
    seq: AtomicU64,
    node: AtomicU32,
    table: Text<{ TABLE_BYTES / 8 }>,
    key: Text<{ KEY_BYTES / 8 }>,
}

/// See the module.
#[repr(C)]
pub struct Conflicts {
    next: AtomicU64,
    entries: [Entry; CAPACITY],
}

impl Conflicts {
    /// Records a conflict in the place of the oldest.
    pub fn record(&self, conflict: &Conflict) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let entry = &self.entries[number as usize % CAPACITY];
        if entry.version.swap(BUSY, Ordering::Acquire) == BUSY {
            return;
        }
        fence(Ordering::Release);
        entry.at.store(conflict.at as u64, Ordering::Relaxed);
        entry.seq.store(conflict.seq, Ordering::Relaxed);
        entry.node.store(conflict.node, Ordering::Relaxed);
        entry.table.set(&conflict.table);
        entry.key.set(&conflict.key);
        entry.version.store(number + 1, Ordering::Release);
    }

    /// Those that are kept, in no order.
    pub fn all(&self) -> impl Iterator<Item = Conflict> {
        self.entries.iter().filter_map(Entry::read)
    }
}

impl Entry {
    fn read(&self) -> Option<Conflict> {
        let version = self.version.load(Ordering::Acquire);
        let conflict = Conflict {
            at: self.at.load(Ordering::Relaxed) as i64,
            table: self.table.get(),
            key: self.key.get(),
            node: self.node.load(Ordering::Relaxed),
            seq: self.seq.load(Ordering::Relaxed),
        };
        fence(Ordering::Acquire);
        let is_whole = ![0, BUSY].contains(&version) && self.version.load(Ordering::Relaxed) == version;
        is_whole.then_some(conflict)
    }
}
