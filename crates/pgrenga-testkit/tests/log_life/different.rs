//! A node whose data turns out not to be what the log says replaces it, whatever dies meanwhile.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pgrenga_testkit::cluster::{Cluster, Part};
use serde_json::Value;
use tokio_postgres::Client;

use crate::{CLUSTER, RECOVERY, agree};

const ODD: usize = 1;

/// A row is missing on one node, and comes to be needed there.
async fn go_astray(cluster: &Cluster, id: i32) -> Result<()> {
    cluster.execute(0, "CREATE TABLE IF NOT EXISTS odd (id int PRIMARY KEY, x text)").await?;
    cluster.execute(0, &format!("INSERT INTO odd VALUES ({id}, 'all')")).await?;
    cluster.settle().await?;
    cluster.execute(ODD, &format!("SET pgrenga.replicate = off; DELETE FROM odd WHERE id = {id}")).await?;
    Ok(cluster.execute(0, &format!("UPDATE odd SET x = 'changed' WHERE id = {id}")).await?)
}

fn state(status: &Value) -> &str {
    status["nodes"][ODD]["state"].as_str().unwrap_or_default()
}

async fn begins_a_copy(cluster: &Cluster) -> Result<()> {
    let reason = |status: &Value| status["nodes"][ODD]["reason"].as_str().unwrap_or_default().to_owned();
    let begun = |status: &Value| state(status) == "joining" && reason(status).contains("odd");
    Ok(cluster.wait_until("it names the table, and takes a copy", RECOVERY, begun).await?)
}

/// What the daemons have said so far.
fn logs(cluster: &Cluster) -> Result<Vec<String>> {
    let log = |node| cluster.dir().join(cluster.name(node)).join("daemon.log");
    Ok((0..cluster.len()).map(|node| std::fs::read_to_string(log(node))).collect::<Result<_, _>>()?)
}

#[test]
fn a_node_that_differs_replaces_its_data() {
    CLUSTER.test(async |cluster| {
        go_astray(cluster, 1).await?;
        begins_a_copy(cluster).await?;
        // The order to serve no more was given before that was published.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let refused = cluster.execute(ODD, "SELECT * FROM odd").await;
        ensure!(refused.is_err(), "it serves what is not so");
        cluster.execute(2, "INSERT INTO odd VALUES (100, 'meanwhile')").await?;
        agree(cluster).await
    });
}

#[test]
fn it_does_so_whoever_dies_meanwhile() {
    CLUSTER.test(async |cluster| {
        for (round, (node, part)) in
            [(ODD, Part::Daemon), (ODD, Part::Postgres), (0, Part::Postgres), (2, Part::Postgres)]
                .into_iter()
                .enumerate()
        {
            go_astray(cluster, 10 + round as i32).await?;
            begins_a_copy(cluster).await?;
            cluster.kill(node, part);
            agree(cluster).await.with_context(|| format!("{part:?} of node {node} was killed"))?;
        }
        anyhow::Ok(())
    });
}

/// What nobody comes across is found by the state check.
#[test]
fn a_node_that_differs_unnoticed_finds_out() {
    CLUSTER.test(async |cluster| {
        cluster.execute(0, "CREATE TABLE checked (a int, b text, x text, PRIMARY KEY (a, b))").await?;
        cluster.execute(0, "INSERT INTO checked SELECT i, i % 7, i FROM generate_series(1, 3000) AS i").await?;
        cluster.settle().await?;
        let logs_before = logs(cluster)?;
        let session = cluster.connect(ODD).await?;
        cluster.execute(ODD, "SET pgrenga.replicate = off; UPDATE checked SET x = 'odd' WHERE a = 1777").await?;
        let names_it = |status: &Value| {
            let reason = status["nodes"][ODD]["reason"].as_str().unwrap_or_default();
            reason.contains("table public.checked, keys above (1400, 0) up to (2100, 0)")
        };
        let hears_it = hear_of_it(&session);
        let (told, heard) =
            tokio::join!(cluster.wait_until("it names the table and the range", RECOVERY, names_it), hears_it);
        told?;
        let range = "table public.checked, keys above (1400, 0) up to (2100, 0)";
        ensure!(heard.contains(range), "a session heard: {heard}");
        agree(cluster).await?;
        for (node, (before, after)) in logs_before.iter().zip(&logs(cluster)?).enumerate() {
            let stopped = after[before.len()..].contains("differs from the log");
            ensure!(stopped == (node == ODD), "{} stopped serving: {stopped}", cluster.name(node));
        }
        anyhow::Ok(())
    });
}

/// What a session is told when its node does not serve it any more.
async fn hear_of_it(session: &Client) -> String {
    loop {
        match session.query("SELECT count(*) FROM checked", &[]).await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => {
                let detail = error.as_db_error().and_then(|error| error.detail());
                return detail.map_or_else(|| error.to_string(), ToOwned::to_owned);
            }
        }
    }
}

/// Tables that come, go, and are emptied and rewritten while they are looked at.
#[test]
fn changing_definitions_make_no_difference() {
    CLUSTER.test(async |cluster| {
        let create = "CREATE TABLE restless (id int PRIMARY KEY, x int); \
                      INSERT INTO restless SELECT i, i FROM generate_series(1, 500) AS i";
        cluster.execute(0, create).await?;
        cluster.settle().await?;
        let logs_before = logs(cluster)?;
        let session = cluster.connect(2).await?;
        for round in 0..40 {
            let fill = "INSERT INTO restless SELECT i, i FROM generate_series(1, 500) AS i";
            let kind = if round % 2 == 0 { "bigint" } else { "int" };
            session.batch_execute("TRUNCATE restless").await?;
            session.batch_execute(fill).await?;
            session.batch_execute(&format!("ALTER TABLE restless ALTER COLUMN x TYPE {kind}")).await?;
            session.batch_execute(&format!("CREATE TABLE passing_{round} (id int PRIMARY KEY)")).await?;
            session.batch_execute(&format!("DROP TABLE passing_{round}")).await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        agree(cluster).await?;
        for (node, (before, after)) in logs_before.iter().zip(&logs(cluster)?).enumerate() {
            for word in ["nodes differ", "another node's data differs", "differs from the log"] {
                ensure!(!after[before.len()..].contains(word), "{}: {word}", cluster.name(node));
            }
        }
        anyhow::Ok(())
    });
}
