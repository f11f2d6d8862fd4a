//! The promise: the log is kept as long as somebody needs it and no longer; a
//! node that starts from a snapshot in its place, after a crash or as a
//! newcomer, decides exactly as the others do.
//!
//! Snapshots are taken every megabyte here, so that whatever happens falls
//! between two of them, in the middle of conflicts. And every node checks its state
//! against the others' each second, so that a false alarm would show.

mod different;
mod forgotten;
mod full;
mod left_behind;
mod load;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use load::Load;
use pgrenga_testkit::cluster::{Cluster, Part, Shared};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const CONFIGURATION: &str =
    "[log]\nsegment_bytes = 5242880\nsnapshot_every_bytes = 1048576\n[check]\ninterval_seconds = 1\nrows = 700\n";
static CLUSTER: Shared = Shared::configured(3, CONFIGURATION);

/// Until all nodes serve again.
const RECOVERY: Duration = Duration::from_secs(90);
/// Four segments: what is written to, what is needed until every PostgreSQL has said that it
/// has flushed it, and what has come meanwhile.
const LOG_BYTES_MAX: u64 = 4 * 5_242_880;

/// What each node says of itself, by a member of its status.
async fn of_each(cluster: &Cluster, member: &str) -> Result<Vec<Value>> {
    let status = cluster.status().await?;
    let nodes = status["nodes"].as_array().context("there are nodes")?;
    Ok(nodes.iter().map(|node| node[member].clone()).collect())
}

async fn log_bytes(cluster: &Cluster) -> Result<Vec<u64>> {
    of_each(cluster, "log_bytes").await?.iter().map(|bytes| bytes.as_u64().context("a node does not answer")).collect()
}

/// Whether each node's log takes no more room than it may.
fn logs_are_small(status: &Value) -> bool {
    let nodes = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    nodes.iter().all(|node| node["log_bytes"].as_u64().is_some_and(|bytes| bytes <= LOG_BYTES_MAX))
}

/// All nodes have given the same verdicts, from the log's beginning to its end, and hold the same.
async fn agree(cluster: &Cluster) -> Result<()> {
    cluster.wait_serving(RECOVERY).await?;
    let same = |status: &Value| {
        let nodes = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
        let same = |member: &str| nodes.iter().all(|node| !node[member].is_null() && node[member] == nodes[0][member]);
        !nodes.is_empty() && same("committed_seq") && same("verdict_hash")
    };
    if let Err(error) = cluster.wait_until("all nodes give the same verdicts", Duration::from_secs(20), same).await {
        let (seqs, hashes) = (of_each(cluster, "committed_seq").await?, of_each(cluster, "verdict_hash").await?);
        return Err(error).context(format!("seqs {seqs:?}, hashes {hashes:?}"));
    }
    let verdict = cluster.verify().await?;
    ensure!(verdict.exit_code == 0, "{}", verdict.output);
    Ok(())
}

/// Waits until every node would start from a later place of the log than it would now.
async fn wait_for_snapshots(cluster: &Cluster) -> Result<()> {
    let before = of_each(cluster, "log_snapshot_index").await?;
    let later = |status: &Value| {
        let nodes = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
        nodes.iter().zip(&before).all(|(node, before)| node["log_snapshot_index"].as_u64() > before.as_u64())
    };
    Ok(cluster.wait_until("every node has taken a snapshot", RECOVERY, later).await?)
}

async fn kill(cluster: &Cluster, node: usize, part: Part) -> Result<()> {
    let before = cluster.pid(node, part);
    ensure!(cluster.kill(node, part), "{part:?} of node {node} does not run");
    let replaced = |_: &Value| cluster.pid(node, part).is_some_and(|now| Some(now) != before);
    Ok(cluster.wait_until("what was killed is replaced", RECOVERY, replaced).await?)
}

#[test]
fn verdicts_are_the_same_after_restarts_from_snapshots() {
    CLUSTER.test(async |cluster| {
        let load = Load::begin(cluster, "restarts").await?;
        for round in 0..3 {
            wait_for_snapshots(cluster).await.with_context(|| format!("round {round}"))?;
            kill(cluster, 2, Part::Daemon).await?;
            cluster.wait_serving(RECOVERY).await?;
        }
        wait_for_snapshots(cluster).await?;
        kill(cluster, 1, Part::Postgres).await?;
        cluster.wait_serving(RECOVERY).await?;
        load.end(cluster).await?;
        agree(cluster).await
    });
}

#[test]
fn everything_starts_again_from_snapshots() {
    CLUSTER.test(async |cluster| {
        let load = Load::begin(cluster, "everything").await?;
        wait_for_snapshots(cluster).await?;
        cluster.kill_everything();
        cluster.start_demo()?;
        cluster.wait_ready().await?;
        wait_for_snapshots(cluster).await?;
        load.end(cluster).await?;
        agree(cluster).await
    });
}

#[test]
fn the_log_stays_small() {
    CLUSTER.test(async |cluster| {
        cluster.execute(0, "CREATE SCHEMA small; CREATE TABLE small.t (id bigserial PRIMARY KEY, x text)").await?;
        let mut restarts = Vec::new();
        for round in 0..3 {
            // 30 MB.
            for _ in 0..30 {
                let insert = "INSERT INTO small.t (x) SELECT repeat('x', 1000) FROM generate_series(1, 1000)";
                cluster.execute(round, insert).await?;
            }
            let bounded = cluster.wait_until("every log is small", Duration::from_secs(20), logs_are_small).await;
            bounded.with_context(|| format!("round {round}"))?;
            let begun = Instant::now();
            kill(cluster, round, Part::Daemon).await?;
            cluster.wait_serving(RECOVERY).await?;
            restarts.push((log_bytes(cluster).await?, begun.elapsed()));
        }
        println!("logs, and restarts with them, after 30, 60 and 90 MB: {restarts:?}");
        agree(cluster).await
    });
}

#[test]
fn the_log_waits_for_a_node_that_is_down() {
    CLUSTER.test(async |cluster| {
        cluster.execute(0, "CREATE SCHEMA down; CREATE TABLE down.t (id bigserial PRIMARY KEY, x text)").await?;
        cluster.hold_supervisor();
        ensure!(cluster.kill(2, Part::Daemon) && cluster.kill(2, Part::Postgres), "node 2 is dead");
        let mut written = Ok(());
        for _ in 0..40 {
            let insert = "INSERT INTO down.t (x) SELECT repeat('x', 1000) FROM generate_series(1, 1000)";
            written = cluster.execute(0, insert).await;
        }
        let kept: Vec<Value> =
            of_each(cluster, "log_bytes").await?.into_iter().filter(|bytes| !bytes.is_null()).collect();
        cluster.release_supervisor();
        written?;
        ensure!(kept.iter().all(|bytes| bytes.as_u64() > Some(40_000_000)), "the log was cut too early: {kept:?}");
        agree(cluster).await?;
        // And small it stays while more comes.
        for _ in 0..5 {
            let insert = "INSERT INTO down.t (x) SELECT repeat('x', 1000) FROM generate_series(1, 1000)";
            cluster.execute(2, insert).await?;
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        Ok(cluster.wait_until("every log is small again", Duration::from_secs(20), logs_are_small).await?)
    });
}

/// Many states are taken while its fragments come; none may take their place before all nodes
/// have applied them.
#[test]
fn the_log_waits_for_the_end_of_a_large_transaction() {
    CLUSTER.test(async |cluster| {
        cluster.execute(0, "CREATE SCHEMA whole; CREATE TABLE whole.t (id bigserial PRIMARY KEY, x text)").await?;
        let seq: i64 = cluster.connect(0).await?.query_one("SELECT pgrenga.visible()", &[]).await?.get(0);
        cluster.ask_all(&format!("SELECT pgrenga.wait_for({seq}, 10000)")).await?;
        let large = "SET pgrenga.commit_timeout = '180s'; \
                     INSERT INTO whole.t (x) SELECT repeat('x', 2000) FROM generate_series(1, 50000)";
        let small = async {
            for _ in 0..100 {
                cluster.execute(1, "INSERT INTO whole.t (x) VALUES ('small')").await?;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ok(())
        };
        tokio::try_join!(cluster.execute(0, large), cluster.execute(2, large), small)?;
        agree(cluster).await
    });
}

/// An idle cluster's checks leave so many in hours.
const IDLE_MARKERS: i64 = 600;

/// Orders markers that nobody waits for.
async fn order_markers(cluster: &Cluster, count: i64) -> Result<()> {
    let file: Value = serde_json::from_slice(&std::fs::read(cluster.dir().join("cluster.json"))?)?;
    let url = file["nodes"][0]["admin_url"].as_str().context("a node has an admin URL")?;
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let order = async || {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        let request =
            format!("POST /markers HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        Ok(())
    };
    for _ in 0..count / 50 {
        futures::future::try_join_all((0..50).map(|_| order())).await?;
    }
    Ok(())
}

/// A marker takes a seq and leaves no commit record: PostgreSQL comes back before it, wherever
/// the snapshot stands. Those that nobody asks for any more are passed without one.
#[test]
fn markers_at_the_end_of_a_snapshot_are_passed_again() {
    CLUSTER.test(async |cluster| {
        cluster.execute(0, "CREATE SCHEMA markers; CREATE TABLE markers.t (id bigserial PRIMARY KEY, x text)").await?;
        for round in 0..3 {
            for _ in 0..3 {
                let insert = "INSERT INTO markers.t (x) SELECT repeat('x', 1000) FROM generate_series(1, 1000)";
                cluster.execute(0, insert).await?;
            }
            // While the state before them is being kept, so that the next one stands behind them.
            for _ in 0..2 {
                let verdict = cluster.verify().await?;
                ensure!(verdict.exit_code == 0, "{}", verdict.output);
            }
            tokio::time::sleep(Duration::from_secs(4)).await;
            if round == 2 {
                order_markers(cluster, IDLE_MARKERS).await?;
            }
            cluster.kill_everything();
            cluster.start_demo()?;
            cluster.wait_ready().await?;
        }
        // After a crash PostgreSQL counts anew.
        let sessions = "SELECT sessions FROM pg_stat_database WHERE datname = 'postgres'";
        for node in 0..cluster.len() {
            let sessions: i64 = cluster.connect(node).await?.query_one(sessions, &[]).await?.get(0);
            ensure!(
                sessions < IDLE_MARKERS / 2,
                "node {node} took snapshots that nobody asks for: {sessions} sessions"
            );
        }
        cluster.execute(1, "INSERT INTO markers.t VALUES (-1)").await?;
        agree(cluster).await
    });
}

#[test]
fn a_node_joins_though_the_log_was_cut() {
    CLUSTER.test(async |cluster| {
        let load = Load::begin(cluster, "joins").await?;
        wait_for_snapshots(cluster).await?;
        let begins = of_each(cluster, "log_snapshot_index").await?;
        ensure!(begins.iter().all(|index| index.as_u64() > Some(20)), "the log still begins at {begins:?}");
        let joined = cluster.join_another(1).await?;
        let serving = |status: &Value| status["nodes"][joined]["state"] == "serving";
        cluster.wait_until("the newcomer serves", RECOVERY, serving).await?;
        wait_for_snapshots(cluster).await.context("with a newcomer")?;
        load.end(cluster).await?;
        agree(cluster).await?;

        let load = Load::begin(cluster, "joined").await?;
        wait_for_snapshots(cluster).await.context("of the newcomer too")?;
        cluster.kill_everything();
        cluster.start_demo()?;
        cluster.wait_ready().await?;
        wait_for_snapshots(cluster).await?;
        load.end(cluster).await?;
        agree(cluster).await
    });
}
