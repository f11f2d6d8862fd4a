//! One member goes on when the others are lost for good.

use std::time::Duration;

use bytes::Bytes;
use pgrenga_log::{NodeId, Recovery};
use tokio::time::Instant;

use crate::cluster::{Cluster, deadline};

async fn take_over(cluster: &Cluster, id: u32, entry: &'static str) {
    let recovery = Recovery::open(&cluster.options(id)).await.expect("a log");
    recovery.take_over("127.0.0.1:9", Bytes::from_static(entry.as_bytes())).await.expect("written");
}

/// Starts it: it leads, alone, and hands out `expected` and then what is proposed now.
async fn goes_on(cluster: &mut Cluster, id: u32, expected: &[&str]) {
    cluster.start(id).await;
    let last = cluster.member(id).propose("alone").await;
    cluster.member_mut(id).reach(last).await;
    let status = cluster.member(id).handle.status();
    let members: Vec<(NodeId, bool)> = status.members.iter().map(|member| (member.node_id, member.voter)).collect();
    assert_eq!(members, [(NodeId(id), true)]);
    let seen: Vec<&[u8]> = cluster.member(id).seen.values().map(Bytes::as_ref).collect();
    let expected: Vec<&[u8]> = expected.iter().chain(&["alone"]).map(|text| text.as_bytes()).collect();
    assert_eq!(seen, expected);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_keeps_what_it_has_and_leads_alone() {
    let mut cluster = Cluster::of(3).await;
    cluster.member(1).propose("one").await;
    let last = cluster.member(1).propose("two").await;
    cluster.agree(last).await;
    let term = cluster.member(1).handle.status().term;
    cluster.stop_all().await;

    let recovery = Recovery::open(&cluster.options(2)).await.expect("a log");
    let remains = recovery.remains();
    assert_eq!((remains.last, remains.last_term, remains.members.len()), (last, term, 3));
    assert!(remains.committed <= Some(last));
    assert_eq!(remains.others(NodeId(2)).map(|member| member.node_id).collect::<Vec<_>>(), [NodeId(1), NodeId(3)]);
    recovery.close().await;

    take_over(&cluster, 2, "the others are out").await;
    // Cut off after that, it is done again.
    take_over(&cluster, 2, "again").await;
    goes_on(&mut cluster, 2, &["one", "two", "the others are out", "again"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_begins_with_a_snapshot_knows_its_members() {
    let mut cluster = Cluster::of(2).await;
    let last = cluster.member(1).propose("in the snapshot").await;
    cluster.agree(last).await;
    let handle = cluster.member(1).handle.clone();
    handle.snapshot_taken(last, Bytes::from_static(b"state")).await.expect("a snapshot");
    handle.purge(last).await.expect("purged");
    let until = deadline();
    while handle.status().purged != Some(last) {
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // It holds the address.
    drop(handle);
    cluster.stop_all().await;

    let recovery = Recovery::open(&cluster.options(1)).await.expect("a log");
    assert_eq!(recovery.remains().members.len(), 2);
    recovery.close().await;
    take_over(&cluster, 1, "out").await;
    goes_on(&mut cluster, 1, &["out"]).await;
}
