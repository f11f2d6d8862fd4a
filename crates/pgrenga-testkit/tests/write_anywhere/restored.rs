//! The promise: a dump of an application's database, with a little of everything in it, can be restored on one node
//! while all nodes are written, without trying anything twice, and is the same on all of them, and the same as what was dumped.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, ensure};
use pgrenga_testkit::cluster::Cluster;

use crate::CLUSTER;
use crate::everywhere::{FENCE_LOST, NODES, ask, define, repeat};

const DATABASE: &str = include_str!("restored/database.sql");
/// What of the cluster's database belongs to it.
const PARTS: [&str; 6] = [
    "--schema=estate",
    "--schema=\"Estate archive\"",
    "--extension=pgcrypto",
    "--extension=citext",
    "--extension=hstore",
    "--extension=pg_trgm",
];

#[test]
fn a_dump_with_everything_is_restored_while_all_nodes_are_written() {
    CLUSTER.test(async |cluster| -> Result<()> {
        cluster.execute(1, "CREATE SCHEMA restoring; CREATE TABLE restoring.t (id serial PRIMARY KEY, n int)").await?;
        cluster.settle().await?;
        let stop = AtomicBool::new(false);
        let write = |node| repeat(cluster, node, "INSERT INTO restoring.t (n) VALUES (1)", &stop);
        let work = async {
            let result = restore(cluster).await;
            stop.store(true, Ordering::Relaxed);
            result
        };
        tokio::try_join!(work, write(0), write(1), write(2))?;
        next_values_are_beyond(cluster).await?;
        let verdict = cluster.verify().await?;
        ensure!(verdict.exit_code == 0, "{}", verdict.output);
        define(&cluster.connect(2).await?, &format!("{DROP}; {DROP_ROLES}; DROP SCHEMA restoring CASCADE")).await?;
        cluster.settle().await?;
        Ok(())
    });
}

const DROP: &str =
    r#"DROP SCHEMA IF EXISTS estate, "Estate archive" CASCADE; DROP PUBLICATION IF EXISTS estate_changes"#;
const DROP_ROLES: &str = "DROP ROLE IF EXISTS estate_guest, estate_owner, estate_clerk";

async fn restore(cluster: &Cluster) -> Result<()> {
    run(cluster, 0, DATABASE, &format!("{DROP}; {DROP_ROLES}")).await.context("made")?;
    let made = same(cluster, None).await.context("made")?;
    define(&cluster.connect(2).await?, DROP).await?;
    cluster.settle().await?;
    run(cluster, 1, &made, DROP).await.context("restored")?;
    same(cluster, Some(&made)).await.context("restored")?;
    Ok(())
}

/// Runs a script; once more from its beginning if its fence was lifted, see [`define`].
async fn run(cluster: &Cluster, node: usize, script: &str, undo: &str) -> Result<()> {
    loop {
        match cluster.restore(node, script).await {
            Err(error) if error.to_string().contains(FENCE_LOST) => define(&cluster.connect(node).await?, undo).await?,
            result => return Ok(result?),
        }
    }
}

async fn next_values_are_beyond(cluster: &Cluster) -> Result<()> {
    let insert = "INSERT INTO estate.people (email) VALUES ('after@' || random()) RETURNING id > 200, id";
    let mut drawn = std::collections::BTreeSet::new();
    for node in 0..NODES {
        let answer = ask(&cluster.connect(node).await?, insert).await?;
        ensure!(answer.starts_with("t|") && drawn.insert(answer.clone()), "node {node}: {answer}");
    }
    Ok(())
}

/// A dump, which is the same on every node, and the same as `expected`. But for where sequences stand: each node has its own
/// values.
async fn same(cluster: &Cluster, expected: Option<&str>) -> Result<String> {
    cluster.settle().await?;
    let first = cluster.dump(0, &PARTS).await?;
    for node in 1..NODES {
        differs(&first, &cluster.dump(node, &PARTS).await?).with_context(|| format!("nodes 0 and {node}"))?;
    }
    differs(expected.unwrap_or(&first), &first)?;
    Ok(first)
}

/// Names the first line that differs.
fn differs(one: &str, other: &str) -> Result<()> {
    let lines = |dump: &str| -> Vec<String> {
        dump.lines().filter(|line| !line.starts_with("SELECT pg_catalog.setval(")).map(str::to_owned).collect()
    };
    let (one, other) = (lines(one), lines(other));
    ensure!(one == other, "{:?}", one.iter().zip(&other).find(|(one, other)| one != other));
    Ok(())
}
