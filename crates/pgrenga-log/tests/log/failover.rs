//! Three members, of which one goes.

use std::time::{Duration, Instant};

use pgrenga_log::{LogIndex, NodeId, ProposeError};

use crate::cluster::{Cluster, deadline};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_are_on_every_member_whoever_proposed_them() {
    let mut cluster = Cluster::of(3).await;
    let mut last = LogIndex(0);
    for n in 0..30u32 {
        let proposer = n % 3 + 1;
        last = last.max(cluster.member(proposer).propose(format!("{n} from {proposer}")).await);
    }
    cluster.agree(last).await;
    assert!(cluster.members.values().all(|member| member.seen.len() == 30));
    let read = cluster.member(3).handle.linearizable_index(deadline()).await.expect("an index");
    assert!(read >= last);
    let status = cluster.member(1).handle.status();
    assert_eq!(status.leader, Some(NodeId(1)));
    assert_eq!(status.members.iter().filter(|member| member.voter).count(), 3);
    assert!(status.members.iter().all(|member| member.matching.is_some()), "{status:?}");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_others_go_on_without_the_leader_and_it_catches_up() {
    let mut cluster = Cluster::of(3).await;
    for n in 0..10u32 {
        cluster.member(2).propose(format!("before {n}")).await;
    }
    let gone = cluster.leader().await;
    cluster.stop(gone).await;
    let stopped = Instant::now();
    let other = *cluster.members.keys().next().expect("a member");
    cluster.member(other).propose_surely("first after").await;
    let without = stopped.elapsed();
    assert!(without < Duration::from_millis(2500), "no leader for {without:?}");
    let mut last = LogIndex(0);
    for n in 0..200u32 {
        last = cluster.member(other).propose_surely(vec![n as u8; 4000]).await;
    }
    // Much more than the others' caches hold.
    cluster.start(gone).await;
    cluster.agree(last).await;
    assert!(cluster.member(gone).seen.len() >= 211);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_acknowledged() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let others: Vec<u32> = cluster.members.keys().copied().filter(|id| *id != leader).collect();
    for id in &others {
        cluster.stop(*id).await;
    }
    let soon = tokio::time::Instant::now() + Duration::from_millis(300);
    let result = cluster.member(leader).handle.propose("x".into(), soon).await;
    assert!(matches!(result, Err(ProposeError::Unknown | ProposeError::NotSent)), "{result:?}");
    assert!(cluster.member(leader).handle.linearizable_index(soon).await.is_err());
    for id in &others {
        cluster.start(*id).await;
    }
    let last = cluster.member(others[0]).propose_surely("y").await;
    cluster.agree(last).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_when_asked_by_anyone() {
    let cluster = &mut Cluster::of(3).await;
    for to in [2, 3, 1] {
        let asked = cluster.leader().await % 3 + 1;
        cluster.member(asked).handle.transfer_leader(NodeId(to)).await.expect("moved");
        assert_eq!(cluster.leader().await, to);
        cluster.member(asked).propose(format!("under {to}")).await;
    }
    let last = cluster.member(2).propose("last").await;
    cluster.agree(last).await;
    cluster.stop_all().await;
}
