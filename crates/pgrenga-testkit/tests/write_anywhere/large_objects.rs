//! The promise: large objects are the same on every node, whichever way a client writes them, and of two nodes that
//! change the same one, one is in conflict.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pgrenga_testkit::cluster::Cluster;
use tokio_postgres::Client;
use tokio_postgres::config::Host;

use crate::CLUSTER;
use crate::everywhere::{Doomed, NODES, ask, retry, run, said, same, sqlstate, within};

const PATIENCE: Duration = Duration::from_secs(60);

/// Every page, and who may do what with each object.
const PAGES: &str = "SELECT loid, pageno, md5(data) FROM pg_largeobject ORDER BY 1, 2";
const OBJECTS: &str = "SELECT oid, pg_get_userbyid(lomowner), lomacl, obj_description(oid, 'pg_largeobject')
    FROM pg_largeobject_metadata ORDER BY 1";

async fn all_the_same(cluster: &Cluster) -> Result<(String, String)> {
    Ok((same(cluster, OBJECTS).await?, same(cluster, PAGES).await?))
}

/// What an object holds, on every node.
async fn content(cluster: &Cluster, oid: u32) -> Result<String> {
    same(cluster, &format!("SELECT encode(lo_get({oid}), 'escape')")).await
}

/// Runs one of PostgreSQL's own programs against a node. Large objects go through libpq's functions, which use the
/// protocol's function calls.
fn program(cluster: &Cluster, node: usize, name: &str, arguments: &[&str]) -> Result<String> {
    let directory = std::env::var("PGRENGA_BIN_DIR").unwrap_or_else(|_| "/usr/lib/postgresql/15/bin".into());
    let config = &cluster.configs()[node];
    let [Host::Tcp(host), ..] = config.get_hosts() else { anyhow::bail!("no host") };
    let mut command = Command::new(Path::new(&directory).join(name));
    command.env("PGHOST", host).env("PGPORT", config.get_ports()[0].to_string());
    command.env("PGUSER", config.get_user().context("a user")?).env("PGDATABASE", "postgres");
    let output = command.args(arguments).output()?;
    ensure!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Writes an object. Who wrote it last may hold its lock yet for a moment, though that is visible already.
async fn write(cluster: &Cluster, node: usize, sql: &str) -> Result<()> {
    retry(&cluster.connect(node).await?, sql).await.map(drop)
}

/// Begins a transaction that does.
async fn begin(session: &Client, sql: &str) -> Result<()> {
    retry(session, &format!("BEGIN; {sql}")).await.map(drop)
}

async fn drop_all(cluster: &Cluster) -> Result<()> {
    retry(&cluster.connect(0).await?, "SELECT lo_unlink(oid) FROM pg_largeobject_metadata").await?;
    ensure!(all_the_same(cluster).await? == (String::new(), String::new()));
    Ok(())
}

#[test]
fn what_sql_writes_is_on_every_node() {
    CLUSTER.test(async |cluster| -> Result<()> {
        drop_all(cluster).await?;
        // Node, statements, and what object 700 holds afterwards.
        let steps = [
            (0, "SELECT lo_create(700)", ""),
            (1, "SELECT lo_put(700, 0, 'hello')", "hello"),
            (2, "BEGIN; SELECT lowrite(lo_open(700, 131072), 'J'); COMMIT", "Jello"),
            (0, "SELECT lo_put(700, 3, 'loop')", "Jelloop"),
            (1, "BEGIN; SELECT lo_truncate(lo_open(700, 131072), 5); COMMIT", "Jello"),
            (2, "BEGIN; SELECT lo_truncate64(lo_open(700, 131072), 3); COMMIT", "Jel"),
            (
                0,
                "BEGIN; SELECT lo_put(700, 0, 'C'); SAVEPOINT s; SELECT lo_put(700, 1, 'XX'); ROLLBACK TO s;
                 SELECT lo_put(700, 3, 'l'); COMMIT",
                "Cell",
            ),
            (1, "BEGIN; SELECT lo_put(700, 0, 'no'); SELECT lo_unlink(700); ROLLBACK", "Cell"),
            (
                2,
                "BEGIN; SELECT lo_open(700, 131072); SELECT lo_lseek(0, 4, 0); SELECT lowrite(0, 'ar'); SELECT lo_close(0); COMMIT",
                "Cellar",
            ),
            (
                0,
                "DO $$ BEGIN PERFORM lo_put(700, 6, 's'); BEGIN PERFORM lo_put(700, 0, 'xxx'); RAISE 'x';
                 EXCEPTION WHEN OTHERS THEN NULL; END; END $$",
                "Cellars",
            ),
            (1, "SET jit = on; SET jit_above_cost = 0; SELECT lo_put(700, 0, 'D')", "Dellars"),
        ];
        for (node, sql, expected) in steps {
            write(cluster, node, sql).await.context(sql)?;
            ensure!(content(cluster, 700).await.context(sql)? == expected, "{sql}");
            all_the_same(cluster).await.context(sql)?;
        }

        // More than a page and more than a step, with a hole; together with a row that names it.
        run(cluster, 0, "CREATE SCHEMA lo; CREATE TABLE lo.t (id int PRIMARY KEY, image oid)").await?;
        cluster.settle().await?;
        let large = "INSERT INTO lo.t VALUES (1, lo_from_bytea(0, convert_to(repeat('0123456789', 100000), 'UTF8')));
            SELECT lo_put(image, 3000000, 'end') FROM lo.t";
        cluster.execute(1, large).await?;
        let sum = same(cluster, "SELECT length(lo_get(image)), md5(lo_get(image)) FROM lo.t").await?;
        ensure!(sum.starts_with("3000003|"), "{sum}");
        // A file of the server's.
        let file = format!("{}/large_object", cluster.data_dir(2).display());
        cluster.execute(2, &format!("COPY (SELECT repeat('line ', 200000)) TO '{file}'")).await?;
        cluster.execute(2, &format!("INSERT INTO lo.t VALUES (2, lo_import('{file}'))")).await?;
        cluster.execute(2, &format!("SELECT lo_import('{file}', 701)")).await?;
        let imported = same(cluster, "SELECT length(lo_get(image)), lo_get(image) = lo_get(701) FROM lo.t WHERE id = 2").await?;
        ensure!(imported == "1000001|t", "{imported}");

        all_the_same(cluster).await?;
        let verdict = cluster.verify().await?;
        ensure!(verdict.exit_code == 0, "{}", verdict.output);
        drop_all(cluster).await
    });
}

#[test]
fn definitions_of_large_objects_are_replicated() {
    CLUSTER.test(async |cluster| -> Result<()> {
        drop_all(cluster).await?;
        run(cluster, 0, "CREATE ROLE lo_owner; CREATE ROLE lo_reader").await?;
        run(cluster, 1, "SELECT lo_from_bytea(800, 'x'); SELECT lo_create(801)").await?;
        run(
            cluster,
            2,
            "ALTER LARGE OBJECT 800 OWNER TO lo_owner; GRANT SELECT ON LARGE OBJECT 800 TO lo_reader;
             COMMENT ON LARGE OBJECT 800 IS 'it has one'",
        )
        .await?;
        run(
            cluster,
            0,
            "SET ROLE lo_owner; SELECT lo_create(802); GRANT SELECT, UPDATE ON LARGE OBJECT 802 TO lo_reader",
        )
        .await?;
        cluster.settle().await?;
        run(cluster, 1, "SET ROLE lo_reader; SELECT lo_get(800); SELECT lo_put(802, 0, 'by the reader')").await?;
        ensure!(content(cluster, 802).await? == "by the reader");
        cluster.settle().await?;
        let refused = cluster.connect(2).await?;
        refused.batch_execute("SET ROLE lo_reader").await?;
        ensure!(sqlstate(&refused.batch_execute("SELECT lo_put(800, 0, 'no')").await).as_deref() == Some("42501"));
        run(cluster, 0, "REVOKE SELECT ON LARGE OBJECT 800 FROM lo_reader").await?;
        let (objects, _) = all_the_same(cluster).await?;
        ensure!(
            objects
                .starts_with("800|lo_owner|{lo_owner=rw/lo_owner}|it has one\n801|postgres|NULL|NULL\n802|lo_owner|"),
            "{objects}"
        );
        let verdict = cluster.verify().await?;
        ensure!(verdict.exit_code == 0, "{}", verdict.output);

        // All of its objects go with the role's other things.
        run(cluster, 1, "DROP OWNED BY lo_owner; DROP OWNED BY lo_reader; DROP ROLE lo_owner, lo_reader").await?;
        ensure!(all_the_same(cluster).await?.0 == "801|postgres|NULL|NULL");
        drop_all(cluster).await
    });
}

#[test]
fn clients_programs_work_through_any_node() {
    CLUSTER.test(async |cluster| -> Result<()> {
        drop_all(cluster).await?;
        let directory = tempfile()?;
        let (image, archive) = (format!("{directory}/image"), format!("{directory}/archive"));
        std::fs::write(&image, b"\x00\xFFnot text".repeat(60_000))?;
        let import = ["-Atc".to_owned(), format!("\\lo_import {image}")];
        let said = program(cluster, 1, "psql", &[&import[0], &import[1]])?;
        let oid: u32 = said.trim_start_matches("lo_import ").parse().with_context(|| said.clone())?;
        cluster.settle().await?;
        program(cluster, 2, "psql", &["-c", &format!("\\lo_export {oid} {image}.2")])?;
        ensure!(std::fs::read(&image)? == std::fs::read(format!("{image}.2"))?, "it came out differently");
        run(cluster, 0, "SELECT lo_from_bytea(900, 'kept'); COMMENT ON LARGE OBJECT 900 IS 'a comment'").await?;
        let before = all_the_same(cluster).await?;
        run(cluster, 0, "CREATE SCHEMA lo_only").await?;

        for (node, format) in [(0, "custom"), (2, "plain")] {
            program(cluster, node, "pg_dump", &["--blobs", "--format", format, "--schema", "lo_only", "-f", &archive])?;
            drop_all(cluster).await?;
            run(cluster, 0, "DROP SCHEMA lo_only").await?;
            cluster.settle().await?;
            let restoring = (node + 1) % NODES;
            match format {
                "plain" => program(cluster, restoring, "psql", &["-qv", "ON_ERROR_STOP=1", "-f", &archive])?,
                _ => program(cluster, restoring, "pg_restore", &["--exit-on-error", "-d", "postgres", &archive])?,
            };
            ensure!(all_the_same(cluster).await? == before, "{format}: the restored objects are others");
        }
        let unlinked = program(cluster, 0, "psql", &["-c", &format!("\\lo_unlink {oid}")])?;
        ensure!(unlinked == format!("lo_unlink {oid}"), "{unlinked}");
        std::fs::remove_dir_all(directory)?;
        drop_all(cluster).await
    });
}

fn tempfile() -> Result<String> {
    let directory = std::env::temp_dir().join(format!("pgrenga-test-large-objects-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    Ok(directory.to_str().context("text")?.to_owned())
}

#[test]
fn nodes_do_not_draw_the_same_oid() {
    CLUSTER.test(async |cluster| -> Result<()> {
        const EACH: u32 = 30;
        drop_all(cluster).await?;
        let draw = async |node: usize| -> Result<()> {
            let session = cluster.connect(node).await?;
            for _ in 0..EACH {
                // Nobody retries: what is drawn is in nobody's way.
                session.batch_execute("SELECT lo_creat(-1), lo_create(0), lo_from_bytea(0, 'x')").await?;
            }
            Ok(())
        };
        within(PATIENCE, "drawing OIDs", async { tokio::try_join!(draw(0), draw(1), draw(2), draw(0)) }).await?;
        ensure!(same(cluster, "SELECT count(*) FROM pg_largeobject_metadata").await? == (EACH * 4 * 3).to_string());
        drop_all(cluster).await
    });
}

#[test]
fn of_two_nodes_that_change_one_object_one_is_in_conflict() {
    CLUSTER.test(async |cluster| -> Result<()> {
        drop_all(cluster).await?;
        // Different pages, creation under one OID, and the end of it.
        let far = "SELECT lo_put(1000, 500000, 'far')";
        let pairs = [
            ("SELECT lo_put(1000, 0, 'near')", far),
            ("SELECT lo_create(1001)", "SELECT lo_from_bytea(1001, 'x')"),
            ("SELECT lo_unlink(1000)", far),
            ("SELECT lo_truncate(lo_open(1000, 131072), 1)", far),
        ];
        for round in 0..3 {
            for (one, other) in pairs {
                retry(&cluster.connect(0).await?, "SELECT lo_unlink(oid) FROM pg_largeobject_metadata").await?;
                cluster.execute(0, "SELECT lo_from_bytea(1000, 'xxxx')").await?;
                cluster.settle().await?;
                let (here, there) = (round % NODES, (round + 1) % NODES);
                let (first, second) = (cluster.connect(here).await?, cluster.connect(there).await?);
                begin(&first, one).await?;
                begin(&second, other).await?;
                let ends = tokio::join!(first.batch_execute("COMMIT"), second.batch_execute("COMMIT"));
                let (winner, error) = match ends {
                    (Ok(()), Err(error)) => (here, error),
                    (Err(error), Ok(())) => (there, error),
                    both => anyhow::bail!("{one}; {other}: not exactly one committed: {both:?}"),
                };
                let error = said(&error)?;
                ensure!(error.code().code() == "40001", "{one}; {other}: {error:?}");
                let detail = error.detail().unwrap_or_default();
                for part in ["large object 100", &format!("node {}", winner + 1)] {
                    ensure!(detail.contains(part), "{one}; {other}: {part} is not named: {error:?}");
                }
                all_the_same(cluster).await.with_context(|| format!("{one}; {other}"))?;
            }
        }
        // Different objects are in nobody's way.
        run(cluster, 0, "SELECT lo_from_bytea(1002, 'x'); SELECT lo_from_bytea(1003, 'x')").await?;
        cluster.settle().await?;
        let (first, second) = (cluster.connect(0).await?, cluster.connect(1).await?);
        begin(&first, "SELECT lo_put(1002, 0, 'y')").await?;
        begin(&second, "SELECT lo_put(1003, 0, 'z')").await?;
        tokio::try_join!(first.batch_execute("COMMIT"), second.batch_execute("COMMIT"))?;
        ensure!(content(cluster, 1002).await? == "y" && content(cluster, 1003).await? == "z");
        drop_all(cluster).await
    });
}

#[test]
fn appended_bytes_are_all_there_once() {
    CLUSTER.test(async |cluster| -> Result<()> {
        const EACH: usize = 25;
        drop_all(cluster).await?;
        cluster.execute(0, "SELECT lo_create(1100)").await?;
        cluster.settle().await?;
        let append = async |node: usize| -> Result<()> {
            let session = cluster.connect(node).await?;
            for _ in 0..EACH {
                // Writing nothing keeps everybody else from writing, so that the end stays where it is.
                let sql =
                    format!("BEGIN; SELECT lo_put(1100, 0, ''); SELECT lo_lseek(lo_open(1100, 131072), 0, 2); SELECT lowrite(0, '{node}'); COMMIT");
                retry(&session, &sql).await?;
            }
            Ok(())
        };
        within(PATIENCE, "appending", async { tokio::try_join!(append(0), append(1), append(2)) }).await?;
        let text = content(cluster, 1100).await?;
        for node in 0..NODES {
            let count = text.matches(&node.to_string()).count();
            ensure!(count == EACH, "node {node}: {count} of {EACH}: {text}");
        }
        drop_all(cluster).await
    });
}

#[test]
fn an_idle_transaction_that_wrote_makes_way() {
    CLUSTER.test(async |cluster| -> Result<()> {
        drop_all(cluster).await?;
        cluster.execute(0, "SELECT lo_from_bytea(1200, 'x')").await?;
        cluster.settle().await?;
        let idle = Doomed::after(cluster, 0, "BEGIN; SELECT lo_put(1200, 5000, 'idle')").await?;
        within(PATIENCE, "another node's write", async {
            write(cluster, 1, "SELECT lo_put(1200, 0, 'y')").await?;
            content(cluster, 1200).await
        })
        .await?;
        let fate = idle.fate("COMMIT").await?;
        ensure!(fate.code().code() == "40001", "{fate:?}");
        ensure!(fate.detail().is_some_and(|detail| detail.contains("large object 1200")), "{fate:?}");
        ensure!(content(cluster, 1200).await? == "y");

        // Who waited for an object that goes hears that it is gone.
        let session = cluster.connect(1).await?;
        session.batch_execute("BEGIN; SELECT lo_unlink(1200)").await?;
        let waiting = cluster.connect(1).await?;
        let (late, end) = tokio::join!(waiting.batch_execute("SELECT lo_put(1200, 0, 'late')"), async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            session.batch_execute("COMMIT").await
        });
        end?;
        ensure!(sqlstate(&late).as_deref() == Some("42704"), "{late:?}");
        ensure!(all_the_same(cluster).await? == (String::new(), String::new()));
        Ok(())
    });
}

#[test]
fn what_is_ordered_is_applied_whatever_becomes_of_the_session() {
    CLUSTER.test(async |cluster| -> Result<()> {
        drop_all(cluster).await?;
        for (oid, failpoint) in [(1300, "ordered_error"), (1301, "committing_error")] {
            let session = cluster.connect(1).await?;
            session.batch_execute(&format!("SET pgrenga.failpoint = '{failpoint}'")).await?;
            let write = format!("SELECT lo_from_bytea({oid}, convert_to(repeat('x', 600000), 'UTF8'))");
            let answer = session.batch_execute(&write).await;
            ensure!(sqlstate(&answer).as_deref() == Some("08007"), "{failpoint}: {answer:?}");
            let length = same(cluster, &format!("SELECT length(lo_get({oid}))")).await?;
            ensure!(length == "600000", "{failpoint}: {length}");
        }
        all_the_same(cluster).await?;
        drop_all(cluster).await
    });
}

#[test]
fn verify_finds_a_page_and_an_owner_that_differ() {
    CLUSTER.test(async |cluster| -> Result<()> {
        drop_all(cluster).await?;
        cluster.execute(0, "SELECT lo_from_bytea(1400, 'same')").await?;
        cluster.settle().await?;
        let behind = "SET pgrenga.replicate = off;";
        cluster.execute(2, &format!("{behind} SELECT lo_put(1400, 0, 'game')")).await?;
        let verdict = cluster.verify().await?;
        ensure!(verdict.exit_code == 1 && verdict.output.contains("(1400,0)"), "{}", verdict.output);
        cluster
            .execute(2, &format!("{behind} SELECT lo_put(1400, 0, 'same'); COMMENT ON LARGE OBJECT 1400 IS 'odd'"))
            .await?;
        let verdict = cluster.verify().await?;
        ensure!(verdict.exit_code == 1 && verdict.output.contains("large objects 1400 to 1499"), "{}", verdict.output);
        cluster.execute(2, &format!("{behind} COMMENT ON LARGE OBJECT 1400 IS NULL")).await?;
        let verdict = cluster.verify().await?;
        ensure!(verdict.exit_code == 0, "{}", verdict.output);
        drop_all(cluster).await
    });
}

#[test]
fn a_large_object_is_read_in_the_transactions_own_snapshot() {
    CLUSTER.test(async |cluster| -> Result<()> {
        drop_all(cluster).await?;
        cluster.execute(0, "SELECT lo_from_bytea(1500, 'old')").await?;
        cluster.settle().await?;
        let reader = cluster.connect(1).await?;
        reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await?;
        cluster.execute(0, "SELECT lo_put(1500, 0, 'new')").await?;
        cluster.settle().await?;
        let get = "SELECT encode(lo_get(1500), 'escape')";
        ensure!(ask(&reader, get).await? == "old");
        reader.batch_execute("COMMIT").await?;
        ensure!(ask(&reader, get).await? == "new");
        // One that asks for fresh reads gets what was acknowledged elsewhere, too.
        for round in 0..5 {
            cluster.execute(0, &format!("SELECT lo_put(1500, 0, 'at{round}')")).await?;
            let fresh = cluster.connect(2).await?;
            fresh.batch_execute("SET pgrenga.read_consistency = cluster").await?;
            ensure!(ask(&fresh, get).await? == format!("at{round}"), "round {round}");
        }
        drop_all(cluster).await
    });
}
