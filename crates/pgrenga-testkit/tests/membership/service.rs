//! The promise: a node that is detached, or lags too far behind, takes no new sessions, goes on with those
//! that it has, and takes some again when it is attached, or has caught up.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use pgrenga_testkit::cluster::{Cluster, Error, Part, Pid};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::CLUSTER;

/// Crash recovery on a busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(90);
const NODE: usize = 1;

fn shows(state: &'static str) -> impl Fn(&serde_json::Value) -> bool {
    move |status| status["nodes"][NODE]["state"] == state
}

/// A new session is refused with 57P03.
async fn is_turned_away(cluster: &Cluster) -> Result<bool> {
    let begun = Instant::now();
    loop {
        match cluster.connect(NODE).await {
            Ok(_) => return Ok(false),
            Err(Error::Postgres(error)) if error.code() == Some(&SqlState::CANNOT_CONNECT_NOW) => return Ok(true),
            Err(error) if begun.elapsed() > PATIENCE => return Err(error.into()),
            // Its server may be on its way up.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

#[test]
fn a_detached_node_takes_no_new_sessions() {
    CLUSTER.test(async |cluster| {
        cluster.execute(0, "CREATE SCHEMA service; CREATE TABLE service.t (id serial PRIMARY KEY)").await?;
        cluster.settle().await?;
        let session = cluster.connect(NODE).await?;
        order(cluster, "detach", "n2").await?;
        cluster.wait_until("it is detached", PATIENCE, shows("detached")).await?;
        ensure!(is_turned_away(cluster).await?);
        session.batch_execute("INSERT INTO service.t DEFAULT VALUES").await?;
        let verdict = cluster.verify().await?;
        ensure!(verdict.exit_code == 0, "{}", verdict.output);

        // The log remembers it.
        ensure!(cluster.kill(NODE, Part::Daemon) && cluster.kill(NODE, Part::Postgres));
        cluster.wait_until("it is back", PATIENCE, |status| status["nodes"][NODE]["applied_seq"].is_number()).await?;
        cluster.execute(0, "INSERT INTO service.t DEFAULT VALUES").await?;
        cluster.wait_until("it follows", PATIENCE, |status| status["nodes"][NODE]["lag_seq"] == 0).await?;
        cluster.wait_until("it is detached still", PATIENCE, shows("detached")).await?;
        ensure!(is_turned_away(cluster).await?);

        order(cluster, "detach", "n1").await?;
        let refused = order(cluster, "detach", "n3").await.expect_err("nobody would serve");
        ensure!(refused.to_string().contains("takes sessions"), "{refused}");
        let unknown = order(cluster, "detach", "n77").await.expect_err("nobody is called so");
        ensure!(unknown.to_string().contains("there is no node \"n77\""), "{unknown}");

        order(cluster, "attach", "n1").await?;
        order(cluster, "attach", "n2").await?;
        cluster.wait_serving(PATIENCE).await?;
        cluster.execute(NODE, "INSERT INTO service.t DEFAULT VALUES").await?;
        Ok(())
    });
}

async fn order(cluster: &Cluster, verb: &str, name: &str) -> Result<()> {
    let (code, output, errors) = cluster.run(&[verb, name]).await?;
    ensure!(code == 0, "{output}{errors}");
    Ok(())
}

#[test]
fn a_node_that_lags_serves_when_it_has_caught_up() {
    CLUSTER.test(async |cluster| {
        cluster.execute(0, "CREATE SCHEMA lag; CREATE TABLE lag.t (id int PRIMARY KEY)").await?;
        cluster.settle().await?;
        let session = cluster.connect(NODE).await?;
        let appliers = appliers(&session).await?;
        appliers.iter().for_each(|pid| assert!(pid.signal(Signal::SIGSTOP)));
        let lagging = async {
            write(cluster, 4000).await?;
            cluster.wait_until("it lags", PATIENCE, |status| !shows("serving")(status)).await?;
            is_turned_away(cluster).await
        };
        let lagging = lagging.await;
        appliers.iter().for_each(|pid| assert!(pid.signal(Signal::SIGCONT)));
        ensure!(lagging?, "a new session came in");
        cluster.wait_serving(PATIENCE).await?;
        ensure!(!is_turned_away(cluster).await?);
        cluster.settle().await?;
        ensure!(cluster.ask_all("SELECT count(*) FROM lag.t").await? == ["(4000)"; 3]);
        Ok(())
    });
}

/// PostgreSQL's own words, for who looks only at `pgrenga status`.
#[test]
fn status_says_why_postgresql_does_not_start() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let file = cluster.data_dir(NODE).join("postgresql.conf");
        let before = std::fs::read_to_string(&file)?;
        std::fs::write(&file, format!("{before}\nshared_buffers = nonsense\n"))?;
        let said = async {
            ensure!(cluster.kill(NODE, Part::Postgres), "its PostgreSQL runs");
            let says = |status: &serde_json::Value| {
                let node = &status["nodes"][NODE];
                let reason = node["reason"].as_str().unwrap_or_default();
                node["state"] == "detached" && reason.contains("did not start") && reason.contains("contains errors")
            };
            Ok(cluster.wait_until("status says why", PATIENCE, says).await?)
        };
        let said = said.await;
        std::fs::write(&file, before)?;
        said?;
        cluster.wait_serving(PATIENCE).await?;
        let quiet = |status: &serde_json::Value| status["nodes"][NODE]["reason"].is_null();
        Ok(cluster.wait_until("and no longer when it is well", PATIENCE, quiet).await?)
    });
}

/// The backends that apply what other nodes wrote.
async fn appliers(session: &Client) -> Result<Vec<Pid>> {
    let query = "SELECT pid FROM pg_stat_activity
        WHERE application_name = 'pgrenga' AND backend_type = 'client backend' AND query NOT LIKE '%flushed()%'";
    let rows = session.query(query, &[]).await?;
    let pids: Vec<Pid> = rows.iter().filter_map(|row| Pid::running(row.get::<_, i32>(0))).collect();
    ensure!(!pids.is_empty(), "nothing was applied yet");
    Ok(pids)
}

/// So many transactions, from several sessions at once.
async fn write(cluster: &Cluster, count: i32) -> Result<()> {
    let sessions: i32 = 16;
    let mut writers = tokio::task::JoinSet::new();
    for first in 0..sessions {
        let client = cluster.connect(0).await?;
        writers.spawn(async move {
            for id in (first..count).step_by(sessions as usize) {
                client.batch_execute(&format!("INSERT INTO lag.t VALUES ({id})")).await?;
            }
            Ok::<_, tokio_postgres::Error>(())
        });
    }
    for written in writers.join_all().await {
        written?;
    }
    Ok(())
}
