//! A full disk: what is there already goes on being used, nothing is lost, votes and purges go on,
//! and so does everything else as soon as there is room.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, RaftLogReader};

use super::memory_disk::{MemoryDisk, Unsynced};
use super::{LIMITS, append, entry, open};
use crate::raft::{Entry, SnapshotMeta, StoredMembership, TypeConfig, Vote, log_id};
use crate::snapshot;
use crate::store::{LogStore, WriterGuard, is_disk_full};

const PATIENCE: Duration = Duration::from_secs(30);
const LEN: usize = 1000;

/// A log whose disk has become full: its first segment is nearly empty.
async fn full() -> (MemoryDisk, LogStore, WriterGuard) {
    let disk = MemoryDisk::default();
    disk.set_capacity(Some(LIMITS.segment_bytes as usize + 5000));
    let (store, writer) = open(Arc::new(disk.clone())).expect("a store");
    until("the disk is full", || store.is_full()).await;
    (disk, store, writer)
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Appends as long as the store takes entries; returns the index of the next one.
async fn fill(store: &mut LogStore) -> u64 {
    for index in 0.. {
        let entries = vec![entry(1, index, LEN)];
        if !store.admits(&entries) {
            return index;
        }
        append(store, entries).await.expect("what is taken fits");
    }
    unreachable!("no disk is that large")
}

async fn entries(store: &mut LogStore) -> Vec<Entry> {
    store.try_get_log_entries(..).await.expect("readable")
}

fn expected(range: std::ops::Range<u64>) -> Vec<Entry> {
    range.map(|index| entry(1, index, LEN)).collect()
}

#[tokio::test]
async fn the_present_segment_is_used_and_it_goes_on_when_there_is_room() {
    let (disk, mut store, writer) = full().await;
    assert!(!disk.names().iter().any(|name| name.ends_with(".tmp")), "nothing is left over: {:?}", disk.names());
    let next = fill(&mut store).await;
    assert!(next > 50, "only {next} entries fit");
    store.save_vote(&Vote::new(2, 1)).await.expect("there is room for votes");

    disk.set_capacity(None);
    until("there is room again", || !store.is_full()).await;
    append(&mut store, (next..200).map(|index| entry(1, index, LEN)).collect()).await.expect("durable");
    drop(writer);
    let (mut store, _writer) = open(Arc::new(disk.after_crash(Unsynced::Lost))).expect("a store");
    assert_eq!(entries(&mut store).await, expected(0..200));
    assert_eq!(store.read_vote().await.expect("readable"), Some(Vote::new(2, 1)));
}

/// What is given to the writer nevertheless waits, is not answered, and holds up what comes later.
#[tokio::test]
async fn what_does_not_fit_waits_in_its_place() {
    let (disk, mut store, _writer) = full().await;
    let next = fill(&mut store).await;
    let (sender, mut done) = TypeConfig::oneshot();
    let more = (next..100).map(|index| entry(1, index, LEN));
    store.append(more, IOFlushed::signal(sender)).await.expect("queued");
    let mut voter = store.clone();
    let vote = tokio::spawn(async move { voter.save_vote(&Vote::new(2, 1)).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(done.try_recv().is_err(), "not durable, not answered");
    assert!(!vote.is_finished(), "openraft takes a vote for a sign that the entries before it are durable");
    let (mut crashed, writer) = open(Arc::new(disk.after_crash(Unsynced::Lost))).expect("a store");
    let found = entries(&mut crashed).await;
    assert!(found.len() as u64 >= next && found == expected(0..found.len() as u64), "{} entries", found.len());
    drop(writer);
    // Whoever starts with that has room for votes.
    let crashed = disk.after_crash(Unsynced::Lost);
    crashed.set_capacity(Some(crashed.size()));
    let (mut restarted, writer) = open(Arc::new(crashed)).expect("a store");
    vote_often(&mut restarted, 2).await;
    assert!(restarted.is_full());
    drop(writer);

    disk.set_capacity(None);
    done.await.expect("answered").expect("durable");
    vote.await.expect("no panic").expect("durable");
    assert_eq!(entries(&mut store).await, expected(0..100));
}

#[tokio::test]
async fn a_purge_makes_room_though_something_waits() {
    let disk = MemoryDisk::default();
    disk.set_capacity(Some(3 * LIMITS.segment_bytes as usize + 5000));
    let (mut store, writer) = open(Arc::new(disk.clone())).expect("a store");
    let first = {
        let mut index = 0;
        while !store.is_full() {
            append(&mut store, vec![entry(1, index, LEN)]).await.expect("durable");
            index += 1;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        index
    };
    let (sender, done) = TypeConfig::oneshot();
    let last = first + 100;
    store.append((first..last).map(|index| entry(1, index, LEN)), IOFlushed::signal(sender)).await.expect("queued");
    // The second is of what waits itself, and must wait with it.
    store.purge(log_id(1, first - 1)).await.expect("queued");
    store.purge(log_id(1, last - 1)).await.expect("queued");
    done.await.expect("answered").expect("durable");
    until("there is room again", || !store.is_full()).await;
    append(&mut store, vec![entry(1, last, LEN)]).await.expect("durable");
    drop(writer);
    let (mut store, _writer) = open(Arc::new(disk.after_crash(Unsynced::Lost))).expect("a store");
    assert_eq!(store.purged(), Some(log_id(1, last - 1)));
    assert_eq!(entries(&mut store).await, expected(last..last + 1));
}

/// The end of the last segment is kept for what keeps a member a member.
#[tokio::test]
async fn proposals_leave_room_for_votes_and_for_the_logs_own_entries() {
    let (disk, mut store, writer) = full().await;
    let next = fill(&mut store).await;
    vote_often(&mut store, 2).await;
    append(&mut store, vec![Entry::new(log_id(20, next), EntryPayload::Blank)]).await.expect("durable");
    drop((store, writer));
    let (mut store, _writer) = open(Arc::new(disk.after_crash(Unsynced::Lost))).expect("a store");
    assert_eq!(entries(&mut store).await.len() as u64, next + 1);
}

/// So often that it needs more room than the last entry would have taken.
async fn vote_often(store: &mut LogStore, term: u64) {
    for term in term..term + 40 {
        let voted = tokio::time::timeout(PATIENCE, store.save_vote(&Vote::new(term, 1))).await;
        voted.expect("there is room for votes").expect("durable");
    }
}

#[tokio::test]
async fn an_end_does_not_wait_for_room() {
    let (_disk, mut store, writer) = full().await;
    let (sender, done) = TypeConfig::oneshot();
    store.append((0..100).map(|index| entry(1, index, LEN)), IOFlushed::signal(sender)).await.expect("queued");
    let mut voter = store.clone();
    let vote = tokio::spawn(async move { voter.save_vote(&Vote::new(2, 1)).await });
    store.abandon();
    assert!(tokio::time::timeout(PATIENCE, vote).await.expect("in time").expect("no panic").is_err());
    writer.stopped().await;
    assert!(!matches!(done.await, Ok(Ok(()))), "nothing of it was acknowledged");
}

#[test]
fn a_snapshot_that_does_not_fit_leaves_the_one_before() {
    let disk = MemoryDisk::default();
    let meta =
        |index| SnapshotMeta { last_log_id: Some(log_id(1, index)), last_membership: StoredMembership::default() };
    snapshot::save(&disk, &meta(1), &[1; 1000]).expect("saved");
    disk.set_capacity(Some(disk.size() + 500));
    let error = snapshot::save(&disk, &meta(2), &[2; 1000]).expect_err("it does not fit");
    assert!(is_disk_full(&error), "{error}");
    assert_eq!(disk.names(), ["snapshot"]);
    let kept = snapshot::load(&disk).expect("readable").expect("there is one");
    assert_eq!((kept.meta, &kept.snapshot[..]), (meta(1), &[1; 1000][..]));
    disk.set_capacity(None);
    snapshot::save(&disk, &meta(2), &[2; 1000]).expect("saved");
}
