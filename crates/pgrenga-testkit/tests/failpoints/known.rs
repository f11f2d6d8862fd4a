//! The promise: a client that knows its transaction's id before it sends COMMIT learns on any node
//! what became of it, even if the node that it wrote on is gone.

use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::future::poll_fn;
use pgrenga_testkit::cluster::{Cluster, Part};
use tokio_postgres::{Client, NoTls};

use crate::{CLUSTER, NODE, RECOVERY, is_everywhere};

/// Where is asked while the node is gone.
const OTHER: usize = 2;
/// Where a transaction is cut off between its first row and its answer.
const PLACES: [&str; 4] = ["captured_kill", "submitted_kill", "ordered_kill", "visible_kill"];

/// Before that, nobody ends the life of a node that is silent.
const LIFE_ENDS: Duration = Duration::from_millis(3_500);

/// What the server reported last as `pgrenga.transaction_id`.
type Reported = Arc<Mutex<String>>;

/// A session that is told the id of each transaction before it writes.
async fn told(cluster: &Cluster, node: usize) -> Result<(Client, Reported)> {
    let mut config = cluster.configs()[node].clone();
    config.options("-c pgrenga.report_transaction_id=on");
    let (client, mut connection) = config.connect(NoTls).await?;
    let reported = Reported::default();
    let shown = Arc::clone(&reported);
    tokio::spawn(poll_fn(move |context| {
        loop {
            let message = connection.poll_message(context);
            *shown.lock().unwrap() = connection.parameter("pgrenga.transaction_id").unwrap_or_default().to_owned();
            match message {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }));
    Ok((client, reported))
}

/// The id of the session's transaction, or of its next one: what is shown must have been reported.
async fn id(session: &Client, reported: &Reported) -> Result<String> {
    let shown: String = session.query_one("SHOW pgrenga.transaction_id", &[]).await?.get(0);
    let begun = Instant::now();
    // The answer may be here before the connection's task has looked.
    while *reported.lock().unwrap() != shown {
        let told = reported.lock().unwrap().clone();
        ensure!(begun.elapsed() < RECOVERY, "\"{told}\" was reported, not \"{shown}\"");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(shown)
}

/// What a node says once it is decided.
async fn fate(cluster: &Cluster, node: usize, id: &str) -> Result<String> {
    let begun = Instant::now();
    let session = cluster.connect(node).await?;
    session.batch_execute("SET pgrenga.commit_timeout = '60s'").await?;
    loop {
        let status: String = session.query_one("SELECT pgrenga.transaction_status($1)", &[&id]).await?.get(0);
        if status != "in progress" {
            return Ok(status);
        }
        ensure!(begun.elapsed() < RECOVERY, "{id} stays in progress");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn count(cluster: &Cluster, node: usize, id: i32) -> Result<i64> {
    let count = "SELECT count(*) FROM known.t WHERE id = $1";
    Ok(cluster.connect(node).await?.query_one(count, &[&id]).await?.get(0))
}

async fn everybody_knows(cluster: &Cluster, txid: &str, status: &str) -> Result<()> {
    is_everywhere(cluster, txid.parse()?, status).await
}

#[test]
fn the_id_is_known_before_and_told_the_truth_about() {
    CLUSTER.test(async |cluster| -> Result<()> {
        cluster.execute(NODE, "CREATE SCHEMA known; CREATE TABLE known.t (id int)").await?;
        cluster.settle().await?;
        ends_as_was_told(cluster).await?;
        let mut told_after = Vec::new();
        for (row, place) in (100..).zip(PLACES) {
            told_after.push(the_node_is_gone(cluster, row, place).await.with_context(|| place.to_owned())?);
        }
        println!("what was in flight was told after {told_after:.1?}");
        let is_soon = |told_after: &[Option<Duration>]| told_after.iter().flatten().any(|after| *after < LIFE_ENDS);
        // A machine with far too much to do may be late once.
        for row in 200..202 {
            if !is_soon(&told_after) {
                told_after.push(the_node_is_gone(cluster, row, PLACES[0]).await?);
            }
        }
        ensure!(is_soon(&told_after), "{told_after:?}: told only when the node's life was ended");
        Ok(())
    });
}

/// Transactions that end in all the ways in which no server has to die.
async fn ends_as_was_told(cluster: &Cluster) -> Result<()> {
    let (session, reported) = told(cluster, NODE).await?;
    let first = id(&session, &reported).await?;
    ensure!(!first.is_empty(), "nothing was told when the session began");
    session.batch_execute("SELECT count(*) FROM known.t").await?;
    ensure!(id(&session, &reported).await? == first, "a transaction that writes nothing has no id");
    everybody_knows(cluster, &first, "in progress").await?;

    session.batch_execute("INSERT INTO known.t VALUES (1)").await?;
    let second = id(&session, &reported).await?;
    ensure!(second != first, "an id was told twice");
    everybody_knows(cluster, &first, "committed").await?;

    session.batch_execute("BEGIN; INSERT INTO known.t VALUES (2)").await?;
    let own: String = session.query_one("SELECT pgrenga.transaction_id()", &[]).await?.get(0);
    ensure!(own == second && id(&session, &reported).await? == second, "{own} is {second}");
    session.batch_execute("ROLLBACK").await?;
    let third = id(&session, &reported).await?;
    ensure!(third != second && !third.is_empty(), "the next id was not told after a rollback");
    ensure!(fate(cluster, OTHER, &second).await? == "aborted");

    let failed = session.batch_execute("INSERT INTO known.t SELECT 3 / (g - 2) FROM generate_series(1, 3) AS g").await;
    ensure!(failed.is_err() && id(&session, &reported).await? != third, "the next id was not told after an error");
    ensure!(fate(cluster, OTHER, &third).await? == "aborted");

    // Whoever wants to know it only now and then asks.
    let plain = cluster.connect(NODE).await?;
    plain.batch_execute("BEGIN; SAVEPOINT a; INSERT INTO known.t VALUES (4); ROLLBACK TO a").await?;
    let asked: String = plain.query_one("SELECT pgrenga.transaction_id()", &[]).await?.get(0);
    plain.batch_execute("INSERT INTO known.t VALUES (5); COMMIT").await?;
    everybody_knows(cluster, &asked, "committed").await?;
    let nothing: String = plain.query_one("SELECT pgrenga.transaction_id()", &[]).await?.get(0);
    ensure!(fate(cluster, OTHER, &nothing).await? == "aborted", "what wrote nothing");

    let last = id(&session, &reported).await?;
    drop(session);
    ensure!(fate(cluster, OTHER, &last).await? == "aborted", "the session is over");
    new_life(cluster).await
}

/// The daemon is killed while a transaction whose id was told is open: it ends under that id.
async fn new_life(cluster: &Cluster) -> Result<()> {
    let (session, reported) = told(cluster, NODE).await?;
    session.batch_execute("BEGIN; INSERT INTO known.t VALUES (6)").await?;
    let told = id(&session, &reported).await?;
    ensure!(cluster.kill(NODE, Part::Daemon), "there is no daemon");
    let commit = session.batch_execute("SET pgrenga.commit_timeout = '60s'; COMMIT").await;
    ensure!(commit.is_err_and(|error| error.code().is_some_and(|code| code.code() == "40001")), "it committed");
    ensure!(fate(cluster, OTHER, &told).await? == "aborted");
    cluster.wait_serving(RECOVERY).await?;
    session.batch_execute("INSERT INTO known.t VALUES (7)").await.context("tried again")?;
    cluster.settle().await?;
    ensure!(count(cluster, OTHER, 6).await? == 0 && count(cluster, OTHER, 7).await? == 1);
    Ok(())
}

/// The whole node is killed and stays away: its server dies at `place`, its daemon at once. After how long it was told
/// that the transaction is aborted, if it is.
async fn the_node_is_gone(cluster: &Cluster, row: i32, place: &str) -> Result<Option<Duration>> {
    let (session, reported) = told(cluster, NODE).await?;
    session.batch_execute(&format!("SET pgrenga.failpoint = '{place}'")).await?;
    let known = id(&session, &reported).await?;
    cluster.hold_supervisor();
    let cut = session.batch_execute(&format!("INSERT INTO known.t VALUES ({row})")).await;
    let (daemon, postgres) = (cluster.kill(NODE, Part::Daemon), cluster.kill(NODE, Part::Postgres));
    let begun = Instant::now();
    let told = fate(cluster, OTHER, &known).await;
    let after = begun.elapsed();
    let seen = count(cluster, OTHER, row).await;
    cluster.release_supervisor();
    ensure!(cut.is_err() && daemon && postgres, "it was not cut off: {cut:?}");
    let (told, seen) = (told?, seen?);
    ensure!(["committed", "aborted"].contains(&told.as_str()), "it is {told}");
    // What is committed may be shown a moment after it is told; what is aborted never is.
    ensure!(told == "committed" || seen == 0, "it is {told}, and there are {seen} rows");
    cluster.wait_serving(RECOVERY).await?;
    cluster.settle().await?;
    for node in 0..cluster.len() {
        let rows = count(cluster, node, row).await?;
        ensure!(rows == i64::from(told == "committed"), "it is {told}, and node {node} has {rows} rows");
    }
    everybody_knows(cluster, &known, &told).await?;
    Ok((told == "aborted").then_some(after))
}
