//! What was acknowledged survives the stop of everything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use pgrenga_log::{LogIndex, ProposeError};

use crate::cluster::{Cluster, deadline};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_entry_is_there_after_all_stopped_under_load() {
    let mut cluster = Cluster::of(3).await;
    let stop = Arc::new(AtomicBool::new(false));
    let proposers: Vec<_> = (0..9u32)
        .map(|proposer| {
            let handle = cluster.member(proposer % 3 + 1).handle.clone();
            let stop = stop.clone();
            tokio::spawn(async move {
                let mut acknowledged = BTreeMap::new();
                for n in 0u32.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let payload = Bytes::from(format!("{proposer}/{n}"));
                    match handle.propose(payload.clone(), deadline()).await {
                        Ok(index) => assert_eq!(acknowledged.insert(index.0, payload), None),
                        Err(ProposeError::Closed) => break,
                        Err(_) => {}
                    }
                }
                acknowledged
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.stop_all().await;
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = BTreeMap::new();
    for proposer in proposers {
        for (index, payload) in proposer.await.expect("no panic") {
            assert_eq!(acknowledged.insert(index, payload), None, "index {index} twice");
        }
    }
    assert!(acknowledged.len() > 100, "{}", acknowledged.len());

    for id in 1..=3 {
        cluster.start(id).await;
    }
    let last = cluster.member(2).propose_surely("last").await;
    assert!(acknowledged.keys().all(|index| LogIndex(*index) < last));
    cluster.agree(last).await;
    for (id, member) in &cluster.members {
        for (index, payload) in &acknowledged {
            assert_eq!(member.seen.get(index), Some(payload), "node {id}, index {index}");
        }
    }
    cluster.stop_all().await;
}

/// A leader sends entries to the others while its own disk still writes them. If it dies then, it comes back
/// without entries that are committed, and must not put others in their places.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_died_before_its_own_sync_puts_nothing_in_the_place_of_what_the_others_have() {
    let mut cluster = Cluster::of(3).await;
    let before = cluster.member(1).propose("before").await;
    cluster.agree(before).await;
    assert_eq!(cluster.leader().await, 1);
    let disk = cluster.copy_disk(1);
    let kept = cluster.member(1).propose("kept").await;
    cluster.agree(kept).await;
    cluster.stop(1).await;
    cluster.replace_disk(1, disk);

    cluster.start(1).await;
    let after = cluster.member(1).propose_surely("after").await;
    assert!(after > kept, "{after} takes the place of {kept}");
    cluster.agree(after).await;
    for (id, member) in &cluster.members {
        assert_eq!(member.seen.get(&kept.0), Some(&Bytes::from("kept")), "node {id}");
    }
    cluster.stop_all().await;
}
