//! What openraft takes for the state machine: the position up to which entries
//! are committed, and the snapshot, which stays on disk until somebody needs it. The real state machine reads the entries
//! behind that position from the log, at its own pace, through
//! [`crate::Committed`]; so applying never waits for it and needs no queue.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use openraft::OptionalSend;
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use tokio::sync::watch;

use crate::error::Error;
use crate::raft::{LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};
use crate::runtime;
use crate::snapshot;
use crate::store::{Disk, is_disk_full};

/// Between two attempts to keep a snapshot on a full disk.
const RETRY: Duration = Duration::from_secs(1);

/// How far the application may read.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Progress {
    /// The last committed entry known here.
    pub(crate) committed: Option<u64>,
    /// The last entry of a leader's snapshot that was installed. Up to there the log here may
    /// still hold what was never committed: it is cut only after this is known.
    pub(crate) installed: Option<u64>,
    /// Nothing more will come.
    pub(crate) closed: bool,
}

/// Shared by the state machine, the stream of committed entries and the handle.
pub(crate) struct Applied {
    disk: Arc<dyn Disk>,
    progress: watch::Sender<Progress>,
    state: Mutex<State>,
    /// Held while a snapshot is written: two at once would write one file.
    saving: Mutex<()>,
}

struct State {
    applied: Option<LogId>,
    membership: StoredMembership,
    /// What is known of the one on disk.
    snapshot: Option<SnapshotMeta>,
}

impl Applied {
    /// Everything up to `committed` counts as applied: the application reads it
    /// from the log.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        committed: Option<LogId>,
        membership: Option<StoredMembership>,
        snapshot: Option<SnapshotMeta>,
    ) -> Self {
        let applied = committed.max(snapshot.as_ref().and_then(|meta| meta.last_log_id));
        let membership =
            membership.or_else(|| snapshot.as_ref().map(|meta| meta.last_membership.clone())).unwrap_or_default();
        let progress = Progress { committed: applied.map(|id| id.index), ..Progress::default() };
        Self {
            disk,
            progress: watch::Sender::new(progress),
            state: Mutex::new(State { applied, membership, snapshot }),
            saving: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub(crate) fn committed(&self) -> Option<u64> {
        self.progress.borrow().committed
    }

    /// Up to where the log here must not be read any more, see [`Progress::installed`].
    pub(crate) fn installed(&self) -> Option<u64> {
        self.progress.borrow().installed
    }

    pub(crate) fn close(&self) {
        self.progress.send_modify(|progress| progress.closed = true);
    }

    pub(crate) fn snapshot(&self) -> Option<SnapshotMeta> {
        self.state().snapshot.clone()
    }

    /// Reads the snapshot that is on disk, this one or a later one.
    pub(crate) async fn read_snapshot(&self) -> Result<Option<Snapshot>, Error> {
        let disk = self.disk.clone();
        let read = runtime::blocking(move || snapshot::load(disk.as_ref())).await;
        read.map_err(Error::io("could not read the log's snapshot"))?
    }

    pub(crate) fn has_member(&self, id: u64) -> bool {
        self.state().membership.membership().get_node(&id).is_some()
    }

    fn advance(&self, id: LogId) {
        self.state().applied = Some(id);
        self.reached(id.index);
    }

    /// Notes that the entry at `index`, which the log here holds, is committed.
    pub(crate) fn reached(&self, index: u64) {
        self.progress.send_if_modified(|progress| {
            let later = progress.committed.is_none_or(|committed| committed < index);
            if later {
                progress.committed = Some(index);
            }
            later
        });
    }

    /// Keeps a snapshot, durably, unless there is a newer one.
    pub(crate) async fn keep(self: &Arc<Self>, meta: SnapshotMeta, data: Bytes) -> io::Result<()> {
        let this = self.clone();
        let save = move || {
            let _saving = this.saving.lock().unwrap_or_else(PoisonError::into_inner);
            if this.snapshot().is_some_and(|kept| kept.last_log_id >= meta.last_log_id) {
                return Ok(());
            }
            snapshot::save(this.disk.as_ref(), &meta, &data)?;
            this.state().snapshot = Some(meta);
            Ok(())
        };
        runtime::blocking(save).await?
    }
}

/// openraft's view of [`Applied`].
pub(crate) struct StateMachine(pub(crate) Arc<Applied>);

/// Hands out the snapshot that the application gave; builds none.
pub(crate) struct KeptSnapshot(Arc<Applied>);

impl RaftSnapshotBuilder<TypeConfig> for KeptSnapshot {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let kept = self.0.read_snapshot().await.map_err(io::Error::other)?;
        kept.ok_or_else(|| io::Error::other("the application has taken no snapshot"))
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = KeptSnapshot;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let state = self.0.state();
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut last = None;
        while let Some((entry, responder)) = entries.try_next().await? {
            if let Some(membership) = entry.get_membership() {
                self.0.state().membership = StoredMembership::new(Some(entry.log_id), membership);
            }
            last = Some(entry.log_id);
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        if let Some(last) = last {
            self.0.advance(last);
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<KeptSnapshot> {
        (force || self.0.snapshot().is_some()).then(|| KeptSnapshot(self.0.clone()))
    }

    async fn get_snapshot_builder(&mut self) -> KeptSnapshot {
        KeptSnapshot(self.0.clone())
    }

    /// On a full disk it is tried until there is room: openraft ends with an error.
    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: Bytes) -> io::Result<()> {
        while let Err(error) = self.0.keep(meta.clone(), data.clone()).await {
            if !is_disk_full(&error) || self.0.progress.borrow().closed {
                return Err(error);
            }
            tracing::error!(%error, "could not keep the leader's snapshot; trying again");
            tokio::time::sleep(RETRY).await;
        }
        self.0.state().membership = meta.last_membership.clone();
        if let Some(last) = meta.last_log_id {
            self.0.state().applied = Some(last);
            // Both at once: nobody may see the one without the other.
            self.0.progress.send_modify(|progress| {
                progress.installed = Some(last.index);
                progress.committed = progress.committed.max(Some(last.index));
            });
        }
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        self.0.read_snapshot().await.map_err(io::Error::other)
    }
}
