//! Holds the store to this: what was answered is there after any crash, and
//! damage to it is told, never repaired away.

mod crash;
mod damage;
mod full;
mod memory_disk;
mod suite;

use std::io;
use std::sync::Arc;

use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, RaftLogReader};

use super::{Directory, Disk, Limits, LogStore, OnFailure, WriterGuard};
use crate::error::Error;
use crate::raft::{Entry, Payload, TypeConfig, Vote, log_id};

const LIMITS: Limits = Limits { segment_bytes: 64 << 10, cache_bytes: 0, read_bytes: 4096 };

fn open(disk: Arc<dyn Disk>) -> Result<(LogStore, WriterGuard), Error> {
    LogStore::open(disk, 1, LIMITS, OnFailure::Stop)
}

fn entry(term: u64, index: u64, len: usize) -> Entry {
    let payload = Payload(vec![index as u8; len].into());
    Entry::new(log_id(term, index), EntryPayload::Normal(payload))
}

/// Appends and waits until it is durable.
async fn append(store: &mut LogStore, entries: Vec<Entry>) -> io::Result<()> {
    let (sender, done) = TypeConfig::oneshot();
    store.append(entries, IOFlushed::signal(sender)).await?;
    done.await.map_err(io::Error::other)?
}

#[tokio::test]
async fn everything_is_there_after_a_reopen() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = || -> Arc<dyn Disk> { Arc::new(Directory::open(dir.path()).expect("a directory")) };
    let (mut store, writer) = open(disk()).expect("a store");
    store.save_vote(&Vote::new(3, 1)).await.expect("saved");
    append(&mut store, (0..200).map(|index| entry(1, index, 1000)).collect()).await.expect("durable");
    store.truncate_after(Some(log_id(1, 149))).await.expect("queued");
    append(&mut store, (150..300).map(|index| entry(2, index, 1000)).collect()).await.expect("durable");
    store.purge(log_id(1, 99)).await.expect("queued");
    store.save_committed(Some(log_id(2, 250))).await.expect("queued");
    drop(writer);
    assert!(store.disk_bytes() <= 5 * LIMITS.segment_bytes, "one of six is gone: {}", store.disk_bytes());

    let (mut store, _writer) = open(disk()).expect("a store");
    let state = store.get_log_state().await.expect("a state");
    assert_eq!(state.last_purged_log_id, Some(log_id(1, 99)));
    assert_eq!(state.last_log_id, Some(log_id(2, 299)));
    assert_eq!(store.read_vote().await.expect("readable"), Some(Vote::new(3, 1)));
    assert_eq!(store.read_committed().await.expect("readable"), Some(log_id(2, 250)));
    let entries = store.try_get_log_entries(0..1000).await.expect("readable");
    let expected: Vec<Entry> = (100..300).map(|index| entry(if index < 150 { 1 } else { 2 }, index, 1000)).collect();
    assert_eq!(entries, expected);
    assert_eq!(store.limited_get_log_entries(100, 300).await.expect("readable").len(), 3, "bounded by bytes");
    let ids = store.get_key_log_ids(log_id(1, 100)..=log_id(2, 299)).await.expect("readable");
    assert_eq!(ids, [log_id(1, 149), log_id(2, 299)]);
}

#[tokio::test]
async fn a_purge_beyond_the_end_begins_anew() {
    let disk = memory_disk::MemoryDisk::default();
    let (mut store, writer) = open(Arc::new(disk.clone())).expect("a store");
    append(&mut store, (0..10).map(|index| entry(1, index, 10)).collect()).await.expect("durable");
    store.purge(log_id(4, 99)).await.expect("queued");
    append(&mut store, vec![entry(5, 100, 10)]).await.expect("durable");
    drop(writer);
    let (mut store, _writer) = open(Arc::new(disk)).expect("a store");
    assert_eq!(store.try_get_log_entries(..).await.expect("readable"), [entry(5, 100, 10)]);
    assert_eq!(store.purged(), Some(log_id(4, 99)));
}
