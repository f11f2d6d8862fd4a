//! The promise: what ALTER TABLE gives to rows that exist is the same on all nodes,
//! whatever it was evaluated from, and no other node evaluates it.

use std::time::Duration;

use anyhow::Result;

use crate::CLUSTER;
use crate::everywhere::{retry, run, same, sqlstate, within};

const TABLES: &str = r#"
    CREATE SCHEMA rewritten; SET search_path = rewritten;
    CREATE DOMAIN checked AS int CHECK (VALUE > 0);
    CREATE FUNCTION here(x float) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
        RETURN x || ' on ' || current_setting('port'); END $$;
    CREATE FUNCTION port() RETURNS int LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN current_setting('port')::int; END $$;
    CREATE TABLE t (gone int, id int PRIMARY KEY, n int, big text);
    INSERT INTO t SELECT i, i, i % 10, CASE WHEN i < 5 THEN (SELECT string_agg(md5((i * n)::text), '') FROM generate_series(1, 3000) AS n) END
        FROM generate_series(1, 400) AS i;
    CREATE INDEX ON t ((id + 1)) WHERE id > 3;
    CREATE TABLE child (id int PRIMARY KEY REFERENCES t);
    INSERT INTO child SELECT id FROM t;
    CREATE TABLE parted (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE parted_a PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    CREATE TABLE parted_b PARTITION OF parted DEFAULT;
    INSERT INTO parted SELECT i, CASE WHEN i < 50 THEN '2026-05-05' ELSE '2020-01-01' END::date FROM generate_series(1, 100) AS i;
    CREATE TABLE heir (more int) INHERITS (t);
    INSERT INTO heir SELECT i, i, i, NULL, i FROM generate_series(1001, 1020) AS i;
    CREATE UNLOGGED TABLE scratch (id int); INSERT INTO scratch VALUES (1);
"#;

/// One after the other, each on another node.
const CHANGES: &str = r#"
    ALTER TABLE rewritten.t DROP COLUMN gone;
    ALTER TABLE rewritten.t ADD COLUMN drawn float NOT NULL DEFAULT random();
    ALTER TABLE rewritten.t ADD COLUMN since timestamptz NOT NULL DEFAULT now(), ADD COLUMN port int DEFAULT rewritten.port();
    ALTER TABLE rewritten.t ADD COLUMN a text[] DEFAULT ARRAY[current_setting('port'), 'a,"b', NULL];
    ALTER TABLE rewritten.t ADD COLUMN u uuid DEFAULT gen_random_uuid() UNIQUE, ADD COLUMN once text DEFAULT current_setting('port');
    ALTER TABLE ONLY rewritten.child ADD COLUMN s serial, ADD COLUMN at timestamptz DEFAULT clock_timestamp();
    ALTER TABLE rewritten.child ADD COLUMN i bigint GENERATED ALWAYS AS IDENTITY (INCREMENT 5);
    ALTER TABLE rewritten.t ALTER COLUMN n TYPE float USING n + random();
    ALTER TABLE rewritten.t ALTER COLUMN n TYPE text USING rewritten.here(n);
    ALTER TABLE rewritten.t ADD COLUMN p int DEFAULT rewritten.port(), ALTER COLUMN port TYPE bigint;
    ALTER TABLE rewritten.parted ADD COLUMN r float DEFAULT random(), ADD COLUMN p int DEFAULT rewritten.port();
    ALTER TABLE rewritten.parted ADD COLUMN only_once timestamptz DEFAULT statement_timestamp();
    ALTER TABLE rewritten.child ADD COLUMN c rewritten.checked DEFAULT 1 + random()::int;
    ALTER TABLE rewritten.scratch ADD COLUMN r float DEFAULT random();
    ALTER TABLE rewritten.t ADD COLUMN IF NOT EXISTS drawn int DEFAULT random();
    BEGIN; INSERT INTO rewritten.parted (id, at) VALUES (500, '2026-07-07'); ALTER TABLE rewritten.parted ADD COLUMN v float DEFAULT random();
    UPDATE rewritten.parted SET v = 7 WHERE id = 500;
"#;

#[test]
fn what_alter_table_gives_to_rows_is_the_same_everywhere() {
    CLUSTER.test(async |cluster| -> Result<()> {
        run(cluster, 0, TABLES).await?;
        let changes = CHANGES.split_once("BEGIN;").expect("a block");
        for (number, change) in changes.0.split(";\n").filter(|change| !change.trim().is_empty()).enumerate() {
            cluster.settle().await?;
            cluster.execute(number % 3, change).await?;
            for table in ["t", "child", "parted"] {
                let query = format!("SELECT count(*), md5(string_agg(t::text, ' ' ORDER BY t::text)) FROM rewritten.{table} AS t");
                same(cluster, &query).await?;
            }
        }
        let block = format!("BEGIN; {} SAVEPOINT s; ALTER TABLE rewritten.parted ALTER id TYPE bigint USING random() * 1000000; ROLLBACK TO s; COMMIT", changes.1);
        cluster.execute(1, &block).await?;
        let drawn = "SELECT count(*), count(DISTINCT drawn), count(DISTINCT u), count(DISTINCT port), count(DISTINCT n) FROM rewritten.t";
        assert_eq!(same(cluster, drawn).await?, "420|420|420|1|420");
        assert_eq!(same(cluster, "SELECT count(*), count(DISTINCT r), count(DISTINCT v) FROM rewritten.parted").await?, "101|101|101");
        assert_eq!(same(cluster, "SELECT max(s), max(i), max(c) <= 2 FROM rewritten.child").await?, "400|1996|t");

        // Columns that were never written have one value, and so has whoever comes next.
        let missing = "SELECT string_agg(attname || ' ' || attmissingval::text, ', ' ORDER BY attrelid::regclass::text, attname) FROM pg_attribute
            WHERE attrelid IN ('rewritten.parted_a'::regclass, 'rewritten.parted_b'::regclass) AND atthasmissing";
        same(cluster, missing).await?;
        let insert = async |node: usize| {
            let ids = format!("generate_series({0}, {0} + 99)", 2000 + 100 * node);
            let insert = format!("INSERT INTO rewritten.t (id) SELECT * FROM {ids}; INSERT INTO rewritten.child (id) SELECT * FROM {ids}");
            cluster.execute(node, &insert).await
        };
        tokio::try_join!(insert(0), insert(1), insert(2))?;
        let counters = "SELECT count(*), count(DISTINCT s), count(DISTINCT i) FROM rewritten.child";
        assert_eq!(same(cluster, counters).await?, "700|700|700");
        let by_index = "SET enable_seqscan = off; SELECT u FROM rewritten.t WHERE id = 77";
        assert_eq!(same(cluster, by_index).await?.lines().count(), 1);
        let verdict = cluster.verify().await?;
        assert_eq!(verdict.exit_code, 0, "{}", verdict.output);
        Ok(())
    });
}

#[test]
fn writers_on_other_nodes_see_a_rewrite_at_most_as_a_conflict() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let setup = "CREATE SCHEMA rewriting; CREATE TABLE rewriting.t (id serial PRIMARY KEY, node int);
            INSERT INTO rewriting.t (node) SELECT 0 FROM generate_series(1, 500)";
        cluster.execute(0, setup).await?;
        cluster.settle().await?;
        let write = async |node: usize| -> Result<()> {
            let session = cluster.connect(node).await?;
            for round in 0..30 {
                retry(&session, &format!("INSERT INTO rewriting.t (node) VALUES ({node}); UPDATE rewriting.t SET node = node + 1 WHERE id = {}", round + 1)).await?;
            }
            Ok(())
        };
        let alter = async |node: usize| -> Result<()> {
            let session = cluster.connect(node).await?;
            for round in 0..3 {
                retry(&session, &format!("ALTER TABLE rewriting.t ADD COLUMN c{node}_{round} float DEFAULT random()")).await?;
                retry(&session, &format!("ALTER TABLE rewriting.t ADD COLUMN d{node}_{round} timestamptz DEFAULT now()")).await?;
            }
            Ok(())
        };
        let all = async { tokio::try_join!(write(0), write(1), write(2), alter(1), alter(2)) };
        within(Duration::from_secs(180), "writing and altering", all).await?;
        let rows = same(cluster, "SELECT * FROM rewriting.t ORDER BY id").await?;
        assert_eq!(rows.lines().count(), 590);
        Ok(())
    });
}

#[test]
fn what_would_not_be_exact_is_refused() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let setup = "CREATE SCHEMA inexact; CREATE TABLE inexact.t (id int PRIMARY KEY, n int); INSERT INTO inexact.t VALUES (1, 1);
            CREATE TABLE inexact.child (id int REFERENCES inexact.t); INSERT INTO inexact.child VALUES (1);
            CREATE FUNCTION inexact.meddle(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
                EXECUTE 'INSERT INTO inexact.t (id, n, x) VALUES (' || n + 100 || ', 1, 0)'; RETURN n; END $$";
        cluster.execute(0, setup).await?;
        cluster.settle().await?;
        for (node, refused) in [
            (1, "ALTER TABLE inexact.t ALTER COLUMN id TYPE bigint USING id + (random() * 0)::int"),
            (2, "ALTER TABLE inexact.t ADD COLUMN x int DEFAULT inexact.meddle(1)"),
        ] {
            let session = cluster.connect(node).await?;
            let result = session.batch_execute(refused).await;
            assert_eq!(sqlstate(&result).as_deref(), Some("0A000"), "{refused}: {result:?}");
        }
        assert_eq!(same(cluster, "SELECT * FROM inexact.t").await?, "1|1");
        Ok(())
    });
}
