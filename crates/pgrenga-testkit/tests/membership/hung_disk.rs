//! The promise: a disk that does not answer any more, with the log and the data of the node that leads, is as good as
//! gone. Writes on the others go on, and when it answers again so does the node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use pgrenga_testkit::cluster::{Cluster, Disk, Part};

use crate::failover::{ATTEMPTS, GAP_MAX, Writers, leader};

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
        cluster.execute(0, "CREATE SCHEMA failover; CREATE TABLE failover.t (id int PRIMARY KEY)").await?;
        cluster.settle().await?;
        let ids = Arc::new(AtomicU32::new(0));
        let mut pauses = Vec::new();
        while pauses.last().is_none_or(|pause| *pause > GAP_MAX) {
            ensure!(pauses.len() < ATTEMPTS, "writes paused for {pauses:?}");
            let pause = async {
                let_the_first_lead(&mut cluster).await?;
                go_on(&cluster, cluster.disk(disk), &ids).await
            };
            let pause = pause.await;
            pauses.push(pause.map_err(|error| error.context(cluster.diagnosis()))?);
        }
        Ok(())
    })
}

/// It does as long as nobody takes it for gone, as may happen on a busy machine.
async fn let_the_first_lead(cluster: &mut Cluster) -> Result<()> {
    for _ in 0..30 {
        let leader = leader(cluster).await?;
        if leader == 0 {
            return Ok(());
        }
        ensure!(cluster.kill(leader, Part::Daemon), "the daemon that leads does not run");
        cluster.revive()?;
        cluster.wait_serving(PATIENCE).await?;
    }
    bail!("the first node never leads")
}

/// How long writes on the others paused.
async fn go_on(cluster: &Cluster, disk: &Disk, ids: &Arc<AtomicU32>) -> Result<Duration> {
    let writers = Writers::on_the_others(cluster, 0, ids);
    tokio::time::sleep(BEFORE).await;
    let before = ids.load(Ordering::Relaxed);
    disk.hang()?;
    tokio::time::sleep(DURING).await;
    let noticed = is_noticed(cluster).await;
    writers.request_stop();
    let longest = writers.longest_pause().await?;
    let written = ids.load(Ordering::Relaxed) - before;
    println!("writes on the others paused for {} ms; {written} were written meanwhile", longest.as_millis());
    disk.go_on()?;
    noticed?;
    cluster.wait_serving(PATIENCE).await?;
    let verdict = cluster.verify().await?;
    ensure!(verdict.exit_code == 0, "{}", verdict.output);
    Ok(longest)
}

/// Another node shows it as detached.
async fn is_noticed(cluster: &Cluster) -> Result<()> {
    let begun = Instant::now();
    loop {
        let (_, status, errors) = cluster.run_as("n2", &["status", "--json"]).await?;
        let status: serde_json::Value = serde_json::from_str(&status).with_context(|| errors)?;
        if status["nodes"][0]["state"] == "detached" {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "{status}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
