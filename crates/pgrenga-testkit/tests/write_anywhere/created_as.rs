//! The promise: a table made of a query's result has the same definition and the
//! same rows on all nodes, whatever the query could see or draw on the one that ran it.

use anyhow::Result;
use tokio_postgres::error::SqlState;

use crate::CLUSTER;
use crate::everywhere::{NODES, run, same};

const SOURCES: &str = r#"
    CREATE SCHEMA made;
    CREATE TYPE made.mood AS ENUM ('sad', 'happy');
    CREATE DOMAIN made.short AS varchar(10) CHECK (length(VALUE) > 1);
    CREATE TABLE made."from" (id int PRIMARY KEY, t text COLLATE "C", n numeric(10, 2), v varchar(7), b bit(3),
        m made.mood, ms made.mood[], s made.short, c char(5), i interval day to second(3), big text);
    INSERT INTO made."from" SELECT i, 'text ' || i, i, 'v' || i, B'101', 'happy', '{sad,happy}', 'short', 'c', '1 day',
        CASE WHEN i < 4 THEN (SELECT string_agg(md5((i * n)::text), '') FROM generate_series(1, 3000) AS n) END
        FROM generate_series(1, 300) AS i;
    CREATE TABLE made.log (id serial PRIMARY KEY, t text);
    CREATE FUNCTION made.draw(x int) RETURNS float LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO made.log (t) VALUES ('drew ' || x); RETURN random(); END $$;
"#;

/// Each makes table made.`$t` out of what only this session has, or nobody could repeat.
const CREATIONS: [&str; 15] = [
    r#"CREATE TABLE made.$t AS SELECT *, random() AS r, clock_timestamp() AS at, gen_random_uuid() AS u FROM made."from""#,
    r#"SELECT ctid::text AS c, xmin::text AS x, t || 'é' AS "Odd ""name""", t COLLATE "POSIX" AS p INTO made.$t FROM made."from""#,
    r#"CREATE TABLE made.$t (a, "B c") WITH (fillfactor = 70, autovacuum_enabled = off, toast.autovacuum_enabled = false)
        AS SELECT big, ARRAY[n, n] FROM made."from""#,
    "CREATE UNLOGGED TABLE made.$t AS SELECT 1 AS x",
    "CREATE TABLE made.$t AS SELECT",
    r#"CREATE TABLE made.$t AS SELECT n * 2 AS n, v || '' AS v, 'x' AS unknown, NULL AS nothing, m, s, f FROM made."from" AS f WITH NO DATA"#,
    "CREATE TABLE IF NOT EXISTS made.$t AS SELECT made.draw(g) FROM generate_series(1, 10) AS g",
    "DO $$ DECLARE v int := 7; w text := pg_backend_pid(); BEGIN CREATE TABLE made.$t AS SELECT v * g AS x, w AS w FROM generate_series(1, v) AS g; END $$",
    "DO $$ BEGIN EXECUTE format('CREATE TABLE made.%I AS SELECT pg_backend_pid() AS %I', '$t', 'a b'); END $$",
    "PREPARE p(int) AS SELECT $1 AS x, random() AS r; CREATE TABLE made.$t AS EXECUTE p(3); DEALLOCATE p",
    "PREPARE p(int) AS SELECT $1 AS x, random() AS r; CREATE TABLE made.$t AS EXECUTE p(3) WITH NO DATA; DEALLOCATE p",
    "CREATE TEMPORARY TABLE only_here AS SELECT random() AS r FROM generate_series(1, 20); CREATE TABLE made.$t AS TABLE only_here; DROP TABLE only_here",
    "EXPLAIN (ANALYZE) CREATE TABLE made.$t AS SELECT random() AS r FROM generate_series(1, 20)",
    "SET search_path = made; CREATE TABLE $t AS VALUES ('sad'::mood, 1), ('happy', 2); RESET search_path",
    r#"BEGIN; INSERT INTO made."from" (id) VALUES (-1); SAVEPOINT a; CREATE TABLE made.$t AS SELECT 1 AS x; ROLLBACK TO a;
        CREATE TABLE made.$t AS SELECT id, random() AS r FROM made."from"; ALTER TABLE made.$t ADD PRIMARY KEY (id);
        UPDATE made.$t SET r = random() WHERE id < 10; ALTER TABLE made.$t RENAME TO other; ALTER TABLE made.other RENAME TO $t;
        DELETE FROM made."from" WHERE id = -1; COMMIT"#,
];

#[test]
fn tables_made_of_queries_are_the_same_everywhere() {
    CLUSTER.test(async |cluster| -> Result<()> {
        run(cluster, 0, SOURCES).await?;
        for (number, creation) in CREATIONS.iter().enumerate() {
            cluster.settle().await?;
            let table = format!("t{number}");
            cluster.execute(number % NODES, &creation.replace("$t", &table)).await?;
            if !creation.contains("UNLOGGED") {
                same(cluster, &format!("SELECT * FROM made.{table} AS t ORDER BY t::text")).await?;
            }
        }
        let counts = same(
            cluster,
            "SELECT (SELECT count(*) FROM made.t0), (SELECT count(DISTINCT r) FROM made.t0), (SELECT count(*) FROM made.t4),
                (SELECT count(*) FROM made.t5), (SELECT count(*) FROM made.t6), (SELECT count(*) FROM made.log),
                (SELECT string_agg(x::text, ',') FROM made.t7), (SELECT count(DISTINCT r) FROM made.t11)",
        );
        assert_eq!(counts.await?, "300|300|1|0|10|10|7,14,21,28,35,42,49|20");
        let types = "SELECT string_agg(format_type(atttypid, atttypmod) || ' ' || attcollation::regcollation, ', ' ORDER BY attnum)
            FROM pg_attribute WHERE attrelid = 'made.t0'::regclass AND attnum > 0";
        assert!(same(cluster, types).await?.contains(r#"text "C", numeric(10,2) -, character varying(7) "default", bit(3) -"#));
        let options = "SELECT c.reloptions, t.reloptions FROM pg_class c JOIN pg_class t ON t.oid = c.reltoastrelid
            WHERE c.oid = 'made.t2'::regclass";
        let expected = "{fillfactor=70,autovacuum_enabled=off}|{autovacuum_enabled=false}";
        assert_eq!(same(cluster, options).await?, expected);
        let unlogged = "SELECT relpersistence FROM pg_class WHERE oid = 'made.t3'::regclass";
        assert_eq!(same(cluster, unlogged).await?, "u");

        // There it is already: nothing happens.
        cluster.execute(1, "CREATE TABLE IF NOT EXISTS made.t0 AS SELECT made.draw(1)").await?;
        assert_eq!(same(cluster, "SELECT (SELECT count(*) FROM made.t0), (SELECT count(*) FROM made.log)").await?, "300|10");
        let verdict = cluster.verify().await?;
        assert_eq!(verdict.exit_code, 0, "{}", verdict.output);
        Ok(())
    });
}

#[test]
fn one_name_is_made_once_however_many_nodes_try() {
    CLUSTER.test(async |cluster| -> Result<()> {
        cluster.execute(0, "CREATE SCHEMA made_once").await?;
        cluster.settle().await?;
        let create = async |node: usize| {
            let session = cluster.connect(node).await?;
            let made = session
                .batch_execute(&format!(
                    "CREATE TABLE made_once.t AS SELECT {node} AS node FROM generate_series(1, 1000)"
                ))
                .await;
            anyhow::Ok(match made {
                Ok(()) => true,
                Err(error) => {
                    assert_eq!(error.code(), Some(&SqlState::DUPLICATE_TABLE), "{error:?}");
                    false
                }
            })
        };
        let (a, b, c) = tokio::try_join!(create(0), create(1), create(2))?;
        assert_eq!([a, b, c].iter().filter(|made| **made).count(), 1, "{a} {b} {c}");
        let winner = [a, b, c].iter().position(|made| *made).unwrap_or_default();
        assert_eq!(
            same(cluster, "SELECT count(*), min(node), max(node) FROM made_once.t").await?,
            format!("1000|{winner}|{winner}")
        );
        Ok(())
    });
}
