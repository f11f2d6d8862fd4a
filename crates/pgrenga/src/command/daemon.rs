//! What the daemons of nodes and of witnesses have in common.

use std::time::Duration;

use anyhow::{Context as _, Result};
use pgrenga_admin::{Client, Cluster};
use pgrenga_node::{Options, Pace, Postgres};
use tokio::net::TcpListener;

use crate::config::{LogMember, Serving};
use crate::identity::{Data, Identity};
use crate::lock::{self, Lock};
use crate::report::Problem;
use crate::stop::StopSignals;

/// How often a joiner asks whether it has caught up enough to vote.
const READY_INTERVAL: Duration = Duration::from_millis(500);

const REMOVED: &str = "Its data is no longer kept up to date, and nothing of it comes back into the cluster.";
const REPLACED: &str = "Its cluster was recovered without it, and goes on as another one.";

/// A daemon that has its directory and its address, and does nothing yet.
pub(super) struct Daemon<'a> {
    member: &'a LogMember,
    identity: Identity,
    signals: StopSignals,
    admin: TcpListener,
    _lock: Lock,
}

impl<'a> Daemon<'a> {
    pub(super) async fn prepare(member: &'a LogMember, witness: bool) -> Result<Self> {
        let signals = StopSignals::listen()?;
        let identity = own_identity(member, witness)?;
        let lock = Lock::take(&member.dir, lock::DAEMON)?;
        let admin = TcpListener::bind(member.admin)
            .await
            .with_context(|| format!("could not listen on {} for the admin API", member.admin))?;
        Ok(Self { member, identity, signals, admin, _lock: lock })
    }

    /// Runs until told to stop, or until it cannot go on.
    pub(super) async fn run(mut self, postgres: Option<Postgres>, serving: Serving, check: Option<Pace>) -> Result<()> {
        let Identity { name, node_id, peers, .. } = &self.identity;
        tracing::info!(node = %name, id = %node_id, pid = std::process::id(), "starting");
        let (node, engine) =
            pgrenga_node::start(options(self.member, &self.identity, postgres, serving, check)).await?;
        let ended = tokio::select! {
            () = self.signals.next() => Ok(()),
            ended = engine => ended.context("the node's engine broke")?.map_err(Into::into),
            ended = attend(node.clone(), self.admin, peers) => ended,
        };
        tracing::info!("stopping");
        node.stop().await?;
        match ended {
            Err(error) => match final_word(&error) {
                Some(detail) => {
                    Identity { data: Data::Removed, ..self.identity }.save(&self.member.dir)?;
                    Err(removed(self.member, detail))
                }
                None => Err(error),
            },
            Ok(()) => Ok(()),
        }
    }
}

/// What to say if it may never run again.
fn final_word(error: &anyhow::Error) -> Option<&'static str> {
    match error.downcast_ref()? {
        pgrenga_node::Error::Removed => Some(REMOVED),
        pgrenga_node::Error::Replaced => Some(REPLACED),
        _ => None,
    }
}

/// Why a node does not run any more that was taken out.
fn removed(member: &LogMember, detail: &str) -> anyhow::Error {
    Problem::new(format!("node \"{}\" was removed from cluster \"{}\"", member.name, member.cluster))
        .detail(detail)
        .hint(format!("To make this machine a new node, empty \"{}\" and run 'pgrenga join'.", member.dir.display()))
        .into()
}

fn options(
    member: &LogMember,
    identity: &Identity,
    postgres: Option<Postgres>,
    serving: Serving,
    check: Option<Pace>,
) -> Options {
    let mut log = pgrenga_log::Options::new(identity.node_id, member.dir.join("log"), &identity.cluster_id);
    log.listen = member.listen;
    log.segment_bytes = member.log.segment_bytes;
    log.advertise.clone_from(&member.advertise);
    log.join = pgrenga_writeset::entry::join;
    Options {
        node: identity.node_id,
        name: identity.name.clone(),
        cluster: member.cluster.clone(),
        cluster_id: identity.cluster_id.clone(),
        former_cluster_ids: identity.former.clone(),
        bootstrap: identity.bootstrap,
        log,
        postgres,
        admin_url: member.admin_url.clone(),
        peer: member.advertise.clone(),
        peers: identity.peers.clone(),
        max_lag: serving.max_lag,
        ready_lag: serving.ready_lag,
        check,
        apply_workers: 4,
        apply_depth: 4,
        sequence_slots: 16,
        lease: Duration::from_secs(3),
        fence_timeout: Duration::from_secs(60),
        snapshot_every_bytes: member.log.snapshot_every_bytes,
        outcomes_dir: member.dir.join("outcomes"),
        outcomes_limits: pgrenga_outcomes::Limits {
            age: Duration::from_secs(member.log.outcomes_days * 24 * 3600),
            bytes: member.log.outcomes_max_bytes,
        },
        max_log_bytes: member.log.max_bytes,
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

fn own_identity(member: &LogMember, witness: bool) -> Result<Identity> {
    let identity = Identity::load(&member.dir)?.filter(|identity| identity.data != Data::Pending).ok_or_else(|| {
        Problem::new(format!(
            "there is no {} in \"{}\" yet",
            if witness { "witness" } else { "node" },
            member.dir.display()
        ))
        .hint(if witness {
            "Make one with 'pgrenga join --witness'."
        } else {
            "Make one with 'pgrenga init', or with 'pgrenga join' if the cluster exists."
        })
    })?;
    if identity.data == Data::Removed {
        return Err(removed(member, REMOVED));
    }
    if identity.name != member.name {
        return Err(Problem::new(format!("the node in \"{}\" is \"{}\"", member.dir.display(), identity.name))
            .detail(format!("Its configuration calls it \"{}\".", member.name))
            .hint("A node keeps its name: change the configuration back, or choose another dir.")
            .into());
    }
    if identity.witness != witness {
        let (is, command) = if identity.witness { ("a witness", "witness") } else { ("a node", "node") };
        return Err(Problem::new(format!("\"{}\" is {is}", identity.name))
            .hint(format!("Start it with 'pgrenga {command}'."))
            .into());
    }
    Ok(identity)
}
