//! What became of a transaction is told for days, though the core remembers only the last some
//! 400,000: from every node's own files, after restarts, and by way of the others where the files are lost.
//! Whoever cannot know says nothing.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pgrenga_testkit::cluster::{Cluster, Part};
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::error::SqlState;

use crate::{CLUSTER, RECOVERY, agree, kill, wait_for_snapshots};

/// Two generations of the core's memory, and a little.
const FORGOTTEN_AFTER: usize = 420_000;
/// Transactions in one message.
const BATCH: usize = 500;
/// Sessions on each node that have them.
const SESSIONS: usize = 2;
/// A node that never was.
const NEVER: &str = "99-1-65536";

/// What each node is asked, and what it has to say.
type Fates = Vec<(String, &'static str)>;

/// A transaction on a node, its id known, ended by `end`.
async fn transaction(cluster: &Cluster, node: usize, end: &str) -> Result<String> {
    let session = cluster.connect(node).await?;
    session.batch_execute("BEGIN; INSERT INTO forgotten.t VALUES (1)").await?;
    let id = session.query_one("SELECT pgrenga.transaction_id()", &[]).await?.get(0);
    session.batch_execute(end).await?;
    Ok(id)
}

async fn of_each_kind(cluster: &Cluster) -> Result<Fates> {
    let mut fates = Vec::new();
    for node in 0..cluster.len() {
        fates.push((transaction(cluster, node, "COMMIT").await?, "committed"));
        fates.push((transaction(cluster, node, "ROLLBACK").await?, "aborted"));
    }
    Ok(fates)
}

/// One answer. It may take a while: a node that was asked may be starting, or reading the log.
async fn told(cluster: &Cluster, node: usize, id: &str) -> Result<String> {
    let begun = Instant::now();
    loop {
        let session = cluster.connect(node).await?;
        let answer = session.query_one("SELECT pgrenga.transaction_status($1)", &[&id]).await;
        match answer.map(|row| row.get::<_, String>(0)) {
            Ok(told) if told != "in progress" || begun.elapsed() > RECOVERY => return Ok(told),
            Err(error) if begun.elapsed() > RECOVERY => return Err(error.into()),
            Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// All of these nodes, asked at the same time, say it.
async fn is_told(cluster: &Cluster, nodes: &[usize], fates: &Fates) -> Result<()> {
    let asked = nodes.iter().map(async |&node| {
        for (id, fate) in fates {
            let told = told(cluster, node, id).await.with_context(|| format!("node {node} about {id}"))?;
            ensure!(told == *fate, "{id} is {fate}, and node {node} says {told}");
        }
        Ok(())
    });
    futures::future::try_join_all(asked).await.map(drop)
}

/// Ends so many transactions that the core forgets whatever was before. They write nothing, but
/// their ids were told, so the log is told that they never will.
async fn turn(cluster: &Cluster) -> Result<()> {
    let one = "BEGIN; SELECT pgrenga.transaction_id(); ROLLBACK;";
    let each = FORGOTTEN_AFTER.div_ceil(cluster.len() * SESSIONS * BATCH);
    let sessions = (0..cluster.len()).flat_map(|node| [node; SESSIONS]).map(async |node| {
        let session = cluster.connect(node).await?;
        let mut told = 0;
        for _ in 0..each {
            let messages = session.simple_query(&one.repeat(BATCH)).await?;
            told += messages.iter().filter(|message| matches!(message, SimpleQueryMessage::Row(_))).count();
        }
        anyhow::Ok(told)
    });
    let told: usize = futures::future::try_join_all(sessions).await?.iter().sum();
    ensure!(told >= FORGOTTEN_AFTER, "only {told} transactions");
    Ok(())
}

/// The daemons of these nodes begin without the files in which they kept how transactions ended.
async fn lose_files(cluster: &Cluster, nodes: &[usize]) -> Result<()> {
    cluster.hold_supervisor();
    let lost = nodes.iter().try_for_each(|&node| {
        ensure!(cluster.kill(node, Part::Daemon), "the daemon of node {node} does not run");
        let files = cluster.dir().join(cluster.name(node)).join("outcomes");
        std::fs::remove_dir_all(&files).with_context(|| files.display().to_string())
    });
    cluster.release_supervisor();
    lost?;
    let back = |_: &serde_json::Value| nodes.iter().all(|&node| cluster.pid(node, Part::Daemon).is_some());
    cluster.wait_until("the daemons are back", RECOVERY, back).await?;
    Ok(cluster.wait_serving(RECOVERY).await?)
}

/// With a node away that may know, those that do not know give no answer.
async fn is_not_guessed(cluster: &Cluster, id: &str, away: usize, asked: usize) -> Result<()> {
    cluster.hold_supervisor();
    let killed = cluster.kill(away, Part::Daemon);
    let answer = async {
        let session = cluster.connect(asked).await?;
        session.batch_execute("SET pgrenga.commit_timeout = '6s'").await?;
        anyhow::Ok(session.query_one("SELECT pgrenga.transaction_status($1)", &[&id]).await)
    };
    let answer = answer.await;
    cluster.release_supervisor();
    ensure!(killed, "the daemon of node {away} does not run");
    let back = |_: &serde_json::Value| cluster.pid(away, Part::Daemon).is_some();
    cluster.wait_until("the daemon is back", RECOVERY, back).await?;
    cluster.wait_serving(RECOVERY).await?;
    match answer? {
        Ok(row) => anyhow::bail!("{id} is \"{}\", says who cannot know", row.get::<_, String>(0)),
        Err(error) => ensure!(error.code() == Some(&SqlState::CANNOT_CONNECT_NOW), "{error:?}"),
    }
    Ok(())
}

#[test]
#[ignore = "takes a minute; see scripts/soak"]
fn what_the_core_forgot_is_told() {
    CLUSTER.test(async |cluster| {
        cluster.execute(0, "CREATE SCHEMA forgotten; CREATE TABLE forgotten.t (id int)").await?;
        cluster.settle().await?;
        let all: Vec<usize> = (0..cluster.len()).collect();
        let mut fates = of_each_kind(cluster).await?;
        is_told(cluster, &all, &fates).await.context("at once")?;

        let begun = Instant::now();
        turn(cluster).await?;
        println!("{FORGOTTEN_AFTER} transactions ended in {:?}", begun.elapsed());
        // What is kept from now on stands for a log that says nothing of them any more.
        cluster.execute(0, "INSERT INTO forgotten.t SELECT g FROM generate_series(1, 100000) AS g").await?;
        wait_for_snapshots(cluster).await?;
        fates.push((NEVER.to_owned(), "unknown"));
        is_told(cluster, &all, &fates).await.context("from the files")?;
        for &node in &all {
            kill(cluster, node, Part::Daemon).await?;
            cluster.wait_serving(RECOVERY).await?;
        }
        is_told(cluster, &all, &fates).await.context("after restarts")?;

        // Two that do not know ask all the others, each other too.
        lose_files(cluster, &[1, 2]).await?;
        is_told(cluster, &all, &fates).await.context("from the one that has the files")?;
        is_not_guessed(cluster, &fates[0].0, 0, 1).await?;

        // Nobody knows: so the core had forgotten, and the files it was that told.
        lose_files(cluster, &[0]).await?;
        let nobody_knows = fates.iter().map(|(id, _)| (id.clone(), "unknown")).collect();
        is_told(cluster, &all, &nobody_knows).await.context("without any files")?;
        is_told(cluster, &all, &of_each_kind(cluster).await?).await.context("of what came later")?;
        agree(cluster).await
    });
}
