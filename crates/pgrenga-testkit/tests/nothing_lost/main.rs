//! The promise: whatever is killed, no acknowledged transaction is lost, none
//! is half there, isolation holds, and the cluster comes back by itself.
//!
//! A bank and a list workload run on all nodes while it happens; afterwards
//! every node serves, the histories are clean and all nodes hold the same.

mod majority;
mod power;
mod restart;
mod sequences;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pgrenga_testkit::cluster::{Cluster, Part, Shared};
use pgrenga_testkit::history::{Isolation, Outcome, Promise, append, bank};
use pgrenga_testkit::workload::{Bank, Config, ListAppend, Stop, drive, finish, setup};

static CLUSTER: Shared = Shared::new(3);

/// The workloads run for so long; something is killed in the middle.
const RUN: Duration = Duration::from_secs(8);
const BEFORE: Duration = Duration::from_secs(2);
/// Until all nodes serve again.
const RECOVERY: Duration = Duration::from_secs(60);
const NODES: usize = 3;

fn config(name: &str, isolation: Isolation) -> Config {
    Config {
        seed: 2002,
        clients: 6,
        isolation,
        elapsed_max: RUN,
        patience: Duration::from_secs(15),
        schema: name.to_owned(),
        ..Config::default()
    }
}

/// Runs the workloads through a fault and judges what is left.
async fn survive(
    cluster: &mut Cluster,
    name: &str,
    isolation: Isolation,
    fault: impl AsyncFnOnce(&mut Cluster) -> Result<()>,
) -> Result<()> {
    let nodes = cluster.configs();
    let (money, lists) = (Bank::default(), ListAppend::default());
    let money_config = config(&format!("{name}_bank"), isolation);
    let lists_config = config(&format!("{name}_lists"), isolation);
    setup(&money, &nodes, &money_config).await?;
    setup(&lists, &nodes, &lists_config).await?;

    let stop = Stop::default();
    let fault = async {
        tokio::time::sleep(BEFORE).await;
        fault(cluster).await
    };
    let (bank_history, lists_history, fault) =
        tokio::join!(drive(&money, &nodes, &money_config, &stop), drive(&lists, &nodes, &lists_config, &stop), fault);
    fault?;
    cluster.wait_serving(RECOVERY).await?;
    write_on_each(cluster, name).await?;

    let (mut bank_history, mut lists_history) = (bank_history?, lists_history?);
    finish(&money, &nodes, &money_config, &mut bank_history).await;
    finish(&lists, &nodes, &lists_config, &mut lists_history).await;
    let report = bank::check(&bank_history)?;
    ensure!(report.is_clean(), "bank: {report}");
    let report = append::check(&lists_history, Promise::of(isolation))?;
    ensure!(report.is_clean(), "lists: {report}");
    for acknowledged in [bank_history.count(Outcome::Committed), lists_history.count(Outcome::Committed)] {
        ensure!(acknowledged > 100, "only {acknowledged} transactions were acknowledged");
    }
    let verdict = cluster.verify().await?;
    ensure!(verdict.exit_code == 0, "{}", verdict.output);
    Ok(())
}

/// Whoever says that it serves takes writes.
async fn write_on_each(cluster: &Cluster, name: &str) -> Result<()> {
    for node in 0..NODES {
        let sql = format!("CREATE TABLE {name}_bank.after_{node} AS SELECT 1 AS x WITH NO DATA");
        let write = cluster.execute(node, &sql);
        write.await.with_context(|| format!("node {node} serves but does not accept writes"))?;
    }
    Ok(())
}

/// Kills processes and waits until others have taken their place.
async fn kill_and_wait(cluster: &Cluster, victims: &[(usize, Part)]) -> Result<()> {
    let before: Vec<_> = victims.iter().map(|&(node, part)| cluster.pid(node, part)).collect();
    for &(node, part) in victims {
        ensure!(cluster.signal(node, part, nix::sys::signal::Signal::SIGKILL), "{part:?} of node {node} does not run");
    }
    let replaced = |_: &serde_json::Value| {
        victims.iter().zip(&before).all(|(&(node, part), before)| {
            let now = cluster.pid(node, part);
            now.is_some() && now != *before
        })
    };
    Ok(cluster.wait_until("what was killed is replaced", RECOVERY, replaced).await?)
}

fn all(part: Part) -> [(usize, Part); NODES] {
    std::array::from_fn(|node| (node, part))
}

#[test]
fn one_postgresql_is_killed() {
    CLUSTER.test(async |cluster| {
        let fault = async |cluster: &mut Cluster| kill_and_wait(cluster, &[(1, Part::Postgres)]).await;
        survive(cluster, "one_postgres", Isolation::RepeatableRead, fault).await
    });
}

#[test]
fn one_daemon_is_killed() {
    CLUSTER.test(async |cluster| {
        let fault = async |cluster: &mut Cluster| kill_and_wait(cluster, &[(2, Part::Daemon)]).await;
        survive(cluster, "one_daemon", Isolation::ReadCommitted, fault).await
    });
}

#[test]
fn the_leaders_daemon_is_killed() {
    CLUSTER.test(async |cluster| {
        let fault = async |cluster: &mut Cluster| {
            let status = cluster.status().await?;
            let leader = status["leader"].as_str().context("there is a leader")?;
            let nodes = status["nodes"].as_array().context("there are nodes")?;
            let leader = nodes.iter().position(|node| node["name"] == leader).context("the leader is a node")?;
            kill_and_wait(cluster, &[(leader, Part::Daemon)]).await
        };
        survive(cluster, "leader", Isolation::RepeatableRead, fault).await
    });
}

#[test]
fn all_daemons_are_killed() {
    CLUSTER.test(async |cluster| {
        let fault = async |cluster: &mut Cluster| kill_and_wait(cluster, &all(Part::Daemon)).await;
        survive(cluster, "all_daemons", Isolation::RepeatableRead, fault).await
    });
}

#[test]
fn all_postgresqls_are_killed() {
    CLUSTER.test(async |cluster| {
        let fault = async |cluster: &mut Cluster| kill_and_wait(cluster, &all(Part::Postgres)).await;
        survive(cluster, "all_postgres", Isolation::ReadCommitted, fault).await
    });
}

#[test]
fn everything_is_killed_and_started_again() {
    CLUSTER.test(async |cluster| {
        let fault = async |cluster: &mut Cluster| {
            cluster.kill_everything();
            cluster.start_demo()?;
            Ok(cluster.wait_ready().await?)
        };
        survive(cluster, "everything", Isolation::RepeatableRead, fault).await
    });
}
