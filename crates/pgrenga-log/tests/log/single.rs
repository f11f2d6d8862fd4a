//! One member alone.

use std::time::Duration;

use bytes::Bytes;
use pgrenga_log::{Error, LogIndex, NodeId, ProposeError, start};
use tokio::time::Instant;

use crate::cluster::{Cluster, deadline};

#[tokio::test]
async fn proposals_come_out_in_order_and_again_after_a_restart() {
    let mut cluster = Cluster::of(1).await;
    let mut indexes = Vec::new();
    for n in 0..100u32 {
        indexes.push(cluster.member(1).propose(n.to_le_bytes().to_vec()).await);
    }
    assert!(indexes.is_sorted());
    let last = indexes[99];
    cluster.agree(last).await;
    let before = cluster.member(1).seen.clone();
    assert_eq!(before.len(), 100);
    assert_eq!(before[&indexes[7].0], 7u32.to_le_bytes()[..]);

    cluster.stop(1).await;
    cluster.start(1).await;
    cluster.agree(last).await;
    assert_eq!(cluster.member(1).seen, before);
    let next = cluster.member(1).propose("after").await;
    assert!(next > last);
    cluster.stop_all().await;
}

#[tokio::test]
async fn many_proposals_at_once_share_syncs() {
    let mut cluster = Cluster::of(1).await;
    let handle = cluster.member(1).handle.clone();
    let proposals = (0..2000u32).map(|n| {
        let handle = handle.clone();
        tokio::spawn(async move { handle.propose(Bytes::from(vec![n as u8; 300]), deadline()).await })
    });
    let mut indexes = Vec::new();
    for proposal in proposals.collect::<Vec<_>>() {
        indexes.push(proposal.await.expect("no panic").expect("committed"));
    }
    indexes.sort();
    indexes.dedup();
    assert_eq!(indexes.len(), 2000, "every proposal has its own place");
    cluster.agree(indexes[1999]).await;
    assert_eq!(cluster.member(1).seen.len(), 2000);

    // More than the cache and several segments: from disk, in pieces.
    let first = indexes[0];
    let all = handle.read_range(first, LogIndex(indexes[1999].0 + 1), usize::MAX).await.expect("entries");
    assert_eq!(all.len(), 2000);
    let some = handle.read_range(first, LogIndex(u64::MAX), 1000).await.expect("entries");
    assert!((1..=4).contains(&some.len()), "bounded by bytes");
    assert_eq!(handle.read(first).await.expect("an entry").len(), 300);
    cluster.stop_all().await;
}

#[tokio::test]
async fn errors_tell_what_became_of_the_entry() {
    let mut cluster = Cluster::new();
    cluster.start(1).await;
    let handle = cluster.member(1).handle.clone();
    let soon = Instant::now() + Duration::from_millis(50);
    assert_eq!(handle.propose(Bytes::from_static(b"x"), soon).await, Err(ProposeError::NotSent));
    handle.initialize().await.expect("a cluster");
    assert!(matches!(handle.initialize().await, Err(Error::AlreadyInitialized)));
    let large = Bytes::from(vec![0; (64 << 10) + 1]);
    assert_eq!(handle.propose(large, deadline()).await, Err(ProposeError::TooLarge));
    let largest = Bytes::from(vec![1; 64 << 10]);
    let index = handle.propose(largest.clone(), deadline()).await.expect("committed");
    assert_eq!(handle.read(index).await.expect("an entry"), largest);
    assert!(matches!(handle.read(LogIndex(0)).await, Err(Error::NoPayload(_))));
    assert!(matches!(handle.read(LogIndex(index.0 + 1)).await, Err(Error::NotCommitted(_))));
    let read = handle.linearizable_index(deadline()).await.expect("an index");
    assert!(read >= index);
    cluster.stop(1).await;
    assert_eq!(handle.propose(Bytes::new(), deadline()).await, Err(ProposeError::Closed));
}

#[tokio::test]
async fn a_directory_serves_one_member_only() {
    let mut cluster = Cluster::of(1).await;
    assert!(matches!(start(cluster.options(1)).await, Err(Error::Locked(_))));
    cluster.stop(1).await;
    let mut other = cluster.options(1);
    other.node_id = NodeId(2);
    let expected = "log directory belongs to node 1, not to node 2";
    assert_eq!(start(other).await.err().map(|error| error.to_string()), Some(expected.into()));
}

#[tokio::test]
async fn a_snapshot_takes_the_place_of_purged_entries() {
    let mut cluster = Cluster::of(1).await;
    let mut last = LogIndex(0);
    for n in 0..1000u32 {
        last = if n == 500 {
            let at = last;
            let handle = &cluster.member(1).handle;
            handle.snapshot_taken(at, Bytes::from_static(b"state")).await.expect("a snapshot");
            let full = handle.status().disk_bytes;
            handle.purge(LogIndex(u64::MAX)).await.expect("purged");
            let until = deadline();
            while handle.status().purged != Some(at) || handle.status().disk_bytes >= full {
                assert!(Instant::now() < until, "{:?}", handle.status());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert!(matches!(handle.read(at).await, Err(Error::Purged(_))));
            cluster.member(1).propose(vec![7; 1000]).await
        } else {
            cluster.member(1).propose(vec![7; 1000]).await
        };
    }
    let snapshot = cluster.member(1).handle.status().snapshot.expect("a snapshot");
    cluster.stop(1).await;
    cluster.start(1).await;
    cluster.agree(last).await;
    let member = cluster.member(1);
    assert_eq!(member.snapshot, Some((snapshot.0, Bytes::from_static(b"state"))));
    assert_eq!(member.seen.len(), 500);
    assert_eq!(member.seen.keys().next(), Some(&(snapshot.0 + 1)));
    cluster.stop_all().await;
}
