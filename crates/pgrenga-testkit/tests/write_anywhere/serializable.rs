//! The promise: SERIALIZABLE transactions that write, on whichever nodes, have the outcome of some order in which they
//! run one after the other.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pgrenga_testkit::cluster::Cluster;

use crate::CLUSTER;
use crate::everywhere::{NODES, ask, run, said, same, sqlstate, within};

const PATIENCE: Duration = Duration::from_secs(60);

/// Lets two transactions read, then write, then commit, each on its node. Returns their SQLSTATEs, none for a commit.
async fn cross(
    cluster: &Cluster,
    level: &str,
    nodes: [usize; 2],
    read: [&str; 2],
    write: [&str; 2],
) -> Result<[Option<String>; 2]> {
    cluster.settle().await?;
    let sessions = [cluster.connect(nodes[0]).await?, cluster.connect(nodes[1]).await?];
    for (session, read) in sessions.iter().zip(read) {
        session
            .batch_execute(&format!("BEGIN ISOLATION LEVEL {level}; {read}"))
            .await
            .with_context(|| read.to_owned())?;
    }
    let mut ends = [None, None];
    for ((session, write), end) in sessions.iter().zip(write).zip(&mut ends) {
        *end = sqlstate(&session.batch_execute(write).await);
    }
    for (session, end) in sessions.iter().zip(&mut ends) {
        if end.is_none() {
            *end = sqlstate(&session.batch_execute("COMMIT").await);
        }
    }
    Ok(ends)
}

/// Exactly one of them committed; the other one is told to try again.
fn one_of(ends: &[Option<String>; 2]) -> bool {
    matches!(ends, [None, Some(code)] | [Some(code), None] if code == "40001")
}

const BOTH: [Option<String>; 2] = [None, None];
/// Two nodes, and one alone.
const PLACES: [[usize; 2]; 3] = [[0, 1], [2, 0], [1, 1]];

#[test]
fn write_skew_happens_at_repeatable_read_and_not_at_serializable() {
    CLUSTER.test(async |cluster| -> Result<()> {
        run(cluster, 0, "CREATE SCHEMA skew; CREATE TABLE skew.duty (id int PRIMARY KEY, on_call bool)").await?;
        let read = ["SELECT count(*) FROM skew.duty WHERE on_call"; 2];
        let write =
            ["UPDATE skew.duty SET on_call = false WHERE id = 1", "UPDATE skew.duty SET on_call = false WHERE id = 2"];
        for (round, nodes) in PLACES.into_iter().enumerate() {
            for (level, how) in
                [("REPEATABLE READ", ""), ("SERIALIZABLE", ""), ("SERIALIZABLE", "SET LOCAL enable_seqscan = off;")]
            {
                run(cluster, round, "DELETE FROM skew.duty; INSERT INTO skew.duty VALUES (1, true), (2, true)").await?;
                let read = read.map(|read| format!("{how} {read}"));
                let ends = cross(cluster, level, nodes, [&read[0], &read[1]], write).await?;
                let left = same(cluster, read[0].rsplit(';').next().unwrap_or_default()).await?;
                match level {
                    "SERIALIZABLE" => ensure!(one_of(&ends) && left == "1", "{nodes:?}: {ends:?}, {left} on call"),
                    _ => ensure!(ends == BOTH && left == "0", "{nodes:?}: no anomaly: {ends:?}, {left} on call"),
                }
            }
        }
        Ok(())
    });
}

#[test]
fn what_was_not_there_may_not_have_come() {
    CLUSTER.test(async |cluster| -> Result<()> {
        run(
            cluster,
            0,
            "CREATE SCHEMA phantom; CREATE TABLE phantom.t (id int PRIMARY KEY, kind int, n int);
             CREATE INDEX ON phantom.t (kind); CREATE UNIQUE INDEX one_n ON phantom.t (n);
             INSERT INTO phantom.t SELECT i, 0, i FROM generate_series(1000, 3000) AS i",
        )
        .await?;
        run(cluster, 0, "ANALYZE phantom.t").await?;
        // What each has looked for, and how each makes the other's answer untrue.
        let pairs = [
            (
                ["SELECT count(*) FROM phantom.t WHERE kind = 1", "SELECT count(*) FROM phantom.t WHERE kind = 2"],
                ["INSERT INTO phantom.t VALUES (1, 2, 1)", "INSERT INTO phantom.t VALUES (2, 1, 2)"],
            ),
            (
                ["SELECT FROM phantom.t WHERE id = 3", "SELECT FROM phantom.t WHERE id = 4"],
                ["INSERT INTO phantom.t VALUES (4, 0, 4)", "INSERT INTO phantom.t VALUES (3, 0, 3)"],
            ),
            (
                ["SELECT FROM phantom.t WHERE n = 5", "SELECT FROM phantom.t WHERE n = 6"],
                ["UPDATE phantom.t SET n = 6 WHERE id = 1001", "UPDATE phantom.t SET n = 5 WHERE id = 1002"],
            ),
            (
                [
                    "SELECT FROM phantom.t WHERE id BETWEEN 10 AND 20",
                    "SELECT FROM phantom.t WHERE id BETWEEN 30 AND 40",
                ],
                ["INSERT INTO phantom.t VALUES (35, 0, 35)", "INSERT INTO phantom.t VALUES (15, 0, 15)"],
            ),
            (
                ["SELECT FROM phantom.t WHERE id = 1010", "SELECT FROM phantom.t WHERE id = 1011"],
                ["DELETE FROM phantom.t WHERE id = 1011", "DELETE FROM phantom.t WHERE id = 1010"],
            ),
            (
                ["SELECT max(id) FROM phantom.t", "SELECT min(id) FROM phantom.t"],
                ["INSERT INTO phantom.t VALUES (500, 0, 500)", "INSERT INTO phantom.t VALUES (5000, 0, 5000)"],
            ),
        ];
        for (nodes, (read, write)) in PLACES.into_iter().cycle().zip(pairs) {
            let ends = cross(cluster, "SERIALIZABLE", nodes, read, write).await?;
            ensure!(one_of(&ends), "{nodes:?} {read:?} {write:?}: {ends:?}");
        }
        let count = same(cluster, "SELECT count(*), sum(id), sum(n) FROM phantom.t").await?;
        ensure!(!count.is_empty());
        Ok(())
    });
}

#[test]
fn who_reads_something_else_is_in_nobodys_way() {
    CLUSTER.test(async |cluster| -> Result<()> {
        run(
            cluster,
            0,
            "CREATE SCHEMA beside; CREATE TABLE beside.a (id int PRIMARY KEY, n int); CREATE TABLE beside.b (id int PRIMARY KEY, n int);
             CREATE TABLE beside.log (id text PRIMARY KEY, what text);
             CREATE TABLE beside.child (id int PRIMARY KEY, a int REFERENCES beside.a);
             INSERT INTO beside.a SELECT i, 0 FROM generate_series(1, 2000) AS i; INSERT INTO beside.b SELECT * FROM beside.a",
        )
        .await?;
        run(cluster, 0, "ANALYZE beside.a; ANALYZE beside.b").await?;
        let pairs = [
            // Different tables, whole.
            (
                ["SELECT sum(n) FROM beside.a", "SELECT sum(n) FROM beside.b"],
                ["UPDATE beside.a SET n = n + 1 WHERE id = 1", "UPDATE beside.b SET n = n + 1 WHERE id = 1"],
            ),
            // The same table, by different keys.
            (
                ["SELECT n FROM beside.a WHERE id = 1", "SELECT n FROM beside.a WHERE id = 2"],
                ["UPDATE beside.a SET n = n + 1 WHERE id = 1", "UPDATE beside.a SET n = n + 1 WHERE id = 2"],
            ),
            // A key that is not there, beside others.
            (
                ["SELECT n FROM beside.a WHERE id = 5000", "SELECT n FROM beside.a WHERE id = 6000"],
                ["INSERT INTO beside.a VALUES (5000, 0)", "INSERT INTO beside.a VALUES (6000, 0)"],
            ),
            // Rows that come into a table that nobody reads.
            (
                ["SELECT n FROM beside.a WHERE id = 3", "SELECT n FROM beside.a WHERE id = 3"],
                ["INSERT INTO beside.log VALUES ('one', 'x')", "INSERT INTO beside.log VALUES ('other', 'x')"],
            ),
            // Children of different parents.
            (
                ["SELECT 1", "SELECT 1"],
                ["INSERT INTO beside.child VALUES (1, 1)", "INSERT INTO beside.child VALUES (2, 2)"],
            ),
        ];
        for nodes in [[0, 1], [1, 2]] {
            for (read, write) in &pairs {
                run(cluster, 2, "DELETE FROM beside.log; DELETE FROM beside.child; DELETE FROM beside.a WHERE id > 2000").await?;
                let ends = cross(cluster, "SERIALIZABLE", nodes, *read, *write).await?;
                ensure!(ends == BOTH, "{nodes:?} {read:?} {write:?}: {ends:?}");
            }
        }
        Ok(())
    });
}

/// What only reads needs no place in the order, and yet sees none that another order would not show
/// (Fekete, O'Neil, O'Neil: A Read-Only Transaction Anomaly Under Snapshot Isolation).
#[test]
fn a_reader_sees_what_some_order_shows() {
    CLUSTER.test(async |cluster| -> Result<()> {
        run(
            cluster,
            0,
            "CREATE SCHEMA reader; CREATE TABLE reader.t (name text PRIMARY KEY, n int);
             INSERT INTO reader.t VALUES ('checking', 0), ('savings', 0)",
        )
        .await?;
        cluster.settle().await?;
        let withdrawal = cluster.connect(0).await?;
        let look = "SELECT name, n FROM reader.t ORDER BY name";
        withdrawal.batch_execute(&format!("BEGIN ISOLATION LEVEL SERIALIZABLE; {look}")).await?;
        let deposit =
            "BEGIN ISOLATION LEVEL SERIALIZABLE; UPDATE reader.t SET n = n + 20 WHERE name = 'savings'; COMMIT";
        cluster.execute(1, deposit).await?;
        cluster.settle().await?;
        let reader = cluster.connect(2).await?;
        reader.batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY").await?;
        ensure!(ask(&reader, look).await? == "checking|0\nsavings|20");
        reader.batch_execute("COMMIT").await?;
        // With the penalty, because it has not seen the deposit: no order shows that and what the reader saw.
        let late = withdrawal.batch_execute("UPDATE reader.t SET n = n - 11 WHERE name = 'checking'; COMMIT").await;
        let error = late.err().context("the withdrawal went through")?;
        let error = said(&error)?;
        ensure!(error.code().code() == "40001", "{error:?}");
        for part in ["reader.t", "node 2", "seq"] {
            ensure!(error.detail().is_some_and(|detail| detail.contains(part)), "{part} is not named: {error:?}");
        }
        ensure!(same(cluster, look).await? == "checking|0\nsavings|20");
        Ok(())
    });
}

/// Many at once: each takes from one of two accounts only if both together have enough.
#[test]
fn no_decision_is_made_on_what_is_no_longer_so() {
    CLUSTER.test(async |cluster| -> Result<()> {
        run(
            cluster,
            0,
            "CREATE SCHEMA decided; CREATE TABLE decided.t (pair int, half int, n int, PRIMARY KEY (pair, half));
             INSERT INTO decided.t SELECT p, h, 100 FROM generate_series(1, 3) AS p, generate_series(1, 2) AS h",
        )
        .await?;
        cluster.settle().await?;
        let take = async |node: usize, half: usize| -> Result<u32> {
            let session = cluster.connect(node).await?;
            session.batch_execute("SET default_transaction_isolation = serializable; SET enable_seqscan = off").await?;
            let mut taken = 0;
            for round in 0..60 {
                let pair = round % 3 + 1;
                let sql = format!(
                    "DO $$ BEGIN IF (SELECT sum(n) FROM decided.t WHERE pair = {pair}) >= 30 THEN
                        UPDATE decided.t SET n = n - 30 WHERE pair = {pair} AND half = {half};
                     END IF; END $$"
                );
                match sqlstate(&session.batch_execute(&sql).await).as_deref() {
                    None => taken += 1,
                    Some("40001" | "40P01") => {}
                    Some(other) => anyhow::bail!("node {node}: {other}"),
                }
            }
            Ok(taken)
        };
        let all = async { tokio::try_join!(take(0, 1), take(1, 2), take(2, 1), take(0, 2), take(1, 1), take(2, 2)) };
        within(PATIENCE, "taking", all).await?;
        let sums = same(cluster, "SELECT sum(n) FROM decided.t GROUP BY pair ORDER BY pair").await?;
        for sum in sums.lines() {
            ensure!(sum.parse::<i32>()? >= 0, "overdrawn: {sums}");
        }
        ensure!(sums.lines().all(|sum| sum != "200"), "nothing was taken: {sums}");
        let verdict = cluster.verify().await?;
        ensure!(verdict.exit_code == 0, "{}", verdict.output);
        Ok(())
    });
}

/// One that is tried again gets through, alone as well as in the midst of others.
#[test]
fn a_serializable_transaction_works_like_any_other() {
    CLUSTER.test(async |cluster| -> Result<()> {
        run(cluster, 0, "CREATE SCHEMA usual; CREATE TABLE usual.t (id serial PRIMARY KEY, n int); CREATE UNLOGGED TABLE usual.own (n int)").await?;
        for node in 0..NODES {
            let session = cluster.connect(node).await?;
            session.batch_execute("SET default_transaction_isolation = serializable").await?;
            for sql in [
                "INSERT INTO usual.t (n) VALUES (1)",
                "UPDATE usual.t SET n = n + 1",
                "BEGIN; SELECT count(*) FROM usual.t; SAVEPOINT s; DELETE FROM usual.t; ROLLBACK TO s; INSERT INTO usual.t (n) SELECT n FROM usual.t; COMMIT",
                "ALTER TABLE usual.t ADD COLUMN more int DEFAULT 3; ALTER TABLE usual.t DROP COLUMN more",
                "SELECT lo_unlink(lo_from_bytea(0, 'x'))",
                "NOTIFY usual",
                "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;",
                "BEGIN; SELECT sum(n) FROM usual.t; DELETE FROM usual.t WHERE n < 0; COMMIT",
                "INSERT INTO usual.own VALUES (1)",
            ] {
                session.batch_execute(sql).await.with_context(|| format!("node {node}: {sql}"))?;
            }
            let mixed = session.batch_execute("BEGIN; INSERT INTO usual.own VALUES (1); INSERT INTO usual.t (n) VALUES (1); COMMIT").await;
            ensure!(sqlstate(&mixed).as_deref() == Some("0A000"), "node {node}: {mixed:?}");
            cluster.settle().await?;
        }
        ensure!(same(cluster, "SELECT count(*) FROM usual.t").await? == "14");
        Ok(())
    });
}
