//! openraft's own tests for stores.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{OptionalSend, StorageError};

use super::open;
use crate::raft::{LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};
use crate::state_machine::{Applied, StateMachine};
use crate::store::{Directory, Disk, LogStore, WriterGuard};

/// Takes snapshots when openraft asks for one, as the suite does; in earnest
/// the application alone decides.
struct Eager(StateMachine);

struct EagerBuilder(Arc<Applied>, SnapshotMeta);

impl RaftSnapshotBuilder<TypeConfig> for EagerBuilder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        self.0.keep(self.1.clone(), Bytes::new()).await?;
        Ok(Snapshot { meta: self.1.clone(), snapshot: Bytes::new() })
    }
}

impl RaftStateMachine<TypeConfig> for Eager {
    type SnapshotData = Bytes;
    type SnapshotBuilder = EagerBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        self.0.applied_state().await
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        self.0.apply(entries).await
    }

    async fn get_snapshot_builder(&mut self) -> EagerBuilder {
        let (last_log_id, last_membership) = self.0.applied_state().await.expect("a state");
        EagerBuilder(self.0.0.clone(), SnapshotMeta { last_log_id, last_membership })
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: Bytes) -> io::Result<()> {
        self.0.install_snapshot(meta, data).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        self.0.get_current_snapshot().await
    }
}

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Eager, (WriterGuard, tempfile::TempDir)> for Builder {
    async fn build(&self) -> Result<((WriterGuard, tempfile::TempDir), LogStore, Eager), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().expect("a directory");
        let disk: Arc<dyn Disk> = Arc::new(Directory::open(dir.path()).expect("a directory"));
        let (store, writer) = open(disk.clone()).expect("a store");
        Ok(((writer, dir), store, Eager(StateMachine(Arc::new(Applied::new(disk, None, None, None))))))
    }
}

#[tokio::test]
async fn openrafts_own_suite_passes() {
    Suite::test_all(Builder).await.expect("a store as openraft wants it");
}
