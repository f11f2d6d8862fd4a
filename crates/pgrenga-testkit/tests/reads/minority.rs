//! Without a majority there are no reads either, unless they are asked for.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pgrenga_testkit::cluster::{Cluster, Part};
use tokio_postgres::Client;

use crate::{CLUSTER, Stopped, said};

/// How long a node serves after it was cut off, and how late that may come on a busy machine.
const LEASE: Duration = Duration::from_secs(3);
const SLACK: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

const ALONE: &str = "no majority of the nodes answers it";

const READ: &str = "SELECT n FROM cut";

/// Stops the daemons of all but one node: its connections stay, and nobody answers.
fn cut_off(cluster: &Cluster, node: usize) -> Result<Stopped> {
    let others = (0..cluster.len()).filter(|other| *other != node);
    let pids: Option<Vec<_>> = others.map(|other| Some(cluster.pid(other, Part::Daemon)?.raw())).collect();
    Ok(Stopped::stop(pids.context("a daemon does not run")?))
}

/// Reads until that is refused; gives how long that took, and what was said.
async fn refused(session: &Client) -> Result<(Duration, tokio_postgres::Error)> {
    let begun = Instant::now();
    loop {
        match session.query_one(READ, &[]).await {
            Err(error) => return Ok((begun.elapsed(), error)),
            Ok(_) => ensure!(begun.elapsed() < LEASE + SLACK, "a node that is cut off goes on serving"),
        }
        tokio::time::sleep(POLL).await;
    }
}

#[test]
fn a_node_that_is_cut_off_serves_no_reads_says_why_and_heals() {
    CLUSTER.test(async |cluster| {
        cluster.execute(0, "CREATE TABLE cut (n int); INSERT INTO cut VALUES (1); CREATE ROLE cut_reader").await?;
        cluster.execute(0, "GRANT SELECT ON cut TO cut_reader").await?;
        cluster.settle().await?;
        let session = cluster.connect(0).await?;
        session.batch_execute("SET pgrenga.commit_timeout = '500ms'; BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
        session.query_one(READ, &[]).await?;
        session.batch_execute("COMMIT; DECLARE c CURSOR WITH HOLD FOR SELECT n FROM cut").await?;

        let stopped = cut_off(cluster, 0)?;
        let (elapsed, error) = refused(&session).await?;
        ensure!(elapsed > LEASE / 2, "a lease is for nothing if reads end with the connection: {elapsed:?}");
        let error = said(&error)?;
        ensure!(error.code().code() == "57P03", "{error:?}");
        ensure!(error.detail() == Some("It is cut off from the majority of the nodes."), "{error:?}");
        ensure!(error.hint().is_some_and(|hint| hint.contains("pgrenga.minority_reads")), "{error:?}");
        // Whichever way rows would come.
        for read in [
            "COPY cut TO STDOUT",
            "FETCH c",
            "DO $$ BEGIN PERFORM n FROM cut; END $$",
            "EXPLAIN ANALYZE SELECT n FROM cut",
            "INSERT INTO cut SELECT n FROM cut",
            "SELECT 1 FROM pg_class, cut",
        ] {
            let error = session.batch_execute(read).await.err().with_context(|| format!("it served {read}"))?;
            ensure!(said(&error)?.code().code() == "57P03", "{read}: {error:?}");
        }
        // What tells what is wrong is there.
        let row = session.query_one("SELECT state, leader IS NULL FROM pgrenga.status()", &[]).await?;
        ensure!((row.get(0), row.get(1)) == ("detached", true), "{row:?}");
        let alone = |status: &serde_json::Value| {
            status["nodes"][0]["state"] == "detached"
                && status["nodes"][0]["reason"] == ALONE
                && status["leader"].is_null()
        };
        cluster.wait_until("status says that it is cut off", SLACK, alone).await?;
        // Who comes is let in, and told.
        let late = cluster.connect(0).await?;
        let error =
            late.batch_execute("SET pgrenga.commit_timeout = '100ms'; TABLE cut").await.err().context("it serves")?;
        ensure!(said(&error)?.code().code() == "57P03", "{error:?}");
        ensure!(session.query("SELECT * FROM pgrenga.nodes", &[]).await?.len() == 3);
        session
            .batch_execute("SELECT pgrenga.visible(), count(*) FROM pg_class; CREATE TEMP TABLE own (n int); TABLE own")
            .await?;
        // A superuser may have old rows; others may not.
        session.batch_execute("SET pgrenga.minority_reads = on").await?;
        session.query_one(READ, &[]).await.context("with minority_reads")?;
        session.batch_execute("RESET pgrenga.minority_reads; SET ROLE cut_reader").await?;
        let error = session.batch_execute("SET pgrenga.minority_reads = on").await.err().context("anybody may")?;
        ensure!(said(&error)?.code().code() == "42501", "{error:?}");

        // Who waits is served as soon as the others are back.
        session.batch_execute("SET pgrenga.commit_timeout = '60s'").await?;
        let (read, ()) = tokio::join!(session.query_one(READ, &[]), crate::release_later(stopped, 4 * POLL));
        ensure!(read.context("the majority is back")?.get::<_, i32>(0) == 1);
        anyhow::Ok(())
    });
}

#[test]
fn a_lease_that_was_under_way_while_the_server_stood_still_is_worth_nothing() {
    CLUSTER.test(async |cluster| {
        cluster.execute(0, "CREATE TABLE stood (n int)").await?;
        cluster.settle().await?;
        let session = cluster.connect(0).await?;
        session.batch_execute("SET pgrenga.commit_timeout = '200ms'").await?;
        let port: i32 = session
            .query_one("SELECT pid FROM pg_stat_activity WHERE backend_type = 'pgrenga port'", &[])
            .await?
            .get(0);
        // Leases pile up in the port worker's socket; then the majority goes, and they run out.
        let port = Stopped::stop(vec![port]);
        tokio::time::sleep(LEASE / 3).await;
        let others = cut_off(cluster, 0)?;
        tokio::time::sleep(LEASE + 4 * POLL).await;
        drop(port);
        for _ in 0..20 {
            let read = session.batch_execute("TABLE stood").await;
            ensure!(read.is_err(), "an old lease was taken for a new one");
            tokio::time::sleep(POLL / 5).await;
        }
        drop(others);
        anyhow::Ok(())
    });
}
