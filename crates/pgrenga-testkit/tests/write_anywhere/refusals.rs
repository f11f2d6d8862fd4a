//! The promise: what is not replicated yet is refused with 0A000, a detail and
//! a hint, and leaves nothing; never silently different.

use anyhow::{Context as _, Result, ensure};
use pgrenga_testkit::cluster::Cluster;
use tokio_postgres::NoTls;

use crate::CLUSTER;
use crate::everywhere::{ask, said, same};

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

/// Each way to write in a database that has tables for some reason.
const WRITES: [&str; 19] = [
    "INSERT INTO t VALUES (2)",
    "UPDATE t SET x = 3",
    "DELETE FROM t",
    "MERGE INTO t USING (VALUES (1)) AS v (x) ON t.x = v.x WHEN MATCHED THEN DELETE",
    "COPY t FROM PROGRAM 'echo 1'",
    "DO $$ BEGIN DELETE FROM t; EXCEPTION WHEN division_by_zero THEN NULL; END $$",
    "SELECT setval('s', 100)",
    "SELECT setval('s', 100, false)",
    "TRUNCATE t",
    "REFRESH MATERIALIZED VIEW m",
    "ALTER TABLE t ADD COLUMN y int",
    "CREATE TABLE u AS SELECT * FROM t",
    "CREATE ROLE refused_there",
    "GRANT CONNECT ON DATABASE postgres TO PUBLIC",
    "ALTER DATABASE postgres SET work_mem = '1MB'",
    "ALTER ROLE postgres SET work_mem = '1MB'",
    "SELECT lo_create(0)",
    "SELECT pg_notify('refused', 'there')",
    "CREATE EXTENSION hstore",
];

#[test]
fn other_databases_are_not_written() {
    CLUSTER.test(async |cluster| -> Result<()> {
        // Nobody gets it but by force.
        let force = cluster.connect(0).await?;
        force.batch_execute("SET pgrenga.replicate = off").await?;
        force.batch_execute("CREATE DATABASE refused_elsewhere").await?;
        let session = connect_to(cluster, "refused_elsewhere").await?;
        session.batch_execute("SET pgrenga.replicate = off").await?;
        let plant = "CREATE TABLE t (x int); INSERT INTO t VALUES (1); CREATE SEQUENCE s;
            CREATE MATERIALIZED VIEW m AS SELECT x + 1 AS y FROM t";
        session.batch_execute(plant).await?;
        session.batch_execute("RESET pgrenga.replicate").await?;
        for sql in WRITES {
            refuses(&session, sql, "database \"refused_elsewhere\" is not replicated").await.with_context(|| sql)?;
        }
        assert_eq!(ask(&session, "SELECT x, y, last_value, is_called FROM t, m, s").await?, "1|2|1|f");
        session.batch_execute("CREATE TEMPORARY TABLE own (x serial); INSERT INTO own DEFAULT VALUES").await?;
        drop(session);
        force.batch_execute("DROP DATABASE refused_elsewhere (FORCE)").await?;
        assert_eq!(same(cluster, "SELECT count(*) FROM pg_roles WHERE rolname = 'refused_there'").await?, "0");
        assert_eq!(same(cluster, "SELECT count(*) FROM pg_db_role_setting WHERE setconfig::text ~ '1MB'").await?, "0");
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
