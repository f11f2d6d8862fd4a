//! Which node a session goes to.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use pgrenga_testkit::cluster::{Cluster, Part};
use tokio_postgres::error::SqlState;

use crate::{CLUSTER, connect, node_of};

const PATIENCE: Duration = Duration::from_secs(60);

/// How many of so many new sessions go to each node.
async fn spread(cluster: &Cluster, sessions: usize) -> Result<Vec<usize>> {
    let mut counts = vec![0; cluster.len()];
    let mut open = Vec::new();
    for _ in 0..sessions {
        let session = connect(cluster).await?;
        counts[node_of(cluster, &session).await?] += 1;
        open.push(session);
    }
    Ok(counts)
}

/// Waits until new sessions spread like this: the balancer hears of the end of earlier ones, and of what the nodes
/// are doing, a little later.
async fn until_spread(cluster: &Cluster, expected: [usize; 3]) -> Result<()> {
    let begun = Instant::now();
    loop {
        let counts = spread(cluster, expected.iter().sum()).await?;
        if counts == expected {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "{counts:?}, not {expected:?}");
    }
}

#[test]
fn every_node_has_its_share() {
    CLUSTER.test(async |cluster| until_spread(cluster, [3, 3, 3]).await);
}

#[test]
fn a_detached_node_gets_no_new_sessions() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let (code, _, errors) = cluster.run(&["detach", "n2"]).await?;
        ensure!(code == 0, "{errors}");
        until_spread(cluster, [2, 0, 2]).await?;
        let (code, _, errors) = cluster.run(&["attach", "n2"]).await?;
        ensure!(code == 0, "{errors}");
        until_spread(cluster, [2, 2, 2]).await
    });
}

#[test]
fn a_node_that_dies_takes_no_session_along() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let mut sessions: [Vec<_>; 3] = Default::default();
        while sessions.iter().any(Vec::is_empty) {
            let session = connect(cluster).await?;
            sessions[node_of(cluster, &session).await?].push(session);
        }
        let lost = sessions[1].first().context("a session on node 1")?;
        lost.batch_execute("BEGIN; SELECT 1").await?;
        cluster.hold_supervisor();
        for part in [Part::Daemon, Part::Postgres] {
            cluster.signal_all(1, part, Signal::SIGKILL);
        }
        for _ in 0..6 {
            let session = connect(cluster).await.context("a new session goes elsewhere")?;
            ensure!(node_of(cluster, &session).await? != 1);
        }
        let error = lost.batch_execute("COMMIT").await.expect_err("its node is dead");
        ensure!(error.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE), "{error:?}");
        for session in sessions.iter().flatten() {
            session.batch_execute("SELECT 1").await?;
        }
        drop(sessions);
        cluster.release_supervisor();
        cluster.wait_serving(PATIENCE).await?;
        until_spread(cluster, [2, 2, 2]).await
    });
}

#[test]
fn a_balancer_that_is_killed_comes_back_with_all_it_knows() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let pid = cluster.balancer_pid().context("the balancer runs")?;
        ensure!(pid.signal(Signal::SIGKILL) && pid.wait_gone(PATIENCE));
        let begun = Instant::now();
        while let Err(error) = connect(cluster).await {
            ensure!(begun.elapsed() < PATIENCE, "{error:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        until_spread(cluster, [1, 1, 1]).await
    });
}
