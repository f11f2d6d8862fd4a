//! The promise: two nodes and a witness survive the loss of any one of the three, and what only
//! the witness and a lost node had reaches the node that is left.

mod newest;
mod removal;

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use nix::sys::signal::Signal;
use pgrenga_testkit::cluster::{Cluster, Part, Shared};
use pgrenga_testkit::history::{Isolation, Outcome, bank};
use pgrenga_testkit::workload::{Bank, Config, Stop, drive, finish, setup};

/// The log is cut often, so that the witness has to take part in that.
static CLUSTER: Shared = Shared::configured(2, "[log]\nsnapshot_every_bytes = 1048576\nsegment_bytes = 5242880\n");

/// The workload runs for so long; one of the three dies in the middle.
const RUN: Duration = Duration::from_secs(6);
const BEFORE: Duration = Duration::from_millis(1500);
const DURING: Duration = Duration::from_secs(2);
/// How long a write may take after the loss, on a busy machine.
const GAP_MAX: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(60);
const NODES: usize = 2;
const WITNESS: usize = NODES;

/// A cluster with a witness that votes.
async fn with_witness(cluster: &mut Cluster) -> Result<()> {
    if cluster.has_witness() {
        return Ok(());
    }
    cluster.join_witness().await?;
    let stands = |status: &serde_json::Value| status["nodes"][WITNESS]["state"] == "witness";
    cluster.wait_until("the witness is there", PATIENCE, stands).await?;
    let session = cluster.connect(0).await?;
    let begun = Instant::now();
    let voters = "SELECT count(*) FROM pgrenga.nodes WHERE voter";
    while session.query_one(voters, &[]).await?.get::<_, i64>(0) < 3 {
        ensure!(begun.elapsed() < PATIENCE, "the witness does not vote");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Kills one of the three with all that belongs to it; nobody starts it again meanwhile.
fn lose(cluster: &mut Cluster, victim: usize) -> Result<()> {
    if victim == WITNESS {
        cluster.kill_witness();
        return Ok(());
    }
    cluster.hold_supervisor();
    let daemon = cluster.signal(victim, Part::Daemon, Signal::SIGKILL);
    ensure!(cluster.signal_all(victim, Part::Postgres, Signal::SIGKILL) && daemon, "node {victim} does not run");
    Ok(())
}

/// Whoever is lost, a write on each node that is left goes through in time, and the node leads.
async fn survive(cluster: &mut Cluster, victim: usize) -> Result<()> {
    with_witness(cluster).await?;
    let name = format!("loss_{victim}");
    let nodes = cluster.configs();
    let bank = Bank::default();
    let config = Config {
        seed: 2026,
        clients: 4,
        isolation: Isolation::RepeatableRead,
        elapsed_max: RUN,
        patience: Duration::from_secs(15),
        schema: name.clone(),
        ..Config::default()
    };
    setup(&bank, &nodes, &config).await?;
    cluster.execute(0, &format!("CREATE TABLE {name}.after (node int)")).await?;
    cluster.settle().await?;
    let stop = Stop::default();
    let fault = async {
        tokio::time::sleep(BEFORE).await;
        lose(cluster, victim)?;
        let lost = Instant::now();
        for node in (0..NODES).filter(|node| *node != victim) {
            write_within(cluster, GAP_MAX, node, &format!("INSERT INTO {name}.after VALUES ({node})")).await?;
            println!("without {victim}, node {node} wrote after {} ms", lost.elapsed().as_millis());
        }
        let node_leads = |status: &serde_json::Value| {
            status["leader"].as_str().is_some_and(|leader| leader != "witness" && leader != format!("n{}", victim + 1))
        };
        cluster.wait_until("a node that is left leads", PATIENCE, node_leads).await?;
        tokio::time::sleep(DURING).await;
        if victim == WITNESS {
            cluster.start_witness()?
        } else {
            cluster.release_supervisor()
        }
        anyhow::Ok(())
    };
    let (history, fault) = tokio::join!(drive(&bank, &nodes, &config, &stop), fault);
    fault?;
    cluster.wait_serving(PATIENCE).await?;
    let mut history = history?;
    finish(&bank, &nodes, &config, &mut history).await;
    let report = bank::check(&history)?;
    ensure!(report.is_clean(), "{report}");
    ensure!(history.count(Outcome::Committed) > 50, "{} were acknowledged", history.count(Outcome::Committed));
    let verdict = cluster.verify().await?;
    ensure!(verdict.exit_code == 0, "{}", verdict.output);
    Ok(())
}

/// Tries until it is acknowledged.
async fn write_within(cluster: &Cluster, patience: Duration, node: usize, sql: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        match cluster.execute(node, sql).await {
            Ok(()) => return Ok(()),
            Err(error) if begun.elapsed() > patience => bail!("node {node} took no write in time: {error:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

#[test]
fn the_first_node_is_lost() {
    CLUSTER.test(async |cluster| survive(cluster, 0).await);
}

#[test]
fn the_second_node_is_lost() {
    CLUSTER.test(async |cluster| survive(cluster, 1).await);
}

#[test]
fn the_witness_is_lost() {
    CLUSTER.test(async |cluster| survive(cluster, WITNESS).await);
}

/// How all of them are.
fn states(status: &serde_json::Value) -> Vec<&str> {
    let nodes = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    nodes.iter().map(|node| node["state"].as_str().unwrap_or_default()).collect()
}
