//! Programs and drivers, unchanged.

use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::{SinkExt as _, StreamExt as _, pin_mut};
use pgrenga_testkit::cluster::Cluster;
use tokio::process::Command;
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

use crate::{CLUSTER, connect};

/// A result that is much larger than what the balancer may hold.
const RESULT_BYTES: usize = 200 << 20;
const HELD_KILOBYTES_MAX: u64 = 20 << 10;

/// Runs a program of PostgreSQL's with the balancer as its server.
async fn run(cluster: &Cluster, program: &str, arguments: &[&str]) -> Result<Output> {
    let port = cluster.through_balancer()?.get_ports()[0].to_string();
    let mut command = Command::new(program);
    command.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &port]).args(arguments).stdin(Stdio::null());
    let output = command.output().await.with_context(|| program.to_owned())?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output)
}

#[test]
fn psql_pgbench_and_pg_dump() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let make = "CREATE TABLE t (id int PRIMARY KEY, x text); INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 10000) i";
        run(cluster, "psql", &["-q", "-c", make, "postgres"]).await?;
        cluster.settle().await?;
        let script = cluster.dir().join("select.sql");
        std::fs::write(&script, "\\set id random(1, 10000)\nSELECT x FROM t WHERE id = :id;\n")?;
        let script = script.to_str().context("a path in UTF-8")?;
        for mode in ["simple", "extended", "prepared"] {
            let arguments = ["-n", "-f", script, "-c", "6", "-j", "2", "-t", "50", "-M", mode, "postgres"];
            let output = run(cluster, "pgbench", &arguments).await?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            ensure!(said.contains("number of failed transactions: 0"), "{said}");
        }
        let output = run(cluster, "pg_dump", &["-t", "t", "postgres"]).await?;
        let dump = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(dump.lines().filter(|line| line.contains("\trow ")).count() == 10_000, "{}", dump.len());
        let output = run(cluster, "psql", &["-At", "-c", "SELECT count(*) FROM t", "postgres"]).await?;
        ensure!(output.stdout == b"10000\n", "{output:?}");
        Ok(())
    });
}

#[test]
fn a_driver_prepares_pipelines_and_copies_both_ways() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let session = connect(cluster).await?;
        session.batch_execute("CREATE TABLE copied (id int PRIMARY KEY, x text)").await?;
        let sink = session.copy_in("COPY copied FROM STDIN").await?;
        pin_mut!(sink);
        for block in 0..100 {
            let rows: String = (0..100).map(|row| format!("{}\t{}\n", block * 100 + row, "x".repeat(100))).collect();
            sink.send(std::io::Cursor::new(rows.into_bytes())).await?;
        }
        ensure!(sink.finish().await? == 10_000);
        let rows = session.copy_out("COPY copied TO STDOUT").await?;
        pin_mut!(rows);
        let mut bytes = 0;
        while let Some(chunk) = rows.next().await {
            bytes += chunk?.len();
        }
        ensure!(bytes > 1_000_000);

        let statement = session.prepare("SELECT x FROM copied WHERE id = $1").await?;
        let (session, statement) = (&session, &statement);
        let questions = (0..200).map(|id| async move { session.query_one(statement, &[&id]).await });
        for answer in futures::future::try_join_all(questions).await? {
            ensure!(answer.get::<_, &str>(0).len() == 100);
        }
        Ok(())
    });
}

#[test]
fn a_cancel_request_ends_its_own_sessions_statement() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let (session, bystander) = (connect(cluster).await?, connect(cluster).await?);
        let patient = tokio::spawn(async move { bystander.query_one("SELECT pg_sleep(3)", &[]).await });
        let cancel = session.cancel_token();
        let query = session.batch_execute("SELECT pg_sleep(600)");
        pin_mut!(query);
        // A request that comes before the statement cancels nothing.
        let error = loop {
            tokio::select! {
                result = &mut query => break result.expect_err("it was cancelled"),
                () = tokio::time::sleep(Duration::from_millis(100)) => cancel.cancel_query(NoTls).await?,
            }
        };
        ensure!(error.code() == Some(&SqlState::QUERY_CANCELED), "{error:?}");
        patient.await??;
        Ok(())
    });
}

#[test]
fn a_large_result_is_never_held() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let session = connect(cluster).await?;
        let before = peak_kilobytes(cluster)?;
        let rows = RESULT_BYTES / 1_000;
        let query = format!("COPY (SELECT repeat('x', 999) FROM generate_series(1, {rows})) TO STDOUT");
        let result = session.copy_out(&query).await?;
        pin_mut!(result);
        let mut bytes = 0;
        while let Some(chunk) = result.next().await {
            bytes += chunk?.len();
        }
        ensure!(bytes == rows * 1_000);
        let held = peak_kilobytes(cluster)? - before;
        ensure!(held < HELD_KILOBYTES_MAX, "{held} kB");
        Ok(())
    });
}

/// The most that the balancer ever had in memory.
fn peak_kilobytes(cluster: &Cluster) -> Result<u64> {
    let pid = cluster.balancer_pid().context("the balancer runs")?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.raw()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
