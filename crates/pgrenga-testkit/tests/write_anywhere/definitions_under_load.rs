//! The promise: definitions are changed while rows are written on every node,
//! without starving and without waiting for anybody who idles.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::CLUSTER;
use crate::everywhere::{Doomed, NODES, retry, same, sqlstate, within};

/// Long for any wait here, short for one that does not end.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn definitions_change_under_write_load() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let create = "CREATE SCHEMA load; CREATE TABLE load.t (id bigint GENERATED ALWAYS AS IDENTITY, n int);
            CREATE TABLE load.other (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int)";
        cluster.execute(0, create).await?;
        cluster.settle().await?;
        let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
        let write = async |node: usize, table: &str| -> Result<()> {
            let session = cluster.connect(node).await?;
            while !stop.load(Ordering::Relaxed) {
                retry(&session, &format!("INSERT INTO load.{table} (n) VALUES (1), (2)")).await?;
                written.fetch_add(2, Ordering::Relaxed);
            }
            Ok(())
        };
        let define = async {
            let session = cluster.connect(0).await?;
            for round in 0..4 {
                for sql in [
                    format!("ALTER TABLE load.t ADD COLUMN c{round} int DEFAULT 7"),
                    format!("CREATE INDEX i{round} ON load.t (n, c{round})"),
                    format!("BEGIN; CREATE TABLE load.t{round} (LIKE load.t INCLUDING ALL); INSERT INTO load.t{round} (n) SELECT n FROM load.t LIMIT 10; COMMIT"),
                    format!("ALTER TABLE load.t ADD CHECK (c{round} = 7)"),
                    format!("DROP INDEX load.i{round}"),
                ] {
                    let before = written.load(Ordering::Relaxed);
                    within(PATIENCE, &sql, retry(&session, &sql)).await?;
                    let go_on = async {
                        while written.load(Ordering::Relaxed) == before {
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                        Ok(())
                    };
                    within(PATIENCE, "a write after it", go_on).await?;
                }
            }
            Ok(())
        };
        let define = async {
            let result = define.await;
            stop.store(true, Ordering::Relaxed);
            result
        };
        tokio::try_join!(define, write(0, "t"), write(1, "t"), write(2, "t"), write(1, "other"), write(2, "other"))?;
        let sum = "SELECT (SELECT count(*) FROM load.t) + (SELECT count(*) FROM load.other)";
        assert_eq!(same(cluster, sum).await?, written.load(Ordering::Relaxed).to_string());
        assert_eq!(same(cluster, "SELECT count(*) FROM load.t WHERE (c0, c1, c2, c3) <> (7, 7, 7, 7)").await?, "0");
        let verdict = cluster.verify().await?;
        assert_eq!(verdict.exit_code, 0, "{}", verdict.output);
        Ok(())
    });
}

/// Statements of one round; all rounds do the same to the same tables.
fn definitions(round: usize) -> [String; 10] {
    [
        format!("ALTER TABLE steady.t ADD COLUMN c{round} int DEFAULT 7"),
        format!("CREATE INDEX i{round} ON steady.t (n, c{round})"),
        format!(
            "ALTER TABLE steady.t ADD CONSTRAINT f{round} FOREIGN KEY (parent) REFERENCES steady.parent ON DELETE SET NULL"
        ),
        format!(
            "BEGIN; CREATE TABLE steady.t{round} (LIKE steady.t INCLUDING ALL); INSERT INTO steady.t{round} (n) SELECT n FROM steady.t LIMIT 10; COMMIT"
        ),
        format!("CREATE VIEW steady.v{round} AS SELECT n FROM steady.t{round}"),
        format!(
            "BEGIN; ALTER TABLE steady.t ADD COLUMN d{round} text NOT NULL DEFAULT 'x'; CREATE INDEX ON steady.parent (n); UPDATE steady.t{round} SET n = n + 1; COMMIT"
        ),
        format!("ALTER TABLE steady.t DROP CONSTRAINT f{round}, ALTER COLUMN c{round} SET DEFAULT 8"),
        format!("DROP INDEX steady.i{round}"),
        format!("ALTER TABLE steady.t DROP COLUMN c{round}, DROP COLUMN d{round}"),
        format!("DROP TABLE steady.t{round} CASCADE"),
    ]
}

/// With times: for a machine that has nothing else to do.
#[test]
#[ignore = "takes a minute; make soak runs it"]
fn two_hundred_definitions_under_load_succeed_and_hold_up_nobody_for_a_second() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let create = "CREATE SCHEMA steady; CREATE TABLE steady.parent (id int PRIMARY KEY, n int);
            INSERT INTO steady.parent SELECT i, 0 FROM generate_series(1, 100) AS i;
            CREATE TABLE steady.t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int, parent int);
            CREATE TABLE steady.other (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int)";
        cluster.execute(0, create).await?;
        cluster.settle().await?;
        let stop = AtomicBool::new(false);
        // Returns how long each commit took.
        let write = async |node: usize, sql: &'static str, may_conflict: bool| -> Result<Vec<Duration>> {
            let session = cluster.connect(node).await?;
            let mut times = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let begun = Instant::now();
                match sqlstate(&session.batch_execute(sql).await).as_deref() {
                    None => times.push(begun.elapsed()),
                    Some("40001") if may_conflict => {}
                    Some(other) => anyhow::bail!("{sql}: {other}"),
                }
            }
            Ok(times)
        };
        let define = async {
            let result = async {
                let session = cluster.connect(0).await?;
                for sql in (0..20).flat_map(definitions) {
                    within(PATIENCE, &sql, async { Ok(session.batch_execute(&sql).await?) }).await.with_context(|| sql.clone())?;
                }
                Ok(())
            };
            let (begun, result) = (Instant::now(), result.await);
            stop.store(true, Ordering::Relaxed);
            result.map(|()| begun.elapsed())
        };
        let (unrelated, altered) = ("INSERT INTO steady.other (n) VALUES (1)", "INSERT INTO steady.t (n, parent) VALUES (1, 1 + floor(random() * 100)::int)");
        let (defined, a, b, c, d, e, f, g, h) = tokio::try_join!(
            define,
            write(1, unrelated, false), write(2, unrelated, false), write(1, unrelated, false), write(2, unrelated, false),
            write(1, altered, true), write(2, altered, true), write(1, altered, true), write(2, altered, true),
        )?;
        let mut times = [a, b, c, d].concat();
        times.sort_unstable();
        let (of_altered, p99) = ([e, f, g, h].concat().len(), times[times.len() * 99 / 100]);
        println!(
            "200 definitions in {defined:?}; {} unrelated commits, p50 {:?}, p99 {p99:?}, max {:?}; {of_altered} of the altered table",
            times.len(), times[times.len() / 2], times[times.len() - 1]
        );
        ensure!(p99 < Duration::from_secs(1), "{p99:?}");
        let verdict = cluster.verify().await?;
        ensure!(verdict.exit_code == 0, "{}", verdict.output);
        Ok(())
    });
}

#[test]
fn two_definers_on_one_node_and_one_on_another_all_finish() {
    CLUSTER.test(async |cluster| -> Result<()> {
        cluster.execute(0, "CREATE SCHEMA three; CREATE TABLE three.t (id int PRIMARY KEY)").await?;
        cluster.settle().await?;
        let define = async |name: &str, node: usize| -> Result<()> {
            let session = cluster.connect(node).await?;
            for round in 0..5 {
                let sql = format!(
                    "BEGIN; CREATE TABLE three.{name}{round} (id int PRIMARY KEY);
                    INSERT INTO three.{name}{round} SELECT generate_series(1, 10);
                    ALTER TABLE three.t ADD COLUMN {name}{round} int; UPDATE three.t SET {name}{round} = 1; COMMIT"
                );
                within(PATIENCE, &sql, retry(&session, &sql)).await?;
            }
            Ok(())
        };
        tokio::try_join!(define("a", 0), define("b", 0), define("c", 1))?;
        let columns = "SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute
            WHERE attrelid = 'three.t'::regclass AND attnum > 0";
        assert_eq!(same(cluster, columns).await?.split(' ').count(), 16);
        let tables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'three'::regnamespace AND relkind = 'r'";
        assert_eq!(same(cluster, tables).await?, "16");
        Ok(())
    });
}

#[test]
fn an_idle_transaction_in_front_of_a_definition_is_ended() {
    CLUSTER.test(async |cluster| -> Result<()> {
        cluster.execute(0, "CREATE SCHEMA front; CREATE TABLE front.t (id int PRIMARY KEY)").await?;
        cluster.settle().await?;
        let stand = ["SELECT * FROM front.t", "INSERT INTO front.t VALUES (1)", "SELECT * FROM front.t FOR UPDATE"];
        for (round, stand) in stand.into_iter().enumerate() {
            for definer in 0..NODES {
                // On the definer's node, and on another one.
                let stand = format!("BEGIN; {stand}");
                let here = Doomed::after(cluster, definer, &stand).await?;
                let there = Doomed::after(cluster, (definer + 1) % NODES, &stand).await?;
                let sql = format!("ALTER TABLE front.t ADD COLUMN c{round}{definer} int");
                let define = async {
                    cluster.execute(definer, &sql).await?;
                    Ok(cluster.settle().await?)
                };
                within(PATIENCE, &format!("{sql} behind {stand}"), define).await?;
                for idle in [here, there] {
                    let late = idle.fate("INSERT INTO front.t VALUES (2); COMMIT").await?;
                    ensure!(late.code().code() == "40001", "{stand}, definer {definer}: {late:?}");
                }
            }
        }
        assert_eq!(same(cluster, "SELECT * FROM front.t").await?, "");
        Ok(())
    });
}
