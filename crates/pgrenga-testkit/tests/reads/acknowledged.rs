//! `pgrenga.ack = all`: what was acknowledged is shown by every node that serves.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pgrenga_testkit::cluster::{Cluster, Part};
use tokio_postgres::Client;

use crate::{CLUSTER, Stopped, release_later};

const WRITER: usize = 1;
const READERS: [usize; 2] = [0, 2];
const ROUNDS: i32 = 60;
/// After so long a silent node is not waited for any more, for certain.
const FORGOTTEN: Duration = Duration::from_secs(6);
/// For so long a node is watched once it serves again.
const WATCHED: Duration = Duration::from_secs(2);

async fn session(cluster: &Cluster, node: usize, settings: &str) -> Result<Client> {
    let session = cluster.connect(node).await?;
    session.batch_execute(settings).await?;
    Ok(session)
}

/// A table of so many rows that applying what changes all of them takes a moment.
async fn create(cluster: &Cluster, table: &str) -> Result<()> {
    let create = format!(
        "CREATE TABLE {table} (id int PRIMARY KEY, n int); INSERT INTO {table} SELECT i, 0 FROM generate_series(1, 1000) AS i"
    );
    cluster.execute(WRITER, &create).await?;
    Ok(cluster.settle().await?)
}

/// How often a reader did not see at once what was acknowledged to a writer.
async fn stale_reads(cluster: &Cluster, table: &str, ack: &str) -> Result<u32> {
    create(cluster, table).await?;
    let writer = session(cluster, WRITER, &format!("SET pgrenga.ack = '{ack}'")).await?;
    let mut readers = Vec::new();
    for node in READERS {
        readers.push(session(cluster, node, "SET pgrenga.read_consistency = local").await?);
    }
    let update = writer.prepare(&format!("UPDATE {table} SET n = $1")).await?;
    let mut stale = 0;
    for round in 1..=ROUNDS {
        match round % 3 {
            0 => drop(writer.execute(&update, &[&round]).await?),
            1 => writer.batch_execute(&format!("UPDATE {table} SET n = {round}")).await?,
            _ => writer.batch_execute(&format!("BEGIN; UPDATE {table} SET n = {round}; COMMIT")).await?,
        }
        for reader in &readers {
            let seen: i32 = reader.query_one(&format!("SELECT min(n) FROM {table}"), &[]).await?.get(0);
            stale += u32::from(seen < round);
        }
    }
    Ok(stale)
}

#[test]
fn with_all_nobody_reads_what_was_before() {
    CLUSTER.test(async |cluster| {
        ensure!(stale_reads(cluster, "acked", "all").await? == 0, "somebody did");
        // Otherwise this shows nothing.
        ensure!(stale_reads(cluster, "hasty", "majority").await? > 0, "nobody does without it either");
        anyhow::Ok(())
    });
}

#[test]
fn with_all_a_commit_waits_for_a_node_that_applies_late() {
    CLUSTER.test(async |cluster| {
        cluster.execute(WRITER, "CREATE TABLE late (id int PRIMARY KEY)").await?;
        cluster.settle().await?;
        let writer = session(cluster, WRITER, "SET pgrenga.ack = 'all'").await?;
        let stopped = Stopped::appliers_of(cluster, READERS[0]).await?;
        let begun = Instant::now();
        let pause = Duration::from_millis(700);
        let (written, ()) =
            tokio::join!(writer.batch_execute("INSERT INTO late VALUES (1)"), release_later(stopped, pause));
        written?;
        ensure!(begun.elapsed() >= pause, "it was answered after {:?}", begun.elapsed());

        // It does not wait for ever, and says that the transaction is there.
        let stopped = Stopped::appliers_of(cluster, READERS[0]).await?;
        writer.batch_execute("SET pgrenga.commit_timeout = '300ms'; INSERT INTO late VALUES (2)").await?;
        drop(stopped);
        let count: i64 = writer.query_one("SELECT count(*) FROM late", &[]).await?.get(0);
        ensure!(count == 2, "{count} rows");
        anyhow::Ok(())
    });
}

#[test]
fn a_node_that_is_gone_is_not_waited_for() {
    CLUSTER.test(async |cluster| {
        cluster.execute(WRITER, "CREATE TABLE gone (id int PRIMARY KEY)").await?;
        cluster.settle().await?;
        let writer = session(cluster, WRITER, "SET pgrenga.ack = 'all'").await?;
        cluster.hold_supervisor();
        let dead = READERS[1];
        ensure!(cluster.kill(dead, Part::Daemon) && cluster.kill(dead, Part::Postgres), "the node is dead");
        let result = async {
            let begun = Instant::now();
            for id in 0..20 {
                writer.batch_execute(&format!("INSERT INTO gone VALUES ({id})")).await?;
            }
            // As long as it may have had a lease, and a little.
            ensure!(begun.elapsed() < Duration::from_secs(9), "it took {:?}", begun.elapsed());
            let seen: i64 =
                session(cluster, READERS[0], "").await?.query_one("SELECT count(*) FROM gone", &[]).await?.get(0);
            ensure!(seen == 20, "the other one shows {seen} rows");
            Ok(())
        };
        let result = result.await;
        cluster.release_supervisor();
        result.context("with a dead node")
    });
}

/// Writes to `table` with `ack = all` until `ends`, and tells in `acknowledged` how far it is.
async fn count_up(cluster: &Cluster, table: &str, acknowledged: &AtomicI32, ends: &AtomicBool) -> Result<()> {
    // A time-out would acknowledge it with a warning, though the other one does not show it yet.
    let writer = session(cluster, WRITER, "SET pgrenga.ack = 'all'; SET pgrenga.commit_timeout = '60s'").await?;
    for n in 1.. {
        writer.batch_execute(&format!("UPDATE {table} SET n = {n}")).await?;
        acknowledged.store(n, Ordering::SeqCst);
        // A node that comes back has to get there.
        tokio::time::sleep(Duration::from_millis(50)).await;
        if ends.load(Ordering::SeqCst) {
            break;
        }
    }
    Ok(())
}

/// Reads on a node that comes back, from its first answer on for a while: what it gives must not be older than what
/// was acknowledged before.
async fn watch(cluster: &Cluster, node: usize, table: &str, acknowledged: &AtomicI32) -> Result<u32> {
    let (begun, mut first, mut reads) = (Instant::now(), None, 0);
    let mut connected = None;
    while first.is_none_or(|first: Instant| first.elapsed() < WATCHED) {
        ensure!(begun.elapsed() < Duration::from_secs(60), "it does not come back");
        let reader = match connected.take().filter(|reader: &Client| !reader.is_closed()) {
            Some(reader) => reader,
            None => {
                match session(
                    cluster,
                    node,
                    "SET pgrenga.read_consistency = local; SET pgrenga.commit_timeout = '100ms'",
                )
                .await
                {
                    Ok(reader) => reader,
                    Err(_) => continue,
                }
            }
        };
        let before = acknowledged.load(Ordering::SeqCst);
        if let Ok(row) = reader.query_one(&format!("SELECT min(n) FROM {table}"), &[]).await {
            let n: i32 = row.get(0);
            ensure!(n >= before, "{n} was read after {before} was acknowledged, at read {reads} since it is back");
            first.get_or_insert_with(Instant::now);
            reads += 1;
        }
        connected = Some(reader);
    }
    Ok(reads)
}

#[test]
fn with_all_a_node_that_comes_back_counts_before_it_serves() {
    CLUSTER.test(async |cluster| {
        let node = READERS[1];
        for (table, is_killed) in [("silent", false), ("killed", true)] {
            create(cluster, table).await?;
            let (acknowledged, ends) = (AtomicI32::new(0), AtomicBool::new(false));
            let comes_back = async {
                if is_killed {
                    cluster.hold_supervisor();
                    ensure!(cluster.kill(node, Part::Daemon) && cluster.kill(node, Part::Postgres), "the node is dead");
                    tokio::time::sleep(FORGOTTEN).await;
                    cluster.release_supervisor();
                } else {
                    let daemon = cluster.pid(node, Part::Daemon).context("a daemon runs")?.raw();
                    release_later(Stopped::stop(vec![daemon]), FORGOTTEN).await;
                }
                let reads = watch(cluster, node, table, &acknowledged).await;
                ends.store(true, Ordering::SeqCst);
                reads
            };
            let (written, reads) = tokio::join!(count_up(cluster, table, &acknowledged, &ends), comes_back);
            let reads = reads.with_context(|| format!("a node that was {table}"))?;
            written?;
            ensure!(reads > 20 && acknowledged.load(Ordering::SeqCst) > 20, "{reads} reads show nothing");
        }
        anyhow::Ok(())
    });
}
