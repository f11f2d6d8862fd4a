//! Members come and go.

use std::time::Duration;

use bytes::Bytes;
use pgrenga_log::{Error, LogIndex, NodeId};
use tokio::time::Instant;

use crate::cluster::{Cluster, deadline};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_gets_the_whole_log_and_can_become_a_voter() {
    let mut cluster = Cluster::of(1).await;
    for n in 0..500u32 {
        cluster.member(1).propose(vec![n as u8; 2000]).await;
    }
    cluster.start(2).await;
    cluster.join(2).await;
    let last = cluster.member(2).propose("by the learner").await;
    cluster.agree(last).await;
    assert_eq!(cluster.member(2).seen.len(), 501);
    cluster.member(2).handle.promote(NodeId(2)).await.expect("a voter");
    let last = cluster.member(2).propose("by the voter").await;
    cluster.agree(last).await;
    assert!(cluster.member(1).handle.status().members.iter().all(|member| member.voter));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_gets_the_snapshot_and_then_the_log_after_it() {
    let mut cluster = Cluster::of(1).await;
    for n in 0..300u32 {
        cluster.member(1).propose(vec![n as u8; 2000]).await;
    }
    let at = cluster.member(1).propose("last in the snapshot").await;
    let state = Bytes::from(vec![5; 3 << 20]);
    let handle = cluster.member(1).handle.clone();
    handle.snapshot_taken(at, state.clone()).await.expect("a snapshot");
    handle.purge(at).await.expect("purged");
    let until = deadline();
    while handle.status().purged != Some(at) {
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cluster.start(2).await;
    cluster.join(2).await;
    let last = cluster.member(1).propose("after").await;
    cluster.member_mut(2).reach(last).await;
    assert_eq!(cluster.member(2).snapshot, Some((at.0, state.clone())));
    assert_eq!(cluster.member(2).seen.len(), 1);

    // It keeps the snapshot, too.
    cluster.stop(2).await;
    cluster.start(2).await;
    let last = cluster.member(1).propose("later").await;
    cluster.member_mut(2).reach(last).await;
    assert_eq!(cluster.member(2).snapshot, Some((at.0, state)));
    assert_eq!(cluster.member(2).seen.len(), 2);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_lost_too_much_gets_the_snapshot() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let behind = leader % 3 + 1;
    cluster.stop(behind).await;
    let mut at = LogIndex(0);
    for n in 0..100u32 {
        at = cluster.member(leader).propose(vec![n as u8; 1000]).await;
    }
    cluster.member(leader).handle.snapshot_taken(at, Bytes::from_static(b"state")).await.expect("a snapshot");
    cluster.member(leader).handle.purge(at).await.expect("purged");
    let until = deadline();
    while cluster.member(leader).handle.status().purged != Some(at) {
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cluster.start(behind).await;
    let last = cluster.member(leader).propose_surely("after").await;
    cluster.member_mut(behind).reach(last).await;
    assert_eq!(cluster.member(behind).snapshot, Some((at.0, Bytes::from_static(b"state"))));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_removed_and_the_last_voter_is_not() {
    let mut cluster = Cluster::of(3).await;
    cluster.member(3).handle.remove(NodeId(3)).await.expect("removed");
    cluster.stop(3).await;
    let leader = cluster.leader().await;
    let other = 3 - leader;
    cluster.member(other).handle.remove(NodeId(leader)).await.expect("the leader removed");
    cluster.stop(leader).await;
    let last = cluster.member(other).propose_surely("alone").await;
    cluster.member_mut(other).reach(last).await;
    let refused = cluster.member(other).handle.remove(NodeId(other)).await;
    assert!(matches!(refused, Err(Error::Membership(_))), "{refused:?}");
    assert!(matches!(cluster.member(other).handle.promote(NodeId(9)).await, Err(Error::Membership(_))));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_removed_without_whom_the_others_would_have_no_majority() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let (dead, alive) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.stop(dead).await;
    // Until the leader has noticed.
    tokio::time::sleep(Duration::from_secs(2)).await;
    for needed in [leader, alive] {
        let handle = &cluster.member(leader).handle;
        assert!(matches!(handle.may_remove(NodeId(needed)).await, Err(Error::Membership(_))), "{needed}");
        assert!(matches!(handle.remove(NodeId(needed)).await, Err(Error::Membership(_))), "{needed}");
    }
    cluster.member(alive).handle.may_remove(NodeId(dead)).await.expect("it is of no use");
    cluster.member(alive).handle.remove(NodeId(dead)).await.expect("removed");
    cluster.member(alive).handle.remove(NodeId(dead)).await.expect("removed already");
    let last = cluster.member(alive).propose_surely("without it").await;
    cluster.agree(last).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_leader_hands_over_when_it_goes() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let other = leader % 3 + 1;
    cluster.member(leader).handle.remove(NodeId(leader)).await.expect("removed");
    let begun = Instant::now();
    cluster.member(other).propose_surely("at once").await;
    // An election would take longer.
    assert!(begun.elapsed() < Duration::from_millis(700), "{:?}", begun.elapsed());
    cluster.stop(leader).await;
    let members = cluster.member(other).handle.status().members;
    assert!(members.iter().all(|member| member.node_id != NodeId(leader)), "{members:?}");
    cluster.stop_all().await;
}
