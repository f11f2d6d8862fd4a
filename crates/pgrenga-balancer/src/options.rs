use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::rules::Rules;
use crate::tls::{ClientTls, ServerTls};

/// What a balancer has to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster's name: a node of another one is not believed.
    pub cluster: String,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Admin addresses of some nodes, as URLs or `HOST:PORT`. The others are learned from them.
    pub nodes: Vec<String>,
    /// What may change later.
    pub settings: Settings,
    /// Threads that carry sessions.
    pub threads: usize,
    /// Where metrics are served, if anywhere.
    pub metrics: Option<SocketAddr>,
}

/// What may change while a balancer runs. It counts for who comes from then on; sessions stay as they are.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What is bounded.
    pub limits: Limits,
    /// How many sessions a node gets in relation to the others, by its name; one if it is not here.
    pub weights: BTreeMap<String, NonZeroU32>,
    /// How connections are protected, and who may connect.
    pub security: Security,
    /// What a client has of a connection to a server.
    pub pool_mode: PoolMode,
}

/// What a client has of a connection to a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PoolMode {
    /// One for its session.
    #[default]
    Session,
    /// One for each transaction.
    Transaction,
}

/// How connections are protected. The default: not at all.
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// Encryption towards clients, for those that ask for it.
    pub clients: Option<ClientTls>,
    /// Encryption towards servers.
    pub servers: ServerTls,
    /// Who may connect from where.
    pub rules: Rules,
}

/// The bounds. Beyond each, clients get an error that names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Client connections that ask for a session or have one.
    pub max_connections: usize,
    /// Client connections that are not authenticated yet, of any kind.
    pub max_unauthenticated: usize,
    /// How long a client may take to say who it is and to prove it. Waiting for a place does not count.
    pub authentication_timeout: Duration,
    /// Sessions on one node.
    pub max_sessions_per_node: usize,
    /// How long a client waits for a place on a node.
    pub queue_timeout: Duration,
    /// How often a transaction that came whole in one request is run again when it loses a conflict.
    pub max_repetitions: u32,
}
