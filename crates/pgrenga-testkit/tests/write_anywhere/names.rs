//! The promise: what rows refer to by name alone, without any lock (schemas, types, labels of enums), may change while
//! rows are written: whoever wrote under the old names is in conflict, on whichever node. And
//! whoever changes it is not in conflict with what its own node writes meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};

use crate::CLUSTER;
use crate::everywhere::{NODES, define, repeat, same, sqlstate};

/// What is written, what changes meanwhile, and how it is put back.
const CHANGES: [[&str; 3]; 4] = [
    [
        "INSERT INTO names.t (m) VALUES ('sad')",
        "ALTER TYPE names.mood RENAME VALUE 'sad' TO 'blue'",
        "ALTER TYPE names.mood RENAME VALUE 'blue' TO 'sad'",
    ],
    [
        "INSERT INTO names.t (m) VALUES ('sad')",
        "ALTER SCHEMA names RENAME TO named",
        "ALTER SCHEMA named RENAME TO names",
    ],
    [
        "INSERT INTO names.t (p) VALUES ((1, 'b'))",
        "ALTER TYPE names.pair RENAME ATTRIBUTE a TO x",
        "ALTER TYPE names.pair RENAME ATTRIBUTE x TO a",
    ],
    [
        "UPDATE names.kept SET m = 'happy'",
        "ALTER TYPE names.mood RENAME TO temper",
        "ALTER TYPE names.temper RENAME TO mood",
    ],
];

#[test]
fn who_wrote_under_names_that_changed_is_in_conflict() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let create = "CREATE SCHEMA names; CREATE TYPE names.mood AS ENUM ('sad', 'happy'); CREATE TYPE names.pair AS (a int, b text);
            CREATE TABLE names.t (id serial PRIMARY KEY, m names.mood, p names.pair);
            CREATE TABLE names.kept (id int PRIMARY KEY, m names.mood); INSERT INTO names.kept VALUES (1, 'sad')";
        cluster.execute(0, create).await?;
        for (at, [write, change, put_back]) in CHANGES.into_iter().enumerate() {
            // On the definer's node, and on another one.
            for writer in [at % NODES, (at + 1) % NODES] {
                cluster.settle().await?;
                let session = cluster.connect(writer).await?;
                session.batch_execute(&format!("BEGIN; {write}")).await?;
                define(&cluster.connect(at % NODES).await?, change).await?;
                cluster.settle().await?;
                let late = sqlstate(&session.batch_execute("COMMIT").await);
                ensure!(late.as_deref() == Some("40001"), "{write}, {change}, node {writer}: {late:?}");
                cluster.settle().await?;
                define(&cluster.connect(writer).await?, put_back).await?;
                cluster.settle().await?;
                // The session goes on.
                session.batch_execute("INSERT INTO names.t (m, p) VALUES ('happy', (2, 'c'))").await?;
            }
        }
        assert_eq!(same(cluster, "SELECT count(*), count(*) FILTER (WHERE m = 'happy') FROM names.t").await?, "8|8");
        assert_eq!(same(cluster, "SELECT m FROM names.kept").await?, "sad");
        let verdict = cluster.verify().await?;
        ensure!(verdict.exit_code == 0, "{}", verdict.output);
        Ok(())
    });
}

#[test]
fn who_changes_names_does_not_lose_to_its_own_node() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let create = "CREATE SCHEMA unnamed; CREATE TYPE unnamed.mood AS ENUM ('sad');
            CREATE TABLE unnamed.t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, m unnamed.mood DEFAULT 'sad')";
        cluster.execute(0, create).await?;
        cluster.settle().await?;
        let stop = AtomicBool::new(false);
        let write = |node| repeat(cluster, node, "INSERT INTO unnamed.t DEFAULT VALUES", &stop);
        let define = async {
            let session = cluster.connect(0).await?;
            for round in 0..2 {
                for sql in [
                    "CREATE EXTENSION citext SCHEMA unnamed".to_owned(),
                    format!("ALTER TYPE unnamed.mood ADD VALUE 'mood {round}'"),
                    format!("BEGIN; CREATE TABLE unnamed.t{round} (c unnamed.citext); INSERT INTO unnamed.t{round} VALUES ('C'); CREATE EXTENSION hstore SCHEMA unnamed; SELECT count(*) FROM unnamed.t; COMMIT"),
                    format!("DROP TABLE unnamed.t{round}"),
                    "DROP EXTENSION citext, hstore".to_owned(),
                ] {
                    define(&session, &sql).await?;
                }
            }
            Ok(())
        };
        let define = async {
            let result: Result<()> = define.await;
            stop.store(true, Ordering::Relaxed);
            result
        };
        tokio::try_join!(define, write(0), write(0), write(1))?;
        assert_eq!(same(cluster, "SELECT count(*) FROM pg_enum WHERE enumtypid = 'unnamed.mood'::regtype").await?, "3");
        let verdict = cluster.verify().await?;
        ensure!(verdict.exit_code == 0, "{}", verdict.output);
        Ok(())
    });
}
