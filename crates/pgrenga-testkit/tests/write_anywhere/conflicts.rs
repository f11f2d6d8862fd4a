//! The promise: transactions of different nodes that exclude each other do:
//! one of them commits, the other one is told why it did not.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio_postgres::Client;
use tokio_postgres::error::DbError;

use crate::CLUSTER;
use crate::everywhere::{Doomed, NODES, ask, retry, run, said, same, sqlstate, within};

/// Long for any wait here, short for one that does not end.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn no_child_outlives_its_parent() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let create = "CREATE SCHEMA family; SET search_path = family; CREATE TABLE parent (id int PRIMARY KEY, n int);
            CREATE TABLE child (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent);
            INSERT INTO parent SELECT i, 0 FROM generate_series(1, 90) AS i";
        cluster.execute(0, create).await?;
        cluster.settle().await?;
        for round in 1..=90 {
            let (here, there) = (round % NODES, (round + 1 + round / NODES % 2) % NODES);
            let (deleter, inserter) = (cluster.connect(here).await?, cluster.connect(there).await?);
            let delete = format!("DELETE FROM family.parent WHERE id = {round}");
            let insert = format!("INSERT INTO family.child VALUES ({round}, {round})");
            let (deleted, inserted) = match round % 3 {
                // Both have done everything but commit.
                0 => {
                    deleter.batch_execute(&format!("BEGIN; {delete}")).await?;
                    inserter.batch_execute(&format!("BEGIN; {insert}")).await?;
                    tokio::join!(deleter.batch_execute("COMMIT"), inserter.batch_execute("COMMIT"))
                }
                // The parent is in use by its key, not only by the child's insert.
                1 => {
                    let touch = format!("BEGIN; UPDATE family.parent SET n = 1 WHERE id = {round}; {insert}; COMMIT");
                    tokio::join!(deleter.batch_execute(&delete), inserter.batch_execute(&touch))
                }
                _ => tokio::join!(deleter.batch_execute(&delete), inserter.batch_execute(&insert)),
            };
            let loser = match (sqlstate(&deleted), sqlstate(&inserted)) {
                (None, Some(code)) | (Some(code), None) => code,
                both => anyhow::bail!("round {round}: not exactly one committed: {both:?}"),
            };
            ensure!(["40001", "23503"].contains(&loser.as_str()), "round {round}: {loser}");
        }
        let orphans = "SELECT count(*) FROM family.child WHERE parent NOT IN (SELECT id FROM family.parent)";
        assert_eq!(same(cluster, orphans).await?, "0");
        let survivors = "SELECT (SELECT count(*) FROM family.parent), (SELECT count(*) FROM family.child)";
        let survivors = same(cluster, survivors).await?;
        let (parents, children) = survivors.split_once('|').context("two numbers")?;
        assert_eq!(parents, children);
        Ok(())
    });
}

#[test]
fn one_unique_key_gets_one_owner_and_the_loser_reads_which_key_and_who_won() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let create = "CREATE SCHEMA own; CREATE TABLE own.t (id int PRIMARY KEY, name text CONSTRAINT one_name UNIQUE)";
        cluster.execute(0, create).await?;
        cluster.settle().await?;
        for round in 0..30 {
            let (here, there) = (round % NODES, (round + 1 + round / NODES % 2) % NODES);
            let (first, second) = (cluster.connect(here).await?, cluster.connect(there).await?);
            // The same primary key, or the same second key.
            let (ids, names, index) = match round % 2 {
                0 => ([round, round], [format!("a{round}"), format!("b{round}")], "t_pkey"),
                _ => ([round, round + 1000], [format!("c{round}"), format!("c{round}")], "one_name"),
            };
            let insert = |of: usize| format!("BEGIN; INSERT INTO own.t VALUES ({}, '{}')", ids[of], names[of]);
            let (one, other) = (insert(0), insert(1));
            tokio::try_join!(first.batch_execute(&one), second.batch_execute(&other))?;
            let results = tokio::join!(first.batch_execute("COMMIT"), second.batch_execute("COMMIT"));
            let (winner, error) = match results {
                (Ok(()), Err(error)) => (here, error),
                (Err(error), Ok(())) => (there, error),
                both => anyhow::bail!("round {round}: not exactly one committed: {both:?}"),
            };
            let error = said(&error)?;
            let detail = error.detail().unwrap_or_default();
            ensure!(error.code().code() == "40001", "round {round}: {error:?}");
            for part in [index, "own.t", &format!("node {}", winner + 1)] {
                ensure!(detail.contains(part), "round {round}: {part} is not named: {error:?}");
            }
        }
        assert_eq!(same(cluster, "SELECT count(*) FROM own.t").await?, "30");
        Ok(())
    });
}

#[test]
fn a_deferrable_key_gets_one_owner_too() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let create = "CREATE SCHEMA late; CREATE TABLE late.t (id int PRIMARY KEY, place int UNIQUE DEFERRABLE INITIALLY DEFERRED)";
        cluster.execute(0, create).await?;
        cluster.settle().await?;
        for round in 0..10 {
            let (here, there) = (round % NODES, (round + 1) % NODES);
            let first = cluster.connect(here).await?;
            first.batch_execute(&format!("BEGIN; INSERT INTO late.t VALUES ({round}, {round})")).await?;
            if round % 2 == 0 {
                first.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await?;
            }
            // Nobody waits: the other one commits, and is visible here before the first one ends.
            cluster.execute(there, &format!("INSERT INTO late.t VALUES ({}, {round})", round + 1000)).await?;
            let seq: i64 = cluster.connect(there).await?.query_one("SELECT pgrenga.visible()", &[]).await?.get(0);
            let applied = cluster.connect(here).await?;
            let applied = applied.query_one("SELECT pgrenga.wait_for($1, 10000)", &[&seq]).await?;
            ensure!(applied.get::<_, bool>(0), "round {round}: the applier waits for a deferrable key");
            let code = sqlstate(&first.batch_execute("COMMIT").await).context("both committed")?;
            ensure!(["40001", "23505"].contains(&code.as_str()), "round {round}: {code}");
            cluster.settle().await?;
        }
        let twice = "SELECT count(*) FROM (SELECT FROM late.t GROUP BY place HAVING count(*) > 1) AS twice";
        assert_eq!(same(cluster, twice).await?, "0");
        Ok(())
    });
}

#[test]
fn no_update_is_lost() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let create = "CREATE SCHEMA counted; CREATE TABLE counted.t (id int PRIMARY KEY, n int NOT NULL)";
        cluster.execute(0, create).await?;
        cluster.execute(0, "INSERT INTO counted.t VALUES (1, 0), (2, 0)").await?;
        cluster.settle().await?;
        const EACH: u32 = 40;
        let in_server = async |node: usize| -> Result<()> {
            let session = cluster.connect(node).await?;
            for _ in 0..EACH {
                retry(&session, "UPDATE counted.t SET n = n + 1 WHERE id = 1").await?;
            }
            Ok(())
        };
        let in_client = async |node: usize| -> Result<()> {
            let session = cluster.connect(node).await?;
            let mut done = 0;
            while done < EACH {
                session.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
                match add_one(&session).await {
                    Ok(()) => done += 1,
                    Err(error) => {
                        let code = said(&error)?.code().code();
                        ensure!(["40001", "40P01"].contains(&code), "{error:?}");
                        session.batch_execute("ROLLBACK").await?;
                    }
                }
            }
            Ok(())
        };
        let servers = async { tokio::try_join!(in_server(0), in_server(1), in_server(2), in_server(0)) };
        let clients = async { tokio::try_join!(in_client(0), in_client(1), in_client(2), in_client(1)) };
        within(Duration::from_secs(120), "increments", async { tokio::try_join!(servers, clients) }).await?;
        let expected = format!("{}|{}", EACH * 4, EACH * 4);
        let counters = "SELECT (SELECT n FROM counted.t WHERE id = 1), (SELECT n FROM counted.t WHERE id = 2)";
        assert_eq!(same(cluster, counters).await?, expected);
        Ok(())
    });
}

/// Reads, then writes what the client made of it.
async fn add_one(session: &Client) -> Result<(), tokio_postgres::Error> {
    let n: i32 = session.query_one("SELECT n FROM counted.t WHERE id = 2", &[]).await?.get(0);
    session.batch_execute(&format!("UPDATE counted.t SET n = {} WHERE id = 2; COMMIT", n + 1)).await
}

#[test]
fn an_idle_transaction_with_row_locks_does_not_stop_the_others() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let create = "CREATE SCHEMA idle; CREATE TABLE idle.t (id int PRIMARY KEY, who text)";
        cluster.execute(0, create).await?;
        cluster.execute(0, "INSERT INTO idle.t SELECT i, 'nobody' FROM generate_series(1, 3) AS i").await?;
        cluster.settle().await?;
        let holds = ["UPDATE idle.t SET who = 'idle' WHERE id = 1", "SELECT FROM idle.t WHERE id = 1 FOR UPDATE"];
        for hold in holds {
            let idle = Doomed::after(cluster, 0, &format!("BEGIN; SAVEPOINT s; {hold}")).await?;
            let write = async {
                cluster.execute(1, "UPDATE idle.t SET who = 'other' WHERE id = 1").await?;
                cluster.execute(2, "UPDATE idle.t SET who = 'third' WHERE id = 2").await?;
                same(cluster, "SELECT who FROM idle.t ORDER BY id").await
            };
            let seen = within(PATIENCE, "writes beside an idle holder of a lock", write).await?;
            assert_eq!(seen, "other\nthird\nnobody", "{hold}");
            let late = idle.fate("UPDATE idle.t SET who = 'late' WHERE id = 3; COMMIT").await?;
            names_the_winner(&late, "idle.t", "t_pkey", 2).context(hold)?;
            cluster.execute(0, "UPDATE idle.t SET who = 'nobody'").await?;
            cluster.settle().await?;
        }
        let session = cluster.connect(0).await?;
        assert_eq!(ask(&session, "SELECT who FROM idle.t WHERE id = 3").await?, "nobody");
        Ok(())
    });
}

/// A conflict is 40001 and says over which key of which table it was lost, and to which node.
fn names_the_winner(error: &DbError, table: &str, index: &str, node: u32) -> Result<()> {
    ensure!(error.code().code() == "40001", "{error:?}");
    let detail = error.detail().unwrap_or_default();
    for part in [table, index, &format!("node {node}"), "seq"] {
        ensure!(detail.contains(part), "{part} is not named: {error:?}");
    }
    ensure!(error.hint().is_some(), "no hint: {error:?}");
    Ok(())
}

#[test]
fn who_stands_in_the_way_reads_why_he_was_ended_whatever_he_was_doing() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let create = "CREATE SCHEMA way; CREATE TABLE way.t (id int PRIMARY KEY, name text UNIQUE, n int);
            INSERT INTO way.t VALUES (1, 'one', 0)";
        cluster.execute(0, create).await?;
        // What he holds, what the other node does, and over which key he loses.
        let ways = [
            ("UPDATE way.t SET n = 1", "UPDATE way.t SET n = 2", "t_pkey"),
            ("SELECT FROM way.t FOR UPDATE", "UPDATE way.t SET n = 3", "t_pkey"),
            ("SELECT FROM way.t FOR SHARE", "DELETE FROM way.t", "t_pkey"),
            ("INSERT INTO way.t VALUES (2, 'two', 0)", "INSERT INTO way.t VALUES (3, 'two', 0)", "t_name_key"),
            ("INSERT INTO way.t VALUES (4, 'four', 0)", "UPDATE way.t SET id = 4, name = 'other'", "t_pkey"),
        ];
        cluster.execute(0, "CREATE TABLE way.mutex ()").await?;
        let mutex = cluster.connect(0).await?;
        mutex.batch_execute("BEGIN; LOCK TABLE way.mutex").await?;
        // In a statement, waiting for a lock, idle for ever, between two statements, at the end.
        let doings = ["SELECT pg_sleep(60)", "LOCK TABLE way.mutex", "", "SELECT 1; COMMIT", "COMMIT"];
        for (hold, other, index) in ways {
            for doing in doings {
                // Who only locked may well end before the other one's change is applied.
                if hold.starts_with("SELECT") && doing.ends_with("COMMIT") {
                    continue;
                }
                cluster.settle().await?;
                let victim = Doomed::after(cluster, 0, &format!("BEGIN; {hold}")).await?;
                let ended = async {
                    let write = async { Ok(cluster.execute(1, &format!("BEGIN; {other}; COMMIT")).await?) };
                    if doing.starts_with("SELECT pg_sleep") || doing.starts_with("LOCK") {
                        let (fate, ()) = tokio::try_join!(victim.fate(doing), write)?;
                        return Ok(fate);
                    }
                    write.await?;
                    if doing.is_empty() {
                        cluster.settle().await?;
                    }
                    victim.fate(if doing.is_empty() { "COMMIT" } else { doing }).await
                };
                let fate = within(PATIENCE, other, ended).await.with_context(|| format!("{hold}; {doing}"))?;
                names_the_winner(&fate, "way.t", index, 2).with_context(|| format!("{hold}; {doing}; {other}"))?;
                cluster.settle().await?;
                cluster.execute(1, "DELETE FROM way.t; INSERT INTO way.t VALUES (1, 'one', 0)").await?;
            }
        }
        Ok(())
    });
}

#[test]
fn transactions_of_one_node_conflict_as_in_postgresql_alone() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let create = "CREATE SCHEMA alone; SET search_path = alone; CREATE TABLE parent (id int PRIMARY KEY);
            CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent); CREATE TABLE other (n int);
            INSERT INTO parent VALUES (1), (2), (3)";
        cluster.execute(0, create).await?;
        // What a transaction that has written something already does after another one has come and gone.
        let pairs = [
            ("INSERT INTO child VALUES (1, 1); DELETE FROM child", "DELETE FROM parent WHERE id = 1"),
            (
                "BEGIN; SELECT FROM parent WHERE id = 2 FOR UPDATE; INSERT INTO other VALUES (1); COMMIT",
                "DELETE FROM parent WHERE id = 2",
            ),
            ("INSERT INTO other VALUES (2)", "CREATE INDEX ON other (n)"),
            ("INSERT INTO other VALUES (3)", "LOCK TABLE other IN EXCLUSIVE MODE"),
        ];
        for (meanwhile, sql) in pairs {
            let session = cluster.connect(0).await?;
            session.batch_execute("BEGIN; INSERT INTO alone.parent VALUES (100)").await?;
            run(cluster, 0, &format!("SET search_path = alone; {meanwhile}")).await?;
            let then = format!("SET search_path = alone; {sql}; DELETE FROM parent WHERE id = 100; COMMIT");
            session.batch_execute(&then).await.with_context(|| format!("{sql} after {meanwhile}"))?;
        }
        assert_eq!(same(cluster, "SELECT * FROM alone.parent").await?, "3");
        Ok(())
    });
}

/// Without a unique index the applier finds the row by a scan, which is over when it meets the row's holder.
/// What it read then lies where values of these lengths go.
#[test]
fn a_row_that_only_a_scan_finds_is_taken_from_its_holder() {
    CLUSTER.test(async |cluster| -> Result<()> {
        cluster.execute(0, "CREATE SCHEMA scanned; CREATE TABLE scanned.t (id int, x text)").await?;
        cluster.execute(0, "INSERT INTO scanned.t SELECT i, 'first' FROM generate_series(1, 300) AS i").await?;
        cluster.settle().await?;
        // A server that crashes ends all its sessions.
        let watcher = cluster.connect(1).await?;
        for (round, length) in [600, 900].into_iter().enumerate() {
            let holds =
                ["SELECT * FROM scanned.t WHERE id = $i FOR UPDATE", "UPDATE scanned.t SET x = 'mine' WHERE id = $i"];
            for (at, hold) in holds.into_iter().enumerate() {
                let id = 100 + 10 * round + at;
                let holder =
                    Doomed::after(cluster, 1, &format!("BEGIN; {}", hold.replace("$i", &id.to_string()))).await?;
                let take = format!("UPDATE scanned.t SET x = repeat('x', {length}) WHERE id = {id}");
                cluster.execute(0, &take).await?;
                cluster.settle().await?;
                let fate = holder.fate("UPDATE scanned.t SET x = 'late' WHERE id = 1; COMMIT").await?;
                ensure!(fate.code().code() == "40001", "{take}: {fate:?}");
                watcher.batch_execute("SELECT 1").await.with_context(|| format!("after {take}"))?;
            }
        }
        let rows = "SELECT count(*), count(*) FILTER (WHERE x ~ '^x'), min(x) FROM scanned.t";
        assert_eq!(same(cluster, rows).await?, "300|4|first");
        Ok(())
    });
}
