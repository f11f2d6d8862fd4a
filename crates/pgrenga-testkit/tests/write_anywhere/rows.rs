//! The promise: rows changed on any node, by whatever statement, are the same
//! on all nodes afterwards, and what was rolled back is on none.

use anyhow::Result;

use crate::CLUSTER;
use crate::everywhere::{NODES, ask, run, same};

/// Every kind of statement that changes rows, for a schema `$s`.
const CHANGES: &str = "
    CREATE SCHEMA $s; SET search_path = $s;
    CREATE TABLE plain (id int PRIMARY KEY, x text, doubled int GENERATED ALWAYS AS (id * 2) STORED);
    CREATE TABLE keyless (x numeric, y text);
    CREATE TABLE parted (id int, part int, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
    CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
    CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2);
    CREATE TABLE large (id int PRIMARY KEY, x text, n int);
    CREATE TABLE numbered (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz DEFAULT now(),
        random float8 DEFAULT random());

    INSERT INTO plain SELECT i, 'x' || i FROM generate_series(1, 500) AS i;
    UPDATE plain SET x = x || '!' WHERE id % 7 = 0;
    UPDATE plain SET id = id + 1000 WHERE id % 11 = 0;
    DELETE FROM plain WHERE id % 13 = 0;
    INSERT INTO plain VALUES (1, 'again'), (2000, 'new') ON CONFLICT (id) DO UPDATE SET x = excluded.x;
    INSERT INTO plain VALUES (1, 'never'), (2001, 'new') ON CONFLICT DO NOTHING;
    MERGE INTO plain USING (VALUES (3, 'merged'), (3000, 'merged')) AS m (id, x) ON plain.id = m.id
        WHEN MATCHED THEN UPDATE SET x = m.x WHEN NOT MATCHED THEN INSERT (id, x) VALUES (m.id, m.x);
    WITH gone AS (DELETE FROM plain WHERE id BETWEEN 20 AND 30 RETURNING id)
        INSERT INTO keyless SELECT id, 'gone' FROM gone;

    INSERT INTO keyless VALUES (1.0, 'a'), (1.00, 'b'), (1.0, 'a'), (NULL, NULL), (NULL, NULL);
    UPDATE keyless SET y = 'c' WHERE ctid = (SELECT min(ctid) FROM keyless WHERE y = 'a');
    DELETE FROM keyless WHERE ctid = (SELECT min(ctid) FROM keyless WHERE x IS NULL);

    INSERT INTO parted SELECT i, 1 + i % 2 FROM generate_series(1, 50) AS i;
    UPDATE parted SET part = 2 WHERE id < 10;
    DELETE FROM parted WHERE id = 17;

    INSERT INTO large SELECT i, string_agg(md5(i || '-' || j), ''), 0
        FROM generate_series(1, 5) AS i, generate_series(1, 2000) AS j GROUP BY i;
    UPDATE large SET n = n + 1;
    UPDATE large SET x = reverse(x) WHERE id = 2;

    INSERT INTO numbered SELECT FROM generate_series(1, 40);
    DO $$ BEGIN FOR i IN 1..20 LOOP UPDATE numbered SET random = random() WHERE id % 20 = i; END LOOP; END $$;
";

const TABLES: [&str; 5] = ["plain", "keyless", "parted", "large", "numbered"];

#[test]
fn every_kind_of_change_arrives_from_every_node() {
    CLUSTER.test(async |cluster| -> Result<()> {
        for node in 0..NODES {
            let schema = format!("kinds_{node}");
            run(cluster, node, &CHANGES.replace("$s", &schema)).await?;
            for table in TABLES {
                let rows = same(cluster, &format!("SELECT * FROM {schema}.{table} AS t ORDER BY t::text")).await?;
                assert!(rows.lines().count() >= 5, "{table}: {rows}");
            }
        }
        Ok(())
    });
}

#[test]
fn one_row_is_written_on_each_node_in_turn() {
    CLUSTER.test(async |cluster| -> Result<()> {
        cluster.execute(0, "CREATE SCHEMA turns; CREATE TABLE turns.t (id int PRIMARY KEY, trace text)").await?;
        cluster.settle().await?;
        cluster.execute(0, "INSERT INTO turns.t VALUES (1, '0')").await?;
        for step in 1..30 {
            cluster.settle().await?;
            let append = format!("UPDATE turns.t SET id = id + 1, trace = trace || '{}'", step % NODES);
            cluster.execute(step % NODES, &append).await?;
        }
        assert_eq!(same(cluster, "SELECT * FROM turns.t").await?, format!("30|{}", "012".repeat(10)));
        cluster.settle().await?;
        cluster.execute(1, "DELETE FROM turns.t").await?;
        assert_eq!(same(cluster, "SELECT * FROM turns.t").await?, "");
        Ok(())
    });
}

#[test]
fn copy_and_truncate_arrive_from_every_node() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let create = "CREATE SCHEMA bulk; SET search_path = bulk;
            CREATE TABLE t (id int PRIMARY KEY, n bigint GENERATED ALWAYS AS IDENTITY);
            CREATE TABLE child (id int REFERENCES t)";
        cluster.execute(0, create).await?;
        for node in 0..NODES {
            cluster.settle().await?;
            let copy = "COPY bulk.t (id) FROM PROGRAM 'seq 1 5000'; INSERT INTO bulk.child SELECT id FROM bulk.t";
            cluster.execute(node, copy).await?;
            let copied = same(cluster, "SELECT count(*), count(DISTINCT n), sum(id), sum(n) FROM bulk.t").await?;
            assert!(copied.starts_with("5000|5000|12502500|"), "{copied}");
            cluster.execute(node, "TRUNCATE bulk.t CASCADE").await?;
            let both = "SELECT (SELECT count(*) FROM bulk.t), (SELECT count(*) FROM bulk.child)";
            assert_eq!(same(cluster, both).await?, "0|0");
        }
        let mixed = "BEGIN; INSERT INTO bulk.t (id) VALUES (1); TRUNCATE bulk.t RESTART IDENTITY CASCADE;
            INSERT INTO bulk.t (id) VALUES (2); COMMIT";
        cluster.execute(1, mixed).await?;
        assert_eq!(same(cluster, "SELECT id FROM bulk.t").await?, "2");
        cluster.execute(2, "BEGIN; TRUNCATE bulk.t CASCADE; INSERT INTO bulk.t (id) VALUES (3); ROLLBACK").await?;
        assert_eq!(same(cluster, "SELECT id FROM bulk.t").await?, "2");
        Ok(())
    });
}

#[test]
fn what_was_rolled_back_is_nowhere() {
    CLUSTER.test(async |cluster| -> Result<()> {
        cluster.execute(0, "CREATE SCHEMA parts; CREATE TABLE parts.t (id int PRIMARY KEY, x text)").await?;
        for node in 0..NODES {
            cluster.settle().await?;
            let savepoints = "
                BEGIN; INSERT INTO parts.t VALUES (1, 'kept');
                SAVEPOINT a; INSERT INTO parts.t VALUES (2, 'gone'); UPDATE parts.t SET x = 'gone';
                SAVEPOINT b; INSERT INTO parts.t VALUES (3, 'gone'); RELEASE b; ROLLBACK TO a;
                INSERT INTO parts.t VALUES (4, 'kept');
                SAVEPOINT c; CREATE TABLE parts.gone (); DELETE FROM parts.t; ROLLBACK TO c;
                SAVEPOINT d; SAVEPOINT e; INSERT INTO parts.t VALUES (5, 'kept'); RELEASE d; COMMIT;
                DO $$ BEGIN
                    INSERT INTO parts.t VALUES (6, 'kept');
                    BEGIN
                        INSERT INTO parts.t VALUES (7, 'gone');
                        INSERT INTO parts.t VALUES (6, 'duplicate');
                    EXCEPTION WHEN unique_violation THEN INSERT INTO parts.t VALUES (8, 'kept');
                    END;
                END $$;
                BEGIN; UPDATE parts.t SET x = 'gone'; ROLLBACK";
            run(cluster, node, savepoints).await?;
            cluster.execute(node, "BEGIN; DELETE FROM parts.t; SELECT 1 / 0; COMMIT").await.expect_err("1 / 0");
            let kept = "1|kept\n4|kept\n5|kept\n6|kept\n8|kept";
            assert_eq!(same(cluster, "SELECT * FROM parts.t ORDER BY id").await?, kept);
            assert_eq!(same(cluster, "SELECT to_regclass('parts.gone')").await?, "NULL");
            cluster.execute(node, "DELETE FROM parts.t").await?;
        }
        Ok(())
    });
}

#[test]
fn temporary_tables_are_local_and_need_no_order() {
    CLUSTER.test(async |cluster| -> Result<()> {
        cluster.execute(0, "CREATE SCHEMA temporary; CREATE TABLE temporary.t (id int PRIMARY KEY)").await?;
        cluster.settle().await?;
        let session = cluster.connect(1).await?;
        let before = ask(&session, "SELECT pgrenga.visible()").await?;
        let temporary = "CREATE TEMPORARY TABLE mine (id int PRIMARY KEY); INSERT INTO mine SELECT generate_series(1, 9);
            CREATE INDEX ON mine (id); ALTER TABLE mine ADD COLUMN x text; UPDATE mine SET x = id; DELETE FROM mine WHERE id = 1;
            CREATE TEMPORARY TABLE copy AS SELECT * FROM mine; TRUNCATE copy; DROP TABLE copy";
        session.batch_execute(temporary).await?;
        assert_eq!(ask(&session, "SELECT pgrenga.visible()").await?, before);
        session.batch_execute("INSERT INTO temporary.t SELECT id FROM mine").await?;
        assert_eq!(same(cluster, "SELECT count(*) FROM temporary.t").await?, "8");
        for node in [0, 2] {
            let session = cluster.connect(node).await?;
            assert_eq!(ask(&session, "SELECT count(*) FROM pg_class WHERE relname = 'mine'").await?, "0");
        }
        Ok(())
    });
}
