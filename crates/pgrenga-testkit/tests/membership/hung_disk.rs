//! The promise: a disk that does not answer any more, with the log and the data of the node that leads, is as good as
//! gone. Writes on the others go on, and when it answers again so does the node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pgrenga_testkit::cluster::{Cluster, Disk};

use crate::failover::{GAP_MAX, Writers, leader};

const DISK_BYTES: u64 = 1 << 30;
const PATIENCE: Duration = Duration::from_secs(60);
const BEFORE: Duration = Duration::from_millis(500);
const DURING: Duration = Duration::from_secs(6);

#[test]
fn the_others_go_on_without_the_leaders_disk() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: a disk of its own needs root");
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut cluster = Cluster::vacant("")?;
        let (first, disk) = cluster.plan_another_on_a_disk(DISK_BYTES)?;
        cluster.found(first, 3, PATIENCE).await?;
        let result = go_on(&cluster, cluster.disk(disk)).await;
        result.map_err(|error| error.context(cluster.diagnosis()))
    })
}

async fn go_on(cluster: &Cluster, disk: &Disk) -> Result<()> {
    cluster.execute(0, "CREATE SCHEMA failover; CREATE TABLE failover.t (id int PRIMARY KEY)").await?;
    cluster.settle().await?;
    ensure!(leader(cluster).await? == 0, "the first node leads as long as it does not fail");
    let ids = Arc::new(AtomicU32::new(0));
    let writers = Writers::on_the_others(cluster, 0, &ids);
    tokio::time::sleep(BEFORE).await;
    let before = ids.load(Ordering::Relaxed);
    disk.hang()?;
    tokio::time::sleep(DURING).await;
    let (_, status, errors) = cluster.run_as("n2", &["status", "--json"]).await?;
    writers.request_stop();
    let longest = writers.longest_pause().await?;
    let written = ids.load(Ordering::Relaxed) - before;
    println!("writes on the others paused for {} ms; {written} were written meanwhile", longest.as_millis());
    disk.go_on()?;
    let status: serde_json::Value = serde_json::from_str(&status).with_context(|| errors)?;
    ensure!(status["nodes"][0]["state"] == "detached", "{status}");
    ensure!(longest <= GAP_MAX, "writes paused for {longest:?}");
    cluster.wait_serving(PATIENCE).await?;
    let verdict = cluster.verify().await?;
    ensure!(verdict.exit_code == 0, "{}", verdict.output);
    Ok(())
}
