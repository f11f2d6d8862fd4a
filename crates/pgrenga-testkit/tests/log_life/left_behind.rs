//! A node for which the log was not kept long enough replaces its data by itself, and never skips.

use std::time::Duration;

use anyhow::{Result, ensure};
use pgrenga_testkit::cluster::{Cluster, Options, Part};
use serde_json::Value;

use crate::{RECOVERY, agree};

const CONFIGURATION: &str = "[log]\nsegment_bytes = 5242880\nsnapshot_every_bytes = 1048576\nmax_bytes = 12582912\n";
/// What may be there before it is looked at again.
const LOG_BYTES_MAX: u64 = 6 * 5_242_880;
const BEHIND: usize = 2;

#[test]
#[ignore = "takes a minute; see scripts/soak"]
fn a_log_is_bounded_though_its_own_postgresql_is_gone() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let options = Options { configuration: CONFIGURATION.to_owned(), ..Options::default() };
        let cluster = Cluster::start_with(options).await?;
        let result = lose_postgresql(&cluster).await;
        result.map_err(|error| error.context(cluster.diagnosis()))
    })
}

/// Its daemon goes on to vote, and lets the log go as the others do.
async fn lose_postgresql(cluster: &Cluster) -> Result<()> {
    cluster.execute(0, "CREATE TABLE t (id bigserial PRIMARY KEY, x text)").await?;
    cluster.settle().await?;
    let file = cluster.data_dir(BEHIND).join("postgresql.conf");
    let before = std::fs::read_to_string(&file)?;
    std::fs::write(&file, format!("{before}\nshared_buffers = nonsense\n"))?;
    ensure!(cluster.kill(BEHIND, Part::Postgres), "its PostgreSQL runs");
    for _ in 0..200 {
        cluster.execute(0, "INSERT INTO t (x) SELECT repeat('x', 1000) FROM generate_series(1, 1000)").await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let nodes = |status: &Value| status["nodes"].as_array().cloned().unwrap_or_default();
    let bounded = |status: &Value| nodes(status).iter().all(|node| node["log_bytes"].as_u64() <= Some(LOG_BYTES_MAX));
    cluster.wait_until("all logs are bounded", Duration::from_secs(20), bounded).await?;

    std::fs::write(&file, before)?;
    let takes_a_copy = |status: &Value| nodes(status)[BEHIND]["state"] == "joining";
    cluster.wait_until("the node takes a copy", RECOVERY, takes_a_copy).await?;
    cluster.execute(1, "INSERT INTO t (x) VALUES ('meanwhile')").await?;
    cluster.wait_serving(RECOVERY).await?;
    cluster.execute(BEHIND, "INSERT INTO t (x) VALUES ('again')").await?;
    agree(cluster).await
}

#[test]
fn a_node_that_lacks_more_than_is_kept_replaces_its_data() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let options = Options { configuration: CONFIGURATION.to_owned(), ..Options::default() };
        let cluster = Cluster::start_with(options).await?;
        let result = leave_behind(&cluster).await;
        result.map_err(|error| error.context(cluster.diagnosis()))
    })
}

async fn leave_behind(cluster: &Cluster) -> Result<()> {
    cluster.execute(BEHIND, "CREATE TABLE t (id bigserial PRIMARY KEY, x text)").await?;
    // Values that nobody else knows of, and that must not come again.
    let client = cluster.connect(BEHIND).await?;
    let drawn: i64 =
        client.query_one("SELECT max(nextval('t_id_seq')) FROM generate_series(1, 1000)", &[]).await?.get(0);
    cluster.hold_supervisor();
    ensure!(cluster.kill(BEHIND, Part::Daemon) && cluster.kill(BEHIND, Part::Postgres), "the node is dead");
    for _ in 0..60 {
        let insert = "INSERT INTO t (x) SELECT repeat('x', 1000) FROM generate_series(1, 1000)";
        cluster.execute(0, insert).await?;
        // Time to flush it.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let nodes = |status: &Value| status["nodes"].as_array().cloned().unwrap_or_default();
    let bounded =
        |status: &Value| nodes(status)[..BEHIND].iter().all(|node| node["log_bytes"].as_u64() <= Some(LOG_BYTES_MAX));
    cluster.wait_until("the others' logs are bounded", Duration::from_secs(20), bounded).await?;

    cluster.release_supervisor();
    let takes_a_copy = |status: &Value| nodes(status)[BEHIND]["state"] == "joining";
    cluster.wait_until("the node that was left behind takes a copy", RECOVERY, takes_a_copy).await?;
    cluster.execute(1, "INSERT INTO t (x) VALUES ('meanwhile')").await?;
    cluster.wait_serving(RECOVERY).await?;
    let said = std::fs::read_to_string(cluster.dir().join("n3/daemon.log"))?;
    ensure!(said.contains("the log begins after seq"), "it does not say what was wrong");
    ensure!(said.contains("the data was replaced"), "it does not say that it was put right");

    let client = cluster.connect(BEHIND).await?;
    let next: i64 = client.query_one("INSERT INTO t (x) VALUES ('again') RETURNING id", &[]).await?.get(0);
    ensure!(next > drawn, "{next} comes after {drawn} was drawn");
    agree(cluster).await
}
