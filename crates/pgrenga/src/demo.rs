//! `pgrenga demo`: a whole cluster on this machine. Each node is the same
//! `pgrenga node` that runs anywhere, and so is the balancer; the demo makes them, keeps them running
//! and says where they are.

mod bring_up;
mod cluster_file;
mod layout;
mod leftover;
mod ports;
mod supervisor;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::unistd::geteuid;
use pgrenga_postgres::server::StopMode;

use crate::cli;
use crate::lock::{self, Lock};
use crate::report::{Problem, say};
use crate::stop::StopSignals;
use bring_up::Cluster;
use layout::{Common, Layout};

pub(crate) use cluster_file::{ClusterFile, Node};

/// How often `cluster.json` is compared with what runs.
const REFRESH: Duration = Duration::from_millis(100);

/// Where the demo lives if nothing else is said. PostgreSQL's user must be able
/// to get there, so root's home directory will not do.
pub(crate) fn default_dir() -> PathBuf {
    if geteuid().is_root() {
        return "/var/lib/pgrenga/demo".into();
    }
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/var/tmp".into())).join(".local/share");
    std::env::var_os("XDG_DATA_HOME").map_or_else(home, PathBuf::from).join("pgrenga/demo")
}

/// Runs the cluster until told to stop.
pub(crate) async fn run(arguments: cli::Demo) -> Result<()> {
    let mut signals = StopSignals::listen()?;
    let dir = std::path::absolute(arguments.dir.unwrap_or_else(default_dir))?;
    // Of two demos in one directory, the second one must not touch anything.
    let held = dir.is_dir().then(|| Lock::take(&dir, lock::DEMO)).transpose()?;
    let common = arguments.config.as_deref().map(Common::load).transpose()?.unwrap_or_default();
    let layout = Layout::plan(&dir, arguments.nodes, arguments.port)?;
    leftover::stop_daemons(&layout).await?;
    ports::check_free(&layout)?;
    create_dir(&dir)?;
    let _lock = held.map_or_else(|| Lock::take(&dir, lock::DEMO), Ok)?;
    layout.write_configs(&common)?;

    say(format_args!("cluster of {} nodes in {}", layout.nodes.len(), dir.display()));
    let mut cluster = Cluster::new(layout)?;
    let serve = async |cluster: &mut Cluster| {
        cluster.start_balancer().await?;
        cluster.bring_up().await?;
        let file = cluster.file();
        say("ready");
        say(format_args!("  psql -h 127.0.0.1 -p {} -U postgres", file.balancer.port));
        say("the balancer takes you to a node; straight to one:");
        for node in file.nodes {
            say(format_args!("  {}: psql -h 127.0.0.1 -p {} -U postgres", node.name, node.postgres_port));
        }
        cluster.watch().await
    };
    let result = tokio::select! {
        () = signals.next() => Ok(()),
        result = serve(&mut cluster) => result,
    };
    say("stopping");
    let stopped = stop(&mut cluster, &mut signals).await;
    result.and(stopped)
}

/// Makes a cluster in `dir`, on free ports, for as long as `work` takes; then, or on a signal, stops it.
pub(crate) async fn with_cluster<T>(
    dir: &Path,
    nodes: u16,
    signals: &mut StopSignals,
    work: impl AsyncFnOnce(ClusterFile) -> Result<T>,
) -> Result<T> {
    let layout = ports::choose(dir, nodes)?;
    create_dir(dir)?;
    let _lock = Lock::take(dir, lock::DEMO)?;
    layout.write_configs(&Common::default())?;
    let mut cluster = Cluster::new(layout)?;
    let serve = async |cluster: &mut Cluster| {
        cluster.bring_up().await?;
        let file = cluster.file();
        tokio::select! {
            result = work(file) => result,
            result = cluster.watch() => result.and(Err(Problem::new("the cluster is no longer watched").into())),
        }
    };
    let result = tokio::select! {
        () = signals.next() => Err(Problem::new("interrupted").into()),
        result = serve(&mut cluster) => result,
    };
    let stopped = stop(&mut cluster, signals).await;
    result.and_then(|result| stopped.map(|()| result))
}

async fn stop(cluster: &mut Cluster, signals: &mut StopSignals) -> Result<()> {
    tokio::select! {
        stopped = cluster.stop() => stopped,
        // Someone is in a hurry.
        () = signals.next() => cluster.stop_servers(StopMode::Immediate).await,
    }
}

/// Others may look into it: PostgreSQL's user has to.
fn create_dir(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir);
    made.with_context(|| format!("could not create directory \"{}\"", dir.display()))
}
