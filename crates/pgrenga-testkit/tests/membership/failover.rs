//! The promise: when a node is gone or hangs, the leader or not, writes on the others go on within two
//! seconds, without anybody's help; and the others show it as detached.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use pgrenga_testkit::cluster::{Cluster, Part};
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;

use crate::CLUSTER;

/// How long writes on the other nodes may pause.
pub(crate) const GAP_MAX: Duration = Duration::from_secs(2);
const BEFORE: Duration = Duration::from_millis(500);
/// The fault lasts for so long.
const DURING: Duration = Duration::from_millis(2500);
/// And if need be a little longer, until it is noticed.
const NOTICE: Duration = Duration::from_secs(20);
const RECOVERY: Duration = Duration::from_secs(60);
const NODES: usize = 3;
/// Who shares the machine may make writes pause, too; not every time.
pub(crate) const ATTEMPTS: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// SIGKILL to the daemon and to PostgreSQL at once.
    Killed,
    /// The same while a transaction there has changed a definition, for which the others wait.
    KilledInDdl,
    /// SIGSTOP to the daemon.
    DaemonHangs,
    /// SIGSTOP to every process of PostgreSQL.
    PostgresHangs,
}

impl Fault {
    fn begin(self, cluster: &Cluster, node: usize) -> bool {
        match self {
            Self::Killed | Self::KilledInDdl => {
                // Nobody starts it again meanwhile.
                cluster.hold_supervisor();
                let daemon = cluster.signal(node, Part::Daemon, Signal::SIGKILL);
                cluster.signal_all(node, Part::Postgres, Signal::SIGKILL) && daemon
            }
            Self::DaemonHangs => cluster.signal(node, Part::Daemon, Signal::SIGSTOP),
            Self::PostgresHangs => cluster.signal_all(node, Part::Postgres, Signal::SIGSTOP),
        }
    }

    fn end(self, cluster: &Cluster, node: usize) -> bool {
        match self {
            Self::Killed | Self::KilledInDdl => {
                cluster.release_supervisor();
                true
            }
            Self::DaemonHangs => cluster.signal(node, Part::Daemon, Signal::SIGCONT),
            Self::PostgresHangs => cluster.signal_all(node, Part::Postgres, Signal::SIGCONT),
        }
    }
}

#[test]
fn the_others_go_on_within_two_seconds() {
    go_on(&[
        (Fault::Killed, true),
        (Fault::DaemonHangs, true),
        (Fault::KilledInDdl, false),
        (Fault::PostgresHangs, false),
    ]);
}

#[test]
#[ignore = "takes minutes; see scripts/soak"]
fn the_others_go_on_within_two_seconds_every_time() {
    let faults = [Fault::Killed, Fault::KilledInDdl, Fault::DaemonHangs, Fault::PostgresHangs];
    go_on(&faults.map(|fault| [(fault, true), (fault, false)]).concat().repeat(5));
}

fn go_on(rounds: &[(Fault, bool)]) {
    CLUSTER.test(async |cluster| {
        cluster
            .execute(0, "CREATE SCHEMA IF NOT EXISTS failover; CREATE TABLE failover.t (id int PRIMARY KEY)")
            .await?;
        let ids = Arc::new(AtomicU32::new(0));
        for &(fault, at_leader) in rounds {
            let mut gaps = Vec::new();
            while gaps.last().is_none_or(|gap| *gap > GAP_MAX) {
                ensure!(gaps.len() < ATTEMPTS, "{fault:?}, leader: {at_leader}: writes paused for {gaps:?}");
                let leader = leader(cluster).await?;
                let node = if at_leader { leader } else { (leader + 1) % NODES };
                let gap = pause_of_the_others(cluster, fault, node, &ids).await?;
                println!("{fault:?}, leader: {at_leader}: writes on the others paused for {} ms", gap.as_millis());
                gaps.push(gap);
                cluster.wait_serving(RECOVERY).await?;
            }
        }
        let verdict = cluster.verify().await?;
        ensure!(verdict.exit_code == 0, "{}", verdict.output);
        cluster.execute(0, "DROP TABLE failover.t").await?;
        Ok(())
    });
}

pub(crate) async fn leader(cluster: &Cluster) -> Result<usize> {
    let status = cluster.status().await?;
    let name = status["leader"].as_str().context("there is a leader")?;
    let nodes = status["nodes"].as_array().context("there are nodes")?;
    nodes.iter().position(|node| node["name"] == name).context("the leader is a node")
}

/// The longest time between two acknowledged writes on any of the other nodes.
async fn pause_of_the_others(cluster: &Cluster, fault: Fault, node: usize, ids: &Arc<AtomicU32>) -> Result<Duration> {
    let writers = Writers::on_the_others(cluster, node, ids);
    tokio::time::sleep(BEFORE).await;
    let session = cluster.connect(node).await?;
    if fault == Fault::KilledInDdl {
        session.batch_execute("BEGIN; CREATE TABLE failover.half (x int)").await?;
    }
    let began = fault.begin(cluster, node);
    tokio::time::sleep(DURING).await;
    let detached = |status: &serde_json::Value| status["nodes"][node]["state"] == "detached";
    let shown = cluster.wait_until("the others show it as detached", NOTICE, detached).await;
    writers.request_stop();
    let ended = fault.end(cluster, node);
    ensure!(began && ended, "{fault:?}: the process was not there");
    shown?;
    writers.longest_pause().await
}

/// One on each node but one.
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Duration>>,
}

impl Writers {
    pub(crate) fn on_the_others(cluster: &Cluster, node: usize, ids: &Arc<AtomicU32>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let others = cluster.configs().into_iter().enumerate().take(NODES).filter(|(other, _)| *other != node);
        let write = |(_, config)| tokio::spawn(write(config, Arc::clone(ids), Arc::clone(&stop)));
        Self { writers: others.map(write).collect(), stop }
    }

    pub(crate) fn request_stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// The longest time between two acknowledged writes on any of the nodes.
    pub(crate) async fn longest_pause(self) -> Result<Duration> {
        let mut longest = Duration::ZERO;
        for writer in self.writers {
            longest = longest.max(writer.await?);
        }
        Ok(longest)
    }
}

/// Writes row after row, and begins anew after every error, until told to stop.
async fn write(config: tokio_postgres::Config, ids: Arc<AtomicU32>, stop: Arc<AtomicBool>) -> Duration {
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        if let Ok((client, connection)) = config.connect(NoTls).await {
            tokio::spawn(connection);
            while !stop.load(Ordering::Relaxed) {
                let id = ids.fetch_add(1, Ordering::Relaxed);
                let written = client.batch_execute(&format!("INSERT INTO failover.t VALUES ({id})")).await;
                if let Err(error) = written {
                    println!("a client of another node got: {error:?}");
                    break;
                }
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    longest.max(last.elapsed())
}
