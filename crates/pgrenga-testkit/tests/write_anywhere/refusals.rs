//! The promise: what is not replicated yet is refused with 0A000, a detail and
//! a hint, and leaves nothing; never silently different.

use anyhow::{Context as _, Result, ensure};
use pgrenga_testkit::cluster::Cluster;
use tokio_postgres::NoTls;

use crate::CLUSTER;
use crate::everywhere::{said, same};

/// What is refused, and what its message speaks of.
const REFUSED: [(&str, &str); 6] = [
    ("EXPLAIN ANALYZE CREATE MATERIALIZED VIEW refused.a AS SELECT 1 AS x", "EXPLAIN ANALYZE"),
    ("BEGIN; INSERT INTO refused.t VALUES (2); PREPARE TRANSACTION 'a'", "PREPARE TRANSACTION"),
    ("CREATE DATABASE refused", "databases"),
    ("CREATE TABLESPACE refused LOCATION '/tmp'", "tablespaces"),
    ("CREATE SEQUENCE refused.a CYCLE", "CYCLE"),
    ("DROP EXTENSION pgrenga", "extension"),
];

#[test]
fn what_is_not_replicated_is_refused() {
    CLUSTER.test(async |cluster| -> Result<()> {
        cluster.execute(0, "CREATE SCHEMA refused; CREATE TABLE refused.t (x int PRIMARY KEY)").await?;
        cluster.execute(0, "INSERT INTO refused.t VALUES (1)").await?;
        same(cluster, "SELECT * FROM refused.t").await?;
        for (node, (sql, about)) in (0..3).cycle().zip(REFUSED) {
            let session = cluster.connect(node).await?;
            refuses(&session, sql, about).await.with_context(|| sql.to_owned())?;
        }
        // As a dump of a whole database says.
        cluster.execute(1, "CREATE EXTENSION IF NOT EXISTS pgrenga WITH SCHEMA pgrenga").await?;
        assert_eq!(same(cluster, "SELECT * FROM refused.t").await?, "1");
        let names = "SELECT relname FROM pg_class WHERE relnamespace = 'refused'::regnamespace ORDER BY 1";
        assert_eq!(same(cluster, names).await?, "t\nt_pkey");
        Ok(())
    });
}

#[test]
fn other_databases_are_not_written() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let session = connect_to(cluster, "template1").await?;
        refuses(&session, "CREATE TABLE refused_there (x int)", "not replicated").await?;
        refuses(&session, "CREATE ROLE refused_there", "not replicated").await?;
        session.batch_execute("CREATE TEMPORARY TABLE t (x int); INSERT INTO t VALUES (1)").await?;
        assert_eq!(same(cluster, "SELECT count(*) FROM pg_roles WHERE rolname = 'refused_there'").await?, "0");
        Ok(())
    });
}

async fn refuses(session: &tokio_postgres::Client, sql: &str, about: &str) -> Result<()> {
    let error = session.batch_execute(sql).await.err().context("it was not refused")?;
    let error = said(&error)?;
    ensure!(error.code().code() == "0A000", "not 0A000: {error:?}");
    ensure!(error.message().contains(about), "not about {about}: {error:?}");
    ensure!(error.detail().is_some() && error.hint().is_some(), "no detail or no hint: {error:?}");
    Ok(())
}

async fn connect_to(cluster: &Cluster, database: &str) -> Result<tokio_postgres::Client> {
    let (client, connection) = cluster.configs()[0].clone().dbname(database).connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}
