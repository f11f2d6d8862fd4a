//! The promise: what concerns one node alone changes nothing on the others, and what must not leave a node does not.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::CLUSTER;
use crate::everywhere::{NODES, ask, notices, run, same, sqlstate};

/// The session's last transaction that took a place in the order.
const OWN_COMMIT: &str = "SHOW pgrenga.commit_seq";

#[test]
fn maintenance_and_sessions_are_the_node_s_own() {
    CLUSTER.test(async |cluster| -> Result<()> {
        run(
            cluster,
            0,
            "CREATE SCHEMA kept; CREATE TABLE kept.t (id int PRIMARY KEY, n int); CREATE INDEX by_n ON kept.t (n);
             INSERT INTO kept.t SELECT i, -i FROM generate_series(1, 1000) AS i; DELETE FROM kept.t WHERE id % 3 = 0",
        )
        .await?;
        cluster.settle().await?;
        // Where the rows and the index are stored, on each node.
        let files = "SELECT string_agg(relfilenode::text, ',' ORDER BY relname) FROM pg_class WHERE relnamespace = 'kept'::regnamespace";
        let before = cluster.ask_all(files).await?;
        let session = cluster.connect(1).await?;
        let commit = ask(&session, OWN_COMMIT).await?;
        let statements = [
            "VACUUM kept.t",
            "VACUUM (FULL, ANALYZE) kept.t",
            "ANALYZE kept.t",
            "CLUSTER kept.t USING by_n",
            "REINDEX TABLE kept.t",
            "REINDEX INDEX CONCURRENTLY kept.by_n",
            "CHECKPOINT",
            "SET work_mem = '8MB'",
            "LISTEN nobody",
            "UNLISTEN nobody",
            "DISCARD ALL",
        ];
        for sql in statements {
            session.batch_execute(sql).await.context(sql)?;
            ensure!(ask(&session, OWN_COMMIT).await? == commit, "{sql} took a place in the order");
        }
        let after = cluster.ask_all(files).await?;
        for node in 0..NODES {
            ensure!((before[node] == after[node]) == (node != 1), "node {node}: {before:?}, then {after:?}");
        }
        // In a transaction that is replicated, too.
        let mixed = "BEGIN; INSERT INTO kept.t VALUES (5000, 0); REINDEX TABLE kept.t; ANALYZE kept.t; COMMIT";
        session.batch_execute(mixed).await?;
        ensure!(same(cluster, "SELECT count(*), sum(n) FROM kept.t").await?.starts_with("668|"));
        let verdict = cluster.verify().await?;
        ensure!(verdict.exit_code == 0, "{}", verdict.output);
        Ok(())
    });
}

#[test]
fn alter_system_changes_this_node_and_says_so() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let said = notices(cluster, 1, "ALTER SYSTEM SET log_min_duration_statement = '77s'").await?;
        ensure!(said == ["ALTER SYSTEM changes this node alone"], "{said:?}");
        let set = "SELECT count(*) FROM pg_file_settings WHERE name = 'log_min_duration_statement' AND setting = '77s'";
        let counts = cluster.ask_all(set).await;
        cluster.execute(1, "ALTER SYSTEM RESET log_min_duration_statement").await?;
        ensure!(counts? == ["(0)", "(1)", "(0)"]);
        Ok(())
    });
}

#[test]
fn extensions_have_one_version_everywhere() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let version = "SELECT extversion FROM pg_extension WHERE extname = 'hstore'";
        run(cluster, 0, "CREATE SCHEMA extended; CREATE EXTENSION hstore WITH SCHEMA extended VERSION '1.4'").await?;
        ensure!(same(cluster, version).await? == "1.4");
        run(cluster, 2, "CREATE TABLE extended.t (id int PRIMARY KEY, h extended.hstore); INSERT INTO extended.t VALUES (1, 'a=>1')").await?;
        ensure!(same(cluster, "SELECT h::text FROM extended.t").await? == "\"a\"=>\"1\"");
        // Without a version the statement means what its own node has.
        run(cluster, 1, "ALTER EXTENSION hstore UPDATE").await?;
        ensure!(same(cluster, version).await? != "1.4");
        run(cluster, 0, "DROP SCHEMA extended CASCADE").await?;
        ensure!(same(cluster, version).await?.is_empty());
        run(cluster, 1, "CREATE EXTENSION IF NOT EXISTS hstore; CREATE EXTENSION IF NOT EXISTS hstore").await?;
        ensure!(!same(cluster, version).await?.is_empty());
        run(cluster, 2, "DROP EXTENSION hstore").await?;
        let cascade = cluster.connect(0).await?.batch_execute("CREATE EXTENSION earthdistance CASCADE").await;
        ensure!(sqlstate(&cascade).as_deref() == Some("0A000"), "{cascade:?}");
        Ok(())
    });
}

#[test]
fn passwords_leave_a_node_as_verifiers() {
    CLUSTER.test(async |cluster| -> Result<()> {
        const SECRETS: [&str; 3] = ["first-secret-連歌", "second\"secret", "third$$secret"];
        let verifier = "SELECT rolpassword FROM pg_authid WHERE rolname = 'keeper'";
        let statements = [
            format!("CREATE ROLE keeper LOGIN PASSWORD '{}'", SECRETS[0]),
            format!("ALTER ROLE keeper VALID UNTIL 'infinity' PASSWORD '{}' CONNECTION LIMIT 5", SECRETS[1]),
            format!("DO 'BEGIN ALTER USER keeper WITH ENCRYPTED PASSWORD ''{}''; END'", SECRETS[2]),
        ];
        let mut seen = Vec::new();
        for (node, statement) in statements.iter().enumerate() {
            cluster.execute(node, statement).await.with_context(|| statement.clone())?;
            let stored = same(cluster, verifier).await?;
            ensure!(stored.starts_with("SCRAM-SHA-256$4096:"), "{statement}: {stored}");
            ensure!(!seen.contains(&stored), "{statement} changed nothing");
            seen.push(stored);
        }
        for node in 0..NODES {
            let log = cluster.dir().join(cluster.name(node)).join("log");
            let bytes = read_all(&log).with_context(|| log.display().to_string())?;
            let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
            ensure!(holds(&seen[1]), "node {node}: the verifier is not in the log");
            for secret in SECRETS {
                ensure!(!holds(secret), "node {node}: {secret} is in the log");
            }
        }
        cluster.execute(0, "DROP ROLE keeper").await?;
        Ok(())
    });
}

fn read_all(directory: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for file in directory.read_dir()? {
        let content = std::fs::read(file?.path())?;
        // Segments are filled with zeros.
        let end = content.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1);
        bytes.extend_from_slice(&content[..end]);
    }
    Ok(bytes)
}
