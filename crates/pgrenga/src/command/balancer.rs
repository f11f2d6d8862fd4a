//! `pgrenga balancer`.

use std::path::Path;

use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pgrenga_balancer::{Handle, Limits, Options};
use tokio::signal::unix::SignalKind;

use crate::config::{self, Balancer};
use crate::lock::Lock;
use crate::report::{self, Problem};
use crate::stop::{self, StopSignals};

/// A session has two connections.
const FILES_PER_SESSION: u64 = 2;
/// For what is neither: the log, event loops, questions to the nodes, clients that are being turned away.
const FILES_OTHERWISE: u64 = 64;

/// Runs until told to stop.
pub(crate) async fn run(path: &Path) -> Result<()> {
    let mut signals = StopSignals::listen_but_for_hangup()?;
    let mut hangups = stop::listen(SignalKind::hangup())?;
    let config = config::load_balancer(path)?;
    let _lock = config.pid_file.as_deref().map(Lock::take_file).transpose()?;
    allow_files(&config.options.settings.limits)?;
    let Options { cluster, .. } = &config.options;
    let balancer = pgrenga_balancer::Balancer::bind(config.options.clone()).await?;
    tracing::info!(cluster, listen = %balancer.address(), pid = std::process::id(), "balancing");
    let handle = balancer.handle();
    let reloading = async {
        loop {
            hangups.recv().await;
            reload(path, &config, &handle);
        }
    };
    tokio::select! {
        () = balancer.run(signals.next()) => {}
        () = reloading => {}
    }
    tracing::info!("stopped");
    Ok(())
}

/// Takes what the file says now, whole or not at all.
fn reload(path: &Path, started_with: &Balancer, handle: &Handle) {
    let checked = config::load_balancer(path).and_then(|config| {
        allow_files(&config.options.settings.limits)?;
        Ok(config)
    });
    match checked {
        Ok(config) => {
            for key in config.fixed(started_with) {
                tracing::warn!(key, "takes effect when the balancer is started again");
            }
            handle.change(config.options.settings);
            tracing::info!("configuration reloaded");
        }
        Err(error) => tracing::error!("configuration not reloaded, the one before stays\n{}", report::describe(&error)),
    }
}

/// Otherwise it would turn clients away in a way that nobody understands.
fn allow_files(limits: &Limits) -> Result<()> {
    let needed =
        limits.max_connections as u64 * FILES_PER_SESSION + limits.max_unauthenticated as u64 + FILES_OTHERWISE;
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
