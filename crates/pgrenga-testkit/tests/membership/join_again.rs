//! The promise: a join that was cut off, at the joiner's, the donor's or the leader's, leaves a cluster
//! that works and can be run again. A node that lost its files comes back as a new one only.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use pgrenga_testkit::cluster::{Cluster, Newcomer, Part};

use crate::CLUSTER;
use crate::failover::leader;
use crate::grow_and_shrink::all_serve;

const PATIENCE: Duration = Duration::from_secs(60);
/// When it says so it has registered.
const COPYING: &str = "copying the data";
const DONOR: usize = 1;

#[test]
fn whoever_is_killed() {
    CLUSTER.test(async |cluster| {
        cluster.execute(0, "CREATE TABLE joined AS SELECT 1 AS x WITH NO DATA").await?;
        let newcomer = cluster.plan_another()?;
        for moment in ["registering", COPYING] {
            let mut join = cluster.begin_join(&newcomer, DONOR)?;
            until_said(cluster, &newcomer, moment).await?;
            join.kill()?;
            join.wait()?;
        }
        ensure!(!without(cluster, &newcomer, DONOR, Part::Postgres).await?, "the donor was not needed");
        // A copy needs the donor's PostgreSQL alone.
        let first = leader(cluster).await?;
        if !without(cluster, &newcomer, first, Part::Daemon).await? {
            join(cluster, &newcomer).await?;
        }
        let said = cluster.join_output(&newcomer);
        ensure!(said.contains("continuing the join of node"), "{said}");
        let second = leader(cluster).await?;
        let node = cluster.start_joined(newcomer.clone())?;
        // It asks to vote about now.
        tokio::time::sleep(Duration::from_millis(300)).await;
        ensure!(cluster.kill(second, Part::Daemon));
        cluster.wait_until("four nodes serve", PATIENCE, |status| all_serve(status, 4)).await?;
        until_four_vote(cluster).await?;
        cluster.execute(node, "INSERT INTO joined VALUES (1)").await?;
        let verdict = cluster.verify().await?;
        ensure!(verdict.exit_code == 0, "{}", verdict.output);
        come_back_without_files(cluster, &newcomer, node).await
    });
}

/// Who is killed in the midst of a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    /// `pgrenga join`, and later the newcomer's daemon.
    Joiner,
    Donor(Part),
    /// Its daemon.
    Leader,
}

const VICTIMS: [Victim; 4] =
    [Victim::Joiner, Victim::Donor(Part::Postgres), Victim::Donor(Part::Daemon), Victim::Leader];

/// The moments are some milliseconds apart, so that they fall everywhere between the first word and the vote.
#[test]
#[ignore = "takes minutes; see scripts/soak"]
fn whoever_is_killed_whenever() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut cluster = Cluster::start(3).await?;
        cluster.execute(0, "CREATE TABLE joined (x int)").await?;
        // Each newcomer lives, so there is no more room in the sequences.
        for round in 0..12u32 {
            let victim = VICTIMS[round as usize % VICTIMS.len()];
            let at = Duration::from_millis(150 * u64::from(round) + 50);
            let result = round_without(&mut cluster, victim, at).await;
            result.map_err(|error| {
                error.context(format!("{victim:?} killed after {at:?}")).context(cluster.diagnosis())
            })?;
        }
        Ok(())
    })
}

/// Kills after `at`, once while the newcomer is made and once when it has started; joins again if need be.
async fn round_without(cluster: &mut Cluster, victim: Victim, at: Duration) -> Result<()> {
    let newcomer = cluster.plan_another()?;
    let mut joining = cluster.begin_join(&newcomer, DONOR)?;
    tokio::time::sleep(at).await;
    if victim == Victim::Joiner {
        joining.kill()?;
    }
    kill(cluster, victim, None).await?;
    let joined = tokio::task::block_in_place(|| joining.wait())?.success();
    println!("{victim:?} killed after {at:?}: joined at once: {joined}");
    cluster.wait_until("three serve", PATIENCE, three_serve).await?;
    cluster.execute(0, "INSERT INTO joined VALUES (0)").await?;
    if !joined {
        join(cluster, &newcomer).await?;
    }
    let node = cluster.start_joined(newcomer)?;
    tokio::time::sleep(at).await;
    kill(cluster, victim, Some(node)).await?;
    cluster.revive()?;
    cluster.wait_until("four nodes serve", PATIENCE, |status| all_serve(status, 4)).await?;
    until_four_vote(cluster).await?;
    cluster.execute(node, "INSERT INTO joined VALUES (1)").await?;
    let verdict = cluster.verify().await?;
    ensure!(verdict.exit_code == 0, "{}", verdict.output);
    Ok(cluster.remove(node, PATIENCE).await?)
}

/// Kills a process of the cluster, and waits until there is another one in its place.
async fn kill(cluster: &Cluster, victim: Victim, newcomer: Option<usize>) -> Result<()> {
    let (node, part) = match (victim, newcomer) {
        (Victim::Joiner, None) => return Ok(()),
        (Victim::Joiner, Some(node)) => {
            let runs = |_: &serde_json::Value| cluster.pid(node, Part::Daemon).is_some();
            cluster.wait_until("the newcomer's daemon runs", PATIENCE, runs).await?;
            ensure!(cluster.kill(node, Part::Daemon), "the newcomer's daemon does not run");
            return Ok(());
        }
        (Victim::Donor(part), _) => (DONOR, part),
        (Victim::Leader, _) => (leader(cluster).await?, Part::Daemon),
    };
    let before = cluster.pid(node, part);
    ensure!(cluster.kill(node, part), "{part:?} of node {node} does not run");
    let replaced = |_: &serde_json::Value| cluster.pid(node, part).is_some_and(|now| Some(now) != before);
    // The newcomer leads only if the demo's nodes could not.
    if newcomer == Some(node) { Ok(()) } else { Ok(cluster.wait_until("it is replaced", PATIENCE, replaced).await?) }
}

async fn until_four_vote(cluster: &Cluster) -> Result<()> {
    let begun = Instant::now();
    loop {
        let voters = cluster.ask_all("SELECT count(*) FROM pgrenga.nodes WHERE voter").await?;
        if voters == ["(4)"; 4] {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "voters by node: {voters:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn until_said(cluster: &Cluster, newcomer: &Newcomer, what: &str) -> Result<()> {
    let begun = Instant::now();
    while !cluster.join_output(newcomer).contains(what) {
        ensure!(begun.elapsed() < PATIENCE, "{}", cluster.join_output(newcomer));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Kills one of `donor`'s processes while the node copies from there, and waits until the cluster
/// is whole again. Says whether the join succeeded all the same.
async fn without(cluster: &Cluster, newcomer: &Newcomer, donor: usize, part: Part) -> Result<bool> {
    let mut join = cluster.begin_join(newcomer, donor)?;
    until_said(cluster, newcomer, COPYING).await?;
    let before = cluster.pid(donor, part);
    ensure!(cluster.signal(donor, part, Signal::SIGKILL), "{part:?} of node {donor} does not run");
    let status = tokio::task::block_in_place(|| join.wait())?;
    let is_whole = |status: &serde_json::Value| {
        let now = cluster.pid(donor, part);
        now.is_some() && now != before && three_serve(status)
    };
    cluster.wait_until("all serve again", PATIENCE, is_whole).await?;
    cluster.execute(donor, "INSERT INTO joined VALUES (0)").await?;
    Ok(status.success())
}

/// The newcomer is known, and detached as long as it does not run.
fn three_serve(status: &serde_json::Value) -> bool {
    let nodes = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    nodes.iter().filter(|node| node["state"] == "serving").count() == 3
}

async fn join(cluster: &Cluster, newcomer: &Newcomer) -> Result<()> {
    let mut join = cluster.begin_join(newcomer, 0)?;
    ensure!(tokio::task::block_in_place(|| join.wait())?.success(), "{}", cluster.join_output(newcomer));
    Ok(())
}

async fn come_back_without_files(cluster: &mut Cluster, newcomer: &Newcomer, node: usize) -> Result<()> {
    cluster.lose(node)?;
    let refused = join(cluster, newcomer).await.expect_err("its old self may have voted");
    ensure!(refused.to_string().contains("took part already; remove it"), "{refused}");
    let (code, output, errors) = cluster.run(&["remove", newcomer.name()]).await?;
    ensure!(code == 0, "{output}{errors}");
    join(cluster, newcomer).await?;
    let node = cluster.start_joined(newcomer.clone())?;
    cluster.wait_until("four nodes serve again", PATIENCE, |status| all_serve(status, 4)).await?;
    let ids = cluster.ask_all("SELECT count(DISTINCT id) FROM pgrenga.nodes").await?;
    ensure!(ids == ["(4)"; 4], "{ids:?}");
    cluster.execute(node, "INSERT INTO joined VALUES (2)").await?;
    let verdict = cluster.verify().await?;
    ensure!(verdict.exit_code == 0, "{}", verdict.output);
    Ok(cluster.remove(node, PATIENCE).await?)
}
