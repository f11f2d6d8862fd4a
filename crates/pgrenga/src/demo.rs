//! `pgrenga demo`: a whole cluster on this machine. Each node is the same
//! `pgrenga node` that runs anywhere; the demo makes them, keeps them running
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
use crate::report::say;
use crate::stop::StopSignals;
use bring_up::Cluster;
use layout::Layout;

pub(crate) use cluster_file::ClusterFile;

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
    let layout = Layout::plan(&dir, arguments.nodes, arguments.port)?;
    leftover::stop_daemons(&layout).await?;
    ports::check_free(&layout)?;
    create_dir(&dir)?;
    let _lock = held.map_or_else(|| Lock::take(&dir, lock::DEMO), Ok)?;
    layout.write_configs()?;

    say(format_args!("cluster of {} nodes in {}", layout.nodes.len(), dir.display()));
    let mut cluster = Cluster::new(layout)?;
    let result = tokio::select! {
        () = signals.next() => Ok(()),
        result = cluster.bring_up_and_watch() => result,
    };
    say("stopping");
    let stopped = tokio::select! {
        stopped = cluster.stop() => stopped,
        // Someone is in a hurry.
        () = signals.next() => cluster.stop_servers(StopMode::Immediate).await,
    };
    result.and(stopped)
}

/// Others may look into it: PostgreSQL's user has to.
fn create_dir(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir);
    made.with_context(|| format!("could not create directory \"{}\"", dir.display()))
}
