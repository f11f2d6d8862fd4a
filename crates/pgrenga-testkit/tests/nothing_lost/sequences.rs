//! The promise: no value of a sequence is handed out twice, even though a
//! server that is killed may come back without the last of its own WAL. No
//! column owns these sequences, so nothing but WAL tells what was drawn.

use anyhow::{Result, ensure};
use pgrenga_testkit::cluster::{Cluster, Part};
use tokio_postgres::Client;

use crate::{CLUSTER, RECOVERY};

const NODE: usize = 1;
const ROUNDS: usize = 3;
/// PostgreSQL writes WAL once in 32 values: some draws write it and some do not.
const DRAWS: usize = 40;

async fn value(session: &Client, sql: &str) -> Result<i64> {
    Ok(session.query_one(sql, &[]).await?.get(0))
}

/// Kills the server at once, and draws the next value from what comes back.
async fn next_after_a_crash(cluster: &Cluster) -> Result<i64> {
    let before = cluster.pid(NODE, Part::Postgres);
    ensure!(cluster.kill(NODE, Part::Postgres), "PostgreSQL was killed");
    let restarted = |_: &serde_json::Value| {
        let now = cluster.pid(NODE, Part::Postgres);
        now.is_some() && now != before
    };
    cluster.wait_until("PostgreSQL is back", RECOVERY, restarted).await?;
    cluster.wait_serving(RECOVERY).await?;
    value(&cluster.connect(NODE).await?, "SELECT nextval('drawn.s')").await
}

#[test]
fn no_value_comes_again_after_a_crash() {
    CLUSTER.test(async |cluster| {
        cluster.execute(0, "CREATE SCHEMA drawn; CREATE SEQUENCE drawn.s; CREATE TABLE drawn.t (n bigint)").await?;
        cluster.settle().await?;
        for round in 0..ROUNDS {
            let session = cluster.connect(NODE).await?;
            let mut last = 0;
            for _ in 0..DRAWS + round * 7 {
                last = value(&session, "INSERT INTO drawn.t VALUES (nextval('drawn.s')) RETURNING n").await?;
            }
            let next = next_after_a_crash(cluster).await?;
            ensure!(next > last, "round {round}: {last} was committed, and after the crash {next} came");
        }
        for round in 0..ROUNDS {
            // Its draws write the WAL that covers the other one's, which writes none.
            let writer = cluster.connect(NODE).await?;
            let many = format!("BEGIN; SELECT nextval('drawn.s') FROM generate_series(1, {DRAWS})");
            writer.batch_execute(&many).await?;
            let reader = cluster.connect(NODE).await?;
            let last = value(&reader, "SELECT nextval('drawn.s')").await?;
            let next = next_after_a_crash(cluster).await?;
            ensure!(next > last, "round {round}: {last} was read, and after the crash {next} came");
        }
        cluster.settle().await?;
        let twice = "SELECT count(*) FROM (SELECT FROM drawn.t GROUP BY n HAVING count(*) > 1) AS twice";
        ensure!(cluster.ask_all(twice).await? == ["(0)"; 3]);
        Ok(())
    });
}
