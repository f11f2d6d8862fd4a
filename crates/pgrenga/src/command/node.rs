//! `pgrenga node`: the daemon, wired together.

use std::time::Duration;

use anyhow::{Context as _, Result};
use pgrenga_admin::{Client, Cluster};
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
    let (node, engine) = pgrenga_node::start(node_options(&config, &identity)).await?;
    let ended = tokio::select! {
        () = signals.next() => Ok(()),
        ended = engine => ended.context("the node's engine broke")?.map_err(Into::into),
        ended = attend(node.clone(), admin, &identity.peers) => ended,
    };
    tracing::info!("stopping PostgreSQL");
    node.stop().await?;
    match ended {
        Err(error) if is_removal(&error) => {
            Identity { data: Data::Removed, ..identity }.save(&config.dir)?;
            Err(removed(&config))
        }
        ended => ended,
    }
}

fn is_removal(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(pgrenga_node::Error::Removed))
}

/// Why a node does not run any more that was taken out.
fn removed(config: &Config) -> anyhow::Error {
    Problem::new(format!("node \"{}\" was removed from cluster \"{}\"", config.name, config.cluster))
        .detail("Its data is no longer kept up to date, and nothing of it comes back into the cluster.")
        .hint(format!("To make this machine a new node, empty \"{}\" and run 'pgrenga join'.", config.dir.display()))
        .into()
}

fn node_options(config: &Config, identity: &Identity) -> pgrenga_node::Options {
    let mut log = pgrenga_log::Options::new(identity.node_id, config.dir.join("log"), &identity.cluster_id);
    log.listen = config.listen;
    log.segment_bytes = config.log.segment_bytes;
    log.advertise.clone_from(&config.advertise);
    log.join = pgrenga_writeset::entry::join;
    pgrenga_node::Options {
        node: identity.node_id,
        name: identity.name.clone(),
        cluster: config.cluster.clone(),
        cluster_id: identity.cluster_id.clone(),
        bootstrap: identity.bootstrap,
        socket: config.port_socket(),
        log,
        server: config.server(),
        database: config.database.clone(),
        postgres: config.postgres.clone(),
        admin_url: config.admin_url.clone(),
        peer: config.advertise.clone(),
        peers: identity.peers.clone(),
        max_lag: config.serving.max_lag,
        ready_lag: config.serving.ready_lag,
        apply_workers: 4,
        apply_depth: 4,
        sequence_slots: 16,
        lease: Duration::from_secs(3),
        fence_timeout: Duration::from_secs(60),
        snapshot_every_bytes: config.log.snapshot_every_bytes,
        max_log_bytes: config.log.max_bytes,
    }
}

/// Serves the admin API of a running node, and makes it a voter when it has caught up.
async fn attend<C: Cluster>(cluster: C, admin: TcpListener, peers: &[String]) -> Result<()> {
    let serving = pgrenga_admin::serve(admin, cluster.clone(), std::future::pending());
    let (serving, ()) = tokio::join!(serving, become_voter(&cluster, peers));
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
    let identity = Identity::load(&config.dir)?.filter(|identity| identity.data != Data::Pending).ok_or_else(|| {
        Problem::new(format!("there is no node in \"{}\" yet", config.dir.display()))
            .hint("Make one with 'pgrenga init', or with 'pgrenga join' if the cluster exists.")
    })?;
    if identity.data == Data::Removed {
        return Err(removed(config));
    }
    if identity.name != config.name {
        return Err(Problem::new(format!("the node in \"{}\" is \"{}\"", config.dir.display(), identity.name))
            .detail(format!("Its configuration calls it \"{}\".", config.name))
            .hint("A node keeps its name: change the configuration back, or choose another dir.")
            .into());
    }
    Ok(identity)
}
