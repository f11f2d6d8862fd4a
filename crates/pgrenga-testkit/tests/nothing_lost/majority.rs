//! The promise: without a majority nothing is acknowledged; COMMIT fails with a
//! clear error in time, and works again when the majority is back.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pgrenga_testkit::cluster::{Cluster, Part};

use crate::{CLUSTER, RECOVERY};

/// What the test sets, and how late an answer may be on a busy machine.
const TIMEOUT: &str = "SET pgrenga.commit_timeout = '2s'";
/// Being alone is said, but not without end.
const COMPLAINTS_MAX: usize = 2000;
const TIMEOUT_AND_SLACK: Duration = Duration::from_secs(5);

#[test]
fn without_a_majority_commit_fails_in_time() {
    CLUSTER.test(async |cluster| {
        let create = "CREATE SCHEMA majority; CREATE TABLE majority.t (id int PRIMARY KEY)";
        cluster.execute(0, create).await?;
        let session = cluster.connect(0).await?;
        session.batch_execute(TIMEOUT).await?;
        session.batch_execute("INSERT INTO majority.t VALUES (1)").await?;

        cluster.hold_supervisor();
        let failed = fail_alone(cluster, &session).await;
        cluster.release_supervisor();
        failed?;

        cluster.wait_serving(RECOVERY).await?;
        session.batch_execute("INSERT INTO majority.t VALUES (100)").await.context("with a majority again")?;
        cluster.execute(1, "INSERT INTO majority.t VALUES (101)").await?;
        let verdict = cluster.verify().await?;
        ensure!(verdict.exit_code == 0, "{}", verdict.output);
        let acknowledged = "SELECT count(*) FROM majority.t WHERE id IN (1, 100, 101)";
        ensure!(cluster.ask_all(acknowledged).await? == ["(3)"; 3]);
        Ok(())
    });
}

/// Stops the other two, and tries to write.
async fn fail_alone(cluster: &Cluster, session: &tokio_postgres::Client) -> Result<()> {
    for node in [1, 2] {
        ensure!(cluster.kill(node, Part::Daemon) && cluster.kill(node, Part::Postgres), "node {node} is dead");
    }
    for id in 2..5 {
        let begun = Instant::now();
        let result = session.batch_execute(&format!("INSERT INTO majority.t VALUES ({id})")).await;
        let elapsed = begun.elapsed();
        let error = result.err().context("it was acknowledged by a minority")?;
        let error = error.as_db_error().with_context(|| format!("not an answer of the server: {error:?}"))?;
        // Unknown while it was in flight; refused at once when the node knows that it is alone.
        let code = error.code().code();
        ensure!(["08007", "57P03"].contains(&code), "{error:?}");
        ensure!(error.detail().is_some() && error.hint().is_some(), "no detail or no hint: {error:?}");
        ensure!(elapsed < TIMEOUT_AND_SLACK, "it took {elapsed:?}: {error:?}");
    }
    let complaints = std::fs::read_to_string(cluster.dir().join("n1/daemon.log"))?.lines().count();
    ensure!(complaints < COMPLAINTS_MAX, "the daemon that is alone wrote {complaints} lines into its log");
    Ok(())
}
