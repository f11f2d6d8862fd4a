//! An incomplete write at the end is dropped; damage anywhere else is told.

use std::sync::Arc;

use openraft::RaftLogReader;

use super::memory_disk::MemoryDisk;
use super::{append, entry, open};
use crate::error::Error;
use crate::raft::Entry;

const FIRST: &str = "0000000000000001.log";

/// A log of `count` entries in as many frames, and where each frame begins and ends.
async fn log(count: u64) -> (MemoryDisk, Vec<(usize, usize)>) {
    let disk = MemoryDisk::default();
    let (mut store, writer) = open(Arc::new(disk.clone())).expect("a store");
    let end = || disk.bytes(FIRST).iter().rposition(|byte| *byte != 0).expect("bytes") + 1;
    let mut frames = Vec::new();
    let mut start = 4096;
    for index in 0..count {
        append(&mut store, vec![entry(1, index + 1, 100)]).await.expect("durable");
        frames.push((start, end()));
        start = end();
    }
    drop(writer);
    (disk, frames)
}

async fn entries(disk: &MemoryDisk) -> Result<Vec<Entry>, Error> {
    let (mut store, _writer) = open(Arc::new(disk.clone()))?;
    Ok(store.try_get_log_entries(..).await.expect("readable"))
}

#[tokio::test]
async fn a_write_torn_at_any_byte_is_dropped() {
    let (disk, frames) = log(3).await;
    assert_eq!(entries(&disk).await.expect("a log").len(), 3);
    let (start, end) = frames[2];
    for cut in start..end {
        let beginning = disk.damaged(FIRST, |bytes| bytes[cut..].fill(0));
        assert_eq!(entries(&beginning).await.expect("a log").len(), 2, "cut at {cut}");
        // The log goes on, and what was torn does not come back.
        let (mut store, writer) = open(Arc::new(beginning.clone())).expect("a store");
        append(&mut store, vec![entry(2, 3, 20)]).await.expect("durable");
        drop(writer);
        assert_eq!(entries(&beginning).await.expect("a log")[2], entry(2, 3, 20));
        if cut > start {
            let rest = disk.damaged(FIRST, |bytes| bytes[start..cut].fill(0));
            assert_eq!(entries(&rest).await.expect("a log").len(), 2, "without the bytes before {cut}");
        }
    }
}

#[tokio::test]
async fn damage_in_the_middle_is_an_error_and_stays_as_it_is() {
    let (disk, frames) = log(3).await;
    for at in frames[0].0..frames[1].1 {
        let damaged = disk.damaged(FIRST, |bytes| bytes[at] ^= 0x40);
        let before = damaged.bytes(FIRST);
        assert!(matches!(entries(&damaged).await, Err(Error::Corrupt { .. })), "byte {at}");
        assert_eq!(damaged.bytes(FIRST), before);
    }
    // The first segment's header has neither vote nor log ids.
    for at in 0..54 {
        let damaged = disk.damaged(FIRST, |bytes| bytes[at] ^= 0x40);
        assert!(matches!(entries(&damaged).await, Err(Error::Corrupt { .. })), "byte {at} of the header");
    }
}

#[tokio::test]
async fn a_missing_segment_is_an_error() {
    let disk = MemoryDisk::default();
    let (mut store, writer) = open(Arc::new(disk.clone())).expect("a store");
    for index in 0..40 {
        append(&mut store, vec![entry(1, index, 5000)]).await.expect("durable");
    }
    drop(writer);
    for missing in [FIRST, "0000000000000002.log"] {
        let copy = disk.damaged(FIRST, |_| {});
        crate::store::Disk::remove(&copy, missing).expect("removed");
        assert!(matches!(entries(&copy).await, Err(Error::Corrupt { .. })), "{missing}");
    }
    let torn = disk.damaged(FIRST, |bytes| bytes[60_000..].fill(0));
    assert!(matches!(entries(&torn).await, Err(Error::Corrupt { .. })), "a torn end of a segment that is not the last");
}
