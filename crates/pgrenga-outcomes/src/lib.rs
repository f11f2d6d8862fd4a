//! How transactions ended, for longer than the core remembers: two bits for each.
//!
//! What the log decides is noted in memory, and written from time to time, many transactions at
//! once. The log itself is what makes it durable meanwhile: a state of the core takes the place of
//! the log up to some index only when everything decided up to there is in the files
//! ([`Outcomes::keep`]). What comes again from the log after a crash sets the same bits.
//!
//! A bit that is set is the truth for ever. That none is set says something only where nothing can
//! be missing. For each node there is a *floor*, a place in the order of its transactions (by life
//! and counter): above it every decision was noted. Three things raise it: that this node's part of
//! the log did not begin with that life, that a file was removed because of its age, and damage.
//! Below the floor a commit is still the truth; an abort may be that of a writeset which came a second
//! time after its commit, so it says nothing.
//!
//! `floor <= noted`, and `kept <= noted` in the order of the log: the files hold everything up to `kept`.

mod files;
mod floors;
mod segment;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgrenga_writeset::{Incarnation, LogIndex, NodeId, TransactionId};

use files::Files;
use segment::{Bits, Key};

/// Segments with news beyond which they ought to be written before the next state is kept.
const CHANGED_MAX: usize = 256;

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It was not certified.
    Aborted,
    /// It was certified.
    Committed,
}

/// What is known of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recalled {
    /// It committed.
    Committed,
    /// It was decided, and did not.
    Aborted,
    /// The log has not decided it up to where it was noted.
    Undecided,
    /// It may have been decided where this node does not know of it.
    Missing,
}

/// How long, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// After this time without a change a file goes.
    pub age: Duration,
    /// Bytes of files. For more the oldest go.
    pub bytes: u64,
}

type Changes = BTreeMap<Key, Bits>;

/// Changes on their way to the files.
struct Batch {
    changes: Changes,
    is_written: AtomicBool,
}

/// See the crate.
pub struct Outcomes {
    files: Arc<Files>,
    changes: Changes,
    under_way: Vec<Arc<Batch>>,
}

impl Outcomes {
    /// Opens a directory, or makes one.
    ///
    /// # Errors
    ///
    /// If it cannot be read or made. Files that are damaged are no error: what they held is missing.
    pub fn open(directory: &Path, limits: Limits) -> io::Result<Self> {
        let files = Arc::new(Files::open(directory, limits)?);
        Ok(Self { files, changes: Changes::new(), under_way: Vec::new() })
    }

    /// What is noted from now on begins with a state of the core at `index`, in which nodes had these
    /// `lives`. If the files do not reach there, what was decided in between is missing. To be called
    /// unless the log is read from its very beginning.
    pub fn begin(&mut self, index: LogIndex, lives: impl IntoIterator<Item = (NodeId, Incarnation)>) {
        self.files.begin(index, lives);
    }

    /// Notes a decision.
    pub fn note(&mut self, txid: &TransactionId, mark: Mark) {
        let (key, ordinal) = Key::of(txid);
        self.changes.entry(key).or_default().set(ordinal, mark);
    }

    /// Whether there is so much news that it ought to be written.
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.changes.len() >= CHANGED_MAX
    }

    /// Everything noted so far, to be written: all that was decided up to `through`.
    pub fn keep(&mut self, through: LogIndex) -> Keep {
        self.under_way.retain(|batch| !batch.is_written.load(Ordering::Acquire));
        let changes = std::mem::take(&mut self.changes);
        self.under_way.push(Arc::new(Batch { changes, is_written: AtomicBool::new(false) }));
        Keep { files: Arc::clone(&self.files), batches: self.under_way.clone(), through }
    }

    /// Looks a transaction up, as of now. The rest of it may have to read a file.
    #[must_use]
    pub fn look(&self, txid: &TransactionId) -> Look {
        let (key, ordinal) = Key::of(txid);
        let changes = self.under_way.iter().map(|batch| &batch.changes).chain([&self.changes]);
        let noted = changes.filter_map(|changes| changes.get(&key)).fold(0, |bits, more| bits | more.get(ordinal));
        Look { files: Arc::clone(&self.files), key, ordinal, noted }
    }
}

/// News to be written. Until that is done it is in memory.
pub struct Keep {
    files: Arc<Files>,
    batches: Vec<Arc<Batch>>,
    through: LogIndex,
}

impl Keep {
    /// Writes, durably; and lets go of what is too old. Blocks. What could not be written is written with the next.
    ///
    /// # Errors
    ///
    /// If a file cannot be written: then the log must be kept.
    pub fn run(&self) -> io::Result<()> {
        let mut changes = Changes::new();
        for batch in &self.batches {
            for (key, bits) in &batch.changes {
                changes.entry(*key).or_default().merge(bits);
            }
        }
        self.files.write(&changes, self.through)?;
        for batch in &self.batches {
            batch.is_written.store(true, Ordering::Release);
        }
        Ok(())
    }
}

/// A question on its way.
pub struct Look {
    files: Arc<Files>,
    key: Key,
    ordinal: usize,
    /// What memory had.
    noted: u8,
}

impl Look {
    /// What is known. May read a file, and block.
    #[must_use]
    pub fn recall(self) -> Recalled {
        let read = self.files.read(&self.key);
        // After the file: it is removed only when the floor is above it.
        let is_complete = read.is_ok() && self.files.is_complete(&self.key);
        let kept = read.ok().flatten().map_or(0, |bits| bits.get(self.ordinal));
        match segment::mark(self.noted | kept) {
            Some(Mark::Committed) => Recalled::Committed,
            _ if !is_complete => Recalled::Missing,
            Some(Mark::Aborted) => Recalled::Aborted,
            None => Recalled::Undecided,
        }
    }
}
