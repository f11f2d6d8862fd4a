//! The promise: what belongs to a session alone works as on any PostgreSQL, beside and within transactions that are
//! replicated, and no other node hears of it.

use crate::CLUSTER;
use crate::everywhere::{ask, run, same, sqlstate};
use anyhow::{Context as _, Result, ensure};

/// The session's last transaction that took a place in the order.
const OWN_COMMIT: &str = "SHOW pgrenga.commit_seq";

#[test]
fn temporary_tables_are_the_session_s_own() {
    CLUSTER.test(async |cluster| -> Result<()> {
        run(cluster, 0, "CREATE SCHEMA mine; CREATE TABLE mine.t (id serial PRIMARY KEY, x int)").await?;
        cluster.settle().await?;
        let session = cluster.connect(1).await?;
        let before = ask(&session, OWN_COMMIT).await?;
        for sql in [
            "CREATE TEMPORARY TABLE kept (id serial PRIMARY KEY, x int UNIQUE)",
            "CREATE INDEX ON kept (x); INSERT INTO kept (x) SELECT generate_series(1, 100); ANALYZE kept",
            "UPDATE kept SET x = -x WHERE x > 50; DELETE FROM kept WHERE x = 1; ALTER TABLE kept ADD COLUMN y float DEFAULT random()",
            "CREATE TEMPORARY TABLE made AS SELECT * FROM kept; SELECT * INTO TEMPORARY made_too FROM made",
            "CREATE TEMPORARY VIEW seen AS SELECT count(*) AS n FROM kept; CREATE TEMPORARY SEQUENCE counted",
            "TRUNCATE made; DROP TABLE made_too; SELECT nextval('counted')",
            "CREATE FUNCTION pg_temp.twice(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2'; SELECT pg_temp.twice(2)",
        ] {
            session.batch_execute(sql).await.context(sql)?;
        }
        ensure!(ask(&session, OWN_COMMIT).await? == before, "temporary objects took a place in the order");

        // Within transactions that are replicated.
        session
            .batch_execute(
                "BEGIN; CREATE TEMPORARY TABLE emptied (x int) ON COMMIT DELETE ROWS;
                CREATE TEMPORARY TABLE dropped ON COMMIT DROP AS SELECT 7 AS x;
                INSERT INTO emptied SELECT x FROM kept WHERE x > 0; INSERT INTO mine.t (x) SELECT x FROM emptied;
                SAVEPOINT s; INSERT INTO emptied VALUES (1000); ROLLBACK TO s;
                INSERT INTO mine.t (x) SELECT x FROM dropped; UPDATE kept SET x = mine.t.id + 1000 FROM mine.t WHERE mine.t.x = kept.x;
                COMMIT",
            )
            .await?;
        ensure!(ask(&session, "SELECT count(*) FROM emptied; SELECT n FROM seen").await? == "0\n99");
        ensure!(ask(&session, "SELECT to_regclass('dropped') IS NULL").await? == "t");
        ensure!(same(cluster, "SELECT count(*), sum(x) FROM mine.t").await? == format!("50|{}", (2..=50).sum::<i32>() + 7));
        let elsewhere = "SELECT count(*) FROM pg_class WHERE relname IN ('kept', 'made', 'emptied', 'counted')
            AND relnamespace::regnamespace::text ~ '^(public|pg_temp.*)$'";
        let found = cluster.ask_all(elsewhere).await?;
        ensure!(found == ["(0)", "(4)", "(0)"], "{found:?}");

        session.batch_execute("DISCARD ALL").await?;
        ensure!(ask(&session, "SELECT to_regclass('kept') IS NULL").await? == "t");
        let verdict = cluster.verify().await?;
        ensure!(verdict.exit_code == 0, "{}", verdict.output);
        Ok(())
    });
}

#[test]
fn advisory_locks_are_the_node_s_own() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let try_lock = "SELECT pg_try_advisory_lock(4711)";
        let holder = cluster.connect(0).await?;
        ensure!(ask(&holder, try_lock).await? == "t");
        ensure!(ask(&cluster.connect(0).await?, try_lock).await? == "f");
        ensure!(ask(&cluster.connect(1).await?, try_lock).await? == "t");
        ensure!(ask(&holder, "SELECT pg_advisory_unlock(4711)").await? == "t");
        ensure!(ask(&cluster.connect(0).await?, try_lock).await? == "t");

        // One of a transaction ends with it, whether that is replicated or not.
        run(cluster, 0, "CREATE SCHEMA locked; CREATE TABLE locked.t (x int)").await?;
        for end in ["COMMIT", "ROLLBACK"] {
            let begin = "BEGIN; SELECT pg_advisory_xact_lock(1, 2); INSERT INTO locked.t VALUES (1)";
            holder.batch_execute(begin).await?;
            let other = cluster.connect(0).await?;
            ensure!(ask(&other, "SELECT pg_try_advisory_xact_lock(1, 2)").await? == "f");
            holder.batch_execute(end).await?;
            ensure!(ask(&other, "SELECT pg_try_advisory_xact_lock(1, 2)").await? == "t");
        }
        ensure!(same(cluster, "SELECT count(*) FROM locked.t").await? == "1");
        Ok(())
    });
}

#[test]
fn cursors_outlive_the_commit() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let preparation = "CREATE SCHEMA held; CREATE TABLE held.t (x int);
            CREATE FUNCTION held.put(x int) RETURNS int LANGUAGE plpgsql AS
                $$ BEGIN INSERT INTO held.t VALUES (x); RETURN x; END $$";
        cluster.execute(0, preparation).await?;
        cluster.settle().await?;
        let session = cluster.connect(1).await?;
        let begin = "BEGIN; INSERT INTO held.t VALUES (0); DECLARE plain CURSOR FOR SELECT 1;
            DECLARE held NO SCROLL CURSOR WITH HOLD FOR SELECT held.put(i) FROM generate_series(1, 10) AS i; FETCH 3 FROM held;
            DECLARE kept CURSOR WITH HOLD FOR SELECT x FROM held.t; COMMIT";
        session.batch_execute(begin).await?;
        // What the rest of the query wrote when the commit fetched it is part of the transaction.
        ensure!(same(cluster, "SELECT count(*), sum(x) FROM held.t").await? == "11|55");
        ensure!(ask(&session, "FETCH 2 FROM held; MOVE 3 FROM held; FETCH ALL FROM held").await? == "4\n5\n9\n10");
        session.batch_execute("DELETE FROM held.t WHERE x > 5").await?;
        ensure!(ask(&session, "FETCH ALL FROM kept").await?.lines().count() >= 4);
        ensure!(sqlstate(&session.batch_execute("FETCH plain").await).as_deref() == Some("34000"));
        session.batch_execute("CLOSE held; CLOSE kept").await?;
        ensure!(same(cluster, "SELECT count(*) FROM held.t").await? == "6");
        Ok(())
    });
}

#[test]
fn prepared_statements_outlive_definitions() {
    CLUSTER.test(async |cluster| -> Result<()> {
        cluster.execute(0, "CREATE SCHEMA prepared; CREATE TABLE prepared.t (id int PRIMARY KEY, x text)").await?;
        cluster.settle().await?;
        let session = cluster.connect(1).await?;
        let insert = session.prepare("INSERT INTO prepared.t VALUES ($1, $2) RETURNING x").await?;
        session.batch_execute("PREPARE change(int) AS UPDATE prepared.t SET x = x || '!' WHERE id = $1").await?;
        for id in 0..20 {
            session.execute(&insert, &[&id, &"one"]).await?;
            session.batch_execute(&format!("EXECUTE change({id})")).await?;
        }
        // Another node changes the table under them.
        cluster.settle().await?;
        cluster.execute(2, "ALTER TABLE prepared.t ADD COLUMN y int DEFAULT 5; CREATE INDEX ON prepared.t (x)").await?;
        cluster.settle().await?;
        for id in 20..40 {
            session.execute(&insert, &[&id, &"two"]).await?;
            session.batch_execute(&format!("EXECUTE change({id})")).await?;
        }
        session.batch_execute("DEALLOCATE change").await?;
        let counts = "SELECT x, y, count(*) FROM prepared.t GROUP BY 1, 2 ORDER BY 1";
        ensure!(same(cluster, counts).await? == "one!|5|20\ntwo!|5|20");
        Ok(())
    });
}
