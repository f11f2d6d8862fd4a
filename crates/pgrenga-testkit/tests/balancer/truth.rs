//! Clients that write all the time while nodes die record every answer, and the tables are compared with that: success
//! is true, 40001 is true, and no session is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use pgrenga_testkit::cluster::{Cluster, Part};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

use crate::{CLUSTER, connect};

const WRITERS: i32 = 60;
const PATIENCE: Duration = Duration::from_secs(60);

/// What a writer was told of each of its rows, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Committed,
    Aborted,
    /// Committed, but the result was lost.
    Lost,
    Unknown,
}

fn told(result: &Result<(), Error>) -> Result<Told> {
    let Err(error) = result else { return Ok(Told::Committed) };
    let report = error.as_db_error().with_context(|| format!("a session was lost: {error:?}"))?;
    match report.code() {
        code if *code == SqlState::T_R_SERIALIZATION_FAILURE => Ok(Told::Aborted),
        code if code.code() == "08007" && report.message().contains("is committed, but") => Ok(Told::Lost),
        code if code.code() == "08007" => Ok(Told::Unknown),
        // A node that is about to be gone takes no writes.
        code if *code == SqlState::CANNOT_CONNECT_NOW => Ok(Told::Aborted),
        _ => Err(anyhow::anyhow!("{report:?}")),
    }
}

async fn leader(cluster: &Cluster) -> Result<usize> {
    let status = cluster.status().await?;
    (0..cluster.len()).find(|node| status["leader"] == cluster.name(*node)).context("somebody leads")
}

/// One row; half of the writers do it in a block of three messages, as drivers do.
async fn write(session: &Client, writer: i32, row: usize) -> Result<(), Error> {
    let insert = format!("INSERT INTO told.t VALUES ({writer}, {row})");
    if writer % 2 == 0 {
        return session.batch_execute(&insert).await;
    }
    let block = async {
        session.batch_execute("BEGIN").await?;
        session.batch_execute(&insert).await?;
        session.batch_execute("COMMIT").await
    };
    let result = block.await;
    if result.is_err() {
        // A warning, if no block is open any more.
        let _ = session.batch_execute("ROLLBACK").await;
    }
    result
}

#[test]
fn what_clients_hear_is_true() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let make = "CREATE SCHEMA told; CREATE TABLE told.t (writer int, row int, PRIMARY KEY (writer, row))";
        cluster.connect(0).await?.batch_execute(make).await?;
        cluster.settle().await?;
        let (stop, longest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut writers = Vec::new();
        for writer in 0..WRITERS {
            let (session, stop, longest) = (connect(cluster).await?, Arc::clone(&stop), Arc::clone(&longest));
            writers.push(tokio::spawn(async move {
                let mut history = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    history.push(told(&write(&session, writer, history.len()).await)?);
                    longest.fetch_max(begun.elapsed().as_millis() as u64, Ordering::Relaxed);
                }
                anyhow::Ok(history)
            }));
        }
        for leads in [false, true] {
            tokio::time::sleep(Duration::from_secs(3)).await;
            let leader = leader(cluster).await?;
            let node = if leads { leader } else { (leader + 1) % cluster.len() };
            let before = longest.swap(0, Ordering::Relaxed);
            cluster.hold_supervisor();
            for part in [Part::Daemon, Part::Postgres] {
                cluster.signal_all(node, part, Signal::SIGKILL);
            }
            tokio::time::sleep(Duration::from_secs(8)).await;
            let after = longest.swap(0, Ordering::Relaxed);
            println!(
                "node {node}, leader: {leads}: no session waited for longer than {after} ms (before: {before} ms)"
            );
            cluster.release_supervisor();
            cluster.wait_serving(PATIENCE).await?;
        }
        stop.store(true, Ordering::Relaxed);
        let mut histories = Vec::new();
        for (writer, task) in (0..WRITERS).zip(writers) {
            histories.push(task.await?.with_context(|| format!("writer {writer}"))?);
        }
        // What was committed last, elsewhere, is not visible everywhere yet.
        cluster.settle().await?;
        let admin = cluster.connect(0).await?;
        let mut counts = [0; 4];
        for (writer, history) in (0..WRITERS).zip(&histories) {
            let rows = admin.query("SELECT row FROM told.t WHERE writer = $1", &[&writer]).await?;
            let rows: std::collections::BTreeSet<i32> = rows.iter().map(|row| row.get(0)).collect();
            for (row, told) in (0..).zip(history) {
                counts[*told as usize] += 1;
                let is_there = rows.contains(&row);
                let is_true = match told {
                    Told::Committed | Told::Lost => is_there,
                    Told::Aborted => !is_there,
                    Told::Unknown => true,
                };
                let of = history.len();
                ensure!(is_true, "writer {writer}, row {row} of {of}: {told:?}, and the table has it: {is_there}");
            }
        }
        let [committed, aborted, lost, unknown] = counts;
        println!("{committed} committed, {aborted} aborted, {lost} committed without an answer, {unknown} unknown");
        ensure!(committed > 0 && aborted > 0, "nothing was lost with the nodes");
        Ok(())
    });
}
