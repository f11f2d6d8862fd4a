//! The promise: transactions of any size arrive with flat memory on every
//! node, and those above the limit fail with 54000 and leave nothing.

mod memory;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use memory::Watch;
use pgrenga_testkit::cluster::{Cluster, Shared};

static CLUSTER: Shared = Shared::new(3);

const PATIENCE: Duration = Duration::from_secs(120);
/// For each process, daemons and PostgreSQL's alike (those with the buffers that they share).
const RESIDENT_KB_MAX: u64 = 500 * 1024;

/// Waits until all nodes show what was committed on any, and asks them.
async fn everywhere(cluster: &Cluster, sql: &str) -> Result<Vec<String>> {
    cluster.settle_within(PATIENCE).await?;
    Ok(cluster.ask_all(sql).await?)
}

#[test]
fn a_large_copy_arrives_with_bounded_memory() {
    CLUSTER.test(async |cluster| {
        let create = "CREATE SCHEMA large; CREATE TABLE large.t (id int PRIMARY KEY, x text DEFAULT repeat('x', 200))";
        cluster.execute(0, create).await?;
        let watch = Watch::begin(cluster);
        cluster.execute(0, "COPY large.t (id) FROM PROGRAM 'seq 1 300000'").await?;
        let copied = everywhere(cluster, "SELECT count(*), sum(id), sum(length(x)) FROM large.t").await?;
        ensure!(copied == ["(300000,45000150000,60000000)"; 3], "{copied:?}");
        cluster.execute(0, "UPDATE large.t SET x = id").await?;
        let updated = everywhere(cluster, "SELECT count(*) FROM large.t WHERE x = id::text").await?;
        ensure!(updated == ["(300000)"; 3], "{updated:?}");
        watch.end(RESIDENT_KB_MAX)
    });
}

#[test]
fn a_large_value_arrives() {
    CLUSTER.test(async |cluster| {
        cluster.execute(0, "CREATE SCHEMA wide; CREATE TABLE wide.t (id int PRIMARY KEY, x text)").await?;
        cluster.execute(0, "INSERT INTO wide.t SELECT 1, repeat(md5('x'), 500000)").await?;
        let digests = everywhere(cluster, "SELECT md5(x), length(x) FROM wide.t").await?;
        ensure!(digests.iter().all(|digest| digest == &digests[0] && digest.ends_with(",16000000)")), "{digests:?}");
        Ok(())
    });
}

#[test]
fn others_go_on_while_a_large_transaction_is_made() {
    CLUSTER.test(async |cluster| {
        let create =
            "CREATE SCHEMA beside; CREATE TABLE beside.t (id int PRIMARY KEY); CREATE TABLE beside.small (n int)";
        cluster.execute(0, create).await?;
        everywhere(cluster, "SELECT 1").await?;
        let writer = cluster.connect(0).await?;
        writer.batch_execute("BEGIN; COPY beside.t FROM PROGRAM 'seq 1 200000'").await?;
        for node in [1, 2, 0] {
            let write = cluster.execute(node, "INSERT INTO beside.small VALUES (1)");
            tokio::time::timeout(Duration::from_secs(5), write).await.context("beside an open large transaction")??;
        }
        writer.batch_execute("COMMIT").await?;
        let counts = everywhere(cluster, "SELECT (SELECT count(*) FROM beside.t), (SELECT sum(n) FROM beside.small)");
        let counts = counts.await?;
        ensure!(counts == ["(200000,3)"; 3], "{counts:?}");
        Ok(())
    });
}

#[test]
fn what_is_too_large_fails_and_leaves_nothing() {
    CLUSTER.test(async |cluster| {
        cluster.execute(0, "CREATE SCHEMA too; CREATE TABLE too.t (id int PRIMARY KEY, x text)").await?;
        let session = cluster.connect(0).await?;
        session.batch_execute("SET pgrenga.max_writeset_bytes = '64kB'").await?;
        let too_large = [
            "INSERT INTO too.t SELECT i, 'x' FROM generate_series(1, 20000) AS i",
            "COPY too.t (id) FROM PROGRAM 'seq 1 20000'",
            "INSERT INTO too.t SELECT 1, string_agg(md5(i::text), '') FROM generate_series(1, 20000) AS i",
        ];
        for sql in too_large {
            let error = session.batch_execute(sql).await.err().with_context(|| format!("{sql}: it did not fail"))?;
            let error = error.as_db_error().with_context(|| format!("not an answer of the server: {error:?}"))?;
            ensure!(error.code().code() == "54000", "{sql}: {error:?}");
            ensure!(error.hint().is_some(), "{sql}: no hint: {error:?}");
        }
        session.batch_execute("BEGIN; INSERT INTO too.t VALUES (1, 'small'); SAVEPOINT s").await?;
        session.batch_execute(too_large[0]).await.expect_err("too large in a subtransaction as well");
        session.batch_execute("ROLLBACK TO s; INSERT INTO too.t VALUES (2, 'small'); COMMIT").await?;
        let left = everywhere(cluster, "SELECT string_agg(id || x, ' ' ORDER BY id) FROM too.t").await?;
        ensure!(left == ["(\"1small 2small\")"; 3], "{left:?}");
        let error = cluster.execute(0, "CREATE ROLE too; SET ROLE too; SET pgrenga.max_writeset_bytes = '1GB'").await;
        ensure!(error.is_err(), "anybody can set the limit");
        Ok(())
    });
}
