//! The promise: a server that comes back shows nothing older than what it
//! showed before. PostgreSQL itself may come back without its last commits
//! (they are durable in the log, not here); nobody is to see that.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pgrenga_testkit::cluster::{Cluster, Part};

use crate::{CLUSTER, RECOVERY};

const ROUNDS: i64 = 5;
/// Writes of other nodes before the kill: something to replay.
const OTHERS: i64 = 50;

#[test]
fn a_restarted_server_shows_no_past() {
    CLUSTER.test(async |cluster| {
        cluster.execute(0, "CREATE SCHEMA restart; CREATE TABLE restart.t (id bigint PRIMARY KEY)").await?;
        cluster.settle().await?;
        for round in 1..=ROUNDS {
            let session = cluster.connect(1).await?;
            let other = cluster.connect(0).await?;
            for id in 0..OTHERS {
                other.batch_execute(&format!("INSERT INTO restart.t VALUES ({})", -(round * OTHERS + id))).await?;
            }
            session.batch_execute(&format!("INSERT INTO restart.t VALUES ({round})")).await?;
            ensure!(cluster.kill(1, Part::Postgres), "PostgreSQL was killed");
            let seen = first_answer(cluster).await?;
            ensure!(seen == round, "round {round} was acknowledged here, but the next answer knows only of {seen}");
            cluster.wait_serving(RECOVERY).await?;
        }
        Ok(())
    });
}

/// What the first query after the restart reads: the server may refuse, but not lie.
async fn first_answer(cluster: &Cluster) -> Result<i64> {
    let begun = Instant::now();
    while begun.elapsed() < RECOVERY {
        if let Ok(session) = cluster.connect(1).await
            && let Ok(row) = session.query_one("SELECT coalesce(max(id), 0) FROM restart.t", &[]).await
        {
            return Ok(row.get(0));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    None.context("the server did not come back")
}
