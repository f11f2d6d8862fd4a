use std::time::Duration;

use pgrenga_writeset::{NodeId, Seq};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::client::Client;
use crate::view::{Member, NodeView, State};

/// A node that has not answered after this long is shown as detached.
const PATIENCE: Duration = Duration::from_secs(2);

/// The whole cluster, put together from what its nodes say about themselves:
/// the JSON of `pgrenga status --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The cluster's name; nothing if no node answered.
    pub cluster: Option<String>,
    /// The name of the node that leads the log, if the nodes know one.
    pub leader: Option<String>,
    /// The highest position that any node knows as committed.
    pub committed_seq: Seq,
    /// All members, by id.
    pub nodes: Vec<NodeStatus>,
}

/// One node's line of it. Everything but name, id, state and addresses is null
/// for a node that did not answer; what is PostgreSQL's is null for a witness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node's name.
    pub name: String,
    /// The node's id.
    pub id: NodeId,
    /// What it is up to; detached if it did not answer.
    pub state: State,
    /// What keeps it from serving, and what it does about that, for people.
    #[serde(default)]
    pub reason: Option<String>,
    /// Up to here its PostgreSQL shows all transactions.
    pub applied_seq: Option<Seq>,
    /// Up to here its PostgreSQL has them durably of its own.
    pub flushed_seq: Option<Seq>,
    /// How many committed transactions it does not show yet.
    pub lag_seq: Option<u64>,
    /// Up to here it has certified the log.
    pub committed_seq: Option<Seq>,
    /// Running hash of all verdicts up to its `committed_seq`.
    pub verdict_hash: Option<String>,
    /// Size of its log on disk.
    pub log_bytes: Option<u64>,
    /// Whether the disk under its log is full: then the node takes no writes.
    #[serde(default)]
    pub log_full: Option<bool>,
    /// Log index of the state from which it would start again.
    pub log_snapshot_index: Option<u64>,
    /// Where its PostgreSQL listens.
    pub postgres_host: Option<String>,
    /// Where its PostgreSQL listens.
    pub postgres_port: Option<u16>,
    /// Base URL of its admin API.
    pub admin_url: String,
    /// Process id of its daemon.
    pub daemon_pid: Option<u32>,
    /// Process id of its postmaster.
    pub postgres_pid: Option<i32>,
}

impl Status {
    /// Asks all members at once. `own` spares the question to the node that asks.
    pub async fn gather(client: &Client, own: Option<NodeView>, members: &[Member]) -> Self {
        let client = client.clone().with_timeout(PATIENCE);
        let mut questions = JoinSet::new();
        for member in members.iter().filter(|member| own.as_ref().is_none_or(|own| own.id != member.id)) {
            let (client, url, id) = (client.clone(), member.admin_url.clone(), member.id);
            // An address may have passed to another node: only the right one's answer counts.
            questions.spawn(async move { client.node(&url).await.ok().filter(|view| view.id == id) });
        }
        let mut views: Vec<NodeView> = questions.join_all().await.into_iter().flatten().collect();
        views.extend(own);
        Self::assemble(members, &views)
    }

    fn assemble(members: &[Member], views: &[NodeView]) -> Self {
        let committed_seq = views.iter().map(|view| view.committed_seq).max().unwrap_or_default();
        // The one who has come furthest knows best who leads.
        let leader = views.iter().filter(|view| view.leader.is_some()).max_by_key(|view| view.committed_seq);
        let leader = leader.and_then(|view| view.leader);
        let name_of = |id| members.iter().find(|member| member.id == id).map(|member| member.name.clone());
        let mut nodes: Vec<NodeStatus> = members
            .iter()
            .map(|member| NodeStatus::new(member, views.iter().find(|view| view.id == member.id), committed_seq))
            .collect();
        nodes.sort_by_key(|node| node.id);
        Self {
            cluster: views.first().map(|view| view.cluster.clone()),
            leader: leader.and_then(name_of),
            committed_seq,
            nodes,
        }
    }
}

impl NodeStatus {
    fn new(member: &Member, view: Option<&NodeView>, committed_seq: Seq) -> Self {
        // What a witness does not have is unknown, not zero.
        let with_data = view.filter(|_| member.postgres.is_some());
        Self {
            name: member.name.clone(),
            id: member.id,
            state: view.map_or(State::Detached, |view| view.state),
            reason: view.map_or_else(|| Some("does not answer".to_owned()), |view| view.reason.clone()),
            applied_seq: with_data.map(|view| view.applied_seq),
            flushed_seq: with_data.map(|view| view.flushed_seq),
            lag_seq: with_data.map(|view| committed_seq.0.saturating_sub(view.applied_seq.0)),
            committed_seq: view.map(|view| view.committed_seq),
            verdict_hash: view.map(|view| view.verdict_hash.clone()),
            log_bytes: view.and_then(|view| view.counters.get("log_bytes").copied()),
            log_full: view.and_then(|view| view.counters.get("log_full").map(|full| *full > 0)),
            log_snapshot_index: view.and_then(|view| view.counters.get("log_snapshot_index").copied()),
            postgres_host: member.postgres.as_ref().map(|address| address.host.clone()),
            postgres_port: member.postgres.as_ref().map(|address| address.port),
            admin_url: member.admin_url.clone(),
            daemon_pid: view.map(|view| view.daemon_pid),
            postgres_pid: view.and_then(|view| view.postgres_pid),
        }
    }
}
