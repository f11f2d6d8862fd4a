//! The promise: a materialized view holds the same on all nodes, which is what came
//! out of its query on the node that filled it.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use pgrenga_testkit::cluster::Cluster;

use crate::CLUSTER;
use crate::everywhere::{ask, retry, run, same, sqlstate, within};

const VIEWS: &str = r#"
    CREATE SCHEMA viewed; SET search_path = viewed;
    CREATE TABLE source (id int PRIMARY KEY, n int, t text);
    INSERT INTO source SELECT i, i % 7, (SELECT string_agg(md5((i * n)::text), '') FROM generate_series(1, 200) AS n)
        FROM generate_series(1, 200) AS i;
    CREATE MATERIALIZED VIEW drawn AS SELECT id, random() AS r, clock_timestamp() AS at, t FROM source WITH DATA;
    CREATE MATERIALIZED VIEW "First ones" (a, b) WITH (fillfactor = 80) AS
        SELECT id, 'with data' FROM source LIMIT 5 -- of many
        ;
    CREATE MATERIALIZED VIEW unfilled AS SELECT n, random() AS r FROM source WITH NO DATA;
    CREATE MATERIALIZED VIEW IF NOT EXISTS drawn AS SELECT 1;
    CREATE UNIQUE INDEX ON drawn (id);
    CREATE INDEX ON drawn (abs(id)) WHERE id % 2 = 0;
"#;

#[test]
fn a_materialized_view_holds_the_same_everywhere() {
    CLUSTER.test(async |cluster| -> Result<()> {
        run(cluster, 0, VIEWS).await?;
        let content = r#"SELECT * FROM viewed.$v AS v ORDER BY v::text"#;
        let drawn = content.replace("$v", "drawn");
        let first = same(cluster, &drawn).await?;
        assert_eq!(first.lines().count(), 200);
        assert_eq!(same(cluster, &content.replace("$v", "\"First ones\"")).await?.lines().count(), 5);
        let populated = "SELECT relname, relispopulated FROM pg_class WHERE relnamespace = 'viewed'::regnamespace AND relkind = 'm' ORDER BY 1";
        assert_eq!(same(cluster, populated).await?, "First ones|t\ndrawn|t\nunfilled|f");

        cluster.execute(1, "REFRESH MATERIALIZED VIEW viewed.drawn").await?;
        let second = same(cluster, &drawn).await?;
        assert!(second.lines().count() == 200 && second != first);
        cluster.execute(2, "REFRESH MATERIALIZED VIEW viewed.unfilled").await?;
        assert_eq!(same(cluster, &content.replace("$v", "unfilled")).await?.lines().count(), 200);
        let by_index = "SET enable_seqscan = off; SELECT r FROM viewed.drawn WHERE id = 77; SELECT r FROM viewed.drawn WHERE id % 2 = 0 AND abs(id) = 78";
        assert_eq!(same(cluster, by_index).await?.lines().count(), 2);

        // A part of it changes: by rows that CONCURRENTLY found to be others.
        cluster.execute(0, "CREATE MATERIALIZED VIEW viewed.sums AS SELECT n, count(*), NULL::text AS nothing FROM viewed.source GROUP BY n; CREATE UNIQUE INDEX ON viewed.sums (n)").await?;
        cluster.execute(0, "DELETE FROM viewed.source WHERE n = 3; UPDATE viewed.source SET n = NULL WHERE n = 4").await?;
        cluster.settle().await?;
        cluster.execute(1, "REFRESH MATERIALIZED VIEW CONCURRENTLY viewed.sums").await?;
        assert_eq!(same(cluster, "SELECT n FROM viewed.sums ORDER BY n").await?, "0\n1\n2\n5\n6\nNULL");
        cluster.execute(2, "REFRESH MATERIALIZED VIEW CONCURRENTLY viewed.drawn").await?;
        let third = same(cluster, &drawn).await?;
        assert!(third.lines().count() < 200 && third != second);

        cluster.execute(0, "BEGIN; REFRESH MATERIALIZED VIEW viewed.drawn; SAVEPOINT s; REFRESH MATERIALIZED VIEW viewed.drawn WITH NO DATA; ROLLBACK TO s; ALTER MATERIALIZED VIEW viewed.drawn RENAME TO redrawn; REFRESH MATERIALIZED VIEW viewed.redrawn; COMMIT").await?;
        same(cluster, "SELECT * FROM viewed.redrawn AS v ORDER BY v::text").await?;
        cluster.execute(2, "REFRESH MATERIALIZED VIEW viewed.redrawn WITH NO DATA").await?;
        assert_eq!(same(cluster, populated).await?, "First ones|t\nredrawn|f\nsums|t\nunfilled|t");
        let verdict = cluster.verify().await?;
        assert_eq!(verdict.exit_code, 0, "{}", verdict.output);
        Ok(())
    });
}

#[test]
fn a_materialized_view_that_all_nodes_refresh_while_they_write_holds_the_same() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let setup = "CREATE SCHEMA refreshed; CREATE TABLE refreshed.t (id serial PRIMARY KEY, node int);
            CREATE MATERIALIZED VIEW refreshed.v AS SELECT id, node, random() AS r FROM refreshed.t;
            CREATE UNIQUE INDEX ON refreshed.v (id)";
        cluster.execute(0, setup).await?;
        cluster.settle().await?;
        let work = async |node: usize| -> Result<()> {
            for round in 0..6 {
                let how = if round % 2 == 0 { "" } else { "CONCURRENTLY" };
                again(
                    cluster,
                    node,
                    &format!("INSERT INTO refreshed.t (node) SELECT {node} FROM generate_series(1, 20)"),
                )
                .await?;
                again(cluster, node, &format!("REFRESH MATERIALIZED VIEW {how} refreshed.v")).await?;
            }
            Ok(())
        };
        let all = async { tokio::try_join!(work(0), work(1), work(2)) };
        within(Duration::from_secs(120), "refreshing on all nodes", all).await?;
        let rows = same(cluster, "SELECT * FROM refreshed.v ORDER BY id").await?;
        ensure!(rows.lines().count() >= 240, "{}", rows.lines().count());
        retry(&cluster.connect(1).await?, "REFRESH MATERIALIZED VIEW refreshed.v").await?;
        assert_eq!(same(cluster, "SELECT * FROM refreshed.v ORDER BY id").await?.lines().count(), 360);
        Ok(())
    });
}

/// Runs a statement until it is in nobody's way. Whoever is may find his session ended.
async fn again(cluster: &Cluster, node: usize, sql: &str) -> Result<()> {
    for _ in 0..1000 {
        match sqlstate(&cluster.connect(node).await?.batch_execute(sql).await).as_deref() {
            None => return Ok(()),
            Some("40001" | "40P01") => {}
            Some(other) => bail!("{sql}: {other}"),
        }
    }
    bail!("{sql}: in conflict for ever")
}

#[test]
fn who_read_before_a_refresh_is_not_shown_an_empty_view() {
    CLUSTER.test(async |cluster| -> Result<()> {
        cluster
            .execute(
                0,
                "CREATE SCHEMA read_on; CREATE TABLE read_on.t (x int); INSERT INTO read_on.t VALUES (1);
            CREATE MATERIALIZED VIEW read_on.v AS SELECT * FROM read_on.t",
            )
            .await?;
        cluster.settle().await?;
        let reader = cluster.connect(1).await?;
        reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM read_on.t").await?;
        cluster.execute(0, "REFRESH MATERIALIZED VIEW read_on.v").await?;
        cluster.settle().await?;
        let read = ask(&reader, "SELECT count(*) FROM read_on.v").await?;
        assert_eq!(read, "1");
        // Its table is another matter: there is no row yet that it could see.
        let written = reader.batch_execute("REFRESH MATERIALIZED VIEW read_on.v; COMMIT").await;
        assert!(matches!(sqlstate(&written).as_deref(), None | Some("40001")), "{written:?}");
        assert_eq!(same(cluster, "SELECT * FROM read_on.v").await?, "1");
        Ok(())
    });
}
