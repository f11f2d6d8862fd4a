//! The log as the application sees it: what is committed, in order, once.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use openraft::entry::RaftEntry;
use pgrenga_writeset::{LogIndex, NodeId};
use tokio::sync::watch;

use crate::error::Error;
use crate::raft::{Entry, SnapshotMeta};
use crate::state_machine::{Applied, Progress};
use crate::store::{LogStore, payload_of};

/// Entries fetched at once: at most this many bytes, and one entry at least.
const FETCH_BYTES: usize = 1 << 20;
/// And at most this many entries.
const FETCH_ENTRIES: u64 = 1024;

/// What the log decided, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An entry that some member proposed.
    Entry {
        /// Its place.
        index: LogIndex,
        /// What was proposed.
        payload: Bytes,
    },
    /// The log's own entry with which a new leader begins. It has nothing to
    /// say but its place: a position to wait for may be this one.
    Blank {
        /// Its place.
        index: LogIndex,
    },
    /// Who belongs to the cluster from here on.
    Membership {
        /// Its place.
        index: LogIndex,
        /// Those whose majority decides. While a change is under way: those before and after it.
        voters: Vec<NodeId>,
        /// Those that only follow.
        learners: Vec<NodeId>,
    },
    /// The application's state as of `index`, in place of the entries up to it: at the beginning,
    /// or when the leader had purged entries that this member lacked.
    Snapshot {
        /// The last entry that the state includes.
        index: LogIndex,
        /// What was given to [`crate::Handle::snapshot_taken`], here or on another member.
        state: Bytes,
    },
}

impl Event {
    /// The position in the log that is reached with this event.
    pub fn index(&self) -> LogIndex {
        match self {
            Self::Entry { index, .. }
            | Self::Blank { index }
            | Self::Membership { index, .. }
            | Self::Snapshot { index, .. } => *index,
        }
    }
}

/// The committed entries: from the last snapshot, or from the beginning, through all that will
/// come. It reads the log at the reader's pace, so a slow reader holds up nothing and takes no
/// memory.
pub struct Committed {
    store: LogStore,
    applied: Arc<Applied>,
    progress: watch::Receiver<Progress>,
    fetched: VecDeque<Event>,
    /// The index of the next event to fetch.
    next: u64,
    /// Whether to go on from the snapshot if it reaches further: at the start, and
    /// where the log does not hold the next entry.
    from_snapshot: bool,
}

impl Committed {
    pub(crate) fn new(store: LogStore, applied: Arc<Applied>) -> Self {
        let progress = applied.watch();
        Self { store, applied, progress, fetched: VecDeque::new(), next: 0, from_snapshot: true }
    }

    /// The next event; waits for it. Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] after a shutdown, once everything known to be committed was handed out;
    /// [`Error::Io`] or [`Error::Corrupt`] if the log cannot be read back.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(event) = self.fetched.pop_front() {
                return Ok(event);
            }
            let progress = *self.progress.borrow_and_update();
            if let Some(event) = self.snapshot(progress.installed).await? {
                return Ok(event);
            }
            if let Some(committed) = progress.committed.filter(|committed| *committed >= self.next) {
                self.fetch(committed).await?;
            } else if progress.closed || self.progress.changed().await.is_err() {
                return Err(Error::Closed);
            }
        }
    }

    /// An event that is there already, without waiting for one to commit.
    pub fn try_next(&mut self) -> Option<Event> {
        self.fetched.pop_front()
    }

    /// The snapshot, if the log here does not hold what comes next, or holds it no more: it is
    /// purged, or counts as purged since a leader's snapshot was installed.
    async fn snapshot(&mut self, installed: Option<u64>) -> Result<Option<Event>, Error> {
        let purged = self.store.purged().map(|purged| purged.index).max(installed).map_or(0, |last| last + 1);
        if !self.from_snapshot && self.next >= purged {
            return Ok(None);
        }
        let reaches = |meta: &SnapshotMeta| {
            let last = meta.last_log_id.map(|id| id.index);
            last.filter(|last| *last >= self.next && last + 1 >= purged)
        };
        if self.applied.snapshot().as_ref().and_then(reaches).is_some()
            && let Some(kept) = self.applied.read_snapshot().await?
            // It may be a later one by now.
            && let Some(last) = reaches(&kept.meta)
        {
            self.from_snapshot = false;
            self.next = last + 1;
            return Ok(Some(Event::Snapshot { index: LogIndex(last), state: kept.snapshot }));
        }
        if self.next < purged {
            return Err(Error::Purged(LogIndex(self.next)));
        }
        self.from_snapshot = false;
        Ok(None)
    }

    async fn fetch(&mut self, committed: u64) -> Result<(), Error> {
        let end = (committed + 1).min(self.next + FETCH_ENTRIES);
        let entries = self
            .store
            .read(self.next, end, FETCH_BYTES)
            .await
            .map_err(Error::io("could not read committed log entries"))?;
        // An installed snapshot may have taken the place of what was to come next.
        self.from_snapshot = entries.first().is_none_or(|first| first.log_id.index != self.next);
        if !self.from_snapshot {
            self.next += entries.len() as u64;
            self.fetched.extend(entries.iter().map(event));
        }
        Ok(())
    }
}

fn event(entry: &Entry) -> Event {
    let index = LogIndex(entry.log_id.index);
    if let Some(payload) = payload_of(entry) {
        return Event::Entry { index, payload };
    }
    match entry.get_membership() {
        Some(membership) => Event::Membership {
            index,
            voters: membership.voter_ids().map(node_id).collect(),
            learners: membership.learner_ids().map(node_id).collect(),
        },
        None => Event::Blank { index },
    }
}

/// openraft's node ids are wider than ours; none of them came from elsewhere.
pub(crate) fn node_id(raft: u64) -> NodeId {
    NodeId(u32::try_from(raft).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use openraft::storage::{IOFlushed, RaftLogStorage, RaftStateMachine};
    use openraft::type_config::TypeConfigExt;
    use openraft::{EntryPayload, entry::RaftEntry};

    use super::*;
    use crate::raft::{Payload, SnapshotMeta, StoredMembership, TypeConfig, log_id};
    use crate::state_machine::StateMachine;
    use crate::store::{Directory, Limits, OnFailure};

    /// A leader's snapshot reaches beyond entries of an earlier term that were never committed, and
    /// the log is cut only later.
    #[tokio::test]
    async fn a_snapshot_takes_the_place_of_entries_that_were_never_committed() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = Arc::new(Directory::open(dir.path()).expect("a directory"));
        let limits = Limits { segment_bytes: 64 << 10, cache_bytes: 0, read_bytes: 4096 };
        let (mut store, _writer) = LogStore::open(disk.clone(), 1, limits, OnFailure::Stop).expect("a store");
        let entry = |index| Entry::new(log_id(1, index), EntryPayload::Normal(Payload(Bytes::from_static(b"stale"))));
        let (sender, done) = TypeConfig::oneshot();
        store.append((0..6).map(entry), IOFlushed::signal(sender)).await.expect("queued");
        done.await.expect("answered").expect("durable");

        let applied = Arc::new(Applied::new(disk, Some(log_id(1, 2)), None, None));
        let mut committed = Committed::new(store, applied.clone());
        for index in 0..3 {
            assert_eq!(committed.next().await.expect("an event").index(), LogIndex(index));
        }
        let meta = SnapshotMeta { last_log_id: Some(log_id(3, 9)), last_membership: StoredMembership::default() };
        let state = Bytes::from_static(b"state");
        StateMachine(applied).install_snapshot(&meta, state.clone()).await.expect("installed");
        assert_eq!(committed.next().await.expect("an event"), Event::Snapshot { index: LogIndex(9), state });
    }
}
