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
        let unknown = failed?;

        cluster.wait_serving(RECOVERY).await?;
        session.batch_execute("INSERT INTO majority.t VALUES (100)").await.context("with a majority again")?;
        cluster.execute(1, "INSERT INTO majority.t VALUES (101)").await?;
        for (id, txid) in unknown {
            let status = resolve(cluster, &txid).await?;
            let rows = cluster.ask_all(&format!("SELECT count(*) FROM majority.t WHERE id = {id}")).await?;
            let expected = if status == "(committed)" { "(1)" } else { "(0)" };
            ensure!(rows == [expected; 3], "transaction {txid} is {status}, and there are {rows:?} rows");
        }
        let verdict = cluster.verify().await?;
        ensure!(verdict.exit_code == 0, "{}", verdict.output);
        let acknowledged = "SELECT count(*) FROM majority.t WHERE id IN (1, 100, 101)";
        ensure!(cluster.ask_all(acknowledged).await? == ["(3)"; 3]);
        Ok(())
    });
}

/// What all nodes say of a transaction once it is decided.
async fn resolve(cluster: &Cluster, txid: &str) -> Result<String> {
    let begun = Instant::now();
    loop {
        let told = cluster.ask_all(&format!("SELECT pgrenga.transaction_status('{txid}')")).await?;
        if !told.contains(&"(\"in progress\")".to_owned()) {
            ensure!(told.iter().all(|status| status == &told[0]), "nodes differ over {txid}: {told:?}");
            ensure!(["(committed)", "(aborted)"].contains(&told[0].as_str()), "{txid} is {}", told[0]);
            // Others may show it a moment later than the one that told first.
            cluster.settle().await?;
            return Ok(told[0].clone());
        }
        ensure!(begun.elapsed() < RECOVERY, "{txid} is not decided: {told:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Stops the other two, and tries to write. Gives the rows whose fate is open, and
/// their transactions.
async fn fail_alone(cluster: &Cluster, session: &tokio_postgres::Client) -> Result<Vec<(i32, String)>> {
    let mut unknown = Vec::new();
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
        if code == "08007" {
            let detail = error.detail().unwrap_or_default();
            let txid = detail.split(' ').nth(1).with_context(|| format!("no transaction is named: {error:?}"))?;
            unknown.push((id, txid.to_owned()));
        }
    }
    ensure!(!unknown.is_empty(), "no write was in flight when the majority was gone");
    let (_, txid) = &unknown[0];
    let begun = Instant::now();
    let alone = session.query_one("SELECT pgrenga.transaction_status($1)", &[txid]).await;
    let error = alone.err().context("a minority told a transaction's outcome")?;
    ensure!(error.code().is_some_and(|code| code.code() == "57P03"), "{error:?}");
    ensure!(begun.elapsed() < TIMEOUT_AND_SLACK, "it took {:?}: {error:?}", begun.elapsed());
    let complaints = std::fs::read_to_string(cluster.dir().join("n1/daemon.log"))?.lines().count();
    ensure!(complaints < COMPLAINTS_MAX, "the daemon that is alone wrote {complaints} lines into its log");
    Ok(unknown)
}
