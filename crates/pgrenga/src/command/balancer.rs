//! `pgrenga balancer`.

use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::Balancer;
use crate::lock::Lock;
use crate::report::Problem;
use crate::stop::StopSignals;

/// A session has two connections.
const FILES_PER_SESSION: u64 = 2;
/// For what is neither: the log, event loops, questions to the nodes, clients that are being turned away.
const FILES_OTHERWISE: u64 = 64;

/// Runs until told to stop.
pub(crate) async fn run(config: Balancer) -> Result<()> {
    let mut signals = StopSignals::listen()?;
    let _lock = config.pid_file.as_deref().map(Lock::take_file).transpose()?;
    let limits = &config.options.limits;
    allow_files(
        limits.max_connections as u64 * FILES_PER_SESSION + limits.max_unauthenticated as u64 + FILES_OTHERWISE,
    )?;
    let cluster = config.options.cluster.clone();
    let balancer = pgrenga_balancer::Balancer::bind(config.options).await?;
    tracing::info!(cluster, listen = %balancer.address(), pid = std::process::id(), "balancing");
    balancer.run(signals.next()).await;
    tracing::info!("stopped");
    Ok(())
}

/// Otherwise it would turn clients away in a way that nobody understands.
fn allow_files(needed: u64) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("could not ask for the limit of open files")?;
    if hard < needed {
        return Err(Problem::new(format!("the limit of {hard} open files is too low"))
            .detail(format!("So many connections as max_connections and max_unauthenticated allow take {needed}."))
            .hint("Raise it (systemd: LimitNOFILE=), or lower max_connections.")
            .into());
    }
    if soft < needed {
        setrlimit(Resource::RLIMIT_NOFILE, needed, hard).context("could not raise the limit of open files")?;
    }
    Ok(())
}
