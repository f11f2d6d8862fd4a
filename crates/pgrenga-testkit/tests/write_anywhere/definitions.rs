//! The promise: everyday definitions made on any node, also in transaction
//! blocks together with rows, are the same on all nodes.

use anyhow::Result;

use crate::CLUSTER;
use crate::everywhere::{NODES, run, same};

const DEFINITIONS: &str = r#"
    CREATE ROLE $s_owner; CREATE ROLE $s_reader NOLOGIN IN ROLE $s_owner;
    CREATE SCHEMA $s AUTHORIZATION $s_owner;
    SET search_path = $s;
    CREATE TYPE mood AS ENUM ('sad', 'happy');
    CREATE TYPE pair AS (a int, b text);
    CREATE TYPE span AS RANGE (subtype = int);
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE SEQUENCE tickets START 100;
    CREATE FUNCTION twice(x int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
    CREATE PROCEDURE nothing() LANGUAGE plpgsql AS $$ BEGIN NULL; END $$;
    CREATE TABLE parent (id serial PRIMARY KEY, m mood NOT NULL DEFAULT 'sad', p pair, r span, at timestamptz DEFAULT now());
    CREATE TABLE "Quoted name" (
        id positive PRIMARY KEY,
        parent int NOT NULL REFERENCES parent ON DELETE CASCADE,
        n int CHECK (n < 1000),
        e int UNIQUE DEFERRABLE INITIALLY DEFERRED,
        twice int GENERATED ALWAYS AS (n * 2) STORED);
    CREATE TABLE parted (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE parted_2026 PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    CREATE TABLE parted_rest PARTITION OF parted DEFAULT;
    CREATE UNLOGGED TABLE scratch (x int);
    CREATE UNIQUE INDEX by_n ON "Quoted name" (twice(n)) WHERE n > 10;
    CREATE INDEX ON parent (m, at DESC);
    CREATE VIEW moods AS SELECT m, count(*) FROM parent GROUP BY m;
    CREATE RULE silent AS ON DELETE TO parted_rest WHERE OLD.id = -1 DO INSTEAD NOTHING;
    CREATE STATISTICS both_columns ON m, at FROM parent;
    ALTER TABLE parent ENABLE ROW LEVEL SECURITY;
    CREATE POLICY visible ON parent FOR SELECT TO $s_reader USING (id > 0);
    GRANT USAGE ON SCHEMA $s TO $s_reader; GRANT SELECT, INSERT (id) ON parent TO $s_reader;
    ALTER DEFAULT PRIVILEGES IN SCHEMA $s GRANT SELECT ON TABLES TO $s_reader;
    COMMENT ON TABLE parent IS 'everybody''s';
    INSERT INTO parent (m, p, r) SELECT 'happy', (i, 'b')::pair, span(i, i + 2) FROM generate_series(1, 20) AS i;
    INSERT INTO "Quoted name" (id, parent, n, e) SELECT id, id, id, id FROM parent;
    INSERT INTO parted VALUES (1, '2026-05-05'), (2, '2020-01-01');
"#;

const CHANGES: &str = r#"
    SET search_path = $s;
    BEGIN;
    INSERT INTO parent DEFAULT VALUES;
    ALTER TABLE parent ADD COLUMN note text NOT NULL DEFAULT 'none', ADD COLUMN size bigint;
    UPDATE parent SET size = id * 10, note = 'gone';
    ALTER TABLE parent ALTER COLUMN size SET NOT NULL, ALTER COLUMN size SET DEFAULT 5;
    ROLLBACK;
    BEGIN;
    INSERT INTO parent DEFAULT VALUES;
    ALTER TABLE parent ADD COLUMN note text NOT NULL DEFAULT 'none', ADD COLUMN size bigint;
    UPDATE parent SET size = id * 10, note = 'seen';
    ALTER TABLE parent ALTER COLUMN size SET NOT NULL, ALTER COLUMN size SET DEFAULT 5;
    INSERT INTO parent (id, note) VALUES (5000, 'after');
    CREATE TABLE born (id int PRIMARY KEY, parent int REFERENCES parent);
    INSERT INTO born SELECT id, id FROM parent;
    ALTER TABLE born RENAME TO grown; ALTER TABLE grown RENAME COLUMN parent TO of;
    INSERT INTO grown (id, of) VALUES (100001, 5000);
    ALTER TABLE grown ALTER COLUMN id TYPE bigint;
    UPDATE grown SET id = id + 1 WHERE id = 100001;
    SAVEPOINT s; DROP TABLE grown; ROLLBACK TO s;
    COMMIT;
    ALTER TABLE "Quoted name" ADD CONSTRAINT small CHECK (n < 500), DROP CONSTRAINT "Quoted name_n_check";
    ALTER TABLE "Quoted name" ALTER COLUMN e TYPE bigint;
    ALTER TABLE "Quoted name" DROP COLUMN e;
    UPDATE "Quoted name" SET n = n + 100;
    ALTER TYPE mood ADD VALUE 'calm' BEFORE 'happy';
    INSERT INTO parent (id, m) VALUES (6000, 'calm');
    ALTER TYPE mood RENAME VALUE 'sad' TO 'blue';
    ALTER DOMAIN positive DROP CONSTRAINT positive_check;
    INSERT INTO "Quoted name" VALUES (-1, 6000, 1);
    CREATE OR REPLACE VIEW moods AS SELECT m, count(*), max(id) AS last FROM parent GROUP BY m;
    ALTER FUNCTION twice(int) RENAME TO doubled;
    ALTER INDEX by_n RENAME TO by_doubled;
    CREATE TABLE parted_2027 PARTITION OF parted FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');
    INSERT INTO parted VALUES (3, '2027-02-02');
    ALTER TABLE parted DETACH PARTITION parted_2026;
    UPDATE parted_2026 SET id = 11;
    ALTER TABLE parted ATTACH PARTITION parted_2026 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    UPDATE parted SET at = '2027-03-03' WHERE id = 11;
    ALTER SEQUENCE tickets INCREMENT 5;
    ALTER SCHEMA $s RENAME TO $s_renamed;
    ALTER TABLE $s_renamed.parent OWNER TO $s_owner;
    REVOKE INSERT (id) ON $s_renamed.parent FROM $s_reader;
    ALTER ROLE $s_reader SET work_mem = '8MB';
    INSERT INTO $s_renamed.grown VALUES (7000, 6000);
"#;

#[test]
fn everyday_definitions_are_the_same_everywhere() {
    CLUSTER.test(async |cluster| -> Result<()> {
        for node in 0..NODES {
            let schema = format!("defined_{node}");
            // Made on one node, changed on the next one.
            run(cluster, node, &DEFINITIONS.replace("$s", &schema)).await?;
            cluster.settle().await?;
            run(cluster, (node + 1) % NODES, &CHANGES.replace("$s", &schema)).await?;
            for table in ["parent", "\"Quoted name\"", "grown", "parted", "moods"] {
                let rows =
                    same(cluster, &format!("SELECT * FROM {schema}_renamed.{table} AS t ORDER BY t::text")).await?;
                assert!(rows.lines().count() >= 3, "{table}: {rows}");
            }
            let parent = format!("SELECT count(*), count(DISTINCT note) FROM {schema}_renamed.parent");
            assert_eq!(same(cluster, &parent).await?, "23|3");
        }
        let verdict = cluster.verify().await?;
        assert_eq!(verdict.exit_code, 0, "{}", verdict.output);

        for node in 0..NODES {
            cluster.settle().await?;
            let drop =
                "DROP SCHEMA $s_renamed CASCADE; DROP OWNED BY $s_owner, $s_reader; DROP ROLE $s_reader, $s_owner";
            run(cluster, (node + 2) % NODES, &drop.replace("$s", &format!("defined_{node}"))).await?;
        }
        assert_eq!(same(cluster, "SELECT count(*) FROM pg_roles WHERE rolname ~ '^defined'").await?, "0");
        let verdict = cluster.verify().await?;
        assert_eq!(verdict.exit_code, 0, "{}", verdict.output);
        Ok(())
    });
}
