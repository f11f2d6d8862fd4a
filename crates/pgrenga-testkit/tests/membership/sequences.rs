//! The promise: nodes draw from the same sequences while another one joins, and it draws from them too: no value
//! comes twice, whatever kind of column it is for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Config, NoTls};

use crate::CLUSTER;
use crate::grow_and_shrink::all_serve;

const PATIENCE: Duration = Duration::from_secs(120);
const DEFINITIONS: &str = "CREATE SCHEMA joined; CREATE SEQUENCE joined.named INCREMENT 3;
    CREATE TABLE joined.serial (id serial PRIMARY KEY, node int);
    CREATE TABLE joined.identity (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, node int);
    CREATE TABLE joined.explicit (id bigint DEFAULT nextval('joined.named'), node int);
    CREATE TABLE joined.by_hand (id bigint, node int)";
const INSERTS: [&str; 4] = [
    "INSERT INTO joined.serial (node) VALUES ($n), ($n)",
    "INSERT INTO joined.identity (node) VALUES ($n), ($n)",
    "INSERT INTO joined.explicit (node) VALUES ($n), ($n)",
    "INSERT INTO joined.by_hand SELECT nextval('joined.named'), $n FROM generate_series(1, 2)",
];
/// All values of a sequence; those that came twice.
const TWICE: &str = "SELECT count(*) - count(DISTINCT (s, id)), count(*) FROM (
    SELECT 1, id FROM joined.serial UNION ALL SELECT 2, id FROM joined.identity
    UNION ALL SELECT 3, id FROM joined.explicit UNION ALL SELECT 3, id FROM joined.by_hand) AS all_values (s, id)";

/// So many rounds, or until it is enough. Returns how many rows were acknowledged.
async fn write(config: Config, node: usize, enough: Arc<AtomicBool>, rounds: usize) -> Result<u64> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    let mut rows = 0;
    for _ in 0..rounds {
        if enough.load(Ordering::Relaxed) {
            break;
        }
        for insert in INSERTS {
            match client.batch_execute(&insert.replace("$n", &node.to_string())).await {
                Ok(()) => rows += 2,
                Err(error) if error.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE) => {}
                Err(error) => return Err(error).with_context(|| format!("node {node}: {insert}")),
            }
        }
    }
    Ok(rows)
}

#[test]
#[ignore = "a node joins; make soak runs it"]
fn a_fourth_node_draws_other_values() {
    CLUSTER.test(async |cluster| -> Result<()> {
        cluster.execute(0, DEFINITIONS).await?;
        cluster.settle().await?;
        let enough = Arc::new(AtomicBool::new(false));
        let begin = |(node, config)| tokio::spawn(write(config, node, Arc::clone(&enough), usize::MAX));
        let writers: Vec<_> = cluster.configs().into_iter().enumerate().map(begin).collect();
        let newcomer = cluster.plan_another()?;
        let mut join = cluster.begin_join(&newcomer, 1)?;
        ensure!(tokio::task::block_in_place(|| join.wait())?.success(), "{}", cluster.join_output(&newcomer));
        let fourth = cluster.start_joined(newcomer)?;
        cluster.wait_until("four nodes serve", PATIENCE, |status| all_serve(status, 4)).await?;
        let mut rows = write(cluster.configs()[fourth].clone(), fourth, Arc::default(), 100).await?;
        ensure!(rows > 100, "the fourth node wrote {rows} rows");
        enough.store(true, Ordering::Relaxed);
        for writer in writers {
            let written = writer.await??;
            ensure!(written > 100, "a node wrote {written} rows");
            rows += written;
        }
        cluster.settle().await?;
        let session = cluster.connect(fourth).await?;
        let row = session.query_one(TWICE, &[]).await?;
        let (twice, all): (i64, i64) = (row.get(0), row.get(1));
        ensure!(twice == 0 && all as u64 == rows, "{twice} values came twice; {all} rows of {rows}");
        drop(session);
        let verdict = cluster.verify().await?;
        ensure!(verdict.exit_code == 0, "{}", verdict.output);
        cluster.remove(fourth, PATIENCE).await?;
        cluster.execute(0, "DROP SCHEMA joined CASCADE").await?;
        Ok(())
    });
}
