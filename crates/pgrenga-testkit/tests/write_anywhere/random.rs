//! The promise: whatever SQL runs on whichever node at the same time, all nodes end with the same rows and
//! the same definitions, no constraint is broken anywhere, and no client is told anything but what
//! PostgreSQL alone could have told it, or that it was in conflict.
//!
//! A seed decides schema and statements, not how they interleave. `RANDOM_FROM` is the first one (1), `RANDOM_SEEDS` how many
//! there are (2), `RANDOM_TRANSACTIONS` what each of the sessions does.

mod sessions;
mod soundness;

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use pgrenga_testkit::cluster::{Cluster, Part};
use pgrenga_testkit::random::{Size, script};

use crate::CLUSTER;
use crate::everywhere::NODES;

const SESSIONS: usize = 5;

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().map_or(otherwise, |value| value.parse().expect("a number"))
}

#[test]
fn random_statements_on_random_schemas_leave_all_nodes_the_same() {
    CLUSTER.test(async |cluster| -> Result<()> {
        cluster.execute(0, "CREATE EXTENSION amcheck").await?;
        let (from, seeds) = (number("RANDOM_FROM", 1), number("RANDOM_SEEDS", 2));
        for seed in from..from + seeds {
            one_seed(cluster, seed).await.with_context(|| format!("again: RANDOM_FROM={seed} RANDOM_SEEDS=1"))?;
        }
        cluster.settle().await?;
        cluster.execute(0, "DROP EXTENSION amcheck").await?;
        Ok(())
    });
}

/// What would change if a server crashed, or a node took another one's data.
fn lives(cluster: &Cluster) -> Vec<String> {
    let part = |node, part| format!("{:?}", cluster.pid(node, part));
    (0..NODES).map(|node| part(node, Part::Postgres) + &part(node, Part::Daemon)).collect()
}

async fn one_seed(cluster: &Cluster, seed: u64) -> Result<()> {
    let (begun, lives_before) = (Instant::now(), lives(cluster));
    let transactions = number("RANDOM_TRANSACTIONS", 40) as usize;
    let script = script(seed, Size { sessions: SESSIONS, transactions });
    let first = seed as usize % NODES;
    let session = cluster.connect(first).await?;
    for sql in &script.definitions {
        session.batch_execute(sql).await.with_context(|| sql.clone())?;
    }
    cluster.settle().await?;
    let tally = sessions::run(cluster, &script).await;
    println!("seed {seed}: {} statements of definition; {tally}; {:?}", script.definitions.len(), begun.elapsed());
    tally.check()?;
    cluster.settle().await?;
    ensure!(lives(cluster) == lives_before, "a process ended: {lives_before:?}, now {:?}", lives(cluster));
    soundness::nodes_are_the_same(cluster, &script.schema).await?;
    for node in 0..NODES {
        soundness::node_is_sound(cluster, node, &script.schema).await.with_context(|| format!("node {node}"))?;
    }
    cluster.execute((first + 1) % NODES, &format!("DROP SCHEMA {} CASCADE", script.schema)).await?;
    Ok(cluster.settle().await?)
}
