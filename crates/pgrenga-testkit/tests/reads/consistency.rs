//! `pgrenga.read_consistency`. A node whose appliers are stopped shows an old state, so
//! that who reads without waiting is found out.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::TryStreamExt as _;
use pgrenga_testkit::cluster::Cluster;
use tokio_postgres::Client;

use crate::{CLUSTER, Stopped, release_later, said};

/// Where is written, and where is read.
const WRITER: usize = 0;
const READER: usize = 2;
/// How long appliers are stopped.
const PAUSE: Duration = Duration::from_millis(600);

async fn make_table(cluster: &Cluster, name: &str) -> Result<()> {
    let create = format!("CREATE TABLE {name} (id int PRIMARY KEY, n int); INSERT INTO {name} VALUES (1, 0)");
    cluster.execute(WRITER, &create).await?;
    Ok(cluster.settle().await?)
}

async fn asking(cluster: &Cluster, consistency: &str) -> Result<Client> {
    let session = cluster.connect(READER).await?;
    session.batch_execute(&format!("SET pgrenga.read_consistency = {consistency}")).await?;
    Ok(session)
}

async fn number(session: &Client, table: &str) -> Result<i32> {
    Ok(session.query_one(&format!("SELECT n FROM {table}"), &[]).await?.get(0))
}

/// Writes while the reader's node applies nothing, then reads there while that goes on.
/// Gives what `read` gave.
async fn read_behind<T>(cluster: &Cluster, write: &str, read: impl AsyncFnOnce() -> Result<T>) -> Result<T> {
    let stopped = Stopped::appliers_of(cluster, READER).await?;
    cluster.execute(WRITER, write).await?;
    let (read, ()) = tokio::join!(read(), release_later(stopped, PAUSE));
    read
}

#[test]
fn a_local_read_may_be_old_and_a_cluster_read_is_not() {
    CLUSTER.test(async |cluster| {
        make_table(cluster, "fresh").await?;
        let (local, fresh) = (asking(cluster, "local").await?, asking(cluster, "cluster").await?);
        let prepared = fresh.prepare("SELECT n FROM fresh WHERE id = $1").await?;
        // So often that the plan is kept, and bound without being planned.
        for _ in 0..8 {
            fresh.query_one(&prepared, &[&1]).await?;
        }
        for (round, how) in (1..).zip(["simple", "prepared", "function", "copy", "cursor", "writer"]) {
            let write = format!("UPDATE fresh SET n = {round}");
            let seen = read_behind(cluster, &write, async || {
                ensure!(number(&local, "fresh").await? == round - 1, "{how}: the appliers were not stopped");
                Ok(match how {
                    "simple" => number(&fresh, "fresh").await?,
                    "prepared" => fresh.query_one(&prepared, &[&1]).await?.get(0),
                    "function" => {
                        let create =
                            "CREATE FUNCTION pg_temp.look() RETURNS int LANGUAGE sql STABLE AS 'SELECT n FROM fresh'";
                        fresh.batch_execute(create).await?;
                        fresh.query_one("SELECT pg_temp.look()", &[]).await?.get(0)
                    }
                    "copy" => {
                        let rows: Vec<_> = fresh.copy_out("COPY fresh TO STDOUT").await?.try_collect().await?;
                        String::from_utf8(rows.concat())?.trim().rsplit('\t').next().context("a row")?.parse()?
                    }
                    "cursor" => {
                        fresh.batch_execute("BEGIN; DECLARE c CURSOR FOR SELECT n FROM fresh").await?;
                        let seen = fresh.query_one("FETCH c", &[]).await?.get(0);
                        fresh.batch_execute("COMMIT").await?;
                        seen
                    }
                    _ => {
                        let update = "UPDATE fresh SET n = n WHERE id = 1 RETURNING n";
                        fresh.query_one(update, &[]).await?.get(0)
                    }
                })
            });
            let seen = seen.await.with_context(|| how.to_owned())?;
            ensure!(seen == round, "{how}: read {seen} after {round} was acknowledged");
            cluster.settle().await?;
        }
        anyhow::Ok(())
    });
}

#[test]
fn at_repeatable_read_the_first_statement_waits_and_the_snapshot_stays() {
    CLUSTER.test(async |cluster| {
        make_table(cluster, "kept").await?;
        let fresh = asking(cluster, "cluster").await?;
        let seen = read_behind(cluster, "UPDATE kept SET n = 1", async || {
            fresh.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
            number(&fresh, "kept").await
        });
        ensure!(seen.await? == 1, "the first statement did not wait");
        cluster.execute(WRITER, "UPDATE kept SET n = 2").await?;
        cluster.settle().await?;
        ensure!(number(&fresh, "kept").await? == 1, "the snapshot moved");
        fresh.batch_execute("COMMIT").await?;
        ensure!(number(&fresh, "kept").await? == 2);

        // One that began to read before it asked for more keeps what it has.
        let later = asking(cluster, "local").await?;
        later.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT n FROM kept").await?;
        cluster.execute(WRITER, "UPDATE kept SET n = 3").await?;
        cluster.settle().await?;
        later.batch_execute("SET LOCAL pgrenga.read_consistency = cluster").await?;
        ensure!(number(&later, "kept").await? == 2, "a snapshot in use was replaced");
        later.batch_execute("COMMIT").await?;

        // And so does one that takes over another's.
        let (giver, taker) = (asking(cluster, "local").await?, asking(cluster, "cluster").await?);
        giver.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT n FROM kept").await?;
        let name: String = giver.query_one("SELECT pg_export_snapshot()", &[]).await?.get(0);
        cluster.execute(WRITER, "UPDATE kept SET n = 4").await?;
        cluster.settle().await?;
        let take = format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{name}'");
        taker.batch_execute(&take).await?;
        ensure!(number(&taker, "kept").await? == 3, "a snapshot that was taken over was replaced");
        taker.batch_execute("COMMIT").await?;

        let serializable = asking(cluster, "cluster").await?;
        serializable.batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE").await?;
        let error = number(&serializable, "kept").await.err().context("it was not refused")?;
        let error = error.downcast_ref::<tokio_postgres::Error>().context("an answer")?;
        ensure!(said(error)?.code().code() == "0A000", "{error:?}");
        anyhow::Ok(())
    });
}

#[test]
fn a_session_that_moves_sees_its_own_commits() {
    CLUSTER.test(async |cluster| {
        make_table(cluster, "moved").await?;
        let writer = cluster.connect(WRITER).await?;
        writer.batch_execute("UPDATE moved SET n = 1").await?;
        let first: String = writer.query_one("SHOW pgrenga.commit_seq", &[]).await?.get(0);
        cluster.settle().await?;
        let (local, moved) = (asking(cluster, "local").await?, asking(cluster, "session").await?);
        moved.batch_execute(&format!("SET pgrenga.commit_seq = {first}")).await?;
        let seen = read_behind(cluster, "SELECT 1", async || {
            writer.batch_execute("UPDATE moved SET n = 2").await?;
            let seq: String = writer.query_one("SHOW pgrenga.commit_seq", &[]).await?.get(0);
            ensure!(seq.parse::<u64>()? > first.parse::<u64>()?, "{seq} after {first}");
            let begun = Instant::now();
            ensure!(number(&moved, "moved").await? == 1, "nothing newer was promised");
            ensure!(begun.elapsed() < PAUSE / 2, "a session waited for another's commit");
            ensure!(number(&local, "moved").await? == 1, "the appliers were not stopped");
            moved.batch_execute(&format!("SET pgrenga.commit_seq = {seq}")).await?;
            number(&moved, "moved").await
        });
        ensure!(seen.await? == 2, "the session does not see its own commit");

        for bad in ["'-1'", "'x'", "'1.5'", "'9223372036854775808'"] {
            let error =
                moved.batch_execute(&format!("SET pgrenga.commit_seq = {bad}")).await.err().context("accepted")?;
            ensure!(said(&error)?.code().code() == "22023", "{bad}: {error:?}");
        }
        moved
            .batch_execute("SET pgrenga.commit_timeout = '200ms'; SET pgrenga.commit_seq = 9223372036854775807")
            .await?;
        let error = number(&moved, "moved").await.err().context("it read what nobody has written")?;
        let error = said(error.downcast_ref().context("an answer")?)?;
        ensure!(error.code().code() == "57P03" && error.detail().is_some() && error.hint().is_some(), "{error:?}");
        anyhow::Ok(())
    });
}
