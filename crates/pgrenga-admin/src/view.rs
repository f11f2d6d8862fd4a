//! What goes over the wire: the present state, as one node sees it.

use std::collections::BTreeMap;
use std::fmt;

use pgrenga_writeset::{NodeId, Seq};
use serde::{Deserialize, Serialize};

/// What a node is up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Takes reads and writes.
    Serving,
    /// Gets a copy of the data, its first or a new one.
    Joining,
    /// Has the data and replays what came since.
    CatchingUp,
    /// Out of service; the others go on.
    Detached,
    /// A voter without PostgreSQL.
    Witness,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Serving => "serving",
            Self::Joining => "joining",
            Self::CatchingUp => "catching_up",
            Self::Detached => "detached",
            Self::Witness => "witness",
        })
    }
}

/// One node about itself. The positions stand in this order:
/// `flushed_seq <= applied_seq <= committed_seq`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's identity, random, given at `init`.
    pub cluster_id: String,
    /// Identities of clusters that it goes on in place of, since `recover --force`. Whoever still
    /// belongs to one of them is out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former_cluster_ids: Vec<String>,
    /// The node's name.
    pub name: String,
    /// The node's id.
    pub id: NodeId,
    /// What it is up to.
    pub state: State,
    /// Up to here its PostgreSQL shows all transactions.
    pub applied_seq: Seq,
    /// Up to here its PostgreSQL has them durably of its own.
    pub flushed_seq: Seq,
    /// Up to here it has certified the log.
    pub committed_seq: Seq,
    /// Who leads the log, as far as this node knows.
    pub leader: Option<NodeId>,
    /// Members of which this node, which leads the log, hears nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<NodeId>,
    /// Process id of the daemon.
    pub daemon_pid: u32,
    /// Process id of the postmaster, while it runs.
    pub postgres_pid: Option<i32>,
    /// Nodes that were taken out for good and have no vote any more.
    #[serde(default)]
    pub removed: Vec<NodeId>,
    /// Running hash of all verdicts up to `committed_seq`: equal on all nodes at equal positions.
    pub verdict_hash: String,
    /// What keeps it from serving, and what it does about that, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whatever else is counted or measured, by its metric's name without the
    /// prefix `pgrenga_`. Names that end in `_total` only ever grow.
    pub counters: BTreeMap<String, u64>,
}

/// What a node shows: the answer to `GET /shown/{seq}`, which comes as soon as it shows `seq`, or
/// after a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The node's id.
    pub id: NodeId,
    /// What it is up to.
    pub state: State,
    /// Up to here its PostgreSQL shows all transactions.
    pub applied_seq: Seq,
}

/// What a node knows of a transaction: the answer to `GET /transactions/{id}/{index}`, for which it
/// must have read the log up to `index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It is committed.
    Committed,
    /// It is aborted.
    Aborted,
    /// It may still commit.
    InProgress,
    /// It may be any of these, or never have been.
    Unknown,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Committed => "committed",
            Self::Aborted => "aborted",
            Self::InProgress => "in progress",
            Self::Unknown => "unknown",
        })
    }
}

/// Where clients find a node's PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresAddress {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// One entry of the list of members that all nodes share through the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The node's id.
    pub id: NodeId,
    /// The node's name.
    pub name: String,
    /// Base URL of its admin API.
    pub admin_url: String,
    /// Where its PostgreSQL listens; nothing for a witness.
    pub postgres: Option<PostgresAddress>,
    /// Where its daemon takes connections of the other daemons.
    pub peer: String,
    /// Whether it votes yet. A joiner does not, until it has caught up.
    pub voter: bool,
}

/// A node that wants to become a member: the body of `POST /members`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewMember {
    /// The name of the cluster that it means to join; another one refuses it.
    pub cluster: String,
    /// The node's name, unique within the cluster.
    pub name: String,
    /// Base URL of its admin API.
    pub admin_url: String,
    /// Where its PostgreSQL will listen.
    pub postgres: Option<PostgresAddress>,
    /// Where its daemon will listen.
    pub peer: String,
}

/// The answer to `POST /members`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The identity of the cluster.
    pub cluster_id: String,
    /// Identities of clusters that it goes on in place of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former_cluster_ids: Vec<String>,
    /// The id given to the node, for ever.
    pub node_id: NodeId,
    /// All members, the new one among them.
    pub members: Vec<Member>,
}

/// A point in the order of commits at which every node keeps a snapshot open:
/// the answer to `POST /markers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Names it, on every node.
    pub id: u64,
    /// Where it stands.
    pub seq: Seq,
    /// Names of the nodes that will reach it.
    pub nodes: Vec<String>,
}

/// The answer to `GET /markers/{id}`, once the node has reached it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkerSnapshot {
    /// Where it stands.
    pub seq: Seq,
    /// An exported snapshot, for `SET TRANSACTION SNAPSHOT`.
    pub snapshot: String,
}

/// The body of every answer that is not a success: PostgreSQL's three parts of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What went wrong: lower case, no full stop.
    pub message: String,
    /// Particulars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What can be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}
