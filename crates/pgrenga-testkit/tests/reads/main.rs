//! The promise: a session sees what it asked to see, whichever node it asks; and a
//! node that does not know what the others do serves no reads, and says why.

mod acknowledged;
mod consistency;
mod minority;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use pgrenga_testkit::cluster::{Cluster, Shared};
use tokio_postgres::error::DbError;

static CLUSTER: Shared = Shared::new(3);

/// Processes that are stopped until this is dropped.
struct Stopped(Vec<Pid>);

impl Stopped {
    fn stop(pids: Vec<i32>) -> Self {
        let pids: Vec<_> = pids.into_iter().map(Pid::from_raw).collect();
        for pid in &pids {
            let _ = nix::sys::signal::kill(*pid, Signal::SIGSTOP);
        }
        Self(pids)
    }

    /// What applies other nodes' transactions on this one.
    async fn appliers_of(cluster: &Cluster, node: usize) -> Result<Self> {
        let session = cluster.connect(node).await?;
        let appliers =
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgrenga' AND query LIKE '%pgrenga.apply%'";
        let pids: Vec<i32> = session.query(appliers, &[]).await?.iter().map(|row| row.get(0)).collect();
        ensure!(!pids.is_empty(), "node {node} has no appliers");
        Ok(Self::stop(pids))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = nix::sys::signal::kill(*pid, Signal::SIGCONT);
        }
    }
}

/// Lets go of what is stopped after a while, while something else waits for it.
async fn release_later(stopped: Stopped, after: Duration) {
    tokio::time::sleep(after).await;
    drop(stopped);
}

fn said(error: &tokio_postgres::Error) -> Result<&DbError> {
    error.as_db_error().with_context(|| format!("not an answer of the server: {error:?}"))
}
