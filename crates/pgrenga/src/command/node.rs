//! `pgrenga node`: the daemon, wired together.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, Result};
use pgrenga_admin::{Client, Cluster};
use pgrenga_postgres::server::StopMode;
use tokio::net::TcpListener;

use crate::config::Config;
use crate::identity::{Data, Identity};
use crate::lock::{self, Lock};
use crate::report::Problem;
use crate::stop::StopSignals;

/// How often a joiner asks whether it has caught up enough to vote.
const READY_INTERVAL: Duration = Duration::from_millis(500);

/// Runs until told to stop, or until the node cannot go on.
pub(crate) async fn run(config: Config) -> Result<()> {
    let mut signals = StopSignals::listen()?;
    let identity = own_identity(&config)?;
    let _lock = Lock::take(&config.dir, lock::DAEMON)?;
    let admin = TcpListener::bind(config.admin)
        .await
        .with_context(|| format!("could not listen on {} for the admin API", config.admin))?;
    let server = config.server();
    server.configure(&config.settings.as_pairs()).await?;
    tracing::info!(node = %identity.name, id = %identity.node_id, pid = std::process::id(), "starting");
    let ended = tokio::select! {
        () = signals.next() => Ok(()),
        ended = run_node(&config, &identity, admin) => ended,
    };
    tracing::info!("stopping PostgreSQL");
    server.stop(StopMode::Fast).await?;
    ended
}

/// The node's parts, tied together by `pgrenga-node`.
async fn run_node(_config: &Config, _identity: &Identity, _admin: TcpListener) -> Result<()> {
    Err(Problem::new("this build cannot run a node").into())
}

/// Serves the admin API of a running node, and makes it a voter when it has caught up.
#[expect(dead_code, reason = "waits for pgrenga-node's handle")]
async fn attend<C: Cluster>(
    cluster: C,
    admin: TcpListener,
    peers: &[String],
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let (serving, ()) =
        tokio::join!(pgrenga_admin::serve(admin, cluster.clone(), shutdown), become_voter(&cluster, peers));
    serving.context("could not serve the admin API")
}

/// Asks the peers until one of them has made us a voter. They refuse as long as we lag.
async fn become_voter<C: Cluster>(cluster: &C, peers: &[String]) {
    let client = Client::new();
    let own = cluster.node().id;
    let is_voter = || cluster.members().iter().any(|member| member.id == own && member.voter);
    while !is_voter() {
        for peer in peers {
            match client.bring_in(peer, own).await {
                Ok(()) => break,
                Err(error) => tracing::debug!(%error, "not a voter yet"),
            }
        }
        tokio::time::sleep(READY_INTERVAL).await;
    }
}

fn own_identity(config: &Config) -> Result<Identity> {
    let identity =
        Identity::load(&config.dir)?.filter(|identity| identity.data == Data::Complete).ok_or_else(|| {
            Problem::new(format!("there is no node in \"{}\" yet", config.dir.display()))
                .hint("Make one with 'pgrenga init', or with 'pgrenga join' if the cluster exists.")
        })?;
    if identity.name != config.name {
        return Err(Problem::new(format!("the node in \"{}\" is \"{}\"", config.dir.display(), identity.name))
            .detail(format!("Its configuration calls it \"{}\".", config.name))
            .hint("A node keeps its name: change the configuration back, or choose another dir.")
            .into());
    }
    Ok(identity)
}
