//! The promise: definitions made CONCURRENTLY are the same on all nodes and nowhere half there, and say that they
//! run otherwise than the word says; REINDEX CONCURRENTLY is each node's own business.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::CLUSTER;
use crate::everywhere::{NODES, ask, notices, same, sqlstate, within};

const PATIENCE: Duration = Duration::from_secs(60);

const TABLES: &str = "
    CREATE SCHEMA apart;
    CREATE TABLE apart.t (x int, y int);
    INSERT INTO apart.t SELECT i, i % 10 FROM generate_series(1, 1000) AS i;
    CREATE TABLE apart.parted (x int, y int) PARTITION BY RANGE (x);
    CREATE TABLE apart.concurrently PARTITION OF apart.parted FOR VALUES FROM (0) TO (100);
    INSERT INTO apart.parted SELECT i, i FROM generate_series(1, 50) AS i";

/// What is run, and what the schema's indexes and partitions are then.
const STATEMENTS: [(&str, &str); 7] = [
    ("CREATE INDEX CONCURRENTLY \"by y\" ON apart.t (y) WHERE x > 1", "by y"),
    ("create unique index concurrently if not exists by_x on apart.t (x)", "by y,by_x"),
    ("CREATE INDEX Concurrently ON apart.t (x, y)", "by y,by_x,t_x_y_idx"),
    ("DROP INDEX CONCURRENTLY IF EXISTS apart.\"by y\"", "by_x,t_x_y_idx"),
    ("DROP INDEX CONCURRENTLY apart.t_x_y_idx RESTRICT -- concurrently", "by_x"),
    ("ALTER TABLE apart.parted DETACH PARTITION apart.concurrently CONCURRENTLY", "by_x"),
    ("CREATE INDEX CONCURRENTLY /* CONCURRENTLY */ ON apart.concurrently (y)", "by_x,concurrently_y_idx"),
];

const INDEXES: &str = "SELECT string_agg(relname, ',' ORDER BY relname) FROM pg_class JOIN pg_index ON indexrelid = oid
    WHERE relnamespace = 'apart'::regnamespace AND indisvalid AND indisready AND indislive";
const PARTITIONS: &str = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'apart.parted'::regclass";

#[test]
fn definitions_made_concurrently_are_the_same_everywhere() {
    CLUSTER.test(async |cluster| -> Result<()> {
        cluster.execute(0, TABLES).await?;
        for (node, (sql, indexes)) in (0..NODES).cycle().zip(STATEMENTS) {
            cluster.settle().await?;
            let notices = notices(cluster, node, sql).await.context(sql)?;
            ensure!(notices.iter().any(|notice| notice.contains("runs without CONCURRENTLY")), "{sql}: {notices:?}");
            let found = same(cluster, INDEXES).await?;
            ensure!(found == indexes, "{sql}: {found}");
        }
        ensure!(same(cluster, PARTITIONS).await? == "0");
        ensure!(same(cluster, "SELECT count(*) FROM apart.concurrently").await? == "50");

        // As in PostgreSQL, none of them can be taken back.
        for (sql, _) in STATEMENTS {
            let session = cluster.connect(0).await?;
            let in_a_block = session.batch_execute(&format!("BEGIN; {sql}")).await;
            ensure!(sqlstate(&in_a_block).as_deref() == Some("25001"), "{sql}: {in_a_block:?}");
        }
        let in_a_function = cluster.connect(0).await?;
        let answer = in_a_function.batch_execute("DO 'BEGIN CREATE INDEX CONCURRENTLY ON apart.t (y); END'").await;
        ensure!(sqlstate(&answer).as_deref() == Some("25001"), "{answer:?}");

        // One that fails leaves no invalid index behind.
        let session = cluster.connect(1).await?;
        let answer = session.batch_execute("CREATE UNIQUE INDEX CONCURRENTLY never ON apart.t (y)").await;
        ensure!(sqlstate(&answer).as_deref() == Some("23505"), "{answer:?}");
        ensure!(same(cluster, "SELECT count(*) FROM pg_class WHERE relname = 'never'").await? == "0");
        let verdict = cluster.verify().await?;
        ensure!(verdict.exit_code == 0, "{}", verdict.output);

        // Indexes of temporary tables are built as ever, without a word.
        let temporary = "CREATE TEMPORARY TABLE own (x int); CREATE INDEX CONCURRENTLY ON own (x)";
        let session = cluster.connect(2).await?;
        for sql in temporary.split(';') {
            session.batch_execute(sql).await?;
        }
        Ok(())
    });
}

/// Rows of every node come in while one rebuilds its indexes, and are in them.
#[test]
fn a_node_rebuilds_its_indexes_while_rows_come_in() {
    CLUSTER.test(async |cluster| -> Result<()> {
        const ROWS: usize = 150;
        cluster.execute(0, "CREATE EXTENSION amcheck; CREATE SCHEMA rebuilt").await?;
        let table = "CREATE TABLE rebuilt.t (id int PRIMARY KEY, x text UNIQUE)";
        cluster
            .execute(0, &format!("{table}; INSERT INTO rebuilt.t SELECT -i, -i FROM generate_series(1, 2000) AS i"))
            .await?;
        cluster.settle().await?;
        let physical =
            "SELECT array_agg(indexrelid ORDER BY indexrelid) FROM pg_index WHERE indrelid = 'rebuilt.t'::regclass";
        let before = cluster.ask_all(physical).await?;
        let write = async |node: usize| -> Result<()> {
            let session = cluster.connect(node).await?;
            for row in 0..ROWS {
                let id = row * NODES + node;
                session.batch_execute(&format!("INSERT INTO rebuilt.t VALUES ({id}, '{id}')")).await?;
                session.batch_execute(&format!("UPDATE rebuilt.t SET x = x || '!' WHERE id = -1 - {id}")).await?;
            }
            Ok(())
        };
        let rebuild = async {
            let session = cluster.connect(1).await?;
            for sql in
                ["TABLE CONCURRENTLY rebuilt.t", "INDEX CONCURRENTLY rebuilt.t_pkey", "TABLE CONCURRENTLY rebuilt.t"]
            {
                session.batch_execute(&format!("REINDEX {sql}")).await.with_context(|| sql.to_owned())?;
            }
            anyhow::Ok(())
        };
        tokio::try_join!(write(0), write(1), write(2), rebuild)?;
        ensure!(same(cluster, "SELECT count(*) FROM rebuilt.t").await? == (2000 + NODES * ROWS).to_string());
        let check =
            "SELECT count(bt_index_check(indexrelid, true)) FROM pg_index WHERE indrelid = 'rebuilt.t'::regclass";
        ensure!(same(cluster, check).await? == "2");
        let after = cluster.ask_all(physical).await?;
        for (node, (before, after)) in before.iter().zip(&after).enumerate() {
            ensure!((before == after) == (node != 1), "node {node}: {before}, then {after}");
        }
        let verdict = cluster.verify().await?;
        ensure!(verdict.exit_code == 0, "{}", verdict.output);
        cluster.execute(0, "DROP EXTENSION amcheck").await?;
        Ok(())
    });
}

/// As in PostgreSQL, REINDEX CONCURRENTLY that is cancelled leaves an index that is not valid: on this node alone,
/// and so it is dropped.
#[test]
fn what_a_rebuild_leaves_behind_is_dropped_where_it_is() {
    CLUSTER.test(async |cluster| -> Result<()> {
        cluster.execute(1, "CREATE SCHEMA left_over; CREATE TABLE left_over.t (id int PRIMARY KEY)").await?;
        cluster.settle().await?;
        let reader = cluster.connect(1).await?;
        reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM left_over.t").await?;
        let rebuilder = cluster.connect(1).await?;
        let pid: i32 = rebuilder.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
        let rebuild =
            tokio::spawn(async move { rebuilder.batch_execute("REINDEX TABLE CONCURRENTLY left_over.t").await });
        let watcher = cluster.connect(1).await?;
        let begun = "SELECT to_regclass('left_over.t_pkey_ccnew') IS NOT NULL";
        within(PATIENCE, "the rebuild begins", async {
            while ask(&watcher, begun).await? != "t" {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        })
        .await?;
        watcher.execute("SELECT pg_cancel_backend($1)", &[&pid]).await?;
        let answer = rebuild.await?;
        ensure!(sqlstate(&answer).as_deref() == Some("57014"), "{answer:?}");
        reader.batch_execute("ROLLBACK").await?;
        ensure!(ask(&watcher, begun).await? == "t");
        let verdict = cluster.verify().await?;
        ensure!(verdict.exit_code == 0, "{}", verdict.output);

        watcher.batch_execute("DROP INDEX left_over.t_pkey_ccnew").await?;
        cluster.execute(1, "INSERT INTO left_over.t VALUES (1)").await?;
        ensure!(same(cluster, "SELECT count(*) FROM left_over.t").await? == "1");
        ensure!(same(cluster, "SELECT to_regclass('left_over.t_pkey_ccnew') IS NULL").await? == "t");
        Ok(())
    });
}
