//! What a node is started with.

use std::path::PathBuf;
use std::time::Duration;

use pgrenga_admin::PostgresAddress;
use pgrenga_postgres::server::Server;
use pgrenga_writeset::NodeId;

use crate::Pace;

/// A node's PostgreSQL.
#[derive(Clone, Debug)]
pub struct Postgres {
    /// The server.
    pub server: Server,
    /// Its settings, see [`Server::configure`].
    pub settings: Vec<(String, String)>,
    /// The replicated database.
    pub database: String,
    /// Where others find it.
    pub address: PostgresAddress,
    /// The daemon's socket for it.
    pub socket: PathBuf,
}

/// Everything a node needs to know. Validated by who reads the configuration.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's random identity.
    pub cluster_id: String,
    /// Identities of clusters that this one goes on in place of.
    pub former_cluster_ids: Vec<String>,
    /// Whether this node begins a new cluster (at its first start only).
    pub bootstrap: bool,
    /// The log's own options.
    pub log: pgrenga_log::Options,
    /// PostgreSQL. Without it the node is a witness.
    pub postgres: Option<Postgres>,
    /// Base URL of this node's admin API.
    pub admin_url: String,
    /// Where other daemons reach this one.
    pub peer: String,
    /// Base URLs of other nodes' admin APIs, as they were when this node joined.
    pub peers: Vec<String>,
    /// Committed writesets not applied here beyond which the node takes no new sessions.
    pub max_lag: u64,
    /// And down to which it then has to come before it takes some again.
    pub ready_lag: u64,
    /// How the state is checked; not at all without it.
    pub check: Option<Pace>,
    /// Connections that apply other nodes' writesets. At least two.
    pub apply_workers: usize,
    /// Writesets that one connection may have queued.
    pub apply_depth: usize,
    /// How many slots sequences have.
    pub sequence_slots: u16,
    /// How long PostgreSQL may serve after a majority was last heard of.
    pub lease: Duration,
    /// How long one transaction may keep the DDL fence.
    pub fence_timeout: Duration,
    /// Bytes of log after which the core's state is kept again.
    pub snapshot_every_bytes: u64,
    /// Where it is kept how transactions ended.
    pub outcomes_dir: PathBuf,
    /// For how long, and how much of it.
    pub outcomes_limits: pgrenga_outcomes::Limits,
    /// Size of the log, in bytes, from which on nodes that lack its beginning are
    /// not waited for.
    pub max_log_bytes: u64,
}
